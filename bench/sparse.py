"""A sparse file as a disk that is much larger than the machine's own: what the data blocks hold is thrown away, again
and again, while a volume is filled. Labels, catalog, journal and owner table stay, so the map does."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

LABEL_MAGIC = b"SDSL"
DATA_OFFSET_AT = 0x80  # docs/on-disk.md, the label.
PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, linux/falloc.h


class SparseDisk:
    """A file that takes space only where something is.

    Args:
        path: the file; it is made if it is not there.
        size_bytes: its size.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self._size_bytes = size_bytes
        self._libc = ctypes.CDLL(None, use_errno=True)
        with path.open("ab") as file:
            file.truncate(size_bytes)

    def data_offset(self) -> int:
        """Where the data area begins, from the disk's label.

        Raises:
            ValueError: it has none.
        """
        with self.path.open("rb") as file:
            label = file.read(4096)
        if not label.startswith(LABEL_MAGIC):
            raise ValueError(f"{self.path} has no label")
        (offset,) = struct.unpack_from("<Q", label, DATA_OFFSET_AT)
        return int(offset)

    def forget_data(self) -> None:
        """Punches a hole over the whole data area.

        Raises:
            OSError: the file system can't.
        """
        offset = self.data_offset()
        handle = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            place = (ctypes.c_int64(offset), ctypes.c_int64(self._size_bytes - offset))
            if self._libc.fallocate(handle, PUNCH_HOLE_KEEP_SIZE, *place) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(self.path))
        finally:
            os.close(handle)

    def used_bytes(self) -> int:
        """What it takes of the machine's own disk."""
        return self.path.stat().st_blocks * 512

    def metadata_bytes(self) -> int:
        """What of it lies before the data area: labels, catalog, journal, owner table.

        Raises:
            ValueError: it has no label.
        """
        end, used, at = self.data_offset(), 0, 0
        handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while at < end:
                try:
                    at = os.lseek(handle, at, os.SEEK_DATA)
                except OSError:  # Nothing follows.
                    break
                hole = os.lseek(handle, at, os.SEEK_HOLE)
                used += max(0, min(hole, end) - at)
                at = hole
        finally:
            os.close(handle)
        return used
