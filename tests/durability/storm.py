"""The storm: kill -9 at random moments, under load over both protocols at once.

    python -m tests.durability.storm --rounds 1000 [--seed N]

Eight connections write, zero, discard and read four volumes, each volume over both protocols. At a random moment the
engine is killed, or all processes are, or the engine alone under its supervisor; at times again while it recovers.
Then one protocol or the other reads everything back: what was acknowledged must be there, flushed or not; what was
open may be old or new, sector by sector; nothing else may be there. Every EPOCH_ROUNDS rounds the volumes are deleted
under the storm and others made, so that space is another's and old data would show.

The seed decides what is done and when; the machine decides how far the node was by then.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.programs import Programs
from tests.durability.host import Host, Load, Protocol, new_host
from tests.durability.node import DISKS, MIB, Node, new_node

EPOCH_ROUNDS = 50
VOLUMES = 4
PART_BYTES = 8 * MIB
DISK_BYTES = 160 * MIB
LOAD_S_MAX = 0.8
RECOVERY_S_MAX = 1.5
KILLS_IN_RECOVERY = (0, 0, 0, 0, 0, 0, 0, 1, 1, 2)
FLUSH_PER_MILLE = (0, 0, 20)  # Most rounds have no flush at all.
# Lines that kills cause.
ALLOWED_LOG = (r"supervisor.*engine",)


@dataclass
class Tally:
    """What was done.

    Attributes:
        kills: of the engine alone, of the engine under its supervisor, of all processes, during recovery.
        changes: acknowledged writes, zeroes and discards.
        open: requests that were open at a kill.
        sectors: that were read back and judged.
    """

    rounds: int = 0
    engine_kills: int = 0
    supervised_kills: int = 0
    all_kills: int = 0
    recovery_kills: int = 0
    changes: int = 0
    reads: int = 0
    flushes: int = 0
    open: int = 0
    sectors: int = 0

    def add(self, load: Load) -> None:
        """Counts a load."""
        self.changes += load.changes
        self.reads += load.reads
        self.flushes += load.flushes
        self.open += load.open


class Storm:
    """Rounds of load, kill and reading back.

    Raises:
        HostError: an acknowledged write was lost, or something came back.
    """

    def __init__(self, node: Node, program: Path, seed: int) -> None:
        self._node = node
        self._program = program
        self._random = random.Random(seed)
        self.tally = Tally()

    def run(self, rounds: int) -> None:
        """Runs rounds, with new volumes every EPOCH_ROUNDS."""
        self._node.make_pool()
        for first in range(0, rounds, EPOCH_ROUNDS):
            if first:
                self._node.kill()
                self._node.start_all()
                self._node.drop_volumes()
            volumes = self._node.new_volumes(VOLUMES, PART_BYTES)
            with new_host(self._program, self._node.server, volumes, first_number=1 + first) as host:
                for number in range(first, min(rounds, first + EPOCH_ROUNDS)):
                    self._round(host, number)
            complaints = self._node.server.complaints(ALLOWED_LOG)
            assert not complaints, "unlisted WARN or ERROR:\n" + "\n".join(complaints)

    def _round(self, host: Host, number: int) -> None:
        draw = self._random
        host.load(draw.getrandbits(48), draw.choice(FLUSH_PER_MILLE))
        time.sleep(draw.uniform(0, LOAD_S_MAX))
        if self._node.supervised and draw.random() < 0.5:
            self._node.server.kill("engine")
            self.tally.supervised_kills += 1
        else:
            self._kill_and_launch(supervise=number % 10 == 8)
            for _ in range(0 if self._node.supervised else draw.choice(KILLS_IN_RECOVERY)):
                time.sleep(draw.uniform(0, RECOVERY_S_MAX))
                self._kill_and_launch(supervise=False)
                self.tally.recovery_kills += 1
        self.tally.add(host.loaded())
        protocol: Protocol = draw.choice(("nvme", "iscsi"))
        host.verify(protocol)
        self.tally.rounds += 1
        self.tally.sectors += VOLUMES * PART_BYTES // 512

    def _kill_and_launch(self, supervise: bool) -> None:
        if self._node.supervised:
            self.tally.all_kills += 1
        else:
            self.tally.engine_kills += 1
        self._node.kill()
        if supervise:
            self._node.launch_all()
        else:
            self._node.launch_engine()


def storm_program() -> Path:
    """The host's program; built, if anything has changed."""
    return Programs.build(only="sds-storm").folder / "sds-storm"


def main() -> int:
    """Runs a storm and prints what was done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--keep", type=Path, help="where disks and data folder go if something was lost")
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}, {chosen.rounds} rounds, {DISKS} disks", flush=True)
    began = time.monotonic()
    program = storm_program()
    with tempfile.TemporaryDirectory(prefix="sds-storm-") as folder, new_node(Path(folder), DISK_BYTES) as node:
        storm = Storm(node, program, chosen.seed)
        try:
            storm.run(chosen.rounds)
        except AssertionError:
            if chosen.keep:
                node.kill()
                shutil.copytree(folder, chosen.keep, ignore=shutil.ignore_patterns("run"))
            raise
        finally:
            print(f"{storm.tally} in {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
