"""Runs every fuzz target for a while, on its seeds and what earlier runs have found, and prints what came of it.

    python fuzz/run.py --seconds 10 --jobs 2 [TARGET ...]

Exit status 1 if a target found something: its input lies in `fuzz/artifacts`, and the end of its log is shown.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
# The crates forbid unsafe code, so a sanitizer has nothing to see; without one a stable compiler does.
COMMON = ("--sanitizer", "none")
INPUT_BYTES_MAX = 2048
INPUT_LIMIT_S = 10
RESIDENT_MB_MAX = 1024
BUILD_LIMIT_S = 3600
END_LIMIT_S = 120
WHY_LINES = 3
LOG_TAIL_LINES = 30


@dataclass(frozen=True)
class Outcome:
    """What one target did.

    Attributes:
        log: the end of what it printed, if it found something.
    """

    target: str
    executions: int
    seconds: float
    resident_mb: int
    log: str = ""


def cargo_fuzz(*arguments: str, limit_s: float) -> subprocess.CompletedProcess[str]:
    """One call of cargo-fuzz; both outputs in one."""
    return subprocess.run(
        ["cargo-fuzz", *arguments],
        cwd=FOLDER.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=limit_s,
        check=False,
    )


def run(target: str, seconds: int) -> Outcome:
    """One target, which is built already."""
    corpus, seeds = FOLDER / "corpus" / target, FOLDER / "seeds" / target
    corpus.mkdir(parents=True, exist_ok=True)
    limits = (
        f"-max_total_time={seconds}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-timeout={INPUT_LIMIT_S}",
        f"-rss_limit_mb={RESIDENT_MB_MAX}",
    )
    began = time.monotonic()
    done = cargo_fuzz(
        "run", *COMMON, target, str(corpus), str(seeds), "--", *limits, "-len_control=0", "-print_final_stats=1",
        limit_s=seconds + END_LIMIT_S,
    )  # fmt: skip
    took_s = time.monotonic() - began

    def stat(name: str) -> int:
        found = re.search(rf"^stat::{name}:\s+(\d+)", done.stdout, re.MULTILINE)
        return int(found[1]) if found else 0

    log = ""
    if done.returncode:
        lines = done.stdout.splitlines()
        why = next((at for at, line in enumerate(lines) if "panicked at" in line or "ERROR: libFuzzer" in line), 0)
        log = "\n".join([*lines[why : why + WHY_LINES], *lines[-LOG_TAIL_LINES:]])
    return Outcome(target, stat("number_of_executed_units"), took_s, stat("peak_rss_mb"), log)


def main() -> int:
    """Build all, run all, a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10, help="of each target")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    parser.add_argument("targets", nargs="*", help="all, if none is named")
    options = parser.parse_args()
    targets = options.targets or cargo_fuzz("list", limit_s=BUILD_LIMIT_S).stdout.split()
    built = cargo_fuzz("build", *COMMON, limit_s=BUILD_LIMIT_S)
    if built.returncode != 0:
        print(built.stdout, file=sys.stderr)
        return 1
    found = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(lambda target: run(target, options.seconds), targets):
            word = "FOUND SOMETHING" if outcome.log else "ok"
            print(
                f"{outcome.target:<15} {outcome.executions:>12,} executions in {outcome.seconds:4.0f} s, "
                f"{outcome.resident_mb:>4} MB resident: {word}",
                flush=True,
            )
            if outcome.log:
                found.append(outcome.target)
                print(outcome.log, file=sys.stderr)
    if found:
        print(f"something was found by: {' '.join(found)}; see fuzz/README.md", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
