"""A QEMU guest with a real Linux kernel, whose initiators the client tests drive."""
