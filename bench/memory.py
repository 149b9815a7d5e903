"""Resident memory of an idle volume and of an idle connection.

    python -m bench.memory --json out.json

A node is started and gets many thin volumes, each exported over NVMe/TCP and never used; each process's memory before
and after is compared. Then the node is started anew, since a process that made the volumes keeps some of what it needed
for that: `restarted` is what the same volumes cost there, beside the same node without them. Idle connections, half
admin and half I/O queues, are opened to one of the volumes (`sds-nvme-idle`).
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.node import PROCESSES, Node, resident_bytes, running, temporary_folder
from bench.programs import Programs
from bench.report import columns, machine_facts, show

POOL_BYTES = 1 << 30
VOLUME_BYTES = 1 << 40
SETTLE_S = 6.0  # A checkpoint is at most 5 s away.


@dataclass(frozen=True)
class Plan:
    """How many of each."""

    volumes: int = 1000
    connections: int = 1000


def resident(node: Node) -> dict[str, int]:
    """Each process's memory in bytes."""
    return {name: resident_bytes(pid) for name, pid in node.pids().items()}


def measure(programs: Programs, plan: Plan, parent: Path | None = None) -> dict[str, Any]:
    """Makes the volumes, starts anew, connects."""
    facts = machine_facts()
    with temporary_folder(parent) as folder:
        data = folder / "data"
        with running(data) as node:
            node.make_pool("memory", [str(folder / "disk.img")], create_bytes=POOL_BYTES)
            # The first one of each touches what all share.
            node.make_volume("idle-0", "memory", VOLUME_BYTES)
        with running(data) as node:
            time.sleep(SETTLE_S)
            before = resident(node)
            began = time.monotonic()
            for number in range(1, plan.volumes + 1):
                node.make_volume(f"idle-{number}", "memory", VOLUME_BYTES)
            took_s = time.monotonic() - began
            time.sleep(SETTLE_S)
            after = resident(node)
        with running(data) as node:
            time.sleep(SETTLE_S)
            restarted = resident(node)
            connections = programs.idle(node.target("idle-0"), plan.connections)
    per_volume = {
        name: {
            "made": (after[name] - before[name]) / plan.volumes,
            "restarted": (restarted[name] - before[name]) / plan.volumes,
        }
        for name in PROCESSES
    }
    return {
        "machine": facts,
        "volumes": plan.volumes,
        "volumes_per_s": plan.volumes / took_s,
        "resident_bytes": {"before": before, "after": after, "restarted": restarted},
        "bytes_per_volume": per_volume,
        "connections": connections,
    }


def table(result: dict[str, Any]) -> str:
    """A line for each process, and the connections."""
    held, costs = result["resident_bytes"], result["bytes_per_volume"]
    head = ["process", "resident", f"{result['volumes']} volumes", "restarted", "a volume", "a volume, restarted"]
    rows = [
        [name, *(held[when][name] for when in ("before", "after", "restarted")), *map(float, costs[name].values())]
        for name in PROCESSES
    ]
    idle, rate = result["connections"], result["volumes_per_s"]
    return (
        f"{columns(head, rows)}\nbytes; {rate:.0f} volumes and exports made a second; an idle connection "
        f"{idle['bytes_per_connection']:,} bytes ({idle['connections']} at {idle['qd']} commands)"
    )


def main() -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=Plan.volumes)
    parser.add_argument("--connections", type=int, default=Plan.connections)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--bin", type=Path, help="programs that are built already")
    parser.add_argument("--json", type=Path, help="where all figures go")
    options = parser.parse_args()
    result = measure(Programs.build(options.bin), Plan(options.volumes, options.connections), options.folder)
    show(table(result), result, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
