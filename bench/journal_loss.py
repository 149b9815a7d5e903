"""How long a host waits when one of the two disks of a pool's journal fails.

    python -m bench.journal_loss --rounds 5

Each round makes a pool on two files under loop devices, so that its journal is on both, and has a host (qemu-io, over
iSCSI, one command at a time, write-through) write 4 KiB to one new place after another: each write changes the map and
waits for the journal. In their midst the end of one device is moved before its journal (bench/loops.py): from then on
writes there fail. The pause is the longest that any write took from then on; what is not a failure's is in the writes
before it. Needs root, for loop devices, and qemu-io.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.loops import loop_disk
from bench.node import Node, running, temporary_folder
from bench.report import columns, machine_facts, show

SMALL_BYTES, LARGE_BYTES = 256 << 20, 1 << 30
FAILED_BYTES = 1 << 20
WRITES_BEFORE, WRITES_AFTER = 400, 400
WRITE_LIMIT_S = 120
_RATE = re.compile(r"and ([0-9.]+) ops/sec")


def measure(rounds: int, parent: Path | None) -> dict[str, Any]:
    """Milliseconds of every write before and after the failure, round by round."""
    facts = machine_facts()
    with temporary_folder(parent) as folder, running(folder / "data", cores=1) as node:
        results = [one_round(node, f"round-{number}", folder) for number in range(rounds)]
    return {"machine": facts, "rounds": results}


def one_round(node: Node, name: str, folder: Path) -> dict[str, Any]:
    """One pool, and the failure of one of its disks."""
    with ExitStack() as stack:
        failing = stack.enter_context(loop_disk(folder / f"{name}-small.img", SMALL_BYTES))
        other = stack.enter_context(loop_disk(folder / f"{name}-large.img", LARGE_BYTES))
        node.request("POST", "/v1/pools", {"name": name})
        # As soon as the pool has let go of its disks, so that the devices can be given back.
        stack.callback(node.request, "POST", f"/v1/pools/{name}/export", {"force": True})
        for disk in (failing, other):
            node.request("POST", "/v1/disks", {"pool": name, "path": str(disk.path), "tier": "flash"})
        if node.request("GET", f"/v1/pools/{name}")["journal_disks"] != 2:
            raise RuntimeError("the journal is not on both disks")
        node.request("POST", "/v1/volumes", {"name": name, "pool": name, "size_bytes": 1 << 40})
        made = node.request("POST", "/v1/exports", {"volume": name, "protocol": "iscsi", "any_host": True})
        url = f"iscsi://{made['address']}/{made['iqn']}/{made['lun']}"
        before = write(url, 0, WRITES_BEFORE, None)
        after = write(url, WRITES_BEFORE, WRITES_AFTER, lambda: failing.end_at(FAILED_BYTES))
        left = node.request("GET", f"/v1/pools/{name}")["journal_disks"]
        if left != 1:
            raise RuntimeError(f"the journal is on {left} disks after the failure")
    return {"before_ms": before, "after_ms": after}


def write(url: str, first: int, count: int, halfway: Callable[[], None] | None) -> list[float]:
    """Milliseconds of each of `count` writes; `halfway` is called in their midst."""
    steps = [part for place in range(first, first + count) for part in ("-c", f"write {place}M 4k")]
    command = ["stdbuf", "-oL", "qemu-io", "-f", "raw", *steps, url]
    took: list[float] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as host:
        assert host.stdout is not None
        for line in host.stdout:
            if "failed" in line:
                raise RuntimeError(line.strip())
            found = _RATE.search(line)
            if found:
                took.append(1000 / float(found.group(1)))
                if len(took) == count // 2 and halfway is not None:
                    halfway()
        host.wait(WRITE_LIMIT_S)
    if len(took) != count:
        raise RuntimeError(f"{len(took)} of {count} writes were answered")
    return took[count // 2 :] if halfway is not None else took


def table(result: dict[str, Any]) -> str:
    """A line for each round."""
    rows = []
    for number, one in enumerate(result["rounds"], 1):
        before, after = one["before_ms"], one["after_ms"]
        rows.append([number, statistics.median(before), max(before), statistics.median(after), max(after)])
    head = ["round", "median before", "longest before", "median after", "longest after: the pause"]
    worst = max(max(one["after_ms"]) for one in result["rounds"])
    return f"{columns(head, rows)}\nms of a durable 4 KiB write; the longest pause was {worst:.1f} ms"


def main() -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--json", type=Path, help="where all figures go")
    options = parser.parse_args()
    result = measure(options.rounds, options.folder)
    show(table(result), result, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
