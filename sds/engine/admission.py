"""Whether a path may become a disk: what it is, what it carries, who uses it.

What a disk carries is asked of util-linux (`wipefs --no-act`, which knows every superblock, RAID, LVM and ZFS label
and partition table that libblkid knows, and unlike `blkid` names all of them); who uses it, of the kernel and `lsblk`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sds.errors import Conflict, DiskRefused, InvalidValue, NoSpace, SdsError
from sds.names import BLOCK_BYTES, MIB, format_size

DISK_BYTES_MIN = 64 * MIB
HEAD_BYTES = 64 << 10  # What is looked at for data that no tool recognizes.
LABEL_AREA_BYTES = MIB  # What is blanked at each end of a disk that leaves its pool or is taken by force.
TOOL_LIMIT_S = 30
MEMORY_PREFIX = "memfd:"
PATH_ACCEPTED = "the absolute path of a block device or of a regular file"
_BY_ID = Path("/dev/disk/by-id")


@dataclass(frozen=True)
class Candidate:
    """A path that may become a disk.

    Attributes:
        path: by which it is found again: for a block device the stable link, if it has one.
        size_bytes: its size.
        carries: what was found on it, for a person; empty if nothing.
    """

    path: str
    size_bytes: int
    carries: list[str]

    def require_blank(self) -> None:
        """Raises DiskRefused if the disk carries anything."""
        if self.carries:
            found = " and ".join(self.carries)
            raise DiskRefused(
                f"{self.path} carries {found}, which would be lost", field="path", accepted="a blank disk, or force"
            )


def examine(path: str) -> Candidate:
    """What a path is and carries.

    Raises:
        InvalidValue: it can't be a disk.
        DiskRefused: it is in use, read-only or gone, whatever force says.
    """
    real, is_block = _resolve(path)
    size = _probe_access(real, is_block)
    if size < DISK_BYTES_MIN:
        raise InvalidValue(
            "path", f"{path} has {format_size(size)}, too small for a disk", f"{format_size(DISK_BYTES_MIN)} or more"
        )
    _refuse_users(real, is_block)
    return Candidate(_stable(real) if is_block else str(real), size, _signatures(real) or _unknown_data(real))


def wipe(path: str) -> None:
    """Removes whatever `examine` or the core named: every signature, and a pool's labels.

    Raises:
        DiskRefused: it could not.
    """
    _run(["wipefs", "--all", "--force", path])
    try:
        blank(path)
    except OSError as error:
        raise DiskRefused(f"{path} can't be written: {error.strerror}", field="path") from error


def blank(path: str) -> None:
    """Overwrites both ends of a disk with zeros; both slots of a pool's label lie at the first one.

    Raises:
        OSError: it can't be written.
    """
    if path.startswith(MEMORY_PREFIX):
        return  # It went with the core's handle.
    with _opened(Path(path), os.O_WRONLY) as handle:
        size = os.lseek(handle, 0, os.SEEK_END)
        for offset in (0, max(0, size - LABEL_AREA_BYTES)):
            os.pwrite(handle, bytes(min(LABEL_AREA_BYTES, size)), offset)
        os.fsync(handle)


def create_file(path: str, size_bytes: int) -> None:
    """Makes a file for a disk, its space reserved (fallocate): a pool must not find later that its disk can't grow.

    Zeros are not written: that takes minutes for what an unwritten extent of the file system gives at once. The price
    is that the first write to each place also changes the file system's own metadata.

    Raises:
        InvalidValue: the path or the size can't be.
        Conflict: it exists with another size.
        NoSpace: the file system has no room.
    """
    if size_bytes < DISK_BYTES_MIN or size_bytes % BLOCK_BYTES:
        accepted = f"a multiple of 4096 bytes, {DISK_BYTES_MIN} or more"
        raise InvalidValue("create_bytes", f"a disk can't have {size_bytes} bytes", accepted)
    if Path(path).exists():
        if not Path(path).is_file() or Path(path).stat().st_size != size_bytes:
            raise Conflict(f"{path} exists and is no file of {size_bytes} bytes", field="path")
        return  # `examine` says whether it may be used.
    # Under another name until it has its size: an engine that dies on the way leaves no disk of the wrong one.
    draft = f"{path}.new"
    try:
        with _opened(Path(draft), os.O_RDWR | os.O_CREAT | os.O_TRUNC) as handle:
            os.posix_fallocate(handle, 0, size_bytes)
            os.fsync(handle)
        Path(draft).rename(path)
    except OSError as error:
        Path(draft).unlink(missing_ok=True)
        if error.errno in {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}:
            what = f"{path} can't have {format_size(size_bytes)}: {error.strerror}"
            raise NoSpace(what, field="create_bytes") from error
        raise InvalidValue("path", f"{path} can't be made: {error.strerror}", PATH_ACCEPTED) from error


def same_file(one: str, other: str) -> bool:
    """Whether two paths lead to the same device or file."""
    try:
        a, b = Path(one).stat(), Path(other).stat()
    except OSError:
        return one == other
    if stat.S_ISBLK(a.st_mode) and stat.S_ISBLK(b.st_mode):
        return a.st_rdev == b.st_rdev
    return (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)


def _resolve(path: str) -> tuple[Path, bool]:
    if not path.startswith("/") or "\0" in path:
        raise InvalidValue("path", f"{path!r} is not absolute", PATH_ACCEPTED)
    try:
        real = Path(path).resolve(strict=True)
        mode = real.stat().st_mode
    except OSError as error:
        raise InvalidValue("path", f"{path}: {error.strerror}", PATH_ACCEPTED) from error
    except RuntimeError as error:
        raise InvalidValue("path", f"{path}: {error}", PATH_ACCEPTED) from error
    if not stat.S_ISBLK(mode) and not stat.S_ISREG(mode):
        raise InvalidValue("path", f"{path} is neither a block device nor a regular file", PATH_ACCEPTED)
    return real, stat.S_ISBLK(mode)


def _probe_access(real: Path, is_block: bool) -> int:
    # O_EXCL on a block device (open(2)): EBUSY if it or a partition of it is mounted, held by LVM, MD or swap.
    try:
        with _opened(real, os.O_RDWR | (os.O_EXCL if is_block else 0)) as handle:
            return os.lseek(handle, 0, os.SEEK_END)
    except OSError as error:
        if error.errno == errno.EBUSY:
            used = ", ".join(_users(real)) or "somebody holds it exclusively"
            raise DiskRefused(f"{real} is in use: {used}", field="path", accepted="a disk that nobody uses") from error
        if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise DiskRefused(f"{real} can't be written: {error.strerror}", field="path") from error
        raise DiskRefused(f"{real} can't be opened: {error.strerror}", field="path") from error


def _refuse_users(real: Path, is_block: bool) -> None:
    if is_block:
        used = _users(real)
    else:
        loops = json.loads(_run(["losetup", "--json", "--list", "--associated", str(real)]) or "{}")
        used = [f"it backs {one['name']}" for one in loops.get("loopdevices", [])]
        swaps = [line.split()[0] for line in Path("/proc/swaps").read_text().splitlines()[1:]]
        used += ["it is swap"] if str(real) in swaps else []
    if used:
        raise DiskRefused(f"{real} is in use: {', '.join(used)}", field="path", accepted="a disk that nobody uses")


def _users(real: Path) -> list[str]:
    """Who uses a block device or anything on it: mounts, swap, and what is stacked on it but partitions."""
    text = _run(["lsblk", "--json", "--paths", "--output", "NAME,TYPE,RO,MOUNTPOINTS", str(real)])
    tree: list[dict[str, Any]] = json.loads(text)["blockdevices"] if text else []
    used = []
    for node in _walk(tree):
        name = "it" if node["name"] == str(real) else node["name"]
        used += [f"{name} is mounted on {place}" for place in node["mountpoints"] if place]
        if name != "it" and node["type"] != "part":
            used.append(f"{name} ({node['type']}) is built on it")
        if name == "it" and node["ro"]:
            used.append("it is read-only")
    return used


def _walk(tree: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for node in tree:
        yield node
        yield from _walk(node.get("children", []))


def _signatures(real: Path) -> list[str]:
    found = json.loads(_run(["wipefs", "--json", "--no-act", str(real)]) or "{}")
    words = []
    for one in found.get("signatures", []):
        name = f" named {one['label']!r}" if one.get("label") else ""
        # A GPT shows three times: its header, the copy at the end and the protective MBR.
        word = f"{_KINDS.get(one['type'], one['type'])}{name}"
        if word not in words:
            words.append(word)
    return words


# What libblkid calls things, where that would not tell a person what it is.
_KINDS = {
    "gpt": "a GPT partition table",
    "PMBR": "a protective MBR",
    "dos": "an MBR partition table",
    "LVM2_member": "an LVM label (LVM2_member)",
    "linux_raid_member": "an MD RAID label (linux_raid_member)",
    "zfs_member": "a ZFS label (zfs_member)",
    "crypto_LUKS": "a LUKS header (crypto_LUKS)",
    "ceph_bluestore": "a Ceph OSD (ceph_bluestore)",
    "swap": "swap space",
    **{kind: f"a file system ({kind})" for kind in ("ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "ntfs", "f2fs")},
}


def _unknown_data(real: Path) -> list[str]:
    with _opened(real, os.O_RDONLY) as handle:
        head = os.pread(handle, HEAD_BYTES, 0)
    return ["data of an unknown kind at its start"] if head.strip(b"\0") else []


def _stable(real: Path) -> str:
    """The by-id link of a block device, which is the same after a reboot; its own path if it has none."""
    with contextlib.suppress(OSError):
        for link in sorted(_BY_ID.iterdir()):
            if link.resolve() == real:
                return str(link)
    return str(real)


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    handle = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_LIMIT_S, check=True)
    except FileNotFoundError as error:
        raise SdsError(f"{command[0]} is missing (package util-linux)") from error
    except subprocess.TimeoutExpired as error:
        raise DiskRefused(f"{command[0]} did not end within {TOOL_LIMIT_S} s: {command[-1]} hangs") from error
    except subprocess.CalledProcessError as error:
        raise DiskRefused(f"{command[0]} failed on {command[-1]}: {error.stderr.strip()}", field="path") from error
    return done.stdout.strip()
