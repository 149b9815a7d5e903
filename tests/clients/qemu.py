"""QEMU's block layer as a host on this machine, and waiting for what a node says of itself."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from tests.server import Server

WAIT_S = 40
QEMU_LIMIT_S = 120


def url_of(server: Server, volume: str) -> str:
    """Exports a volume over iSCSI to any host; its URL as QEMU takes it."""
    export = server.export(volume, "iscsi")
    return f"iscsi://127.0.0.1:{server.iscsi_port}/{export.target}/{export.unit}"


def start_qemu_io(url: str, *steps: str, cache: str = "writethrough") -> subprocess.Popen[str]:
    """Starts qemu-io with these steps; what they print has to fit in a pipe. With cache `writeback`, what is written
    is flushed only by a step `flush`.
    """
    command = ["qemu-io", "-t", cache, "-f", "raw", *(part for step in steps for part in ("-c", step)), url]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def qemu_io(url: str, *steps: str) -> str:
    """What qemu-io says to these steps."""
    with start_qemu_io(url, *steps) as process:
        try:
            said, _ = process.communicate(timeout=QEMU_LIMIT_S)
        finally:
            process.kill()
    return said


def until(true: Callable[[], bool], what: str, server: Server, limit_s: float = WAIT_S) -> None:
    """Waits until something is so; the logs' ends are in the failure."""
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {limit_s} s\n{server.log_tail()}"
        time.sleep(0.1)


def events(server: Server, kind: str) -> list[str]:
    """The messages of all events of a kind, the newest first."""
    return [event["message"] for event in server.rest.items("/v1/events") if event["kind"] == kind]


def until_event(server: Server, kind: str) -> None:
    """Waits until an event of a kind is listed."""
    until(lambda: bool(events(server, kind)), kind, server)
