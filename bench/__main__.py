"""`make bench`: a short version of every measurement, and one table of what the product is to be measured by.

    python -m bench --folder DIR

It takes about five minutes. The long versions are in the modules (see `bench`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from bench import first_light, memory, restart
from bench.node import temporary_folder
from bench.programs import Programs
from bench.report import columns, machine_facts, show

GIB = 1 << 30


def rows(light: dict[str, Any], idle: dict[str, Any], again: dict[str, Any]) -> list[list[object]]:
    """What was measured: name, figure, unit, and more to know."""
    found: list[list[object]] = []
    null = {(one["kind"], one["depth"]): one["median"] for one in light["results"] if one["target"] == "null"}
    for one in light["results"]:
        figures = one["median"]
        base = null.get((one["kind"], one["depth"]))
        more = f"{figures['server_cpu_us']:.1f} us of the server"
        if base is not None and one["target"] != "null":
            more += f", {figures['iops'] / base['iops']:.2f} of null"
        found.append([f"4 KiB {one['kind']}, depth {one['depth']}, {one['target']}", figures["iops"], "IOPS", more])
    for name, costs in idle["bytes_per_volume"].items():
        found.append([f"an idle volume, {name}", costs["made"], "bytes", f"{costs['restarted']:,.0f} after a restart"])
    connections = idle["connections"]
    found.append(
        ["an idle connection", float(connections["bytes_per_connection"]), "bytes", f"{connections['qd']} deep"]
    )
    extents = again["volume_bytes"] // restart.EXTENT_BYTES
    found.append(["first writes, extents", float(again["fill"]["iops"]), "a second", f"{extents:,} extents"])
    size = f"{again['volume_bytes'] // GIB} GiB"
    found += [[f"kill -9 to {name}", value, "ms", size] for name, value in again["median_ms"].items()]
    return found


def main() -> int:
    """Measure everything shortly, print one table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where temporary folders are made; 5 GiB are needed")
    parser.add_argument("--bin", type=Path, help="programs that are built already")
    parser.add_argument("--json", type=Path, help="where all figures go")
    options = parser.parse_args()
    facts, programs = machine_facts(), Programs.build(options.bin)
    light = first_light.measure(programs, first_light.Plan(seconds=1, rounds=1), (), options.folder)
    idle = memory.measure(programs, memory.Plan(volumes=100, connections=200), options.folder)
    with temporary_folder(options.folder) as folder:
        again = restart.measure(
            programs, restart.Plan(volume_bytes=8 * GIB, restarts=3, warm_s=1), folder, folder / "disk.img"
        )
    print(f"{facts['processor']}, {facts['processors']} processors, load {facts['load_average'][0]:.1f}")
    found = {"machine": facts, "first_light": light, "memory": idle, "restart": again}
    show(columns(["", "", "", ""], rows(light, idle, again)), found, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
