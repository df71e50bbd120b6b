"""What a node needs from the operating system: files, processes, sockets, logs; also its own version and times."""
