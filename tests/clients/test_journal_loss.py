"""One of the two disks of a pool's journal fails under a host's writes, and comes back with what it had."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.loops import loop_disk
from tests.clients.conftest import bare_server
from tests.clients.qemu import events, qemu_io, start_qemu_io, until, url_of
from tests.server import Server

MIB = 1 << 20
SMALL_BYTES, LARGE_BYTES = 128 * MIB, 512 * MIB
FAILED_BYTES = MIB  # Labels alone are left: the journal lies behind them.
POOL = "mirrored"
WRITES = 600


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without pools."""
    with bare_server(tmp_path_factory.mktemp("sds")) as server:
        server.start()
        yield server


def label(disk: Path) -> tuple[int, bool]:
    """The pool epoch that a disk's first label says, and whether it takes part in the journal (docs/on-disk.md)."""
    with disk.open("rb") as file:
        head = file.read(0x50)
    return struct.unpack_from("<I", head, 0x48)[0], bool(head[0x4F] & 1)


@pytest.mark.allow_log("left the journal|journal-disk-lost|disk-failed|takes no part in it|supervisor: engine")
def test_writes_go_on_when_a_disk_of_the_journal_fails_and_it_is_not_believed_when_it_is_back(
    sds_server: Server, tmp_path: Path
) -> None:
    rest = sds_server.rest
    small, large = tmp_path / "small.img", tmp_path / "large.img"
    with loop_disk(small, SMALL_BYTES) as failing:
        with large.open("wb") as file:
            file.truncate(LARGE_BYTES)
        rest.post("/v1/pools", {"name": POOL, "extent_bytes": MIB})
        for path in (failing.path, large):
            rest.post("/v1/disks", {"pool": POOL, "path": str(path), "tier": "flash"})
        assert rest.get(f"/v1/pools/{POOL}")["journal_disks"] == 2
        epoch, _ = label(small)
        assert label(large) == label(small) == (epoch, True)

        url = url_of(sds_server, sds_server.new_volume(1 << 40, POOL))
        writes = [f"write -q -P {number % 250 + 1} {number}M 4k" for number in range(WRITES)]
        with start_qemu_io(url, *writes) as host:
            until(lambda: rest.get(f"/v1/pools/{POOL}")["allocated_bytes"] > MIB, "writes go on", sds_server)
            failing.end_at(FAILED_BYTES)
            said, _ = host.communicate(timeout=60)
        assert "failed" not in said
        assert "failed" not in qemu_io(url, "write -P 9 900M 64k", "flush")
        assert (label(small), label(large)) == ((epoch, True), (epoch + 1, True))
        until(lambda: bool(events(sds_server, "disk-failed")), "disk-failed", sds_server)
        until(lambda: len(events(sds_server, "journal-disk-lost")) == 1, "journal-disk-lost", sds_server)
        shown = {Path(disk["path"]).name: disk for disk in rest.items("/v1/disks")}
        assert rest.get(f"/v1/pools/{POOL}")["journal_disks"] == 1
        assert (shown["large.img"]["state"], shown[failing.path.name]["state"]) == ("online", "failed")
        assert shown[failing.path.name]["allocated_bytes"] == 0

        # It is back, with a journal that ends where it failed; the opening tells it, too.
        sds_server.kill_all()
        failing.end_at(0)
        sds_server.start()
        until(lambda: len(events(sds_server, "journal-disk-lost")) == 2, "journal-disk-lost", sds_server)
        assert (label(small), label(large)) == ((epoch + 1, False), (epoch + 1, True))
        assert rest.get(f"/v1/pools/{POOL}")["journal_disks"] == 1
        reads = [f"read -P {number % 250 + 1} {number}M 4k" for number in range(WRITES)]
        said = qemu_io(url, *reads, "read -P 9 900M 64k")
        assert "failed" not in said
        assert sds_server.cli_json("pool", "check", POOL)["consistent"]

        # The next disk of that tier that is added takes its part.
        another = tmp_path / "another.img"
        with another.open("wb") as file:
            file.truncate(SMALL_BYTES)
        rest.post("/v1/disks", {"pool": POOL, "path": str(another), "tier": "flash"})
        assert rest.get(f"/v1/pools/{POOL}")["journal_disks"] == 2
        assert label(another) == (epoch + 1, True)
        rest.post(f"/v1/pools/{POOL}/export", {"force": True})
