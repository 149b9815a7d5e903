"""A node under attack: what a host that goes on has of it meanwhile, and how much memory it takes.

    python -m bench.attack --json out.json

For each attack of `bench.attacks` a host (`sds-nvme-load`, depth 8, 70 % reads) and an administrator (a REST request
each 50 ms, each over a new connection) go on while it runs; the first line is without one. Hosts that were cut off
without a word (half-open TCP) are there from the beginning, if this may make a network namespace, and are to be gone in
the end. The disk is memory, so that the figures are the front end's.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.attacks import ATTACKS, Attack, HalfOpen, Victim, network
from bench.node import Node, temporary_folder
from bench.programs import Programs, Target, finish
from bench.report import columns, machine_facts, show

MIB = 1 << 20
POOL_BYTES = 512 * MIB
VOLUME_BYTES = 256 * MIB
REGION_BYTES = 64 * MIB
BEFORE_ATTACK_S = 0.4
POLL_S = 0.05
REST_LIMIT_S = 60
SLACK_S = 60
GONE_LIMIT_S = 60
# What the node may take beyond its payload: queues and login texts of each connection; the system's and its own caches.
CONNECTION_BYTES_MAX = 64 << 10
CACHES_BYTES_MAX = 64 * MIB


@dataclass(frozen=True)
class Plan:
    """How long each attack takes, which, and what the node allows."""

    seconds: int = 5
    attacks: Sequence[Attack] = ATTACKS
    payload_bytes_max: int = 64 * MIB
    connections_max: int = 1024

    def resident_bytes_max(self, idle: int) -> int:
        """What the engine may have in RAM, from what it has when idle."""
        return idle + self.payload_bytes_max + self.connections_max * CONNECTION_BYTES_MAX + CACHES_BYTES_MAX


@dataclass
class Watched:
    """What was seen while an attack ran.

    Attributes:
        load: the host's own report.
        rest_ms: how long each of the administrator's requests took; `rest_failed`: how many were not answered 200.
        resident: the most that a process had in RAM, in bytes.
        connections: the most that the node had open.
    """

    attack: str
    amount: int = 0
    load: dict[str, Any] = field(default_factory=dict)
    rest_ms: list[float] = field(default_factory=list)
    rest_failed: int = 0
    resident: dict[str, int] = field(default_factory=dict)
    connections: int = 0

    @property
    def rest_p99_ms(self) -> float:
        """Of the administrator's requests."""
        return sorted(self.rest_ms)[int(len(self.rest_ms) * 0.99)] if self.rest_ms else float("nan")


def rest_get(node: Node, path: str) -> tuple[int, str]:
    """Status and body of a GET over a connection of its own.

    Raises:
        OSError, http.client.HTTPException: it was not answered.
    """
    one = http.client.HTTPConnection("127.0.0.1", node.ports[0], timeout=REST_LIMIT_S)
    try:
        token = (node.data / "admin.token").read_text().strip()
        one.request("GET", path, headers={"authorization": f"Bearer {token}"})
        answer = one.getresponse()
        return answer.status, answer.read().decode()
    finally:
        one.close()


def connections(node: Node) -> int:
    """What the node has open on its targets."""
    found = re.search(r"^sds_connections (\S+)", rest_get(node, "/metrics")[1], re.MULTILINE)
    return int(float(found[1])) if found else 0


def resident_now(pid: int) -> int:
    """As `bench.node.resident_bytes`, quick enough to be asked often: Rss of `/proc/PID/statm`."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Watch:
    """An administrator who asks all the while, and looks at memory."""

    def __init__(self, node: Node, seen: Watched) -> None:
        self._node, self._seen = node, seen
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        pids = {name: pid for name, pid in self._node.pids().items() if name in ("engine", "gateway")}
        while not self._stop.wait(POLL_S):
            for name, pid in pids.items():
                self._seen.resident[name] = max(self._seen.resident.get(name, 0), resident_now(pid))
            began = time.monotonic()
            try:
                answered = rest_get(self._node, "/v1/volumes/attacked")[0] == 200
            except (OSError, http.client.HTTPException):
                answered = False
            self._seen.rest_failed += not answered
            self._seen.rest_ms.append((time.monotonic() - began) * 1000)
            with suppress(OSError, http.client.HTTPException):
                if len(self._seen.rest_ms) % 10 == 0:
                    self._seen.connections = max(self._seen.connections, connections(self._node))


@dataclass(frozen=True)
class Scene:
    """A node, the volume that a host uses, and where it is attacked."""

    programs: Programs
    node: Node
    target: Target
    victim: Victim


def watch(scene: Scene, attack: Attack | None, seconds: int) -> Watched:
    """One attack; the host is there before it.

    Raises:
        ProgramError: the host's connection broke.
    """
    seen = Watched(attack.__name__ if attack else "none")
    options = ["--qd", 8, "--read-percent", 70, "--region", REGION_BYTES, "--seconds", seconds]
    load = scene.programs.start_load(scene.target, options)
    stop = threading.Event()

    def run() -> None:
        if attack is not None and not stop.wait(BEFORE_ATTACK_S):
            seen.amount = attack(scene.victim, stop)

    attacking = threading.Thread(target=run)
    attacking.start()
    try:
        with Watch(scene.node, seen):
            seen.load = finish(load, seconds + SLACK_S)
    finally:
        stop.set()
        attacking.join()
    return seen


@contextmanager
def victim_node(plan: Plan, folder: Path) -> Iterator[Node]:
    """A node with the limits of the plan that listens on all addresses, stopped at the end."""
    settings = {"payload_bytes_max": plan.payload_bytes_max, "connections_max": plan.connections_max}
    node = Node(folder / "data", settings=settings, listen="0.0.0.0")  # noqa: S104 - for the namespace's link.
    try:
        node.start()
        yield node
    finally:
        node.stop()


def measure(programs: Programs, plan: Plan, parent: Path | None = None) -> dict[str, Any]:
    """Every attack of the plan on one node."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    facts = machine_facts()
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder(parent))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        node = stack.enter_context(victim_node(plan, folder))
        node.make_pool("attack", [f"memfd:attack:{POOL_BYTES}"])
        target = node.make_volume("attacked", "attack", VOLUME_BYTES)
        export = node.request("POST", "/v1/exports", {"volume": "attacked", "protocol": "iscsi", "any_host": True})
        rest_port, nvme_port, iscsi_port = node.ports
        victim = Victim(nvme_port, iscsi_port, rest_port, target.nqn, export["iqn"])
        programs.load(target, ["--read-percent", 0, "--region", REGION_BYTES, "--sweep", 4096], SLACK_S)
        idle = {name: resident_now(pid) for name, pid in node.pids().items()}
        cut_off = 0
        with suppress(subprocess.CalledProcessError):
            stack.enter_context(network())
            half_open = HalfOpen(victim)
            stack.callback(half_open.close)
            cut_off = half_open.connections
        scene = Scene(programs, node, target, victim)
        seen = [watch(scene, attack, plan.seconds) for attack in (None, *plan.attacks)]
        left = until_gone(node)
    return {
        "machine": facts,
        "payload_bytes_max": plan.payload_bytes_max,
        "idle_bytes": idle,
        "resident_bytes_max": plan.resident_bytes_max(idle["engine"]),
        "cut_off": cut_off,
        "left": left,
        "attacks": [asdict(one) | {"rest_p99_ms": one.rest_p99_ms} for one in seen],
    }


def until_gone(node: Node) -> int:
    """Waits until no connection is left, those among them that were cut off; how many still are."""
    deadline = time.monotonic() + GONE_LIMIT_S
    while (left := connections(node)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return left


def table(result: dict[str, Any]) -> str:
    """A line for each attack."""
    head = ["attack", "of it", "IOPS", "p50 us", "p99 us", "REST p99 ms", "failed", "open", "engine MiB", "gateway MiB"]
    rows = [
        [
            one["attack"].replace("_", " "),
            one["amount"],
            one["load"]["iops"],
            float(one["load"]["p50_us"]),
            float(one["load"]["p99_us"]),
            float(one["rest_p99_ms"]),
            one["rest_failed"],
            one["connections"],
            one["resident"]["engine"] // MIB,
            one["resident"]["gateway"] // MIB,
        ]
        for one in result["attacks"]
    ]
    return (
        f"{columns(head, rows)}\nidle: engine {result['idle_bytes']['engine'] // MIB} MiB; at most "
        f"{result['resident_bytes_max'] // MIB} MiB with payload_bytes_max {result['payload_bytes_max'] // MIB} MiB; "
        f"of {result['cut_off']} connections that were cut off {result['left']} are left"
    )


def main() -> int:
    """Attack, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=Plan.seconds, help="of each attack")
    parser.add_argument("--attack", action="append", choices=[one.__name__ for one in ATTACKS], help="only this one")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--bin", type=Path, help="programs that are built already")
    parser.add_argument("--json", type=Path, help="where all figures go")
    options = parser.parse_args()
    attacks = tuple(one for one in ATTACKS if not options.attack or one.__name__ in options.attack)
    result = measure(Programs.build(options.bin), Plan(options.seconds, attacks), options.folder)
    show(table(result), result, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
