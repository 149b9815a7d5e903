"""Time from `kill -9` of every process to the first served read and write, with a large volume fully mapped.

    python -m bench.restart --volume 100G       # a trial, a minute
    python -m bench.restart --volume 10T --json out.json

The volume has extents of 1 MiB and one 4 KiB write in each, made over NVMe/TCP like any other: in windows of pages of
the map, shuffled inside, so the chunks lie in no order. The pool's disk is a sparse file that is larger than the
volume; what its data blocks hold is thrown away while it is filled (bench/sparse.py), so that 10 TiB need about 4 GB.
On a file system mounted with `discard` that takes very long: then put the file elsewhere (`--disk`).

Then, some times over: random extents are read for a while, so that the engine has as many pages of the map in memory as
after a day's work; other blocks of random extents are written; all processes are killed in the midst of that, `sds
serve` is started anew, and a host that tries to connect all the while reads a block of one page of the map and writes
one of another. The split of the time comes from the logs. With `--data DIR` the folder is kept and the volume is
filled only the first time.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.node import Node, resident_bytes, running, temporary_folder
from bench.programs import Programs, Target, finish
from bench.report import machine_facts, show
from bench.sparse import SparseDisk
from sds.names import parse_size

POOL = "restart"
VOLUME = "mapped"
EXTENT_BYTES = 1 << 20
BLOCK_BYTES = 4096
PAGE_EXTENTS = 512
WINDOW_PAGES = 64
FILL_DEPTH = 128
FILL_LIMIT_S = 4 * 3600
LOOK_EVERY_S = 0.5
FORGET_ABOVE_BYTES = 512 << 20
TELL_EVERY_S = 30.0
DISTURB_DEPTH = 32
LOAD_SLACK_S = 60
RESTART_LIMIT_S = 120
FILLED_MARK = "filled.json"
# Of a restart, in their order.
TIMES = ("gone", "supervisor", "engine", "opened", "serving", "connected", "read", "written")


@dataclass(frozen=True)
class Plan:
    """What is done.

    Attributes:
        volume_bytes: the volume's size.
        restarts: how often everything is killed.
        warm_s: how long a host reads before each kill.
        disturb_s: how long it then writes.
        cores: of the node's data path.
    """

    volume_bytes: int
    restarts: int = 3
    warm_s: int = 15
    disturb_s: float = 3.0
    cores: int = 1


@dataclass(frozen=True)
class Restart:
    """One restart; times in milliseconds from the first `kill -9`, None where the log does not say.

    Attributes:
        rss_bytes: the engine's memory before.
        gone: all processes are gone, `sds serve` is started again.
        supervisor, engine: these processes run and have their lock: interpreter and imports are behind them.
        opened: the pool is open.
        serving: the engine listens.
        connected: the host has its queues.
        read, written: the host's first read and first write were answered.
    """

    rss_bytes: int
    gone: float
    supervisor: float | None
    engine: float | None
    opened: float | None
    serving: float | None
    connected: float
    read: float
    written: float


def fill(node: Node, disk: SparseDisk, target: Target, programs: Programs, volume_bytes: int) -> dict[str, Any]:
    """One write in each extent; how fast, and what that left on the disk."""
    window = WINDOW_PAGES * PAGE_EXTENTS
    options = ["--qd", FILL_DEPTH, "--read-percent", 0, "--stride", EXTENT_BYTES, "--region", volume_bytes]
    load = programs.start_load(target, [*options, "--sweep", window])
    began = told = time.monotonic()
    peak_rss = 0
    kept = disk.used_bytes()
    try:
        while load.poll() is None and time.monotonic() - began < FILL_LIMIT_S:
            time.sleep(LOOK_EVERY_S)
            peak_rss = max(peak_rss, resident_bytes(target.pids[0]))
            if disk.used_bytes() > kept + FORGET_ABOVE_BYTES:
                disk.forget_data()
                kept = disk.used_bytes()
            if time.monotonic() - told >= TELL_EVERY_S:
                told = time.monotonic()
                _tell_progress(node, volume_bytes, told - began)
        result = finish(load, 1)
    finally:
        load.kill()
        load.wait()
    return result | {"peak_rss_bytes": peak_rss}


def _tell_progress(node: Node, volume_bytes: int, elapsed_s: float) -> None:
    # Each extent has one chunk, a sixteenth of it.
    allocated = int(node.request("GET", f"/v1/volumes/{VOLUME}")["allocated_bytes"])
    done, extents = allocated * 16 // EXTENT_BYTES, volume_bytes // EXTENT_BYTES
    print(f"filled {done:,} of {extents:,} extents, {done / elapsed_s:,.0f} a second", file=sys.stderr, flush=True)


def sizes(node: Node, disk: SparseDisk) -> dict[str, int]:
    """What the map takes, in bytes."""
    pool = next((node.data / "pools").iterdir())
    meta = sum(path.stat().st_size for path in (pool / "meta").iterdir())
    carry_over = (pool / "carry-over").stat().st_blocks * 512
    engine = resident_bytes(node.pids()["engine"])
    return {
        "rocksdb_bytes": meta,
        "carry_over_bytes": carry_over,
        "disk_metadata_bytes": disk.metadata_bytes(),
        "engine_rss_bytes": engine,
    }


def restart(node: Node, programs: Programs, plan: Plan) -> Restart:
    """Kills everything while a host writes, starts anew, and waits for the first read and write."""
    target, volume_bytes, seed = node.target(VOLUME), plan.volume_bytes, random.randrange(1 << 32)
    all_over = ["--qd", DISTURB_DEPTH, "--stride", EXTENT_BYTES, "--seed", seed]
    if plan.warm_s:
        programs.load(
            target, [*all_over, "--region", volume_bytes, "--seconds", plan.warm_s], plan.warm_s + LOAD_SLACK_S
        )
    options = ["--offset", BLOCK_BYTES * random.randrange(1, 16), "--region", volume_bytes - EXTENT_BYTES]
    options += ["--read-percent", 0, "--seconds", 3600]
    load = programs.start_load(target, [*all_over, *options])
    time.sleep(plan.disturb_s)
    if load.poll() is not None:
        finish(load, 1)
    extents = random.sample(range(volume_bytes // EXTENT_BYTES), 2)
    rss_bytes = resident_bytes(target.pids[0])
    wall, killed = time.time(), time.monotonic_ns()
    node.kill()
    node.launch()
    gone = time.monotonic_ns()
    first = programs.start_first(target, extents[0] * EXTENT_BYTES, extents[1] * EXTENT_BYTES, RESTART_LIMIT_S)
    served = finish(first, RESTART_LIMIT_S + 10)
    load.kill()
    load.communicate()
    node.wait_ready()

    def said(process: str, words: str) -> float | None:
        lines = node.log_lines(process, wall)
        return next((round((at - wall) * 1000, 1) for at, message in lines if words in message), None)

    def after(monotonic_ns: int) -> float:
        return round((monotonic_ns - killed) / 1e6, 1)

    return Restart(
        rss_bytes=rss_bytes,
        gone=after(gone),
        supervisor=said("supervisor", "started, pid"),
        engine=said("engine", "started, pid"),
        opened=said("engine", "is online"),
        serving=said("engine", "serving"),
        connected=after(served["connected_ns"]),
        read=after(served["read_ns"]),
        written=after(served["written_ns"]),
    )


def measure(programs: Programs, plan: Plan, folder: Path, disk_path: Path) -> dict[str, Any]:
    """Fills, if that is still to be done, and restarts."""
    facts, volume_bytes = machine_facts(), plan.volume_bytes
    disk = SparseDisk(disk_path, volume_bytes + volume_bytes // 10 + (1 << 30))
    mark = folder / FILLED_MARK
    with running(folder / "data", plan.cores) as node:
        if mark.exists():
            target, filled = node.target(VOLUME), json.loads(mark.read_text())
        else:
            node.make_pool(POOL, str(disk_path), extent_bytes=EXTENT_BYTES)
            target = node.make_volume(VOLUME, POOL, volume_bytes)
            filled = fill(node, disk, target, programs, volume_bytes)
            mark.write_text(json.dumps(filled))
        after_fill = sizes(node, disk)
        restarts = []
        for _ in range(plan.restarts):
            restarts.append(restart(node, programs, plan))
            print(restarts[-1], file=sys.stderr, flush=True)
        after_restart = sizes(node, disk)
    median = {
        name: statistics.median(values)
        for name in TIMES
        if None not in (values := [getattr(one, name) for one in restarts])
    }
    return {
        "machine": facts,
        "volume_bytes": volume_bytes,
        "fill": filled,
        "after_fill": after_fill,
        "after_restart": after_restart,
        "restarts": [asdict(one) for one in restarts],
        "median_ms": median,
    }


def table(result: dict[str, Any]) -> str:
    """The figures for a person."""
    filled, after = result["fill"], result["after_fill"]
    extents = result["volume_bytes"] // EXTENT_BYTES
    times = ", ".join(f"{name} {value:,.0f}" for name, value in result["median_ms"].items())
    return (
        f"{extents:,} extents written at {filled['iops']:,.0f} a second, {filled['server_cpu_us']:.1f} us of it\n"
        f"RocksDB {after['rocksdb_bytes'] / extents:.1f} bytes an extent, {after['rocksdb_bytes'] >> 20:,} MiB; "
        f"disk's metadata {after['disk_metadata_bytes'] >> 20:,} MiB; engine {after['engine_rss_bytes'] >> 20:,} MiB "
        f"(peak {filled['peak_rss_bytes'] >> 20:,})\n"
        f"ms from kill -9: {times}"
    )


def main() -> int:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volume", type=lambda text: parse_size("volume", text), default="100G", help="its size")
    parser.add_argument("--restarts", type=int, default=Plan.restarts)
    parser.add_argument("--warm-s", type=int, default=Plan.warm_s, help="how long a host reads before each kill")
    parser.add_argument(
        "--disturb-s", type=float, default=Plan.disturb_s, help="how long a host writes before each kill"
    )
    parser.add_argument("--cores", type=int, default=Plan.cores, help="of the data path")
    parser.add_argument("--data", type=Path, help="where everything lies; kept. A temporary folder if not given")
    parser.add_argument("--disk", type=Path, help="the sparse file, if it is to lie elsewhere")
    parser.add_argument("--bin", type=Path, help="programs that are built already")
    parser.add_argument("--json", type=Path, help="where all figures go")
    options = parser.parse_args()
    plan = Plan(options.volume, options.restarts, options.warm_s, options.disturb_s, options.cores)
    programs = Programs.build(options.bin)
    with ExitStack() as stack:
        folder: Path = options.data or stack.enter_context(temporary_folder())
        folder.mkdir(parents=True, exist_ok=True)
        result = measure(programs, plan, folder, options.disk or folder / "disk.img")
    show(table(result), result, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
