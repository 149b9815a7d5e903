"""Volumes of 4,096-byte blocks lie only on disks that write such blocks as a whole, whatever power does."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import bare_server
from tests.server import ApiError, Server

MIB = 1 << 20


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A node without pools."""
    with bare_server(tmp_path_factory.mktemp("blocks")) as server:
        server.start()
        yield server


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[dict[int, str]]:
    """A loop device by the size of its physical block."""
    made: dict[int, str] = {}
    try:
        for block in (512, 4096):
            image = tmp_path / f"{block}.img"
            with image.open("wb") as file:
                file.truncate(64 * MIB)
            command = ["losetup", "--find", "--show", "--sector-size", str(block), str(image)]
            made[block] = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        yield made
    finally:
        for name in made.values():
            subprocess.run(["losetup", "--detach", name], check=True)


def test_such_volumes_and_disks_that_tear_their_blocks_refuse_each_other(
    sds_server: Server, disks: dict[int, str]
) -> None:
    rest = sds_server.rest
    big = {"name": "big", "pool": "blocks", "size_bytes": 8 * MIB, "logical_block_bytes": 4096}
    rest.post("/v1/pools", {"name": "blocks"})
    tears = {"pool": "blocks", "path": disks[512], "tier": "flash"}
    rest.post("/v1/disks", {"pool": "blocks", "path": disks[4096], "tier": "flash"})
    rest.post("/v1/volumes", big)
    with pytest.raises(ApiError, match=rf"{disks[512]} has physical blocks of 512 bytes"):
        rest.post("/v1/disks", tears)
    rest.delete("/v1/volumes/big")
    # It was not labelled, so it is taken without force.
    rest.post("/v1/disks", tears)
    assert {one["physical_block_bytes"] for one in rest.items("/v1/disks")} == {512, 4096}
    with pytest.raises(ApiError, match=rf"{disks[512]} has physical blocks of 512 bytes.*logical_block_bytes 512"):
        rest.post("/v1/volumes", big)
    rest.post("/v1/volumes", big | {"logical_block_bytes": 512})
    rest.delete("/v1/volumes/big")
    rest.delete("/v1/pools/blocks")
