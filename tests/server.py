"""Starts the product as a user does, and looks after its processes and logs.

`Server` runs `sds serve` on free loopback ports with a data folder of its own. It knows only
the public surface: the command line, REST, `DIR/admin.token`, `DIR/run/*.pid`, `DIR/log/*.log`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx

START_LIMIT_S = 60
STOP_LIMIT_S = 20
DEATH_LIMIT_S = 10
CLI_LIMIT_S = 60
REST_LIMIT_S = 30
LOG_TAIL_LINES = 30

ProcessName = Literal["engine", "gateway", "tiering", "supervisor"]
PROCESSES: tuple[ProcessName, ...] = ("engine", "gateway", "tiering", "supervisor")
Protocol = Literal["nvme", "iscsi"]


class ServerError(AssertionError):
    """The server did not do what was asked of its processes; the message ends with its logs."""


class ApiError(AssertionError):
    """REST answered with an unexpected status; `status` and `problem` (RFC 9457) are kept."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"{response.request.method} {response.request.url}: {response.status_code} {response.text}")
        self.status = response.status_code
        self.problem: Any = response.json() if "json" in response.headers.get("content-type", "") else None


@dataclass(frozen=True)
class Export:
    """An export as REST shows it.

    Attributes:
        target: the NQN or IQN.
        unit: the nsid or LUN.
        connect: the command line that a host would use.
    """

    protocol: Protocol
    target: str
    unit: int
    connect: str


@dataclass
class Rest:
    """A client of the REST interface that holds the admin token."""

    url: str
    token: str

    def request(self, method: str, path: str, **options: Any) -> Any:
        """One request, its answer's JSON; None where there is no body.

        Raises:
            ApiError: the status was 400 or more.
        """
        response = httpx.request(
            method,
            self.url + path,
            headers={"authorization": f"Bearer {self.token}"},
            timeout=REST_LIMIT_S,
            **options,
        )
        if response.is_error:
            raise ApiError(response)
        return response.json() if response.content else None

    def get(self, path: str) -> Any:
        """GET."""
        return self.request("GET", path)

    def post(self, path: str, body: Mapping[str, object]) -> Any:
        """POST with a JSON body."""
        return self.request("POST", path, json=body)

    def patch(self, path: str, body: Mapping[str, object]) -> Any:
        """PATCH with a JSON body."""
        return self.request("PATCH", path, json=body)

    def delete(self, path: str) -> None:
        """DELETE."""
        self.request("DELETE", path)

    def items(self, path: str) -> Iterator[Any]:
        """Every item of a list, over all its pages."""
        cursor: str | None = None
        while True:
            page = self.request("GET", path, params={"cursor": cursor} if cursor else {})
            yield from page["items"]
            cursor = page["next"]
            if cursor is None:
                return


def free_ports(count: int) -> list[int]:
    """Loopback ports that nothing listened on a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@dataclass
class Server:
    """One `sds serve`.

    Args:
        data: the data folder; it need not exist.
        extra: further arguments of `sds serve`.
    """

    data: Path
    extra: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rest_port, self.nvme_port, self.iscsi_port = free_ports(3)
        self.url = f"http://127.0.0.1:{self.rest_port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._read_to: dict[Path, int] = {}
        self._names = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill_all()
        # The embedded default preallocates its disks: kept folders would fill the machine's own disk.
        shutil.rmtree(self.data, ignore_errors=True)

    @property
    def rest(self) -> Rest:
        """A REST client with the admin token, read anew since a first start makes it."""
        return Rest(self.url, (self.data / "admin.token").read_text().strip())

    def start(self) -> None:
        """Starts the processes and waits until `/healthz` says 200.

        Raises:
            ServerError: it ended, or START_LIMIT_S passed.
        """
        process = self.launch()
        deadline = time.monotonic() + START_LIMIT_S
        while not self.healthy():
            if process.poll() is not None:
                raise ServerError(f"sds serve ended with status {process.returncode}\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServerError(f"/healthz was not 200 within {START_LIMIT_S} s\n{self.log_tail()}")
            time.sleep(0.05)

    def launch(self) -> subprocess.Popen[bytes]:
        """Starts the processes and does not wait for anything; the supervisor."""
        command = [sys.executable, "-m", "sds.cli", "serve", "--data", str(self.data)]
        command += ["--rest", f"127.0.0.1:{self.rest_port}"]
        command += ["--nvme", f"127.0.0.1:{self.nvme_port}"]
        command += ["--iscsi", f"127.0.0.1:{self.iscsi_port}"]
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                command + self.extra, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        return self._process

    def healthy(self) -> bool:
        """Whether `/healthz` answers 200."""
        try:
            return httpx.get(f"{self.url}/healthz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> int:
        """Stops it as Ctrl-C does; returns the exit status."""
        assert self._process
        pids = [self.pid(name) for name in PROCESSES]
        self._process.send_signal(signal.SIGINT)
        try:
            status = self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise ServerError(f"sds serve was still there {STOP_LIMIT_S} s after SIGINT\n{self.log_tail()}") from None
        for pid in pids:
            _wait_gone(pid)
        return status

    def pid(self, name: ProcessName) -> int:
        """The process id, from `DIR/run/NAME.pid`."""
        return int((self.data / "run" / f"{name}.pid").read_text())

    def kill(self, name: ProcessName) -> int:
        """kill -9 of one process; returns its id once it is gone."""
        pid = self.pid(name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if self._process and self._process.pid == pid:
            self._process.wait(DEATH_LIMIT_S)
        _wait_gone(pid)
        return pid

    def kill_all(self) -> None:
        """kill -9 of every process.

        The supervisor is stopped first, so that it restarts none of the others, and killed last: its end would
        have the others sent SIGTERM, and they are to have no time for a last flush.
        """
        ours = {name: self.pid(name) for name in PROCESSES if self._is_ours(name)}
        if self._process is not None and self._process.poll() is None:
            ours["supervisor"] = self._process.pid
        for pid, number in (
            *((pid, signal.SIGSTOP) for name, pid in ours.items() if name == "supervisor"),
            *((pid, signal.SIGKILL) for name, pid in ours.items() if name != "supervisor"),
            *((pid, signal.SIGKILL) for name, pid in ours.items() if name == "supervisor"),
        ):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if self._process is not None:
            self._process.wait(DEATH_LIMIT_S)
        for pid in ours.values():
            _wait_gone(pid)

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `sds ARGUMENTS` against this server.

        Raises:
            ServerError: it failed and `check` was set.
        """
        environment = os.environ | {"SDS_URL": self.url, "SDS_TOKEN_FILE": str(self.data / "admin.token")}
        done = subprocess.run(
            [sys.executable, "-m", "sds.cli", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CLI_LIMIT_S,
            check=False,
        )
        if check and done.returncode != 0:
            raise ServerError(f"sds {' '.join(arguments)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def cli_json(self, *arguments: str) -> Any:
        """As `cli` with `--output json`, parsed."""
        return json.loads(self.cli(*arguments, "--output", "json").stdout)

    def allocated_bytes(self, pool: str = "default") -> int:
        """What `sds pool show` says is allocated."""
        return int(self.cli_json("pool", "show", pool)["allocated_bytes"])

    def new_volume(self, size_bytes: int, pool: str = "default") -> str:
        """Makes a thin volume; returns its name."""
        self._names += 1
        name = f"test-{self._names}-{time.monotonic_ns() % 1_000_000}"
        self.rest.post("/v1/volumes", {"name": name, "pool": pool, "size_bytes": size_bytes})
        return name

    def export(self, volume: str, protocol: Protocol, host: str | None = None) -> Export:
        """Exports a volume, to any host or to the named one alone."""
        access: dict[str, object] = {"any_host": True} if host is None else {"host": host}
        made = self.rest.post("/v1/exports", {"volume": volume, "protocol": protocol, **access})
        nvme = protocol == "nvme"
        return Export(
            protocol,
            target=made["nqn" if nvme else "iqn"],
            unit=int(made["nsid" if nvme else "lun"]),
            connect=made["connect"],
        )

    def complaints(self, allowed: Iterable[str]) -> list[str]:
        """Log lines since the last call that fail a test: WARN or ERROR that no pattern allows, or no JSON."""
        patterns = [re.compile(pattern) for pattern in allowed]
        found = []
        for path in sorted((self.data / "log").glob("*.log")):
            with path.open("rb") as log:
                log.seek(self._read_to.get(path, 0))
                text = log.read()
            # A line that is being written is read the next time.
            whole = text[: text.rfind(b"\n") + 1]
            self._read_to[path] = self._read_to.get(path, 0) + len(whole)
            for line in whole.decode(errors="replace").splitlines():
                said = _complaint(line)
                if said is not None and not any(pattern.search(said) for pattern in patterns):
                    found.append(f"{path.name}: {line}")
        return found

    def log_tail(self) -> str:
        """The end of every log and of what `sds serve` printed."""
        parts = []
        for path in [self.output, *sorted((self.data / "log").glob("*.log"))]:
            if path.exists():
                lines = path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
                parts += [f"-- {path.name}:", *lines]
        return "\n".join(parts)

    @property
    def output(self) -> Path:
        """What `sds serve` printed."""
        # Beside the data folder: an embedded default is made only in an empty one.
        return self.data.with_suffix(".out")

    def _is_ours(self, name: ProcessName) -> bool:
        # A pid file can outlive its process, and the number be given to another one.
        try:
            command = Path("/proc", str(self.pid(name)), "cmdline").read_bytes()
        except (OSError, ValueError):
            return False
        return b"sds" in command


def _complaint(line: str) -> str | None:
    """`LEVEL target: message` of a line that a person should look at, else None."""
    try:
        entry = json.loads(line)
        level, target, message = entry["level"], entry["target"], entry["message"]
    except (ValueError, KeyError, TypeError):
        return f"not a log line: {line}"
    if str(level).upper() in {"WARN", "WARNING", "ERROR", "CRITICAL"}:
        return f"{level} {target}: {message}"
    return None


def _wait_gone(pid: int) -> None:
    deadline = time.monotonic() + DEATH_LIMIT_S
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        # Where nothing reaps orphans, as in a container, a dead one stays as a zombie.
        if state == "Z":
            return
        if time.monotonic() > deadline:
            raise ServerError(f"process {pid} was still there {DEATH_LIMIT_S} s after its end was asked for")
        time.sleep(0.02)
