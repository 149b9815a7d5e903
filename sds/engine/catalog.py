"""What an administrator named: pools, disks, volumes, hosts, exports; and how each is written down.

Pools and where their disks are belong to the node. Volumes, exports and hosts are documents of a pool (the core keeps
them in its journal and catalog, so they move with the disks); hosts are also kept by the node, since there may be no
pool yet. Every document is JSON with a version; a pool's, which lies in a plain file, too, has a checksum.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from sds import envelope
from sds.errors import InvalidValue, SdsError
from sds.names import check_name

# Of what pools keep, which goes from node to node with their disks. Version 2 has the newer fields; a document without
# them stays of version 1, which older releases read.
DOCUMENT_VERSIONS = (1, 2)
DOCUMENT_VERSION = DOCUMENT_VERSIONS[-1]
NEWER_FIELDS = frozenset({"terms", "labels", "given_target"})
POOL_VERSION = 2  # Of what the node keeps of a pool; `sds.data_format` says which data folders have it.
PAGE_ITEMS_DEFAULT = 100
PAGE_ITEMS_MAX = 1000

Protocol = Literal["nvme", "iscsi"]
PROTOCOLS: tuple[Protocol, ...] = ("nvme", "iscsi")
TARGET_PREFIX = {"nvme": "nqn.2026-11.io.sds", "iscsi": "iqn.2026-11.io.sds"}

RANK_MAX = 100
TIER_RANKS = {"flash": 10, "hdd": 50}  # Lower is faster; between and around them there is room for an admin's own.
TIERS_ACCEPTED = f"flash, hdd, or a name of your own with its rank, 0 (fastest) to {RANK_MAX}"


def now() -> str:
    """The time, RFC 3339 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Disk:
    """A disk of a pool.

    Attributes:
        state: `adding` until the core has it, `ready` after.
    """

    uuid: str
    path: str
    tier: str
    rank: int
    size_bytes: int
    state: str = "adding"


@dataclass(frozen=True)
class Pool:
    """A pool; it has no disks at first."""

    uuid: str
    name: str
    extent_bytes: int
    created: str
    disks: tuple[Disk, ...] = ()

    def with_disk(self, disk: Disk) -> Pool:
        """With a disk added, or replaced."""
        others = tuple(one for one in self.disks if one.uuid != disk.uuid)
        return replace(self, disks=(*others, disk))

    def without_disk(self, uuid: str) -> Pool:
        """With a disk removed."""
        return replace(self, disks=tuple(one for one in self.disks if one.uuid != uuid))

    def encode(self) -> bytes:
        """As the node keeps it."""
        return envelope.seal("pool", POOL_VERSION, asdict(self))

    @classmethod
    def decode(cls, data: bytes) -> Pool:
        """From what `encode` gave.

        Raises:
            SdsError, TypeError, KeyError: it is not that.
        """
        values = envelope.unseal("pool", POOL_VERSION, data)
        disks = tuple(Disk(**disk) for disk in values.pop("disks"))
        return cls(**values, disks=disks)


@dataclass(frozen=True)
class Terms:
    """On which terms a volume is served, over all its exports.

    Attributes:
        read_only: writes are refused.
        write_through: each write is durable before its answer, and hosts see no write cache.
        detect_zeroes: a write of nothing but zeros takes no space.
        iops_max: requests a second, None: no limit; flushes are not counted.
        iops_burst: how many requests may be saved up while nobody asks; None: a second's worth.
        bytes_per_second_max: bytes read and written, None: no limit.
        burst_bytes: how many bytes may be saved up; None: a second's worth.
    """

    read_only: bool = False
    write_through: bool = False
    detect_zeroes: bool = False
    iops_max: int | None = None
    iops_burst: int | None = None
    bytes_per_second_max: int | None = None
    burst_bytes: int | None = None

    def for_core(self) -> dict[str, object]:
        """As the core takes them."""
        burst = self.iops_max if self.iops_burst is None else self.iops_burst
        burst_bytes = self.bytes_per_second_max if self.burst_bytes is None else self.burst_bytes
        return {**asdict(self), "iops_burst": burst or 0, "burst_bytes": burst_bytes or 0}


@dataclass(frozen=True)
class Volume:
    """A thin volume. Its sizes are the core's.

    Attributes:
        state: `creating`, `ready` or `deleting`: what a crash left half done is completed at the next start.
    """

    uuid: str
    name: str
    pool: str
    created: str
    state: str = "creating"
    terms: Terms = Terms()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its document's key."""
        return f"volume/{self.uuid}"

    @property
    def serial(self) -> str:
        """What hosts see as serial number: 20 characters (NVM Express Base 2.0, figure 275, SN)."""
        return self.uuid.replace("-", "")[:20]

    def encode(self) -> bytes:
        """As a document. The pool is the one it lies in, so it isn't written down."""
        values = asdict(self)
        del values["pool"]
        return _encode(_without_defaults(values, {"terms": asdict(Terms()), "labels": {}}))

    @classmethod
    def decode(cls, data: bytes, pool: str) -> Volume:
        """From a document of `pool`."""
        values = _decode(data)
        return cls(**{**values, "terms": Terms(**values.get("terms", {}))}, pool=pool)


@dataclass(frozen=True)
class Host:
    """An initiator, by the name that it gives at login; both if it speaks both protocols."""

    name: str
    nqn: str | None
    iqn: str | None
    created: str = field(compare=False)

    @property
    def key(self) -> str:
        """Its document's key."""
        return f"host/{self.name}"

    def initiator(self, protocol: Protocol) -> str | None:
        """Its name in a protocol."""
        return self.nqn if protocol == "nvme" else self.iqn

    def encode(self) -> bytes:
        """As a document."""
        return _encode(asdict(self))

    @classmethod
    def decode(cls, data: bytes) -> Host:
        """From a document."""
        return cls(**_decode(data))


@dataclass(frozen=True)
class Export:
    """A volume seen by hosts over one protocol.

    Attributes:
        hosts: names of hosts; empty if `any_host`.
        pool: the name of the volume's pool.
        given_target: the name that hosts know it by, if that is not made of its volume's: the volume was renamed.
    """

    volume: str
    pool: str
    protocol: Protocol
    hosts: tuple[str, ...]
    any_host: bool
    created: str = field(compare=False)
    given_target: str | None = field(default=None, compare=False)

    @property
    def id(self) -> str:
        """Its name; a volume's has no dot, so it is unique."""
        return f"{self.volume}.{self.protocol}"

    @property
    def target(self) -> str:
        """The NQN of its subsystem or the IQN of its target."""
        return self.given_target or f"{TARGET_PREFIX[self.protocol]}:{self.pool}.{self.volume}"

    def key(self, volume: Volume) -> str:
        """Its document's key."""
        return f"export/{volume.uuid}/{self.protocol}"

    def encode(self) -> bytes:
        """As a document."""
        values = asdict(self)
        del values["pool"]
        return _encode(_without_defaults(values, {"given_target": None}))

    @classmethod
    def decode(cls, data: bytes, pool: str) -> Export:
        """From a document of `pool`."""
        values = _decode(data)
        return cls(**{**values, "hosts": tuple(values["hosts"])}, pool=pool)


def check_tier(name: str, rank: int | None, known: dict[str, int]) -> int:
    """The rank of a tier.

    Args:
        known: the ranks of the pool's tiers.

    Raises:
        InvalidValue: a new tier without a rank, a rank out of range, or another rank than the tier has.
    """
    check_name("tier", name)
    has = (TIER_RANKS | known).get(name)
    if rank is None and has is None:
        raise InvalidValue("tier", f"there is no tier {name!r} yet", TIERS_ACCEPTED)
    if rank is not None and not 0 <= rank <= RANK_MAX:
        raise InvalidValue("rank", f"a tier can't have rank {rank}", f"0 (fastest) to {RANK_MAX}")
    if rank is not None and has is not None and rank != has:
        raise InvalidValue("rank", f"tier {name} has rank {has}, not {rank}", str(has))
    return rank if rank is not None else int(has or 0)


T = TypeVar("T")


def page(
    items: Iterable[T], key: Callable[[T], str], limit: int | None, cursor: str | None, *, descending: bool = False
) -> tuple[list[T], str | None]:
    """One page of a list and the cursor of the next one, None at the end.

    The cursor holds the last key seen, so a list that changes between two pages shows nothing twice.

    Args:
        items: in the order of `key`.

    Raises:
        InvalidValue: the limit is out of range, or the cursor is none of ours.
    """
    most = PAGE_ITEMS_DEFAULT if limit is None else limit
    if not 1 <= most <= PAGE_ITEMS_MAX:
        raise InvalidValue("limit", f"a page can't have {most} items", f"1 to {PAGE_ITEMS_MAX}")
    after = None if cursor is None else _cursor_key(cursor)
    if after is None:
        rest = list(items)
    elif descending:
        rest = [item for item in items if key(item) < after]
    else:
        rest = [item for item in items if key(item) > after]
    shown = rest[:most]
    more = len(rest) > most
    return shown, base64.urlsafe_b64encode(key(shown[-1]).encode()).decode() if more else None


def _cursor_key(cursor: str) -> str:
    try:
        return base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        raise InvalidValue("cursor", "the cursor is none of ours", "what `next` of the page before said") from error


def conflicts(hosts: Sequence[Host], new: Host) -> str | None:
    """The name of a host that has the same initiator name, None if none has."""
    for host in hosts:
        if host.name != new.name and any(
            new.initiator(protocol) is not None and host.initiator(protocol) == new.initiator(protocol)
            for protocol in PROTOCOLS
        ):
            return host.name
    return None


def name_of_host(hosts: Sequence[Host], new: Host, suffix: str) -> str:
    """What a host that comes with a pool is called among those that are known: as one of them if it is that one, by
    its own name if that is free, else by one made of that and the start of `suffix`.
    """
    known = conflicts(hosts, new)
    if known is not None:
        return known
    same = next((host for host in hosts if host.name == new.name), new)
    return new.name if same == new else f"{new.name[:54]}-{suffix[:8]}"


def _without_defaults(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A document without what is as it always was: then a release that does not know these fields reads it, too."""
    return {key: value for key, value in values.items() if key not in defaults or value != defaults[key]}


def _encode(values: dict[str, Any]) -> bytes:
    version = DOCUMENT_VERSION if NEWER_FIELDS & values.keys() else DOCUMENT_VERSIONS[0]
    return json.dumps({"version": version, **values}, separators=(",", ":")).encode()


def _decode(data: bytes) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(data)
    version = values.pop("version", None)
    if version not in DOCUMENT_VERSIONS:
        raise SdsError(f"a document has version {version}; this release reads versions up to {DOCUMENT_VERSION}")
    return values
