"""Non-blocking I/O on file descriptors: the poller, and the sockets and pipes that it reads and writes."""
