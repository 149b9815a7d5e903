"""kill -9 under load: what was acknowledged is there, and the host carries on by itself."""

from __future__ import annotations

import time

import pytest

from tests.clients.conftest import host_of
from tests.guest.guest import Guest
from tests.guest.host import WIRES, Host, Wire
from tests.server import ProcessName, Server

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

SIZE_MIB = 40
PLAIN = [wire for wire in WIRES if not wire.options]
BACK_LIMIT_S = 30

# Each block is written once, by direct I/O on the device and without any flush: the ones acknowledged
# before the crash are never written again. The rate keeps the job alive for some ten seconds.
FIO = f"""
    fio --name=w --filename="$DEV" --direct=1 --ioengine=libaio --rw=randwrite --bs=4k --iodepth=8 \
        --size={SIZE_MIB}M --randseed=20260101 --verify=crc32c --verify_state_save=0 --verify_state_load=0 \
        --verify_fatal=1 --eta=never --output=/tmp/fio.out"""
WRITE = f"""
    {FIO} --do_verify=0 --rate_iops=1000 & fio=$!
    while kill -0 $fio 2>/dev/null; do
        echo "written=$(writes_done "$DEV")"; sleep 0.2
    done
    echo "flushes=$(flushes_done "$DEV")"
    wait $fio || {{ cat /tmp/fio.out; exit 1; }}
"""
READ_BACK = f"""
    {FIO} --verify_only=1 || {{ cat /tmp/fio.out; exit 1; }}
    awk '/read:/ {{print}} /issued rwts/ {{print}}' /tmp/fio.out
"""


def volume_host(server: Server, guest: Guest, wire: Wire) -> Host:
    """A host attached to a new volume of twice the size that is written."""
    host = host_of(server, guest, wire, server.new_volume(2 * SIZE_MIB << 20))
    host.attach()
    return host


def until_back(server: Server) -> None:
    """Waits until REST answers again."""
    deadline = time.monotonic() + BACK_LIMIT_S
    while not server.healthy():
        assert time.monotonic() < deadline, f"not healthy within {BACK_LIMIT_S} s\n{server.log_tail()}"
        time.sleep(0.1)


@pytest.mark.parametrize("wire", PLAIN, ids=str)
def test_every_process_killed_loses_no_acknowledged_write(sds_server: Server, guest: Guest, wire: Wire) -> None:
    host = volume_host(sds_server, guest, wire)
    job = host.start(WRITE, limit_s=180)
    job.wait_line(r"written=(2|3)\d{3}$", limit_s=60)
    sds_server.kill_all()
    time.sleep(1)
    sds_server.start()
    job.wait()
    # A flush would have made the writes before it durable in another way than the one under test.
    assert job.value("flushes") == "0"
    # The second start after the writes makes sure that what is read comes from disk, not from a memory of it.
    sds_server.kill_all()
    sds_server.start()
    host.run(READ_BACK, limit_s=120)
    host.detach()


@pytest.mark.allow_log("supervisor.*engine")
def test_a_killed_engine_comes_back_by_itself(sds_server: Server, guest: Guest) -> None:
    host = volume_host(sds_server, guest, PLAIN[0])
    job = host.start(WRITE, limit_s=120)
    job.wait_line(r"written=2\d{3}$", limit_s=60)
    dead = sds_server.kill("engine")
    job.wait()
    until_back(sds_server)
    assert sds_server.pid("engine") != dead
    host.run(READ_BACK, limit_s=120)
    host.detach()


@pytest.mark.parametrize("name", ["gateway", "tiering"])
@pytest.mark.allow_log("supervisor.*(gateway|tiering)")
def test_a_killed_side_process_holds_up_no_write(sds_server: Server, guest: Guest, name: ProcessName) -> None:
    host = volume_host(sds_server, guest, PLAIN[0])
    job = host.start(
        """
        fio --name=w --filename="$DEV" --direct=1 --ioengine=libaio --rw=randwrite --bs=4k --iodepth=1 \
            --size=16M --time_based --runtime=6 --eta=never --output-format=json > /tmp/fio.out & fio=$!
        sleep 1; echo "writing"; wait $fio
        jq -r '"max_ms=\\(.jobs[0].write.clat_ns.max / 1e6 | floor)"' /tmp/fio.out
        """,
        limit_s=60,
    )
    job.wait_line("writing", limit_s=20)
    engine = sds_server.pid("engine")
    dead = sds_server.kill(name)
    job.wait()
    until_back(sds_server)
    assert sds_server.pid(name) != dead
    assert sds_server.pid("engine") == engine
    # A write that waited for a process to restart takes a second or more; emulation alone takes tens of milliseconds.
    assert int(job.value("max_ms")) < 1000
    host.detach()
