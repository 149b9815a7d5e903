//! Places and counts of the map and of disks.

use std::fmt;

pub use sds_block::{ExtentId, Generation};

/// The unit of block states: what is absent, data or zero is so per 4 KiB.
pub const BLOCK_BYTES: u64 = 4096;
/// A chunk, the unit of disk space, is this part of an extent.
pub const CHUNKS_PER_EXTENT: usize = 16;
/// A disk's chunks are divided in zones of so many. The first [`CHUNKS_PER_EXTENT`] of each are nobody's: they hold the
/// CRCs of the zone's sealed blocks, 4 bytes each.
pub const ZONE_CHUNKS: u32 = 1024 * CHUNKS_PER_EXTENT as u32;
/// Extents whose ids lie in one page of the map.
pub const EXTENTS_PER_PAGE: u64 = 512;
/// Records packed in one row of the extent table; ids are granted to a page in rows.
pub const RECORDS_PER_ROW: u64 = 64;

/// The order of changes: each group of deltas that took effect together has the next number. 0 is before all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// A tree of layers: a volume, its snapshots and all their clones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeId(pub u32);

/// A layer: a volume's live state or a snapshot. 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(pub u32);

/// A disk's number within its pool: never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskNo(pub u16);

/// An extent's place in its volume: byte offset / extent size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtentIndex(pub u64);

impl ExtentIndex {
    /// The page that names it.
    #[must_use]
    pub const fn page(self) -> PageNo {
        PageNo(self.0 / EXTENTS_PER_PAGE)
    }

    /// Its entry in that page.
    #[must_use]
    pub const fn slot(self) -> usize {
        (self.0 % EXTENTS_PER_PAGE) as usize
    }
}

/// A page of the map within its tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNo(pub u64);

/// A page of the map: what a shard owns and what is loaded, locked and checkpointed as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageKey {
    /// The tree of layers.
    pub tree: TreeId,
    /// The page in it.
    pub page: PageNo,
}

/// A 4 KiB block of an extent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockNo(pub u32);

/// Where a chunk lies: a disk of the pool and the chunk's number in the disk's data area.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkAddr {
    /// The disk.
    pub disk: DiskNo,
    /// The chunk's number on it: byte offset in the data area / chunk size.
    pub chunk: u32,
}

impl fmt::Debug for ChunkAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d{}:{}", self.disk.0, self.chunk)
    }
}

/// True for a chunk of check space, on any disk.
#[must_use]
pub const fn is_check_chunk(chunk: u32) -> bool {
    chunk % ZONE_CHUNKS < CHUNKS_PER_EXTENT as u32
}

/// How many of a disk's first `chunks` chunks, a multiple of 16, are check space.
#[must_use]
pub const fn check_chunks(chunks: u32) -> u32 {
    chunks.div_ceil(ZONE_CHUNKS) * CHUNKS_PER_EXTENT as u32
}

/// A run of chunks on one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRun {
    /// The first chunk.
    pub start: ChunkAddr,
    /// How many.
    pub count: u32,
}
