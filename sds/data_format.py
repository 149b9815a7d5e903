"""Which format a data folder has, and whether this program takes it.

DIR/format.json says so; it covers all that lies under DIR: the node's RocksDB, the pools' RocksDB folders and
carry-over rings, the documents in them and beside them. Disks have versions of their own (docs/on-disk.md). Format 1 is
what was written before there was a mark.

`sds upgrade` puts a new tree in place by renames (`sds.upgrade.switching`). Until the last of them DIR/upgrading tells
of it, and nobody else may use the folder.
"""

from __future__ import annotations

from pathlib import Path

from sds import __version__, durable, envelope
from sds.errors import DataFormat, SdsError

FORMAT = 2  # What this program writes, and the only one that it serves from.
MARK = "format.json"
ENTRIES = ("node", "pools")  # What an upgrade may change, in the order in which it is put in place.
WORK = "upgrading"
_NAME, _VERSION = "data_folder", 1


def mark_of(number: int) -> bytes:
    """What DIR/format.json says of a folder of format `number` that this program wrote."""
    return envelope.seal(_NAME, _VERSION, {"format": number, "written_by": f"sds {__version__}"}) + b"\n"


def read(data: Path) -> int | None:
    """The format of a data folder, None if there is nothing in it yet.

    Raises:
        DataFormat: its mark can't be read; an upgrade was cut off while it put the new files in place; or it is newer
            than this program.
    """
    if cut_off(data):
        raise DataFormat(
            f"an upgrade of {data} was cut off while it put the new files in place",
            accepted=f"sds upgrade --data {data}, which finishes it",
        )
    mark = data / MARK
    try:
        said = envelope.unseal(_NAME, _VERSION, mark.read_bytes())
        number, program = int(said["format"]), str(said["written_by"])
    except FileNotFoundError:
        return 1 if any(_holds_something(data / name) for name in ENTRIES) else None
    except OSError as error:
        raise DataFormat(f"{mark} can't be read: {error.strerror}") from error
    except (SdsError, KeyError, TypeError, ValueError) as error:
        raise DataFormat(
            f"{mark} is damaged: {error!s}",
            accepted=f"the file as a backup has it; or, without the file: sds upgrade --data {data}, which reads all",
        ) from error
    if number > FORMAT:
        raise DataFormat(
            f"{data} is of format {number}, written by {program}; this program, sds {__version__}, takes format "
            f"{FORMAT}",
            accepted=f"{program} or a later one; or a backup of format {FORMAT}, which an upgrade left in {data}",
        )
    if number < 1:
        raise DataFormat(f"{mark} says format {number}, which never was", accepted=f"1 to {FORMAT}")
    return number


def require(data: Path) -> bool:
    """Whether a data folder holds something, which then is of this program's format.

    Raises:
        DataFormat: as `read`; or it is older, and the message says how to upgrade it.
    """
    number = read(data)
    if number is not None and number < FORMAT:
        raise DataFormat(
            f"{data} is of format {number}; this program, sds {__version__}, takes format {FORMAT}",
            accepted=f"after: sds upgrade --data {data} --dry-run, then: sds upgrade --data {data}",
        )
    return number is not None


def admit(data: Path) -> None:
    """As `require`; a data folder that holds nothing gets this program's mark.

    Raises:
        DataFormat: as `require`.
    """
    if not require(data):
        durable.put_in_place(durable.write_draft(data / MARK, mark_of(FORMAT)), data / MARK)


def cut_off(data: Path) -> bool:
    """Whether an upgrade began to put its new tree in place and did not end."""
    work = data / WORK
    return (work / "new" / MARK).exists() and any((work / "old" / name).exists() for name in ENTRIES)


def _holds_something(path: Path) -> bool:
    return path.is_dir() and any(path.iterdir())
