"""Sparse files as disks that are much larger than the machine's own."""

from __future__ import annotations

import os
import struct
from pathlib import Path

LABEL_MAGIC = b"SDSL"
DATA_OFFSET_AT = 0x80  # docs/on-disk.md, the label.


def make_sparse(path: Path, size_bytes: int) -> None:
    """A file of that size without anything in it, unless it is there already."""
    with path.open("ab") as file:
        file.truncate(size_bytes)


def metadata_bytes(path: Path) -> int:
    """What a disk holds before its data area: labels, catalog, journal, owner table.

    Raises:
        ValueError: it has no label.
    """
    end, used, at = _data_offset(path), 0, 0
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
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


def _data_offset(path: Path) -> int:
    with path.open("rb") as file:
        label = file.read(4096)
    if not label.startswith(LABEL_MAGIC):
        raise ValueError(f"{path} has no label")
    (offset,) = struct.unpack_from("<Q", label, DATA_OFFSET_AT)
    return int(offset)
