"""Fixtures for every test: the guest (a real Linux host) and the server (the product as a user starts it)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.guest.guest import Guest, GuestError


class GuestKeeper:
    """Keeps one guest booted for the whole session, and boots another after one has died."""

    def __init__(self) -> None:
        self._guest: Guest | None = None

    def get(self) -> Guest:
        """A live guest."""
        if self._guest is None or not self._guest.alive:
            self.drop()
            self._guest = Guest()
        return self._guest

    def drop(self) -> None:
        """Powers the guest off, if there is one."""
        if self._guest is not None:
            self._guest.stop()
            self._guest = None


@pytest.fixture(scope="session")
def guest_keeper() -> Iterator[GuestKeeper]:
    """The session's guest, not yet booted."""
    keeper = GuestKeeper()
    yield keeper
    keeper.drop()


@pytest.fixture
def guest(guest_keeper: GuestKeeper) -> Iterator[Guest]:
    """A booted guest with nothing mounted or attached. Complaints of its kernel fail the test."""
    guest = guest_keeper.get()
    yield guest
    if not guest.alive:
        return
    try:
        complaints = [line for line in guest.run("clean", limit_s=40).lines if line.startswith("kernel: ")]
    except GuestError:
        # A host that can't let go of a volume would spoil the tests that follow.
        guest_keeper.drop()
        raise
    assert not complaints, "the guest's kernel complained:\n" + "\n".join(complaints)
