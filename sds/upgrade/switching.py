"""The new tree takes the place of the old one.

    DIR/upgrading/plan.json    from, to, backup
    DIR/upgrading/new/         node, pools, format.json: complete, checked, durable
    DIR/upgrading/old/         empty

Then, one after the other and each durable: DIR/node to old/node, new/node to DIR/node, the same for pools, and
new/format.json to DIR/format.json. The first rename decides. It takes away what a program that knows of no marks would
start from, so nothing is written to the old tree that the new one would miss.
"""

from __future__ import annotations

import json
from pathlib import Path

from sds import durable
from sds.data_format import ENTRIES, MARK, WORK, cut_off
from sds.errors import DataFormat
from sds.upgrade import trees

_PLAN = "plan.json"


def discard(data: Path) -> None:
    """Removes what an upgrade left, unless it began to put things in place and did not end: that is to be finished."""
    if (data / WORK).exists() and not cut_off(data):
        trees.remove(data / WORK)
        durable.sync_folder(data)


def switch(data: Path, plan: dict[str, object]) -> None:
    """Puts DIR/upgrading/new in place.

    Args:
        plan: what `finish` returns, even if another process has to do it.
    """
    work = data / WORK
    durable.put_in_place(durable.write_draft(work / _PLAN, json.dumps(plan).encode()), work / _PLAN)
    (work / "old").mkdir(mode=0o700)
    trees.sync(work / "new")
    durable.sync_folder(work)
    durable.sync_folder(data)
    finish(data)


def finish(data: Path) -> dict[str, object]:
    """Goes on from wherever `switch` came to; the plan.

    Raises:
        DataFormat: something else made files meanwhile.
    """
    work = data / WORK
    new, old = work / "new", work / "old"
    plan: dict[str, object] = json.loads((work / _PLAN).read_bytes())
    for name in ENTRIES:
        if not (new / name).exists():
            continue
        if (data / name).exists():
            if (old / name).exists():
                raise DataFormat(
                    f"{data / name} was made while an upgrade was under way: another program used the folder",
                    accepted=f"the same again once {data / name} is elsewhere; what it holds is not taken over",
                )
            durable.move(data / name, old / name)
        durable.move(new / name, data / name)
    durable.move(new / MARK, data / MARK)
    discard(data)
    return plan
