"""The program `sds-storm` (bench/load): a host over both protocols that knows what each sector may hold."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.durability.node import PAGE_BYTES, VOLUME_BYTES, Volume
from tests.server import Server

Protocol = Literal["nvme", "iscsi"]
ANSWER_LIMIT_S = 120
TOLD_BYTES_MAX = 1 << 20


class HostError(AssertionError):
    """The host found what it must not find, or ended."""


@dataclass
class Load:
    """What came of a load; see `Outcome` in bench/load/src/storm/load.rs."""

    changes: int
    reads: int
    flushes: int
    open: int


class Host:
    """The running program."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._told = b""

    def load(self, seed: int, flush_per_mille: int) -> None:
        """Begins to write; returns when every connection stands."""
        self._say(f"load {seed} {flush_per_mille}")
        self._hear()

    def loaded(self) -> Load:
        """Waits until the target is gone.

        Raises:
            HostError: a request was refused or a read was wrong before that.
        """
        told = self._hear()
        _raise_troubles("under load", told)
        return Load(*(told[name] for name in ("changes", "reads", "flushes", "open")))

    def verify(self, protocol: Protocol) -> None:
        """The node was killed and started: all that was acknowledged must be there.

        Raises:
            HostError: something was lost, or came back.
        """
        self._say(f"verify {protocol}")
        _raise_troubles("after the kill", self._hear())

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        deadline = time.monotonic() + ANSWER_LIMIT_S
        while b"\n" not in self._told:
            left = deadline - time.monotonic()
            if not select.select([self._process.stdout], [], [], max(0, left))[0]:
                raise HostError(f"the host said nothing for {ANSWER_LIMIT_S} s")
            more = os.read(self._process.stdout.fileno(), TOLD_BYTES_MAX)
            if not more:
                raise HostError(f"the host ended with status {self._process.wait(ANSWER_LIMIT_S)}; see its words above")
            self._told += more
        line, _, self._told = self._told.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _raise_troubles(when: str, told: dict[str, Any]) -> None:
    if told["troubles"]:
        raise HostError(f"{when}:\n" + "\n".join(told["troubles"]))


@contextlib.contextmanager
def new_host(program: Path, server: Server, volumes: Sequence[Volume], first_number: int) -> Iterator[Host]:
    """Starts the program with volumes, numbered from `first_number` in what it writes."""

    def words(number: int, volume: Volume) -> str:
        offset = PAGE_BYTES - volume.part_bytes // 2
        nvme, iscsi = f"127.0.0.1:{server.nvme_port}", f"127.0.0.1:{server.iscsi_port}"
        parts = (number, VOLUME_BYTES, volume.block_bytes, offset, volume.part_bytes,
                 nvme, volume.nvme.target, iscsi, volume.iscsi.target, volume.iscsi.unit)  # fmt: skip
        return ",".join(map(str, parts))

    command = [str(program), *(words(number, volume) for number, volume in enumerate(volumes, first_number))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Host(process)
        finally:
            process.kill()
