"""RocksDB: batches, scans, broken databases set aside; the node's database; events."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sds.config import Config
from sds.engine import events
from sds.engine.catalog import Disk, Host, Pool
from sds.engine.events import Events
from sds.engine.node_db import NodeDb
from sds.engine.store import SET_ASIDE_MAX, Store, StoreError, open_or_set_aside
from sds.errors import EngineRunning


def test_batches_scans_and_gets_agree_with_a_sorted_dict(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    store, model = Store(tmp_path / "db"), dict[bytes, bytes]()
    for _ in range(200):
        keys = [bytes([rng.choice(b"ab"), rng.randrange(40)]) for _ in range(rng.randrange(1, 10))]
        changes = [(key, rng.randbytes(4) if rng.random() < 0.7 else None) for key in dict.fromkeys(keys)]
        store.put(changes)
        for key, value in changes:
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
        prefix, after = rng.choice([b"a", b"b", b"", b"c"]), bytes([rng.choice(b"ab"), rng.randrange(40)])
        after, rows_max = rng.choice([after, b""]), rng.randrange(1, 50)
        wanted = [(key, model[key]) for key in sorted(model) if key.startswith(prefix) and key > after]
        assert store.scan(prefix, after, rows_max) == wanted[:rows_max]
        assert store.get(keys) == [model.get(key) for key in keys]
    store.close()


def _truncated_manifest(path: Path) -> None:
    for file in path.glob("MANIFEST-*"):
        file.write_bytes(file.read_bytes()[:20])


def _empty_current(path: Path) -> None:
    (path / "CURRENT").write_bytes(b"")


def _missing(path: Path) -> None:
    shutil.rmtree(path)


@pytest.mark.parametrize("damage", [_truncated_manifest, _empty_current])
def test_a_broken_database_is_set_aside(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "db"
    for _ in range(SET_ASIDE_MAX + 2):
        store, _ = open_or_set_aside(path)
        store.put([(b"k", b"v")])
        store.close()
        damage(path)
        store, why = open_or_set_aside(path)
        assert why is not None
        assert store.get([b"k"]) == [None]
        store.close()
    assert len(list(tmp_path.glob("db.broken-*"))) == SET_ASIDE_MAX


def test_a_row_that_cannot_be_read_has_the_next_start_set_the_database_aside(tmp_path: Path) -> None:
    path = tmp_path / "db"
    store = Store(path)
    store.put([(b"%06d" % number, bytes(1000)) for number in range(1000)])
    store.close()
    Store(path).close()  # Replaying its log writes a table.
    (table,) = path.glob("*.sst")
    data = bytearray(table.read_bytes())
    data[100:200] = bytes(range(100))
    table.write_bytes(data)
    store, why = open_or_set_aside(path)
    assert why is None
    with pytest.raises(StoreError, match="Corruption"):
        store.get([b"%06d" % number for number in range(1000)])
    store.close()
    store, why = open_or_set_aside(path)
    assert "could not be read" in str(why)
    store.close()


def test_a_database_that_is_open_is_not_taken_for_broken(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    with pytest.raises(EngineRunning):
        open_or_set_aside(tmp_path / "db")
    store.close()
    assert not list(tmp_path.glob("*broken*"))


@pytest.mark.parametrize("damage", [_truncated_manifest, _missing])
def test_the_nodes_pools_outlive_its_database(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    config = Config(data=tmp_path)
    db = NodeDb(config)
    pool = Pool("u1", "archive", 1 << 20, "now").with_disk(Disk("d1", "/dev/sdb", "hdd", 50, 1 << 30))
    gone = replace(pool, uuid="u2", name="gone")
    db.put_pool(pool)
    db.put_pool(gone)
    db.delete_pool("u2")
    db.put_host(Host("h", "nqn", None, "now"))
    db.set_default_made()
    assert ([host.name for host in db.hosts()], db.default_made) == (["h"], True)
    db.close()
    damage(config.node_db)
    db = NodeDb(config)
    assert db.pools() == [pool]
    assert db.default_made
    db.close()


def test_a_copy_beside_a_pool_is_durable_before_it_is_in_place_and_damaged_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    fsync, rename = os.fsync, Path.rename

    def synced(handle: int) -> None:
        calls.append(f"sync {Path(f'/proc/self/fd/{handle}').readlink().relative_to(tmp_path)}")
        fsync(handle)

    def renamed(path: Path, target: Path) -> Path:
        calls.append(f"rename {path.relative_to(tmp_path)} {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    db = NodeDb(Config(data=tmp_path))
    db.put_pool(Pool("u1", "archive", 1 << 20, "now"))
    db.put_pool(Pool("u2", "small", 1 << 20, "now"))
    db.close()
    assert calls[:5] == [
        "sync .", "sync pools", "sync pools/u1/pool.json.new",
        "rename pools/u1/pool.json.new pool.json", "sync pools/u1",
    ]  # fmt: skip
    copy = tmp_path / "pools" / "u1" / "pool.json"
    copy.write_bytes(copy.read_bytes().replace(b"1048576", b"1048577"))
    shutil.rmtree(tmp_path / "node")
    db = NodeDb(Config(data=tmp_path))
    assert [pool.name for pool in db.pools()] == ["small"]
    db.close()


def test_events_are_a_ring_that_outlives_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "EVENTS_MAX", 3)
    store = Store(tmp_path / "db")
    ring = Events(store)
    for number in range(5):
        ring.add("info", "test", f"event {number}", "node")
    store.close()
    store = Store(tmp_path / "db")
    ring = Events(store)
    ring.add("info", "test", "event 5")
    assert [(event["id"], event["message"]) for event in ring.newest_first()] == [
        (6, "event 5"),
        (5, "event 4"),
        (4, "event 3"),
    ]
    assert len(store.scan(b"event/", b"", 10)) == 3
    store.close()
