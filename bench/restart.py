"""Time from `kill -9` of every process to the first served read and write, with large volumes fully mapped.

    python -m bench.restart --mapped 100G       # a trial, a minute
    python -m bench.restart --mapped 100T --drop-owners --json out.json

Volumes of up to 50 TiB on disks of up to 14 TiB, which are sparse files (ext4 has none larger than 16 TiB). They have
extents of 1 MiB and one 4 KiB write in each, shuffled within windows of pages of the map, so the chunks lie in no
order. It is the pool's own code that writes, without hosts and without data (bench/mapped.py). 10 TiB need 1.4 GB of
this machine's disk, nearly all for the owner table, which `--drop-owners` throws away.

Then, some times over: random extents are read for a while, so that the engine has as many pages of the map in memory as
after a day's work; other blocks of random extents are written; all processes are killed in the midst of that, `sds
serve` is started anew, and a host that tries to connect all the while reads a block of one page of the map and writes
one of another. The split of the time comes from the logs. With `--data DIR` the folder is kept and the volumes are
filled only the first time.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.mapped import fill
from bench.node import Node, resident_bytes, running, temporary_folder
from bench.programs import Programs, finish
from bench.report import machine_facts, show
from bench.sparse import make_sparse, metadata_bytes
from sds.names import parse_size

POOL = "restart"
EXTENT_BYTES = 1 << 20
BLOCK_BYTES = 4096
PAGE_EXTENTS = 512
WINDOW_PAGES = 64
VOLUME_BYTES_MAX = 50 << 40
DISK_BYTES_MAX = 14 << 40
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
        mapped_bytes: of all volumes.
        drop_owners: the disks' owner tables are not kept.
        restarts: how often everything is killed.
        warm_s: how long hosts read before each kill.
        disturb_s: how long they then write.
        cores: of the node's data path.
        hogs: other processes that take a processor each all the while, as a busy machine has them.
    """

    mapped_bytes: int
    drop_owners: bool = False
    restarts: int = 3
    warm_s: int = 15
    disturb_s: float = 3.0
    cores: int = 1
    hogs: int = 0

    def volumes(self) -> dict[str, int]:
        """Names and sizes."""
        count = -(-self.mapped_bytes // VOLUME_BYTES_MAX)
        size_bytes = self.mapped_bytes // count // EXTENT_BYTES * EXTENT_BYTES
        return {f"mapped-{number}": size_bytes for number in range(count)}

    def disks(self, folder: Path) -> dict[Path, int]:
        """Files and sizes: a tenth larger than what is mapped."""
        total_bytes = self.mapped_bytes + self.mapped_bytes // 10 + (1 << 30)
        count = -(-total_bytes // DISK_BYTES_MAX)
        return {folder / f"disk-{number}.img": total_bytes // count for number in range(count)}


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
        ran, waited: by process, how long it had a processor until then, and how long it waited for one.
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
    ran: dict[str, float]
    waited: dict[str, float]


def make_mapped(programs: Programs, plan: Plan, data: Path, disks: dict[Path, int]) -> dict[str, Any]:
    """Makes pool and volumes, and writes each extent once; what `sds-pool-fill` says of it."""
    with running(data) as node:
        for path, size_bytes in disks.items():
            make_sparse(path, size_bytes)
        node.make_pool(POOL, [str(path) for path in disks], extent_bytes=EXTENT_BYTES)
        for name, size_bytes in plan.volumes().items():
            node.make_volume(name, POOL, size_bytes)
        volumes = [str(node.request("GET", f"/v1/volumes/{name}")["uuid"]) for name in plan.volumes()]
    pool = next((data / "pools").iterdir())
    options: list[object] = ["--window", WINDOW_PAGES * PAGE_EXTENTS]
    if plan.drop_owners:
        options.append("--drop-owners")
    return fill(programs, pool, list(disks), volumes, options)


def sizes(node: Node, disks: dict[Path, int]) -> dict[str, int]:
    """What the map takes, in bytes."""
    pool = next((node.data / "pools").iterdir())
    meta = sum(path.stat().st_size for path in (pool / "meta").iterdir())
    carry_over = (pool / "carry-over").stat().st_blocks * 512
    engine = resident_bytes(node.pids()["engine"])
    return {
        "rocksdb_bytes": meta,
        "carry_over_bytes": carry_over,
        "disk_metadata_bytes": sum(metadata_bytes(path) for path in disks),
        "engine_rss_bytes": engine,
    }


def processor_ms(pid: int) -> tuple[float, float]:
    """How long a process's threads ran, and how long they waited for a processor; zeros if it is gone."""
    ran_ns = waited_ns = 0
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            ran, waited, _ = map(int, (task / "schedstat").read_text().split())
            ran_ns, waited_ns = ran_ns + ran, waited_ns + waited
    return round(ran_ns / 1e6, 1), round(waited_ns / 1e6, 1)


@contextmanager
def busy(hogs: int) -> Iterator[None]:
    """Others want the processors: so many processes in sessions of their own, as services have them."""
    command = [sys.executable, "-c", "while True: pass"]
    started = [subprocess.Popen(command, start_new_session=True) for _ in range(hogs)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def restart(node: Node, programs: Programs, plan: Plan) -> Restart:
    """Kills everything while hosts write, starts anew, and waits for the first read and write."""
    volume_bytes = min(plan.volumes().values())
    targets, seed = [node.target(name) for name in plan.volumes()], random.randrange(1 << 32)
    options = ["--qd", DISTURB_DEPTH, "--stride", EXTENT_BYTES, "--seed", seed, "--region", volume_bytes - EXTENT_BYTES]
    if plan.warm_s:
        warm = [programs.start_load(target, [*options, "--seconds", plan.warm_s]) for target in targets]
        for load in warm:
            finish(load, plan.warm_s + LOAD_SLACK_S)
    options += ["--offset", BLOCK_BYTES * random.randrange(1, 16), "--read-percent", 0, "--seconds", 3600]
    loads = [programs.start_load(target, options) for target in targets]
    time.sleep(plan.disturb_s)
    for load in loads:
        if load.poll() is not None:
            finish(load, 1)
    target = random.choice(targets)
    extents = random.sample(range(volume_bytes // EXTENT_BYTES), 2)
    rss_bytes = resident_bytes(node.pids()["engine"])
    wall, killed = time.time(), time.monotonic_ns()
    node.kill()
    node.launch()
    gone = time.monotonic_ns()
    first = programs.start_first(target, extents[0] * EXTENT_BYTES, extents[1] * EXTENT_BYTES, RESTART_LIMIT_S)
    served = finish(first, RESTART_LIMIT_S + 10)
    times = {name: processor_ms(pid) for name, pid in node.pids().items()}
    for load in loads:
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
        ran={name: ran for name, (ran, _) in times.items()},
        waited={name: waited for name, (_, waited) in times.items()},
    )


def measure(programs: Programs, plan: Plan, folder: Path) -> dict[str, Any]:
    """Fills, if that is still to be done, and restarts."""
    facts, data, disks, mark = machine_facts(), folder / "data", plan.disks(folder), folder / FILLED_MARK
    if not mark.exists():
        mark.write_text(json.dumps(make_mapped(programs, plan, data, disks)))
    with running(data, plan.cores) as node:
        after_fill = sizes(node, disks)
        restarts = []
        for _ in range(plan.restarts):
            with busy(plan.hogs):
                restarts.append(restart(node, programs, plan))
            print(restarts[-1], file=sys.stderr, flush=True)
        after_restart = sizes(node, disks)
    median = {
        name: statistics.median(values)
        for name in TIMES
        if (values := [getattr(one, name) for one in restarts]) and None not in values
    }
    return {
        "machine": facts,
        "mapped_bytes": plan.mapped_bytes,
        "fill": json.loads(mark.read_text()),
        "after_fill": after_fill,
        "after_restart": after_restart,
        "restarts": [asdict(one) for one in restarts],
        "median_ms": median,
    }


def table(result: dict[str, Any]) -> str:
    """The figures for a person."""
    filled, after = result["fill"], result["after_fill"]
    extents = filled["extents"]
    times = ", ".join(f"{name} {value:,.0f}" for name, value in result["median_ms"].items())
    resident = max((one["rss_bytes"] for one in result["restarts"]), default=after["engine_rss_bytes"])
    return (
        f"{extents:,} extents written at {extents / filled['seconds']:,.0f} a second, {filled['cpu_us']:.1f} us of it\n"
        f"RocksDB {after['rocksdb_bytes'] / extents:.1f} bytes an extent, {after['rocksdb_bytes'] >> 20:,} MiB; "
        f"disks' metadata {after['disk_metadata_bytes'] >> 20:,} MiB; engine {after['engine_rss_bytes'] >> 20:,} MiB "
        f"after a start, up to {resident >> 20:,}\n"
        f"ms from kill -9: {times}"
    )


def main() -> int:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mapped", type=lambda text: parse_size("mapped", text), default="100G", help="of all volumes")
    parser.add_argument("--drop-owners", action="store_true", help="do not keep the disks' owner tables")
    parser.add_argument("--restarts", type=int, default=Plan.restarts)
    parser.add_argument("--warm-s", type=int, default=Plan.warm_s, help="how long a host reads before each kill")
    parser.add_argument(
        "--disturb-s", type=float, default=Plan.disturb_s, help="how long a host writes before each kill"
    )
    parser.add_argument("--cores", type=int, default=Plan.cores, help="of the data path")
    parser.add_argument("--hogs", type=int, default=Plan.hogs, help="other processes that take a processor each")
    parser.add_argument("--data", type=Path, help="where everything lies; kept. A temporary folder if not given")
    parser.add_argument("--bin", type=Path, help="programs that are built already")
    parser.add_argument("--json", type=Path, help="where all figures go")
    options = parser.parse_args()
    plan = Plan(
        options.mapped,
        options.drop_owners,
        options.restarts,
        options.warm_s,
        options.disturb_s,
        options.cores,
        options.hogs,
    )
    programs = Programs.build(options.bin)
    with ExitStack() as stack:
        folder: Path = options.data or stack.enter_context(temporary_folder())
        folder.mkdir(parents=True, exist_ok=True)
        result = measure(programs, plan, folder)
    show(table(result), result, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
