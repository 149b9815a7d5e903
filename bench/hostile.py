"""Hosts that send what they like: PDUs laid out by hand, on plain sockets."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from contextlib import suppress

IO_LIMIT_S = 5.0
MIB = 1 << 20
IC_REQ = bytes([0, 0, 128, 0, 128]) + bytes(123)  # NVMe/TCP 1.0c figure 26: no digests.
_FABRICS, _CONNECT, _PROPERTY_SET = 0x7F, 1, 0
_CC, _CC_ENABLE = 0x14, 0x0046_0001


def dial(port: int, source: str = "127.0.0.1", address: str = "127.0.0.1") -> socket.socket:
    """A connection from an address of this machine, with a time limit.

    Raises:
        OSError: there is none.
    """
    return socket.create_connection((address, port), timeout=IO_LIMIT_S, source_address=(source, 0))


def capsule(sqe: bytes, data: bytes = b"") -> bytes:
    """A command capsule (NVMe/TCP 1.0c figure 30)."""
    return bytes([4, 0, 72, 72 if data else 0]) + struct.pack("<I", 72 + len(data)) + sqe + data


def io_command(opcode: int, cid: int, size: int) -> bytes:
    """A read (2) or write (1) of `size` bytes at block 0 of namespace 1; data comes in PDUs of its own."""
    entry = bytearray(64)
    struct.pack_into("<BBHI", entry, 0, opcode, 0x40, cid, 1)
    struct.pack_into("<I", entry, 32, size)
    entry[39] = 0x5A
    struct.pack_into("<H", entry, 48, size // 512 - 1)
    return bytes(entry)


def _fabrics(fctype: int) -> bytearray:
    entry = bytearray(64)
    entry[0], entry[1], entry[4] = _FABRICS, 0x40, fctype
    return entry


def _connect(one: socket.socket, names: bytes, queue: int, controller: int, keep_alive_ms: int = 0) -> int:
    connect = _fabrics(_CONNECT)
    struct.pack_into("<I", connect, 32, 1024)
    connect[39] = 0x01
    struct.pack_into("<HH", connect, 42, queue, 31)
    struct.pack_into("<I", connect, 48, keep_alive_ms)
    data = b"\x77" * 16 + struct.pack("<H", controller) + bytes(238) + names
    one.sendall(IC_REQ + capsule(bytes(connect), data))
    answer = exactly(one, 128 + 24)[128:]
    controller, status = struct.unpack_from("<H12xH", answer, 8)
    if status >> 1:
        raise ConnectionRefusedError(f"Connect: status {status >> 1:#x}")
    return int(controller)


class NvmeHost:
    """An admin queue, enabled, and an I/O queue of 32 entries.

    Raises:
        OSError: the node closed, refused or did not answer.
    """

    def __init__(self, port: int, host: str, nqn: str, keep_alive_ms: int = 0, **way: str) -> None:
        self.sockets: list[socket.socket] = []
        try:
            names = nqn.encode().ljust(256, b"\0") + host.encode().ljust(512, b"\0")
            self.sockets.append(dial(port, **way))
            controller = _connect(self.admin, names, 0, 0xFFFF, keep_alive_ms)
            enable = _fabrics(_PROPERTY_SET)
            enable[44] = _CC
            struct.pack_into("<I", enable, 48, _CC_ENABLE)
            self.admin.sendall(capsule(bytes(enable)))
            exactly(self.admin, 24)
            self.sockets.append(dial(port, **way))
            _connect(self.queue, names, 1, controller)
        except OSError:
            self.close()
            raise

    @property
    def admin(self) -> socket.socket:
        """The admin queue."""
        return self.sockets[0]

    @property
    def queue(self) -> socket.socket:
        """The I/O queue."""
        return self.sockets[1]

    def close(self) -> None:
        """Ends both."""
        close_all(self.sockets)


def iscsi_login(initiator: str, target: str, claimed_bytes: int | None = None, flags: int = 0x87) -> bytes:
    """A login request (RFC 7143 11.12), straight to the full feature phase; it may claim more text than it has."""
    text = f"InitiatorName={initiator}\0TargetName={target}\0SessionType=Normal\0".encode()
    header = bytearray(48)
    header[0], header[1] = 0x43, flags
    header[5:8] = (len(text) if claimed_bytes is None else claimed_bytes).to_bytes(3, "big")
    header[8], header[13], header[19] = 0x80, 1, 1
    return bytes(header) + text + bytes(-len(text) % 4)


def iscsi_session(port: int, initiator: str, target: str, **way: str) -> socket.socket:
    """A session, its first command's unit attention taken.

    Raises:
        OSError: the node closed, refused or did not answer.
    """
    one = dial(port, **way)
    try:
        one.sendall(iscsi_login(initiator, target))
        header = exactly(one, 48)
        exactly(one, (int.from_bytes(header[5:8], "big") + 3) // 4 * 4)
        if header[36]:
            raise ConnectionRefusedError(f"login: status {header[36:38].hex()}")
        ready = bytearray(48)
        ready[0], ready[1] = 0x01, 0x80  # TEST UNIT READY
        one.sendall(ready)
        header = exactly(one, 48)
        exactly(one, (int.from_bytes(header[5:8], "big") + 3) // 4 * 4)
    except OSError:
        one.close()
        raise
    return one


def iscsi_write(number: int, size: int, immediate: int) -> bytes:
    """WRITE(10) of `size` bytes at block 0 with the first `immediate` of them; the session's `number`th command."""
    header = bytearray(48)
    header[0], header[1] = 0x01, 0xA0
    header[5:8] = immediate.to_bytes(3, "big")
    struct.pack_into(">II", header, 16, number, size)
    struct.pack_into(">I", header, 24, number)
    header[32] = 0x2A
    struct.pack_into(">H", header, 39, size // 512)
    return bytes(header) + bytes(immediate)


def exactly(one: socket.socket, count: int) -> bytes:
    """So many bytes.

    Raises:
        OSError: the node closed, or did not answer in time.
    """
    data = bytearray()
    while len(data) < count:
        part = one.recv(count - len(data))
        if not part:
            raise ConnectionResetError("the node has closed")
        data += part
    return bytes(data)


def is_open(one: socket.socket) -> bool:
    """Whether the node has not closed it; what it sent is read and forgotten."""
    one.setblocking(False)
    try:
        return bool(one.recv(1 << 16))
    except BlockingIOError:
        return True
    except OSError:
        return False


def close_all(sockets: Sequence[socket.socket]) -> None:
    """Closes them, whatever state they are in."""
    for one in sockets:
        with suppress(OSError):
            one.close()
