"""`sds._core` by itself: pools in memory, and a MetaStore that fails when told to."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from sds._core import CoreError, Node

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
GIB = 1 << 30
WAIT_S = 20
DISK_BYTES = 256 * MIB

Rows = dict[bytes, bytes]


class Store:
    """Answers a node's metadata work from memory, on two threads; with an error while `broken` says one."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._rows: dict[str, Rows] = {}
        self.broken = ""
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(2)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the threads."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._stopping.is_set():
            work = self._node.meta_next(50)
            if work is not None:
                number, pool, operation = work
                error = OSError(self.broken) if self.broken else None
                self._node.meta_done(number, error or self._do(self._rows.setdefault(pool, {}), operation))

    @staticmethod
    def _do(rows: Rows, operation: tuple[object, ...]) -> object:
        match operation:
            case ("get", list(keys)):
                return [rows.get(key) for key in keys]
            case ("scan", bytes(prefix), bytes(after), int(rows_max)):
                found = sorted(row for row in rows.items() if row[0].startswith(prefix) and row[0] > after)
                return found[:rows_max]
            case ("put", list(changes)):
                for key, value in changes:
                    if value is None:
                        rows.pop(key, None)
                    else:
                        rows[key] = value
                return None
        return AssertionError(f"unknown work {operation}")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node of two cores, stopped at the end."""
    options: dict[str, object] = {"log_level": "error", "checkpoint_interval_ms": 50, "carry_over_bytes": MIB}
    node = Node(2, str(tmp_path), options)
    yield node
    node.stop()


@pytest.fixture
def store(node: Node) -> Iterator[Store]:
    """The node's MetaStore; the node's own end still needs it."""
    store = Store(node)
    yield store
    node.stop()
    store.stop()


def new_disk(node: Node, name: str) -> dict[str, object]:
    """An open disk in memory, as a pool takes it."""
    number = node.disk_open(f"memfd:{name}:{DISK_BYTES}")["id"]
    return {"id": number, "uuid": str(uuid.uuid4()), "tier": "flash", "rank": 0}


def new_pool(node: Node, name: str = "p") -> str:
    """A pool on one disk in memory, named as the pool."""
    pool = str(uuid.uuid4())
    node.pool_create(pool, name, MIB, [new_disk(node, name)])
    return pool


def refusal(call: Callable[[], object]) -> CoreError:
    """What a call is refused with."""
    with pytest.raises(CoreError) as caught:
        call()
    return caught.value


def until_event(node: Node, kind: str) -> dict[str, object]:
    """The next event of a kind."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for event in node.events_next(100) or []:
            if event["kind"] == kind:
                return event
    raise AssertionError(f"no {kind} within {WAIT_S} s")


def test_the_stub_says_what_is_there() -> None:
    command = [sys.executable, "-m", "mypy.stubtest", "sds._core", "--mypy-config-file", "pyproject.toml"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_pool_holds_is_there_when_it_is_opened_again(node: Node, store: Store, tmp_path: Path) -> None:
    assert not store.broken
    pool, volume = new_pool(node), str(uuid.uuid4())
    node.volume_create(pool, volume, GIB)
    node.volume_resize(pool, volume, 2 * GIB)
    node.document_put(pool, "volume/a", b"\0\xff")
    node.document_put(pool, "volume/b", b"gone")
    node.document_put(pool, "volume/b", None)
    node.pool_add_disk(pool, new_disk(node, "second"))
    ring = tmp_path / "pools" / pool / "carry-over"
    assert stat.S_IMODE(ring.stat().st_mode) == 0o600
    assert MIB <= ring.stat().st_size < 2 * MIB
    node.pool_close(pool)
    assert refusal(lambda: node.pool_status(pool)).args[0] == "not_found"
    disks = [int(str(node.disk_open(f"memfd:{name}:{DISK_BYTES}")["id"])) for name in ("p", "second")]
    label = node.disk_label(disks[1])
    assert label is not None
    assert (label["pool_uuid"], label["pool_name"], label["slot_errors"]) == (pool, "p", {})
    recovered = node.pool_open(pool, disks)
    assert (recovered["import"], recovered["unclean"], recovered["unused"]) == (False, False, [])
    assert node.documents(pool) == {"volume/a": b"\0\xff"}
    assert node.volume_status(pool, volume)["size_bytes"] == 2 * GIB
    disks_now = node.pool_status(pool)["disks"]
    assert isinstance(disks_now, list)
    assert [disk["state"] for disk in disks_now] == ["online", "online"]


def test_a_failed_creation_leaves_the_disk_free(node: Node, store: Store) -> None:
    disk = new_disk(node, "d")
    store.broken = "no space left"
    error = refusal(lambda: node.pool_create(str(uuid.uuid4()), "p", MIB, [disk]))
    assert error.args[0] == "meta"
    assert "no space left" in error.args[1]
    store.broken = ""
    error = refusal(lambda: node.pool_create(str(uuid.uuid4()), "p", MIB + 1, [disk]))
    assert (error.args[0], error.args[2]) == ("invalid_field", MIB + 1)
    node.disk_close(int(str(disk["id"])))
    assert refusal(lambda: node.pool_create(str(uuid.uuid4()), "p", MIB, [disk])).args[0] == "device_gone"


def test_a_failed_joining_leaves_the_disk_free(node: Node, store: Store) -> None:
    assert not store.broken
    pool = new_pool(node)
    small = node.disk_open(f"memfd:small:{2 * MIB}")["id"]
    disk: dict[str, object] = {"id": small, "uuid": str(uuid.uuid4()), "tier": "hdd", "rank": 2}
    assert refusal(lambda: node.pool_add_disk(pool, disk)).args[0] == "too_small"
    assert refusal(lambda: node.pool_add_disk(str(uuid.uuid4()), disk)).args[0] == "not_found"
    node.disk_close(int(str(small)))


def test_a_disk_has_one_pool(node: Node, store: Store) -> None:
    assert not store.broken
    disk = new_disk(node, "d")
    number = int(str(disk["id"]))
    pool = str(uuid.uuid4())
    node.pool_create(pool, "p", MIB, [disk])
    for call in (
        lambda: node.disk_close(number),
        lambda: node.pool_create(str(uuid.uuid4()), "q", MIB, [disk]),
        lambda: node.pool_add_disk(pool, disk),
    ):
        assert refusal(call).args[0] == "in_use"
    assert refusal(lambda: node.pool_open(pool, [number])).args[0] == "exists"


def test_a_checkpoint_that_fails_is_told_and_so_is_the_next_that_succeeds(node: Node, store: Store) -> None:
    pool = new_pool(node)
    store.broken = "no space left"
    node.volume_create(pool, str(uuid.uuid4()), GIB)
    event = until_event(node, "checkpoint-failed")
    assert (event["level"], event["subject"]) == ("error", "pool/p")
    store.broken = ""
    assert until_event(node, "checkpoint-recovered")["level"] == "info"


def test_an_answer_of_another_shape_is_an_error_of_the_store(node: Node) -> None:
    disk, told = new_disk(node, "d"), []

    def create() -> None:
        told.append(refusal(lambda: node.pool_create(str(uuid.uuid4()), "p", MIB, [disk])).args[:2])

    thread = threading.Thread(target=create)
    thread.start()
    work = node.meta_next(WAIT_S * 1000)
    assert work is not None
    node.meta_done(work[0], 7)
    node.meta_done(work[0], None)
    thread.join(WAIT_S)
    ((kind, message),) = told
    assert kind == "meta"
    assert "the store answered with something else" in message


def test_unknown_words_are_refused(node: Node, tmp_path: Path) -> None:
    options: list[dict[str, object]] = [{"log_level": "loud"}, {"speed_max": 1}]
    for given in options:
        assert refusal(partial(Node, 1, str(tmp_path), given)).args[0] == "invalid_field"
    export = {"name": "n", "unit": 1, "pool": str(uuid.uuid4()), "volume": str(uuid.uuid4()), "serial": "1"}
    for words in ({"protocol": "smb", "access": "any"}, {"protocol": "nvme", "access": "all"}):
        assert refusal(partial(node.exports_set, [{**export, **words}])).args[0] == "invalid_field"
    with pytest.raises(ValueError, match="no UUID"):
        node.pool_status("p")


def test_a_stopped_node_wakes_who_waits_and_refuses_the_rest(node: Node) -> None:
    told: list[object] = [1, 1]

    def wait_for_work() -> None:
        told[0] = node.meta_next(WAIT_S * 1000)

    def wait_for_events() -> None:
        told[1] = node.events_next(WAIT_S * 1000)

    threads = [threading.Thread(target=wait) for wait in (wait_for_work, wait_for_events)]
    for thread in threads:
        thread.start()
    node.stop()
    for thread in threads:
        thread.join(WAIT_S)
    assert told == [None, None]
    assert refusal(lambda: node.listen_nvme("127.0.0.1:0")).args[0] in {"closed", "io"}
    node.stop()
