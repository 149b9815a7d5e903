"""The programs of the crate bench/load: where they are, and one run of each as its line of JSON."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUILD_LIMIT_S = 1800
RUN_SLACK_S = 60


class ProgramError(Exception):
    """A program failed; its words."""


@dataclass(frozen=True)
class Target:
    """A namespace to measure.

    Attributes:
        pids: processes whose time is the target's.
    """

    name: str
    address: str
    nqn: str
    pids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Programs:
    """The folder that holds the programs."""

    folder: Path

    @classmethod
    def build(cls, folder: Path | None = None, only: str | None = None) -> Programs:
        """Builds them for release, or finds that nothing has changed; takes them as they are if the folder is given.

        Args:
            only: the one that is wanted.

        Raises:
            ProgramError: cargo failed.
        """
        if folder is not None:
            return cls(folder)
        target = Path(os.environ.get("CARGO_TARGET_DIR", Path.home() / ".cache/sds/target"))
        command = ["cargo", "build", "--release", "--locked", "--quiet", "-p", "sds-bench"]
        command += ["--bin", only] if only else []
        path = f"{os.environ.get('PATH', '')}:{Path.home() / '.cargo/bin'}"
        environment = os.environ | {"CARGO_TARGET_DIR": str(target), "PATH": path}
        done = subprocess.run(command, cwd=ROOT, env=environment, timeout=BUILD_LIMIT_S, check=False)
        if done.returncode != 0:
            raise ProgramError("the programs of bench/load can't be built")
        return cls(target / "release")

    def load(self, target: Target, options: Sequence[object], limit_s: float) -> dict[str, Any]:
        """One run of the load generator with further options.

        Raises:
            ProgramError: it failed, or a command did, or it took longer than `limit_s`.
        """
        result = self.run("sds-nvme-load", [*_place(target), *_pids(target), *options], limit_s)
        if result["failed"]:
            raise ProgramError(f"{target.name}: {result['failed']} commands failed")
        return result

    def start_load(self, target: Target, options: Sequence[object]) -> subprocess.Popen[str]:
        """As `load`, without waiting."""
        return self.start("sds-nvme-load", [*_place(target), *_pids(target), *options])

    def idle(self, target: Target, connections: int) -> dict[str, Any]:
        """What an idle connection costs the target's only process."""
        arguments = [*_place(target), "--server-pid", target.pids[0], "--connections", connections]
        return self.run("sds-nvme-idle", arguments, RUN_SLACK_S)

    def start_first(self, target: Target, read_byte: int, write_byte: int, limit_s: int) -> subprocess.Popen[str]:
        """Starts a host that tries to connect until it can, reads once and writes once."""
        arguments = [*_place(target), "--read", read_byte, "--write", write_byte, "--seconds", limit_s]
        return self.start("sds-nvme-first", arguments)

    @contextmanager
    def null_target(self, kind: str, spin_us: int = 0) -> Iterator[Target]:
        """A target that only receives and answers (kind `null`), or copies to and from memory (`memory`)."""
        process = self.start("sds-null-target", ["127.0.0.1:0", 1, kind, spin_us])
        try:
            assert process.stdout is not None
            address, nqn = process.stdout.readline().split()
            yield Target(kind, address, nqn, (process.pid,))
        finally:
            process.terminate()
            process.communicate()

    def run(self, program: str, arguments: Sequence[object], limit_s: float) -> dict[str, Any]:
        """One run of a program.

        Raises:
            ProgramError: it failed, or took longer than `limit_s`.
        """
        return finish(self.start(program, arguments), limit_s)

    def start(self, program: str, arguments: Sequence[object]) -> subprocess.Popen[str]:
        """Starts a program."""
        command = [str(self.folder / program), *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], limit_s: float) -> dict[str, Any]:
    """Waits for a program and returns its line.

    Raises:
        ProgramError: it failed, or took longer than `limit_s` and was killed.
    """
    try:
        out, words = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise ProgramError(f"{process.args!r} took longer than {limit_s} s") from None
    if process.returncode != 0:
        raise ProgramError(words.strip() or f"status {process.returncode}")
    result: dict[str, Any] = json.loads(out)
    return result


def _place(target: Target) -> list[object]:
    return ["--address", target.address, "--nqn", target.nqn]


def _pids(target: Target) -> list[object]:
    return [word for pid in target.pids for word in ("--server-pid", pid)]
