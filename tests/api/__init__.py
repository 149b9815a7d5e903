"""REST and the command line, over real sockets."""
