"""Archives of data folders as former programs wrote them, unpacked where a test wants them."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sds import envelope
from sds.engine.store import Change, Store
from tests.clients.formats.make import BASE


@dataclass(frozen=True)
class Unpacked:
    """What `make.py` packed.

    Attributes:
        data: the data folder.
        contents: what REST listed, with the disks where they are now, and `reads` by volume.
    """

    data: Path
    contents: dict[str, Any]


def unpack(number: int, folder: Path) -> Unpacked:
    """Unpacks the archive of format `number`; the documents then name the disks in `folder`."""
    archive = Path(__file__).with_name(f"format-{number}.tar.xz")
    subprocess.run(["tar", "--extract", "--file", archive, "--no-same-owner"], cwd=folder, check=True)
    data = folder / "data"
    data.chmod(0o700)
    store = Store(data / "node")
    changes: list[Change] = [(key, _moved(value, folder)) for key, value in store.scan(b"pool/", b"", 100)]
    store.put(changes)
    store.close()
    for copy in data.glob("pools/*/pool.json"):
        copy.write_bytes(_moved(copy.read_bytes(), folder) + b"\n")
    contents = json.loads((folder / "contents.json").read_text().replace(f"{BASE}/", f"{folder}/"))
    return Unpacked(data, contents)


def _moved(document: bytes, folder: Path) -> bytes:
    values = json.loads(document.replace(f"{BASE}/".encode(), f"{folder}/".encode()))
    if "crc32" in values:
        return envelope.seal("pool", values["version"], values["pool"])
    return json.dumps(values, separators=(",", ":")).encode()
