//! Makes a pool on disks: regions, journal, labels. Opening it is what follows.

use sds_io::sync::join_all;
use sds_io::{Clock, DiskId, Io, MetaStore};

use crate::catalog::DiskEntry;
use crate::delta::Delta;
use crate::env::{CoreEnv, NewDisk, PoolEnv, PoolSpec};
use crate::error::{PoolError, PoolErrorKind};
use crate::journal::{JOURNAL_MEMBERS_MAX, Journal, JournalMember};
use crate::label_io::{clear_catalog, write_label};
use crate::layout::delta::encode_group;
use crate::layout::disk::{DEFAULT_JOURNAL_BYTES, DiskLayout, is_extent_size};
use crate::layout::label::{Label, NAME_BYTES_MAX};
use crate::place::{DiskNo, Lsn};

/// Rows that are deleted from the MetaStore at a time.
const CLEAR_ROWS_MAX: usize = 4096;
/// A new pool's epoch.
const FIRST_EPOCH: u32 = 1;

/// Writes an empty pool to `disks`; what they held is lost. Labels come last: before them there is no pool.
pub(crate) async fn format<E: Io + Clock>(
    env: &CoreEnv<E>,
    world: &PoolEnv,
    spec: &PoolSpec,
    disks: &[NewDisk],
) -> Result<(), PoolError> {
    check(spec, disks)?;
    let mut labels = labels(&env.io, world, spec, disks)?;
    clear_meta(&*world.meta).await?;
    // What an earlier pool of this name left in the ring is void: its openings had the same numbers.
    world.carry_over.store(0, &vec![0; world.carry_over.capacity_bytes()]);
    let clears = labels.iter().map(|(disk, label)| clear_catalog(&env.io, *disk, &label.layout)).collect();
    join_all(clears).await.into_iter().collect::<Result<(), _>>().map_err(io_error)?;
    let journal = labels.iter().filter(|(_, label)| label.journal).map(|(disk, label)| member(*disk, label)).collect();
    let failed = |error| PoolError::new(PoolErrorKind::Io, "the journal can't be made").with_source(error);
    let mut journal = Journal::format(env.io.clone(), journal, spec.uuid, FIRST_EPOCH, Lsn(1)).await.map_err(failed)?;
    let deltas: Vec<Delta> = labels.iter().map(|(_, label)| Delta::Disk(entry(label))).collect();
    let outcome = journal.append(&[(Lsn(1), encode_group(Lsn(1), &deltas))]).await.map_err(failed)?;
    if let Some(lost) = outcome.lost.first() {
        return Err(io_error(lost.error));
    }
    for (disk, label) in &mut labels {
        write_label(&env.io, *disk, label).await.map_err(io_error)?;
    }
    Ok(())
}

fn io_error(error: sds_io::IoError) -> PoolError {
    PoolError::new(PoolErrorKind::Io, "a disk of the new pool failed").with_source(error)
}

fn check(spec: &PoolSpec, disks: &[NewDisk]) -> Result<(), PoolError> {
    let invalid = |what| PoolError::new(PoolErrorKind::InvalidField, what);
    if !is_extent_size(spec.extent_bytes) {
        let what = "extent size: a power of two from 256 KiB to 16 MiB is accepted";
        return Err(invalid(what).with_value(spec.extent_bytes));
    }
    if spec.name.is_empty() || spec.name.len() > NAME_BYTES_MAX {
        return Err(invalid("pool name: 1 to 255 bytes are accepted").with_value(spec.name.len() as u64));
    }
    if disks.is_empty() || disks.len() > usize::from(u16::MAX) {
        return Err(invalid("disks: a pool has 1 to 65,535").with_value(disks.len() as u64));
    }
    for (at, disk) in disks.iter().enumerate() {
        check_disk(disk)?;
        if disks[..at].iter().any(|other| other.disk == disk.disk || other.uuid == disk.uuid) {
            return Err(invalid("disks: one is named twice").with_value(u64::from(disk.disk.0)));
        }
    }
    Ok(())
}

/// Refuses a disk whose description does not fit in a label.
pub(crate) fn check_disk(disk: &NewDisk) -> Result<(), PoolError> {
    if disk.tier.is_empty() || disk.tier.len() > NAME_BYTES_MAX {
        let what = "tier name: 1 to 255 bytes are accepted";
        return Err(PoolError::new(PoolErrorKind::InvalidField, what).with_value(disk.tier.len() as u64));
    }
    Ok(())
}

/// The new disks' labels, numbered as given.
fn labels<E: Io>(
    io: &E,
    world: &PoolEnv,
    spec: &PoolSpec,
    disks: &[NewDisk],
) -> Result<Vec<(DiskId, Label)>, PoolError> {
    let fastest = disks.iter().map(|disk| disk.rank).min().expect("checked");
    let mut members = 0;
    let mut labels = Vec::with_capacity(disks.len());
    for (no, disk) in (0..).map(DiskNo).zip(disks) {
        let journal = disk.rank == fastest && members < JOURNAL_MEMBERS_MAX;
        members += usize::from(journal);
        let journal_bytes = if journal { spec.journal_bytes.unwrap_or(DEFAULT_JOURNAL_BYTES) } else { 0 };
        let layout = plan(io, disk.disk, spec.extent_bytes, journal_bytes)?;
        let pool = (spec.uuid, spec.name.clone());
        labels.push((disk.disk, new_label(pool, FIRST_EPOCH, no, disk, layout, journal, &world.opener)));
    }
    Ok(labels)
}

/// Where the regions of a new disk lie.
pub(crate) fn plan<E: Io>(
    io: &E,
    disk: DiskId,
    extent_bytes: u64,
    journal_bytes: u64,
) -> Result<DiskLayout, PoolError> {
    DiskLayout::plan(io.disk(disk).size_bytes, extent_bytes, journal_bytes).map_err(|too_small| {
        PoolError::new(PoolErrorKind::TooSmall, "disk size: at least so many bytes are needed")
            .with_value(too_small.needs_bytes)
    })
}

/// The first label of a disk that joins the pool of that uuid and name.
pub(crate) fn new_label(
    pool: ([u8; 16], String),
    pool_epoch: u32,
    disk_no: DiskNo,
    disk: &NewDisk,
    layout: DiskLayout,
    journal: bool,
    opener: &str,
) -> Label {
    Label {
        pool_uuid: pool.0,
        pool_name: pool.1,
        disk_uuid: disk.uuid,
        disk_no,
        tier: disk.tier.clone(),
        rank: disk.rank,
        journal,
        clean: true,
        pool_epoch,
        sequence: 1,
        checkpoint_mark: Lsn(0),
        openings: 0,
        layout,
        opener: opener.to_owned(),
    }
}

/// A labelled disk as the catalog has it.
pub(crate) fn entry(label: &Label) -> DiskEntry {
    DiskEntry {
        no: label.disk_no,
        uuid: label.disk_uuid,
        tier: label.tier.clone(),
        rank: label.rank,
        chunks: label.layout.chunks,
    }
}

/// The journal's region on a labelled disk.
pub(crate) const fn member(disk: DiskId, label: &Label) -> JournalMember {
    JournalMember { disk, offset: label.layout.journal_offset, bytes: label.layout.journal_bytes }
}

/// Deletes every row of the MetaStore.
pub(crate) async fn clear_meta(meta: &dyn MetaStore) -> Result<(), PoolError> {
    let failed = |error| PoolError::new(PoolErrorKind::Meta, "the MetaStore can't be cleared").with_source(error);
    loop {
        let rows = meta.scan(Vec::new(), Vec::new(), CLEAR_ROWS_MAX).await.map_err(failed)?;
        if rows.is_empty() {
            return Ok(());
        }
        meta.put(rows.into_iter().map(|(key, _)| (key, None)).collect()).await.map_err(failed)?;
    }
}
