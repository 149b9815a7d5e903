"""The targets of these tests: our front ends over a gigabyte of memory, on loopback."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def portals() -> Iterator[dict[str, tuple[str, int]]]:
    """The targets: by protocol, the NQN or IQN and the port on loopback."""
    build = ["cargo", "build", "--release", "--locked", "--quiet", "-p", "sds-bench", "--bin", "sds-null-target"]
    subprocess.run(build, cwd=ROOT, stdin=subprocess.DEVNULL, check=True)
    program = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "sds-null-target"
    with subprocess.Popen([str(program), "127.0.0.1:0", "1", "memory"], stdout=subprocess.PIPE, text=True) as target:
        assert target.stdout is not None
        found = {}
        for protocol in ("nvme", "iscsi"):
            address, name = target.stdout.readline().split()
            found[protocol] = (name, int(address.rpartition(":")[2]))
        yield found
        assert target.poll() is None, "the target died"
        target.terminate()
