"""How answers are shown: as a table for a person, as JSON for a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sds.cli.client import NOT_CONFIRMED, fail
from sds.names import format_size

if TYPE_CHECKING:
    from rich.table import Table

Item = dict[str, Any]


class Format(StrEnum):
    """What `--output` takes."""

    TABLE = "table"
    JSON = "json"


Output = Annotated[Format, typer.Option("--output", "-o", help="How to show the answer.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def show_items(items: Sequence[Item], columns: Sequence[str], output: Format) -> None:
    """A list: the columns named as a table, or everything as JSON."""
    if output is Format.JSON:
        _print_json(items)
        return
    table = _table(header_style="bold")
    for column in columns:
        right = column.endswith("_bytes")
        table.add_column(_title(column), justify="right" if right else "left", overflow="fold")
    for item in items:
        table.add_row(*(_cell(column, item.get(column)) for column in columns))
    _print_table(table)


def show_item(item: Item, output: Format) -> None:
    """One item: a line for each field, or JSON."""
    if output is Format.JSON:
        _print_json(item)
        return
    table = _table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in item.items():
        if value is not None and value not in ("", [], {}):
            table.add_row(_title(name), _cell(name, value))
    _print_table(table)


def show_done(words: str, output: Format) -> None:
    """That something was done which leaves nothing to show."""
    if output is Format.JSON:
        _print_json({"done": words})
    else:
        sys.stdout.write(words + "\n")


def confirm(question: str, *, yes: bool) -> None:
    """Asks before something is lost; ends the command if the answer is no or nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question}: not confirmed, and nobody can be asked", NOT_CONFIRMED, {"accepted": "--yes"})
    if not typer.confirm(f"{question}?"):
        fail("left as it was", NOT_CONFIRMED)


# rich is imported where a table is made: `sds serve` and JSON do without.
def _table(**options: Any) -> Table:
    from rich.table import Table  # noqa: PLC0415

    return Table(box=None, pad_edge=False, **options)


def _print_table(table: Table) -> None:
    from rich.console import Console  # noqa: PLC0415

    # A pipe has no width: columns must not be cut off at 80 there.
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 400).print(table)


def _title(column: str) -> str:
    return column.removesuffix("_bytes").replace("_", " ")


def _cell(column: str, value: object) -> str:
    if value is None:
        return "-"
    if column.endswith("_bytes") and isinstance(value, int):
        return format_size(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(one) for one in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{key}={one}" for key, one in value.items()) or "-"
    return str(value)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
