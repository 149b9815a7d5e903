"""RocksDB as the engine uses it: bytes to bytes, batches that are durable when they return, and what to do when it
can't be opened.

rocksdict holds the GIL in `write` and `get` of one key, and releases it in `flush_wal` and `get` of a list: so a batch
is written without sync and the log synced after it, and reads go by list.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rocksdict import Options, Rdict, WriteBatch, WriteOptions

from sds.errors import EngineRunning, NoSpace, SdsError

log = logging.getLogger(__name__)

LOG_FILES_MAX = 4  # RocksDB's own LOG files, each up to LOG_BYTES_MAX.
LOG_BYTES_MAX = 4 << 20
OPEN_FILES_MAX = 256
SET_ASIDE_MAX = 2  # Broken databases kept for whoever wants to look; older ones are removed.
REOPEN_AFTER_S = 1.0
ROOM_BYTES_MIN = 4 << 20  # What opening may take: a manifest, a log, and a table of what is only in the last log.
BROKEN_MARK = "sds-broken"

Row = tuple[bytes, bytes]
Change = tuple[bytes, bytes | None]


class StoreError(Exception):
    """RocksDB failed; its words."""


class Store:
    """One open database.

    After a failed write, for instance in a full data folder, RocksDB refuses further ones until it is opened anew. The
    next write does so, at most once in REOPEN_AFTER_S and only if there is room for it; until then reads go on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reopen_at = 0.0
        self._failed: str | None = None  # Why writes are refused.
        self._opening = threading.Lock()
        self._db: Rdict | None = _open(path)
        self._unsynced = WriteOptions()
        self._unsynced.sync = False

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys, None where there is none.

        Raises:
            StoreError: a row can't be read; the database is opened as a broken one at the next start.
        """
        with self._reading() as db:
            values: list[bytes | None] = db.get(list(keys)) or []
            return values

    def scan(self, prefix: bytes, after: bytes, rows_max: int) -> list[Row]:
        """Up to `rows_max` rows whose key starts with `prefix` and is greater than `after`, in order of key.

        Raises:
            StoreError: as `get`.
        """
        rows: list[Row] = []
        with self._reading() as db:
            at = db.iter()
            at.seek(max(prefix, after))
            while at.valid() and len(rows) < rows_max:
                key = at.key()
                if not key.startswith(prefix):
                    break
                if key > after or not after:
                    rows.append((key, at.value()))
                at.next()
            at.status()  # An iterator ends early on a bad block, and says so only here.
        return rows

    def put(self, changes: Sequence[Change]) -> None:
        """Applies changes as a whole, durably; None deletes.

        Raises:
            StoreError: they are not applied.
        """
        batch = WriteBatch(raw_mode=True)
        for key, value in changes:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        db = self._writable()
        try:
            db.write(batch, self._unsynced)
            db.flush_wal(True)
        except Exception as error:
            self._failed = str(error)
            raise StoreError(self._failed) from error

    def close(self) -> None:
        """Closes the database."""
        self._drop()

    def _opened(self) -> Rdict:
        with self._opening:
            if self._db is None:
                self._reopen()
            if self._db is None:
                raise StoreError(f"{self._path} is not open: {self._failed}")
            return self._db

    def _writable(self) -> Rdict:
        with self._opening:
            if self._failed is not None:
                self._reopen()
            if self._failed is not None:
                raise StoreError(f"{self._path} takes no writes: {self._failed}")
        return self._opened()

    def _reopen(self) -> None:
        now = time.monotonic()
        if now < self._reopen_at:
            return
        self._reopen_at = now + REOPEN_AFTER_S
        try:
            if shutil.disk_usage(self._path).free < ROOM_BYTES_MIN:
                return
            self._drop()
            self._db = _open(self._path)
            self._failed = None
        except Exception as error:
            self._failed = str(error)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Rdict]:
        try:
            yield self._opened()
        except StoreError:
            raise
        except Exception as error:
            if "Corruption" in str(error):
                mark_broken(self._path)
            raise StoreError(str(error)) from error

    def _drop(self) -> None:
        if self._db is not None:
            with contextlib.suppress(Exception):
                self._db.close()
            self._db = None


def mark_broken(path: Path) -> None:
    """Has the next start set the database aside."""
    with contextlib.suppress(OSError):
        (path / BROKEN_MARK).touch()


def open_or_set_aside(path: Path) -> tuple[Store, str | None]:
    """The database, made when missing. One that can't be opened is moved aside and an empty one opened in its place.

    Returns:
        the store, and why another one was set aside, None if none was.

    Raises:
        EngineRunning: another process has it open.
        NoSpace: the data folder is full.
        SdsError: not even an empty one can be opened.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        if (path / BROKEN_MARK).exists():
            raise StoreError("a row could not be read in the last run")
        return Store(path), None
    except Exception as error:
        why = str(error)
    if "lock" in why.lower() and "LOCK" in why:
        raise EngineRunning(f"{path} is open in another process: {why}")
    if "No space left" in why:
        raise NoSpace(f"{path} can't be opened: {why}")
    _set_aside(path)
    try:
        return Store(path), why
    except Exception as error:
        raise SdsError(f"{path} can't be opened: {error}") from error


def _open(path: Path) -> Rdict:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_keep_log_file_num(LOG_FILES_MAX)
    options.set_max_log_file_size(LOG_BYTES_MAX)
    options.set_max_open_files(OPEN_FILES_MAX)
    return Rdict(str(path), options)


def _set_aside(path: Path) -> None:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    path.rename(path.with_name(f"{path.name}.broken-{stamp}"))
    kept = sorted(path.parent.glob(f"{path.name}.broken-*"))
    for old in kept[:-SET_ASIDE_MAX]:
        shutil.rmtree(old, ignore_errors=True)
