"""The commands that administrators' tools and the kernel send, beyond reads and writes."""

from __future__ import annotations

import pytest

from tests.clients.conftest import host_of
from tests.guest.guest import Guest, JobFailedError
from tests.guest.host import WIRES, Host, Wire
from tests.server import Server

pytestmark = pytest.mark.guest

MIB = 1 << 20
NVME, ISCSI = (next(wire for wire in WIRES if wire.name == name) for name in ("nvme", "iscsi"))
GUEST_NQN = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555"
GUEST_IQN = "iqn.2026-01.test.guest:init0"


def attached(server: Server, guest: Guest, wire: Wire) -> Host:
    """The guest, attached to a new 64 MiB volume."""
    host = host_of(server, guest, wire, server.new_volume(64 * MIB))
    host.attach()
    return host


def test_nvme_admin_commands(sds_server: Server, guest: Guest) -> None:
    host = attached(sds_server, guest, NVME)
    host.run(
        """
        ctrl=/dev/$(nvme_ctrl "$TARGET")
        nvme id-ctrl $ctrl -o json > /tmp/id; jq -e '.mdts == 0 or .mdts >= 8' /tmp/id >/dev/null
        jq -e '.vwc % 2 == 1 and .nn >= 1 and .sgls > 0' /tmp/id >/dev/null
        nvme id-ns "$DEV" -o json | jq -e '.nsze == 131072' >/dev/null
        nvme ns-descs "$DEV"; nvme list-ns $ctrl; nvme list; nvme list-subsys
        nvme smart-log $ctrl; nvme error-log $ctrl >/dev/null; nvme fw-log $ctrl; nvme changed-ns-list-log $ctrl
        nvme effects-log $ctrl >/dev/null
        nvme get-feature $ctrl -f 7; nvme get-feature $ctrl -f 0xb; nvme get-feature $ctrl -f 0xf
        """
    )
    host.detach()


def test_nvme_io_commands(sds_server: Server, guest: Guest) -> None:
    host = attached(sds_server, guest, NVME)
    host.run(
        """
        dd if=/dev/urandom of=/tmp/a bs=4k count=1 status=none; dd if=/dev/urandom of=/tmp/b bs=4k count=1 status=none
        nvme write "$DEV" -s 8 -c 7 -z 4096 -d /tmp/a
        nvme write "$DEV" -s 16 -c 7 -z 4096 -d /tmp/a --force-unit-access
        nvme read "$DEV" -s 16 -c 7 -z 4096 -d /tmp/r; cmp /tmp/r /tmp/a
        nvme compare "$DEV" -s 8 -c 7 -z 4096 -d /tmp/a
        fails nvme compare "$DEV" -s 8 -c 7 -z 4096 -d /tmp/b
        nvme flush "$DEV" -n 1
        nvme write-zeroes "$DEV" -s 8 -c 7; nvme read "$DEV" -s 8 -c 7 -z 4096 -d /tmp/r; cmp -n 4096 /tmp/r /dev/zero
        nvme dsm "$DEV" -d -s 16 -b 8; nvme read "$DEV" -s 16 -c 7 -z 4096 -d /tmp/r; cmp -n 4096 /tmp/r /dev/zero
        fails nvme read "$DEV" -s 131072 -c 7 -z 4096 -d /tmp/r
        """
    )
    host.detach()


def test_nvme_controller_reset_and_few_queues(sds_server: Server, guest: Guest) -> None:
    host = attached(sds_server, guest, NVME)
    host.run(
        """
        ctrl=$(nvme_ctrl "$TARGET")
        dd if=/dev/urandom of=/tmp/a bs=64k count=1 status=none; dd if=/tmp/a of="$DEV" bs=64k oflag=direct status=none
        nvme reset "/dev/$ctrl"; waitfor 15 grep -q live "/sys/class/nvme/$ctrl/state"
        dd if="$DEV" bs=64k count=1 iflag=direct status=none | cmp - /tmp/a
        """
    )
    host.detach()
    for options in ("-i 1", "-Q 16", "-k 2", "-W 1 -P 1"):
        host.wire = Wire("nvme-options", "nvme", options)
        host.attach()
        host.run('sleep 3; dd if="$DEV" bs=64k count=1 iflag=direct status=none | cmp - /tmp/a')
        host.detach()


def test_scsi_commands(sds_server: Server, guest: Guest) -> None:
    host = attached(sds_server, guest, ISCSI)
    host.run(
        """
        sg_turs "$DEV"; sg_inq "$DEV"; sg_luns "$DEV"; sg_readcap -l "$DEV"; sg_opcodes "$DEV" > /dev/null
        for page in sv sn di bl bdc lbpv; do sg_vpd -p $page "$DEV"; done
        sg_sync "$DEV"; sg_get_lba_status --lba=0 "$DEV"
        dd if=/dev/urandom of="$DEV" bs=64k count=4 oflag=direct status=none
        sg_unmap --lba=0 --num=128 --force "$DEV"
        dd if="$DEV" bs=64k count=1 iflag=direct status=none | cmp -n 65536 - /dev/zero
        sg_write_same --16 --lba=128 --num=128 --in=/dev/zero --xferlen=512 "$DEV"
        sg_write_same --16 --unmap --lba=256 --num=128 --in=/dev/zero --xferlen=512 "$DEV"
        dd if="$DEV" bs=64k count=3 iflag=direct status=none | cmp -n 196608 - /dev/zero
        dd if=/dev/urandom of=/tmp/x bs=512 count=1 status=none
        { head -c 512 /dev/zero; cat /tmp/x; } > /tmp/caw
        sg_compare_and_write --lba=0 --num=1 --in=/tmp/caw --xferlen=1024 "$DEV"
        dd if="$DEV" bs=512 count=1 iflag=direct status=none | cmp - /tmp/x
        fails sg_compare_and_write --lba=0 --num=1 --in=/tmp/caw --xferlen=1024 "$DEV"
        sg_reset --device "$DEV"
        dd if="$DEV" bs=512 count=1 iflag=direct status=none | cmp - /tmp/x
        """
    )
    host.detach()


@pytest.mark.allow_log("sds_target.*initiator may not use the target")
@pytest.mark.parametrize("wire", [NVME, ISCSI], ids=str)
def test_only_the_named_host_may_connect(sds_server: Server, guest: Guest, wire: Wire) -> None:
    nvme = wire.protocol == "nvme"
    key, name = ("nqn", GUEST_NQN) if nvme else ("iqn", GUEST_IQN)
    known, stranger = f"guest-{key}", f"other-{key}"
    sds_server.rest.post("/v1/hosts", {"name": known, key: name})
    sds_server.rest.post("/v1/hosts", {"name": stranger, key: name.replace("1111", "2222").replace("init0", "init1")})
    port = sds_server.nvme_port if nvme else sds_server.iscsi_port
    ours = sds_server.export(sds_server.new_volume(64 * MIB), "nvme" if nvme else "iscsi", host=known)
    theirs = sds_server.export(sds_server.new_volume(64 * MIB), "nvme" if nvme else "iscsi", host=stranger)
    refused = Host(guest, wire, theirs.target, port, theirs.unit)
    allowed = Host(guest, wire, ours.target, port, ours.unit)
    assert allowed.target in allowed.discover()
    if ours.target != theirs.target:
        assert theirs.target not in allowed.discover()
    allowed.attach()
    allowed.detach()
    with pytest.raises(JobFailedError):
        refused.attach()
