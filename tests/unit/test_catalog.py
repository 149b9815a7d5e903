"""The catalog: documents, pages, tiers, hosts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sds.engine.catalog import (
    PAGE_ITEMS_MAX,
    Disk,
    Export,
    Host,
    Pool,
    Terms,
    Volume,
    check_tier,
    conflicts,
    page,
)
from sds.errors import InvalidValue, SdsError
from sds.names import GIB, MIB

UUID = "0c1f3f4e-6f3e-4a43-8e57-1f1b8a0a4d10"


def test_documents_come_back_as_they_went() -> None:
    pool = Pool(UUID, "archive", MIB, "now", (Disk("d", "/dev/sdb", "hdd", 50, GIB, "ready"),))
    volume = Volume(UUID, "pacs", "archive", "now", "ready")
    host = Host("pacs1", "nqn.x", None, "now")
    export = Export("pacs", "archive", "nvme", ("pacs1",), any_host=False, created="now")
    assert Pool.decode(pool.encode()) == pool
    assert Volume.decode(volume.encode(), "archive") == volume
    assert Host.decode(host.encode()) == host
    assert Export.decode(export.encode(), "archive") == export


def test_a_document_says_its_version_and_a_newer_one_is_refused() -> None:
    data = json.loads(Volume(UUID, "pacs", "archive", "now").encode())
    assert data == {"version": 1, "uuid": UUID, "name": "pacs", "created": "now", "state": "creating"}
    with pytest.raises(SdsError, match="version 3"):
        Volume.decode(json.dumps(data | {"version": 3}).encode(), "archive")


def test_newer_fields_are_written_only_where_they_say_something() -> None:
    plain = Volume(UUID, "pacs", "archive", "now")
    noted = replace(plain, terms=Terms(read_only=True, iops_max=500), labels={"ward": "1"})
    assert json.loads(noted.encode())["version"] == 2
    export = Export("pacs", "archive", "iscsi", (), any_host=True, created="now")
    renamed = replace(export, given_target="iqn.2026-11.io.sds:archive.before")
    assert json.loads(export.encode())["version"] == 1
    assert json.loads(renamed.encode())["version"] == 2
    assert Export.decode(renamed.encode(), "archive").target == "iqn.2026-11.io.sds:archive.before"
    for volume in (plain, noted):
        assert Volume.decode(volume.encode(), "archive") == volume


def test_targets_are_named_after_pool_and_volume() -> None:
    export = Export("pacs", "archive", "iscsi", (), any_host=True, created="now")
    assert (export.id, export.target) == ("pacs.iscsi", "iqn.2026-11.io.sds:archive.pacs")
    assert Volume(UUID, "pacs", "archive", "now").serial == "0c1f3f4e6f3e4a438e57"


@pytest.mark.parametrize("descending", [False, True])
def test_pages_show_everything_once(descending: bool) -> None:
    items = sorted((f"{number:03}" for number in range(25)), reverse=descending)
    seen: list[str] = []
    cursor = None
    for _ in range(3):
        shown, cursor = page(items, str, 10, cursor, descending=descending)
        seen += shown
    assert (seen, cursor) == (items, None)


def test_a_page_goes_on_although_its_last_item_is_gone() -> None:
    _, cursor = page(["a", "b", "c"], str, 2, None)
    assert page(["a", "c"], str, 2, cursor) == (["c"], None)


WRONG_PAGES = [
    (0, None, "limit"),
    (PAGE_ITEMS_MAX + 1, None, "limit"),
    (1, "%", "cursor"),
    (1, "é", "cursor"),
    (1, "_w==", "cursor"),
]


@pytest.mark.parametrize(("limit", "cursor", "field"), WRONG_PAGES)
def test_wrong_pages_are_refused(limit: int, cursor: str | None, field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        page(["a"], str, limit, cursor)
    assert caught.value.field == field


def test_tiers_have_ranks() -> None:
    assert check_tier("flash", None, {}) < check_tier("hdd", None, {})
    assert check_tier("optane", 5, {}) == 5
    assert check_tier("optane", None, {"optane": 5}) == 5
    for tier, rank, known in [("optane", None, {}), ("optane", 6, {"optane": 5}), ("hdd", 5, {}), ("x", 101, {})]:
        with pytest.raises(InvalidValue):
            check_tier(tier, rank, known)


def test_two_hosts_cannot_have_one_name_at_login() -> None:
    hosts = [Host("a", "nqn.a", "iqn.a", "now")]
    assert conflicts(hosts, Host("b", None, "iqn.a", "now")) == "a"
    assert conflicts(hosts, Host("b", "nqn.b", None, "now")) is None
    assert conflicts(hosts, Host("a", "nqn.a", None, "now")) is None
