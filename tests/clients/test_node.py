"""A whole node through REST and the command line: what an administrator does and what is refused."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from tests.server import ApiError, Server

MIB = 1 << 20
GIB = 1 << 30
NQN = "nqn.2014-08.org.nvmexpress:uuid:4c4c4544-0044-4810-8031-b4c04f4d3332"
# What the engine may use for itself between two looks.
VARIABLE = {"allocated_bytes", "free_bytes"}
IQN = "iqn.1993-08.org.debian:01:8e3ba21d2aa"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A blank file of a disk's size."""
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(512 * MIB)
    yield path
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def node(sds_server: Server, disk: Path) -> Iterator[Server]:
    """The file's server with an empty pool `archive`, which is gone after the test and before its disk."""
    assert disk.exists()
    sds_server.rest.post("/v1/pools", {"name": "archive", "extent_bytes": MIB})
    yield sds_server
    for export in list(sds_server.rest.items("/v1/exports")):
        if export["pool"] == "archive":
            sds_server.rest.delete(f"/v1/exports/{export['id']}")
    for volume in list(sds_server.rest.items("/v1/volumes")):
        if volume["pool"] == "archive":
            sds_server.rest.delete(f"/v1/volumes/{volume['name']}")
    sds_server.rest.delete("/v1/pools/archive")
    for host in list(sds_server.rest.items("/v1/hosts")):
        sds_server.rest.delete(f"/v1/hosts/{host['name']}")


def _add(node: Server, disk: Path) -> None:
    node.cli("disk", "add", "archive", str(disk), "--tier", "hdd")


def _refused(node: Server, method: str, path: str, body: Mapping[str, object] | None = None) -> tuple[int, str, str]:
    with pytest.raises(ApiError) as caught:
        node.rest.request(method, path, json=body)
    problem = caught.value.problem
    return caught.value.status, problem["type"].rpartition(":")[2], problem["field"]


def test_from_a_blank_disk_to_an_export(node: Server, disk: Path) -> None:
    _add(node, disk)
    volume = node.cli_json("volume", "create", "pacs", "--pool", "archive", "--size", "20T")
    assert volume["size_bytes"] == 20 << 40
    pool = node.cli_json("pool", "show", "archive")
    assert pool["state"] == "online"
    assert 0 < pool["capacity_bytes"] <= 512 * MIB
    assert pool["overcommit"] > 1
    node.cli("host", "create", "pacs1", "--nqn", NQN, "--iqn", IQN)
    printed = node.cli("export", "create", "pacs", "--protocol", "nvme", "--host", "pacs1").stdout
    connect = f"nvme connect -t tcp -a 127.0.0.1 -s {node.nvme_port} -n nqn.2026-11.io.sds:archive.pacs"
    assert connect in printed.splitlines()
    node.cli("export", "create", "pacs", "--protocol", "iscsi", "--any-host")
    exports = {one["protocol"]: one for one in node.cli_json("export", "list") if one["volume"] == "pacs"}
    assert exports["nvme"]["nsid"] == 1
    assert exports["iscsi"]["lun"] == 0
    assert exports["iscsi"]["address"] == f"127.0.0.1:{node.iscsi_port}"
    assert node.cli_json("volume", "resize", "pacs", "30T")["size_bytes"] == 30 << 40
    kinds = {event["kind"] for event in node.cli_json("event", "list")}
    assert {"disk-added", "volume-created", "export-created", "volume-resized"} <= kinds


def test_names_are_idempotent(node: Server, disk: Path) -> None:
    _add(node, disk)
    for _ in range(2):
        _add(node, disk)
        node.rest.post("/v1/pools", {"name": "archive", "extent_bytes": MIB})
        node.rest.post("/v1/volumes", {"name": "pacs", "pool": "archive", "size_bytes": GIB})
        node.rest.post("/v1/hosts", {"name": "pacs1", "nqn": NQN})
        node.rest.post("/v1/exports", {"volume": "pacs", "protocol": "nvme", "hosts": ["pacs1"]})
    other = {"name": "pacs", "pool": "default", "size_bytes": GIB}
    assert _refused(node, "POST", "/v1/volumes", other) == (409, "name-taken", "pool")
    other = {"name": "archive", "extent_bytes": 2 * MIB}
    assert _refused(node, "POST", "/v1/pools", other) == (409, "name-taken", "extent_bytes")
    other = {"volume": "pacs", "protocol": "nvme", "any_host": True}
    assert _refused(node, "POST", "/v1/exports", other) == (409, "name-taken", "hosts")


def test_what_is_in_use_is_not_deleted(node: Server, disk: Path) -> None:
    _add(node, disk)
    node.rest.post("/v1/volumes", {"name": "pacs", "pool": "archive", "size_bytes": GIB})
    node.rest.post("/v1/hosts", {"name": "pacs1", "nqn": NQN})
    node.rest.post("/v1/exports", {"volume": "pacs", "protocol": "nvme", "hosts": ["pacs1"]})
    for path in ("/v1/pools/archive", "/v1/volumes/pacs", "/v1/hosts/pacs1"):
        assert _refused(node, "DELETE", path)[:2] == (409, "in-use")
    node.cli("export", "delete", "pacs", "--protocol", "nvme", "--yes")
    node.cli("volume", "delete", "pacs", "--yes")
    node.cli("host", "delete", "pacs1", "--yes")
    for path in ("/v1/volumes/pacs", "/v1/hosts/pacs1", "/v1/exports/pacs.nvme", "/v1/pools/none"):
        assert _refused(node, "GET", path)[:2] == (404, "not-found")


def test_wrong_values_are_refused_by_field(node: Server, disk: Path) -> None:
    volume = {"name": "pacs", "pool": "archive", "size_bytes": GIB}
    assert _refused(node, "POST", "/v1/volumes", volume) == (409, "conflict", "pool")
    _add(node, disk)
    for change in ({"name": "Pacs"}, {"size_bytes": GIB + 1}, {"size_bytes": 65 << 40}, {"logical_block_bytes": 520}):
        (field,) = change
        assert _refused(node, "POST", "/v1/volumes", {**volume, **change}) == (422, "invalid-value", field)
    host = {"name": "pacs1"}
    assert _refused(node, "POST", "/v1/hosts", host)[0] == 422
    assert _refused(node, "POST", "/v1/hosts", {**host, "nqn": "nqn"}) == (422, "invalid-value", "nqn")
    assert _refused(node, "POST", "/v1/hosts", {**host, "iqn": "iqn"}) == (422, "invalid-value", "iqn")
    node.rest.post("/v1/volumes", volume)
    assert _refused(node, "PATCH", "/v1/volumes/pacs", {"size_bytes": MIB}) == (422, "invalid-value", "size_bytes")
    node.rest.post("/v1/hosts", {"name": "pacs1", "iqn": IQN})
    export = {"volume": "pacs", "protocol": "nvme"}
    for viewers in ({}, {"hosts": ["pacs1"]}, {"hosts": ["pacs1"], "any_host": True}):
        assert _refused(node, "POST", "/v1/exports", {**export, **viewers}) == (422, "invalid-value", "hosts")


def test_a_disk_that_carries_something_needs_force(node: Server, disk: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
    add = ("disk", "add", "archive", str(disk), "--tier", "hdd")
    done = node.cli(*add, check=False)
    assert done.returncode == 1
    assert "a file system (ext4)" in done.stderr
    assert node.cli(*add, "--force", check=False).returncode == 4
    assert node.cli_json("disk", "list", "--pool", "archive") == []


@pytest.mark.allow_log("disk-wiped")
def test_force_takes_a_disk_whatever_it_carries(node: Server, disk: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
    node.cli("disk", "add", "archive", str(disk), "--tier", "hdd", "--force", "--yes")
    assert subprocess.run(["wipefs", "--no-act", str(disk)], check=True, capture_output=True).stdout == b""
    assert node.cli_json("pool", "show", "archive")["state"] == "online"


def test_a_disk_has_one_pool_and_is_blank_after_it(node: Server, disk: Path) -> None:
    _add(node, disk)
    body = {"pool": "default", "path": str(disk), "tier": "hdd"}
    assert _refused(node, "POST", "/v1/disks", body) == (409, "disk-refused", "path")
    node.cli("pool", "delete", "archive", "--yes")
    node.cli("pool", "create", "archive", "--extent-size", "1M")
    _add(node, disk)


def test_lists_come_in_pages(node: Server, disk: Path) -> None:
    _add(node, disk)
    names = [f"v{number:02}" for number in range(12)]
    for name in names:
        node.rest.post("/v1/volumes", {"name": name, "pool": "archive", "size_bytes": GIB})
    seen: list[str] = []
    cursor: str | None = ""
    pages = 0
    while cursor is not None:
        page = node.rest.get(f"/v1/volumes?pool=archive&limit=5{cursor and '&cursor='}{cursor}")
        seen += [one["name"] for one in page["items"]]
        cursor, pages = page["next"], pages + 1
    assert (seen, pages) == (names, 3)


def test_metrics_show_the_pools(node: Server, disk: Path) -> None:
    _add(node, disk)
    text = httpx.get(f"{node.url}/metrics", headers={"authorization": f"Bearer {node.rest.token}"}).text
    assert 'sds_pool_online{pool="archive"} 1.0' in text.splitlines()
    assert re.search(r'^sds_volume_size_bytes\{pool="default",volume="demo"\} ', text, re.MULTILINE)


def test_a_second_engine_is_refused_and_told_who_is_first(node: Server) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sds.engine", "--data", str(node.data)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"in use by another engine: pid {node.pid('engine')} on " in done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "sds.cli", "serve", "--data", str(node.data)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"in use by another supervisor: pid {node.pid('supervisor')} on " in done.stderr


@pytest.mark.allow_log("supervisor: engine")
def test_everything_named_outlives_the_engine(node: Server, disk: Path) -> None:
    _add(node, disk)
    node.rest.post("/v1/volumes", {"name": "pacs", "pool": "archive", "size_bytes": GIB})
    node.rest.post("/v1/hosts", {"name": "pacs1", "nqn": NQN})
    node.rest.post("/v1/exports", {"volume": "pacs", "protocol": "nvme", "hosts": ["pacs1"]})
    paths = ("/v1/volumes/pacs", "/v1/hosts/pacs1", "/v1/exports/pacs.nvme", "/v1/pools/archive")
    before = [node.rest.get(path) for path in paths]
    killed = node.kill("engine")
    _until_healthy(node, killed)
    after = [node.rest.get(path) for path in paths]
    for old, new in zip(before, after, strict=True):
        assert {key: new[key] for key in new if key not in VARIABLE} == {
            key: old[key] for key in old if key not in VARIABLE
        }


@pytest.mark.allow_log("supervisor: engine|metadata-set-aside|RocksDB|rebuilt|import")
def test_a_truncated_rocksdb_is_made_again(node: Server, disk: Path) -> None:
    _add(node, disk)
    node.rest.post("/v1/volumes", {"name": "pacs", "pool": "archive", "size_bytes": GIB})
    uuid = node.rest.get("/v1/pools/archive")["uuid"]
    # The engine must not be started again before the files are damaged.
    node.kill_all()
    for folder in (node.data / "node", node.data / "pools" / uuid / "meta"):
        for manifest in folder.glob("MANIFEST-*"):
            manifest.write_bytes(manifest.read_bytes()[:20])
    node.start()
    assert node.rest.get("/v1/volumes/pacs")["size_bytes"] == GIB
    events = [event for event in node.rest.items("/v1/events") if event["kind"] == "metadata-set-aside"]
    assert len(events) == 2
    assert list(node.data.glob("node.broken-*"))


def _until_healthy(node: Server, killed: int) -> None:
    deadline = time.monotonic() + 20
    while not node.healthy() or node.pid("engine") == killed:
        assert time.monotonic() < deadline, node.log_tail()
        time.sleep(0.05)
