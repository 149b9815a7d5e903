"""The oracle: what a host asked of its part of a volume, what it was told, and so what it may find there.

Every sector that is written says whose it is, where it belongs and which request wrote it; so a wrong sector is named:
lost, brought back, misplaced, foreign, torn.
"""

from __future__ import annotations

import itertools
import random
import struct
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.durability.initiator import SECTOR_BYTES, Initiator, InitiatorError

_STAMP = struct.Struct("<8sIIQQ")
_MAGIC = b"sds host"
_NEVER = 1 << 63
READ_SECTORS_MAX = 512
FOUND_MAX = 5


def stamp(owner: int, sector: int, request: int) -> bytes:
    """A sector's content."""
    return _STAMP.pack(_MAGIC, owner, 0, sector, request) * (SECTOR_BYTES // _STAMP.size)


@dataclass
class Request:
    """A write, or an unmap, of some sectors. Times are those of the monotonic clock, in nanoseconds."""

    number: int
    sector: int
    sectors: int
    zeros: bool
    asked_ns: int
    answered_ns: int = _NEVER
    durable_ns: int = _NEVER


@dataclass
class History:
    """One writer's part of a volume, `[first, first + sectors)`; nobody else writes there.

    Args:
        owner: a number that no other part has, in any volume.
    """

    owner: int
    first: int
    sectors: int
    requests: list[Request] = field(default_factory=list)
    _flushed_to: int = 0

    def work(self, host: Initiator, seed: int, requests_max: int, pause_s: float, goes_on: Callable[[], bool]) -> None:
        """Writes, unmaps and flushes at random, one request after the other, until the target fails or it is enough.

        A request that fails is one that was not answered.
        """
        chance = random.Random(seed)
        numbers = itertools.count(1)
        for _ in range(requests_max):
            if not goes_on():
                return
            try:
                self._step(host, chance, numbers)
            except InitiatorError:
                return
            time.sleep(pause_s)

    def _step(self, host: Initiator, chance: random.Random, numbers: itertools.count[int]) -> None:
        kind = chance.random()
        if kind < 0.1:
            host.flush()
            self._flushed(time.monotonic_ns())
            return
        # Small ones, whole blocks, and some that are more than a chunk; half of them where others were lately.
        length = chance.choice([1, 3, 8, 8, 8, 16, 64, 256])
        room = self.sectors - length
        at = chance.randrange(min(room, 256)) if chance.random() < 0.5 else chance.randrange(room)
        if length >= 8:
            at -= at % 8
        request = Request(next(numbers), self.first + at, length, kind > 0.85, time.monotonic_ns())
        self.requests.append(request)
        fua = kind < 0.15
        if request.zeros:
            host.unmap(request.sector, request.sectors)
        else:
            data = b"".join(
                stamp(self.owner, sector, request.number)
                for sector in range(request.sector, request.sector + request.sectors)
            )
            host.write(request.sector, data, fua=fua)
        request.answered_ns = time.monotonic_ns()
        if fua and not request.zeros:
            request.durable_ns = request.answered_ns

    def _flushed(self, answered_ns: int) -> None:
        for request in self.requests[self._flushed_to :]:
            # One that was never answered may be done or not, for ever.
            if request.answered_ns != _NEVER:
                request.durable_ns = min(request.durable_ns, answered_ns)
        self._flushed_to = len(self.requests)

    def wrong(self, host: Initiator, at_ns: int) -> list[str]:
        """Reads all of it, and says what may not be there after a power cut at `at_ns`."""
        by_sector: defaultdict[int, list[Request]] = defaultdict(list)
        for request in self.requests:
            if request.asked_ns <= at_ns:
                for sector in range(request.sector, request.sector + request.sectors):
                    by_sector[sector].append(request)
        found: list[str] = []
        for start in range(self.first, self.first + self.sectors, READ_SECTORS_MAX):
            count = min(READ_SECTORS_MAX, self.first + self.sectors - start)
            data = host.read(start, count)
            for sector in range(start, start + count):
                content = data[(sector - start) * SECTOR_BYTES : (sector - start + 1) * SECTOR_BYTES]
                said = self._judge(sector, content, by_sector[sector], at_ns)
                if said:
                    found.append(f"owner {self.owner}, sector {sector}: {said}")
                    if len(found) == FOUND_MAX:
                        return found
        return found

    def _judge(self, sector: int, content: bytes, requests: list[Request], at_ns: int) -> str | None:
        # What must be there is the newest that is sure to be; anything asked later may be.
        possible: list[Request] = []
        for request in reversed(requests):
            possible.append(request)
            if request.durable_ns <= at_ns:
                break
        else:
            possible.append(Request(0, sector, 1, zeros=True, asked_ns=0))
        if not any(content):
            return None if any(request.zeros for request in possible) else f"zeros, not {_names(possible)}"
        magic, owner, _, place, number = _STAMP.unpack_from(content)
        if magic != _MAGIC:
            return f"bytes that nobody wrote: {content[:32].hex()}"
        if content != stamp(owner, place, number):
            return f"torn within: request {number} of owner {owner}"
        if (owner, place) != (self.owner, sector):
            return f"what owner {owner} wrote to its sector {place}"
        if any(request.number == number and not request.zeros for request in possible):
            return None
        return f"request {number}, not {_names(possible)}"


def _names(requests: list[Request]) -> str:
    return " or ".join(f"{'zeros of ' if request.zeros else ''}request {request.number}" for request in requests)
