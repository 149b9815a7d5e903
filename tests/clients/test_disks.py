"""Disks that are not as they were left: a damaged label; gone, cut off or read-only; in the hands of another engine."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.clients.conftest import bare_server
from tests.clients.qemu import events, qemu_io, until, url_of
from tests.server import ApiError, Server

MIB = 1 << 20
DISK_BYTES = 128 * MIB
LABEL_BYTES = 4096
LABEL_OFFSETS = {"A": 0, "B": 512 << 10}
OPEN_FILES_LOW = 256

NewPool = Callable[[str], tuple[Path, str]]


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without pools, started by a shell with a low limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with bare_server(tmp_path_factory.mktemp("sds")) as server:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES_LOW, hard))
        try:
            server.start()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        yield server


@pytest.fixture
def new_pool(sds_server: Server, tmp_path: Path) -> Iterator[NewPool]:
    """Makes a pool on a file, with a volume that holds a pattern; returns the file and the volume's URL."""
    names: list[str] = []

    def make(name: str) -> tuple[Path, str]:
        disk = tmp_path / f"{name}.img"
        with disk.open("wb") as file:
            file.truncate(DISK_BYTES)
        sds_server.rest.post("/v1/pools", {"name": name, "extent_bytes": MIB})
        names.append(name)
        sds_server.rest.post("/v1/disks", {"pool": name, "path": str(disk), "tier": "hdd"})
        url = url_of(sds_server, sds_server.new_volume(1 << 40, name))
        assert "failed" not in qemu_io(url, "write -P 7 0 1M", "write -P 8 9G 1M", "flush")
        return disk, url

    yield make
    for export in list(sds_server.rest.items("/v1/exports")):
        sds_server.rest.delete(f"/v1/exports/{export['id']}")
    for volume in list(sds_server.rest.items("/v1/volumes")):
        sds_server.rest.delete(f"/v1/volumes/{volume['name']}")
    for name in names:
        sds_server.rest.delete(f"/v1/pools/{name}")
    shutil.rmtree(tmp_path, ignore_errors=True)


def _holds_pattern(url: str) -> bool:
    said = qemu_io(url, "read -P 7 0 1M", "read -P 8 9G 1M")
    return "failed" not in said and said.count("read 1048576/1048576") == 2


def _state(server: Server, pool: str) -> str:
    try:
        return str(server.rest.get(f"/v1/pools/{pool}")["state"])
    except (ApiError, httpx.TransportError):
        return "not answered"


def test_the_engine_takes_as_many_open_files_as_it_may(sds_server: Server) -> None:
    limits = Path(f"/proc/{sds_server.pid('engine')}/limits").read_text().splitlines()
    (line,) = (line for line in limits if line.startswith("Max open files"))
    soft, hard = line.split()[3:5]
    assert soft == hard != str(OPEN_FILES_LOW)


@pytest.mark.parametrize("slot", ["A", "B"])
@pytest.mark.allow_log("label-slot-bad|label [AB] can't be used")
def test_a_damaged_label_is_told_and_made_whole_from_the_other(
    sds_server: Server, new_pool: NewPool, slot: str
) -> None:
    disk, url = new_pool(f"slot-{slot.lower()}")
    sds_server.kill_all()
    with disk.open("r+b") as file:
        file.seek(LABEL_OFFSETS[slot] + 100)
        file.write(b"damaged")
    sds_server.start()
    told = [message for message in events(sds_server, "label-slot-bad") if str(disk) in message]
    assert len(told) == 1
    assert f"label slot {slot} of {disk} is bad (label: CRC is" in told[0]
    assert _holds_pattern(url)
    (shown,) = sds_server.cli_json("disk", "list", "--pool", f"slot-{slot.lower()}")
    assert shown["state"] == "online"
    with disk.open("rb") as file:
        labels = []
        for offset in LABEL_OFFSETS.values():
            file.seek(offset)
            labels.append(file.read(LABEL_BYTES))
    assert labels[0] == labels[1]
    sds_server.kill_all()
    sds_server.start()
    assert [message for message in events(sds_server, "label-slot-bad") if str(disk) in message] == told


@pytest.mark.allow_log("supervisor: engine|pool-failed")
def test_pools_whose_disks_cannot_be_used_say_so_and_open_when_they_are_back(
    sds_server: Server, new_pool: NewPool, tmp_path: Path
) -> None:
    made = {name: new_pool(name) for name in ("gone", "short", "readonly", "whole")}
    disks = {name: disk for name, (disk, _) in made.items()}
    aside = {name: tmp_path / f"{name}.aside" for name in ("gone", "short")}
    for name, place in aside.items():
        disks[name].rename(place)
    with aside["short"].open("rb") as whole, disks["short"].open("wb") as file:
        file.write(whole.read(DISK_BYTES // 2))
    subprocess.run(["mount", "--bind", disks["readonly"], disks["readonly"]], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", disks["readonly"]], check=True)
        sds_server.kill("engine")
        until(lambda: _state(sds_server, "whole") == "online", "whole is online", sds_server)
        wrong = {
            "gone": "there is nothing at that path",
            "short": f"has {DISK_BYTES // 2} bytes, of {DISK_BYTES}",
            "readonly": "takes no writes",
        }
        health = httpx.get(f"{sds_server.url}/healthz", timeout=5)
        assert (health.status_code, health.json()["status"]) == (503, "degraded")
        for name, what in wrong.items():
            pool = sds_server.cli_json("pool", "show", name)
            assert pool["state"] == "failed"
            assert f"disk {disks[name]}" in pool["message"]
            assert what in pool["message"]
            assert pool["message"] in health.json()["detail"]
            assert [message for message in events(sds_server, "pool-failed") if f"pool {name} " in message]
            (shown,) = sds_server.cli_json("disk", "list", "--pool", name)
            assert shown["state"] == "offline"
        assert _holds_pattern(made["whole"][1])
        assert "failed" not in qemu_io(made["whole"][1], "write -P 9 1G 1M", "read -P 9 1G 1M")
    finally:
        subprocess.run(["umount", disks["readonly"]], check=True)
        for name, place in aside.items():
            place.rename(disks[name])
    # Without a command: the engine looks again every few seconds.
    until(sds_server.healthy, "every pool is online", sds_server)
    assert [name for name, (_, url) in made.items() if not _holds_pattern(url)] == []


@pytest.mark.allow_log("rebuilt from")
def test_a_second_engine_on_the_same_disks_is_told_who_has_them(
    sds_server: Server, new_pool: NewPool, tmp_path: Path
) -> None:
    disk, url = new_pool("held")
    uuid = sds_server.rest.get("/v1/pools/held")["uuid"]
    holder = f"process {sds_server.pid('engine')} has it"
    with bare_server(tmp_path) as second:
        second.start()
        second.rest.post("/v1/pools", {"name": "other"})
        for force in (False, True):
            with pytest.raises(ApiError) as caught:
                second.rest.post("/v1/disks", {"pool": "other", "path": str(disk), "tier": "hdd", "force": force})
            assert caught.value.status == 409
            assert holder in caught.value.problem["detail"]
        second.rest.delete("/v1/pools/other")
        # What a copied data folder has: the node's database is made again from the pools' entries.
        second.kill_all()
        entry = Path("pools", uuid, "pool.json")
        (second.data / entry).parent.mkdir(parents=True)
        shutil.copy(sds_server.data / entry, second.data / entry)
        shutil.rmtree(second.data / "node")
        second.launch()
        until(lambda: _state(second, "held") == "failed", "the second engine is refused", second)
        assert holder in second.rest.get("/v1/pools/held")["message"]
        assert [message for message in events(second, "pool-failed") if holder in message]
        assert _holds_pattern(url)
        assert "failed" not in qemu_io(url, "write -P 9 1G 1M", "flush", "read -P 9 1G 1M")
        # When the first is gone, the second takes over, with all that the first had.
        sds_server.kill_all()
        until(second.healthy, "the second engine has the pool", second)
        export = next(iter(second.rest.items("/v1/exports")))
        taken = f"iscsi://127.0.0.1:{second.iscsi_port}/{export['iqn']}/{export['lun']}"
        assert _holds_pattern(taken)
        assert "failed" not in qemu_io(taken, "read -P 9 1G 1M")
        assert second.stop() == 0
    # The first one's RocksDB is older than what the second did.
    sds_server.start()
    assert events(sds_server, "pool-imported")
    assert _holds_pattern(url)
