"""A data folder and disks as an older program wrote them: refused, tried, upgraded, served."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sds import data_format, envelope
from sds.data_format import FORMAT, MARK
from sds.engine.store import Store
from tests.clients.conftest import bare_server
from tests.clients.formats.archive import Unpacked, unpack
from tests.clients.formats.make import listed, url, write
from tests.clients.qemu import qemu_io, start_qemu_io, until
from tests.server import Server

MIB = 1 << 20
KILLS = 8
LIMIT_S = 60
# What the program that made the archive could not know: ports, and what is allocated when all was replayed.
VOLATILE = {"address", "connect", "allocated_bytes", "free_bytes", "overcommit"}


@dataclass
class Old:
    """A node that is not running, and what its data folder is known to hold."""

    server: Server
    unpacked: Unpacked

    def upgrade(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`sds upgrade` on the folder."""
        return self.server.cli("upgrade", "--data", str(self.server.data), *arguments, check=False)

    def launch(self) -> subprocess.Popen[bytes]:
        """The same, not waited for."""
        return subprocess.Popen(
            [sys.executable, "-m", "sds.cli", "upgrade", "--data", str(self.server.data)], stdout=subprocess.DEVNULL
        )

    def require_all(self) -> None:
        """Serves the folder; it has to hold what the archive's program listed and what its hosts wrote."""
        self.server.start()
        found, wanted = listed(self.server), self.unpacked.contents
        for kind, items in found.items():
            assert stable(items, of=wanted[kind]) == stable(wanted[kind], of=wanted[kind])
        for volume, steps in wanted["reads"].items():
            said = qemu_io(url(self.server, volume), *steps)
            assert "failed" not in said, said
            assert said.count("ops;") == len(steps), said
        for pool in ("archive", "small"):
            assert self.server.cli_json("pool", "check", pool)["findings"] == []
        schedule = self.server.rest.get("/v1/pools/archive/scrub")["schedule"]
        assert schedule == {"interval_hours": 100, "bytes_per_second_max": 50 * MIB}


def stable(items: list[dict[str, Any]], of: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is to be the same: of the fields that the archive's program had; later ones came since."""
    names = {name for item in of for name in item} - VOLATILE
    return [{name: value for name, value in item.items() if name in names} for item in items]


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Old]:
    """The archive of format 1, unpacked."""
    with bare_server(tmp_path) as server:
        yield Old(server, unpack(1, tmp_path))


def files(root: Path) -> dict[str, bytes]:
    """Every file of the data folder and every disk, without locks, logs and the token, which `sds serve` makes."""
    left_out = {"run", "log", "admin.token", "data.out"}
    paths = [path for path in root.rglob("*") if path.is_file() and not left_out & set(path.relative_to(root).parts)]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def refused(server: Server, module: str) -> str:
    """What `sds serve` or the engine by itself says when it does not start."""
    command = [sys.executable, "-m", *(("sds.cli", "serve") if module == "serve" else (module,))]
    done = subprocess.run(
        [*command, "--data", str(server.data)], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 1
    return done.stderr


def test_an_old_folder_is_refused_tried_upgraded_and_served(old: Old, tmp_path: Path) -> None:
    before = files(tmp_path)
    for module in ("serve", "sds.engine"):
        said = refused(old.server, module)
        assert f"is of format 1; this program, sds 0.1.0, takes format {FORMAT}" in said
        assert f"sds upgrade --data {old.server.data} --dry-run" in said
    tried = old.upgrade("--dry-run")
    assert tried.returncode == 0, tried.stderr
    assert f"would become format {FORMAT}, from 1" in tried.stdout
    assert files(tmp_path) == before

    done = json.loads(old.upgrade("--output", "json").stdout)
    now = files(tmp_path)
    # Disks are as they were.
    assert {name for name in now if name.endswith(".img") and now[name] != before[name]} == set()
    assert {
        name: now[f"data/{Path(done['backup']).name}/{name.removeprefix('data/')}"]
        for name in before
        if name.startswith("data/")
    } == {name: data for name, data in before.items() if name.startswith("data/")}
    old.require_all()
    assert "in use by another supervisor: pid" in old.upgrade().stderr
    assert old.server.complaints(()) == []

    # Back to the former format, though hosts have written since, and here again.
    write(old.server, "late", "write -P 77 24M 64k")
    assert old.server.stop() == 0
    for command in done["go_back"]:
        subprocess.run(["sh", "-c", command], check=True)
    assert "is of format 1" in refused(old.server, "serve")
    again = old.upgrade()
    assert f"backup: {done['backup']}\n" in again.stdout, again.stdout + again.stderr
    old.require_all()
    said = qemu_io(url(old.server, "late"), "read -P 77 24M 64k")
    assert ("failed" in said, said.count("ops;")) == (False, 1)


def test_killed_at_any_moment_it_goes_on_from_the_old_format_or_the_new(old: Old) -> None:
    seed = int(os.environ.get("SDS_SEED", random.randrange(1 << 32)))
    print(f"SDS_SEED={seed}")
    rng = random.Random(seed)
    began = time.monotonic()
    assert old.upgrade("--dry-run").returncode == 0
    takes_s = 1.5 * (time.monotonic() - began)
    for _ in range(KILLS):
        process = old.launch()
        time.sleep(rng.uniform(0.1, takes_s))
        process.kill()
        process.wait(LIMIT_S)
        if data_format.cut_off(old.server.data):
            assert "was cut off while it put the new files in place" in refused(old.server, "serve")
    done = old.upgrade()
    assert done.returncode == 0, done.stderr
    old.require_all()
    assert old.upgrade("--dry-run").returncode == 1  # A server runs on it.


def test_what_only_the_carry_over_ring_has_comes_along(tmp_path: Path) -> None:
    with bare_server(tmp_path) as server:
        disk = tmp_path / "disk.img"
        disk.touch()
        os.truncate(disk, 64 * MIB)
        server.start()
        server.rest.post("/v1/pools", {"name": "archive", "extent_bytes": MIB})
        server.rest.post("/v1/disks", {"pool": "archive", "path": str(disk), "tier": "hdd"})
        server.rest.post("/v1/volumes", {"name": "pacs", "pool": "archive", "size_bytes": 1 << 40})
        server.export("pacs", "iscsi")
        writes = [f"write -P {number + 1} {number * 3}G 4k" for number in range(100)]
        with start_qemu_io(url(server, "pacs"), *writes, "sleep 60000", cache="writeback") as host:
            until(lambda: server.allocated_bytes("archive") >= 100 * MIB // 16, "100 writes", server)
            server.kill_all()
            host.kill()
        become_format_1(server.data)
        assert Old(server, Unpacked(server.data, {})).upgrade().returncode == 0
        server.start()
        reads = [f"read -P {number + 1} {number * 3}G 4k" for number in range(100)]
        said = qemu_io(url(server, "pacs"), *reads)
        assert ("failed" in said, said.count("ops;")) == (False, 100), said
        opened = [event["message"] for event in server.rest.items("/v1/events") if event["kind"] == "pool-opened"]
        assert "ring_groups 0" not in opened[0], opened[0]


def become_format_1(data: Path) -> None:
    """What the step from 1 to 2 did, undone."""
    (data / MARK).unlink()
    store = Store(data / "node")
    for key, value in store.scan(b"pool/", b"", 100):
        document = {"version": 1, **envelope.unseal("pool", 2, value)}
        store.put([(key, json.dumps(document, separators=(",", ":")).encode())])
    store.close()
    for copy in data.glob("pools/*/pool.json"):
        copy.write_text(json.dumps({"version": 1, **envelope.unseal("pool", 2, copy.read_bytes())}))


def test_a_newer_folder_and_a_damaged_mark_are_refused(old: Old) -> None:
    assert old.upgrade().returncode == 0
    mark = old.server.data / MARK
    right = mark.read_bytes()
    mark.write_bytes(envelope.seal("data_folder", 1, {"format": FORMAT + 1, "written_by": "sds 9.9"}))
    for said in (refused(old.server, "serve"), refused(old.server, "sds.engine"), old.upgrade().stderr):
        assert f"is of format {FORMAT + 1}, written by sds 9.9; this program, sds 0.1.0, takes format {FORMAT}" in said
    mark.write_bytes(right.replace(b"sds 0", b"sds 1"))
    for said in (refused(old.server, "serve"), refused(old.server, "sds.engine"), old.upgrade().stderr):
        assert f"{MARK} is damaged: its crc32 is " in said
    mark.write_bytes(right)
    old.require_all()


def test_a_damaged_document_is_found_by_a_dry_run(old: Old, tmp_path: Path) -> None:
    store = Store(old.server.data / "node")
    store.put([(b"host/ris", b'{"version":1,"name":"ris"}')])
    store.close()
    before = files(tmp_path)
    for arguments in (["--dry-run"], []):
        done = old.upgrade(*arguments)
        assert done.returncode == 1
        assert "was left as it is, since 1 of what it holds can't be read" in done.stderr
        assert f"{old.server.data}/node: row host/ris: " in done.stderr
        assert files(tmp_path) == before
