"""4 KiB random reads and writes over NVMe/TCP, beside targets that only receive and answer.

    python -m bench.first_light --json out.json

A node of its own is started with two pools, one on memory (memfd) and one on a file, and a thin volume in each; map,
heat and journal are on. The part that is measured is written first. Then these volumes, a target that only receives and
answers (`null`) and one that copies to and from memory (`memory`) are measured in turn, several rounds, so that a
change of the machine's mood meets all of them. `ratio` is a target's IOPS by those of `null`. Processor time is that of
all threads of the target's process, divided by the commands.

`first` lines are writes that each need a chunk that the volume does not have yet: a change of the map with each.

Medians over the rounds are printed; every single figure, with facts about the machine, goes into the JSON file.
Targets that listen already are measured too: `--target name=ADDRESS:PORT,NQN[,PID...]`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.node import running, temporary_folder
from bench.programs import Programs, Target
from bench.report import columns, machine_facts, show

DEPTHS = (1, 32, 128)
FIGURES = ("iops", "p50_us", "p99_us", "server_cpu_us", "client_cpu_us")
DISK_BYTES = 4 << 30
VOLUME_BYTES = 8 << 30
CHUNK_BYTES = 64 << 10  # A sixteenth of an extent of 1 MiB.
# What first writes may take of a disk; the rest is for the region and the disk's own metadata.
FIRST_BYTES_MAX = 3 << 30
FIRST_PLACES_MAX = 16_384
FILL_BLOCK_BYTES = 128 << 10
LIMIT_S = 120.0


@dataclass(frozen=True)
class Plan:
    """How long and how much.

    Attributes:
        seconds: of each run.
        rounds: runs of each shape and target.
        connections: of each run.
        region_bytes: how much of a volume is used.
        cores: of the node's data path.
    """

    seconds: int = 3
    rounds: int = 3
    connections: int = 1
    region_bytes: int = 64 << 20
    cores: int = 1

    @property
    def first_places(self) -> int:
        """Writes of a run of first writes."""
        return min(FIRST_PLACES_MAX, FIRST_BYTES_MAX // CHUNK_BYTES // (self.rounds * len(DEPTHS)))


def target_of(text: str) -> Target:
    """From ``name=address:port,nqn[,pid...]``.

    Raises:
        ValueError: a part is missing or a process id is no number.
    """
    name, _, rest = text.partition("=")
    address, nqn, *pids = rest.split(",")
    if not name or ":" not in address:
        raise ValueError(text)
    return Target(name, address, nqn, tuple(int(pid) for pid in pids))


def medians(runs: list[dict[str, Any]]) -> dict[str, float | None]:
    """The median of each figure; None where no run has it."""
    out: dict[str, float | None] = {}
    for figure in FIGURES:
        values = [run[figure] for run in runs if run[figure] is not None]
        out[figure] = float(statistics.median(values)) if values else None
    return out


def fill(programs: Programs, target: Target, plan: Plan) -> None:
    """Writes the region once, from its beginning to its end."""
    block = ["--block", FILL_BLOCK_BYTES, "--region", plan.region_bytes]
    programs.load(target, [*block, "--sweep", 1, "--read-percent", 0, "--qd", 8], LIMIT_S)


def steady(programs: Programs, targets: Sequence[Target], plan: Plan) -> list[dict[str, Any]]:
    """Reads before writes, shallow before deep, each on all targets in turn."""
    results = []
    for kind, percent in (("read", 100), ("write", 0)):
        for depth in DEPTHS:
            options = ["--qd", depth, "--connections", plan.connections, "--read-percent", percent]
            options += ["--seconds", plan.seconds, "--region", plan.region_bytes]
            runs: dict[str, list[dict[str, Any]]] = {target.name: [] for target in targets}
            for _ in range(plan.rounds):
                for target in targets:
                    runs[target.name].append(programs.load(target, options, plan.seconds + LIMIT_S))
            results += [_result(kind, depth, name, of_target) for name, of_target in runs.items()]
    return results


def first_writes(programs: Programs, targets: Sequence[Target], plan: Plan) -> list[dict[str, Any]]:
    """Writes that each need a chunk of their own, in no order."""
    results = []
    span, offset = plan.first_places * CHUNK_BYTES, plan.region_bytes
    for depth in DEPTHS:
        runs: dict[str, list[dict[str, Any]]] = {target.name: [] for target in targets}
        for _ in range(plan.rounds):
            options = ["--qd", depth, "--connections", plan.connections, "--read-percent", 0, "--offset", offset]
            options += ["--region", span, "--stride", CHUNK_BYTES, "--sweep", plan.first_places]
            offset += span
            for target in targets:
                runs[target.name].append(programs.load(target, options, LIMIT_S))
        results += [_result("first", depth, name, of_target) for name, of_target in runs.items()]
    return results


def _result(kind: str, depth: int, target: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    median = medians(runs)
    print(f"{kind} at depth {depth}, {target}: {median['iops']:,.0f} IOPS", file=sys.stderr, flush=True)
    return {"kind": kind, "depth": depth, "target": target, "median": median, "runs": runs}


def measure(
    programs: Programs, plan: Plan, others: Sequence[Target] = (), parent: Path | None = None
) -> dict[str, Any]:
    """Starts what is to be measured, measures it, and ends it."""
    facts = machine_facts()
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder(parent))
        idle = [stack.enter_context(programs.null_target(kind)) for kind in ("null", "memory")]
        node = stack.enter_context(running(folder / "data", plan.cores))
        node.make_pool("on-ram", [f"memfd:ram:{DISK_BYTES}"])
        node.make_pool("on-file", [str(folder / "disk.img")], create_bytes=DISK_BYTES)
        volumes = [node.make_volume(name, f"on-{name}", VOLUME_BYTES) for name in ("ram", "file")]
        for target in volumes:
            fill(programs, target, plan)
        results = steady(programs, [*idle, *volumes, *others], plan)
        results += first_writes(programs, volumes, plan)
    return {"machine": facts, "plan": vars(plan), "results": results}


def table(result: dict[str, Any]) -> str:
    """One line for each shape and target."""
    null = {(one["kind"], one["depth"]): one["median"]["iops"] for one in result["results"] if one["target"] == "null"}
    rows = []
    for one in result["results"]:
        base = null.get((one["kind"], one["depth"]))
        ratio = None if base is None else f"{one['median']['iops'] / base:.2f}"
        rows.append([one["kind"], one["depth"], one["target"], ratio, *one["median"].values()])
    return columns(["", "qd", "target", "ratio", *FIGURES], rows)


def main() -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", default=[], type=target_of, help="name=ADDRESS:PORT,NQN[,PID...]")
    parser.add_argument("--seconds", type=int, default=Plan.seconds, help="of each run")
    parser.add_argument("--rounds", type=int, default=Plan.rounds, help="runs of each shape and target")
    parser.add_argument("--connections", type=int, default=Plan.connections)
    parser.add_argument("--region-bytes", type=int, default=Plan.region_bytes, help="how much of a volume is used")
    parser.add_argument("--cores", type=int, default=Plan.cores, help="of the node's data path")
    parser.add_argument("--folder", type=Path, help="where the temporary folder, and so the file, is made")
    parser.add_argument("--bin", type=Path, help="programs that are built already")
    parser.add_argument("--json", type=Path, help="where all figures go")
    options = parser.parse_args()
    plan = Plan(options.seconds, options.rounds, options.connections, options.region_bytes, options.cores)
    result = measure(Programs.build(options.bin), plan, options.target, options.folder)
    show(table(result), result, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
