"""libiscsi's conformance suite on our iSCSI target, before any pool: the unit is a gigabyte of memory."""

from __future__ import annotations

import pytest

from tests.conformance import FAMILIES, check_family


@pytest.mark.parametrize("family", FAMILIES)
def test_conformance(portals: dict[str, tuple[str, int]], family: str) -> None:
    name, port = portals["iscsi"]
    check_family(family, f"iscsi://127.0.0.1:{port}/{name}/0")
