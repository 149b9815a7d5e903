"""What each of the processes does at its start and end: log, pid file, signals, and the tie to the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sds.config import Config
from sds.errors import EngineRunning, SdsError

PR_SET_PDEATHSIG = 1  # linux/prctl.h
SUPERVISOR_VARIABLE = "SDS_SUPERVISOR_PID"
LOCK_WAIT_S = 5.0  # A predecessor that was killed needs this long at most until the kernel has closed its files.
LOCK_POLL_S = 0.02


class JsonLines(logging.Formatter):
    """One JSON object a line: ts (RFC 3339, UTC), level, target, message, and the trace where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        entry = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "target": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def log_to_stderr(level: str) -> None:
    """Sends every logger's lines to standard error.

    The supervisor gives each child its log file as standard error, systemd the journal: so what the core or the
    interpreter write there lands in the same place.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for noisy in ("asyncio", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def follow_supervisor() -> None:
    """Asks the kernel to send this process SIGTERM when the supervisor that started it dies, however it dies."""
    supervisor = os.environ.get(SUPERVISOR_VARIABLE)
    if supervisor is None:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(supervisor):
        # It died before the kernel knew of the tie.
        sys.exit(0)


@contextlib.contextmanager
def pid_file(path: Path) -> Iterator[None]:
    """Holds a pid file: the number alone, as tools expect it, replaced as a whole and removed at the end."""
    draft = path.with_suffix(".new")
    draft.write_text(f"{os.getpid()}\n")
    draft.replace(path)
    try:
        yield
    finally:
        # After a restart the file may be a successor's.
        with contextlib.suppress(OSError, ValueError):
            if int(path.read_text()) == os.getpid():
                path.unlink()


class DataLock:
    """The exclusive use of a data folder by one engine, or by one supervisor.

    The lock is the kernel's (flock) and ends with the process; the file's words only say who holds it.
    """

    def __init__(self, path: Path, what: str, holder: str = "") -> None:
        """Of a lock file.

        Args:
            what: whose place it is, such as `engine`.
            holder: what takes that place, if it is something else.
        """
        self._path = path
        self._what = what
        self._holder = f"{holder}, " if holder else ""
        self._handle = -1

    def take(self, wait_s: float = LOCK_WAIT_S) -> None:
        """Takes the lock, waiting for a predecessor that is about to end.

        Raises:
            EngineRunning: somebody still holds it; the message says who.
        """
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.pread(self._handle, 512, 0).decode(errors="replace").strip() or "an unknown process"
                    self.release()
                    raise EngineRunning(
                        f"{self._path.parent.parent} is in use by another {self._what}: {holder}"
                    ) from None
                time.sleep(LOCK_POLL_S)
        since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        words = f"{self._holder}pid {os.getpid()} on {socket.gethostname()} since {since}\n"
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, words.encode(), 0)

    def release(self) -> None:
        """Lets go of it."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


async def until_stopped() -> None:
    """Returns when SIGTERM or SIGINT comes."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


def run_child(name: str, config: Config, main: Callable[[Config], Coroutine[Any, Any, None]]) -> int:
    """Runs a process's main coroutine on uvloop, alone of its kind on its data folder; returns the exit status.

    A refusal (an SdsError) is one ERROR line and status 1: the supervisor counts it like any other death.
    """
    import uvloop  # noqa: PLC0415 - only the three processes need it; the command line starts faster without.

    log_to_stderr(config.log_level)
    follow_supervisor()
    log = logging.getLogger(f"sds.{name}")
    config.make_folders()
    try:
        # The lock comes first: whoever is refused must not touch the holder's pid file.
        with DataLock(config.lock_file(name), name), pid_file(config.pid_file(name)):
            log.info("started, pid %d", os.getpid())
            uvloop.run(main(config))
            log.info("stopped")
    except SdsError as error:
        accepted = f" (accepted: {error.accepted})" if error.accepted else ""
        log.error("%s%s", error.detail, accepted)
        return 1
    except Exception:
        log.exception("ended by an unexpected error")
        return 1
    return 0
