"""Configuration: what wins over what, what is refused, and the token's file."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from sds.config import Address, Config, ensure_token, from_arguments, load
from sds.errors import InvalidValue


def test_arguments_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "sds.toml"
    file.write_text('data = "/srv/sds"\ncores = 2\nnvme = "127.0.0.1:4421"\n')
    config = load(file, {"cores": 3, "data": None})
    assert (config.data, config.cores, str(config.nvme)) == (Path("/srv/sds"), 3, "127.0.0.1:4421")
    assert str(config.iscsi) == "127.0.0.1:3260"


def test_a_process_gets_the_same_configuration_from_its_arguments(tmp_path: Path) -> None:
    config = load(
        None,
        {
            "data": tmp_path,
            "rest": "[::1]:80",
            "allow_remote": True,
            "advertise": "storage1",
            "embedded_default": False,
        },
    )
    assert from_arguments("x", config.arguments()) == config


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("cores = 0.5", "cores"),
        ("cores = 65", "cores"),
        ("cores = true", "cores"),
        ('rest = "example.org:80"', "rest"),
        ('rest = "127.0.0.1:65536"', "rest"),
        ('rest = "127.0.0.1"', "rest"),
        ('rest = "0.0.0.0:8080"', "rest"),
        ('rest = "[::]:8080"', "rest"),
        ('allow_remote = "yes"', "allow_remote"),
        ('log_level = "loud"', "log_level"),
        ("map_cache_bytes_max = 1", "map_cache_bytes_max"),
        ("heat_sample_s = 0", "heat_sample_s"),
        ("colour = 1", "colour"),
        ("cores = ", "config"),
    ],
)
def test_a_refusal_names_the_setting(tmp_path: Path, text: str, field: str) -> None:
    file = tmp_path / "sds.toml"
    file.write_text(text)
    with pytest.raises(InvalidValue) as caught:
        load(file, {})
    assert caught.value.field == field
    assert caught.value.accepted


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="No such file"):
        load(tmp_path / "none.toml", {})


def test_rest_on_every_address_needs_the_admins_word() -> None:
    config = load(None, {"rest": "0.0.0.0:8080", "allow_remote": True})
    assert config.rest == Address("0.0.0.0", 8080)


def test_the_token_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin.token"
    token = ensure_token(path)
    assert len(token) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ensure_token(path) == token


@pytest.mark.parametrize(("text", "mode"), [("secret\n", 0o644), ("\n", 0o600)])
def test_a_token_that_others_may_read_is_refused(tmp_path: Path, text: str, mode: int) -> None:
    path = tmp_path / "admin.token"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(InvalidValue):
        ensure_token(path)


def test_a_target_on_every_address_is_advertised_by_name() -> None:
    assert Config(advertise="storage1").advertised(Address("0.0.0.0", 4420)) == "storage1"
    assert Config().advertised(Address("127.0.0.1", 4420)) == "127.0.0.1"
    assert Config().advertised(Address("0.0.0.0", 4420)) not in {"", "0.0.0.0"}
