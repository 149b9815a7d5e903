"""The core's MetaStore: threads that take its work, do it on the pool's RocksDB and answer.

This is the one place where Python may lie on the path of an I/O: a map page that is in no cache is read here. Reads
come as lists and `get` of a list releases the GIL.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sds.engine.store import Store, StoreError, open_or_set_aside

if TYPE_CHECKING:
    from sds._core import Node

log = logging.getLogger(__name__)

THREADS = 2  # One may be waiting for a sync while the other reads.
WAIT_MS = 200


class MetaThreads:
    """Answers the core for every pool that is attached."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._stores: dict[str, Store] = {}
        self._failing: set[str] = set()  # Pools whose failure was logged: hosts' retries would repeat it without end.
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._work, name=f"meta-{n}", daemon=True) for n in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def attach(self, pool: str, path: Path) -> str | None:
        """Opens a pool's database; to be done before the core opens the pool.

        Returns:
            why a broken database was set aside (the core rebuilds it from journal and disks), None if none was.

        Raises:
            EngineRunning, NoSpace, SdsError: as `open_or_set_aside`.
        """
        store, why = open_or_set_aside(path)
        self._stores[pool] = store
        return why

    def detach(self, pool: str) -> None:
        """Closes a pool's database; to be done after the core closed the pool."""
        store = self._stores.pop(pool, None)
        if store:
            store.close()

    def stop(self) -> None:
        """Ends the threads and closes every database; to be done after the core stopped."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        for pool in list(self._stores):
            self.detach(pool)

    def _work(self) -> None:
        while not self._stopping.is_set():
            work = self._node.meta_next(WAIT_MS)
            if work is None:
                continue
            number, pool, operation = work
            result: object
            try:
                result = self._do(pool, operation)
                if operation[0] == "put":
                    self._failing.discard(pool)
            except StoreError as error:
                if pool not in self._failing:
                    log.error("RocksDB of pool %s: %s", pool, error)
                self._failing.add(pool)
                result = error
            except Exception as error:
                log.exception("metadata work of pool %s", pool)
                result = error
            self._node.meta_done(number, result)

    def _do(self, pool: str, operation: tuple[Any, ...]) -> object:
        store = self._stores.get(pool)
        if store is None:
            raise StoreError("its database is not open")
        match operation:
            case ("get", keys):
                return store.get(keys)
            case ("scan", prefix, after, rows_max):
                return store.scan(prefix, after, rows_max)
            case ("put", changes):
                store.put(changes)
                return None
        raise StoreError(f"the core asked for {operation[0]!r}, which is unknown here")
