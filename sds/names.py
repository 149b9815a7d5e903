"""What names and sizes may be. Every refusal names the field and what would be accepted."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sds.errors import InvalidValue

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

NAME_ACCEPTED = "1 to 63 lower-case letters, digits and hyphens, the first no hyphen"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

VOLUME_BYTES_MIN = MIB
VOLUME_BYTES_MAX = 64 * TIB
BLOCK_BYTES = 4 * KIB
EXTENT_BYTES_MIN = 256 * KIB
EXTENT_BYTES_MAX = 16 * MIB
EXTENT_BYTES_DEFAULT = MIB
LOGICAL_BLOCK_BYTES = (512, 4096)

LABELS_MAX = 32
LABEL_CHARACTERS_MAX = 256
LABEL_KEY_ACCEPTED = "1 to 63 letters, digits, dots, hyphens, slashes and underscores, the first a letter or digit"
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")

# A queue of 128 requests of 1 MiB ends within half of a host's usual patience of 30 s at the least of these.
IOPS_MIN = 100
IOPS_MAX = 100_000_000
BYTES_PER_SECOND_MIN = 10 * MIB
BYTES_PER_SECOND_MAX = TIB
BURST_SECONDS_MAX = 3600

# NVM Express Base 2.0, section 4.7: an NQN has at most 223 bytes and one of two forms.
NQN_BYTES_MAX = 223
NQN_ACCEPTED = (
    "nqn.YYYY-MM.REVERSED-DOMAIN:ANYTHING or nqn.2014-08.org.nvmexpress:uuid:UUID, at most 223 bytes "
    "(/etc/nvme/hostnqn on the host has it)"
)
_DOMAIN = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"
_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_NQN_UUID = re.compile(rf"nqn\.2014-08\.org\.nvmexpress:uuid:{_UUID}")
_NQN_DOMAIN = re.compile(rf"nqn\.[0-9]{{4}}-(?:0[1-9]|1[0-2])\.{_DOMAIN}:[!-~]+", re.IGNORECASE)
_NQN_UUID_PREFIX = "nqn.2014-08.org.nvmexpress:uuid:"

# RFC 7143, section 4.2.7.4-4.2.7.6 (types iqn, eui, naa); RFC 3722 folds to lower case and allows letters, digits,
# hyphen, dot and colon of ASCII. RFC 7143, section 4.2.7.1: at most 223 bytes.
IQN_BYTES_MAX = 223
IQN_ACCEPTED = (
    "iqn.YYYY-MM.REVERSED-DOMAIN[:ANYTHING], eui. and 16 hexadecimal digits, or naa. and 16 or 32 of them, "
    "at most 223 bytes (/etc/iscsi/initiatorname.iscsi on the host has it)"
)
_IQN = re.compile(rf"iqn\.[0-9]{{4}}-(?:0[1-9]|1[0-2])\.{_DOMAIN}(?::[a-z0-9.:-]+)?")
_EUI = re.compile(r"eui\.[0-9a-f]{16}")
_NAA = re.compile(r"naa\.(?:[0-9a-f]{16}|[0-9a-f]{32})")

SIZE_ACCEPTED = "a whole number of bytes, or one with K, M, G or T (powers of 1024), as in 512G"
_SIZE = re.compile(r"([0-9]{1,20})\s*(?:([KMGT])(?:i?B)?|B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}


def check_name(field: str, name: str) -> str:
    """A name of a pool, volume, host or tier.

    Raises:
        InvalidValue: it is not of that form.
    """
    if not _NAME.fullmatch(name):
        raise InvalidValue(field, f"{name!r} is not a name", NAME_ACCEPTED)
    return name


def check_nqn(field: str, nqn: str) -> str:
    """A host's NVMe Qualified Name.

    Raises:
        InvalidValue: it is not of one of the specification's two forms.
    """
    fits = len(nqn.encode()) <= NQN_BYTES_MAX and (
        _NQN_UUID.fullmatch(nqn) if nqn.lower().startswith(_NQN_UUID_PREFIX) else _NQN_DOMAIN.fullmatch(nqn)
    )
    if not fits:
        raise InvalidValue(field, f"{nqn!r} is not an NQN", NQN_ACCEPTED)
    return nqn


def check_iqn(field: str, iqn: str) -> str:
    """An initiator's iSCSI name, folded to lower case as RFC 3722 has it.

    Raises:
        InvalidValue: it is not a name of type iqn, eui or naa.
    """
    folded = iqn.lower()
    fits = any(form.fullmatch(folded) for form in (_IQN, _EUI, _NAA))
    if not fits or len(folded.encode()) > IQN_BYTES_MAX:
        raise InvalidValue(field, f"{iqn!r} is not an iSCSI name", IQN_ACCEPTED)
    return folded


def check_volume_bytes(field: str, size: int) -> int:
    """A volume's size in bytes.

    Raises:
        InvalidValue: it is out of range or not a multiple of 4 KiB.
    """
    if not VOLUME_BYTES_MIN <= size <= VOLUME_BYTES_MAX or size % BLOCK_BYTES:
        accepted = f"a multiple of 4096 bytes from {VOLUME_BYTES_MIN} (1M) to {VOLUME_BYTES_MAX} (64T)"
        raise InvalidValue(field, f"a volume can't have {size} bytes", accepted)
    return size


def check_labels(field: str, labels: Mapping[str, str]) -> dict[str, str]:
    """What an administrator notes on a volume.

    Raises:
        InvalidValue: there are too many, or one is not of that form.
    """
    if len(labels) > LABELS_MAX:
        raise InvalidValue(field, f"{len(labels)} labels are given", f"{LABELS_MAX} at most")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise InvalidValue(field, f"{key!r} is not a label's key", LABEL_KEY_ACCEPTED)
        if len(value) > LABEL_CHARACTERS_MAX or not value.isprintable():
            raise InvalidValue(
                field, f"label {key} can't be that", f"up to {LABEL_CHARACTERS_MAX} printable characters"
            )
    return dict(labels)


def check_range(field: str, value: int, least: int, most: int) -> int:
    """A number.

    Raises:
        InvalidValue: it is out of range.
    """
    if not least <= value <= most:
        raise InvalidValue(field, f"{field} can't be {value}", f"{least} to {most}")
    return value


def check_extent_bytes(field: str, size: int) -> int:
    """A pool's extent size in bytes.

    Raises:
        InvalidValue: it is out of range or no power of two.
    """
    if not EXTENT_BYTES_MIN <= size <= EXTENT_BYTES_MAX or size & (size - 1):
        accepted = f"a power of two from {EXTENT_BYTES_MIN} (256K) to {EXTENT_BYTES_MAX} (16M) bytes"
        raise InvalidValue(field, f"an extent can't have {size} bytes", accepted)
    return size


def check_logical_block_bytes(field: str, size: int) -> int:
    """A volume's logical block size in bytes.

    Raises:
        InvalidValue: it is neither 512 nor 4096.
    """
    if size not in LOGICAL_BLOCK_BYTES:
        raise InvalidValue(field, f"a logical block can't have {size} bytes", "512 or 4096")
    return size


def parse_size(field: str, text: str) -> int:
    """Bytes from what a person types: `20T`, `512G`, `1M`, `4096`.

    Raises:
        InvalidValue: it is no such thing.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise InvalidValue(field, f"{text!r} is not a size", SIZE_ACCEPTED)
    return int(found[1]) * _UNITS[(found[2] or "").upper()]


def format_size(size: int) -> str:
    """Bytes as a person reads them; an exact multiple has no fraction: `20 TiB`, `1.5 GiB`."""
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}" if size % unit == 0 else f"{size / unit:.1f} {name}"
    return f"{size} B"
