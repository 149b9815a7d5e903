"""The lobby of REST: who may read, in which order, and who goes when it is full."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from sds.gateway import lobby as module
from sds.gateway.lobby import CONNECTIONS_MAX, READS_AT_ONCE_MAX, READS_PER_S, Lobby, site

ENTRY_LIMIT_S = 10


class Diary(list["Guest"]):
    """Who was let in, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._grown = asyncio.Event()

    def append(self, guest: Guest) -> None:
        super().append(guest)
        self._grown.set()

    async def until(self, length: int) -> None:
        """Waits until so many were let in."""
        async with asyncio.timeout(ENTRY_LIMIT_S):
            while len(self) < length:
                self._grown.clear()
                await self._grown.wait()


@dataclass(eq=False)
class Guest:
    """A connection that writes down what the lobby says to it."""

    address: str
    said: Diary = field(default_factory=Diary)
    is_out: bool = False

    def let_in(self) -> None:
        self.said.append(self)

    def turn_out(self) -> None:
        self.is_out = True


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def _exhausted(clock: Clock) -> Lobby:
    lobby = Lobby(clock)
    guest = Guest("first")
    assert all(lobby.may_read(guest) for _ in range(READS_AT_ONCE_MAX))
    return lobby


async def test_addresses_take_turns_however_many_connections_each_has() -> None:
    clock = Clock()
    lobby = _exhausted(clock)
    said = Diary()
    flood = [Guest("flood", said) for _ in range(50)]
    late = Guest("administrator", said)
    for guest in [*flood, late]:
        assert not lobby.may_read(guest)
    clock.now = 51 / READS_PER_S
    await said.until(51)
    assert said == [flood[0], late, *flood[1:]]


async def test_no_more_reads_than_time_gives() -> None:
    clock = Clock()
    lobby = _exhausted(clock)
    said = Diary()
    for _ in range(10):
        lobby.may_read(Guest("flood", said))
    clock.now = 3 / READS_PER_S
    await said.until(3)
    await asyncio.sleep(5 / READS_PER_S)
    assert len(said) == 3
    clock.now = 3600.0
    assert not lobby.may_read(Guest("flood", said)), "those who wait go first"
    await said.until(11)
    assert sum(lobby.may_read(Guest("flood")) for _ in range(2 * READS_AT_ONCE_MAX)) == READS_AT_ONCE_MAX - 8


async def test_what_had_the_token_costs_nothing_and_waits_no_more() -> None:
    clock = Clock()
    lobby = Lobby(clock)
    trusted = Guest("administrator")
    assert lobby.may_read(trusted)
    for _ in range(READS_AT_ONCE_MAX - 1):
        assert lobby.may_read(Guest("flood"))
    said = Diary()
    trusted.said = said
    other = Guest("flood", said)
    assert not lobby.may_read(trusted)
    assert not lobby.may_read(other)
    lobby.trust(trusted, reads=1)
    await said.until(1)
    assert said == [other]


async def test_who_has_left_is_not_let_in() -> None:
    clock = Clock()
    lobby = _exhausted(clock)
    said = Diary()
    gone, there = Guest("a", said), Guest("a", said)
    for guest in (gone, there):
        lobby.enter(guest)
        assert not lobby.may_read(guest)
    lobby.leave(gone)
    lobby.leave(gone)
    clock.now = 1.0
    await said.until(1)
    assert said == [there]


def test_a_crowd_from_one_address_makes_room_for_others() -> None:
    lobby = Lobby(Clock())
    administrator = Guest("administrator")
    crowd = [Guest("flood") for _ in range(CONNECTIONS_MAX)]
    for guest in [administrator, *crowd]:
        lobby.enter(guest)
    assert [guest for guest in [administrator, *crowd] if guest.is_out] == [crowd[0]]


def test_who_is_being_answered_is_not_turned_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTIONS_MAX", 2)
    lobby = Lobby(Clock())
    answered = [Guest("a"), Guest("b")]
    for guest in answered:
        lobby.enter(guest)
        lobby.stop_waiting(guest)
    late = Guest("c")
    lobby.enter(late)
    assert late.is_out
    assert not any(guest.is_out for guest in answered)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:bbbb::2", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("a name", "a name"),
    ],
)
def test_one_site_is_one_address(host: str, expected: str) -> None:
    assert site(host) == expected
