"""A node of one pool on file disks whose engine runs by itself or under `sds serve`, and is killed either way."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.clients.conftest import bare_server
from tests.server import DEATH_LIMIT_S, Export, Server

MIB = 1 << 20
DISKS = 2
POOL = "storm"
# A page of the map has 512 extents, and pages are spread over the cores: what is used lies on both sides of an edge.
PAGE_BYTES = 512 * MIB
VOLUME_BYTES = 2 * PAGE_BYTES


@dataclass(frozen=True)
class Volume:
    """A volume that both protocols reach, and the part of it that is used."""

    name: str
    block_bytes: int
    part_bytes: int
    nvme: Export
    iscsi: Export


class Node:
    """The product on a data folder: all its processes, or the engine alone, which starts in a fraction of the time."""

    def __init__(self, server: Server, disk_bytes: int) -> None:
        self.server = server
        self.disks = [server.data.with_name(f"disk-{number}.img") for number in range(DISKS)]
        for disk in self.disks:
            with disk.open("wb") as file:
                file.truncate(disk_bytes)
        self.supervised = False
        self._engine: subprocess.Popen[bytes] | None = None

    def make_pool(self) -> None:
        """Starts all processes and makes the pool."""
        self.start_all()
        self.server.rest.post("/v1/pools", {"name": POOL, "extent_bytes": MIB})
        for disk in self.disks:
            self.server.rest.post("/v1/disks", {"pool": POOL, "path": str(disk), "tier": "flash"})

    def new_volumes(self, count: int, part_bytes: int) -> list[Volume]:
        """Makes volumes of 512-byte blocks and of the largest that the disks write as a whole, in turn, exported over
        both protocols.
        """
        largest = min(disk["physical_block_bytes"] for disk in self.server.rest.items("/v1/disks"))
        made = []
        for number in range(count):
            block_bytes = (512, largest)[number % 2]
            name = f"volume-{number}"
            body = {"name": name, "pool": POOL, "size_bytes": VOLUME_BYTES, "logical_block_bytes": block_bytes}
            self.server.rest.post("/v1/volumes", body)
            nvme, iscsi = (self.server.export(name, protocol) for protocol in ("nvme", "iscsi"))
            made.append(Volume(name, block_bytes, part_bytes, nvme, iscsi))
        return made

    def drop_volumes(self) -> None:
        """Deletes all volumes; their space comes back in the background."""
        for export in list(self.server.rest.items("/v1/exports")):
            self.server.rest.delete(f"/v1/exports/{export['id']}")
        for volume in list(self.server.rest.items("/v1/volumes")):
            self.server.rest.delete(f"/v1/volumes/{volume['name']}")

    def start_all(self) -> None:
        """Starts all processes and waits until REST answers."""
        self.server.start()
        self.supervised = True

    def launch_all(self) -> None:
        """Starts all processes and does not wait."""
        self.server.launch()
        self.supervised = True

    def launch_engine(self) -> None:
        """Starts the engine by itself and does not wait. Its log goes where the supervisor would have it."""
        server = self.server
        ports = {"rest": server.rest_port, "nvme": server.nvme_port, "iscsi": server.iscsi_port}
        addresses = [word for name, port in ports.items() for word in (f"--{name}", f"127.0.0.1:{port}")]
        command = [sys.executable, "-m", "sds.engine", "--data", str(server.data), *addresses, *server.extra]
        with (server.data / "log" / "engine.log").open("ab") as log:
            self._engine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.supervised = False

    def kill(self) -> None:
        """kill -9 of every process."""
        if self.supervised:
            self.server.kill_all()
        elif self._engine is not None:
            self._engine.kill()
            self._engine.wait(DEATH_LIMIT_S)
        self._engine = None


@contextlib.contextmanager
def new_node(folder: Path, disk_bytes: int, kind: type[Node] | None = None) -> Iterator[Node]:
    """A node in a folder; killed at the end, its disks removed."""
    with bare_server(folder) as server:
        node = (kind or Node)(server, disk_bytes)
        try:
            yield node
        finally:
            node.kill()
            for disk in node.disks:
                disk.unlink(missing_ok=True)
