"""A pool all of whose volumes are mapped: one 4 KiB write in each extent, without hosts and without data.

The pool and its volumes are made as ever; then the node is stopped and `sds-pool-fill` opens the pool with the same
code as the engine. What it puts into the MetaStore comes through a pipe and goes to RocksDB by the engine's own store.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from bench.programs import ProgramError, Programs
from sds.engine.store import Change, Store

DELETED = 0xFFFFFFFF
SCAN_ROWS = 1024
TELL_EVERY_S = 30.0


def fill(programs: Programs, pool: Path, disks: list[Path], volumes: list[str], options: list[object]) -> Any:
    """Writes each extent of a closed pool once.

    Args:
        pool: its folder, which has its uuid as the name.
        volumes: uuids.
        options: further ones of `sds-pool-fill`.

    Returns:
        its line of JSON.

    Raises:
        ProgramError: it failed.
    """
    command = [str(programs.folder / "sds-pool-fill"), pool.name]
    command += [word for disk in disks for word in ("--disk", str(disk))]
    command += [word for volume in volumes for word in ("--volume", volume)]
    store = Store(pool / "meta")
    try:
        with subprocess.Popen(
            [*command, *map(str, options)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            _send(store, process.stdin)
            _take(process.stdout, store)
            words = process.stderr.read().decode()
    finally:
        store.close()
    if process.returncode != 0:
        raise ProgramError(words.strip() or f"status {process.returncode}")
    return json.loads(words.splitlines()[-1])


def _send(store: Store, pipe: IO[bytes]) -> None:
    after = b""
    while rows := store.scan(b"", after, SCAN_ROWS):
        after = rows[-1][0]
        pipe.write(struct.pack("<I", len(rows)))
        for key, value in rows:
            pipe.write(struct.pack("<II", len(key), len(value)) + key + value)
    pipe.close()


def _take(pipe: IO[bytes], store: Store) -> None:
    began = told = time.monotonic()
    pages = 0
    for batch in _batches(pipe):
        store.put(batch)
        pages += sum(key.startswith(b"S") for key, _ in batch)
        if time.monotonic() - told >= TELL_EVERY_S:
            told = time.monotonic()
            print(f"{pages:,} pages stored, {pages / (told - began):,.0f} a second", file=sys.stderr, flush=True)


def _batches(pipe: IO[bytes]) -> Iterator[list[Change]]:
    while head := pipe.read(4):
        batch: list[Change] = []
        for _ in range(struct.unpack("<I", head)[0]):
            key_bytes, value_bytes = struct.unpack("<II", pipe.read(8))
            key = pipe.read(key_bytes)
            batch.append((key, None if value_bytes == DELETED else pipe.read(value_bytes)))
        yield batch
