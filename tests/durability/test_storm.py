"""kill -9 at random moments under load over both protocols: nothing acknowledged is lost, nothing comes back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.durability.host import HostError
from tests.durability.node import Node, new_node
from tests.durability.storm import DISK_BYTES, Storm, storm_program

ROUNDS = 50

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with new_node(tmp_path, DISK_BYTES) as node:
        yield node


def test_kills_at_random_moments_lose_nothing_and_bring_nothing_back(node: Node) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}: python -m tests.durability.storm --rounds {ROUNDS} --seed {seed}")
    storm = Storm(node, storm_program(), seed)
    storm.run(ROUNDS)
    print(storm.tally)
    tally = storm.tally
    assert tally.rounds == ROUNDS
    assert min(tally.engine_kills, tally.supervised_kills + tally.all_kills, tally.open) > 0
    # Some twenty requests are open at each kill; far fewer writes than these would be no load.
    assert tally.changes > 100 * ROUNDS


class _ForgetfulNode(Node):
    """A kill takes the carry-over ring too, as if it were not there: a planted defect."""

    def kill(self) -> None:
        super().kill()
        for ring in self.server.data.glob("pools/*/carry-over"):
            ring.unlink()


def test_the_storm_finds_writes_that_a_missing_ring_lost(tmp_path: Path) -> None:
    with new_node(tmp_path, DISK_BYTES, _ForgetfulNode) as node, pytest.raises(HostError, match=r"reads|stale"):
        Storm(node, storm_program(), seed=1).run(10)
