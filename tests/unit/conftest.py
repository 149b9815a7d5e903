"""Fixtures of the unit tests."""

from __future__ import annotations

import os
import random

import pytest


@pytest.fixture
def seed() -> int:
    """A random test's seed: SDS_SEED, else a new one; pytest shows what was printed if the test fails."""
    seed = int(os.environ.get("SDS_SEED", random.randrange(1 << 32)))
    print(f"SDS_SEED={seed}")
    return seed
