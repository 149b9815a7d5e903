"""Fixtures for every test: the guest (a real Linux host) and the server (the product as a user starts it)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.guest.guest import Guest, GuestError, Kind
from tests.server import Server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts what needs no guest first, then the harness, then clients and crashes: it shows at its cheapest place."""

    def place(item: pytest.Item) -> int:
        if {"clients", "durability"} & set(item.path.parts):
            return 2
        return 1 if item.get_closest_marker("guest") else 0

    items.sort(key=place)


class GuestKeeper:
    """Keeps a guest of each kind booted for the whole session, and boots another after one has died."""

    def __init__(self) -> None:
        self._guests: dict[Kind, Guest] = {}

    def get(self, kind: Kind) -> Guest:
        """A live guest."""
        if kind not in self._guests or not self._guests[kind].alive:
            self.drop(kind)
            self._guests[kind] = Guest(kind)
        return self._guests[kind]

    def drop(self, kind: Kind) -> None:
        """Powers the guest off, if there is one."""
        if guest := self._guests.pop(kind, None):
            guest.stop()

    @contextmanager
    def clean(self, kind: Kind) -> Iterator[Guest]:
        """A booted guest with nothing mounted or attached. Complaints of its kernel fail the test."""
        guest = self.get(kind)
        yield guest
        if not guest.alive:
            return
        try:
            complaints = [line for line in guest.run("clean", limit_s=40).lines if line.startswith("kernel: ")]
        except GuestError:
            # A host that can't let go of a volume would spoil the tests that follow.
            self.drop(kind)
            raise
        assert not complaints, "the guest's kernel complained:\n" + "\n".join(complaints)


@pytest.fixture(scope="session")
def guest_keeper() -> Iterator[GuestKeeper]:
    """The session's guests, not yet booted."""
    keeper = GuestKeeper()
    yield keeper
    for kind in Kind:
        keeper.drop(kind)


@pytest.fixture
def guest(guest_keeper: GuestKeeper) -> Iterator[Guest]:
    """Debian's own kernel, emulated: the guest for everything."""
    with guest_keeper.clean(Kind.EMULATED) as guest:
        yield guest


@pytest.fixture
def user_mode_guest(guest_keeper: GuestKeeper) -> Iterator[Guest]:
    """User-mode Linux: the cheap guest, for iSCSI alone."""
    with guest_keeper.clean(Kind.USER_MODE) as guest:
        yield guest


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the embedded default that the tests of one file share."""
    # Two cores, however many the machine has: each volume's pages are on both, and requests cross over.
    with Server(tmp_path_factory.mktemp("sds") / "data", ["--cores", "2"]) as server:
        yield server


@pytest.fixture
def sds_server(module_server: Server, request: pytest.FixtureRequest) -> Iterator[Server]:
    """The file's server, up and healthy. Any WARN or ERROR that the test did not allow fails it."""
    if not module_server.healthy():
        module_server.kill_all()
        module_server.start()
        module_server.complaints(())  # The test that broke it has reported them.
    yield module_server
    allowed = [pattern for marker in request.node.iter_markers("allow_log") for pattern in marker.args]
    complaints = module_server.complaints(allowed)
    assert not complaints, "unlisted WARN or ERROR in the server's logs:\n" + "\n".join(complaints)
