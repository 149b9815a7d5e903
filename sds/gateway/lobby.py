"""Where TCP connections to REST wait until one of their requests had the token.

Who has no token is served from what is left: each read of such a connection takes one of `READS_PER_S`, and gives it
back if a request with the token was in it. When none is left, addresses take turns, whatever the number of their
connections, so that an administrator waits for one turn at most for each address that floods. The one that waits
longest, of the address that has most waiting, goes when there are more than `CONNECTIONS_MAX`.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from typing import Protocol

CONNECTIONS_MAX = 512
READS_PER_S = 200
READS_AT_ONCE_MAX = 100  # What may be saved up while nobody asks.
IPV6_NETWORK_BITS = 64  # What one site has to itself (RFC 6177); it may take any address of it.


class Visitor(Protocol):
    """A connection as the lobby sees it."""

    address: str

    def let_in(self) -> None:
        """It may read once."""

    def turn_out(self) -> None:
        """It is to be closed."""


class Lobby:
    """The connections of one server; all calls from its event loop.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: set[Visitor] = set()
        # By address, the oldest first: who has no whole request, and who is not to read until it is their turn.
        self._waiting: dict[str, dict[Visitor, None]] = {}
        self._held: dict[str, dict[Visitor, None]] = {}
        self._reads = float(READS_AT_ONCE_MAX)
        self._counted_at = clock()
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, visitor: Visitor) -> None:
        """A connection is there; if it is one too many, one is turned out, which may be itself."""
        self._open.add(visitor)
        self.wait(visitor)
        if len(self._open) > CONNECTIONS_MAX:
            crowd = max(self._waiting.values(), key=len)
            next(iter(crowd)).turn_out()

    def leave(self, visitor: Visitor) -> None:
        """A connection has ended, or is about to; may be said twice."""
        self._open.discard(visitor)
        self.stop_waiting(visitor)
        _remove(self._held, visitor)

    def wait(self, visitor: Visitor) -> None:
        """A connection has no whole request."""
        self._waiting.setdefault(visitor.address, {})[visitor] = None

    def stop_waiting(self, visitor: Visitor) -> None:
        """A connection's request is whole; until `wait`, it isn't turned out."""
        _remove(self._waiting, visitor)

    def may_read(self, visitor: Visitor) -> bool:
        """Takes a read, or says no: then `let_in` comes when it is the connection's turn."""
        self._count()
        if self._reads >= 1 and not self._held:
            self._reads -= 1
            return True
        self._held.setdefault(visitor.address, {})[visitor] = None
        self._set_timer()
        return False

    def trust(self, visitor: Visitor, reads: int) -> None:
        """The token was in what was read: the reads come back, and it is held no more."""
        _remove(self._held, visitor)
        self._reads = min(self._reads + reads, READS_AT_ONCE_MAX)

    def _count(self) -> None:
        now = self._clock()
        self._reads = min(self._reads + (now - self._counted_at) * READS_PER_S, READS_AT_ONCE_MAX)
        self._counted_at = now

    def _set_timer(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(1 / READS_PER_S, self._call)

    def _call(self) -> None:
        self._timer = None
        self._count()
        while self._held and self._reads >= 1:
            self._reads -= 1
            self._next().let_in()
        if self._held:
            self._set_timer()

    def _next(self) -> Visitor:
        address, queue = next(iter(self._held.items()))
        visitor = next(iter(queue))
        del self._held[address], queue[visitor]
        if queue:
            self._held[address] = queue  # Behind all other addresses.
        return visitor


def site(host: str) -> str:
    """What is one address for the lobby: of IPv6 the network, of IPv4 written as IPv6 the latter.

    Args:
        host: an IP address; anything else is taken as it is.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), IPV6_NETWORK_BITS), strict=False))
    return str(address)


def _remove(queues: dict[str, dict[Visitor, None]], visitor: Visitor) -> None:
    queue = queues.get(visitor.address)
    if queue is not None and visitor in queue:
        del queue[visitor]
        if not queue:
            del queues[visitor.address]
