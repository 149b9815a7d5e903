"""libiscsi's conformance suite, iscsi-test-cu: the families that a target of ours must pass, and how a test ends."""

from __future__ import annotations

import re
import subprocess
from functools import cache

# Tests wait for answers without a limit of their own; each gets a process and this.
LIMIT_S = 20

# The families that cover what the target implements. A family must pass at least one test: the suite skips what a
# target says that it lacks, and a skip proves nothing.
FAMILIES = (
    "CompareAndWrite", "GetLBAStatus", "Inquiry", "Mandatory", "ModeSense6", "NoMedia", "Prefetch10", "Prefetch16",
    "Read6", "Read10", "Read12", "Read16", "ReadCapacity10", "ReadCapacity16", "ReportSupportedOpcodes",
    "StartStopUnit", "TestUnitReady", "Unmap", "Verify10", "Verify12", "Verify16", "Write10", "Write12", "Write16",
    "WriteSame10", "WriteSame16", "WriteVerify10", "WriteVerify12", "WriteVerify16",
    "iSCSIResiduals", "iSCSITMF", "iSCSIcmdsn", "iSCSIdatasn",
)  # fmt: skip

# Tests of libiscsi 1.19, Debian 12's, that no target with physical blocks of 4 KiB can pass, or none at all.
MISTAKEN = {
    # Asks for the block after the unmapped ones and expects the descriptor of the next physical block.
    "ALL.GetLBAStatus.UnmapSingle",
    # Asserts what the answer brings before it waits for the answer (mended in libiscsi 1.20).
    "ALL.iSCSITMF.LUNResetSimpleAsync",
}


@cache
def tests_of(family: str) -> tuple[str, ...]:
    """The names of a family's tests, from the suite itself."""
    listed = subprocess.run(
        ["iscsi-test-cu", "--list"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    names = (line.strip() for line in listed.stdout.splitlines())
    return tuple(name for name in names if re.fullmatch(rf"ALL\.{family}\.\w+", name) and name not in MISTAKEN)


def outcome(test: str, url: str) -> str:
    """Runs one test against the unit at `url`, whose data it destroys; `passed`, `skipped`, or what went wrong."""
    try:
        done = subprocess.run(
            ["iscsi-test-cu", "--dataloss", "--verbose", "-t", test, url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"still running after {LIMIT_S} s"
    # What the suite prints before and after a test is about reservations, which it clears if there are any.
    ran = re.search(r"\.\.\.(?P<said>.*?)passed.*^ +tests +1 +1 +1 +0 ", done.stdout, re.DOTALL | re.MULTILINE)
    if done.returncode != 0 or ran is None:
        return f"status {done.returncode}\n{done.stdout}"
    return "skipped" if "[SKIPPED]" in ran["said"] else "passed"


def check_family(family: str, url: str) -> None:
    """Runs a family's tests against the unit at `url`.

    Raises:
        AssertionError: a test failed, or all were skipped; the message has the suite's output.
    """
    results = {test: outcome(test, url) for test in tests_of(family)}
    bad = {test: result for test, result in results.items() if result not in {"passed", "skipped"}}
    assert not bad, "\n".join(f"{test}: {result}" for test, result in bad.items())
    assert "passed" in results.values(), f"nothing of {family} ran: the target says that it lacks it ({results})"
