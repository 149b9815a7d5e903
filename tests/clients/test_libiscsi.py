"""User-space iSCSI clients on this machine: libiscsi's tools and its conformance suite, and QEMU's block layer."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conformance import FAMILIES, check_family
from tests.server import Export, Server

MIB = 1 << 20
PROCESS_LIMIT_S = 60


def run(*command: str, limit_s: float = PROCESS_LIMIT_S) -> str:
    """Runs a program; returns all that it printed.

    Raises:
        AssertionError: its status was not 0; the message has its output.
    """
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}: status {done.returncode}\n{done.stdout}"
    return done.stdout


def url_of(server: Server, export: Export) -> str:
    """The URL that libiscsi and QEMU take."""
    return f"iscsi://127.0.0.1:{server.iscsi_port}/{export.target}/{export.unit}"


@pytest.fixture
def url(sds_server: Server) -> str:
    """A new 32 MiB volume."""
    return url_of(sds_server, sds_server.export(sds_server.new_volume(32 * MIB), "iscsi"))


def test_iscsi_ls_and_inq(sds_server: Server, url: str) -> None:
    target = url.split("/")[3]
    listed = run("iscsi-ls", "--show-luns", f"iscsi://127.0.0.1:{sds_server.iscsi_port}")
    assert target in listed
    assert "Type:DIRECT_ACCESS" in run("iscsi-inq", url)
    assert str(32 * MIB) in run("iscsi-readcapacity16", url)


def test_qemu_img_copies_an_image(tmp_path: Path, url: str) -> None:
    image = tmp_path / "image.raw"
    image.write_bytes(os.urandom(20 * MIB) + bytes(4 * MIB) + os.urandom(8 * MIB))
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), url)
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), url)
    copy = tmp_path / "copy.raw"
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", url, str(copy))
    assert copy.read_bytes() == image.read_bytes()


def test_qemu_io_reads_back_what_it_wrote(url: str) -> None:
    steps = (
        "write -P 0x5a 1M 1M", "write -f -P 0x11 4k 4k", "aio_write -P 0x22 8M 4M", "aio_flush", "flush",
        "read -P 0x5a 1M 1M", "read -P 0x11 4k 4k", "read -P 0x22 8M 4M", "read -P 0 0 4k", "read -P 0 16M 1M",
        "discard 8M 2M", "read -P 0 8M 2M", "read -P 0x22 10M 2M",
        "write -z 1M 512k", "read -P 0 1M 512k", "read -P 0x5a 1536k 512k",
        "write -P 0x33 512 512", "read -P 0x33 512 512", "read -P 0 1024 512",
    )  # fmt: skip
    output = run("qemu-io", "-f", "raw", *(part for step in steps for part in ("-c", step)), url)
    assert "failed" not in output, output


@pytest.mark.parametrize("family", FAMILIES)
def test_conformance(url: str, family: str) -> None:
    check_family(family, url)
