"""What REST takes and gives. The engine checks the values; these say their types, and what they mean."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from sds.names import EXTENT_BYTES_MAX, EXTENT_BYTES_MIN, VOLUME_BYTES_MAX, VOLUME_BYTES_MIN

T = TypeVar("T")

# Documented as schema, checked by the engine, so that there is one place that refuses.
Name = Annotated[str, Field(json_schema_extra={"pattern": "^[a-z0-9][a-z0-9-]{0,62}$"})]
SizeBytes = Annotated[
    int,
    Field(json_schema_extra={"minimum": VOLUME_BYTES_MIN, "maximum": VOLUME_BYTES_MAX, "multipleOf": 4096}),
]
Bytes = Annotated[int, Field(description="In bytes.")]
Protocol = Literal["nvme", "iscsi"]
Time = Annotated[str, Field(description="RFC 3339, in UTC.")]


class Body(BaseModel):
    """A request's body: exact types, no unknown field."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Page(BaseModel, Generic[T]):
    """A page of a list."""

    items: list[T]
    next: str | None = Field(description="The cursor of the page after this one; null at the end.")


class PoolCreate(Body):
    """A pool to make; it has no disk at first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "archive", "extent_bytes": 1048576}]})

    name: Name
    extent_bytes: int | None = Field(
        default=None,
        description="The unit of mapping and tiering, for ever: a power of two; 1 MiB if not given.",
        json_schema_extra={"minimum": EXTENT_BYTES_MIN, "maximum": EXTENT_BYTES_MAX},
    )


class Pool(BaseModel):
    """Disks with a common extent size."""

    name: str
    uuid: str
    state: Literal["empty", "online", "failed"] = Field(description="`empty`: it has no disk yet.")
    message: str = Field(description="What is wrong with it; empty if nothing.")
    extent_bytes: Bytes
    capacity_bytes: int = Field(description="What its disks can hold.")
    allocated_bytes: int = Field(description="What volumes and metadata take.")
    free_bytes: Bytes
    provisioned_bytes: int = Field(description="The sum of its volumes' sizes.")
    overcommit: float | None = Field(description="provisioned_bytes / capacity_bytes; null without a disk.")
    journal_disks: int = Field(description="How many disks have a current copy of the journal: two is safer.")
    disks: int
    volumes: int
    created: Time


class PoolImport(Body):
    """A pool to take over from its disks."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"disks": ["/dev/sdb", "/dev/sdc"]}]})

    disks: list[str] = Field(description="The absolute paths of all its disks.")
    name: Name | None = Field(default=None, description="What it is called from now on; as before if not given.")
    force: bool = Field(
        default=False,
        description="Take it although it was not closed in order: what hosts wrote and did not flush may be lost.",
    )


class PoolExport(Body):
    """How to let go of a pool."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"force": False}]})

    force: bool = Field(default=False, description="Disconnect hosts; forget a pool that failed, without closing it.")


class PoolExported(BaseModel):
    """A pool that this node does not know any more."""

    name: str
    uuid: str
    closed: bool = Field(description="Whether its labels say that it was closed in order.")
    disks: list[str]
    command: str = Field(description="What to type on the node that is to have it.")


class ScrubStart(Body):
    """A scrub to begin."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"bytes_per_second_max": 104857600}]})

    bytes_per_second_max: int | None = Field(
        default=None,
        description="What it may read in a second; 100 MiB if not given.",
        json_schema_extra={"minimum": 1},
    )


class ScrubSchedule(Body):
    """When a pool is scrubbed by itself."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"interval_hours": 168}]})

    interval_hours: int = Field(description="0: never.", json_schema_extra={"minimum": 0, "maximum": 10000})
    bytes_per_second_max: int | None = Field(
        default=None,
        description="What it may read in a second; 100 MiB if not given.",
        json_schema_extra={"minimum": 1},
    )


class ScrubDisk(BaseModel):
    """What a scrub found on one disk: sealed blocks of 4 KiB, and copies of metadata.

    A copy is a label, a catalog slot, a journal header or frame, or a place of an owner block.
    """

    uuid: str
    verified_blocks: int = Field(description="As they were sealed.")
    corrupt_blocks: int = Field(description="Not as they were sealed.")
    unreadable_blocks: int = Field(description="The disk can't read them or their CRCs.")
    metadata_verified: int = Field(description="Copies that are as they were written.")
    metadata_damaged: int = Field(description="Copies that are not; each is an event `metadata-damaged`, too.")
    metadata_mended: int = Field(description="Those of them that are whole again, or that nothing needs any more.")


class Scrub(BaseModel):
    """A pool's last scrub since it was opened, or the one that is running."""

    pool: str
    state: Literal["none", "running", "done", "stopped", "failed"]
    began: Time | None
    ended: Time | None
    bytes_per_second_max: int
    progress: float | None = Field(description="0 to 1; null until it is known what there is to do.")
    unsealed_blocks: int = Field(description="Data that has no CRC yet: it was written not long ago.")
    disks: list[ScrubDisk]
    schedule: ScrubSchedule


class PoolCheck(Body):
    """How to check a pool."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"pages_per_s_max": 1000}]})

    pages_per_s_max: int | None = Field(
        default=None, description="Pages of the map a second, each 512 extents; 1,000 if not given."
    )


class PoolChecked(BaseModel):
    """Whether what a pool keeps in several places agrees."""

    name: str
    consistent: bool
    pages: int = Field(description="Pages of the map that were seen.")
    extents: int
    chunks: int
    owners: int = Field(description="Entries of owner tables that were compared with their extents.")
    pages_changing: int = Field(description="Pages that hosts changed meanwhile: not compared with owner tables.")
    walks: int = Field(description="While hosts write, what does not agree counts only if up to 3 walks say it.")
    findings: list[str] = Field(description="What does not agree, and where: the first 100.")
    more: int = Field(description="How many findings are not shown.")
    cut_off: bool = Field(description="The check ended at 10,000 findings.")


class DiskAdd(Body):
    """A disk to add to a pool."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"pool": "archive", "path": "/dev/sdb", "tier": "hdd", "force": False}]}
    )

    pool: Name
    path: str = Field(description="A block device or a file, absolute; or memfd:NAME:BYTES, memory, for measurements.")
    tier: Name = Field(description="`flash`, `hdd` or a name of your own.")
    rank: int | None = Field(default=None, description="Of a tier of your own: 0 is the fastest, 100 the slowest.")
    force: bool = Field(default=False, description="Add it although it carries something, which is lost.")
    create_bytes: int | None = Field(default=None, description="Make a file of this size if there is none.")


class Disk(BaseModel):
    """A disk of a pool."""

    uuid: str
    path: str
    pool: str
    tier: str
    rank: int
    state: str = Field(description="`missing`: its pool is online without it; `offline`: its pool is not online.")
    size_bytes: Bytes
    capacity_bytes: int = Field(description="What of its size holds data.")
    allocated_bytes: Bytes
    physical_block_bytes: int = Field(description="What it writes as a whole; 0 while its pool is not online.")


class VolumeCreate(Body):
    """A thin volume to make; it may be larger than its pool."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "pacs", "pool": "archive", "size_bytes": 21990232555520}]}
    )

    name: Name
    pool: Name
    size_bytes: SizeBytes
    logical_block_bytes: Literal[512, 4096] | None = Field(default=None, description="512 if not given.")


def _of_volume_update(schema: dict[str, Any]) -> None:
    schema["examples"] = [{"size_bytes": 32985348833280}, {"iops_max": 5000, "labels": {"ward": "radiology"}}]
    for one in schema["properties"].values():
        del one["default"]  # What is not named stays, whatever it is.


class VolumeUpdate(Body):
    """What is to be otherwise about a volume; what is not named stays. `null` takes a limit away."""

    model_config = ConfigDict(json_schema_extra=_of_volume_update)

    new_name: Name = Field(default="", description="What it is called from now on.")
    size_bytes: SizeBytes = Field(default=0, description="The new size in bytes, not below the present one.")
    labels: dict[str, str] = Field(default={}, description="All labels that it is to have.")
    read_only: bool = Field(default=False, description="Refuse writes.")
    write_through: bool = Field(
        default=False,
        description="Have each write durable before its answer, and show hosts no write cache. "
        "Can be taken back while the volume is not exported.",
    )
    detect_zeroes: bool = Field(default=False, description="Have writes of nothing but zeros take no space.")
    iops_max: int | None = Field(
        default=None,
        description="Requests a second, 100 at least; flushes are not counted.",
        json_schema_extra={"minimum": 1},
    )
    iops_burst: int | None = Field(
        default=None, description="Requests that may be saved up while nobody asks; a second's worth if null."
    )
    bytes_per_second_max: int | None = Field(
        default=None,
        description="Bytes read and written in a second, 10 MiB at least.",
        json_schema_extra={"minimum": 1},
    )
    burst_bytes: int | None = Field(default=None, description="Bytes that may be saved up; a second's worth if null.")


class Volume(BaseModel):
    """A thin volume."""

    name: str
    uuid: str
    pool: str
    size_bytes: Bytes
    allocated_bytes: Bytes
    logical_block_bytes: Bytes
    read_only: bool
    write_through: bool
    detect_zeroes: bool
    iops_max: int | None
    iops_burst: int | None
    bytes_per_second_max: int | None
    burst_bytes: int | None
    delayed_requests: int = Field(description="Requests that waited for its limits, since the node's start.")
    labels: dict[str, str]
    exports: list[str] = Field(description="Ids of its exports.")
    created: Time


class HostCreate(Body):
    """A host to know, by the name that it gives at login: NQN, IQN or both."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "pacs1",
                    "nqn": "nqn.2014-08.org.nvmexpress:uuid:4c4c4544-0044-4810-8031-b4c04f4d3332",
                    "iqn": "iqn.1993-08.org.debian:01:8e3ba21d2aa",
                }
            ]
        }
    )

    name: Name
    nqn: str | None = None
    iqn: str | None = None


class Host(BaseModel):
    """An initiator."""

    name: str
    nqn: str | None
    iqn: str | None
    exports: list[str] = Field(description="Ids of the exports that name it.")
    created: Time


class Viewers(Body):
    """Who may see an export: named hosts, or every host."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"hosts": ["pacs1", "pacs2"]}]})

    hosts: list[Name] | None = None
    host: Name | None = Field(default=None, description="One host: the same as a list of it.")
    any_host: bool | None = None

    def names(self) -> list[str] | None:
        """The hosts, however they were given."""
        if self.host is None:
            return self.hosts
        return [*(self.hosts or []), self.host]


class ExportCreate(Viewers):
    """A volume to show to hosts over a protocol."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"volume": "pacs", "protocol": "nvme", "hosts": ["pacs1"]}]}
    )

    volume: Name
    protocol: Protocol


class Export(BaseModel):
    """A volume seen by hosts over one protocol."""

    id: str = Field(description="VOLUME.PROTOCOL")
    volume: str
    pool: str
    protocol: Protocol
    hosts: list[str]
    any_host: bool
    nqn: str | None = Field(description="The subsystem's, with NVMe.")
    nsid: int | None
    iqn: str | None = Field(description="The target's, with iSCSI.")
    lun: int | None
    address: str = Field(description="HOST:PORT")
    connect: str = Field(description="What to type on the host.")
    created: Time


class Event(BaseModel):
    """Something that an administrator should know of."""

    id: int
    time: Time
    level: Literal["info", "warning", "error"]
    kind: str = Field(description="A stable name, such as `pool-opened`.")
    subject: str = Field(description="What it is about, such as `pool/archive`; may be empty.")
    message: str


class Health(BaseModel):
    """Whether everything that should serve does."""

    status: Literal["ok", "degraded", "down"]
    detail: str | None = Field(
        default=None, description="What is wrong, pool by pool, or why the engine can't be asked."
    )
