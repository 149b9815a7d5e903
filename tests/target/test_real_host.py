"""A real Linux host on our NVMe/TCP and iSCSI targets, before any pool: the unit is a gigabyte of memory.

What this proves is the front ends (crates/proto, crates/target, crates/uring): discovery, login, digests, file systems.
"""

from __future__ import annotations

import pytest

from tests.guest.guest import Guest
from tests.guest.host import WIRES, Host, Wire

UNITS = {"nvme": 1, "iscsi": 0}

pytestmark = pytest.mark.guest


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
