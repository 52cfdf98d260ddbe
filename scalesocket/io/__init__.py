"""Non-blocking input and output on file descriptors: sockets and pipes, watched and written in one way."""
