"""Copies of folders."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sds import durable
from sds.errors import DataFormat

BLOCK_BYTES = 1 << 20
_ZEROS = bytes(BLOCK_BYTES)


@dataclass(frozen=True)
class Copied:
    """A file as it was read."""

    size_bytes: int
    sha256: str


def files(root: Path) -> Iterator[Path]:
    """Every file below a folder, in order.

    Raises:
        DataFormat: something there is neither file nor folder.
    """
    for path in sorted(root.iterdir()):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            yield from files(path)
        elif stat.S_ISREG(mode):
            yield path
        else:
            raise DataFormat(f"{path} is neither a file nor a folder", accepted="a data folder of files and folders")


def size_bytes(root: Path, *, linked: bool) -> int:
    """What a copy of a folder takes at most; without what `copy` would link if `linked`."""
    return sum(path.stat().st_size for path in files(root) if not (linked and _never_changes(path)))


def can_link(folder: Path) -> bool:
    """Whether the file system of a folder has hard links."""
    one, other = folder / ".link", folder / ".linked"
    try:
        one.touch()
        os.link(one, other)
    except OSError:
        return False
    finally:
        for path in (one, other):
            path.unlink(missing_ok=True)
    return True


def copy(source: Path, target: Path, *, linked: bool) -> dict[str, Copied]:
    """Copies a folder; `sync` makes it durable.

    Args:
        target: is made.
        linked: a table of RocksDB, which is never changed but removed, becomes a link.

    Returns:
        what was copied and not linked, by its path below `source`.
    """
    target.mkdir(mode=stat.S_IMODE(source.stat().st_mode))
    copied: dict[str, Copied] = {}
    for folder in sorted(path for path in source.rglob("*") if path.is_dir()):
        (target / folder.relative_to(source)).mkdir(mode=stat.S_IMODE(folder.stat().st_mode))
    for path in files(source):
        name = path.relative_to(source)
        if linked and _never_changes(path):
            os.link(path, target / name)
        else:
            copied[str(name)] = copy_file(path, target / name)
    return copied


def copy_file(source: Path, target: Path) -> Copied:
    """Copies a file, and writes no zeros: a carry-over ring is mostly holes."""
    sha256, size = hashlib.sha256(), 0
    with source.open("rb") as old, target.open("xb") as new:
        target.chmod(stat.S_IMODE(source.stat().st_mode))
        while block := old.read(BLOCK_BYTES):
            sha256.update(block)
            size += len(block)
            if block == _ZEROS[: len(block)]:
                new.seek(len(block), os.SEEK_CUR)
            else:
                new.write(block)
        new.truncate(size)
    return Copied(size, sha256.hexdigest())


def digests(root: Path) -> dict[str, Copied]:
    """Every file below a folder, by its path."""
    return {str(path.relative_to(root)): digest(path) for path in files(root)}


def digest(path: Path) -> Copied:
    """A file as it is."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            sha256.update(block)
        return Copied(file.tell(), sha256.hexdigest())


def sync(root: Path) -> None:
    """Waits until a folder with all that is below it is durable; what names it is its parent's."""
    for path in files(root):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
            # What is read next is to come from the disk.
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    for folder in [*(path for path in root.rglob("*") if path.is_dir()), root]:
        durable.sync_folder(folder)


def verify(root: Path, copied: dict[str, Copied]) -> None:
    """Reads a copy and compares it with what was read of its source.

    Raises:
        DataFormat: it differs.
    """
    for name, wanted in copied.items():
        found = digest(root / name)
        if found != wanted:
            raise DataFormat(f"{root / name} is not what was written: {found} instead of {wanted}")


def remove(root: Path) -> None:
    """Removes a folder, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(root)


def _never_changes(path: Path) -> bool:
    return path.suffix == ".sst"
