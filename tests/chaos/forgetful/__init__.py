"""A file system that forgets what was not synced: power loss for real processes.

A SIGKILL loses nothing that a process has written, because the kernel keeps it. Only the loss of power does. This file
system passes everything on to a directory (the *live* one) and keeps beside it a second copy (the *durable* one) of
what a disk would still have:

- bytes of a file, and its length, become durable with fsync or fdatasync of that file;
- a name (create, rename, link, unlink, mkdir, rmdir) becomes durable with fsync of its directory.

That is what POSIX promises and no more; most file systems do better, so whoever survives this one survives those. After
the processes that use it were killed and it was unmounted, `model.lose_power` makes the live directory what the disk
has.

model        what is durable, and what is not yet
control      what a test tells the file system
filesystem   the file system, a process of its own (FUSE, by mfusepy)
"""
