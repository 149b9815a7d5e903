"""Pools that go from one node to another with their disks: two whole servers, real files, hosts over iSCSI and NVMe."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.conftest import bare_server
from tests.clients.qemu import events, qemu_io, start_qemu_io, until, url_of
from tests.server import ApiError, Server

MIB = 1 << 20
TIB = 1 << 40
DISK_BYTES = 128 * MIB
POOL = "archive"
WRITES = 6_000
FAILED = "Pattern verification failed"
HOST = {"name": "pacs1", "nqn": "nqn.2014-08.org.example:pacs1"}


@dataclass
class Nodes:
    """Two nodes, and the disks of a pool that the first one has."""

    a: Server
    b: Server
    disks: list[Path]
    volume: str
    url: str


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The first node, without pools."""
    with bare_server(tmp_path_factory.mktemp("a")) as server:
        server.start()
        yield server


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The second node."""
    with bare_server(tmp_path_factory.mktemp("b")) as server:
        server.start()
        yield server


@pytest.fixture
def nodes(sds_server: Server, second: Server, tmp_path: Path) -> Iterator[Nodes]:
    """A pool of two disks on the first node, with a volume that holds a pattern."""
    disks = [tmp_path / "flash.img", tmp_path / "hdd.img"]
    sds_server.rest.post("/v1/pools", {"name": POOL, "extent_bytes": MIB})
    for disk in disks:
        with disk.open("wb") as file:
            file.truncate(DISK_BYTES)
        sds_server.rest.post("/v1/disks", {"pool": POOL, "path": str(disk), "tier": disk.stem})
    volume = sds_server.new_volume(TIB, POOL)
    url = url_of(sds_server, volume)
    assert "failed" not in qemu_io(url, "write -P 7 0 1M", "write -P 8 9G 3M", "discard 9217M 1M", "flush")
    yield Nodes(sds_server, second, disks, volume, url)
    for server in (sds_server, second):
        for pool in list(server.rest.items("/v1/pools")):
            server.rest.post(f"/v1/pools/{pool['name']}/export", {"force": True})
        for host in list(server.rest.items("/v1/hosts")):
            server.rest.delete(f"/v1/hosts/{host['name']}")
    shutil.rmtree(tmp_path, ignore_errors=True)


def url_on(server: Server, volume: str) -> str:
    """A volume's URL through the iSCSI export that it has already."""
    (export,) = [one for one in server.rest.items("/v1/exports") if one["id"] == f"{volume}.iscsi"]
    return f"iscsi://127.0.0.1:{server.iscsi_port}/{export['iqn']}/{export['lun']}"


def holds(url: str, *more: str) -> bool:
    """Whether the volume has the fixture's pattern, and `more`."""
    said = qemu_io(url, "read -P 7 0 1M", "read -P 8 9G 1M", "read -P 0 9217M 1M", "read -P 8 9218M 1M", *more)
    return "failed" not in said and said.count("ops;") == 4 + len(more)


def refused(server: Server, disks: list[Path], **more: object) -> str:
    """What REST says to an import that it refuses with 409."""
    with pytest.raises(ApiError) as caught:
        server.rest.post("/v1/pools/import", {"disks": [str(disk) for disk in disks], **more})
    assert caught.value.status == 409
    return str(caught.value.problem["detail"]) + str(caught.value.problem.get("accepted"))


@pytest.mark.allow_log("rebuilt from")
def test_a_pool_goes_to_another_node_and_back_with_all_that_it_holds(nodes: Nodes) -> None:
    a, b = nodes.a, nodes.b
    a.rest.post("/v1/hosts", HOST)
    a.export(nodes.volume, "nvme", HOST["name"])
    created = a.rest.get(f"/v1/volumes/{nodes.volume}")
    assert holds(nodes.url)

    assert a.cli("pool", "export", POOL, check=False).returncode == 4
    done = a.cli("pool", "export", POOL, "--yes").stdout
    command = done.splitlines()[-1]
    assert shlex.split(command) == ["sds", "pool", "import", *map(str, nodes.disks)]
    assert [list(a.rest.items(f"/v1/{kind}")) for kind in ("pools", "disks", "volumes", "exports")] == [[]] * 4
    assert list((a.data / "pools").iterdir()) == []

    shown = b.cli_json(*shlex.split(command)[1:])
    assert (shown["name"], shown["state"], shown["disks"], shown["volumes"]) == (POOL, "online", 2, 1)
    assert b.rest.get(f"/v1/volumes/{nodes.volume}") == created
    exports = {one["protocol"]: one for one in b.rest.items("/v1/exports")}
    assert exports["nvme"]["hosts"] == [HOST["name"]]
    assert [host["nqn"] for host in b.rest.items("/v1/hosts")] == [HOST["nqn"]]
    assert "closed in order" not in "".join(events(b, "pool-taken-over"))
    # The same again changes nothing.
    assert b.cli_json(*shlex.split(command)[1:]) == shown | {"allocated_bytes": b.allocated_bytes(POOL)}

    there = url_on(b, nodes.volume)
    assert holds(there)
    assert "failed" not in qemu_io(there, "write -P 9 20G 2M", "write -P 6 256k 256k", "flush")
    b.cli("pool", "export", POOL, "--yes")
    a.cli(*shlex.split(command)[1:])
    said = qemu_io(
        url_on(a, nodes.volume),
        "read -P 7 0 256k",
        "read -P 6 256k 256k",
        "read -P 7 512k 512k",
        "read -P 8 9G 1M",
        "read -P 9 20G 2M",
    )
    assert "failed" not in said
    assert said.count("ops;") == 5


@pytest.mark.allow_log("rebuilt from|host-renamed|volume-renamed")
def test_names_that_are_taken_on_the_other_node_are_changed_or_asked_for(nodes: Nodes, tmp_path: Path) -> None:
    a, b = nodes.a, nodes.b
    a.rest.post("/v1/hosts", HOST)
    a.export(nodes.volume, "nvme", HOST["name"])
    a.cli("pool", "export", POOL, "--yes")
    other = tmp_path / "other.img"
    b.rest.post("/v1/pools", {"name": POOL})
    b.rest.post("/v1/disks", {"pool": POOL, "path": str(other), "tier": "hdd", "create_bytes": DISK_BYTES})
    b.rest.post("/v1/volumes", {"name": nodes.volume, "pool": POOL, "size_bytes": MIB})
    b.rest.post("/v1/hosts", {"name": HOST["name"], "nqn": "nqn.2014-08.org.example:somebody-else"})
    b.rest.post("/v1/hosts", {"name": "known", "nqn": "nqn.2014-08.org.example:known"})

    assert "--name" in refused(b, nodes.disks)
    shown = b.cli_json("pool", "import", *map(str, nodes.disks), "--name", "from-a")
    assert shown["name"] == "from-a"
    (volume,) = [one["name"] for one in b.rest.items("/v1/volumes") if one["pool"] == "from-a"]
    assert volume == f"{nodes.volume}-{b.rest.get(f'/v1/volumes/{volume}')['uuid'][:8]}"
    exports = {one["protocol"]: one for one in b.rest.items("/v1/exports") if one["pool"] == "from-a"}
    # The pool's host is not the one that has its name here.
    renamed = f"{HOST['name']}-{shown['uuid'][:8]}"
    assert exports["nvme"]["hosts"] == [renamed]
    assert {one["name"]: one["nqn"] for one in b.rest.items("/v1/hosts")}[renamed] == HOST["nqn"]
    assert holds(url_on(b, volume))
    # The new name is in the labels: it stays when the pool goes on, and where the host has its old name it gets that.
    b.cli("pool", "export", "from-a", "--yes")
    assert a.cli_json("pool", "import", *map(str, nodes.disks))["name"] == "from-a"
    (nvme,) = [one for one in a.rest.items("/v1/exports") if one["protocol"] == "nvme"]
    assert nvme["hosts"] == [HOST["name"]]


@pytest.mark.allow_log("rebuilt from")
def test_an_import_that_can_not_be_says_why_and_changes_nothing(nodes: Nodes, tmp_path: Path) -> None:
    a, b = nodes.a, nodes.b
    # Somebody has it open.
    assert f"process {a.pid('engine')} has it" in refused(b, nodes.disks, force=True)
    with start_qemu_io(nodes.url, "read 0 4k", "sleep 20000") as host:
        until(lambda: a.cli("pool", "export", POOL, "--yes", check=False).returncode == 1, "a host", a)
        said = a.cli("pool", "export", POOL, "--yes", check=False).stderr
        assert f"{nodes.volume}.iscsi" in said
        assert "force" in said
        host.kill()
    uuids = {disk["path"]: disk["uuid"] for disk in a.rest.items("/v1/disks")}
    until(lambda: a.cli("pool", "export", POOL, "--yes", check=False).returncode == 0, "no host is left", a)
    # A disk is missing; with the first alone the journal is there, with the second it is not.
    for given, missing in (nodes.disks, reversed(nodes.disks)):
        said = refused(b, [given])
        assert uuids[str(missing)] in said
        assert f"tier {missing.stem}" in said
        assert list(b.rest.items("/v1/pools")) == []
        assert list((b.data / "pools").glob("*")) == []
    # Disks of two pools; a disk without a label; no path; no disk at all.
    blank = tmp_path / "blank.img"
    b.rest.post("/v1/pools", {"name": "other"})
    b.rest.post("/v1/disks", {"pool": "other", "path": str(blank), "tier": "hdd", "create_bytes": DISK_BYTES})
    assert "other of this node" in refused(b, [nodes.disks[0], blank])
    b.cli("pool", "export", "other", "--yes")
    assert f"{blank} of other" in refused(b, [nodes.disks[0], blank])
    blank.write_bytes(bytes(DISK_BYTES))
    assert "carries no label" in refused(b, [nodes.disks[0], blank])
    for disks in ([], ["relative"], [str(tmp_path / "none")], ["memfd:x:67108864"]):
        with pytest.raises(ApiError) as caught:
            b.rest.post("/v1/pools/import", {"disks": disks})
        assert (caught.value.status, caught.value.problem["type"]) == (422, "urn:sds:problem:invalid-value")
    a.cli("pool", "import", *map(str, nodes.disks))
    assert holds(nodes.url)


@pytest.mark.allow_log("rebuilt from|supervisor: engine")
def test_a_ring_of_a_killed_node_that_another_one_outran_is_void(nodes: Nodes, tmp_path: Path) -> None:
    """The ring of A has changes that no journal has; B goes on without them and gives their chunks to others."""
    a, b = nodes.a, nodes.b
    opener = f"pid {a.pid('engine')} on "
    # Each changes the map. A goes down while they are on their way, most of them not yet in the journal.
    places = [(100 << 30) + number * 4096 for number in range(WRITES)]
    before = a.rest.get(f"/v1/pools/{POOL}")["allocated_bytes"]
    writes = [f"write -q -P 5 {place} 4k" for place in places]
    with start_qemu_io(nodes.url, *writes, cache="writeback") as host:
        until(lambda: a.rest.get(f"/v1/pools/{POOL}")["allocated_bytes"] > before + 4 * MIB, "writes go on", a)
        a.kill_all()
        host.kill()
    # What A would have made of its ring, on copies.
    kept = [*nodes.disks, a.data / "pools"]
    for path in kept:
        subprocess.run(["cp", "-a", "--sparse=always", path, tmp_path / f"{path.name}.kept"], check=True)
    a.start()
    assert "ring_groups 0" not in events(a, "pool-opened")[0]
    a.kill_all()
    for path in kept:
        subprocess.run(["rm", "-r", path], check=True)
        (tmp_path / f"{path.name}.kept").rename(path)

    said = refused(b, nodes.disks)
    assert opener in said
    assert "sds pool export" in said
    b.cli("pool", "import", *map(str, nodes.disks), "--force", "--yes")
    there = url_on(b, nodes.volume)
    assert holds(there)
    # Fewer changes than A's ring has, so that its last ones would seem to follow.
    ours = [f"-P 6 {place}G 64k" for place in range(200, 230)]
    assert "failed" not in qemu_io(there, *(f"write {one}" for one in ours), "flush")
    b.rest.post(f"/v1/pools/{POOL}/export", {"force": True})
    a.start()
    assert "ring_groups 0" in events(a, "pool-opened")[0]
    assert holds(nodes.url, *(f"read {one}" for one in ours))
    # What nobody flushed is there or is not, and is nobody else's.
    fails = [qemu_io(nodes.url, *(f"read -P {byte} {place} 4k" for place in places)).count(FAILED) for byte in (0, 5)]
    assert sum(fails) == WRITES


@pytest.mark.allow_log("pool-failed|rebuilt from")
def test_a_pool_that_another_node_took_is_let_go_of(nodes: Nodes) -> None:
    a = nodes.a
    a.kill_all()
    aside = nodes.disks[0].with_suffix(".aside")
    nodes.disks[0].rename(aside)
    a.launch()
    until(lambda: _failed(a), "the pool is failed", a)
    assert "force" in a.cli("pool", "export", POOL, "--yes", check=False).stderr
    done = a.cli_json("pool", "export", POOL, "--yes", "--force")
    assert (done["closed"], shlex.split(done["command"])[-1]) == (False, "--force")
    assert a.healthy()
    aside.rename(nodes.disks[0])
    a.cli(*shlex.split(done["command"])[1:], "--yes")
    assert holds(nodes.url)


def _failed(server: Server) -> bool:
    done = server.cli("pool", "show", POOL, check=False)
    return "failed" in done.stdout
