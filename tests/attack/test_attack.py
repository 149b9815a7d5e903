"""`sds serve` under attack: memory stays below what the configuration allows, and others are served meanwhile.

The attacks are those of `python -m bench.attack`, one after the other on one node, shorter. How much slower the host
and the administrator beside them become is that program's to report; here nothing of theirs may fail.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.attack import Plan, measure
from bench.attacks import ATTACKS
from bench.programs import Programs

# The load generator may have to be built first.
pytestmark = pytest.mark.timeout(900)

NAMES = [attack.__name__ for attack in ATTACKS]
GATEWAY_BYTES_MAX = 256 << 20


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All attacks, a second or two each."""
    folder: Path = tmp_path_factory.mktemp("attack")
    return measure(Programs.build(only="sds-nvme-load"), Plan(seconds=2), folder)


@pytest.mark.parametrize("name", ["none", *NAMES])
def test_others_are_served_and_memory_is_bounded(result: dict[str, Any], name: str) -> None:
    (seen,) = (one for one in result["attacks"] if one["attack"] == name)
    # The load generator ends with an error if a command of its fails, or its connection breaks.
    assert seen["load"]["failed"] == 0
    assert seen["load"]["commands"] > 0
    assert seen["rest_failed"] == 0
    assert seen["resident"]["engine"] <= result["resident_bytes_max"]
    assert seen["resident"]["gateway"] <= GATEWAY_BYTES_MAX
    assert (seen["amount"] > 0) == (name != "none"), "the attack took place"


def test_hosts_that_were_cut_off_and_all_others_leave_nothing(result: dict[str, Any]) -> None:
    assert result["left"] == 0
