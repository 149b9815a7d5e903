"""Fixtures of the client tests: a volume, exported and attached over one protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.guest.guest import Guest
from tests.guest.host import WIRES, Host, Wire
from tests.server import Server

GIB = 1 << 30

NewHost = Callable[[int], tuple[Host, str]]


@contextmanager
def bare_server(folder: Path) -> Iterator[Server]:
    """A server without the embedded default that is not started yet, its data in `folder`/data; gone at the end."""
    config = folder / "sds.toml"
    config.write_text("embedded_default = false\n")
    server = Server(folder / "data", ["--cores", "2", "--config", str(config)])
    try:
        yield server
    finally:
        server.__exit__(None, None, None)


def host_of(server: Server, guest: Guest, wire: Wire, volume: str) -> Host:
    """Exports a volume to any host over the wire's protocol; the guest as its host, not yet attached."""
    nvme = wire.protocol == "nvme"
    export = server.export(volume, "nvme" if nvme else "iscsi")
    return Host(guest, wire, export.target, server.nvme_port if nvme else server.iscsi_port, export.unit)


@pytest.fixture(params=WIRES, ids=str)
def wire(request: pytest.FixtureRequest) -> Wire:
    """Each protocol, without and with its digests."""
    assert isinstance(request.param, Wire)
    return request.param


@pytest.fixture
def wire_guest(request: pytest.FixtureRequest, wire: Wire) -> Guest:
    """The cheapest guest that has the wire's initiator; the digests stay with Debian's own kernel."""
    guest = request.getfixturevalue("user_mode_guest" if wire.name == "iscsi" else "guest")
    assert isinstance(guest, Guest)
    return guest


@pytest.fixture
def new_host(sds_server: Server, wire_guest: Guest, wire: Wire) -> Iterator[NewHost]:
    """Makes a volume of the given size in bytes and attaches the guest to it; returns host and volume name."""
    made: list[tuple[Host, str]] = []

    def make(size_bytes: int) -> tuple[Host, str]:
        volume = sds_server.new_volume(size_bytes)
        host = host_of(sds_server, wire_guest, wire, volume)
        made.append((host, volume))
        host.attach()
        return host, volume

    yield make
    for host, _ in made:
        if host.dev and wire_guest.alive:
            host.detach()
