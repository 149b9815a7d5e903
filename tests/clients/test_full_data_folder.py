"""File systems that are full below a node's data and below a disk: hosts go on as far as they can, and nothing has to
be repaired after.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from tests.clients.conftest import bare_server
from tests.clients.qemu import QEMU_LIMIT_S, events, qemu_io, start_qemu_io, until, until_event, url_of
from tests.server import ApiError, Server

MIB = 1 << 20
POOL = "small"
DISK_BYTES = 64 * MIB  # Its journal has 4 MiB: some 770 commits fill what of it may be filled.
COMMITS = 900
FOLDER_BYTES = 48 * MIB


class Folder:
    """A file system of a few MiB in memory, which can be filled to its last byte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        options = f"size={FOLDER_BYTES},mode=0700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True)

    def fill(self) -> None:
        """Leaves no space."""
        free = shutil.disk_usage(self.path).free
        with (self.path / "filler").open("xb", buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, free)

    def clear(self) -> None:
        """Gives the space back."""
        (self.path / "filler").unlink()

    def unmount(self) -> None:
        """Ends it."""
        subprocess.run(["umount", "--lazy", self.path], check=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    """Where the server's data lie."""
    folder = Folder(tmp_path_factory.mktemp("sds") / "data")
    yield folder
    folder.unmount()


@pytest.fixture(scope="module")
def module_server(folder: Folder) -> Iterator[Server]:
    """A server without pools on the small folder."""
    with bare_server(folder.path.parent) as server:
        server.start()
        yield server


@pytest.fixture
def small(sds_server: Server, tmp_path: Path) -> Iterator[Server]:
    """The server with a pool on one small file."""
    sds_server.rest.post("/v1/pools", {"name": POOL, "extent_bytes": MIB // 4})
    sds_server.rest.post("/v1/disks", {"pool": POOL, "path": _new_disk(tmp_path / "disk.img"), "tier": "hdd"})
    yield sds_server
    for export in list(sds_server.rest.items("/v1/exports")):
        sds_server.rest.delete(f"/v1/exports/{export['id']}")
    for volume in list(sds_server.rest.items("/v1/volumes")):
        sds_server.rest.delete(f"/v1/volumes/{volume['name']}")
    sds_server.rest.delete(f"/v1/pools/{POOL}")
    shutil.rmtree(tmp_path, ignore_errors=True)


def _new_disk(path: Path) -> str:
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
    return str(path)


def _refused(server: Server, path: str, body: Mapping[str, object]) -> tuple[int, str]:
    with pytest.raises(ApiError) as caught:
        server.rest.post(path, body)
    return caught.value.status, str(caught.value.problem["detail"])


def _churn() -> list[str]:
    """Steps that change the map and commit, again and again, and end with a pattern at 32 MiB."""
    return [
        step
        for number in range(COMMITS // 2)
        for step in ("discard -q 32M 64k", "flush", f"write -q -P {number % 250 + 1} 32M 64k", "flush")
    ]


@pytest.mark.allow_log("checkpoint|RocksDB|an event can't be stored")
def test_a_full_data_folder_refuses_only_what_needs_it_and_needs_no_repair(
    small: Server, folder: Folder, tmp_path: Path
) -> None:
    url = url_of(small, small.new_volume(1 << 40, POOL))
    assert "failed" not in qemu_io(url, "write -P 5 0 4M", "write -P 6 9G 64k", "flush")
    engine = small.pid("engine")
    folder.fill()
    with start_qemu_io(url, *_churn()) as churn:
        try:
            until_event(small, "checkpoint-failed")
            health = httpx.get(f"{small.url}/healthz", timeout=5)
            assert (health.status_code, health.json()["status"]) == (503, "degraded")
            assert f"pool {POOL}: its metadata can't be stored" in health.json()["detail"]
            assert "its metadata can't be stored" in small.cli_json("pool", "show", POOL)["message"]
            volume = {"name": "more", "pool": POOL, "size_bytes": MIB}
            until(lambda: _journal_is_full(small), "the journal is full", small)
            # The host is told to come again, and does.
            assert churn.poll() is None
            # What is there can be read and overwritten.
            overwrite = [f"write -P 7 {number * 64}k 64k" for number in range(8)]
            assert "failed" not in qemu_io(url, "read -P 5 0 4M", "read -P 6 9G 64k", *overwrite)
            assert "failed" not in qemu_io(url, "read -P 7 0 512k", "read -P 5 512k 3M")
            # What changes a map or a catalog is refused until there is room.
            status, detail = _refused(small, "/v1/volumes", volume)
            assert (status, "journal is full" in detail) == (503, True)
            second = {"pool": POOL, "path": _new_disk(tmp_path / "second.img"), "tier": "hdd"}
            assert _refused(small, "/v1/disks", second)[0] == 503
            assert len(small.cli_json("disk", "list", "--pool", POOL)) == 1
            assert _refused(small, "/v1/pools", {"name": "another"})[0] == 503
            folder.clear()
            said, _ = churn.communicate(timeout=QEMU_LIMIT_S)
        finally:
            churn.kill()
    assert "failed" not in said, said
    until(small.healthy, "all is well again", small)
    until_event(small, "checkpoint-recovered")
    small.rest.post("/v1/volumes", volume)
    small.rest.post("/v1/disks", second)
    assert len(small.cli_json("disk", "list", "--pool", POOL)) == 2
    assert small.pid("engine") == engine
    last = (COMMITS // 2 - 1) % 250 + 1
    steps = ("read -P 7 0 512k", "read -P 5 512k 3M", "read -P 6 9G 64k", f"read -P {last} 32M 64k")
    assert "failed" not in qemu_io(url, *steps)
    small.kill_all()
    small.start()
    assert "failed" not in qemu_io(url, *steps)
    assert len(small.cli_json("disk", "list", "--pool", POOL)) == 2
    # The event that could not be stored at first was stored with a later one.
    assert events(small, "checkpoint-failed")


@pytest.mark.allow_log("nothing can be made durable: the journal can't be written|checkpoint")
def test_a_disk_whose_joining_could_not_be_noted_is_in_the_pool_or_not_and_nothing_is_lost(
    sds_server: Server, tmp_path: Path
) -> None:
    # A sparse file on a full file system: its journal can't be written, whatever the host's requests need.
    below = Folder(tmp_path / "below")
    try:
        first = {"pool": "thin", "path": _new_disk(below.path / "disk.img"), "tier": "hdd"}
        second = {"pool": "thin", "path": _new_disk(tmp_path / "second.img"), "tier": "hdd"}
        sds_server.rest.post("/v1/pools", {"name": "thin", "extent_bytes": MIB // 4})
        sds_server.rest.post("/v1/disks", first)
        url = url_of(sds_server, sds_server.new_volume(1 << 40, "thin"))
        assert "failed" not in qemu_io(url, "write -P 5 0 4M", "write -P 6 9G 64k", "flush")
        below.fill()
        assert _refused(sds_server, "/v1/disks", second) == (500, "the journal can't be written")
        # The pool has it by now and could not note it: neither "it was added" nor "it was not" would be true.
        assert _refused(sds_server, "/v1/disks", second)[0] == 503
        assert "failed" not in qemu_io(url, "read -P 5 0 4M", "read -P 6 9G 64k")
        sds_server.kill_all()
        below.clear()
        sds_server.start()
        assert "failed" not in qemu_io(url, "read -P 5 0 4M", "read -P 6 9G 64k")
        sds_server.rest.post("/v1/disks", second)
        assert len(sds_server.cli_json("disk", "list", "--pool", "thin")) == 2
        assert "failed" not in qemu_io(url, "write -P 9 1M 8M", "flush", "read -P 9 1M 8M", "read -P 5 0 1M")
        sds_server.kill_all()
        sds_server.start()
        assert "failed" not in qemu_io(url, "read -P 9 1M 8M", "read -P 5 0 1M", "read -P 6 9G 64k")
    finally:
        sds_server.kill_all()
        below.unmount()


def _journal_is_full(server: Server) -> bool:
    """Whether as much of the journal is in use as map-changing writes may take, by the metrics."""
    headers = {"authorization": f"Bearer {server.rest.token}"}
    text = httpx.get(f"{server.url}/metrics", headers=headers, timeout=10).text
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    used, size = (float(figures[f'sds_pool_journal_{name}{{pool="{POOL}"}}']) for name in ("used_bytes", "bytes"))
    return used > 0.74 * size
