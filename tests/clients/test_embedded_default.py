"""`sds serve` with an empty data folder: what a newcomer gets, and that it is there after Ctrl-C and a new start."""

from __future__ import annotations

import stat
import time
from typing import Any

import pytest

from tests.guest.guest import Guest
from tests.server import Server

GREETING_LIMIT_S = 10


def exports(server: Server) -> dict[str, Any]:
    """The exports of `demo`, by protocol."""
    return {item["protocol"]: item for item in server.rest.items("/v1/exports") if item["volume"] == "demo"}


def greeting(server: Server) -> str:
    """What `sds serve` has printed, once all of it is there: the gateway may be faster."""
    deadline = time.monotonic() + GREETING_LIMIT_S
    while "Ctrl-C stops it." not in (printed := server.output.read_text()):
        assert time.monotonic() < deadline, printed
        time.sleep(0.05)
    return printed


def test_a_pool_with_two_tiers_and_an_exported_volume(sds_server: Server) -> None:
    assert [pool["name"] for pool in sds_server.rest.items("/v1/pools")] == ["default"]
    assert {disk["tier"] for disk in sds_server.rest.items("/v1/disks")} == {"flash", "hdd"}
    assert [volume["name"] for volume in sds_server.rest.items("/v1/volumes")] == ["demo"]
    shown = exports(sds_server)
    assert set(shown) == {"nvme", "iscsi"}
    printed = greeting(sds_server)
    for export in shown.values():
        assert set(export["connect"].split(" && ")) <= set(printed.splitlines())
    assert str(sds_server.data / "admin.token") in printed
    assert sds_server.url in printed


def test_the_token_is_for_its_owner_alone(sds_server: Server) -> None:
    assert stat.S_IMODE((sds_server.data / "admin.token").stat().st_mode) == 0o600


@pytest.mark.guest
def test_the_printed_nvme_line_connects_and_the_data_outlives_ctrl_c(sds_server: Server, guest: Guest) -> None:
    export = exports(sds_server)["nvme"]
    # Seen from the guest, this machine's loopback has another address.
    line = export["connect"].removeprefix("sudo ").replace("127.0.0.1", "10.0.2.2")
    names = {"NQN": export["nqn"], "NSID": export["nsid"]}
    connect = f"""
        modprobe -a nvme-core nvme-fabrics nvme-tcp
        {line} >&2
        waitfor 15 nvme_dev "$NQN" "$NSID"; dev=$(nvme_dev "$NQN" "$NSID")
    """
    guest.run(
        f"""{connect}
        seq 100000 > /tmp/numbers; truncate -s 1M /tmp/numbers
        dd if=/tmp/numbers of="$dev" bs=1M oflag=direct status=none; nvme disconnect -n "$NQN"
        """,
        env=names,
    )
    assert sds_server.stop() == 0
    sds_server.start()
    guest.run(
        f"""{connect}
        seq 100000 > /tmp/numbers; truncate -s 1M /tmp/numbers
        dd if="$dev" bs=1M count=1 iflag=direct status=none | cmp - /tmp/numbers; nvme disconnect -n "$NQN"
        """,
        env=names,
    )
