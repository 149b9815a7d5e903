//! Free space: which chunks of each disk are whose business.
//!
//! Layout: each disk has two bitmaps. *Allocated* is what deltas say: a checkpoint stores it, in segments of 4 KiB.
//! *Taken* is that and more: chunks that were granted and are not used yet, freed ones that still have to wait, and
//! check space; it is what the allocator looks at, and nothing stores it.
//!
//! Considerations: 100 TiB in chunks of 64 KiB are 1.6 billion bits, so a free one is found through summaries, 64 to
//! one, and counts are kept. A search takes the first run that is long enough from where the last one ended, so that
//! streams stay sequential, and settles for the longest of many tries on a disk that is in pieces. A segment knows the
//! last group that is in it; replay leaves out what it already has. The caller applies deltas in order of LSN.

mod bitmap;
#[cfg(test)]
mod tests;

pub(crate) use bitmap::masks;
use bitmap::{Taken, count_bits, set_bits};

use crate::delta::Delta;
use crate::layout::rows::SEGMENT_WORDS;
use crate::place::{CHUNKS_PER_EXTENT, ChunkAddr, ChunkRun, DiskNo, Lsn, ZONE_CHUNKS, check_chunks, is_check_chunk};

/// Chunks of a segment: a bit each, 4 KiB.
pub const SEGMENT_CHUNKS: u32 = SEGMENT_WORDS as u32 * 64;
/// One of this many chunks is kept back for what must go on in a full pool: moves and deletions.
pub const RESERVE_DIVISOR: u32 = 128;
/// A search settles for the longest run it saw after this many that were too short.
const CANDIDATES_MAX: u32 = 256;

/// A disk whose space is managed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceDisk {
    /// Its number.
    pub no: DiskNo,
    /// Its tier's rank.
    pub rank: u8,
    /// How many chunks it has.
    pub chunks: u32,
}

/// A segment as a checkpoint stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentImage {
    /// The disk.
    pub disk: DiskNo,
    /// The segment's number: chunks `segment * SEGMENT_CHUNKS` and on.
    pub segment: u32,
    /// The last group that is in it.
    pub lsn: Lsn,
    /// A bit for each allocated chunk, [`SEGMENT_WORDS`] words.
    pub bits: Vec<u64>,
}

/// What an allocation should be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Disks of this rank first, then slower ones, then faster ones.
    pub rank: u8,
    /// How many chunks are wanted.
    pub chunks: u32,
    /// How many will do.
    pub chunks_min: u32,
    /// Whole extents, aligned: start and count are multiples of 16.
    pub extents: bool,
    /// The reserve may be used.
    pub reserve: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Segment {
    /// The last group that was in it when it was loaded.
    loaded: Lsn,
    lsn: Lsn,
    dirty: bool,
}

#[derive(Debug)]
struct DiskSpace {
    disk: SpaceDisk,
    allocated: Vec<u64>,
    allocated_count: u32,
    taken: Taken,
    cursor: u32,
    segments: Vec<Segment>,
}

/// Free space of a pool.
#[derive(Debug, Default)]
pub struct Space {
    disks: Vec<DiskSpace>,
}

impl Space {
    /// The disks with nothing allocated.
    #[must_use]
    pub fn new(disks: &[SpaceDisk]) -> Self {
        let mut space = Self::default();
        disks.iter().for_each(|disk| space.add_disk(*disk));
        space
    }

    /// The disks with what a checkpoint stored; a segment that it did not store has nothing allocated. Replay follows,
    /// then [`Space::settle`]. Segments of unknown disks or places are left out and returned.
    #[must_use]
    pub fn load(disks: &[SpaceDisk], segments: Vec<SegmentImage>) -> (Self, Vec<SegmentImage>) {
        let mut space = Self::new(disks);
        let unknown = segments.into_iter().filter_map(|image| space.load_segment(image)).collect();
        (space, unknown)
    }

    fn load_segment(&mut self, image: SegmentImage) -> Option<SegmentImage> {
        let start = image.segment as usize * SEGMENT_WORDS;
        let Some(disk) = self.disk_mut(image.disk) else { return Some(image) };
        if start >= disk.allocated.len() || image.bits.len() != SEGMENT_WORDS {
            return Some(image);
        }
        let end = (start + SEGMENT_WORDS).min(disk.allocated.len());
        disk.allocated[start..end].copy_from_slice(&image.bits[..end - start]);
        if end == disk.allocated.len() && disk.disk.chunks % 64 != 0 {
            // A bit beyond the end is nobody's.
            disk.allocated[end - 1] &= !(!0 << (disk.disk.chunks % 64));
        }
        disk.allocated_count += disk.allocated[start..end].iter().map(|word| word.count_ones()).sum::<u32>();
        disk.segments[image.segment as usize] = Segment { loaded: image.lsn, lsn: image.lsn, dirty: false };
        None
    }

    /// After replay: exactly what is allocated is taken, and check space. Segments that nothing is known of stay as
    /// they are, all free, so that a large pool with room is open sooner.
    pub fn settle(&mut self) {
        for disk in &mut self.disks {
            let known = disk.segments.iter().enumerate().filter(|(_, segment)| segment.lsn > Lsn::default());
            for (number, _) in known {
                let start = number * SEGMENT_WORDS;
                let end = (start + SEGMENT_WORDS).min(disk.allocated.len());
                disk.taken.load(start, &disk.allocated[start..end]);
            }
            disk.take_check_space();
        }
    }

    /// One more disk, all free.
    pub fn add_disk(&mut self, disk: SpaceDisk) {
        let segments = disk.chunks.div_ceil(SEGMENT_CHUNKS) as usize;
        let mut space = DiskSpace {
            disk,
            allocated: vec![0; disk.chunks.div_ceil(64) as usize],
            allocated_count: 0,
            taken: Taken::new(disk.chunks),
            cursor: 0,
            segments: vec![Segment::default(); segments],
        };
        space.take_check_space();
        self.disks.push(space);
        self.disks.sort_by_key(|disk| (disk.disk.rank, disk.disk.no));
    }

    /// Grants up to `chunks_wanted` chunks in a row, at least `chunks_min`, from the fastest tier that has them.
    pub fn allocate_run(&mut self, chunks_wanted: u32, chunks_min: u32) -> Option<ChunkRun> {
        self.allocate(&Wish { rank: 0, chunks: chunks_wanted, chunks_min, extents: false, reserve: false })
    }

    /// Grants chunks in a row: they are taken until deltas allocate them or [`Space::release_grant`] gives them back.
    /// Among disks of a rank the one with the most free space is asked first.
    ///
    /// # Panics
    /// If no chunk would do.
    pub fn allocate(&mut self, wish: &Wish) -> Option<ChunkRun> {
        assert!(wish.chunks_min >= 1 && wish.chunks >= wish.chunks_min, "an allocation of {wish:?}");
        let mut order: Vec<usize> = (0..self.disks.len()).collect();
        order.sort_by_key(|at| {
            let disk = &self.disks[*at];
            let (rank, faster) = (disk.disk.rank, disk.disk.rank < wish.rank);
            (faster, if faster { u8::MAX - rank } else { rank }, u32::MAX - disk.taken.free())
        });
        order.into_iter().find_map(|at| self.disks[at].allocate(wish))
    }

    /// Gives back granted chunks that no delta allocated.
    ///
    /// # Panics
    /// If one of them is allocated, or was not taken.
    pub fn release_grant(&mut self, run: ChunkRun) {
        self.let_go(run);
    }

    /// Freed chunks may be granted again: what freed them is durable, old I/O on them has ended, and they are trimmed.
    ///
    /// # Panics
    /// If one of them is allocated, or was not taken.
    pub fn unquarantine(&mut self, run: ChunkRun) {
        self.let_go(run);
    }

    fn let_go(&mut self, run: ChunkRun) {
        let disk = self.disk_mut(run.start.disk).expect("a disk of the pool");
        assert_eq!(count_bits(&disk.allocated, run.start.chunk, run.count), 0, "{run:?} is in use");
        assert_eq!(disk.taken.set(run.start.chunk, run.count, false), run.count, "{run:?} was free already");
    }

    /// Applies what concerns free space. [`Delta::Chunks`] and [`Delta::Flip`] allocate; [`Delta::Free`] frees, but the
    /// chunks stay taken until [`Space::unquarantine`]; [`Delta::Disk`] adds a disk that is not known yet. Segments
    /// that were loaded with a later group, or this one, stay as they are.
    pub fn apply(&mut self, delta: &Delta, lsn: Lsn) {
        match delta {
            Delta::Chunks { addrs, .. } => addrs.iter().for_each(|addr| self.mark(one(*addr), lsn, true)),
            Delta::Flip { home, .. } => home.chunks().for_each(|(_, addr)| self.mark(one(addr), lsn, true)),
            Delta::Free { runs, .. } => runs.iter().for_each(|run| self.mark(*run, lsn, false)),
            Delta::Disk(entry) => {
                if self.disk_mut(entry.no).is_none() {
                    self.add_disk(SpaceDisk { no: entry.no, rank: entry.rank, chunks: entry.chunks });
                }
            }
            Delta::Extent { .. }
            | Delta::States { .. }
            | Delta::Unchunk { .. }
            | Delta::Entry { .. }
            | Delta::Gone { .. }
            | Delta::Row { .. }
            | Delta::PageGone { .. }
            | Delta::Layer(_)
            | Delta::LayerGone(_)
            | Delta::Fold { .. }
            | Delta::Volume(_)
            | Delta::VolumeGone { .. }
            | Delta::Document { .. } => {}
        }
    }

    fn mark(&mut self, run: ChunkRun, lsn: Lsn, on: bool) {
        let Some(disk) = self.disk_mut(run.start.disk) else {
            log::error!("group {} speaks of {run:?}, there is no such disk", lsn.0);
            return;
        };
        if u64::from(run.start.chunk) + u64::from(run.count) > u64::from(disk.disk.chunks) {
            log::error!("group {} speaks of {run:?}, the disk has {} chunks", lsn.0, disk.disk.chunks);
            return;
        }
        if is_check_chunk(run.start.chunk) || run.start.chunk % ZONE_CHUNKS + run.count > ZONE_CHUNKS {
            log::error!("group {} speaks of {run:?}, some of it is check space", lsn.0);
            return;
        }
        disk.mark(run.start.chunk, run.count, lsn, on);
    }

    /// The segments that changed since they were taken last; they are clean after that.
    pub fn take_dirty_segments(&mut self) -> Vec<SegmentImage> {
        let mut images = Vec::new();
        for disk in &mut self.disks {
            for number in 0..disk.segments.len() {
                if !std::mem::take(&mut disk.segments[number].dirty) {
                    continue;
                }
                let start = number * SEGMENT_WORDS;
                let end = (start + SEGMENT_WORDS).min(disk.allocated.len());
                let mut bits = disk.allocated[start..end].to_vec();
                bits.resize(SEGMENT_WORDS, 0);
                let lsn = disk.segments[number].lsn;
                images.push(SegmentImage { disk: disk.disk.no, segment: number as u32, lsn, bits });
            }
        }
        images
    }

    /// An image of this segment was not stored after all.
    ///
    /// # Panics
    /// If there is no such segment.
    pub fn mark_dirty(&mut self, disk: DiskNo, segment: u32) {
        let disk = self.disk_mut(disk).expect("a disk of the pool");
        disk.segments[segment as usize].dirty = true;
    }

    /// Chunks of a disk that nobody has; 0 for a disk that is not known.
    #[must_use]
    pub fn free_chunks(&self, disk: DiskNo) -> u32 {
        self.disk(disk).map_or(0, |disk| disk.taken.free())
    }

    /// Chunks of a disk that deltas allocated.
    #[must_use]
    pub fn allocated_chunks(&self, disk: DiskNo) -> u32 {
        self.disk(disk).map_or(0, |disk| disk.allocated_count)
    }

    /// True if chunks are free, or granted and not used yet: whoever has those may give them back.
    #[must_use]
    pub fn has_unused(&self) -> bool {
        self.disks.iter().any(|disk| disk.allocated_count + disk.reserve() < disk.disk.chunks)
    }

    /// Chunks of a disk that are kept back.
    #[must_use]
    pub fn reserve_chunks(&self, disk: DiskNo) -> u32 {
        self.disk(disk).map_or(0, DiskSpace::reserve)
    }

    /// Words of a disk's bitmap of what deltas allocated, 64 chunks each; none of a disk that is not known.
    #[must_use]
    pub fn allocated_words(&self, disk: DiskNo, words: std::ops::Range<usize>) -> &[u64] {
        self.disk(disk).map_or(&[], |disk| &disk.allocated[words])
    }

    /// True if deltas allocated the chunk.
    #[must_use]
    pub fn is_allocated(&self, addr: ChunkAddr) -> bool {
        self.disk(addr.disk)
            .is_some_and(|disk| addr.chunk < disk.disk.chunks && count_bits(&disk.allocated, addr.chunk, 1) == 1)
    }

    fn disk(&self, no: DiskNo) -> Option<&DiskSpace> {
        self.disks.iter().find(|disk| disk.disk.no == no)
    }

    fn disk_mut(&mut self, no: DiskNo) -> Option<&mut DiskSpace> {
        self.disks.iter_mut().find(|disk| disk.disk.no == no)
    }
}

impl DiskSpace {
    fn take_check_space(&mut self) {
        for zone in (0..self.disk.chunks).step_by(ZONE_CHUNKS as usize) {
            self.taken.set(zone, (CHUNKS_PER_EXTENT as u32).min(self.disk.chunks - zone), true);
        }
    }

    const fn reserve(&self) -> u32 {
        (self.disk.chunks - check_chunks(self.disk.chunks)) / RESERVE_DIVISOR
    }

    fn allocate(&mut self, wish: &Wish) -> Option<ChunkRun> {
        let kept = if wish.reserve { 0 } else { self.reserve() };
        let free = self.taken.free().saturating_sub(kept);
        let wanted = wish.chunks.min(free);
        let (start, count) = (wanted >= wish.chunks_min).then(|| self.find(wish, wanted))??;
        self.taken.set(start, count, true);
        self.cursor = start + count;
        Some(ChunkRun { start: ChunkAddr { disk: self.disk.no, chunk: start }, count })
    }

    /// The first run of `wanted` free chunks after the cursor, then from the start; else the longest seen.
    fn find(&self, wish: &Wish, wanted: u32) -> Option<(u32, u32)> {
        let group = CHUNKS_PER_EXTENT as u32;
        let (wanted, least) = if wish.extents {
            (wanted / group * group, wish.chunks_min.next_multiple_of(group))
        } else {
            (wanted, wish.chunks_min)
        };
        let mut best: Option<(u32, u32)> = None;
        let mut candidates = 0;
        for (from, to) in [(self.cursor, self.disk.chunks), (0, self.cursor)] {
            let mut at = from;
            loop {
                let next = if wish.extents { self.taken.next_free_extent(at) } else { self.taken.next_free(at) };
                let Some(start) = next.filter(|start| *start < to) else { break };
                let len = self.taken.free_len(start, wanted.max(1));
                let usable = if wish.extents { len / group * group } else { len };
                if usable >= wanted && usable >= least {
                    return Some((start, usable));
                }
                if usable >= least && best.is_none_or(|(_, longest)| longest < usable) {
                    best = Some((start, usable));
                }
                candidates += 1;
                if candidates >= CANDIDATES_MAX && best.is_some() {
                    return best;
                }
                at = start + len;
            }
        }
        best
    }

    /// Allocates or frees, segment by segment.
    fn mark(&mut self, start: u32, count: u32, lsn: Lsn, on: bool) {
        let end = start + count;
        let mut at = start;
        while at < end {
            let number = at / SEGMENT_CHUNKS;
            let part = (u64::from(number + 1) * u64::from(SEGMENT_CHUNKS)).min(u64::from(end)) as u32 - at;
            let segment = &mut self.segments[number as usize];
            if lsn > segment.loaded {
                segment.lsn = segment.lsn.max(lsn);
                segment.dirty = true;
                let changed = set_bits(&mut self.allocated, at, part, on);
                if on {
                    self.allocated_count += changed;
                    self.taken.set(at, part, true);
                } else {
                    self.allocated_count -= changed;
                }
            }
            at += part;
        }
    }
}

const fn one(start: ChunkAddr) -> ChunkRun {
    ChunkRun { start, count: 1 }
}
