"""What a node needs of the operating system: files, processes, sockets, logging."""
