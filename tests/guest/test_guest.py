"""The harness itself, tried against the targets of the guest's own kernel.

Where one of these fails, a failure of the client tests says nothing about the product.
"""

from __future__ import annotations

import time

import pytest

from tests.guest.guest import Guest, JobFailedError, TimeLimitError
from tests.guest.host import WIRES, Host, Wire

pytestmark = pytest.mark.guest

NVME_PORT, ISCSI_PORT = 4420, 3260
NQN, IQN = "nqn.2026-01.test.guest:reference", "iqn.2026-01.test.guest:reference"


def test_a_failing_command_ends_the_job_and_is_named(guest: Guest) -> None:
    with pytest.raises(JobFailedError, match="status 3 from: sh -c"):
        guest.run("sh -c 'exit 3'; echo never")


def test_a_job_past_its_limit_is_ended_and_the_guest_goes_on(guest: Guest) -> None:
    with pytest.raises(TimeLimitError):
        guest.run("sleep 30", limit_s=1)
    assert guest.run("echo on").lines == ["on"]


def test_jobs_run_side_by_side(guest: Guest) -> None:
    job = guest.start("for i in 1 2 3 4; do echo tick=$i; sleep 0.3; done")
    job.wait_line("tick=2", limit_s=10)
    guest.run("echo between")
    assert job.status is None
    job.wait()
    assert job.value("tick") == "4"


def test_a_job_can_be_ended(guest: Guest) -> None:
    job = guest.start("echo up; sleep 60")
    job.wait_line("up", limit_s=10)
    started = time.monotonic()
    job.end()
    job.wait(check=False)
    assert job.status == 143
    assert time.monotonic() - started < 10


@pytest.fixture(scope="module")
def reference_ready() -> set[int]:
    """Which booted guests have the reference targets already."""
    return set()


@pytest.fixture
def reference(guest: Guest, reference_ready: set[int]) -> Guest:
    """A guest whose own kernel serves one RAM-backed disk over both protocols."""
    if id(guest) not in reference_ready:
        guest.run(
            f"""
            mkdir -p /t; mount -t tmpfs -o size=420M t /t; truncate -s 400M /t/nvme; truncate -s 400M /t/iscsi
            modprobe loop; losetup /dev/loop0 /t/nvme; nvmet_start {NQN} {NVME_PORT} /dev/loop0
            lio_start {IQN} {ISCSI_PORT} /t/iscsi $((400 * 1024 * 1024))
            """
        )
        reference_ready.add(id(guest))
    return guest


@pytest.mark.parametrize("wire", [wire for wire in WIRES if "digests" in wire.name], ids=str)
def test_the_client_steps_pass_on_the_kernels_own_targets(reference: Guest, wire: Wire) -> None:
    nvme = wire.protocol == "nvme"
    port = NVME_PORT if nvme else ISCSI_PORT
    host = Host(reference, wire, NQN if nvme else IQN, port, 1 if nvme else 0, address="127.0.0.1")
    assert host.target in host.discover()
    host.attach()
    host.verify(mib=1)
    fs = "ext4" if nvme else "xfs"
    written = host.copy_tree(fs)
    host.detach()
    host.attach()
    assert host.read_tree(fs) == written
    host.detach()
