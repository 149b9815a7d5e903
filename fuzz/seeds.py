"""Writes `fuzz/seeds`: a few well-formed inputs of each target, so that ten seconds reach past the first check.

    python fuzz/seeds.py

What lies on disks is taken from the examples of docs/on-disk.md, which a test holds to the code; what hosts send is
put together here. The first bytes of an input say how a target takes the rest (fuzz_targets). Run it after a format
has changed; what is out of date does no harm.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SEEDS = FOLDER / "seeds"
HOST = b"nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555"
SUBSYSTEM = b"nqn.2026-11.io.sds:archive.pacs"
SEALED = b"\x01"  # The rest is the body of an envelope (fuzz/src/sealed.rs).
ENVELOPE_BYTES, GROUP_HEADER_BYTES, FRAME_HEADER_BYTES = 16, 10, 64


def examples() -> dict[str, bytes]:
    """Each example's bytes, without the zeros at its end, by its heading after "Example: "."""
    found: dict[str, bytearray] = {}
    heading, inside = "", False
    for line in (FOLDER.parent / "docs/on-disk.md").read_text().splitlines():
        if line.startswith("#") and not inside:
            heading = line.strip("# ").removeprefix("Example: ")
        elif line.startswith("```"):
            inside = line == "```hex"
            if inside:
                found[heading] = bytearray()
        elif inside:
            for word in line.split("#")[0].split():
                if word.startswith("x"):
                    found[heading] += found[heading][-1:] * (int(word[1:]) - 1)
                else:
                    found[heading].append(int(word, 16))
    return {name: bytes(data).rstrip(b"\0") for name, data in found.items()}


def disk_seeds() -> Iterator[tuple[str, bytes]]:
    """Labels, catalogs, journals, owner tables, rings, rows."""
    example = examples()
    body = {name: SEALED + data[ENVELOPE_BYTES:] for name, data in example.items()}
    yield "label", body["label"]
    yield "catalog", body["catalog"]
    yield "catalog", body["catalog slot"]
    yield "journal", body["journal header"]
    yield "journal", body["journal frame"]
    frame, group = example["journal frame"], example["one delta of each kind"]
    yield "journal", frame[ENVELOPE_BYTES:FRAME_HEADER_BYTES] + group[GROUP_HEADER_BYTES:]
    yield "journal", group[GROUP_HEADER_BYTES:]
    yield "owner", bytes([2, 0]) + body["owner block"]
    entry = SEALED + example["ring"][FRAME_HEADER_BYTES + ENVELOPE_BYTES :]
    yield "carry_over", bytes([0, 7, len(entry)]) + entry
    yield "carry_over", bytes([1, 0x80, 0, 1, 2, 3, 4]) + bytes([100, 0, 200, 1, 60, 7] * 6)
    yield "rows", b"\0" + body["page set row"]
    yield "rows", b"\1" + (2).to_bytes(8, "little") + body["record row"]
    yield "rows", b"\2" + body["bitmap row"]
    yield "rows", b"\3" + body["checkpoint row"]
    claims = b"\4\2"  # Of extents of 1 MiB, whose owner entries are of 64 bytes.
    yield "rows", claims + body["row of claims"].ljust(1 + 4 + 64, b"\0")
    entry = body["owner block"][1 + 16 + 41 * 64 :].ljust(64, b"\0")
    yield "rows", claims + SEALED + bytes([1, 41, 4, 1]) + entry + bytes([0, 57, 4, 1]) + entry


def sqe(opcode: int, *, sgl: int = 0x5A, data_bytes: int = 0, **fields: int) -> bytes:
    """An entry of a submission queue; `fields`: further bytes by offset, as `b40=1`."""
    entry = bytearray(64)
    entry[0], entry[1], entry[4], entry[39] = opcode, 0x40, 1, sgl
    entry[32:36] = data_bytes.to_bytes(4, "little")
    for place, value in fields.items():
        entry[int(place[1:])] = value
    return bytes(entry)


def nvme_seeds() -> Iterator[tuple[str, bytes]]:
    """PDUs of hosts and of targets, commands and Connect data."""
    ic_req = bytes([0, 0, 128, 0, 128]) + bytes(123)
    hostid, controller = b"\x5a" * 16, b"\xff\xff"
    names = SUBSYSTEM.ljust(256, b"\0") + HOST.ljust(256, b"\0")
    data = hostid + controller + bytes(238) + names + bytes(256)
    connect = sqe(0x7F, sgl=0x01, data_bytes=1024, b4=1, b44=31)
    capsule = bytes([4, 0, 72, 72]) + (72 + 1024).to_bytes(4, "little") + connect + data
    yield "nvme_pdu", bytes([0, 12]) + ic_req
    commands = [
        sqe(0, b4=1),
        sqe(1, sgl=0x01, data_bytes=4096, b48=7),
        sqe(2, data_bytes=4096, b48=7),
        sqe(5, data_bytes=512),
        sqe(8, b48=7, b51=2),
    ]
    for command in commands:
        yield "nvme_pdu", bytes([1, 0]) + command
    yield (
        "nvme_pdu",
        bytes([1, 2]) + sqe(9, sgl=0x01, data_bytes=32, b40=1, b44=4) + bytes([0, 0, 0, 0, 8, 0, 0, 0] * 4),
    )
    yield "nvme_pdu", bytes([1, 0]) + connect + data
    yield "nvme_target", bytes([0, 0, 0, 1, 0]) + ic_req + capsule
    # Framed: a record for each opcode of its table, then data for what was asked.
    records = b"".join(bytes([0, choice, choice & 15, 0, 8, 7]) for choice in range(14))
    for queue in (0x08, 0x10, 0x18):
        yield "nvme_target", bytes([0x20 | queue, 0, 0, 1, 2]) + records + b"\1" * 4
    yield "nvme_target", bytes([0x3B, 7, 40, 1, 0]) + bytes([0, 0x81, 1, 0, 8, 7]) + records
    response = b"".join(bytes([5, 0, 24, 0, 24, *[0] * 15, cid, 0, 0, 0]) for cid in range(6))
    ready = b"".join(bytes([9, 0, 24, 0, 24, 0, 0, 0, cid, 0, 1, 0, *[0] * 5, 4, *[0] * 6]) for cid in range(6))
    read = bytes([7, 4, 24, 24, 24, 8, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0]) + bytes(2048)
    for options in (0, 3):
        yield "nvme_initiator", bytes([options, 0, 0]) + response
        yield "nvme_initiator", bytes([options, 0, 0]) + ready + response
        yield "nvme_initiator", bytes([options, 0, 200]) + read[:1500]
    yield "nvme_initiator", bytes([4, 0, 0, 1, 0, 128, 0, 128, *[0] * 8, 16, *[0] * 114]) + response


def iscsi_seeds() -> Iterator[tuple[str, bytes]]:
    """Logins, PDUs and CDBs."""
    names = b"InitiatorName=iqn.1993-08.org.debian:01:abc\0TargetName=iqn.2026-11.io.sds:pool.volume\0"
    keys = (
        b"SessionType=Normal\0AuthMethod=None\0HeaderDigest=CRC32C,None\0DataDigest=None\0MaxConnections=1\0"
        b"InitialR2T=No\0ImmediateData=Yes\0MaxRecvDataSegmentLength=262144\0MaxBurstLength=16776192\0"
        b"FirstBurstLength=0x40000\0DefaultTime2Wait=2\0DefaultTime2Retain=0\0MaxOutstandingR2T=1\0"
        b"DataPDUInOrder=Yes\0DataSequenceInOrder=Yes\0ErrorRecoveryLevel=0\0IFMarker=No\0OFMarker=No\0X-a=b\0"
    )
    discovery = b"InitiatorName=iqn.a:b\0SessionType=Discovery\0"

    def request(flags: int, text: bytes) -> bytes:
        return bytes([flags, 0]) + len(text).to_bytes(2, "little") + text

    yield "login_text", names + keys
    yield "login_text", b"\0" + request(0x87, names + keys)
    yield "login_text", b"\1" + request(0x81, names) + request(0x44, keys[:100]) + request(0x87, keys[100:])
    yield "login_text", b"\x0b" + request(0x87, discovery)
    header = bytes([0x43, 0x87, 0, 0, 0, 0]) + len(names + keys).to_bytes(2, "big") + bytes(40)
    padding = bytes(-len(names + keys) % 4)
    yield "iscsi_target", bytes([0, 0, 0, 1, 0]) + header + names + keys + padding
    # Framed: a command of each opcode, a ping, task management, text, logout, data for what was asked.
    opcodes = b"".join(bytes([0, number, 0x80, number & 15, 8, 8, 0]) for number in range(32))
    others = bytes([2, 0x80, 0, 1, 0, 6, 0x81, 0, 2, 0, 10, 0x80, 16, 3, 0]) + bytes(16)
    for options in (0x30, 0x28, 0xB0, 0xF2):
        yield "iscsi_target", bytes([options, 0, 0, 1, 2]) + opcodes + others + bytes([1, 0x81, 1, 0x83]) * 4
    unit = [
        "00", "03000000fc", "12000000ff", "12010000ff", "12018300ff", "1201b000ff", "1201b200ff", "1a003f00ff",
        "5a003f000000000000ff", "25", "9e100000000000000000000000000020", "2800000000080000080000",
        "88000000000000000008000000080000", "2a080000000800000800", "8a080000000000000008000000080000",
        "8e", "8f", "3500000000000000", "91", "4100000000080000080000", "9308000000000000000800000008",
        "890000000000000000080000000100", "420000000000000000180000", "a0000000000000001000", "a3050000000000001000",
        "5e000000000000010000", "5f000000000000001800", "1b", "2f000000000800000800", "8b", "34", "9e12",
    ]  # fmt: skip
    unmap = bytes.fromhex("0016001000000000") + bytes([0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0, 0])
    for number, cdb in enumerate(unit):
        yield "cdb", bytes([number & 2]) + bytes.fromhex(cdb)[:16].ljust(16, b"\0") + unmap


def main() -> None:
    """Write them anew."""
    shutil.rmtree(SEEDS, ignore_errors=True)
    for seeds in (nvme_seeds(), iscsi_seeds(), disk_seeds()):
        for target, data in seeds:
            folder = SEEDS / target
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{len(list(folder.iterdir())):02}").write_bytes(data)


if __name__ == "__main__":
    main()
