"""A disk that can be made to fail, and come back: a loop device whose end is moved."""

from __future__ import annotations

import fcntl
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# linux/loop.h: the ioctls, and where lo_sizelimit lies in struct loop_info64.
LOOP_SET_STATUS64 = 0x4C04
LOOP_GET_STATUS64 = 0x4C05
INFO_BYTES = 232
SIZE_LIMIT_AT = 32


class LoopDisk:
    """A loop device on a file.

    Attributes:
        path: the device.
    """

    def __init__(self, file: Path) -> None:
        done = subprocess.run(["losetup", "--find", "--show", file], capture_output=True, text=True, check=True)
        self.path = Path(done.stdout.strip())

    def end_at(self, limit_bytes: int) -> None:
        """Moves the device's end: what lies beyond fails, and stays in the file. 0: back to where it was."""
        with self.path.open("rb") as device:
            info = bytearray(INFO_BYTES)
            fcntl.ioctl(device, LOOP_GET_STATUS64, info)
            struct.pack_into("<Q", info, SIZE_LIMIT_AT, limit_bytes)
            fcntl.ioctl(device, LOOP_SET_STATUS64, bytes(info))

    def detach(self) -> None:
        """Gives the device back."""
        subprocess.run(["losetup", "--detach", self.path], check=True)


@contextmanager
def loop_disk(file: Path, size_bytes: int) -> Iterator[LoopDisk]:
    """A loop device on a new sparse file."""
    with file.open("wb") as image:
        image.truncate(size_bytes)
    disk = LoopDisk(file)
    try:
        yield disk
    finally:
        disk.detach()
