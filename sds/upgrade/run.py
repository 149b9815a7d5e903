"""The command as a whole."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sds import data_format, durable, envelope
from sds.config import Config
from sds.data_format import ENTRIES, MARK, WORK, mark_of
from sds.errors import DataFormat, EngineRunning, NoSpace, NotFound, SdsError
from sds.names import MIB, format_size
from sds.process import DataLock
from sds.upgrade import checking, switching, trees
from sds.upgrade.steps import Tree, steps_from

BACKUP_DOCUMENT = "backup.json"
SPARE_BYTES = 32 * MIB  # For what RocksDB writes when it opens a database, beside what was in its logs.
LOCK_WAIT_S = 1.0
FAULTS_SHOWN_MAX = 20


@dataclass
class Report:
    """What was done, or would be.

    Attributes:
        before, after: the formats.
        changes: what was changed, a line each.
        checked: how much was read, by its kind; all of it could be.
        needs_bytes: the free space that the upgrade needs at most, its backup included.
        backup: where that is; None after a dry run.
        go_back: the commands that bring the old format back.
    """

    data: str
    before: int
    after: int
    dry_run: bool
    changes: list[str] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    needs_bytes: int = 0
    backup: str | None = None
    go_back: list[str] = field(default_factory=list)

    def items(self) -> dict[str, object]:
        """As a dictionary."""
        return asdict(self)


def upgrade(data: Path, backup: Path | None = None, *, dry_run: bool) -> Report:
    """Upgrades a data folder that no server uses.

    Args:
        backup: a folder that is to be made; DIR/backup-FORMAT-TIME if None.
        dry_run: do everything on a copy and leave the folder as it is, but for the lock files in DIR/run.

    Raises:
        NotFound: there is no such folder.
        EngineRunning: a server uses it.
        DataFormat: it is damaged or newer; what is wrong where.
        NoSpace: there is too little for a copy or the backup.
    """
    if not data.is_dir():
        raise NotFound(f"{data} is no folder", field="data")
    if data.stat().st_uid != os.geteuid():
        # What another user makes here its owner could not open.
        raise DataFormat(
            f"{data} belongs to user {data.stat().st_uid}, and this is user {os.geteuid()}",
            accepted=f"sudo -u '#{data.stat().st_uid}' sds upgrade ...",
        )
    with _alone(data):
        if data_format.cut_off(data):
            return _finish(data, dry_run=dry_run)
        before = data_format.read(data)
        if before is None:
            raise DataFormat(f"{data} holds nothing to upgrade", accepted="the data folder of an `sds serve`")
        report = Report(str(data), before, data_format.FORMAT, dry_run)
        if before == data_format.FORMAT:
            if not dry_run:
                switching.discard(data)
            return report
        _require_movable(data)
        switching.discard(data)
        if not dry_run:
            for partial in data.glob("backup-*.partial"):
                trees.remove(partial)
        try:
            _upgrade(report, data, backup or _default_backup(before, data))
        finally:
            switching.discard(data)
        return report


def _upgrade(report: Report, data: Path, backup: Path) -> None:
    (data / WORK).mkdir(mode=0o700)
    linked = trees.can_link(data / WORK)
    _require_space(report, data, backup, linked=linked)
    new = data / WORK / "new"
    new.mkdir(mode=0o700)
    for source in _entries(data):
        trees.copy(source, new / source.name, linked=linked)
    tree = Tree(new, data)
    for step in steps_from(report.before):
        step.run(tree)
    if not tree.faults:
        report.checked = checking.check(tree)
    if tree.faults:
        shown = tree.faults[:FAULTS_SHOWN_MAX]
        more = [f"and {len(tree.faults) - len(shown)} more"] if len(tree.faults) > len(shown) else []
        raise DataFormat(
            "\n  ".join(
                [f"{data} was left as it is, since {len(tree.faults)} of what it holds can't be read:", *shown, *more]
            ),
            accepted="what the program that wrote it can open; a RocksDB that it can't it makes anew at its start",
        )
    report.changes = tree.changes
    if report.dry_run:
        return
    (new / MARK).write_bytes(mark_of(data_format.FORMAT))
    _back_up(report.before, data, backup)
    report.backup, report.go_back = str(backup), _go_back(data, backup)
    switching.switch(data, report.items())


def _finish(data: Path, *, dry_run: bool) -> Report:
    if dry_run:
        data_format.read(data)  # Says it.
    return Report(**switching.finish(data))  # type: ignore[arg-type] # It is what `items` gave.


def _require_movable(data: Path) -> None:
    for source in _entries(data):
        if source.is_symlink() or source.stat().st_dev != data.stat().st_dev:
            raise DataFormat(
                f"{source} is a link or a file system of its own and can't be put in place by a rename",
                accepted=f"a folder in {data}, for the time of the upgrade",
            )


def _require_space(report: Report, data: Path, backup: Path, *, linked: bool) -> None:
    """The copy takes what is not linked, and once more what RocksDB's logs become as tables."""
    copy_bytes = 2 * sum(trees.size_bytes(source, linked=linked) for source in _entries(data)) + SPARE_BYTES
    backup_bytes = sum(trees.size_bytes(source, linked=False) for source in _entries(data)) + MIB
    report.needs_bytes = copy_bytes + backup_bytes
    target = next(folder for folder in backup.parents if folder.exists())
    same = target.stat().st_dev == data.stat().st_dev
    wanted = {data: copy_bytes + (0 if report.dry_run or not same else backup_bytes)}
    if not report.dry_run and not same:
        wanted[target] = backup_bytes
    for folder, needs in wanted.items():
        free = shutil.disk_usage(folder).free
        if free < needs:
            raise NoSpace(
                f"{folder} has {format_size(free)} free; a copy takes up to {format_size(copy_bytes)} in {data}, the "
                f"backup {format_size(backup_bytes)} in {target}",
                accepted=f"{format_size(needs)} free in {folder}; or --backup on another file system",
            )


def _back_up(before: int, data: Path, backup: Path) -> None:
    """Copies what an upgrade may change, durably, and reads it again. A backup that is not complete is called
    NAME.partial.
    """
    if any(backup.is_relative_to(source) for source in _entries(data)):
        raise DataFormat(f"{backup} would be part of what it is a backup of", field="backup", accepted="another folder")
    if backup.exists():
        if not _is_backup(backup, data):
            accepted = "a folder that is not there yet, or a backup of this folder as it is"
            raise DataFormat(f"{backup} exists", field="backup", accepted=accepted)
        return
    draft = backup.with_name(f"{backup.name}.partial")
    trees.remove(draft)
    durable.make_folder(draft)
    copied: dict[str, trees.Copied] = {}
    for source in _entries(data):
        found = trees.copy(source, draft / source.name, linked=False)
        copied |= {f"{source.name}/{name}": one for name, one in found.items()}
    if (data / MARK).exists():
        copied[MARK] = trees.copy_file(data / MARK, draft / MARK)
    listed = {name: asdict(one) for name, one in copied.items()}
    body = {"format": before, "data": str(data), "files": listed}
    (draft / BACKUP_DOCUMENT).write_bytes(envelope.seal("backup", 1, body) + b"\n")
    trees.sync(draft)
    trees.verify(draft, copied)
    durable.put_in_place(draft, backup)


def _default_backup(before: int, data: Path) -> Path:
    """One that an upgrade made which was cut off after that; else a new one."""
    for backup in sorted(data.glob(f"backup-{before}-*")):
        if _is_backup(backup, data):
            return backup
    return data / f"backup-{before}-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"


def _is_backup(backup: Path, data: Path) -> bool:
    """Whether a folder is a whole backup of a data folder as that is now."""
    try:
        listed = envelope.unseal("backup", 1, (backup / BACKUP_DOCUMENT).read_bytes())["files"]
        found = {name: trees.Copied(**one) for name, one in listed.items()}
        trees.verify(backup, found)
    except (OSError, SdsError, TypeError, KeyError):
        return False
    now = {MARK: trees.digest(data / MARK)} if (data / MARK).exists() else {}
    now |= {f"{source.name}/{name}": one for source in _entries(data) for name, one in trees.digests(source).items()}
    return found == now


def _go_back(data: Path, backup: Path) -> list[str]:
    names = [*(source.name for source in _entries(data)), MARK]
    away = data / f"undone-{backup.name}"
    here = [name for name in names if (backup / name).exists()]
    return [
        shlex.join(["mkdir", str(away)]),
        shlex.join(["mv", *(str(data / name) for name in names), str(away)]),
        shlex.join(["cp", "-a", *(str(backup / name) for name in here), str(data)]),
    ]


def _entries(data: Path) -> list[Path]:
    return [data / name for name in ENTRIES if (data / name).exists()]


@contextlib.contextmanager
def _alone(data: Path) -> Iterator[None]:
    """Keeps servers off the folder."""
    config = Config(data=data)
    (data / "run").mkdir(mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as held:
        for process in ("supervisor", "engine"):
            lock = DataLock(config.lock_file(process), process, "sds upgrade")
            try:
                lock.take(LOCK_WAIT_S)
            except EngineRunning as error:
                raise EngineRunning(error.detail, accepted="a data folder whose server was stopped") from None
            held.callback(lock.release)
        yield
