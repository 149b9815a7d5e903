"""One function for each change of format.

A step gets a copy of the data folder and changes it as it likes: there is nobody else, and a copy that is not complete
is thrown away. It has its own idea of both formats, since what the program reads and writes goes on to change. What it
can't read it adds to `Tree.faults` and leaves as it is; the upgrade is then refused with all of them.

The next one: raise `sds.data_format.FORMAT`, write the function, add it to STEPS, and keep the archive of a folder that
the former program wrote (`tests/clients/formats/make.py`).
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sds.engine.store import BROKEN_MARK, Change, Row, Store, StoreError

ROWS_MAX = 2_000  # Read at a time.


@dataclass
class Tree:
    """A copy of a data folder that may be changed.

    Attributes:
        root: where it lies.
        data: what it is a copy of: the paths that an administrator is told.
        changes: what was changed, a line each.
        faults: what can't be read, each with its place.
    """

    root: Path
    data: Path
    changes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def fault(self, path: Path, why: object) -> None:
        """Notes what is wrong at a path below `root`."""
        said = str(why).replace(str(self.root), str(self.data))
        self.faults.append(f"{self.shown(path)}: {said}")

    def shown(self, path: Path) -> Path:
        """Where a path below `root` is for an administrator."""
        return self.data / path.relative_to(self.root)

    @contextlib.contextmanager
    def database(self, path: Path) -> Iterator[Store | None]:
        """A RocksDB folder, opened; None if it is not there. One that can't be opened or read is a fault."""
        if not path.is_dir():
            yield None
            return
        if (path / BROKEN_MARK).exists():
            self.fault(path, "a row could not be read; the program that wrote it makes it anew at its next start")
            yield None
            return
        store = None
        try:
            store = Store(path)
        except Exception as error:
            self.fault(path, error)
        try:
            yield store
        except StoreError as error:
            self.fault(path, error)
        finally:
            if store is not None:
                store.close()


def rows_of(store: Store, prefix: bytes = b"") -> Iterator[Row]:
    """Every row whose key starts with `prefix`, in order.

    Raises:
        StoreError: one can't be read.
    """
    after = b""
    while rows := store.scan(prefix, after, ROWS_MAX):
        yield from rows
        after = rows[-1][0]


@dataclass(frozen=True)
class Step:
    """From one format to the next.

    Attributes:
        before, after: the formats.
        words: what it changes, for an administrator.
    """

    before: int
    after: int
    words: str
    run: Callable[[Tree], None]


def seal_pool_documents(tree: Tree) -> None:
    """1 to 2: what the node notes of a pool gets version 2, with a checksum of its own.

    The row in the node's database is what counts; DIR/pools/UUID/pool.json is made again from it, and is read only
    where there is no row. Format 1:

        {"version":1,"uuid":...,"name":...,...}

    Format 2 (`sds.envelope`):

        {"version":2,"crc32":"0b5e7a11","pool":{"uuid":...,"name":...,...}}
    """
    documents: dict[str, bytes] = {}
    node = tree.root / "node"
    with tree.database(node) as store:
        if store is not None:
            changes: list[Change] = []
            for key, value in rows_of(store, b"pool/"):
                try:
                    documents[key.removeprefix(b"pool/").decode()] = sealed = _pool_of_2(value)
                except ValueError as error:
                    tree.fault(node, f"row {key.decode(errors='replace')}: {error}")
                    continue
                if sealed != value:
                    changes.append((key, sealed))
            if changes:
                store.put(changes)
                tree.changes.append(f"{tree.shown(node)}: {len(changes)} pools get a checksum")
    copies = {path.parent.name: path for path in (tree.root / "pools").glob("*/pool.json")}
    copies |= {uuid: tree.root / "pools" / uuid / "pool.json" for uuid in documents}
    for uuid, copy in sorted(copies.items()):
        _seal_copy(tree, copy, documents.get(uuid))


def _seal_copy(tree: Tree, copy: Path, document: bytes | None) -> None:
    try:
        old: bytes | None = copy.read_bytes().removesuffix(b"\n")
        own = _pool_of_2(old or b"")
    except FileNotFoundError:
        old = own = None
    except ValueError as error:
        if document is None:
            tree.fault(copy, error)
            return
        tree.changes.append(f"{tree.shown(copy)}: is damaged ({error}); made again from the node's database")
    else:
        tree.changes.append(f"{tree.shown(copy)}: gets a checksum")
    wanted = document or own
    if wanted is not None and wanted != old:
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        copy.write_bytes(wanted + b"\n")


def _pool_of_2(data: bytes) -> bytes:
    """A pool's document as format 2 has it, from either.

    Raises:
        ValueError: it is of neither.
    """
    values = json.loads(data)
    if not isinstance(values, dict):
        raise ValueError(f"it is no document but {type(values).__name__}")
    version = values.pop("version", None)
    if version == 2:
        return data  # Its mark was lost. Whether it can be read is looked at with all else.
    if version != 1:
        raise ValueError(f"it has version {version}; format 1 has version 1")
    body = _text(values)
    return _text({"version": 2, "crc32": f"{zlib.crc32(body):08x}", "pool": values})


def _text(values: dict[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode()


STEPS = (Step(1, 2, "what the node notes of its pools gets a checksum", seal_pool_documents),)


def steps_from(number: int) -> tuple[Step, ...]:
    """The steps from a format to this program's."""
    return tuple(step for step in STEPS if step.before >= number)
