"""Real clients against the product: the Linux kernel's initiators in a guest, libiscsi and QEMU on the host."""
