"""On which terms a volume is served, by name, over iSCSI: read-only, limits, zeros, write-through; and its names."""

from __future__ import annotations

import time

import pytest

from tests.clients.qemu import qemu_io, until, url_of
from tests.server import ApiError, Server

MIB = 1 << 20
REQUESTS = 200

kills_the_engine = pytest.mark.allow_log("supervisor: engine")


def _refused(server: Server, volume: str, changes: dict[str, object]) -> tuple[int, str, str]:
    before = server.rest.get(f"/v1/volumes/{volume}")
    with pytest.raises(ApiError) as caught:
        server.rest.patch(f"/v1/volumes/{volume}", changes)
    assert server.rest.get(f"/v1/volumes/{volume}") == before, "what is refused changes nothing"
    problem = caught.value.problem
    return caught.value.status, problem["type"].rpartition(":")[2], problem["field"]


def _restart_engine(server: Server) -> None:
    killed = server.kill("engine")
    until(lambda: server.healthy() and server.pid("engine") != killed, "a new engine", server)


@kills_the_engine
def test_a_read_only_volume_takes_no_write_also_from_a_new_engine(sds_server: Server) -> None:
    volume = sds_server.new_volume(32 * MIB)
    url = url_of(sds_server, volume)
    assert "failed" not in qemu_io(url, "write -P 0x5a 1M 1M")
    sds_server.cli("volume", "set", volume, "--read-only")
    for _ in range(2):
        said = qemu_io(url, "write -P 0x11 1M 4k")
        assert "write protected" in said, said
        _restart_engine(sds_server)
    sds_server.cli("volume", "set", volume, "--no-read-only")
    said = qemu_io(url, "read -P 0x5a 1M 1M", "write -P 0x22 1M 4k", "read -P 0x22 1M 4k")
    assert "failed" not in said, said


def test_a_limit_holds_and_can_be_taken_away(sds_server: Server) -> None:
    volume = sds_server.new_volume(32 * MIB)
    url = url_of(sds_server, volume)
    shown = sds_server.cli_json("volume", "set", volume, "--iops-max", "100", "--iops-burst", "0")
    assert (shown["iops_max"], shown["iops_burst"]) == (100, 0)
    reads = [f"read {number * 4}k 4k" for number in range(REQUESTS)]
    began = time.monotonic()
    said = qemu_io(url, *reads)
    assert "failed" not in said
    # QEMU asks some things of its own; they only make it slower.
    assert time.monotonic() - began >= (REQUESTS - 1) / 100
    assert sds_server.rest.get(f"/v1/volumes/{volume}")["delayed_requests"] >= REQUESTS - 1
    shown = sds_server.cli_json("volume", "set", volume, "--iops-burst", "none", "--iops-max", "none")
    delayed = shown["delayed_requests"]
    assert "failed" not in qemu_io(url, *reads)
    assert sds_server.rest.get(f"/v1/volumes/{volume}")["delayed_requests"] == delayed


def test_zeros_take_no_space_if_they_are_looked_for(sds_server: Server) -> None:
    volume = sds_server.new_volume(32 * MIB)
    url = url_of(sds_server, volume)

    def allocated_bytes() -> int:
        return int(sds_server.rest.get(f"/v1/volumes/{volume}")["allocated_bytes"])

    qemu_io(url, "write -P 0 0 4M")
    full = allocated_bytes()
    assert full >= 4 * MIB
    sds_server.rest.patch(f"/v1/volumes/{volume}", {"detect_zeroes": True})
    said = qemu_io(url, "write -P 0 4M 4M", "write -P 0x33 8M 4k", "read -P 0 4M 4M", "read -P 0x33 8M 4k")
    assert "failed" not in said, said
    assert full < allocated_bytes() <= full + MIB
    assert "failed" not in qemu_io(url, "write -P 0 0 4M", "read -P 0 0 4M")
    assert allocated_bytes() <= MIB, "what held zeros went back"


@kills_the_engine
def test_a_renamed_volume_keeps_its_hosts(sds_server: Server) -> None:
    volume = sds_server.new_volume(32 * MIB)
    url = url_of(sds_server, volume)
    assert "failed" not in qemu_io(url, "write -P 0x5a 1M 1M")
    new = f"{volume}-new"
    shown = sds_server.cli_json("volume", "set", volume, "--name", new)
    assert (shown["name"], shown["exports"]) == (new, [f"{new}.iscsi"])
    for _ in range(2):
        assert "failed" not in qemu_io(url, "read -P 0x5a 1M 1M")
        _restart_engine(sds_server)
    # The former name is free, but for what hosts know.
    sds_server.rest.post("/v1/volumes", {"name": volume, "pool": "default", "size_bytes": MIB})
    with pytest.raises(ApiError) as caught:
        sds_server.export(volume, "iscsi")
    assert f"{new}.iscsi" in caught.value.problem["detail"]
    assert _refused(sds_server, volume, {"new_name": new}) == (409, "name-taken", "new_name")
    sds_server.rest.delete(f"/v1/volumes/{volume}")
    assert sds_server.cli_json("volume", "set", new, "--name", volume)["exports"] == [f"{volume}.iscsi"]
    assert sds_server.rest.get(f"/v1/exports/{volume}.iscsi")["iqn"] in url


@kills_the_engine
def test_labels_are_kept_and_found(sds_server: Server) -> None:
    volume = sds_server.new_volume(MIB)
    sds_server.cli("volume", "set", volume, "--label", "ward=radiology", "--label", "keep=10y")
    sds_server.cli("volume", "set", volume, "--unlabel", "keep", "--label", "owner=PACS team")
    _restart_engine(sds_server)
    assert sds_server.rest.get(f"/v1/volumes/{volume}")["labels"] == {"ward": "radiology", "owner": "PACS team"}
    for label, found in (("ward", [volume]), ("ward=radiology", [volume]), ("ward=other", []), ("keep", [])):
        assert [one["name"] for one in sds_server.cli_json("volume", "list", "--label", label)] == found


def test_write_through_is_not_taken_from_hosts_that_rely_on_it(sds_server: Server) -> None:
    volume = sds_server.new_volume(32 * MIB)
    url = url_of(sds_server, volume)
    assert "failed" not in qemu_io(url, "write -P 0x5a 1M 1M")
    assert sds_server.cli_json("volume", "set", volume, "--write-through")["write_through"] is True
    assert "failed" not in qemu_io(url, "write -P 0x5b 2M 1M", "read -P 0x5a 1M 1M")
    assert _refused(sds_server, volume, {"write_through": False}) == (409, "in-use", "write_through")
    sds_server.rest.delete(f"/v1/exports/{volume}.iscsi")
    assert sds_server.rest.patch(f"/v1/volumes/{volume}", {"write_through": False})["write_through"] is False


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"iops_max": 99}, "iops_max"),
        ({"iops_burst": 10}, "iops_burst"),
        ({"iops_max": 100, "iops_burst": 360_001}, "iops_burst"),
        ({"bytes_per_second_max": 10 * MIB - 1}, "bytes_per_second_max"),
        ({"bytes_per_second_max": 10 * MIB, "burst_bytes": -1}, "burst_bytes"),
        ({"labels": {"a b": "c"}}, "labels"),
        ({"labels": {"a": "\n"}}, "labels"),
        ({"labels": {f"k{number}": "" for number in range(33)}}, "labels"),
        ({"new_name": "No"}, "new_name"),
        ({"read_only": True, "size_bytes": 4096}, "size_bytes"),
        ({"read_only": 1}, "read_only"),
    ],
)
def test_what_can_not_be_is_refused_by_field(sds_server: Server, changes: dict[str, object], field: str) -> None:
    volume = sds_server.new_volume(MIB)
    assert _refused(sds_server, volume, changes) == (422, "invalid-value", field)
