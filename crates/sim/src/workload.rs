//! What hosts ask: operations drawn by the seed's weights.

use smallvec::{SmallVec, smallvec};

use crate::knobs::Knobs;
use crate::oracle::Sectors;
use crate::payload::SECTOR_BYTES;
use crate::random::Random;

const BLOCK_SECTORS: u64 = 8;
const TRANSFER_SECTORS_MAX: u64 = (1 << 20) / SECTOR_BYTES as u64;
/// A part of a large volume that is in use: 4 MiB.
const WINDOW_SECTORS: u64 = (4 << 20) / SECTOR_BYTES as u64;
/// A page of the map with extents of 256 KiB: 128 MiB.
const PAGE_SECTORS: u64 = (128 << 20) / SECTOR_BYTES as u64;
const HOT_SECTORS: u64 = (1 << 20) / SECTOR_BYTES as u64;
/// Ranges of one discard: NVMe allows 256; a few show the same.
const DISCARD_RANGES_MAX: u64 = 4;

/// What is asked; the order is that of [`crate::knobs::Weights::operations`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Write with FUA.
    WriteFua,
    /// Flush.
    Flush,
    /// Discard.
    Discard,
    /// Write zeroes.
    Zeroes,
    /// Compare.
    Compare,
    /// Compare and write.
    CompareAndWrite,
    /// Create or delete a volume.
    Volume,
    /// Grow a volume.
    Grow,
    /// Put or remove a document.
    Document,
    /// Add a disk to the pool.
    AddDisk,
}

/// All kinds, in the order of their weights.
pub const KINDS: [Kind; 12] = [
    Kind::Read,
    Kind::Write,
    Kind::WriteFua,
    Kind::Flush,
    Kind::Discard,
    Kind::Zeroes,
    Kind::Compare,
    Kind::CompareAndWrite,
    Kind::Volume,
    Kind::Grow,
    Kind::Document,
    Kind::AddDisk,
];

/// What hosts are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Whatever the seed's weights say.
    Usual,
    /// The pool refused a write a moment ago: they give space back.
    Full,
    /// They write and discard and do not flush: what is freed may be another's before that is durable.
    Churn,
}

/// Draws the next kind.
pub fn kind(random: &mut Random, knobs: &Knobs, mood: Mood) -> Kind {
    match mood {
        Mood::Full if random.chance(500) => random.pick(&[Kind::Discard, Kind::Discard, Kind::Zeroes, Kind::Volume]),
        Mood::Churn => random.pick(&[Kind::Write, Kind::Write, Kind::Write, Kind::Discard, Kind::Discard, Kind::Read]),
        Mood::Usual | Mood::Full => KINDS[random.weighted(&knobs.weights.operations)],
    }
}

fn size(random: &mut Random, knobs: &Knobs, volume_sectors: u64) -> u64 {
    let kib = |random: &mut Random, kib: u64| random.between(1, kib * 2);
    let sectors = match random.weighted(&knobs.weights.sizes) {
        0 => random.between(1, BLOCK_SECTORS),
        1 => BLOCK_SECTORS,
        2 => kib(random, 64),
        3 => kib(random, 256),
        _ => kib(random, 1024),
    };
    sectors.min(TRANSFER_SECTORS_MAX).min(volume_sectors)
}

// A part of the volume that is in use: all of a small one; of a large one mostly its start, its end and the boundary of
// two pages of the map, so that requests meet.
fn window(random: &mut Random, volume_sectors: u64, hot: bool) -> Sectors {
    if hot {
        return (0, volume_sectors.min(HOT_SECTORS));
    }
    if volume_sectors < 2 * WINDOW_SECTORS + PAGE_SECTORS || random.chance(50) {
        return (0, volume_sectors);
    }
    let start = [0, PAGE_SECTORS - WINDOW_SECTORS / 2, volume_sectors - WINDOW_SECTORS][random.index(3)];
    (start, WINDOW_SECTORS)
}

/// Draws a range of a volume of `volume_sectors` sectors whose logical block has `block_sectors`.
pub fn range(random: &mut Random, knobs: &Knobs, volume_sectors: u64, block_sectors: u64, hot: bool) -> Sectors {
    let count = size(random, knobs, volume_sectors);
    let (start, space) = window(random, volume_sectors, hot);
    let count = count.min(space);
    let first = start + random.below(space - count + 1);
    // Two thirds are aligned to 4 KiB, as file systems do; the others to the logical block alone.
    let unit = if random.index(3) < 2 { BLOCK_SECTORS } else { block_sectors };
    let first = first / unit * unit;
    let count = count.div_ceil(unit) * unit;
    let end = (first + count).min(volume_sectors / block_sectors * block_sectors);
    (first, end - first)
}

/// Draws the ranges of a discard: mostly one, of any size up to the whole volume.
pub fn discard(
    random: &mut Random,
    knobs: &Knobs,
    volume_sectors: u64,
    block_sectors: u64,
    mood: Mood,
) -> SmallVec<[Sectors; 1]> {
    if random.chance(if mood == Mood::Usual { 50 } else { 300 }) {
        let first = random.below(volume_sectors) / block_sectors * block_sectors;
        return smallvec![(first, (volume_sectors - first) / block_sectors * block_sectors)];
    }
    let ranges = if random.chance(700) { 1 } else { random.between(1, DISCARD_RANGES_MAX) };
    let mut drawn: SmallVec<[Sectors; 1]> = SmallVec::new();
    for _ in 0..ranges {
        let (first, count) = range(random, knobs, volume_sectors, block_sectors, false);
        // The oracle has one change per range and sector: ranges that overlap would be two.
        if drawn.iter().all(|(other, others)| first + count <= *other || other + others <= first) {
            drawn.push((first, count));
        }
    }
    drawn
}
