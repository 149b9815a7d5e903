"""A block layer that remembers: disks as files of a FUSE mount, every write, discard and sync of which is logged.

    python -m tests.durability.recorder MOUNT LOG NAME=BACKING...

Requests are handled one after the other, so the log is what a disk would have seen, in one order. A sync that the
kernel makes for a write with RWF_DSYNC arrives as one of its own.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import mfusepy

_HEAD = struct.Struct("<BBxxIQQ")
_PUNCH_HOLE = 2
# FUSE_CAP_ASYNC_DIO of libfuse 3.
_ASYNC_DIO = 1 << 15
MOUNT_LIMIT_S = 10


class Kind(IntEnum):
    """What was asked of a disk."""

    WRITE = 1
    DISCARD = 2
    SYNC = 3


@dataclass(frozen=True)
class Event:
    """One line of the log; a discard's data are zeros, which is what a punched hole reads."""

    kind: Kind
    disk: int
    time_ns: int
    offset: int = 0
    data: bytes = b""


def events(log: Path) -> Iterator[Event]:
    """The log, in order."""
    with log.open("rb") as file:
        while head := file.read(_HEAD.size):
            kind, disk, length, time_ns, offset = _HEAD.unpack(head)
            data = file.read(length) if kind == Kind.WRITE else bytes(length)
            yield Event(Kind(kind), disk, time_ns, offset, data)


class Recorder(mfusepy.Operations):  # type: ignore[misc]
    """The file system: a folder of disks."""

    use_ns = True

    def __init__(self, log: Path, disks: Mapping[str, Path]) -> None:
        self._log = log.open("wb", buffering=0)
        self._names = list(disks)
        self._files = [os.open(path, os.O_RDWR) for path in disks.values()]

    def init_with_config(self, conn_info: Any, config_3: Any) -> None:
        """An asynchronous write with RWF_DSYNC would get no sync of its own."""
        conn_info.want &= ~_ASYNC_DIO

    def _number(self, path: str) -> int:
        if path[1:] not in self._names:
            raise mfusepy.FuseOSError(errno.ENOENT)
        return self._names.index(path[1:])

    def _note(self, kind: Kind, disk: int, offset: int = 0, length: int = 0, data: bytes = b"") -> None:
        self._log.write(_HEAD.pack(kind, disk, length, time.monotonic_ns(), offset) + data)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        """A folder, or a disk."""
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        size = os.fstat(self._files[self._number(path)]).st_size
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": size, "st_blocks": size // 512}

    def readdir(self, path: str, fh: int) -> list[str]:
        """Its disks."""
        return [".", "..", *self._names]

    def open(self, path: str, flags: int) -> int:
        """The handle is the disk's number."""
        return self._number(path)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Not logged."""
        return os.pread(self._files[fh], size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """Logged as a whole."""
        self._note(Kind.WRITE, fh, offset, len(data), data)
        return os.pwrite(self._files[fh], data, offset)

    def fallocate(self, path: str, mode: int, offset: int, size: int, fh: int) -> int:
        """A punched hole is a discard; nothing else is there."""
        if not mode & _PUNCH_HOLE:
            raise mfusepy.FuseOSError(errno.EOPNOTSUPP)
        self._note(Kind.DISCARD, fh, offset, size)
        os.pwrite(self._files[fh], bytes(size), offset)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        """All that was logged before is durable once this is answered."""
        self._note(Kind.SYNC, fh)
        return 0

    def flush(self, path: str, fh: int) -> int:
        """Closing a file makes nothing durable."""
        return 0

    def release(self, path: str, fh: int) -> int:
        """Nothing to let go of."""
        return 0


@contextmanager
def recorded(mount: Path, log: Path, disks: Mapping[str, Path]) -> Iterator[None]:
    """The disks as files of `mount`, by name, as long as this is entered."""
    command = [sys.executable, "-m", "tests.durability.recorder", str(mount), str(log)]
    process = subprocess.Popen([*command, *(f"{name}={path}" for name, path in disks.items())])
    try:
        deadline = time.monotonic() + MOUNT_LIMIT_S
        while not mount.is_mount():
            assert process.poll() is None, "the recorder ended"
            assert time.monotonic() < deadline, f"no mount within {MOUNT_LIMIT_S} s"
            time.sleep(0.02)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=False, stderr=subprocess.DEVNULL)
        process.kill()
        process.wait()


def main() -> None:
    """Serves until it is unmounted."""
    mount, log, *disks = sys.argv[1:]
    pairs = (disk.split("=", 1) for disk in disks)
    mfusepy.FUSE(
        Recorder(Path(log), {name: Path(path) for name, path in pairs}), mount, foreground=True, nothreads=True
    )


if __name__ == "__main__":
    main()
