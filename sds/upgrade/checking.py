"""Whether every row and document of a data folder can be read by this program."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from sds._core import CoreError, catalog_documents, rows_verify
from sds.engine.catalog import Export, Host, Pool, Volume
from sds.engine.scrubs import DOCUMENT, Schedule
from sds.engine.store import Row
from sds.errors import SdsError
from sds.upgrade.steps import ROWS_MAX, Tree, rows_of

_NODE_ROWS: dict[str, Callable[[bytes], object]] = {
    "pool": Pool.decode,
    "host": Host.decode,
    "event": json.loads,
    "default-made": bytes,
}
_POOL_DOCUMENTS: dict[str, Callable[[bytes], object]] = {
    "volume": lambda data: Volume.decode(data, ""),
    "export": lambda data: Export.decode(data, ""),
    "host": Host.decode,
    DOCUMENT: Schedule.decode,
}
_CATALOG_KEY = b"C"


def check(tree: Tree) -> dict[str, int]:
    """Reads all of it; what can't be read becomes `tree.faults`.

    Not looked into are carry-over rings, whose entries an opening takes or leaves one by one, and what only the
    journals on the disks have.

    Returns:
        how many there are of what was read, by its kind.
    """
    seen: Counter[str] = Counter()
    node = tree.root / "node"
    with tree.database(node) as store:
        for key, value in rows_of(store) if store is not None else ():
            name = key.decode(errors="replace")
            _decode(tree, node, f"row {name}", _NODE_ROWS.get(name.partition("/")[0]), value)
            seen["node_rows"] += 1
    for copy in sorted((tree.root / "pools").glob("*/pool.json")):
        _decode(tree, copy, "", Pool.decode, copy.read_bytes())
        seen["pool_copies"] += 1
    for meta in sorted((tree.root / "pools").glob("*/meta")):
        seen["pools"] += 1
        _check_meta(tree, meta, seen)
    return dict(seen)


def _check_meta(tree: Tree, meta: Path, seen: Counter[str]) -> None:
    with tree.database(meta) as store:
        if store is None:
            return
        batch: list[Row] = []
        for row in rows_of(store):
            batch.append(row)
            if row[0] == _CATALOG_KEY:
                _check_documents(tree, meta, row[1], seen)
            if len(batch) == ROWS_MAX:
                _verify(tree, meta, batch)
                batch.clear()
            seen["pool_rows"] += 1
        _verify(tree, meta, batch)


def _verify(tree: Tree, meta: Path, batch: list[Row]) -> None:
    for at, why in rows_verify(batch):
        tree.fault(meta, f"row {batch[at][0].hex()}: {why}")


def _check_documents(tree: Tree, meta: Path, catalog: bytes, seen: Counter[str]) -> None:
    try:
        documents = catalog_documents(catalog)
    except CoreError:
        return  # `_verify` says so.
    for key, value in documents.items():
        _decode(tree, meta, f"document {key}", _POOL_DOCUMENTS.get(key.partition("/")[0]), value)
        seen["pool_documents"] += 1


def _decode(tree: Tree, path: Path, what: str, decode: Callable[[bytes], object] | None, value: bytes) -> None:
    named = f"{what}: " if what else ""
    if decode is None:
        tree.fault(path, f"{named}this program knows no such thing")
        return
    try:
        decode(value)
    except (SdsError, ValueError, TypeError, KeyError, AttributeError) as error:
        tree.fault(
            path, f"{named}{type(error).__name__}: {error}" if isinstance(error, KeyError) else f"{named}{error}"
        )
