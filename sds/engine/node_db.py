"""What the node itself has to remember: its pools, where their disks are, its hosts, and whether the embedded default
was made.

It is a RocksDB (DIR/node). Each pool's entry has a readable copy beside the pool's own metadata
(DIR/pools/UUID/pool.json), from which a lost database is made again; the copy is never read otherwise.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from sds import durable
from sds.config import Config
from sds.engine.catalog import Host, Pool
from sds.engine.store import Store, StoreError, open_or_set_aside
from sds.errors import SdsError, Unavailable

log = logging.getLogger(__name__)

_DEFAULT_MADE = b"default-made"
ROWS_MAX = 100_000


class NodeDb:
    """The node's database. What changes it raises Unavailable when it can't be written, and nothing is changed then.

    Attributes:
        store: shared with the events.
        set_aside: why a broken database was replaced by a new one, None if it was not.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self.store: Store
        self.store, self.set_aside = open_or_set_aside(config.node_db)
        if self.set_aside is not None or not self.pools():
            self._restore()

    def pools(self) -> list[Pool]:
        """Every pool, by name.

        Raises:
            SdsError: what is noted of one can't be read.
        """
        found = []
        for key, value in self.store.scan(b"pool/", b"", ROWS_MAX):
            try:
                found.append(Pool.decode(value))
            except (SdsError, TypeError, KeyError) as error:
                raise SdsError(f"row {key.decode()} of {self._config.node_db} can't be read: {error}") from error
        return sorted(found, key=lambda pool: pool.name)

    def put_pool(self, pool: Pool) -> None:
        """Notes a pool as it is now."""
        data, copy = pool.encode(), self._copy(pool.uuid)
        with _writing():
            durable.make_folder(copy.parent)
            draft = durable.write_draft(copy, data + b"\n")
            self.store.put([(b"pool/" + pool.uuid.encode(), data)])
            durable.put_in_place(draft, copy)

    def delete_pool(self, uuid: str) -> None:
        """Forgets a pool."""
        with _writing():
            # The copy first: a start that finds it and no row would note the pool again.
            with contextlib.suppress(FileNotFoundError):
                self._copy(uuid).unlink()
                durable.sync_folder(self._copy(uuid).parent)
            self.store.put([(b"pool/" + uuid.encode(), None)])

    def hosts(self) -> list[Host]:
        """Every host that the node keeps."""
        return [Host.decode(value) for _, value in self.store.scan(b"host/", b"", ROWS_MAX)]

    def put_host(self, host: Host) -> None:
        """Notes a host."""
        with _writing():
            self.store.put([(host.key.encode(), host.encode())])

    def delete_host(self, host: Host) -> None:
        """Forgets a host."""
        with _writing():
            self.store.put([(host.key.encode(), None)])

    @property
    def default_made(self) -> bool:
        """Whether the embedded default was made; it is not made again after an administrator removed it."""
        return self.store.get([_DEFAULT_MADE])[0] is not None

    def set_default_made(self) -> None:
        """Notes that the embedded default was made."""
        with _writing():
            self.store.put([(_DEFAULT_MADE, b"1")])

    def close(self) -> None:
        """Closes the database."""
        self.store.close()

    def _copy(self, uuid: str) -> Path:
        return self._config.pool(uuid) / "pool.json"

    def _restore(self) -> None:
        """Notes what the copies beside the pools say. Where there is one, the embedded default was made, too."""
        for copy in sorted((self._config.data / "pools").glob("*/pool.json")):
            try:
                pool = Pool.decode(copy.read_bytes())
            except (OSError, SdsError, TypeError, KeyError):
                log.exception("%s can't be read", copy)
                continue
            self.store.put([(b"pool/" + pool.uuid.encode(), pool.encode())])
            self.set_default_made()


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except (StoreError, OSError) as error:
        raise Unavailable(f"the data folder can't be written: {error}") from error
