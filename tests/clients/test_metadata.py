"""Metadata that goes bad: what a check finds, and that each thing that is there twice is taken from the other place."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from rocksdict import Options, Rdict

from tests.clients.conftest import bare_server
from tests.clients.qemu import events, qemu_io, start_qemu_io, until, url_of
from tests.server import Server

MIB = 1 << 20
DISK_BYTES = 128 * MIB
POOL = "archive"
SEGMENT_0 = b"F" + struct.pack(">HI", 0, 0)


@dataclass
class OnDisk:
    """A pool on one file, with a volume that holds a pattern."""

    server: Server
    disk: Path
    url: str

    def stop(self) -> None:
        """Stops the server in order, so that all is stored."""
        assert self.server.stop() == 0

    def region(self, name: str) -> int:
        """Where a region of the disk begins (docs/on-disk.md, the label)."""
        names = ("extent", "catalog", "slot", "journal", "journal_bytes", "owner", "owner_bytes", "data", "chunks")
        with self.disk.open("rb") as file:
            file.seek(0x50)
            values = struct.unpack("<8QI", file.read(68))
        return int(dict(zip(names, values, strict=True))[name])

    def change(self, offset: int, data: bytes) -> None:
        """Writes to the disk behind the product's back."""
        with self.disk.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def read(self, offset: int, length: int) -> bytes:
        """Reads from the disk."""
        with self.disk.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    @property
    def meta(self) -> Path:
        """The pool's RocksDB."""
        uuid = self.server.rest.get(f"/v1/pools/{POOL}")["uuid"]
        return self.server.data / "pools" / str(uuid) / "meta"

    def holds(self) -> bool:
        """Whether the pattern is there."""
        said = qemu_io(self.url, "read -P 7 0 1M", "read -P 8 9G 300k", "read -P 9 20G 64k", "read -P 0 1M 1M")
        return "failed" not in said and said.count("ops;") == 4


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without pools."""
    with bare_server(tmp_path_factory.mktemp("sds")) as server:
        server.start()
        yield server


@pytest.fixture
def pool(sds_server: Server, tmp_path: Path) -> Iterator[OnDisk]:
    """A pool on one file; it is let go of at the end, however it is."""
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    sds_server.rest.post("/v1/pools", {"name": POOL, "extent_bytes": MIB})
    sds_server.rest.post("/v1/disks", {"pool": POOL, "path": str(disk), "tier": "hdd"})
    url = url_of(sds_server, sds_server.new_volume(1 << 40, POOL))
    assert "failed" not in qemu_io(url, "write -P 7 0 1M", "write -P 8 9G 300k", "write -P 9 20G 64k", "flush")
    yield OnDisk(sds_server, disk, url)
    sds_server.rest.post(f"/v1/pools/{POOL}/export", {"force": True})
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_a_check_of_a_pool_that_is_written_finds_nothing(pool: OnDisk) -> None:
    writes = [f"write -q -P 5 {number * 17 % 4000}M 64k" for number in range(1_000)]
    with start_qemu_io(pool.url, *writes, "sleep 20000", cache="writeback") as host:
        for _ in range(3):
            report = pool.server.cli_json("pool", "check", POOL)
            assert (report["consistent"], report["findings"]) == (True, [])
        assert report["pages"] > 0
        host.kill()
    report = pool.server.cli_json("pool", "check", POOL)
    assert (report["consistent"], report["walks"], report["pages_changing"]) == (True, 1, 0)
    assert report["chunks"] * 64 * 1024 == pool.server.allocated_bytes(POOL)
    assert 0 < report["owners"] <= report["chunks"]


@pytest.mark.allow_log("pool-inconsistent|owners of chunk")
def test_a_check_finds_what_does_not_agree(pool: OnDisk) -> None:
    path = pool.meta
    pool.stop()
    # One chunk too many is allocated, and one that is in use is free (docs/on-disk.md, bitmap segment).
    database = Rdict(str(path), Options(raw_mode=True))
    row = bytearray(bytes(database[SEGMENT_0]))  # type: ignore[arg-type]
    words = list(struct.unpack_from("<512Q", row, 24))
    used = next(number for number in range(32768) if words[number // 64] >> number % 64 & 1)
    unused = next(number for number in range(used, 32768) if not words[number // 64] >> number % 64 & 1)
    words[used // 64] ^= 1 << used % 64
    words[unused // 64] ^= 1 << unused % 64
    struct.pack_into("<512Q", row, 24, *words)
    database[SEGMENT_0] = seal(bytes(row))
    database.close()
    # The owner table says of a chunk that it was never owned, in both places (the entry's kind is 0).
    owner = pool.region("owner")
    uuid = pool.read(0x20, 16)
    spoiled = next(number for number in range(used, 60) if pool.read(owner + 32 + 64 * number, 1) != b"\0")
    for place in (owner, owner + 4096):
        block = bytearray(pool.read(place, 4096))
        block[32 + 64 * spoiled] = 0
        pool.change(place, seal(bytes(block), uuid))
    pool.server.start()
    done = pool.server.cli("pool", "check", POOL, check=False)
    assert done.returncode == 1
    assert f"disk 0 chunk {unused}: allocated, and no extent has it" in done.stdout
    assert f"disk 0 chunk {used}: free, and extent" in done.stdout
    assert f"disk 0 chunk {spoiled}: the owner table does not say" in done.stdout
    report = pool.server.rest.post(f"/v1/pools/{POOL}/check", {})
    assert (report["consistent"], report["more"], report["cut_off"]) == (False, 0, False)
    assert len(events(pool.server, "pool-inconsistent")) == 2


@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.allow_log("rebuilt from|metadata-damaged")
def test_a_bad_catalog_slot_is_told_and_the_other_one_used(pool: OnDisk, slot: int) -> None:
    meta = pool.meta
    pool.stop()
    pool.change(pool.region("catalog") + slot * pool.region("slot") + 40, b"damaged")
    shutil.rmtree(meta)
    pool.server.start()
    until_told(pool, f"catalog slot {slot} of {pool.disk} is bad")
    assert pool.holds()
    assert pool.server.cli_json("pool", "check", POOL)["consistent"]


@pytest.mark.parametrize("place", [0, 4096])
@pytest.mark.allow_log("is bad|rebuilt from|metadata-damaged")
def test_either_place_of_an_owner_block_may_go_with_rocksdb(pool: OnDisk, place: int) -> None:
    meta = pool.meta
    assert "failed" not in qemu_io(pool.url, "write -P 9 30G 64k", "flush")
    pool.stop()
    pool.change(pool.region("owner") + place + 40, b"damaged")
    shutil.rmtree(meta)
    pool.server.start()
    until_told(pool, f"of the owner block of chunk 0 of {pool.disk} is bad")
    assert pool.holds()
    assert "failed" not in qemu_io(pool.url, "read -P 9 30G 64k")
    assert pool.server.cli_json("pool", "check", POOL)["consistent"]


@pytest.mark.allow_log("is bad|rebuilt from|metadata-damaged")
def test_a_scrub_tells_of_damaged_metadata_and_mends_it(pool: OnDisk) -> None:
    meta = pool.meta
    label_b = 512 * 1024
    slots = [pool.region("catalog") + slot * pool.region("slot") for slot in (0, 1)]
    journal, owner = pool.region("journal"), pool.region("owner")
    clean = scrubbed(pool)
    assert clean["metadata_verified"] >= 2 + 2 + 2 + 2  # Labels, slots, headers, places of an owner block.
    assert (clean["metadata_damaged"], clean["metadata_mended"]) == (0, 0)
    # One copy of each structure, in the file of a running engine.
    for place in (label_b + 100, slots[1] + 40, journal + 20, owner + 4096 + 40):
        pool.change(place, bytes([pool.read(place, 1)[0] ^ 4]))
    found = scrubbed(pool)
    # A checkpoint of its own may have come upon the slot before.
    assert found["metadata_damaged"] in (3, 4)
    assert found["metadata_mended"] == found["metadata_damaged"]
    for what in ("label B", "catalog slot 1", "journal header 0", "place 1 of the owner block of chunk 0"):
        until_told(pool, f"{what} of {pool.disk} is bad")
    assert figure(pool, "damaged_metadata_copies") == figure(pool, "mended_metadata_copies") == 4
    # Both places of a block: what they said comes from the map.
    for place in (owner + 40, owner + 4096 + 40):
        pool.change(place, bytes([pool.read(place, 1)[0] ^ 4]))
    found = scrubbed(pool)
    assert (found["metadata_damaged"], found["metadata_mended"]) == (2, 2)
    until_told(pool, f"place 0 of the owner block of chunk 0 of {pool.disk} is bad")
    after = scrubbed(pool)
    assert (after["metadata_damaged"], after["metadata_mended"]) == (0, 0)
    pool.stop()
    shutil.rmtree(meta)
    pool.server.start()
    until(lambda: bool(events(pool.server, "pool-imported")), "an import", pool.server)
    assert pool.holds()
    assert pool.server.cli_json("pool", "check", POOL)["consistent"]


def scrubbed(pool: OnDisk) -> dict[str, int]:
    """What a scrub, which this runs to its end, says of the pool's disk."""
    pool.server.cli("pool", "scrub", "start", POOL)
    path = f"/v1/pools/{POOL}/scrub"
    until(lambda: bool(pool.server.rest.get(path)["state"] == "done"), "the end of a scrub", pool.server)
    return dict(pool.server.cli_json("pool", "scrub", "show", POOL)["disks"][0])


def figure(pool: OnDisk, name: str) -> float:
    """A figure of the pool among the metrics."""
    headers = {"Authorization": f"Bearer {pool.server.rest.token}"}
    text = httpx.get(f"{pool.server.url}/metrics", headers=headers, timeout=10).text
    line = next(line for line in text.splitlines() if line.startswith(f'sds_pool_{name}{{pool="{POOL}"}}'))
    return float(line.split()[-1])


def until_told(pool: OnDisk, words: str) -> None:
    """Waits for the event that says so."""
    told = lambda: any(words in message for message in events(pool.server, "metadata-damaged"))  # noqa: E731
    until(told, words, pool.server)


def seal(envelope: bytes, seed: bytes = b"") -> bytes:
    """With the CRC of what it says now (docs/on-disk.md, the CRC)."""
    length = struct.unpack_from("<I", envelope, 8)[0]
    crc = 0xFFFFFFFF
    for byte in seed + envelope[:12] + envelope[16:length]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return envelope[:12] + struct.pack("<I", crc ^ 0xFFFFFFFF) + envelope[16:]
