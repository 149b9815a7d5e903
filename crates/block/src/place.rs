//! Newtypes for places and counts, so that an index, a count and a size never mix.

use core::fmt;

/// A logical block address: a place, counted in the device's logical blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lba(pub u64);

/// A number of logical blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LbaCount(pub u64);

/// A size or an offset in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// How often an extent id was handed out: a stale reference has an older one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u32);

/// Names an extent for as long as it lives: a dense index in the low 40 bits, the index's generation in the high 24.
///
/// Zero is no extent (a hole). Pages hold these ids, never disk addresses, so that moving an extent changes one record.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtentId(pub u64);

impl ExtentId {
    /// No extent: the page entry of a hole.
    pub const HOLE: Self = Self(0);
    /// Bits of the dense index; 2^40 extents of 256 KiB are 256 PiB.
    pub const INDEX_BITS: u32 = 40;
    /// Generations wrap after this many reuses of one index.
    pub const GENERATION_MAX: u32 = (1 << 24) - 1;

    /// The id of the extent at `index` in its `generation`.
    ///
    /// # Panics
    /// If either is out of range, or both are zero (that is [`ExtentId::HOLE`]).
    #[must_use]
    pub const fn new(index: u64, generation: Generation) -> Self {
        assert!(index < 1 << Self::INDEX_BITS && generation.0 <= Self::GENERATION_MAX);
        assert!(index != 0 || generation.0 != 0);
        Self(index | (generation.0 as u64) << Self::INDEX_BITS)
    }

    /// The dense index: where the extent's record lies.
    #[must_use]
    pub const fn index(self) -> u64 {
        self.0 & ((1 << Self::INDEX_BITS) - 1)
    }

    /// The generation of that index.
    #[must_use]
    pub const fn generation(self) -> Generation {
        Generation((self.0 >> Self::INDEX_BITS) as u32)
    }

    /// True for the page entry of a hole.
    #[must_use]
    pub const fn is_hole(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for ExtentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_hole() { f.write_str("hole") } else { write!(f, "x{}.{}", self.index(), self.generation().0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_id_packs_its_index_below_its_generation() {
        let id = ExtentId::new(0x12_3456_789a, Generation(0xabcdef));
        assert_eq!(id.0, 0xabcd_ef12_3456_789a);
        assert_eq!((id.index(), id.generation()), (0x12_3456_789a, Generation(0xabcdef)));
        assert!(ExtentId::HOLE.is_hole() && !id.is_hole());
    }
}
