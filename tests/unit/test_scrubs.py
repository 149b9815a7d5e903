"""When a scrub is due."""

from __future__ import annotations

from sds.engine.scrubs import RATE_BYTES_PER_S, Schedule

HOUR_S = 3600


def test_a_pool_is_scrubbed_when_its_interval_is_over_and_never_without_one() -> None:
    weekly = Schedule(168, RATE_BYTES_PER_S, last_began_s=1000.0)
    assert not weekly.due(1000.0 + 168 * HOUR_S - 1)
    assert weekly.due(1000.0 + 168 * HOUR_S)
    assert not Schedule(0, RATE_BYTES_PER_S, last_began_s=0.0).due(1e10)


def test_a_schedule_is_read_back_from_its_document() -> None:
    schedule = Schedule(24, 1 << 20, last_began_s=1234.5)
    assert Schedule.decode(schedule.encode()) == schedule
