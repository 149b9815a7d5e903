"""Names and sizes: what is accepted, what is refused, and that the refusal says which field and what else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sds import names
from sds.errors import InvalidValue

UUID_NQN = "nqn.2014-08.org.nvmexpress:uuid:4c4c4544-0044-4810-8031-b4c04f4d3332"


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (names.check_name, "a"),
        (names.check_name, "0-a-"),
        (names.check_name, "a" * 63),
        (names.check_nqn, UUID_NQN),
        (names.check_nqn, "nqn.2020-01.com.example:storage:Array.1"),
        (names.check_nqn, "nqn.2020-01.com.example:" + "x" * (223 - 24)),
        (names.check_iqn, "iqn.1993-08.org.debian:01:8e3ba21d2aa"),
        (names.check_iqn, "iqn.2020-12.com.example"),
        (names.check_iqn, "eui.02004567a425678d"),
        (names.check_iqn, "naa.52004567ba64678d"),
        (names.check_iqn, "naa.62004567ba64678d0123456789abcdef"),
        (names.check_volume_bytes, 1 << 20),
        (names.check_volume_bytes, 64 << 40),
        (names.check_extent_bytes, 256 << 10),
        (names.check_extent_bytes, 16 << 20),
        (names.check_logical_block_bytes, 4096),
    ],
)
def test_what_is_accepted_comes_back(check: Callable[[str, object], object], value: object) -> None:
    assert check("field", value) == value


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (names.check_name, ""),
        (names.check_name, "-a"),
        (names.check_name, "A"),
        (names.check_name, "a.b"),
        (names.check_name, "a\n"),
        (names.check_name, "a" * 64),
        (names.check_nqn, "nqn.2014-08.org.nvmexpress:uuid:1"),
        (names.check_nqn, UUID_NQN + "0"),
        (names.check_nqn, "nqn.2020-13.com.example:x"),
        (names.check_nqn, "nqn.2020-01.com.example"),
        (names.check_nqn, "nqn.2020-01.com.example:a b"),
        (names.check_nqn, "nqn.2020-01.com.example:" + "x" * 200),
        (names.check_nqn, "iqn.2020-01.com.example:x"),
        (names.check_iqn, "iqn.2020-1.com.example:x"),
        (names.check_iqn, "iqn.2020-01.com.example:a_b"),
        (names.check_iqn, "iqn.2020-01.com.example:"),
        (names.check_iqn, "iqn.2020-01.com.example:" + "x" * 200),
        (names.check_iqn, "eui.02004567a425678"),
        (names.check_iqn, "naa.52004567ba64678d0"),
        (names.check_volume_bytes, (1 << 20) - 4096),
        (names.check_volume_bytes, (1 << 20) + 512),
        (names.check_volume_bytes, (64 << 40) + 4096),
        (names.check_volume_bytes, -4096),
        (names.check_extent_bytes, 128 << 10),
        (names.check_extent_bytes, 3 << 20),
        (names.check_extent_bytes, 0),
        (names.check_logical_block_bytes, 1024),
    ],
)
def test_what_is_refused_names_the_field_and_what_is_accepted(
    check: Callable[[str, object], object], value: object
) -> None:
    with pytest.raises(InvalidValue) as caught:
        check("some_field", value)
    assert caught.value.field == "some_field"
    assert caught.value.accepted


def test_iscsi_names_are_folded_to_lower_case() -> None:
    assert names.check_iqn("iqn", "IQN.2020-01.COM.Example:Disk") == "iqn.2020-01.com.example:disk"


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("1M", 1 << 20), ("512g", 512 << 30), ("20T", 20 << 40), (" 3 KiB ", 3072), ("7B", 7)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert names.parse_size("size", text) == size


@pytest.mark.parametrize("text", ["", "M", "1.5G", "-1G", "1P", "1 0G", "0x10", "\u0661G"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        names.parse_size("size", text)
    assert "512G" in str(caught.value.accepted)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1 << 20, "1 MiB"), (3 << 29, "1.5 GiB"), (20 << 40, "20 TiB")]
)
def test_sizes_are_shown(size: int, text: str) -> None:
    assert names.format_size(size) == text
