"""`sds upgrade`: an archive of format 1 becomes format 2, is refused with all that is wrong, or is cut off anywhere."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from sds import data_format, durable, envelope
from sds.config import Config
from sds.data_format import FORMAT, MARK, WORK
from sds.engine.catalog import Pool
from sds.engine.node_db import NodeDb
from sds.engine.store import Store
from sds.errors import DataFormat, EngineRunning, NoSpace, NotFound, SdsError
from sds.process import DataLock
from sds.upgrade import run, steps, trees
from sds.upgrade.run import Report, upgrade
from sds.upgrade.steps import STEPS, Step, Tree
from tests.clients.formats.archive import unpack

ARCHIVE = "665e9b7f-f4f1-4921-ac15-9c6cf97259a4"  # The pool `archive` of the archive of format 1.
Files = dict[str, bytes]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder of format 1, as a program that knew of no formats left it."""
    return unpack(1, tmp_path).data


def contents(root: Path) -> Files:
    """Every file below a folder, but the locks, which say who held them last."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else b"a folder"
        for path in root.rglob("*")
        if "run" not in path.relative_to(root).parts
    }


def kept(root: Path) -> Files:
    """What an upgrade may change."""
    return {name: data for name, data in contents(root).items() if name.split("/")[0] in data_format.ENTRIES}


def pools(data: Path) -> list[Pool]:
    """The pools of a folder of this program's format, by its database; those beside the pools are the same."""
    db = NodeDb(Config(data=data))
    found = db.pools()
    db.close()
    copies = [Pool.decode(path.read_bytes()) for path in data.glob("pools/*/pool.json")]
    assert sorted(copies, key=lambda pool: pool.name) == found
    return found


def refusal(data: Path, *, dry_run: bool = True) -> str:
    """Why an upgrade is refused; the folder is as it was."""
    before = contents(data)
    with pytest.raises(SdsError) as caught:
        upgrade(data, dry_run=dry_run)
    assert contents(data) == before
    return f"{caught.value.detail} ({caught.value.accepted})"


def test_there_is_a_step_from_each_format_to_the_next() -> None:
    assert [(step.before, step.after) for step in STEPS] == [(number, number + 1) for number in range(1, FORMAT)]


def test_a_sealed_document_byte_by_byte() -> None:
    data = envelope.seal("pool", 2, {"name": "é", "disks": [1]})
    assert data == b'{"version":2,"crc32":"532ee31f","pool":{"name":"\\u00e9","disks":[1]}}'
    assert envelope.unseal("pool", 2, b" " + data.replace(b",", b", ")) == {"name": "é", "disks": [1]}


def test_a_sealed_document_that_was_changed_is_refused() -> None:
    body = {"uuid": "u", "size_bytes": 1 << 40, "disks": ["/dev/sda"]}
    data = envelope.seal("pool", 2, body)
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << (bit % 8)
        try:
            assert envelope.unseal("pool", 2, bytes(changed)) == body, bit  # An upper-case letter of an escape.
        except SdsError:
            continue
    for bad, why in (
        (b"[]", "list"),
        (b"{", "no JSON"),
        (b'{"version":1}', "has version 1"),
        (b'{"version":2}', "no pool"),
    ):
        with pytest.raises(SdsError, match=why):
            envelope.unseal("pool", 2, bad)


def test_a_dry_run_says_what_would_come_and_leaves_everything_as_it_is(data: Path) -> None:
    before = contents(data)
    report = upgrade(data, dry_run=True)
    assert contents(data) == before
    assert (report.before, report.after, report.backup) == (1, 2, None)
    assert report.changes[0] == f"{data}/node: 3 pools get a checksum"
    assert len(report.changes) == 4
    assert report.checked == {
        "node_rows": 33, "pool_copies": 3, "pools": 2, "pool_rows": 21, "pool_documents": 11,
    }  # fmt: skip


def test_an_upgrade_keeps_all_and_its_backup_is_what_was_there(data: Path) -> None:
    before = kept(data)
    with pytest.raises(DataFormat, match=f"is of format 1.* takes format {FORMAT}") as caught:
        data_format.admit(data)
    assert f"sds upgrade --data {data} --dry-run" in str(caught.value.accepted)
    report = upgrade(data, dry_run=False)
    data_format.admit(data)
    assert [(pool.name, len(pool.disks)) for pool in pools(data)] == [("archive", 2), ("empty", 0), ("small", 1)]
    assert kept(Path(str(report.backup))) == before
    assert not (data / WORK).exists()
    now = contents(data)
    assert upgrade(data, dry_run=False) == Report(str(data), FORMAT, FORMAT, dry_run=False)
    assert upgrade(data, dry_run=True) == Report(str(data), FORMAT, FORMAT, dry_run=True)
    assert contents(data) == now


def test_going_back_as_it_says_brings_the_old_format_back(data: Path, tmp_path: Path) -> None:
    before = kept(data)
    elsewhere = tmp_path / "else where" / "backup"
    with pytest.raises(DataFormat, match="pools/b would be part of what it is a backup of"):
        upgrade(data, data / "pools" / "b", dry_run=False)
    report = upgrade(data, elsewhere, dry_run=False)
    assert report.backup == str(elsewhere)
    for command in report.go_back:
        subprocess.run(["sh", "-c", command], check=True)
    assert (kept(data), data_format.read(data)) == (before, 1)
    # It is still a backup of the folder as it is, and no longer once that has changed.
    (data / "pools" / ARCHIVE / "strange").touch()
    with pytest.raises(DataFormat, match="backup exists"):
        upgrade(data, elsewhere, dry_run=False)
    assert not (data / WORK).exists()
    (data / "pools" / ARCHIVE / "strange").unlink()
    assert upgrade(data, elsewhere, dry_run=False).backup == str(elsewhere)
    assert len(pools(data)) == 3


def test_a_backup_that_does_not_read_as_it_was_written_stops_the_upgrade(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kept(data)

    def rot(root: Path) -> None:
        path = root / "node" / "CURRENT"
        if root.name.endswith(".partial"):
            path.write_bytes(path.read_bytes()[::-1])

    monkeypatch.setattr(trees, "sync", rot)
    with pytest.raises(DataFormat, match="node/CURRENT is not what was written"):
        upgrade(data, dry_run=False)
    assert (kept(data), data_format.read(data)) == (before, 1)


def test_a_folder_whose_mark_was_lost_is_upgraded_again(data: Path) -> None:
    upgrade(data, dry_run=False)
    wanted = pools(data)
    (data / MARK).unlink()
    report = upgrade(data, dry_run=False)
    assert (report.before, report.after, pools(data)) == (1, FORMAT, wanted)


def test_a_lost_database_of_the_node_is_made_again_from_upgraded_copies(data: Path) -> None:
    shutil.rmtree(data / "node")
    upgrade(data, dry_run=False)
    assert [pool.name for pool in pools(data)] == ["archive", "empty", "small"]


def test_the_next_format_is_one_function_more(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def note(tree: Tree) -> None:
        (tree.root / "pools" / "note").write_text("3")
        tree.changes.append("a note")

    upgrade(data, dry_run=False)
    of_2 = contents(data)
    monkeypatch.setattr(data_format, "FORMAT", 3)
    monkeypatch.setattr(steps, "STEPS", (*STEPS, Step(2, 3, "a note", note)))
    with pytest.raises(DataFormat, match=r"is of format 2; .* takes format 3"):
        data_format.admit(data)
    report = upgrade(data, dry_run=False)
    assert (report.before, report.after, report.changes, data_format.read(data)) == (2, 3, ["a note"], 3)
    assert (data / "pools" / "note").read_text() == "3"
    # The backup has the mark, too.
    for command in report.go_back:
        subprocess.run(["sh", "-c", command], check=True)
    kept_of_2 = {name: found for name, found in of_2.items() if not name.startswith("backup")}
    now = contents(data)
    assert {name: now.get(name) for name in kept_of_2} == kept_of_2
    assert data_format.read(data) == 2
    # From the first format over both steps.
    (data / MARK).unlink()
    report = upgrade(data, dry_run=True)
    assert (report.before, report.after, report.changes[-1]) == (1, 3, "a note")


# What is wrong with a folder: what does it, and what the refusal has to name.


def _row(path: str, key: bytes, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(data: Path) -> None:
        store = Store(data / path)
        (value,) = store.get([key])
        store.put([(key, change(value or b""))])
        store.close()

    return damage


def _flip(value: bytes) -> bytes:
    return value[:-1] + bytes([value[-1] ^ 1])


def _drop_row_and_cut_copy(data: Path) -> None:
    store = Store(data / "node")
    store.put([(b"pool/" + ARCHIVE.encode(), None)])
    store.close()
    copy = data / "pools" / ARCHIVE / "pool.json"
    copy.write_bytes(copy.read_bytes()[:100])


def _rot_table(data: Path) -> None:
    (table,) = (data / "pools" / ARCHIVE / "meta").glob("*.sst")
    damaged = bytearray(table.read_bytes())
    damaged[100:120] = bytes(20)
    table.write_bytes(damaged)


def _cut_manifest(data: Path) -> None:
    for manifest in (data / "node").glob("MANIFEST-*"):
        manifest.write_bytes(manifest.read_bytes()[:20])


def _mark_broken(data: Path) -> None:
    (data / "pools" / ARCHIVE / "meta" / "sds-broken").touch()


META = f"pools/{ARCHIVE}/meta"


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_drop_row_and_cut_copy, f"pools/{ARCHIVE}/pool.json: Unterminated string"),
        (_row("node", b"pool/" + ARCHIVE.encode(), lambda _: b"[]"), f"node: row pool/{ARCHIVE}: it is no document"),
        (_row("node", b"pool/" + ARCHIVE.encode(), lambda value: value.replace(b'"version":1', b'"version":7')),
         f"node: row pool/{ARCHIVE}: it has version 7"),
        (_row("node", b"pool/" + ARCHIVE.encode(), lambda value: value.replace(b'"name"', b'"nome"')),
         f"node: row pool/{ARCHIVE}: .*nome"),
        (_row("node", b"host/ris", lambda value: value.replace(b'"nqn"', b'"nqm"')), "node: row host/ris: .*nqm"),
        (_row("node", b"strange/1", lambda _: b""), "node: row strange/1: this program knows no such thing"),
        (_row(META, b"C", _flip), f"{META}: row 43: catalog: CRC"),
        (_row(META, b"K", lambda _: b""), f"{META}: row 4b: checkpoint row: "),
        (_row(META, b"X", lambda _: b""), f"{META}: row 58: row: key's first byte"),
        (_rot_table, f"{META}: Corruption.*{META}/0.*sst"),
        (_cut_manifest, "node: Corruption"),
        (_mark_broken, f"{META}: a row could not be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_and_nothing_is_changed(
    data: Path, damage: Callable[[Path], None], named: str
) -> None:
    damage(data)
    for dry_run in (True, False):
        # The message is one about the folder, not about the copy.
        said = refusal(data, dry_run=dry_run)
        assert re.search(f"{data}/{named}", said), said
        assert WORK not in said


def test_all_that_is_wrong_is_told_at_once(data: Path) -> None:
    _row("node", b"host/ris", lambda _: b"{}")(data)
    _row(META, b"C", _flip)(data)
    said = refusal(data)
    assert "since 2 of what it holds" in said
    assert "host/ris" in said
    assert META in said


def test_a_damaged_copy_is_told_and_made_again_from_the_nodes_database(data: Path) -> None:
    copy = data / "pools" / ARCHIVE / "pool.json"
    copy.write_bytes(copy.read_bytes()[:100])
    words = f"{copy}: is damaged"
    assert any(line.startswith(words) for line in upgrade(data, dry_run=True).changes)
    assert any(line.startswith(words) for line in upgrade(data, dry_run=False).changes)
    assert [pool.name for pool in pools(data)] == ["archive", "empty", "small"]


def test_a_full_file_system_is_told_with_figures(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 1 << 40, 40 << 20))
    before = contents(data)
    with pytest.raises(NoSpace, match=r"has 40 MiB free; a copy takes up to 6\d.* MiB in .*, the backup 17.* MiB"):
        upgrade(data, dry_run=True)
    assert contents(data) == before
    # Enough for a dry run alone.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 1 << 40, 70 << 20))
    upgrade(data, dry_run=True)
    with pytest.raises(NoSpace, match="backup"):
        upgrade(data, dry_run=False)
    assert contents(data) == before


@pytest.mark.parametrize("process", ["engine", "supervisor"])
def test_a_folder_that_a_server_uses_is_refused(data: Path, process: str) -> None:
    (data / "run").mkdir()
    with DataLock(data / "run" / f"{process}.lock", process):
        assert f"in use by another {process}: pid {os.getpid()}" in refusal(data)
        assert f"in use by another {process}: pid {os.getpid()}" in refusal(data, dry_run=False)


def test_a_server_is_told_that_an_upgrade_is_at_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile(*_: object) -> None:
        lock = DataLock(data / "run" / "engine.lock", "engine")
        with pytest.raises(EngineRunning, match=f"another engine: sds upgrade, pid {os.getpid()} on"):
            lock.take(wait_s=0)

    monkeypatch.setattr(run, "_upgrade", meanwhile)
    upgrade(data, dry_run=True)


def test_marks_that_are_newer_or_damaged_are_refused(tmp_path: Path) -> None:
    mark = tmp_path / MARK
    data_format.admit(tmp_path)
    assert (
        mark.read_bytes() == b'{"version":1,"crc32":"1bb26e6d","data_folder":{"format":2,"written_by":"sds 0.1.0"}}\n'
    )
    mark.write_bytes(envelope.seal("data_folder", 1, {"format": 9, "written_by": "sds 7.1"}))
    assert "is of format 9, written by sds 7.1; this program, sds 0.1.0, takes format 2" in refusal(tmp_path)
    mark.write_bytes(envelope.seal("data_folder", 1, {"format": 0, "written_by": "sds 7.1"}))
    assert "format 0, which never was (1 to 2)" in refusal(tmp_path)
    for damaged in (b"", b'{"version":1}', data_format.mark_of(2).replace(b'"format":2', b'"format":1')):
        mark.write_bytes(damaged)
        assert f"{mark} is damaged: " in refusal(tmp_path)
        with pytest.raises(DataFormat, match="is damaged"):
            data_format.admit(tmp_path)


def test_folders_that_cannot_be_upgraded_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        upgrade(tmp_path / "nowhere", dry_run=True)
    (tmp_path / "new").mkdir()
    assert "holds nothing to upgrade" in refusal(tmp_path / "new")
    (data / "pools").rename(tmp_path / "pools")
    (data / "pools").symlink_to(tmp_path / "pools")
    assert f"{data}/pools is a link" in refusal(data)
    (data / "pools").unlink()
    (tmp_path / "pools").rename(data / "pools")
    os.mkfifo(data / "pools" / "pipe")
    with pytest.raises(DataFormat, match="pools/pipe is neither a file nor a folder"):
        upgrade(data, dry_run=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(data: Path) -> None:
    os.chown(data, 4321, 4321)
    assert "belongs to user 4321, and this is user 0 (sudo -u '#4321' sds upgrade" in refusal(data)


# kill -9 before each call that changes a folder. An audit hook sees them all (docs.python.org/3/library/audit_events).

_KILLED = """
import os, signal, sys
from pathlib import Path
from sds.upgrade.run import upgrade

left, log = int(sys.argv[2]), []

def hook(event, args):
    global left
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    if writes or event in {"os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate"}:
        left -= 1
        log.append(event)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
upgrade(Path(sys.argv[1]), dry_run=False)
left = 0
print(" ".join(log))
"""


def killed(data: Path, at: int) -> tuple[int, list[str]]:
    """Upgrades in a process that is killed before its call number `at`; its status and what it called."""
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(data), str(at)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode in {0, -signal.SIGKILL}, done.stderr
    return done.returncode, done.stdout.split()


def test_killed_anywhere_it_is_the_old_format_or_the_new_and_the_next_run_ends_it(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    (tmp_path / "whole").mkdir()
    origin = unpack(1, tmp_path / "whole").data
    before = kept(origin)
    (tmp_path / "control").mkdir()
    shutil.copytree(origin, tmp_path / "control" / "data")
    _, calls = killed(tmp_path / "control" / "data", 0)
    renames = [number for number, call in enumerate(calls, 1) if call == "os.rename"]
    assert len(renames) == 7, calls  # plan.json, backup, two folders out and in, format.json.
    wanted = pools(tmp_path / "control" / "data")
    others = rng.sample([number for number in range(1, len(calls) + 1) if number not in renames], 15)
    states = set()
    for at in sorted({*renames, *(number + 1 for number in renames), *others}):
        data = tmp_path / f"at-{at}"
        shutil.copytree(origin, data)
        assert killed(data, at)[0] == -signal.SIGKILL
        states.add(state := state_of(data))
        if state == "old":
            assert kept(data) == before, at
        report = upgrade(data, dry_run=False)
        assert (report.after, pools(data), data_format.read(data)) == (FORMAT, wanted, FORMAT), at
        (backup,) = data.glob("backup-1-*")
        assert (kept(backup), str(backup)) == (before, report.backup or str(backup)), at
        assert not (data / WORK).exists()
        shutil.rmtree(data)
    assert states == {"old", "cut off", "new"}


def state_of(data: Path) -> str:
    """What the next program finds."""
    if not data_format.cut_off(data):
        return {1: "old", 2: "new"}[data_format.read(data) or 0]
    with pytest.raises(DataFormat, match=f"an upgrade of {data} was cut off") as caught:
        data_format.admit(data)
    assert f"sds upgrade --data {data}, which finishes it" in str(caught.value.accepted)
    assert "was cut off" in refusal(data, dry_run=True)
    return "cut off"


def test_what_another_program_made_meanwhile_is_not_overwritten(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moves = durable.move

    def move(source: Path, target: Path) -> None:
        if source == data / WORK / "new" / "node":
            raise KeyboardInterrupt
        moves(source, target)

    monkeypatch.setattr(durable, "move", move)
    with pytest.raises(KeyboardInterrupt):
        upgrade(data, dry_run=False)
    monkeypatch.undo()
    assert data_format.cut_off(data)
    (data / "node").mkdir()
    assert f"{data}/node was made while an upgrade was under way" in refusal(data, dry_run=False)
    (data / "node").rmdir()
    upgrade(data, dry_run=False)
    assert len(pools(data)) == 3
