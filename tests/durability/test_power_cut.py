"""The real binary through power cuts: what its disks were told is recorded, and cut off anywhere.

`SDS_CUTS` says how many cuts are tried, `SDS_SEED` where and how; `make power-long` tries a thousand.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.conftest import bare_server
from tests.durability.history import History
from tests.durability.images import Images
from tests.durability.initiator import Initiator
from tests.durability.recorder import Event, Kind, events, recorded
from tests.server import Export, Server

MIB = 1 << 20
SECTORS_PER_MIB = 2048
DISKS = {"flash": 160 * MIB, "hdd": 160 * MIB}
WRITERS = 4
LOAD_S = 12.0
REQUESTS_MAX = 2_000
CUTS = int(os.environ.get("SDS_CUTS", "40"))
SEED = int(os.environ.get("SDS_SEED", "1"))

pytestmark = pytest.mark.timeout(180 + 10 * CUTS)


@dataclass
class Recording:
    """A load on a pool whose disks were recorded, and all that is needed to start again from them."""

    folder: Path
    mount: Path
    log: Path
    before: Path
    began_ns: int
    parts: list[tuple[Export, History]]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    """Four writers on two volumes, long enough for several checkpoints; chunks go round."""
    folder = tmp_path_factory.mktemp("power")
    mount, log = folder / "disks", folder / "log"
    mount.mkdir()
    backing = {name: folder / f"{name}.backing" for name in DISKS}
    for name, size in DISKS.items():
        with backing[name].open("wb") as file:
            file.truncate(size)
    with recorded(mount, log, backing), bare_server(folder) as server:
        server.start()
        server.rest.post("/v1/pools", {"name": "power", "extent_bytes": MIB})
        for name in DISKS:
            server.rest.post("/v1/disks", {"pool": "power", "path": str(mount / name), "tier": name})
        exports = [server.export(server.new_volume(64 * MIB, "power"), "iscsi") for _ in range(2)]
        parts = [
            (exports[number % 2], History(number + 1, (number // 2) * 8 * SECTORS_PER_MIB, 4 * SECTORS_PER_MIB))
            for number in range(WRITERS)
        ]
        server.stop()
        # The database of then, a copy that no process has open: a power cut may leave an older one than the disks are.
        before = folder / "before"
        shutil.copytree(server.data, before)
        server.start()
        began_ns = time.monotonic_ns()
        write_for(server, parts, LOAD_S)
        server.kill_all()
    assert all(len(history.requests) > 20 for _, history in parts), "the writers were stopped"
    yield Recording(folder, mount, log, before, began_ns, parts)
    shutil.rmtree(folder, ignore_errors=True)


def write_for(server: Server, parts: list[tuple[Export, History]], seconds: float) -> None:
    """Each writer in a thread of its own."""
    ends = time.monotonic() + seconds

    def work(export: Export, history: History) -> None:
        with Initiator(f"127.0.0.1:{server.iscsi_port}", export.target, export.unit) as host:
            seed, pause_s = SEED * WRITERS + history.owner, seconds / REQUESTS_MAX
            history.work(host, seed, REQUESTS_MAX, pause_s, lambda: time.monotonic() < ends)

    threads = [threading.Thread(target=work, args=part) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def wrong_after(recording: Recording, chance: random.Random, at_ns: int) -> list[str]:
    """Starts from the disks as they are and reads everything."""
    folder = recording.folder / "cut"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(recording.before, folder / "data")
    for pool in (folder / "data" / "pools").iterdir():
        # A power cut voids it; the machine that the tests run on was not booted anew.
        (pool / "carry-over").unlink()
        if chance.random() < 0.5:
            shutil.rmtree(pool / "meta")
    with bare_server(folder) as server:
        server.start()
        found = []
        for export, history in recording.parts:
            with Initiator(f"127.0.0.1:{server.iscsi_port}", export.target, export.unit) as host:
                found += history.wrong(host, at_ns)
        return found or [
            f"the log says: {line}"
            for line in server.complaints(["is rebuilt from the disks", "was rebuilt from its disks"])
        ]


def places(recording: Recording, count: int, chance: random.Random) -> Iterator[tuple[list[Event], int]]:
    """Cuts: the events up to each since the one before, and the time of the cut, just before the next event.

    Half of them are right before or after a sync, where the rules matter most.
    """
    log = list(events(recording.log))
    began = next(number for number, event in enumerate(log) if event.time_ns >= recording.began_ns)
    syncs = [number for number in range(began, len(log)) if log[number].kind is Kind.SYNC]
    near = {number + chance.choice([0, 1]) for number in chance.sample(syncs, min(count // 2, len(syncs)))}
    rest = set(chance.sample(range(began, len(log)), min(count, len(log) - began))) - near
    cuts = sorted([*near, *chance.sample(sorted(rest), min(count - len(near), len(rest)))])
    for start, end in itertools.pairwise([0, *cuts]):
        yield log[start:end], log[end].time_ns if end < len(log) else time.monotonic_ns()


def test_what_was_flushed_is_there_after_a_power_cut_anywhere(recording: Recording) -> None:
    chance = random.Random(SEED)
    images = Images(recording.folder, list(DISKS.values()))
    tried = 0
    for passed, at_ns in places(recording, CUTS, chance):
        for event in passed:
            images.take(event)
        images.cut(chance, [recording.mount / name for name in DISKS])
        found = wrong_after(recording, chance, at_ns)
        place = f"seed {SEED}, cut {tried}, {at_ns - recording.began_ns} ns after the start"
        assert not found, "\n".join([place, *found])
        tried += 1
    requests = sum(len(history.requests) for _, history in recording.parts)
    print(f"{tried} cuts among {requests} requests: nothing flushed was lost, nothing foreign was found")
    assert tried >= min(CUTS, 10)


def test_a_disk_that_forgets_what_was_synced_is_found_out(recording: Recording) -> None:
    images = Images(recording.folder, list(DISKS.values()))
    last_ns = 0
    for event in events(recording.log):
        if event.time_ns < recording.began_ns:
            images.take(event)
        last_ns = event.time_ns
    images.cut(random.Random(SEED), [recording.mount / name for name in DISKS])
    assert wrong_after(recording, random.Random(SEED), last_ns), "the oracle takes whatever it finds"
