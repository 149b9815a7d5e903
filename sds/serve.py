"""`sds serve`: starts the three processes, starts again what dies, and stops them in order.

The engine comes first and has a head start over the others, which it needs after a crash.

A child that dies is started again at once, then after waits that double up to BACK_OFF_S_MAX; RESTARTS_MAX deaths
within RESTART_WINDOW_S seconds and it is given up. Without the engine there is nothing to supervise, so its end is the
supervisor's; without the others hosts go on reading and writing, so the supervisor stays.

The children follow the supervisor: if it is killed, the kernel sends them SIGTERM (see `sds.process`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path

from sds import data_format
from sds.config import Config, ensure_token
from sds.errors import SdsError
from sds.process import SUPERVISOR_VARIABLE, DataLock, JsonLines, pid_file, until_stopped
from sds.rpc import Client

log = logging.getLogger("sds.supervisor")

BACK_OFF_S_FIRST = 0.1
BACK_OFF_S_MAX = 5.0
RESTARTS_MAX = 10
RESTART_WINDOW_S = 60.0
STOP_LIMIT_S = 15.0  # An engine's last checkpoint; after this it is killed, which loses nothing either.
READY_LIMIT_S = 60.0
READY_POLL_S = 0.02
HEAD_START_S_MAX = 5.0  # The others' imports take a core for most of a second, and hosts wait for the engine alone.
ENGINE_NICE = -10  # Nine times the share of a process of the usual priority, as deploy/sds-engine.service has it.
LOG_BYTES_MAX = 64 << 20  # A log that is larger at a start of its process is put aside, one of each.

# In the order of their start; they are stopped the other way around.
CHILDREN = ("engine", "gateway", "tiering")
VITAL = "engine"


class Child:
    """One process under supervision."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self._config = config
        self._process: asyncio.subprocess.Process | None = None
        self._deaths: deque[float] = deque(maxlen=RESTARTS_MAX)
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Starts the process, again and again; returns when it was stopped or given up."""
        while not self._stopping.is_set():
            self._process = await self._start()
            status = await self._process.wait()
            if self._stopping.is_set():
                return
            now = time.monotonic()
            self._deaths.append(now)
            recent = sum(1 for death in self._deaths if now - death < RESTART_WINDOW_S)
            how = f"signal {-status} ({signal.Signals(-status).name})" if status < 0 else f"status {status}"
            if recent >= RESTARTS_MAX:
                log.error("%s (pid %d) ended with %s, %d times within %d s: given up",
                          self.name, self._process.pid, how, recent, RESTART_WINDOW_S)  # fmt: skip
                return
            wait_s = 0.0 if recent == 1 else min(BACK_OFF_S_FIRST * 2 ** (recent - 2), BACK_OFF_S_MAX)
            log.warning("%s (pid %d) ended with %s; starting it again in %.1f s",
                        self.name, self._process.pid, how, wait_s)  # fmt: skip
            await asyncio.sleep(wait_s)

    async def stop(self) -> None:
        """Ends the process: SIGTERM, and SIGKILL if that takes longer than STOP_LIMIT_S."""
        self._stopping.set()
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await self._process.wait()
        except TimeoutError:
            log.error("%s (pid %d) did not stop within %d s: killed", self.name, self._process.pid, STOP_LIMIT_S)
            self._process.kill()
            await self._process.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        path = self._config.log_file(self.name)
        _put_aside(path)
        with path.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                f"sds.{self.name}",
                *self._config.arguments(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C reaches the supervisor alone, which then stops the others in order.
                start_new_session=True,
                env=os.environ | {SUPERVISOR_VARIABLE: str(os.getpid())},
            )
        if self.name == VITAL:
            _prefer(process.pid)
        log.info("started %s, pid %d", self.name, process.pid)
        return process


async def supervise(config: Config) -> None:
    """Runs the three processes until SIGTERM or SIGINT.

    Raises:
        SdsError: the engine was given up; its log says why.
    """
    stopped = asyncio.create_task(until_stopped())
    children = {name: Child(name, config) for name in CHILDREN}
    engine_up = asyncio.Event()

    async def run(child: Child) -> None:
        if child.name != VITAL:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEAD_START_S_MAX):
                    await engine_up.wait()
        await child.run()

    running = {name: asyncio.create_task(run(child)) for name, child in children.items()}
    greeting = asyncio.create_task(_greet(config, engine_up))
    try:
        await asyncio.wait({stopped, running[VITAL]}, return_when=asyncio.FIRST_COMPLETED)
        gave_up = running[VITAL].done() and not stopped.done()
    finally:
        greeting.cancel()
        stopped.cancel()
        for name in reversed(CHILDREN):
            await children[name].stop()
            # A child may be between two starts.
            running[name].cancel()
        await asyncio.gather(greeting, stopped, *running.values(), return_exceptions=True)
    if gave_up:
        raise SdsError(f"the engine does not stay up: {_last_word(config.log_file(VITAL))}")
    log.info("stopped")


def main(config: Config) -> None:
    """Supervises on a data folder that nobody else supervises.

    Raises:
        EngineRunning: somebody does; the message says who.
        DataFormat: the data folder is not of this program's format.
        SdsError: the engine does not stay up.
    """
    config.make_folders()
    ensure_token(config.token)
    with DataLock(config.lock_file("supervisor"), "supervisor"), pid_file(config.pid_file("supervisor")):
        data_format.require(config.data)
        path = config.log_file("supervisor")
        _put_aside(path)
        handler = logging.FileHandler(path)
        handler.setFormatter(JsonLines())
        logging.basicConfig(level=config.log_level.upper(), handlers=[handler], force=True)
        log.info("started, pid %d", os.getpid())
        asyncio.run(supervise(config))


async def _greet(config: Config, engine_up: asyncio.Event) -> None:
    """Tells, once the engine answers, that it does; and people where everything is."""
    engine = Client(config.socket)
    say(f"sds: starting on {config.data}; logs in {config.data / 'log'}")
    deadline = time.monotonic() + READY_LIMIT_S
    while True:
        try:
            await engine.call("health_get")
            engine_up.set()
            exports = (await engine.call("export_list"))["items"]
            break
        except SdsError as error:
            if time.monotonic() > deadline:
                say(f"sds: the engine does not answer yet ({error.detail})")
                return
            await asyncio.sleep(READY_POLL_S)
    await engine.close()
    say(f"REST     http://{config.rest}   (OpenAPI at /openapi.json)")
    say(f"token    {config.token}")
    say(f"NVMe/TCP {config.nvme}   iSCSI {config.iscsi}")
    for export in exports:
        say(f"\n# volume {export['volume']} over {export['protocol']}, on the host:")
        say("\n".join(export["connect"].split(" && ")))
    say("\nCtrl-C stops it.")


def say(line: str) -> None:
    """Prints a line at once: standard output is often a pipe."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _prefer(pid: int) -> None:
    """Puts a new process before others, if this one may: hosts wait for the engine, on a busy machine most of all.

    Where the kernel shares processors between sessions (`sched_autogroup_enabled`), it is the session's priority that
    counts.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, ENGINE_NICE)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(f"{ENGINE_NICE}\n")


def _put_aside(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_suffix(".log.1"))


def _last_word(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").splitlines()
    if not lines:
        return "its log is empty"
    try:
        return str(json.loads(lines[-1])["message"])
    except (ValueError, KeyError, TypeError):
        return lines[-1]  # What the interpreter wrote when it could not even start.
