"""Files and folders that are there after a power cut, whole, once these calls have returned."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Waits until what a folder names is durable.

    Raises:
        OSError: it is not.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it that are missing, for its owner alone (mode 0700)."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
        sync_folder(one.parent)


def write_draft(path: Path, data: bytes) -> Path:
    """Writes what is to become `path`; the draft, which `put_in_place` renames."""
    draft = path.with_name(f"{path.name}.new")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(handle)
    return draft


def put_in_place(draft: Path, path: Path) -> None:
    """Has a draft take the place of `path`: a crash leaves the one or the other."""
    draft.rename(path)
    sync_folder(path.parent)


def move(source: Path, target: Path) -> None:
    """Renames a file or a folder."""
    source.rename(target)
    sync_folder(target.parent)
    sync_folder(source.parent)
