"""IOPS, latency and processor time per I/O of NVMe/TCP targets, beside one that only receives and answers.

All targets are measured in turn, several rounds, so that a change of the machine's mood meets all of them:

    cargo build --release -p sds-bench
    python bench/first_light.py --target ram=127.0.0.1:4420,nqn.2026-11.io.sds:demo.ram,PID --json out.json

PID is the engine's process (more may follow, separated by commas): its threads' processor time is divided by the
commands. The bench target is started and stopped here. Medians over the rounds are printed as a table; every single
figure, with facts about the machine, goes into the JSON file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEPTHS = (1, 32, 128)
READ_PERCENTS = (100, 0)
FIGURES = ("iops", "p50_us", "p99_us", "server_cpu_us", "client_cpu_us")


@dataclass(frozen=True)
class Target:
    """A target that listens already."""

    name: str
    address: str
    nqn: str
    pids: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Target:
        """From ``name=address:port,nqn[,pid...]``.

        Raises:
            ValueError: a part is missing or a process id is no number.
        """
        name, _, rest = text.partition("=")
        address, nqn, *pids = rest.split(",")
        if not name or ":" not in address:
            raise ValueError(text)
        return cls(name, address, nqn, tuple(int(pid) for pid in pids))


@dataclass(frozen=True)
class Shape:
    """What the hosts do: queue depth of each connection, connections, reads in a hundred."""

    depth: int
    connections: int
    read_percent: int


def shapes(connections: int) -> list[Shape]:
    """Reads before writes, shallow before deep."""
    return [Shape(depth, connections, percent) for percent in READ_PERCENTS for depth in DEPTHS]


def measure(load: Path, target: Target, shape: Shape, options: argparse.Namespace) -> dict[str, Any]:
    """One run of the load generator; its line of JSON.

    Raises:
        RuntimeError: the generator failed, or a command did; with its words.
    """
    command = [str(load), "--address", target.address, "--nqn", target.nqn, "--qd", str(shape.depth)]
    command += ["--connections", str(shape.connections), "--read-percent", str(shape.read_percent)]
    command += ["--seconds", str(options.seconds), "--region", str(options.region_bytes)]
    for pid in target.pids:
        command += ["--server-pid", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=options.seconds + 30, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{target.name}: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    if result["failed"]:
        raise RuntimeError(f"{target.name}: {result['failed']} commands failed at {shape}")
    return result


def machine_facts() -> dict[str, Any]:
    """What the figures depend on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "kernel": platform.release(),
        "processor": model,
        "processors": os.cpu_count(),
        "load_average": os.getloadavg(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def medians(runs: list[dict[str, Any]]) -> dict[str, float | None]:
    """The median of each figure; None where no run has it."""
    out: dict[str, float | None] = {}
    for figure in FIGURES:
        values = [run[figure] for run in runs if run[figure] is not None]
        out[figure] = statistics.median(values) if values else None
    return out


def table(results: list[dict[str, Any]]) -> str:
    """One line for each shape and target."""
    lines = [f"{'':>6} {'qd':>4} {'conns':>5} {'target':<12}" + "".join(f"{figure:>15}" for figure in FIGURES)]
    for result in results:
        kind = "read" if result["read_percent"] == 100 else "write"
        cells = "".join(f"{'-' if value is None else f'{value:,.1f}':>15}" for value in result["median"].values())
        lines.append(f"{kind:>6} {result['depth']:>4} {result['connections']:>5} {result['target']:<12}{cells}")
    return "\n".join(lines)


def run(targets: list[Target], options: argparse.Namespace) -> list[dict[str, Any]]:
    """All shapes on all targets, in turn, ``options.rounds`` times."""
    results = []
    for shape in shapes(options.connections):
        runs: dict[str, list[dict[str, Any]]] = {target.name: [] for target in targets}
        for _ in range(options.rounds):
            for target in targets:
                runs[target.name].append(measure(options.bin / "sds-nvme-load", target, shape, options))
        for name, of_target in runs.items():
            results.append({"target": name, **vars(shape), "median": medians(of_target), "runs": of_target})
            print(table(results[-1:]).splitlines()[-1], file=sys.stderr)
    return results


def main() -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--target", action="append", default=[], type=Target.parse, help="name=address:port,nqn[,pid...]"
    )
    parser.add_argument("--bin", type=Path, default=Path("target/release"), help="where the programs are")
    parser.add_argument("--seconds", type=int, default=3, help="of each run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each shape and target")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--region-bytes", type=int, default=64 << 20, help="how much of the volume is used")
    parser.add_argument("--spin-us", type=int, default=0, help="the bench target's cores spin so long")
    parser.add_argument("--json", type=Path, help="where all figures go")
    options = parser.parse_args()
    facts = machine_facts()
    null = subprocess.Popen(
        [str(options.bin / "sds-null-target"), "127.0.0.1:0", "1", "null", str(options.spin_us)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert null.stdout is not None
        address, nqn = null.stdout.readline().split()
        results = run([Target("answers-only", address, nqn, (null.pid,)), *options.target], options)
    finally:
        null.terminate()
        null.wait()
    print(table(results))
    if options.json:
        options.json.write_text(
            json.dumps({"machine": facts, "seconds": options.seconds, "results": results}, indent=2)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
