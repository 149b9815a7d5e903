"""Supervision, with real processes that stand in for the three."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sds import serve
from sds.config import Config
from sds.errors import EngineRunning
from sds.process import DataLock, pid_file

LIMIT_S = 10


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        # What is waited for is another process's doing; there is no event for it.
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def _config(tmp_path: Path) -> Config:
    config = Config(data=tmp_path / "data")
    config.make_folders()
    return config


def _stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Has the children run a script instead: `python -m sds.NAME` finds it first on the path."""
    package = tmp_path / "path" / "sds"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for name in serve.CHILDREN:
        (package / f"{name}.py").write_text(textwrap.dedent(script))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.chdir(tmp_path)


WAITS = "import time\nprint('up', flush=True)\ntime.sleep(60)\n"


async def test_a_child_that_is_killed_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _stand_in(monkeypatch, tmp_path, WAITS)
    config = _config(tmp_path)
    caplog.set_level(logging.INFO, "sds.supervisor")
    child = serve.Child("engine", config)
    running = asyncio.create_task(child.run())
    log = config.log_file("engine")
    for round_number in (1, 2):
        await _until(lambda n=round_number: log.exists() and log.read_text().count("up") == n)  # type: ignore[misc]
        os.kill(int(caplog.messages[-1].rpartition("pid ")[2]), signal.SIGKILL)
    await _until(lambda: log.read_text().count("up") == 3)
    await child.stop()
    await asyncio.wait_for(running, LIMIT_S)
    assert sum("SIGKILL" in message for message in caplog.messages) == 2


async def test_a_child_that_keeps_dying_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _stand_in(monkeypatch, tmp_path, "import sys\nsys.exit(3)\n")
    monkeypatch.setattr(serve, "BACK_OFF_S_MAX", 0.01)
    monkeypatch.setattr(serve, "BACK_OFF_S_FIRST", 0.01)
    monkeypatch.setattr(serve, "RESTARTS_MAX", 3)
    await asyncio.wait_for(serve.Child("tiering", _config(tmp_path)).run(), LIMIT_S)
    assert "status 3, 3 times within 60 s: given up" in caplog.messages[-1]


async def test_a_child_that_ignores_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _stand_in(monkeypatch, tmp_path, "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAITS)
    monkeypatch.setattr(serve, "STOP_LIMIT_S", 0.3)
    config = _config(tmp_path)
    child = serve.Child("gateway", config)
    running = asyncio.create_task(child.run())
    await _until(lambda: config.log_file("gateway").exists() and "up" in config.log_file("gateway").read_text())
    await child.stop()
    await asyncio.wait_for(running, LIMIT_S)
    assert "did not stop" in caplog.text


def test_a_process_ends_with_its_supervisor(tmp_path: Path) -> None:
    # A parent that starts a child, says its pid and is killed.
    child = (
        "import time; from sds.process import follow_supervisor; follow_supervisor(); "
        "print('tied', flush=True); time.sleep(60)"
    )
    parent = (
        "import os, subprocess, sys, time\n"
        "env = os.environ | {'SDS_SUPERVISOR_PID': str(os.getpid())}\n"
        f"one = subprocess.Popen([sys.executable, '-c', {child!r}], env=env, start_new_session=True)\n"
        "print(one.pid, flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline().strip() for _ in range(2)]
    (pid,) = (int(line) for line in lines if line.isdigit())
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + LIMIT_S
    while _alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_second_process_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    words = f"in use by another engine: pid {os.getpid()} on "
    with DataLock(folder / "engine.lock", "engine"), pytest.raises(EngineRunning, match=words):
        DataLock(folder / "engine.lock", "engine").take(wait_s=0.1)
    # The first has gone.
    with DataLock(folder / "engine.lock", "engine"):
        pass


def test_a_pid_file_that_is_a_successors_stays(tmp_path: Path) -> None:
    path = tmp_path / "engine.pid"
    with pid_file(path):
        assert path.read_text() == f"{os.getpid()}\n"
        path.write_text("1\n")
    assert path.read_text() == "1\n"
