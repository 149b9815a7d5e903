"""The embedded default's sizes."""

from __future__ import annotations

import pytest

from sds.engine.sizes import FREE_SHARE, sizes
from sds.names import GIB, MIB, TIB


@pytest.mark.parametrize("free", [0, 100 * MIB, 10 * GIB, 50 * GIB, 64 * GIB, TIB, 100 * TIB])
def test_the_disks_take_at_most_a_quarter_of_the_free_space(free: int) -> None:
    flash, hdd = sizes(free)
    assert flash + hdd <= free // FREE_SHARE
    assert flash <= 4 * GIB
    assert hdd <= 12 * GIB
    assert flash % MIB == hdd % MIB == 0


def test_much_space_gives_the_whole_default() -> None:
    assert sizes(TIB) == (4 * GIB, 12 * GIB)
