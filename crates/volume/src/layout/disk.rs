//! Where the regions of a disk lie.
//!
//! Layout: label A at 0, label B at 512 KiB, from 1 MiB on two catalog slots, the journal (if the disk is a member),
//! the owner table, and the data area, which starts at a multiple of the extent. The label has all offsets, so a later
//! version may plan otherwise.
//!
//! Considerations: small disks are for trying things out and for tests, so what is fixed on a large disk shrinks with a
//! small one: a disk of 64 MiB keeps 56 MiB for data.

use super::check::CRC_BYTES;
use super::codec::{DecodeError, Reader, Writer};
use super::owner::{OWNER_BLOCK_BYTES, OwnerGeometry};
use crate::place::{BLOCK_BYTES, CHUNKS_PER_EXTENT, ZONE_CHUNKS, check_chunks};

/// Where the first label lies.
pub const LABEL_A_OFFSET: u64 = 0;
/// Where the second label lies: no torn or misdirected write of a transfer takes both.
pub const LABEL_B_OFFSET: u64 = 512 << 10;
/// Bytes of a label.
pub const LABEL_BYTES: u64 = 4096;
/// The journal's size on each of its disks, unless the disk is small.
pub const DEFAULT_JOURNAL_BYTES: u64 = 128 << 20;
/// A smaller journal would be full all the time.
const JOURNAL_SCALED_BYTES_MIN: u64 = 1 << 20;
/// The journal takes at most this part of a disk.
const JOURNAL_DIVISOR: u64 = 16;
/// A catalog slot: about 100,000 layers, or as many documents of 40 bytes.
const CATALOG_SLOT_BYTES_MAX: u64 = 4 << 20;
const CATALOG_SLOT_BYTES_MIN: u64 = 256 << 10;
/// A catalog slot takes at most this part of a disk.
const CATALOG_DIVISOR: u64 = 64;
const REGIONS_OFFSET: u64 = 1 << 20;
const REGION_ALIGNMENT_BYTES: u64 = 64 << 10;
/// A disk with fewer extents than this is not worth its labels: four of data, and the run of checks.
const EXTENTS_MIN: u64 = 5;

/// The disk can't hold the regions and any data to speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall {
    /// The size that would do.
    pub needs_bytes: u64,
}

impl std::fmt::Display for TooSmall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the disk is too small: {} bytes are needed", self.needs_bytes)
    }
}

impl std::error::Error for TooSmall {}

/// Where the regions of a disk lie; all in bytes from its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskLayout {
    /// Bytes of an extent.
    pub extent_bytes: u64,
    /// The first catalog slot; the second follows it.
    pub catalog_offset: u64,
    /// Bytes of each slot.
    pub catalog_slot_bytes: u64,
    /// The journal's region.
    pub journal_offset: u64,
    /// Its size; 0: the disk has none.
    pub journal_bytes: u64,
    /// The owner table.
    pub owner_offset: u64,
    /// Its size.
    pub owner_bytes: u64,
    /// The data area: where chunk 0 begins.
    pub data_offset: u64,
    /// How many chunks it has, check space included: a multiple of 16.
    pub chunks: u32,
}

/// True for a size that extents may have: a power of two from 256 KiB to 16 MiB.
#[must_use]
pub const fn is_extent_size(bytes: u64) -> bool {
    bytes.is_power_of_two() && bytes >= 256 << 10 && bytes <= 16 << 20
}

impl DiskLayout {
    /// Plans a disk of `disk_bytes`. The journal gets `journal_bytes`, or a sixteenth of the disk if that is less (but
    /// 1 MiB); 0 is no journal.
    ///
    /// # Errors
    /// If it has no room for four extents of data.
    ///
    /// # Panics
    /// If extents can't have this size ([`is_extent_size`]).
    pub fn plan(disk_bytes: u64, extent_bytes: u64, journal_bytes: u64) -> Result<Self, TooSmall> {
        assert!(is_extent_size(extent_bytes), "extents of {extent_bytes} bytes");
        Self::try_plan(disk_bytes, extent_bytes, journal_bytes).ok_or_else(|| {
            let step = extent_bytes.max(1 << 20);
            let mut needs_bytes = step;
            while Self::try_plan(needs_bytes, extent_bytes, journal_bytes).is_none() {
                needs_bytes += step;
            }
            TooSmall { needs_bytes }
        })
    }

    fn try_plan(disk_bytes: u64, extent_bytes: u64, journal_bytes: u64) -> Option<Self> {
        let align = |bytes: u64| bytes / REGION_ALIGNMENT_BYTES * REGION_ALIGNMENT_BYTES;
        let part = |divisor: u64| align(disk_bytes / divisor);
        let catalog_slot_bytes = part(CATALOG_DIVISOR).clamp(CATALOG_SLOT_BYTES_MIN, CATALOG_SLOT_BYTES_MAX);
        let journal_offset = REGIONS_OFFSET + 2 * catalog_slot_bytes;
        let journal_bytes = align(journal_bytes.min(part(JOURNAL_DIVISOR).max(JOURNAL_SCALED_BYTES_MIN)));
        let owner_offset = journal_offset + journal_bytes;
        let chunk_bytes = extent_bytes / CHUNKS_PER_EXTENT as u64;
        let geometry = OwnerGeometry::new(extent_bytes);
        // The owner table for as many chunks as there would be without it: some entries too many at the most.
        let chunks_max = (disk_bytes.checked_sub(owner_offset)? / chunk_bytes).min(u64::from(u32::MAX));
        let owner_bytes = geometry.blocks(chunks_max as u32) * 2 * OWNER_BLOCK_BYTES;
        let data_offset = (owner_offset + owner_bytes).next_multiple_of(extent_bytes);
        let extents =
            (disk_bytes.checked_sub(data_offset)? / extent_bytes).min(u64::from(u32::MAX) / CHUNKS_PER_EXTENT as u64);
        (extents >= EXTENTS_MIN).then(|| Self {
            extent_bytes,
            catalog_offset: REGIONS_OFFSET,
            catalog_slot_bytes,
            journal_offset,
            journal_bytes,
            owner_offset,
            owner_bytes,
            data_offset,
            chunks: extents as u32 * CHUNKS_PER_EXTENT as u32,
        })
    }

    /// Bytes of a chunk.
    #[must_use]
    pub const fn chunk_bytes(&self) -> u64 {
        self.extent_bytes / CHUNKS_PER_EXTENT as u64
    }

    /// The disk's byte where a chunk begins.
    #[must_use]
    pub const fn chunk_offset(&self, chunk: u32) -> u64 {
        self.data_offset + chunk as u64 * self.chunk_bytes()
    }

    /// Chunks that data may have: all but the check space.
    #[must_use]
    pub const fn data_chunks(&self) -> u32 {
        self.chunks - check_chunks(self.chunks)
    }

    /// The disk's byte where the CRC of block `block` of a chunk lies, if that block is sealed.
    #[must_use]
    pub const fn check_offset(&self, chunk: u32, block: u32) -> u64 {
        let blocks_per_chunk = self.chunk_bytes() / BLOCK_BYTES;
        let in_zone = (chunk % ZONE_CHUNKS) as u64 * blocks_per_chunk + block as u64;
        self.chunk_offset(chunk / ZONE_CHUNKS * ZONE_CHUNKS) + in_zone * CRC_BYTES
    }

    /// Where the data area ends: the disk has at least this many bytes.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.chunk_offset(self.chunks)
    }

    /// Where a catalog slot begins; there are two.
    #[must_use]
    pub const fn catalog_slot_offset(&self, slot: u64) -> u64 {
        self.catalog_offset + slot * self.catalog_slot_bytes
    }

    pub(super) fn put(&self, out: &mut Writer) {
        out.u64(self.extent_bytes);
        out.u64(self.catalog_offset);
        out.u64(self.catalog_slot_bytes);
        out.u64(self.journal_offset);
        out.u64(self.journal_bytes);
        out.u64(self.owner_offset);
        out.u64(self.owner_bytes);
        out.u64(self.data_offset);
        out.u32(self.chunks);
    }

    /// Reads it; the regions lie one after the other, or the field that says otherwise is named.
    pub(super) fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let extent_bytes = reader.u64("extent bytes")?;
        if !is_extent_size(extent_bytes) {
            return Err(reader.value("extent bytes", extent_bytes));
        }
        // No sum below overflows: a region starts and ends below 2^62, and chunks take less than 2^53 bytes.
        let region = |reader: &mut Reader<'_>, field, from: u64| {
            let value = reader.u64(field)?;
            let fits = value >= from && value < 1 << 61 && value % OWNER_BLOCK_BYTES == 0;
            if fits { Ok(value) } else { Err(reader.value(field, value)) }
        };
        let catalog_offset = region(reader, "catalog offset", LABEL_B_OFFSET + LABEL_BYTES)?;
        let catalog_slot_bytes = region(reader, "catalog slot bytes", OWNER_BLOCK_BYTES)?;
        if catalog_slot_bytes > 1 << 40 {
            return Err(reader.value("catalog slot bytes", catalog_slot_bytes));
        }
        let journal_offset = region(reader, "journal offset", catalog_offset + 2 * catalog_slot_bytes)?;
        let journal_bytes = region(reader, "journal bytes", 0)?;
        let owner_offset = region(reader, "owner table offset", journal_offset + journal_bytes)?;
        let owner_bytes = region(reader, "owner table bytes", 2 * OWNER_BLOCK_BYTES)?;
        let data_offset = region(reader, "data offset", owner_offset + owner_bytes)?;
        let chunks = reader.u32("chunks")?;
        let enough = OwnerGeometry::new(extent_bytes).blocks(chunks) * 2 * OWNER_BLOCK_BYTES <= owner_bytes;
        if chunks == 0 || chunks % CHUNKS_PER_EXTENT as u32 != 0 || !enough {
            return Err(reader.value("chunks", u64::from(chunks)));
        }
        Ok(Self {
            extent_bytes,
            catalog_offset,
            catalog_slot_bytes,
            journal_offset,
            journal_bytes,
            owner_offset,
            owner_bytes,
            data_offset,
            chunks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_small_disk_keeps_most_of_itself_for_data() {
        let layout = DiskLayout::plan(64 << 20, 1 << 20, DEFAULT_JOURNAL_BYTES).expect("room");
        let expected = DiskLayout {
            extent_bytes: 1 << 20,
            catalog_offset: 1 << 20,
            catalog_slot_bytes: 1 << 20,
            journal_offset: 3 << 20,
            journal_bytes: 4 << 20,
            owner_offset: 7 << 20,
            owner_bytes: 15 * 8192,
            data_offset: 8 << 20,
            chunks: 56 * 16,
        };
        assert_eq!(layout, expected);
        assert_eq!((layout.chunk_offset(17), layout.end()), ((9 << 20) + (64 << 10), 64 << 20));
    }

    #[test]
    fn a_large_disk_has_the_full_regions() {
        let layout = DiskLayout::plan(16 << 40, 4 << 20, DEFAULT_JOURNAL_BYTES).expect("room");
        assert_eq!((layout.catalog_slot_bytes, layout.journal_bytes), (4 << 20, 128 << 20));
        assert!(layout.owner_bytes < (16 << 40) / 1900, "half a per mille: {}", layout.owner_bytes);
        let none = DiskLayout::plan(16 << 40, 4 << 20, 0).expect("room");
        assert_eq!((none.journal_bytes, none.owner_offset), (0, none.journal_offset));
    }

    #[test]
    fn too_small_says_what_would_do() {
        for extent_bytes in [256 << 10, 1 << 20, 16 << 20] {
            let too_small = DiskLayout::plan(1000, extent_bytes, DEFAULT_JOURNAL_BYTES).expect_err("1000 bytes");
            assert!(DiskLayout::plan(too_small.needs_bytes, extent_bytes, DEFAULT_JOURNAL_BYTES).is_ok());
            assert!(too_small.needs_bytes <= 6 * extent_bytes + (8 << 20), "{too_small}");
        }
    }

    #[test]
    fn the_crcs_of_a_zone_fill_its_first_run() {
        for extent_bytes in [256 << 10, 1 << 20, 16 << 20] {
            let layout = DiskLayout { extent_bytes, chunks: 40_000 * 16, ..one_of_64_mib() };
            let blocks = (extent_bytes / 16 / 4096) as u32;
            let start = layout.chunk_offset(ZONE_CHUNKS);
            assert_eq!(layout.check_offset(ZONE_CHUNKS, 0), start);
            assert_eq!(layout.check_offset(ZONE_CHUNKS + 16, 1), start + extent_bytes / 1024 + 4);
            assert_eq!(layout.check_offset(2 * ZONE_CHUNKS - 1, blocks - 1) + 4, start + extent_bytes);
            assert_eq!(layout.data_chunks(), 40_000 * 16 - 40 * 16);
        }
    }

    fn one_of_64_mib() -> DiskLayout {
        DiskLayout::plan(64 << 20, 1 << 20, DEFAULT_JOURNAL_BYTES).expect("room")
    }

    proptest! {
        #[test]
        fn any_plan_is_one_that_a_label_may_have(mib in 1_u64..100_000_000, shift in 0_u32..7, journal: bool) {
            let journal_bytes = if journal { DEFAULT_JOURNAL_BYTES } else { 0 };
            if let Ok(layout) = DiskLayout::plan(mib << 20, (256 << 10) << shift, journal_bytes) {
                let mut out = Writer::default();
                layout.put(&mut out);
                prop_assert_eq!(DiskLayout::get(&mut Reader::new("", &out.0)), Ok(layout.clone()));
                prop_assert!(layout.end() <= mib << 20 && layout.data_offset % layout.extent_bytes == 0);
            }
        }
    }
}
