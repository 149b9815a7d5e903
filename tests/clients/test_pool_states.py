"""A pool that is full, and one whose RocksDB is lost: what hosts and administrators see, through QEMU's block layer."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.qemu import qemu_io, until_event, url_of
from tests.server import Server

MIB = 1 << 20
TIB = 1 << 40
WAIT_S = 40
POOL = "small"


@pytest.fixture
def small(sds_server: Server, tmp_path: Path) -> Iterator[Server]:
    """The file's server with a pool `small` on one file, which is gone after the test and before its disk."""
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(256 * MIB)
    sds_server.rest.post("/v1/pools", {"name": POOL, "extent_bytes": MIB})
    sds_server.rest.post("/v1/disks", {"pool": POOL, "path": str(disk), "tier": "hdd"})
    yield sds_server
    for export in [one for one in sds_server.rest.items("/v1/exports") if one["pool"] == POOL]:
        sds_server.rest.delete(f"/v1/exports/{export['id']}")
    for volume in [one for one in sds_server.rest.items("/v1/volumes") if one["pool"] == POOL]:
        sds_server.rest.delete(f"/v1/volumes/{volume['name']}")
    sds_server.rest.delete(f"/v1/pools/{POOL}")


def new_url(server: Server) -> str:
    """A new volume of 1 TiB on the small pool, as QEMU names it."""
    return url_of(server, server.new_volume(TIB, POOL))


@pytest.mark.allow_log("pool-full")
def test_a_full_pool_refuses_new_space_keeps_what_it_has_and_needs_no_repair(small: Server) -> None:
    url = new_url(small)
    assert "failed" not in qemu_io(url, *(f"write -P {number % 250 + 1} {number}M 1M" for number in range(128)))
    said = qemu_io(url, *(f"write -P 7 {number}M 1M" for number in range(128, 300)))
    assert "No space left on device" in said, said
    until_event(small, "pool-full")
    # What is there can be read and overwritten.
    assert "failed" not in qemu_io(url, *(f"read -P {number % 250 + 1} {number}M 1M" for number in range(128)))
    assert "failed" not in qemu_io(url, "write -P 9 3M 1M", "flush", "read -P 9 3M 1M", "read -P 5 4M 1M")
    # What is given back can be used again.
    assert "failed" not in qemu_io(url, "discard 0 64M", "write -P 3 900M 32M", "read -P 3 900M 32M")
    for export in [one for one in small.rest.items("/v1/exports") if one["pool"] == POOL]:
        small.rest.delete(f"/v1/exports/{export['id']}")
        small.rest.delete(f"/v1/volumes/{export['volume']}")
    deadline = time.monotonic() + WAIT_S
    while (left := small.allocated_bytes(POOL)) > 0:
        assert time.monotonic() < deadline, f"{left} bytes of deleted volumes are not given back"
        time.sleep(0.1)


@pytest.mark.allow_log("metadata-set-aside|rebuilt|pool-imported")
def test_a_pool_without_its_rocksdb_is_rebuilt_from_its_disks(small: Server) -> None:
    url = new_url(small)
    written = [(number * 7 % 97, number % 250 + 1) for number in range(40)]
    assert "failed" not in qemu_io(url, *(f"write -P {byte} {place}M 300k" for place, byte in written))
    assert "failed" not in qemu_io(url, f"discard {written[3][0]}M 256k", "flush")
    uuid = small.rest.get(f"/v1/pools/{POOL}")["uuid"]
    # A clean end makes a checkpoint, so the journal alone does not have it all.
    assert small.stop() == 0
    shutil.rmtree(small.data / "pools" / uuid / "meta")
    small.start()
    until_event(small, "pool-imported")
    place, byte = written.pop(3)
    assert "failed" not in qemu_io(url, f"read -P 0 {place}M 256k", f"read -P {byte} {place * 1024 + 256}k 44k")
    assert "failed" not in qemu_io(url, *(f"read -P {byte} {place}M 300k" for place, byte in written))
    assert "failed" not in qemu_io(url, "read -P 0 500M 1M", "write -P 5 200M 10M", "read -P 5 200M 10M")
