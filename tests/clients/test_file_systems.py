"""The main job: a real host discovers a volume, makes a file system on it and finds its files again."""

from __future__ import annotations

import pytest

from tests.clients.conftest import GIB, NewHost
from tests.guest.host import Wire
from tests.server import Server

pytestmark = pytest.mark.guest

MIB = 1 << 20


def test_a_tree_is_there_after_a_reconnect(new_host: NewHost, wire: Wire) -> None:
    host, _ = new_host(GIB)
    assert host.target in host.discover()
    for fs in ("ext4", "xfs"):
        written = host.copy_tree(fs)
        host.detach()
        host.attach()
        assert host.read_tree(fs) == written


def test_random_writes_of_every_size_read_back(new_host: NewHost) -> None:
    host, _ = new_host(GIB)
    host.verify(mib=8)


@pytest.mark.parametrize("fs", ["ext4"])
def test_fstrim_gives_space_back(new_host: NewHost, sds_server: Server, fs: str) -> None:
    host, _ = new_host(GIB)
    before = sds_server.allocated_bytes()
    host.run(
        f"""
        modprobe {fs}; mkdir -p /mnt/a; mkfs.{fs} -q "$DEV"; mount "$DEV" /mnt/a
        dd if=/dev/urandom of=/mnt/a/big bs=1M count=32 conv=fsync status=none
        """,
        limit_s=60,
    )
    full = sds_server.allocated_bytes()
    assert full - before >= 32 * MIB
    host.run("rm /mnt/a/big; sync; fstrim -v /mnt/a; umount /mnt/a", limit_s=60)
    # Chunks are 64 KiB: what a file system keeps of its own around the file is far below 8 MiB.
    assert sds_server.allocated_bytes() - before <= full - before - 24 * MIB


def test_a_whole_device_discard_reads_zeros_and_frees_everything(new_host: NewHost, sds_server: Server) -> None:
    before = sds_server.allocated_bytes()
    host, _ = new_host(16 * MIB)
    host.run(
        """
        dd if=/dev/urandom of="$DEV" bs=1M count=8 oflag=direct status=none
        blkdiscard "$DEV"
        cmp -n $((16 << 20)) "$DEV" /dev/zero
        """
    )
    assert sds_server.allocated_bytes() <= before


def test_a_larger_size_is_seen_without_a_reconnect(new_host: NewHost, sds_server: Server, wire: Wire) -> None:
    host, volume = new_host(256 * MIB)
    host.run("test $(blockdev --getsize64 $DEV) = $((256 << 20))")
    sds_server.rest.patch(f"/v1/volumes/{volume}", {"size_bytes": 320 * MIB})
    # NVMe hosts are told by an asynchronous event; Linux looks at a SCSI disk's size when asked to rescan.
    rescan = "true" if wire.protocol == "nvme" else "iscsiadm -m session --rescan >/dev/null"
    host.run(
        f"""
        {rescan}
        waitfor 15 sh -c 'test $(blockdev --getsize64 '$DEV') = $((320 << 20))'
        dd if=/dev/urandom of=/tmp/block bs=1M count=1 status=none
        dd if=/tmp/block of=$DEV bs=1M seek=319 oflag=direct status=none
        dd if=$DEV bs=1M skip=319 iflag=direct status=none | cmp - /tmp/block
        """
    )
