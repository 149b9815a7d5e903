"""The log-scan rule itself: an unlisted WARN or ERROR fails a test, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.server import Server


def entry(level: str, message: str) -> str:
    """One line of a log."""
    return json.dumps({"ts": "2026-01-01T00:00:00Z", "level": level, "target": "sds.engine", "message": message}) + "\n"


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """A server that is never started, for its log folder."""
    (tmp_path / "log").mkdir()
    return Server(tmp_path)


def test_unlisted_warnings_and_errors_are_found_once(server: Server) -> None:
    log = server.data / "log" / "engine.log"
    log.write_text(entry("INFO", "up") + entry("WARN", "slow disk") + entry("ERROR", "disk gone"))
    assert len(server.complaints(())) == 2
    assert server.complaints(()) == []
    with log.open("a") as more:
        more.write(entry("WARNING", "slow disk"))
    assert len(server.complaints(())) == 1


def test_listed_ones_are_allowed_by_level_target_and_message(server: Server) -> None:
    (server.data / "log" / "engine.log").write_text(entry("WARN", "slow disk") + entry("ERROR", "slow disk"))
    (left,) = server.complaints(["^WARN sds.engine: slow"])
    assert "ERROR" in left


def test_a_line_that_is_no_log_line_is_found(server: Server) -> None:
    (server.data / "log" / "engine.log").write_text("thread panicked\n" + entry("INFO", "up"))
    (found,) = server.complaints(())
    assert "thread panicked" in found


def test_a_line_still_being_written_waits_for_its_end(server: Server) -> None:
    log = server.data / "log" / "engine.log"
    whole = entry("ERROR", "disk gone")
    log.write_text(whole[:20])
    assert server.complaints(()) == []
    log.write_text(whole)
    assert len(server.complaints(())) == 1
