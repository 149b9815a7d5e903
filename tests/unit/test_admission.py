"""Which paths may become disks, on real files and real loop devices."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sds.engine import admission
from sds.errors import Conflict, DiskRefused, InvalidValue, NoSpace
from sds.names import MIB

SIZE = 128 * MIB

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices and mounts need root")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A blank file of a disk's size."""
    path = tmp_path / "disk.img"
    admission.create_file(str(path), SIZE)
    return path


@pytest.fixture
def loop(image: Path) -> Iterator[str]:
    """A block device over it."""
    name = _run("losetup", "--find", "--show", str(image))
    yield name
    _run("losetup", "--detach", name)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _ext4(path: Path) -> None:
    _run("mkfs.ext4", "-q", "-L", "records", str(path))


def _xfs(path: Path) -> None:
    os.truncate(path, 512 * MIB)
    _run("mkfs.xfs", "-q", str(path))


def _swap(path: Path) -> None:
    path.chmod(0o600)
    _run("mkswap", str(path))


def _put(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _mbr(path: Path) -> None:
    # One partition of type 0x83 (Linux) at LBA 2048, of 65,536 blocks, and the boot signature.
    entry = bytes([0, 0, 0, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, "little") + (65536).to_bytes(4, "little")
    _put(path, 446, entry.ljust(64, b"\0") + b"\x55\xaa")


def _lvm(path: Path) -> None:
    # LVM2's label_header (lib/label/label.h): id, sector, CRC-32 from byte 20 on, offset of the contents, type.
    contents = (32).to_bytes(4, "little") + b"LVM2 001" + b"0123456789abcdefghijklmnopqrstuv"
    contents = contents.ljust(512 - 20, b"\0")
    crc = _lvm_crc(contents)
    _put(path, 512, b"LABELONE" + (1).to_bytes(8, "little") + crc.to_bytes(4, "little") + contents)


def _lvm_crc(data: bytes) -> int:
    crc = 0xF597A6CF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc


def _md(path: Path) -> None:
    # An MD 1.2 superblock (linux/raid/md_p.h, mdp_superblock_1) at 4 KiB, its checksum at byte 216.
    block = bytearray(256)
    block[0:4] = (0xA92B4EFC).to_bytes(4, "little")
    block[4:8] = (1).to_bytes(4, "little")
    block[16:32] = bytes(range(16))
    block[144:152] = (8).to_bytes(8, "little")
    words = sum(int.from_bytes(block[at : at + 4], "little") for at in range(0, 256, 4))
    block[216:220] = ((words & 0xFFFFFFFF) + (words >> 32)).to_bytes(4, "little")
    _put(path, 4096, bytes(block))


def _unknown(path: Path) -> None:
    _put(path, 700, b"somebody's data")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_ext4, "a file system (ext4) named 'records'"),
        (_xfs, "a file system (xfs)"),
        (_swap, "swap space"),
        (_mbr, "an MBR partition table"),
        (_lvm, "an LVM label (LVM2_member)"),
        (_md, "an MD RAID label (linux_raid_member)"),
        (_unknown, "data of an unknown kind at its start"),
    ],
)
def test_what_a_disk_carries_is_named_and_can_be_wiped(image: Path, make: Callable[[Path], None], words: str) -> None:
    make(image)
    found = admission.examine(str(image))
    assert found.carries == [words]
    with pytest.raises(DiskRefused) as caught:
        found.require_blank()
    assert words in caught.value.detail
    assert caught.value.field == "path"
    admission.wipe(str(image))
    assert admission.examine(str(image)).carries == []


def test_a_blank_file_is_accepted_with_its_size(image: Path) -> None:
    found = admission.examine(str(image))
    assert (found.size_bytes, found.carries, found.path) == (SIZE, [], str(image))
    found.require_blank()


def test_a_file_is_made_with_its_space_and_once(tmp_path: Path) -> None:
    path = tmp_path / "new.img"
    admission.create_file(str(path), SIZE)
    assert path.stat().st_blocks * 512 >= SIZE
    admission.create_file(str(path), SIZE)
    with pytest.raises(Conflict):
        admission.create_file(str(path), 2 * SIZE)
    assert [one.name for one in tmp_path.iterdir()] == ["new.img"]


def test_a_file_that_does_not_fit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    size = shutil.disk_usage(tmp_path).total * 2 // 4096 * 4096
    with pytest.raises((NoSpace, InvalidValue)):
        admission.create_file(str(tmp_path / "new.img"), size)
    assert not list(tmp_path.iterdir())


def test_what_can_be_no_disk_is_refused(tmp_path: Path, image: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(bytes(MIB))
    for path in (str(tmp_path / "none"), str(tmp_path), "/dev/null", "relative", str(small), "/dev/\0"):
        with pytest.raises(InvalidValue) as caught:
            admission.examine(path)
        assert caught.value.field == "path"
    with pytest.raises(InvalidValue, match="can't have 1000 bytes"):
        admission.create_file(str(image), 1000)


def test_two_paths_to_one_file_are_the_same(tmp_path: Path, image: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(image)
    assert admission.same_file(str(link), str(image))
    assert not admission.same_file(str(tmp_path / "none"), str(image))


def test_a_disk_that_left_its_pool_reads_as_blank(image: Path) -> None:
    for offset in (0, SIZE - 4096):
        _put(image, offset, b"a label")
    admission.blank(str(image))
    data = image.read_bytes()
    assert not data.strip(b"\0")


@needs_root
def test_a_file_under_a_loop_device_is_in_use(image: Path, loop: str) -> None:
    with pytest.raises(DiskRefused, match=f"it backs {loop}"):
        admission.examine(str(image))
    assert admission.examine(loop).size_bytes == SIZE


@needs_root
def test_a_mounted_device_is_refused_with_its_mount_point(image: Path, loop: str, tmp_path: Path) -> None:
    _ext4(Path(loop))
    place = tmp_path / "mounted"
    place.mkdir()
    _run("mount", loop, str(place))
    try:
        with pytest.raises(DiskRefused, match=f"it is mounted on {place}"):
            admission.examine(loop)
    finally:
        _run("umount", str(place))
    assert admission.examine(loop).carries == ["a file system (ext4) named 'records'"]


@needs_root
def test_a_read_only_device_is_refused(image: Path) -> None:
    name = _run("losetup", "--find", "--show", "--read-only", str(image))
    try:
        with pytest.raises(DiskRefused, match=r"can't be written|read-only"):
            admission.examine(name)
    finally:
        _run("losetup", "--detach", name)
