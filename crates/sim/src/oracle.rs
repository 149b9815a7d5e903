//! What a read may return.
//!
//! Layout: every change of a volume (write, write-zeroes, discard) is a [`Change`] with its place in the order of
//! events: when it was submitted, when it ended, since when it surely took effect, and whether it is flushed. Every
//! 512-byte sector has the changes that may still be its content, in order of submission. A read may return a change
//! unless another surely came after it and was there before the read began.
//!
//! - *Before*: one change ended before the other was submitted; or a read, while nothing was open on the sector, found
//!   the other one there ("settled").
//! - *Surely*: it was answered, or found by such a read. A process crash takes nothing of that back; a change that was
//!   open then may or may not have taken effect.
//! - *Power cut*: what was answered and not flushed is no longer sure; what was flushed is. So a sector has the newest
//!   flushed change or any that came after it, never one from before it and never anything else.
//!
//! Snapshots are [`frozen`].
//!
//! Sectors are judged one by one, which allows a write torn between sectors, as a disk of 512-byte blocks may leave it.
//! On a volume of 4 KiB blocks the eight sectors of a block must agree.

pub mod frozen;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use smallvec::{SmallVec, smallvec};

use self::frozen::{Base, Frozen, Moment, check_frozen, lock, matches};
use crate::payload::{self, Content, SECTOR_BYTES};

const NEVER: u64 = u64::MAX;

/// Numbers a volume of this run; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeNo(pub u32);

/// Numbers a change of this run; 0 is the zeros that every volume begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangeNo(pub u32);

/// A range of sectors: first, count.
pub type Sectors = (u64, u64);

/// One change of a volume.
#[derive(Clone, Debug)]
pub struct Change {
    /// Whose.
    pub volume: VolumeNo,
    /// Where.
    pub ranges: SmallVec<[Sectors; 1]>,
    /// It reads zeros after this.
    pub zeros: bool,
    /// It is durable when answered.
    pub fua: bool,
    submitted: u64,
    ended: u64,
    sure: u64,
    flushed: bool,
}

#[derive(Clone, Copy)]
struct Version {
    change: ChangeNo,
    settled: u64,
}

type Versions = SmallVec<[Version; 2]>;

/// Sectors of a piece of the model: 1 MiB. A piece that was never changed takes no memory.
const PIECE_SECTORS: u64 = 2048;

type Pieces = BTreeMap<u64, Vec<Versions>>;

/// One volume's model.
pub struct Volume {
    size_sectors: u64,
    /// What change 0 is: of a clone, its snapshot.
    base: Option<Base>,
    /// It is a snapshot, and nothing changes it.
    frozen: Option<Base>,
    pieces: Pieces,
    block_sectors: usize,
    /// Answered and not flushed.
    unflushed: Vec<ChangeNo>,
    /// The latest submission of a flush that was answered.
    flushed_at: u64,
}

fn untouched() -> Versions {
    smallvec![Version { change: ChangeNo(0), settled: NEVER }]
}

impl Volume {
    fn touch(&mut self, (first, count): Sectors, mut each: impl FnMut(&mut Versions)) {
        assert!(first + count <= self.size_sectors, "hosts know the size");
        let mut sector = first;
        while sector < first + count {
            let piece = self.pieces.entry(sector / PIECE_SECTORS);
            let piece = piece.or_insert_with(|| (0..PIECE_SECTORS).map(|_| untouched()).collect());
            let end = (first + count).min((sector / PIECE_SECTORS + 1) * PIECE_SECTORS);
            let start = (sector % PIECE_SECTORS) as usize;
            piece[start..start + (end - sector) as usize].iter_mut().for_each(&mut each);
            sector = end;
        }
    }

    fn sector(&self, sector: u64) -> Option<&Versions> {
        Some(&self.pieces.get(&(sector / PIECE_SECTORS))?[(sector % PIECE_SECTORS) as usize])
    }
}

/// The model of all volumes.
#[derive(Default)]
pub struct Oracle {
    changes: Vec<Change>,
    volumes: BTreeMap<VolumeNo, Volume>,
    /// Volumes that are gone: a snapshot of one may not have been answered yet.
    removed: BTreeMap<VolumeNo, Volume>,
    reads_open: BTreeMap<u64, u32>,
}

/// A read that no history allows.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The volume.
    pub volume: VolumeNo,
    /// The sector.
    pub sector: u64,
    /// What is wrong, in a sentence.
    pub what: String,
}

impl Oracle {
    /// An empty model.
    #[must_use]
    pub fn new() -> Self {
        let zeros = Change {
            volume: VolumeNo(0),
            ranges: SmallVec::new(),
            zeros: true,
            fua: true,
            submitted: 0,
            ended: 0,
            sure: 0,
            flushed: true,
        };
        Self { changes: vec![zeros], ..Self::default() }
    }

    /// A volume of `size_bytes` zeros whose logical block has `logical_block_bytes`.
    pub fn add_volume(&mut self, volume: VolumeNo, size_bytes: u64, logical_block_bytes: u32) {
        let model = Volume {
            size_sectors: 0,
            base: None,
            frozen: None,
            pieces: BTreeMap::new(),
            block_sectors: logical_block_bytes as usize / SECTOR_BYTES,
            unflushed: Vec::new(),
            flushed_at: 0,
        };
        self.volumes.insert(volume, model);
        self.grow(volume, size_bytes);
    }

    /// The volume has `size_bytes` now; what is new reads zeros.
    pub fn grow(&mut self, volume: VolumeNo, size_bytes: u64) {
        self.volume(volume).size_sectors = size_bytes / SECTOR_BYTES as u64;
    }

    /// The volume is gone.
    pub fn remove_volume(&mut self, volume: VolumeNo) {
        if let Some(model) = self.volumes.remove(&volume) {
            self.removed.insert(volume, model);
        }
    }

    /// The snapshot `frozen` of `volume` was taken not before `moment`, and is there now.
    pub fn freeze(&mut self, volume: VolumeNo, frozen: VolumeNo, moment: &Moment) {
        let Some(model) = self.volumes.get(&volume).or_else(|| self.removed.get(&volume)) else { return };
        let (mut pieces, base) = (model.pieces.clone(), model.base.clone());
        for versions in pieces.values_mut().flatten().filter(|versions| versions.len() > 1) {
            let all = versions.clone();
            versions.retain(|version| allowed(&self.changes, &all, version, moment.load(Ordering::Relaxed)));
        }
        let snapshot = Volume {
            size_sectors: model.size_sectors,
            base: None,
            frozen: Some(Arc::new(Mutex::new(Frozen { moment: Arc::clone(moment), pieces, base }))),
            pieces: BTreeMap::new(),
            block_sectors: model.block_sectors,
            unflushed: Vec::new(),
            flushed_at: 0,
        };
        self.volumes.insert(frozen, snapshot);
    }

    /// A volume that begins as `snapshot` is.
    pub fn add_clone(&mut self, volume: VolumeNo, snapshot: VolumeNo, size_bytes: u64, logical_block_bytes: u32) {
        let base = self.volumes.get(&snapshot).and_then(|model| model.frozen.clone());
        self.add_volume(volume, size_bytes, logical_block_bytes);
        self.volume(volume).base = base;
    }

    fn volume(&mut self, volume: VolumeNo) -> &mut Volume {
        self.volumes.get_mut(&volume).expect("a volume of this run")
    }

    /// The change's own words.
    #[must_use]
    pub fn change(&self, change: ChangeNo) -> &Change {
        &self.changes[change.0 as usize]
    }

    /// The number that the next change gets: its payload names it.
    #[must_use]
    pub fn next_change(&self) -> ChangeNo {
        ChangeNo(self.changes.len() as u32)
    }

    /// A change is submitted at `now`. Returns how many open changes it overlaps.
    pub fn submit(
        &mut self,
        now: u64,
        volume: VolumeNo,
        ranges: SmallVec<[Sectors; 1]>,
        zeros: bool,
        fua: bool,
    ) -> (ChangeNo, usize) {
        let number = self.next_change();
        let change = Change { volume, ranges, zeros, fua, submitted: now, ended: NEVER, sure: NEVER, flushed: false };
        let oldest_read = self.reads_open.first_key_value().map_or(now, |(start, _)| *start);
        let mut overlapped: SmallVec<[ChangeNo; 8]> = SmallVec::new();
        let model = self.volumes.get_mut(&volume).expect("a volume of this run");
        let flushed_at = model.flushed_at;
        for range in &change.ranges {
            model.touch(*range, |versions| {
                if versions.len() > 1 {
                    prune(&self.changes, flushed_at, versions, oldest_read);
                }
                if let Some(last) = versions.last().filter(|last| self.changes[last.change.0 as usize].ended == NEVER) {
                    if !overlapped.contains(&last.change) {
                        overlapped.push(last.change);
                    }
                }
                versions.push(Version { change: number, settled: NEVER });
            });
        }
        self.changes.push(change);
        (number, overlapped.len())
    }

    /// The change was answered at `now`; `durable`: a power cut can't take it back.
    pub fn acknowledge(&mut self, now: u64, number: ChangeNo, durable: bool) {
        let change = &mut self.changes[number.0 as usize];
        (change.ended, change.sure, change.flushed) = (now, now, durable);
        if !durable {
            let volume = change.volume;
            // A deleted volume's last requests are answered too.
            if let Some(model) = self.volumes.get_mut(&volume) {
                model.unflushed.push(number);
            }
        }
    }

    /// The change was refused at `now`: each of its sectors may have taken effect or not.
    pub fn fail(&mut self, now: u64, number: ChangeNo) {
        self.changes[number.0 as usize].ended = now;
    }

    /// The change was refused before it did anything.
    pub fn withdraw(&mut self, now: u64, number: ChangeNo) {
        let change = &mut self.changes[number.0 as usize];
        change.ended = now;
        let (volume, ranges) = (change.volume, change.ranges.clone());
        let Some(model) = self.volumes.get_mut(&volume) else { return };
        for range in ranges {
            model.touch(range, |versions| versions.retain(|version| version.change != number));
        }
    }

    /// A flush that was submitted at `submitted` was answered.
    pub fn flushed(&mut self, submitted: u64, volume: VolumeNo) {
        let changes = &mut self.changes;
        let Some(model) = self.volumes.get_mut(&volume) else { return };
        model.flushed_at = model.flushed_at.max(submitted);
        model.unflushed.retain(|number| {
            let change = &mut changes[number.0 as usize];
            change.flushed |= change.sure < submitted;
            !change.flushed
        });
    }

    /// The process died at `now`.
    pub fn process_crash(&mut self, now: u64) {
        self.reads_open.clear();
        for change in self.changes.iter_mut().filter(|change| change.ended == NEVER) {
            change.ended = now;
        }
    }

    /// The machine lost power at `now`.
    pub fn power_cut(&mut self, now: u64) {
        self.process_crash(now);
        for model in self.volumes.values_mut() {
            for number in model.unflushed.drain(..) {
                self.changes[number.0 as usize].sure = NEVER;
            }
            for version in model.pieces.values_mut().flatten().flatten() {
                if version.settled != NEVER && version.settled >= model.flushed_at {
                    version.settled = NEVER;
                }
            }
        }
    }

    /// A read begins at `now`.
    pub fn read_begins(&mut self, now: u64) {
        *self.reads_open.entry(now).or_default() += 1;
    }

    /// A read that began at `began` ends; its answer may have been checked before.
    pub fn read_ends(&mut self, began: u64) {
        if let Some(open) = self.reads_open.get_mut(&began) {
            *open -= 1;
            if *open == 0 {
                self.reads_open.remove(&began);
            }
        }
    }

    /// A read that began at `began` returned `bytes` from `first` on.
    ///
    /// # Errors
    /// The first sector that no history allows.
    pub fn check(&mut self, now: u64, began: u64, volume: VolumeNo, first: u64, bytes: &[u8]) -> Result<(), Violation> {
        let contents = bytes.chunks_exact(SECTOR_BYTES).map(payload::parse);
        self.check_contents(now, began, volume, first, contents)
    }

    /// The same for a read that returned zeros without bytes.
    ///
    /// # Errors
    /// The first sector that no history allows.
    pub fn check_zeros(
        &mut self,
        now: u64,
        began: u64,
        volume: VolumeNo,
        (first, count): Sectors,
    ) -> Result<(), Violation> {
        let Some(model) = self.volumes.get(&volume) else { return Ok(()) };
        let mut pieces = first / PIECE_SECTORS..=(first + count - 1) / PIECE_SECTORS;
        let alone = model.base.is_none() && model.frozen.is_none();
        if alone && pieces.all(|piece| !model.pieces.contains_key(&piece)) {
            return Ok(());
        }
        self.check_contents(now, began, volume, first, (0..count).map(|_| Content::Zeros))
    }

    fn check_contents(
        &mut self,
        now: u64,
        began: u64,
        volume: VolumeNo,
        first: u64,
        contents: impl Iterator<Item = Content>,
    ) -> Result<(), Violation> {
        let Some(model) = self.volumes.get_mut(&volume) else { return Ok(()) };
        let mut block = None;
        for (index, content) in contents.enumerate() {
            let sector = first + index as u64;
            let mut base = untouched();
            let piece = model.pieces.get_mut(&(sector / PIECE_SECTORS));
            let versions = piece.map_or(&mut base, |piece| &mut piece[(sector % PIECE_SECTORS) as usize]);
            let judged = match &model.frozen {
                Some(frozen) => check_frozen(&self.changes, frozen, (volume, sector), content),
                None => {
                    let base = model.base.as_ref();
                    check_sector(&self.changes, versions, base, (volume, sector), content, (began, now))
                }
            };
            judged.map_err(|what| Violation { volume, sector, what })?;
            if model.block_sectors > 1 {
                let written = match content {
                    Content::Written { write, .. } => Some(write),
                    _ => None,
                };
                if sector as usize % model.block_sectors == 0 {
                    block = Some(written);
                } else if block.is_some_and(|block| block != written) {
                    let what = format!("the block is torn: {written:?} beside {block:?}");
                    return Err(Violation { volume, sector, what });
                }
            }
        }
        Ok(())
    }

    /// The only content that a read that began at `began` may find in `sector`, apart from that of `except`; `None` if
    /// there are several.
    #[must_use]
    pub fn only(&self, began: u64, volume: VolumeNo, sector: u64, except: Option<ChangeNo>) -> Option<ChangeNo> {
        let base = untouched();
        let model = self.volumes.get(&volume)?;
        let versions = model.sector(sector).unwrap_or(&base);
        let others = versions.iter().filter(|version| Some(version.change) != except);
        let mut allowed = others.filter(|version| allowed(&self.changes, versions, version, began));
        let only = allowed.next()?;
        let known = only.change != ChangeNo(0) || model.base.is_none();
        (known && allowed.next().is_none()).then_some(only.change)
    }

    /// What the history of `sector` was, for a report.
    #[must_use]
    pub fn explain(&self, volume: VolumeNo, sector: u64) -> Vec<String> {
        let Some(model) = self.volumes.get(&volume) else { return Vec::new() };
        let at = |time: u64| if time == NEVER { "-".into() } else { time.to_string() };
        let line = |version: &Version| {
            let change = self.change(version.change);
            format!(
                "change {}: submitted {}, ended {}, sure {}, settled {}, {}{}",
                version.change.0,
                change.submitted,
                at(change.ended),
                at(change.sure),
                at(version.settled),
                if change.flushed { "flushed" } else { "not flushed" },
                if change.zeros { ", zeros" } else { "" },
            )
        };
        let mut lines: Vec<String> = model.sector(sector).unwrap_or(&untouched()).iter().map(line).collect();
        let mut below = model.frozen.clone().or_else(|| model.base.clone());
        while let Some(frozen) = below {
            let frozen = lock(&frozen);
            lines.push(format!("a snapshot, taken after {}, has", frozen.moment.load(Ordering::Relaxed)));
            lines.extend(frozen.versions(sector).unwrap_or(&untouched()).iter().map(line));
            below = frozen.base.clone();
        }
        lines.push(format!("volume {} last flushed at {}", volume.0, model.flushed_at));
        lines
    }
}

fn sure(changes: &[Change], version: &Version) -> u64 {
    changes[version.change.0 as usize].sure.min(version.settled)
}

fn before(changes: &[Change], earlier: &Version, later: &Version) -> bool {
    let ended = changes[earlier.change.0 as usize].ended;
    ended < changes[later.change.0 as usize].submitted
        || (later.settled != NEVER && ended <= later.settled && earlier.change != later.change)
}

fn allowed(changes: &[Change], versions: &Versions, version: &Version, began: u64) -> bool {
    !versions.iter().any(|other| sure(changes, other) < began && before(changes, version, other))
}

// Drops what can't come back, neither to an open read nor after a power cut.
fn prune(changes: &[Change], flushed_at: u64, versions: &mut Versions, oldest_read: u64) {
    let dead = |version: &Version, versions: &Versions| {
        versions.iter().any(|other| {
            let flushed = changes[other.change.0 as usize].flushed || other.settled < flushed_at;
            flushed && sure(changes, other) < oldest_read && before(changes, version, other)
        })
    };
    let kept: Versions = versions.iter().filter(|version| !dead(version, versions)).copied().collect();
    *versions = kept;
}

fn check_sector(
    changes: &[Change],
    versions: &mut Versions,
    base: Option<&Base>,
    (volume, sector): (VolumeNo, u64),
    content: Content,
    (began, now): (u64, u64),
) -> Result<(), String> {
    let matches = |version: &Version| matches(changes, version, base, sector, content);
    let found = versions.iter().rposition(|version| matches(version) && allowed(changes, versions, version, began));
    let Some(found) = found else { return Err(name(changes, versions, volume, sector, content)) };
    let quiet = versions.iter().all(|version| changes[version.change.0 as usize].ended < began);
    if quiet && versions.len() > 1 {
        versions[found].settled = versions[found].settled.min(now);
    }
    if let (ChangeNo(0), Some(base)) = (versions[found].change, base)
        && versions.iter().filter(|version| matches(version)).count() == 1
    {
        lock(base).settle(changes, sector, content);
    }
    Ok(())
}

fn name(changes: &[Change], versions: &Versions, volume: VolumeNo, sector: u64, content: Content) -> String {
    let known = |write: u32| versions.iter().any(|version| version.change.0 == write);
    match content {
        Content::Zeros => format!("volume {} sector {sector} reads zeros", volume.0),
        Content::Discarded => format!("volume {} sector {sector} reads what a disk made up after a discard", volume.0),
        Content::Unknown => {
            format!("volume {} sector {sector} reads bytes that nobody wrote, or a torn sector", volume.0)
        }
        Content::Written { volume: other, write, sector: at } if other != volume.0 => {
            format!("foreign bytes: volume {} sector {sector} reads volume {other} sector {at} write {write}", volume.0)
        }
        Content::Written { write, sector: at, .. } if at != sector => {
            format!("misplaced: volume {} sector {sector} reads its sector {at} of write {write}", volume.0)
        }
        Content::Written { write, .. } if known(write) || (write as usize) < changes.len() => {
            format!("stale: volume {} sector {sector} reads write {write}", volume.0)
        }
        Content::Written { write, .. } => format!("volume {} sector {sector} reads unknown write {write}", volume.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: VolumeNo = VolumeNo(1);

    fn oracle() -> Oracle {
        let mut oracle = Oracle::new();
        oracle.add_volume(VOLUME, 4096, 512);
        oracle
    }

    fn write(oracle: &mut Oracle, submitted: u64, answered: Option<u64>) -> ChangeNo {
        let (number, _) = oracle.submit(submitted, VOLUME, smallvec![(0, 1)], false, false);
        if let Some(answered) = answered {
            oracle.acknowledge(answered, number, false);
        }
        number
    }

    fn reads(oracle: &mut Oracle, at: u64, change: ChangeNo) -> bool {
        let mut bytes = [0; SECTOR_BYTES];
        if change.0 > 0 {
            payload::fill(&mut bytes, VOLUME.0, change.0, 0);
        }
        oracle.check(at + 1, at, VOLUME, 0, &bytes).is_ok()
    }

    const ZEROS: ChangeNo = ChangeNo(0);

    #[test]
    fn an_answered_write_is_read_until_the_next_one() {
        let mut oracle = oracle();
        assert!(reads(&mut oracle, 5, ZEROS));
        let first = write(&mut oracle, 10, Some(12));
        assert!(!reads(&mut oracle, 20, ZEROS) && reads(&mut oracle, 20, first));
        let open = write(&mut oracle, 30, None);
        assert!(reads(&mut oracle, 40, first) && reads(&mut oracle, 40, open) && !reads(&mut oracle, 40, ZEROS));
        oracle.acknowledge(50, open, false);
        assert!(!reads(&mut oracle, 60, first) && reads(&mut oracle, 60, open));
    }

    #[test]
    fn of_two_writes_at_once_the_one_that_was_read_stays() {
        let mut oracle = oracle();
        let (one, two) = (write(&mut oracle, 10, None), write(&mut oracle, 11, None));
        oracle.acknowledge(20, two, false);
        oracle.acknowledge(21, one, false);
        assert_eq!(oracle.only(30, VOLUME, 0, None), None);
        assert!(reads(&mut oracle, 30, one) && !reads(&mut oracle, 40, two) && reads(&mut oracle, 40, one));
    }

    #[test]
    fn a_process_crash_takes_no_answered_write_and_leaves_open_ones_undecided_until_read() {
        let mut oracle = oracle();
        let (answered, open) = (write(&mut oracle, 10, Some(12)), write(&mut oracle, 20, None));
        oracle.process_crash(30);
        assert!(!reads(&mut oracle, 40, ZEROS));
        assert!(reads(&mut oracle, 40, open) && !reads(&mut oracle, 50, answered));
    }

    #[test]
    fn a_power_cut_takes_what_was_not_flushed_and_nothing_else() {
        for (flush, candidates) in
            [(None, [true, true, true]), (Some(15), [false, true, true]), (Some(30), [false, false, true])]
        {
            for read in 0..3 {
                let mut oracle = oracle();
                let changes = [ZEROS, write(&mut oracle, 10, Some(12)), write(&mut oracle, 20, Some(22))];
                if let Some(submitted) = flush {
                    oracle.flushed(submitted, VOLUME);
                }
                oracle.power_cut(40);
                // A flush after the cut saves nothing that the cut took.
                oracle.flushed(45, VOLUME);
                assert_eq!(reads(&mut oracle, 50, changes[read]), candidates[read], "flush {flush:?}, read {read}");
            }
        }
    }

    #[test]
    fn what_was_read_after_a_power_cut_and_then_flushed_is_kept_by_the_next() {
        let mut oracle = oracle();
        let lost = write(&mut oracle, 10, Some(12));
        oracle.power_cut(20);
        assert!(reads(&mut oracle, 30, ZEROS) && !reads(&mut oracle, 32, lost));
        oracle.flushed(40, VOLUME);
        oracle.power_cut(50);
        assert!(!reads(&mut oracle, 60, lost) && reads(&mut oracle, 60, ZEROS));
    }

    #[test]
    fn a_wrong_read_is_named() {
        let mut oracle = oracle();
        let mut bytes = [0; SECTOR_BYTES];
        let mut named = |fill: &dyn Fn(&mut [u8])| {
            fill(&mut bytes);
            oracle.check(9, 8, VOLUME, 0, &bytes).expect_err("nobody wrote this").what
        };
        assert!(named(&|bytes| payload::fill(bytes, 2, 7, 3)).starts_with("foreign bytes: volume 1 sector 0"));
        assert!(named(&|bytes| payload::fill(bytes, 1, 7, 3)).starts_with("misplaced"));
        assert!(named(&|bytes| payload::fill_garbage(bytes, 3)).contains("made up after a discard"));
        assert!(named(&|bytes| bytes[9] ^= 1).contains("made up") || named(&|bytes| bytes[0] = 9).contains("nobody"));
    }
}
