//! Opens a pool: what the disks, the checkpoint, the journal and the carry-over ring say, in this order, until all
//! cores can serve it.
//!
//! Nothing is served before what was acknowledged is where a flush would find it: all disks are synced, because a
//! predecessor that was killed may have answered writes that are in no journal, and what only the ring has is
//! journaled.

use std::fmt;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use sds_io::sync::join_all;
use sds_io::{Clock, DiskId, Io, MetaStore};

use crate::catalog::{Catalog, DiskEntry};
use crate::delta::Delta;
use crate::env::{CoreEnv, PoolEnv};
use crate::error::{PoolError, PoolErrorKind};
use crate::format::{clear_meta, member};
use crate::import::{import, read_catalogs};
use crate::journal::{Journal, JournalError, MemberNote, MemberProblem, Replay};
use crate::label_io::{bad_catalog_slots, catalog_mark, read_label, write_catalog, write_label};
use crate::layout::catalog::{decode_catalog, encode_catalog};
use crate::layout::delta::decode_group;
use crate::layout::label::Label;
use crate::layout::rows;
use crate::place::{BLOCK_BYTES, DiskNo, Lsn, PageKey};
use crate::planted::Defect;
use crate::ring::Ring;
use crate::space::{SegmentImage, Space, SpaceDisk};

/// Rows that are read from the MetaStore at a time.
const SCAN_ROWS_MAX: usize = 1024;
/// Missing disks that a refusal names.
const MISSING_NAMED_MAX: usize = 8;

/// A disk of the pool with its label.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub disk: DiskId,
    pub label: Label,
}

impl Member {
    pub(crate) const fn blocks_per_extent(&self) -> u32 {
        (self.label.layout.extent_bytes / BLOCK_BYTES) as u32
    }
}

/// What the MetaStore has: everything up to `lsn`, and some things that are newer.
pub(crate) struct Checkpoint {
    pub lsn: Lsn,
    pub catalog: Catalog,
    pub segments: Vec<SegmentImage>,
}

/// What an opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The MetaStore was not usable and was rebuilt from the disks.
    pub imported: bool,
    /// The predecessor did not close the pool.
    pub unclean: bool,
    /// Groups of changes that were replayed from the journal.
    pub journal_groups: u64,
    /// Groups that only the carry-over ring had.
    pub ring_groups: u64,
    /// Disks with a label of the pool that the pool does not know: their joining was not completed.
    pub unused: Vec<DiskId>,
    /// Disks that lost what they said was durable: what else they lost is not known.
    pub lost_writes: Vec<DiskId>,
    /// Disks whose copy of the journal is of an older epoch: they left it, and take no part in it any more.
    pub left_journal: Vec<DiskId>,
    /// Labels A (0) and B (1) that were bad and are whole again. Who opens disks sees them before and tells.
    pub bad_labels: Vec<(DiskId, u8)>,
    /// What else was damaged, with what was used in its stead; for a person.
    pub damage: Vec<String>,
}

/// A pool on its way to being served.
pub(crate) struct Opened<E> {
    pub members: Vec<Member>,
    pub journal: Journal<E>,
    pub ring: Ring,
    pub checkpointed: Lsn,
    pub catalog: Catalog,
    pub space: Space,
    pub replay: FxHashMap<PageKey, Vec<(Lsn, Delta)>>,
    pub recovered: Recovered,
    /// Catalog slots that are damaged.
    pub bad_slots: Vec<(DiskNo, u8)>,
}

/// Reads everything that is needed to serve the pool `uuid`, and makes durable what was not.
pub(crate) async fn recover<E: Io + Clock>(
    env: &CoreEnv<E>,
    world: &PoolEnv,
    uuid: [u8; 16],
    disks: &[DiskId],
) -> Result<Opened<E>, PoolError> {
    let io = &env.io;
    let mut recovered = Recovered::default();
    let mut members = read_members(io, uuid, disks, &mut recovered.bad_labels).await?;
    recovered.unclean = members.iter().any(|member| !member.label.clean);
    let epoch = members.iter().map(|member| member.label.pool_epoch).max().unwrap_or(0);
    let openings = members.iter().map(|member| member.label.openings).max().unwrap_or(0);
    let (mut journal, replay) = open_journal(io, world, uuid, epoch, &members).await?;
    let mut bad_slots = Vec::new();
    for member in &members {
        let path = io.disk(member.disk).path;
        let bad = bad_catalog_slots(io, member.disk, &member.label.layout).await;
        for (slot, error) in bad.iter().enumerate().filter_map(|(slot, error)| Some((slot, error.as_ref()?))) {
            bad_slots.push((member.label.disk_no, slot as u8));
            recovered.damage.push(format!("catalog slot {slot} of {path} is bad ({error}); the other one holds"));
        }
    }
    for (disk, error) in &replay.header_errors {
        recovered
            .damage
            .push(format!("a journal header of {} was bad ({error}); the other one held", io.disk(*disk).path));
    }
    let checkpoint = match load_checkpoint(&*world.meta).await? {
        Some(checkpoint) if checkpoint.lsn.0 + 1 >= replay.start.0 => checkpoint,
        older => {
            let why = if older.is_some() { "is older than the journal" } else { "has no checkpoint" };
            if replay.start > Lsn(1) {
                log::warn!("pool {}: the MetaStore {why}; it is rebuilt from the disks", members[0].label.pool_name);
                recovered.imported = true;
                import(io, &*world.meta, &members, replay.start, &mut recovered.damage).await?
            } else {
                // The journal has everything since the pool was made.
                clear_meta(&*world.meta).await?;
                Checkpoint { lsn: Lsn(0), catalog: Catalog::default(), segments: Vec::new() }
            }
        }
    };
    let after = Lsn(journal.next().0 - 1);
    recovered.lost_writes = check_marks(io, &members, checkpoint.lsn, replay.start, after).await?;
    let mut tables = Tables::of(checkpoint);
    for group in replay.groups() {
        let (lsn, deltas) = group.map_err(|error| corrupt("a change in the journal can't be read", error))?;
        recovered.journal_groups += 1;
        tables.apply(lsn, deltas);
    }
    let ring_groups = Ring::recover_planted(&world.carry_over, uuid, openings, after, world.planted);
    for (_, bytes) in &ring_groups {
        let (lsn, deltas, _) =
            decode_group(bytes).map_err(|error| corrupt("a change in the carry-over ring can't be read", error))?;
        recovered.ring_groups += 1;
        tables.apply(lsn, deltas);
    }
    recovered.unused = check_members(&mut members, &tables.catalog)?;
    let syncs = members.iter().map(|member| io.sync(member.disk)).collect();
    let failed = |error| PoolError::new(PoolErrorKind::Io, "a disk can't be synced").with_source(error);
    join_all(syncs).await.into_iter().collect::<Result<(), _>>().map_err(failed)?;
    if !ring_groups.is_empty() {
        let failed = |error| PoolError::new(PoolErrorKind::Io, "the journal can't be written").with_source(error);
        let outcome = journal.append(&ring_groups).await.map_err(failed)?;
        if let Some(lost) = outcome.lost.first() {
            return Err(PoolError::new(PoolErrorKind::Io, "a disk of the journal failed").with_source(lost.error));
        }
    }
    let ring = Ring::new(Arc::clone(&world.carry_over), uuid, openings + 1);
    tables.space.settle();
    tables.catalog.lsn = Lsn(journal.next().0 - 1);
    tell_catalog(io, epoch, &members, &tables.catalog).await?;
    recovered.left_journal = mark_open(io, world, epoch, openings + 1, &mut members).await?;
    Ok(Opened {
        members,
        journal,
        ring,
        checkpointed: tables.checkpointed,
        catalog: tables.catalog,
        space: tables.space,
        replay: tables.replay,
        recovered,
        bad_slots,
    })
}

fn corrupt(what: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> PoolError {
    PoolError::new(PoolErrorKind::Corrupt, what).with_source(error)
}

/// The disks' labels, by number; those that are bad go to `bad`.
async fn read_members<E: Io>(
    io: &E,
    uuid: [u8; 16],
    disks: &[DiskId],
    bad: &mut Vec<(DiskId, u8)>,
) -> Result<Vec<Member>, PoolError> {
    let mut members = Vec::with_capacity(disks.len());
    for disk in disks {
        let path = || io.disk(*disk).path;
        let report = read_label(io, *disk).await;
        for ((number, slot), error) in ["A", "B"].iter().enumerate().zip(&report.slot_errors) {
            if let Some(error) = error.filter(|_| report.label.is_some()) {
                log::warn!("{}: label {slot} can't be used, the other one is: {error}", path());
                bad.push((*disk, number as u8));
            }
        }
        let Some(label) = report.label else {
            log::error!("{}: it has no intact label", path());
            let what = "a disk has no intact label";
            return Err(PoolError::new(PoolErrorKind::NotFound, what).with_value(u64::from(disk.0)));
        };
        if label.pool_uuid != uuid {
            let what = "a disk belongs to another pool";
            return Err(PoolError::new(PoolErrorKind::ForeignLabel, what).with_value(u64::from(disk.0)));
        }
        if label.layout.end() > io.disk(*disk).size_bytes {
            let what = "a disk is smaller than its label says";
            return Err(PoolError::new(PoolErrorKind::TooSmall, what).with_value(label.layout.end()));
        }
        members.push(Member { disk: *disk, label });
    }
    if members.is_empty() {
        return Err(PoolError::new(PoolErrorKind::DiskMissing, "disks: a pool has one at least"));
    }
    members.sort_by_key(|member| member.label.disk_no);
    Ok(members)
}

async fn open_journal<E: Io>(
    io: &E,
    world: &PoolEnv,
    uuid: [u8; 16],
    epoch: u32,
    members: &[Member],
) -> Result<(Journal<E>, Replay), PoolError> {
    let any_epoch = world.planted.has(Defect::OlderEpoch);
    let current = |member: &&Member| member.label.journal && (member.label.pool_epoch == epoch || any_epoch);
    let regions = members.iter().filter(current).map(member_region).collect::<Vec<_>>();
    if regions.is_empty() {
        // The newest catalog of the disks that are there may name the one that is not.
        let catalogs = read_catalogs(io, members).await.into_iter().filter_map(|(_, read)| read.ok());
        if let Some(catalog) = catalogs.max_by_key(|catalog| catalog.lsn) {
            require_disks(members, &catalog)?;
        }
        return Err(PoolError::new(PoolErrorKind::DiskMissing, "no disk with a current journal is there"));
    }
    let failed = |error: JournalError| {
        let unreadable = |(_, problem): &(DiskId, MemberProblem)| matches!(problem, MemberProblem::Io(_));
        let kind = match &error {
            JournalError::NoMember(_) => PoolErrorKind::Io,
            JournalError::NoJournal(problems) if problems.iter().any(unreadable) => PoolErrorKind::Io,
            _ => PoolErrorKind::Corrupt,
        };
        PoolError::new(kind, "the journal can't be opened").with_source(error)
    };
    let (journal, replay) =
        Journal::open_planted(io.clone(), regions, uuid, epoch, world.planted).await.map_err(failed)?;
    for (disk, note) in &replay.notes {
        if *note != MemberNote::Current {
            log::warn!("{}: its journal was not current and is copied anew: {note:?}", io.disk(*disk).path);
        }
    }
    for (disk, error) in &replay.header_errors {
        log::warn!("{}: a journal header can't be used, the other one is: {error}", io.disk(*disk).path);
    }
    if let Some((disk, offset, error)) = &replay.unreadable {
        log::error!("{}: the journal can't be read at byte {offset}: {error}", io.disk(*disk).path);
    }
    Ok((journal.limited_to(world.tuning.journal_records_max), replay))
}

const fn member_region(of: &Member) -> crate::journal::JournalMember {
    member(of.disk, &of.label)
}

/// What the MetaStore has; `None` if that is not usable.
async fn load_checkpoint(meta: &dyn MetaStore) -> Result<Option<Checkpoint>, PoolError> {
    let failed = |error| PoolError::new(PoolErrorKind::Meta, "the MetaStore can't be read").with_source(error);
    let keys = vec![rows::CHECKPOINT_KEY.to_vec(), rows::CATALOG_KEY.to_vec()];
    let mut found = meta.get(keys).await.map_err(failed)?.into_iter();
    let (Some(Some(lsn)), Some(Some(catalog))) = (found.next(), found.next()) else { return Ok(None) };
    let decoded = rows::decode_checkpoint(&lsn).and_then(|lsn| Ok((lsn, decode_catalog(&catalog)?)));
    let (lsn, catalog) = match decoded {
        Ok(decoded) => decoded,
        Err(error) => {
            log::warn!("the MetaStore is damaged: {error}");
            return Ok(None);
        }
    };
    let mut segments = Vec::new();
    let mut after = Vec::new();
    loop {
        let found = meta.scan(rows::SEGMENT_PREFIX.to_vec(), after, SCAN_ROWS_MAX).await.map_err(failed)?;
        let Some((last, _)) = found.last() else { break };
        after = last.clone();
        for (key, value) in found {
            let place = rows::segment_of_key(&key);
            let (Some((disk, segment)), Ok((lsn, bits))) = (place, rows::decode_segment(&value)) else {
                log::warn!("the MetaStore is damaged: a segment of free space");
                return Ok(None);
            };
            segments.push(SegmentImage { disk, segment, lsn, bits });
        }
    }
    Ok(Some(Checkpoint { lsn, catalog, segments }))
}

/// What replay changes at once; pages wait until they are loaded.
struct Tables {
    checkpointed: Lsn,
    catalog: Catalog,
    space: Space,
    replay: FxHashMap<PageKey, Vec<(Lsn, Delta)>>,
}

impl Tables {
    fn of(checkpoint: Checkpoint) -> Self {
        let disks = checkpoint.catalog.disks.values();
        let disks: Vec<SpaceDisk> =
            disks.map(|disk| SpaceDisk { no: disk.no, rank: disk.rank, chunks: disk.chunks }).collect();
        let (space, unknown) = Space::load(&disks, checkpoint.segments);
        for image in unknown {
            log::error!("free space of disk {} segment {}: there is none", image.disk.0, image.segment);
        }
        Self { checkpointed: checkpoint.lsn, catalog: checkpoint.catalog, space, replay: FxHashMap::default() }
    }

    fn apply(&mut self, lsn: Lsn, deltas: Vec<Delta>) {
        if lsn <= self.checkpointed {
            return;
        }
        let to_catalog = lsn > self.catalog.lsn;
        for delta in deltas {
            self.space.apply(&delta, lsn);
            if to_catalog {
                self.catalog.apply(&delta);
            }
            if let Some(page) = delta.page() {
                self.replay.entry(page).or_default().push((lsn, delta));
            }
        }
        self.catalog.lsn = self.catalog.lsn.max(lsn);
    }
}

/// Compares the disks with what the catalog has; those that it does not know are taken out and returned.
fn check_members(members: &mut Vec<Member>, catalog: &Catalog) -> Result<Vec<DiskId>, PoolError> {
    let known = |member: &Member| {
        catalog.disks.get(&member.label.disk_no).is_some_and(|entry| entry.uuid == member.label.disk_uuid)
    };
    let (ours, unused): (Vec<Member>, Vec<Member>) = members.drain(..).partition(known);
    *members = ours;
    if members.is_empty() {
        return Err(PoolError::new(PoolErrorKind::Corrupt, "the pool's catalog knows none of the disks"));
    }
    require_disks(members, catalog)?;
    for member in members.iter() {
        let entry = &catalog.disks[&member.label.disk_no];
        if member.label.layout.chunks != entry.chunks {
            let what = "a disk's label has another size than the catalog, its number";
            return Err(PoolError::new(PoolErrorKind::Corrupt, what).with_value(u64::from(entry.no.0)));
        }
    }
    if members.len() != catalog.disks.len() {
        return Err(PoolError::new(PoolErrorKind::Corrupt, "two disks have the same number and name"));
    }
    Ok(unused.into_iter().map(|member| member.disk).collect())
}

/// Holds against each other what the disks were told at checkpoints. Labels, catalog slots and the MetaStore only have
/// what the journal had before: if one has more, the journal's disks lost what they said was durable. And the journal
/// only forgets what every disk's catalog slot has: a disk whose slot is older lost it. Returns such disks.
async fn check_marks<E: Io>(
    io: &E,
    members: &[Member],
    checkpoint: Lsn,
    start: Lsn,
    end: Lsn,
) -> Result<Vec<DiskId>, PoolError> {
    let marks = members.iter().map(|member| catalog_mark(io, member.disk, &member.label.layout)).collect();
    let marks: Vec<Option<Lsn>> = join_all(marks).await;
    let labels = members.iter().map(|member| member.label.checkpoint_mark);
    let newest = labels.chain(marks.iter().flatten().copied()).max().unwrap_or_default().max(checkpoint);
    if newest > end {
        let what = "the disks lost what they said was durable: the journal ends before change";
        return Err(PoolError::new(PoolErrorKind::Corrupt, what).with_value(newest.0));
    }
    let lost = |mark: Option<Lsn>| mark.is_some_and(|mark| mark.0 + 1 < start.0);
    // One that left the journal was not told any more.
    let epoch = members.iter().map(|member| member.label.pool_epoch).max().unwrap_or(0);
    let told = members.iter().zip(marks).filter(|(member, _)| member.label.pool_epoch == epoch);
    let disks: Vec<DiskId> = told.filter(|(_, mark)| lost(*mark)).map(|(member, _)| member.disk).collect();
    for disk in &disks {
        log::error!("{}: it lost a checkpoint that it said was durable, and maybe data", io.disk(*disk).path);
    }
    Ok(disks)
}

/// Refuses with the names of the catalog's disks that are not there.
pub(crate) fn require_disks(members: &[Member], catalog: &Catalog) -> Result<(), PoolError> {
    let is_there = |entry: &&DiskEntry| members.iter().any(|member| member.label.disk_no == entry.no);
    let missing: Vec<DiskEntry> = catalog.disks.values().filter(|entry| !is_there(entry)).cloned().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let what = "disks of the pool are missing";
    let error = PoolError::new(PoolErrorKind::DiskMissing, what).with_value(missing.len() as u64);
    Err(error.with_source(MissingDisks(missing)))
}

/// The disks of a pool that are not there: each by uuid, tier and number.
#[derive(Debug)]
struct MissingDisks(Vec<DiskEntry>);

impl fmt::Display for MissingDisks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, DiskEntry { no, uuid, tier, .. }) in self.0.iter().take(MISSING_NAMED_MAX).enumerate() {
            let [a, b, c, d, e] = [0..4, 4..6, 6..8, 8..10, 10..16].map(|part| hex(&uuid[part]));
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{a}-{b}-{c}-{d}-{e} (tier {tier}, number {})", no.0)?;
        }
        if self.0.len() > MISSING_NAMED_MAX { f.write_str(", and more") } else { Ok(()) }
    }
}

impl std::error::Error for MissingDisks {}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Gives the catalog to disks that were not told of checkpoints since they left the journal: their labels are about to
/// say that they are as current as the others.
async fn tell_catalog<E: Io>(io: &E, epoch: u32, members: &[Member], catalog: &Catalog) -> Result<(), PoolError> {
    let bytes = encode_catalog(catalog);
    let failed = |error| PoolError::new(PoolErrorKind::Io, "the catalog can't be written to a disk").with_source(error);
    for Member { disk, label } in members.iter().filter(|member| member.label.pool_epoch < epoch) {
        write_catalog(io, *disk, &label.layout, &bytes, catalog.lsn.0).await.map_err(failed)?;
    }
    Ok(())
}

/// From now on the labels say that the pool is open, by whom, and that a journal of an older epoch is none; returns the
/// disks that have such a one.
async fn mark_open<E: Io>(
    io: &E,
    world: &PoolEnv,
    epoch: u32,
    openings: u64,
    members: &mut [Member],
) -> Result<Vec<DiskId>, PoolError> {
    let mut left = Vec::new();
    for member in members.iter_mut() {
        if member.label.pool_epoch < epoch && member.label.journal {
            log::warn!(
                "{}: it missed changes of the journal and takes no part in it any more",
                io.disk(member.disk).path
            );
            member.label.journal = false;
            left.push(member.disk);
        }
        member.label.pool_epoch = epoch;
        member.label.openings = openings;
        member.label.clean = false;
        member.label.opener.clone_from(&world.opener);
        if let Some(name) = &world.rename {
            member.label.pool_name.clone_from(name);
        }
    }
    let writes = members.iter().map(|member| write_label(io, member.disk, &member.label)).collect();
    let failed = |error| PoolError::new(PoolErrorKind::Io, "a label can't be written").with_source(error);
    join_all(writes).await.into_iter().collect::<Result<(), _>>().map_err(failed)?;
    Ok(left)
}
