//! What Python gives and gets: dicts of these fields.

use std::collections::BTreeMap;

use pyo3::prelude::*;
use sds_io::{DiskId, DiskInfo};
use sds_target::glue::SessionInfo;
use sds_target::meter::Rate;
use sds_target::terms::TermsSpec;
use sds_target::{Access, Export, Protocol};
use sds_volume::check::CheckReport;
use sds_volume::label_io::LabelReport;
use sds_volume::{DiskStatus, NewDisk, PoolStatus, Recovered, ScrubDisk, ScrubState, ScrubStatus, VolumeStatus};

use crate::refusal::Refusal;
use crate::uuid::{Uuid, volume_key};

/// An open disk.
#[derive(IntoPyObject)]
pub struct DiskShape {
    id: u16,
    path: String,
    size_bytes: u64,
    logical_block_bytes: u32,
    physical_block_bytes: u32,
    rotational: bool,
    volatile_cache: bool,
    discard: bool,
}

impl DiskShape {
    pub fn new(id: DiskId, info: DiskInfo) -> Self {
        Self {
            id: id.0,
            path: info.path,
            size_bytes: info.size_bytes,
            logical_block_bytes: info.logical_block_bytes,
            physical_block_bytes: info.physical_block_bytes,
            rotational: info.rotational,
            volatile_cache: info.volatile_cache,
            discard: info.discard,
        }
    }
}

/// A disk's label.
#[derive(IntoPyObject)]
pub struct LabelShape {
    pool_uuid: Uuid,
    pool_name: String,
    disk_uuid: Uuid,
    tier: String,
    rank: u8,
    extent_bytes: u64,
    clean: bool,
    opener: String,
    openings: u64,
    slot_errors: BTreeMap<&'static str, String>,
}

impl LabelShape {
    /// The label of a report, if there is one.
    pub fn new(report: LabelReport) -> Option<Self> {
        let label = report.label?;
        let bad = ["A", "B"].into_iter().zip(report.slot_errors);
        Some(Self {
            pool_uuid: Uuid(label.pool_uuid),
            pool_name: label.pool_name,
            disk_uuid: Uuid(label.disk_uuid),
            tier: label.tier,
            rank: label.rank,
            extent_bytes: label.layout.extent_bytes,
            clean: label.clean,
            opener: label.opener,
            openings: label.openings,
            slot_errors: bad.filter_map(|(slot, error)| Some((slot, error?.to_string()))).collect(),
        })
    }
}

/// A disk that is to join a pool.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct NewDiskShape {
    id: u16,
    uuid: Uuid,
    tier: String,
    rank: u8,
}

impl From<NewDiskShape> for NewDisk {
    fn from(disk: NewDiskShape) -> Self {
        Self { disk: DiskId(disk.id), uuid: disk.uuid.0, tier: disk.tier, rank: disk.rank }
    }
}

/// What an opening found.
#[derive(IntoPyObject)]
pub struct RecoveredShape {
    import: bool,
    unclean: bool,
    journal_groups: u64,
    ring_groups: u64,
    unused: Vec<u16>,
}

impl From<Recovered> for RecoveredShape {
    fn from(recovered: Recovered) -> Self {
        Self {
            import: recovered.imported,
            unclean: recovered.unclean,
            journal_groups: recovered.journal_groups,
            ring_groups: recovered.ring_groups,
            unused: recovered.unused.into_iter().map(|disk| disk.0).collect(),
        }
    }
}

#[derive(IntoPyObject)]
struct PoolDiskShape {
    uuid: Uuid,
    tier: String,
    capacity_bytes: u64,
    allocated_bytes: u64,
    physical_block_bytes: u32,
    state: &'static str,
}

impl From<DiskStatus> for PoolDiskShape {
    fn from(disk: DiskStatus) -> Self {
        Self {
            uuid: Uuid(disk.uuid),
            tier: disk.tier,
            capacity_bytes: disk.capacity_bytes,
            allocated_bytes: disk.allocated_bytes,
            physical_block_bytes: disk.physical_block_bytes,
            state: if disk.healthy { "online" } else { "failed" },
        }
    }
}

/// A pool's capacity and use.
#[derive(IntoPyObject)]
pub struct PoolShape {
    capacity_bytes: u64,
    allocated_bytes: u64,
    free_bytes: u64,
    checkpoint_failed: bool,
    journal_failed: bool,
    journal_disks: usize,
    disks: Vec<PoolDiskShape>,
}

impl From<PoolStatus> for PoolShape {
    fn from(status: PoolStatus) -> Self {
        let capacity_bytes: u64 = status.disks.iter().map(|disk| disk.capacity_bytes).sum();
        let allocated_bytes: u64 = status.disks.iter().map(|disk| disk.allocated_bytes).sum();
        Self {
            capacity_bytes,
            allocated_bytes,
            free_bytes: capacity_bytes - allocated_bytes,
            checkpoint_failed: status.checkpoint_failed,
            journal_failed: status.journal_failed,
            journal_disks: status.journal_disks,
            disks: status.disks.into_iter().map(PoolDiskShape::from).collect(),
        }
    }
}

#[derive(IntoPyObject)]
struct ScrubDiskShape {
    uuid: Uuid,
    verified_blocks: u64,
    corrupt_blocks: u64,
    unreadable_blocks: u64,
    metadata_verified: u64,
    metadata_damaged: u64,
    metadata_mended: u64,
}

/// A pool's last scrub.
#[derive(IntoPyObject)]
pub struct ScrubShape {
    state: &'static str,
    began_s: f64,
    ended_s: Option<f64>,
    bytes_per_second_max: u64,
    pages_done: u64,
    pages: u64,
    unsealed_blocks: u64,
    disks: Vec<ScrubDiskShape>,
}

impl From<ScrubStatus> for ScrubShape {
    fn from(status: ScrubStatus) -> Self {
        let state = match status.state {
            ScrubState::None => "none",
            ScrubState::Running => "running",
            ScrubState::Done => "done",
            ScrubState::Stopped => "stopped",
            ScrubState::Failed => "failed",
        };
        let disk = |disk: ScrubDisk| ScrubDiskShape {
            uuid: Uuid(disk.uuid),
            verified_blocks: disk.verified,
            corrupt_blocks: disk.corrupt,
            unreadable_blocks: disk.unreadable,
            metadata_verified: disk.metadata.verified,
            metadata_damaged: disk.metadata.damaged,
            metadata_mended: disk.metadata.mended,
        };
        Self {
            state,
            began_s: status.began.as_secs_f64(),
            ended_s: status.ended.map(|ended| ended.as_secs_f64()),
            bytes_per_second_max: status.bytes_per_second_max,
            pages_done: status.pages_done,
            pages: status.pages,
            unsealed_blocks: status.unsealed,
            disks: status.disks.into_iter().map(disk).collect(),
        }
    }
}

/// What a check of a pool came to.
#[derive(IntoPyObject)]
pub struct CheckShape {
    pages: u64,
    extents: u64,
    chunks: u64,
    owners: u64,
    pages_changing: u64,
    walks: u32,
    cut_off: bool,
    findings: Vec<String>,
}

impl From<CheckReport> for CheckShape {
    fn from(report: CheckReport) -> Self {
        Self {
            pages: report.pages,
            extents: report.extents,
            chunks: report.chunks,
            owners: report.owners,
            pages_changing: report.pages_changing,
            walks: report.walks,
            cut_off: report.cut_off,
            findings: report.findings.iter().map(ToString::to_string).collect(),
        }
    }
}

/// A volume's sizes and use.
#[derive(IntoPyObject)]
pub struct VolumeShape {
    size_bytes: u64,
    logical_block_bytes: u32,
    allocated_bytes: u64,
    reads: u64,
    writes: u64,
    delayed_requests: u64,
}

impl VolumeShape {
    pub fn new(status: VolumeStatus, delayed_requests: u64) -> Self {
        Self {
            size_bytes: status.size_bytes,
            logical_block_bytes: status.logical_block_bytes,
            allocated_bytes: status.allocated_bytes,
            reads: status.reads,
            writes: status.writes,
            delayed_requests,
        }
    }
}

/// On which terms a volume is served.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct TermsShape {
    read_only: bool,
    write_through: bool,
    detect_zeroes: bool,
    iops_max: Option<u64>,
    iops_burst: u64,
    bytes_per_second_max: Option<u64>,
    burst_bytes: u64,
}

impl From<TermsShape> for TermsSpec {
    fn from(terms: TermsShape) -> Self {
        let rate = |per_second: Option<u64>, burst| per_second.map(|per_second| Rate { per_second, burst });
        Self {
            read_only: terms.read_only,
            write_through: terms.write_through,
            detect_zeroes: terms.detect_zeroes,
            requests: rate(terms.iops_max, terms.iops_burst),
            bytes: rate(terms.bytes_per_second_max, terms.burst_bytes),
        }
    }
}

#[derive(FromPyObject)]
enum AccessShape {
    Word(String),
    Hosts(Vec<String>),
}

/// An export.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct ExportShape {
    protocol: String,
    name: String,
    unit: u32,
    pool: Uuid,
    volume: Uuid,
    access: AccessShape,
    serial: String,
}

impl TryFrom<ExportShape> for Export {
    type Error = Refusal;

    fn try_from(export: ExportShape) -> Result<Self, Refusal> {
        let access = match export.access {
            AccessShape::Word(word) if word == "any" => Access::AnyHost,
            AccessShape::Word(word) => {
                return Err(Refusal::new("invalid_field", format!("access: {word:?} is neither any nor a list")));
            }
            AccessShape::Hosts(hosts) => Access::Hosts(hosts.into_iter().collect()),
        };
        Ok(Self {
            protocol: parse_protocol(&export.protocol)?,
            name: export.name,
            unit: export.unit,
            volume: volume_key(export.pool, export.volume),
            access,
            serial: export.serial,
        })
    }
}

fn parse_protocol(word: &str) -> Result<Protocol, Refusal> {
    match word {
        "nvme" => Ok(Protocol::Nvme),
        "iscsi" => Ok(Protocol::Iscsi),
        other => Err(Refusal::new("invalid_field", format!("protocol: {other:?} is neither nvme nor iscsi"))),
    }
}

/// A connection of a host.
#[derive(IntoPyObject)]
pub struct SessionShape {
    protocol: &'static str,
    host: String,
    name: String,
    peer: String,
    queue: u16,
    header_digest: bool,
    data_digest: bool,
    core: usize,
    executing: usize,
}

impl From<SessionInfo> for SessionShape {
    fn from(session: SessionInfo) -> Self {
        Self {
            protocol: match session.protocol {
                Protocol::Nvme => "nvme",
                Protocol::Iscsi => "iscsi",
            },
            host: session.host,
            name: session.name,
            peer: session.peer.to_string(),
            queue: session.queue,
            header_digest: session.header_digest,
            data_digest: session.data_digest,
            core: session.core,
            executing: session.executing,
        }
    }
}
