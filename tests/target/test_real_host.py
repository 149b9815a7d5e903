"""A real Linux host on our NVMe/TCP and iSCSI targets, before any pool: the unit is a gigabyte of memory.

What this proves is the front ends (crates/proto, crates/target, crates/uring): discovery, login, digests, file systems.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.guest import Guest
from tests.guest.host import WIRES, Host, Wire

ROOT = Path(__file__).resolve().parents[2]
UNITS = {"nvme": 1, "iscsi": 0}

pytestmark = pytest.mark.guest


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


@pytest.mark.timeout(900)
@pytest.mark.parametrize("wire", WIRES, ids=str)
def test_a_tree_is_there_after_a_reconnect(guest: Guest, portals: dict[str, tuple[str, int]], wire: Wire) -> None:
    name, port = portals[wire.protocol]
    host = Host(guest, wire, name, port, UNITS[wire.protocol])
    host.attach()
    try:
        assert name in host.discover()
        for fs in ("ext4", "xfs"):
            written = host.copy_tree(fs)
            host.detach()
            host.attach()
            assert host.read_tree(fs) == written
        host.verify(mib=8)
    finally:
        if host.dev and guest.alive:
            host.detach()
