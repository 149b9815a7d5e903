"""The command line, as a process against a real gateway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sds.errors import InvalidValue
from tests.api.node import TOKEN, ScriptedEngine, gateway
from tests.api.test_gateway import VOLUME

LIMIT_S = 30
EXPORT = {
    "id": "pacs.nvme",
    "volume": "pacs",
    "pool": "archive",
    "protocol": "nvme",
    "hosts": [],
    "any_host": True,
    "nqn": "nqn.2026-11.io.sds:archive.pacs",
    "nsid": 1,
    "iqn": None,
    "lun": None,
    "address": "127.0.0.1:4420",
    "connect": "nvme connect -t tcp -a 127.0.0.1 -s 4420 -n nqn.2026-11.io.sds:archive.pacs",
    "created": "2026-01-01T00:00:00+00:00",
}

POOL = {
    "name": "archive",
    "uuid": "5b0f3a4e-6f3e-4a43-8e57-1f1b8a0a4d10",
    "state": "online",
    "message": "",
    "extent_bytes": 1 << 20,
    "capacity_bytes": 1 << 40,
    "allocated_bytes": 0,
    "free_bytes": 1 << 40,
    "provisioned_bytes": 0,
    "overcommit": 0.0,
    "journal_disks": 1,
    "disks": 2,
    "volumes": 0,
    "created": "2026-01-01T00:00:00+00:00",
}

Sds = Callable[..., subprocess.CompletedProcess[str]]


def _sds(url: str, token_file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sds.cli", *arguments],
        env=os.environ | {"SDS_URL": url, "SDS_TOKEN_FILE": str(token_file)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.fixture
def engine() -> ScriptedEngine:
    """What answers behind the gateway."""
    return ScriptedEngine()


@pytest.fixture
def sds(tmp_path: Path, engine: ScriptedEngine) -> Iterator[Sds]:
    """Runs `sds ARGUMENTS` against it."""
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN + "\n")
    with gateway(tmp_path, engine) as url:
        yield lambda *arguments: _sds(url, token_file, *arguments)


def test_sizes_are_typed_with_units_and_sent_in_bytes(sds: Sds, engine: ScriptedEngine) -> None:
    engine.answers["volume_create"] = {"item": VOLUME, "new": True}
    done = sds("volume", "create", "pacs", "--pool", "archive", "--size", "1T")
    assert done.returncode == 0, done.stderr
    assert "1 TiB" in done.stdout
    assert engine.asked == [("volume_create", {"name": "pacs", "pool": "archive", "size_bytes": 1 << 40})]


def test_json_is_what_rest_said(sds: Sds, engine: ScriptedEngine) -> None:
    engine.answers["volume_get"] = VOLUME
    assert json.loads(sds("volume", "show", "pacs", "--output", "json").stdout) == VOLUME


def test_lists_follow_their_pages(sds: Sds, engine: ScriptedEngine) -> None:
    engine.answers["volume_list"] = {"items": [VOLUME], "next": None}
    assert json.loads(sds("volume", "list", "-o", "json").stdout) == [VOLUME]
    table = sds("volume", "list").stdout
    assert table.splitlines()[1].split() == ["pacs", "archive", "1", "TiB", "0", "B", "-", "-"]


def test_an_export_prints_what_to_type_on_the_host(sds: Sds, engine: ScriptedEngine) -> None:
    engine.answers["export_create"] = {"item": EXPORT, "new": True}
    done = sds("export", "create", "pacs", "--protocol", "nvme", "--any-host")
    assert str(EXPORT["connect"]) in done.stdout.splitlines()


def test_a_refusal_shows_field_and_what_is_accepted(sds: Sds, engine: ScriptedEngine) -> None:
    engine.answers["volume_update"] = InvalidValue("size_bytes", "too small [by far]", "5 or more")
    done = sds("volume", "resize", "pacs", "1M")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "sds: too small [by far]",
        "  field: size_bytes",
        "  accepted: 5 or more",
    ]


def test_a_wrong_size_never_leaves_the_command(sds: Sds, engine: ScriptedEngine) -> None:
    done = sds("volume", "create", "pacs", "--pool", "archive", "--size", "1.5G")
    assert done.returncode == 1
    assert "512G" in done.stderr
    assert not engine.asked


def test_a_pool_is_imported_by_absolute_paths_and_its_loss_is_asked_about(sds: Sds, engine: ScriptedEngine) -> None:
    engine.answers["pool_import"] = {"item": POOL, "new": True}
    done = sds("pool", "import", "disks/a", "/dev/b", "--name", "other", "--output", "json")
    assert (done.returncode, json.loads(done.stdout)) == (0, POOL)
    disks = [str(Path("disks/a").absolute()), "/dev/b"]
    assert engine.asked == [("pool_import", {"disks": disks, "name": "other", "force": False})]
    assert sds("pool", "import", "/dev/b", "--force").returncode == 4
    assert sds("pool", "import", "/dev/b", "--force", "--yes").returncode == 0
    assert engine.asked[1:] == [("pool_import", {"disks": ["/dev/b"], "force": True})]


def test_an_export_of_a_pool_prints_what_to_type_on_the_other_node(sds: Sds, engine: ScriptedEngine) -> None:
    command = "sds pool import /dev/a '/dev/b c'"
    answer = {"name": "archive", "uuid": POOL["uuid"], "closed": True, "disks": ["/dev/a", "/dev/b c"]}
    engine.answers["pool_export"] = answer | {"command": command}
    assert sds("pool", "export", "archive").returncode == 4
    assert not engine.asked
    assert sds("pool", "export", "archive", "--yes").stdout.splitlines()[-1] == command
    assert json.loads(sds("pool", "export", "archive", "-y", "-o", "json").stdout) == engine.answers["pool_export"]
    assert engine.asked == [("pool_export", {"name": "archive", "force": False})] * 2


def test_deleting_needs_yes_where_nobody_can_be_asked(sds: Sds, engine: ScriptedEngine) -> None:
    engine.answers |= {"volume_get": VOLUME, "volume_delete": None}
    done = sds("volume", "delete", "pacs")
    assert done.returncode == 4
    assert "--yes" in done.stderr
    assert ("volume_delete", {"name": "pacs"}) not in engine.asked
    done = sds("volume", "delete", "pacs", "--yes")
    assert done.returncode == 0, done.stderr
    assert engine.asked[-1] == ("volume_delete", {"name": "pacs"})


def test_a_gateway_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    done = _sds("http://127.0.0.1:1", token_file, "volume", "list")
    assert done.returncode == 3
    assert "can't be reached" in done.stderr
    done = _sds("http://127.0.0.1:1", tmp_path / "none", "volume", "list")
    assert done.returncode == 1
    assert "SDS_TOKEN_FILE" in done.stderr


def test_the_command_line_without_a_server() -> None:
    done = _sds("", Path(), "version", "--output", "json")
    assert json.loads(done.stdout).keys() == {"version"}
    done = _sds("", Path(), "volume", "create")
    assert done.returncode == 2
    done = _sds("", Path(), "serve", "--rest", "0.0.0.0:8080")
    assert done.returncode == 1
    assert "allow_remote" in done.stderr


SCRUB = {
    "pool": "archive",
    "state": "running",
    "began": "2026-11-24T12:00:00+00:00",
    "ended": None,
    "bytes_per_second_max": 50 << 20,
    "progress": 0.25,
    "unsealed_blocks": 3,
    "disks": [
        {
            "uuid": "d",
            "verified_blocks": 7,
            "corrupt_blocks": 1,
            "unreadable_blocks": 0,
            "metadata_verified": 9,
            "metadata_damaged": 1,
            "metadata_mended": 1,
        }
    ],
    "schedule": {"interval_hours": 168, "bytes_per_second_max": 50 << 20},
}


def test_a_scrub_is_begun_shown_scheduled_and_stopped(sds: Sds, engine: ScriptedEngine) -> None:
    engine.answers = dict.fromkeys(("scrub_start", "scrub_get", "scrub_update"), SCRUB) | {"scrub_stop": None}
    for words in (
        ("start", "archive", "--rate", "50M"),
        ("show", "archive"),
        ("schedule", "archive", "--hours", "168"),
        ("stop", "archive"),
    ):
        assert sds("pool", "scrub", *words).returncode == 0
    assert engine.asked == [
        ("scrub_start", {"pool": "archive", "bytes_per_second_max": 50 << 20}),
        ("scrub_get", {"pool": "archive"}),
        ("scrub_update", {"pool": "archive", "interval_hours": 168}),
        ("scrub_stop", {"pool": "archive"}),
    ]
