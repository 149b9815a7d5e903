"""What figures depend on, and tables of them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def machine_facts() -> dict[str, Any]:
    """Kernel, processor, memory, and how busy the machine is with other things."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = (line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    return {
        "kernel": platform.release(),
        "processor": next(models, platform.machine()),
        "processors": os.cpu_count(),
        "load_average": os.getloadavg(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def columns(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows under their heads: numbers to the right, `-` for None."""

    def cell(value: object) -> str:
        if value is None:
            return "-"
        return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)

    texts = [list(head), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(row[at]) for row in texts) for at in range(len(head))]
    left = [not rows or isinstance(rows[0][at], str) for at in range(len(head))]
    lines = []
    for row in texts:
        cells = (
            text.ljust(wide) if to_left else text.rjust(wide)
            for text, wide, to_left in zip(row, widths, left, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def show(table: str, result: object, path: Path | None) -> None:
    """Prints the table; every single figure goes to ``path`` as JSON, if there is one."""
    print(table)
    if path:
        path.write_text(json.dumps(result, indent=2))
