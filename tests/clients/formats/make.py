"""Makes the archive of a data folder and its disks as this program writes them, for the programs that come after it.

    unshare --uts sh -c 'hostname node && exec python -m tests.clients.formats.make 2'

writes `format-2.tar.xz` beside this file; it is to be run by the last program that writes the format. The archive has

    data/            the data folder after kill -9, without token, logs and sockets
    *.img            the disks, sparse
    contents.json    what REST listed, and what hosts are to read

The disks lie below BASE while it is made, and the documents name them there: who unpacks the archive elsewhere has to
write them anew (`tests/clients/test_upgrade.py`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.clients.conftest import bare_server
from tests.clients.qemu import qemu_io, until
from tests.server import Server

BASE = Path("/tmp/sds-format")
MIB = 1 << 20
TIB = 1 << 40
DISK_BYTES = 64 * MIB
HOSTS: tuple[dict[str, str], ...] = (
    {"name": "pacs1", "nqn": "nqn.2014-08.org.example:pacs1", "iqn": "iqn.2026-11.org.example:pacs1"},
    {"name": "ris", "nqn": "nqn.2014-08.org.example:ris"},
    {"name": "nobody", "iqn": "iqn.2026-11.org.example:nobody"},
)
LISTS = ("pools", "disks", "volumes", "hosts", "exports")


def make_first_part(server: Server) -> dict[str, list[str]]:
    """Pools, volumes, hosts and exports, and a pattern on each volume; reads that show it."""
    rest = server.rest
    for name, extent_bytes, disks in (
        ("archive", MIB, (("flash", "flash", None), ("hdd", "hdd", None))),
        ("small", MIB // 4, (("shelf", "shelf", 70),)),
    ):
        rest.post("/v1/pools", {"name": name, "extent_bytes": extent_bytes})
        for file, tier, rank in disks:
            path = BASE / f"{file}.img"
            with path.open("wb") as disk:
                disk.truncate(DISK_BYTES)
            rest.post("/v1/disks", {"pool": name, "path": str(path), "tier": tier, "rank": rank})
    rest.post("/v1/pools", {"name": "empty"})
    for host in HOSTS:
        rest.post("/v1/hosts", host)
    for volume, pool, size_bytes in (
        ("pacs", "archive", TIB),
        ("ris", "archive", 64 * MIB),
        ("gone", "archive", MIB),
        ("lab", "small", 3 * TIB),
    ):
        rest.post("/v1/volumes", {"name": volume, "pool": pool, "size_bytes": size_bytes})
        server.export(volume, "iscsi")
    server.export("pacs", "nvme", "pacs1")
    server.export("ris", "nvme", "ris")
    rest.patch("/v1/volumes/ris", {"size_bytes": 96 * MIB})
    rest.request("PUT", "/v1/pools/archive/scrub", json={"interval_hours": 100, "bytes_per_second_max": 50 * MIB})
    write(server, "pacs", "write -P 7 0 1M", "write -P 8 9G 3M", "discard 9217M 1M")
    write(server, "ris", *(f"write -P {number + 1} {number * 97 % 95}M 4k" for number in range(40)))
    write(server, "lab", "write -P 5 1T 300k", "write -P 6 1M 64k")
    write(server, "gone", "write -P 9 0 1M")
    rest.delete("/v1/exports/gone.iscsi")
    rest.delete("/v1/volumes/gone")
    until(lambda: server.allocated_bytes("archive") < 6 * MIB, "the deleted volume's space", server)
    return {
        "pacs": ["read -P 7 0 1M", "read -P 8 9G 1M", "read -P 0 9217M 1M", "read -P 8 9218M 1M", "read -P 0 1M 1M"],
        "ris": [f"read -P {number + 1} {number * 97 % 95}M 4k" for number in range(40)],
        "lab": ["read -P 5 1T 300k", "read -P 6 1M 64k", "read -P 0 2T 1M"],
    }


def make_second_part(server: Server) -> dict[str, list[str]]:
    """What only the journal has when the node is killed: data that was flushed, a volume and its documents."""
    server.rest.post("/v1/volumes", {"name": "late", "pool": "archive", "size_bytes": 32 * MIB})
    server.export("late", "iscsi")
    server.export("late", "nvme", "pacs1")
    write(server, "late", "write -P 33 1M 200k", "write -P 34 20M 4k")
    write(server, "pacs", "write -P 35 700G 128k", "write -P 36 512k 8k", "discard 9218M 512k")
    return {
        "late": ["read -P 33 1M 200k", "read -P 34 20M 4k", "read -P 0 2M 1M"],
        "pacs": ["read -P 7 0 512k", "read -P 36 512k 8k", "read -P 35 700G 128k", "read -P 8 9G 1M",
                 "read -P 0 9217M 1536k", "read -P 8 9439744k 512k"],
    }  # fmt: skip


def write(server: Server, volume: str, *steps: str) -> None:
    """Writes through the volume's iSCSI export, and flushes."""
    said = qemu_io(url(server, volume), *steps, "flush")
    assert "failed" not in said, said


def url(server: Server, volume: str) -> str:
    """A volume's iSCSI export, as QEMU takes it."""
    (export,) = [one for one in server.rest.items("/v1/exports") if one["id"] == f"{volume}.iscsi"]
    return f"iscsi://127.0.0.1:{server.iscsi_port}/{export['iqn']}/{export['lun']}"


def listed(server: Server) -> dict[str, list[Any]]:
    """All that REST lists."""
    return {kind: list(server.rest.items(f"/v1/{kind}")) for kind in LISTS}


def make(archive: Path) -> None:
    """Makes the data folder and its disks, and packs them.

    Raises:
        AssertionError: BASE exists, or the node did not do what was asked of it.
    """
    assert not BASE.exists(), f"{BASE} is in the way"
    BASE.mkdir()
    try:
        with bare_server(BASE) as server:
            server.start()
            reads = make_first_part(server)
            assert server.stop() == 0
            server.start()
            reads |= make_second_part(server)
            for volume, steps in reads.items():
                said = qemu_io(url(server, volume), *steps)
                assert "failed" not in said, said
            contents = {**listed(server), "reads": reads}
            server.kill_all()
            (BASE / "contents.json").write_text(json.dumps(contents, indent=1) + "\n")
            pack(archive)
    finally:
        shutil.rmtree(BASE)


def pack(archive: Path) -> None:
    """Packs BASE, without what belongs to this one run: RocksDB's own logs name its folder, the token is a secret."""
    packed = ["data/node", "data/pools", "contents.json", *(path.name for path in sorted(BASE.glob("*.img")))]
    subprocess.run(
        ["tar", "--create", "--file", archive, "--use-compress-program", "xz -9e", "--sparse", "--sort=name",
         "--owner=0", "--group=0", "--numeric-owner", "--exclude=LOG", "--exclude=LOG.old.*", *packed],
        cwd=BASE,
        check=True,
    )  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Packs a data folder and its disks as this program writes them.")
    parser.add_argument("format", type=int, help="the format that this program writes")
    chosen = parser.parse_args()
    archive = Path(__file__).with_name(f"format-{chosen.format}.tar.xz")
    make(archive)
    print(f"{archive}: {archive.stat().st_size} bytes")


if __name__ == "__main__":
    main()
