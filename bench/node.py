"""One `sds serve` on loopback with a data folder of its own, driven as an administrator does: REST, pid files, logs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from bench.programs import ROOT, Target

PROCESSES = ("supervisor", "engine", "gateway", "tiering")
READY_LIMIT_S = 180.0
READY_POLL_S = 0.02
STOP_LIMIT_S = 60.0
REST_LIMIT_S = 120.0


class NodeError(Exception):
    """The node did not do what was asked; its words."""


class Node:
    """A node without the embedded default.

    Args:
        data: the data folder; it need not exist.
        cores: how many cores the data path has.
        settings: further lines of its configuration file.
        listen: where its targets listen; they are asked on loopback.
    """

    def __init__(
        self, data: Path, cores: int = 1, settings: Mapping[str, int] | None = None, listen: str = "127.0.0.1"
    ) -> None:
        self.data = data
        self._cores, self._settings, self._listen = cores, settings or {}, listen
        self.ports = _free_ports(3)  # Of REST, NVMe/TCP and iSCSI.
        self._rest, self._nvme = (f"127.0.0.1:{port}" for port in self.ports[:2])
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Starts `sds serve` without waiting for anything."""
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = self.data / "bench.toml"
        lines = ["embedded_default = false", *(f"{name} = {value}" for name, value in self._settings.items())]
        config.write_text("\n".join(lines) + "\n")
        command = [sys.executable, "-m", "sds.cli", "serve", "--data", str(self.data), "--config", str(config)]
        command += ["--rest", self._rest, "--cores", str(self._cores)]
        command += ["--nvme", f"{self._listen}:{self.ports[1]}", "--iscsi", f"{self._listen}:{self.ports[2]}"]
        with (self.data / "serve.out").open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    def wait_ready(self) -> None:
        """Waits until `/healthz` says 200.

        Raises:
            NodeError: it ended, or READY_LIMIT_S passed.
        """
        deadline = time.monotonic() + READY_LIMIT_S
        while True:
            with suppress(httpx.TransportError):
                if httpx.get(f"http://{self._rest}/healthz", timeout=5).status_code == 200:
                    return
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise NodeError(f"sds serve does not get ready; see {self.data / 'log'}")
            time.sleep(READY_POLL_S)

    def start(self) -> None:
        """`launch` and `wait_ready`."""
        self.launch()
        self.wait_ready()

    def stop(self) -> None:
        """Ends it as Ctrl-C does; kills what does not end."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """kill -9 of every process, and waits until all are gone.

        The supervisor is stopped first so that it starts none of the others again, and killed last: its end would have
        the others sent SIGTERM.
        """
        assert self._process is not None
        supervisor = self._process.pid
        children = [pid for name, pid in self.pids().items() if name != "supervisor"]
        os.kill(supervisor, signal.SIGSTOP)
        for pid in [*children, supervisor]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        while any(_lives(pid) for pid in children):
            time.sleep(0.001)

    def pids(self) -> dict[str, int]:
        """Process ids by name, of those that have a pid file."""
        found = {}
        for name in PROCESSES:
            with suppress(OSError, ValueError):
                found[name] = int((self.data / "run" / f"{name}.pid").read_text())
        return found

    def request(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """One REST call's JSON.

        Raises:
            NodeError: it was refused.
        """
        token = (self.data / "admin.token").read_text().strip()
        headers = {"authorization": f"Bearer {token}"}
        url = f"http://{self._rest}{path}"
        answer = httpx.request(method, url, headers=headers, json=body, timeout=REST_LIMIT_S)
        if answer.is_error:
            raise NodeError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None

    def make_pool(
        self, name: str, disks: Sequence[str], create_bytes: int | None = None, extent_bytes: int | None = None
    ) -> None:
        """A pool on disks; files of `create_bytes` that are made if that is given."""
        self.request("POST", "/v1/pools", {"name": name, "extent_bytes": extent_bytes})
        for disk in disks:
            body = {"pool": name, "path": disk, "tier": "flash", "create_bytes": create_bytes}
            self.request("POST", "/v1/disks", body)

    def make_volume(self, name: str, pool: str, size_bytes: int) -> Target:
        """A thin volume that any host may see over NVMe/TCP."""
        self.request("POST", "/v1/volumes", {"name": name, "pool": pool, "size_bytes": size_bytes})
        export = self.request("POST", "/v1/exports", {"volume": name, "protocol": "nvme", "any_host": True})
        return self._target(name, export)

    def target(self, volume: str) -> Target:
        """A volume that was made by `make_volume`, maybe in an earlier life of the node."""
        return self._target(volume, self.request("GET", f"/v1/exports/{volume}.nvme"))

    def _target(self, volume: str, export: dict[str, Any]) -> Target:
        return Target(volume, self._nvme, export["nqn"], (self.pids()["engine"],))

    def log_lines(self, process: str, since: float) -> list[tuple[float, str]]:
        """Lines of a process's log from a time (of `time.time`) on: when, and the message."""
        found = []
        for line in (self.data / "log" / f"{process}.log").read_text(errors="replace").splitlines():
            with suppress(ValueError, KeyError):
                entry = json.loads(line)
                at = datetime.fromisoformat(entry["ts"]).timestamp()
                if at >= since - 0.001:
                    found.append((at, str(entry["message"])))
        return found


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder for a node's data that is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="sds-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(data: Path, cores: int = 1) -> Iterator[Node]:
    """A node that serves, and is stopped at the end."""
    node = Node(data, cores)
    try:
        node.start()
        yield node
    finally:
        node.stop()


def resident_bytes(pid: int) -> int:
    """A process's memory that is in RAM (Rss in `/proc/PID/smaps_rollup`), in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Rss:"))


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return False
    # Where nothing reaps orphans a dead one stays as a zombie. While other threads of it end, it is one already.
    return state != "Z" or threads > 1
