//! An extent's record: where it lies, what each of its blocks is.

use crate::place::{CHUNKS_PER_EXTENT, ChunkAddr, ExtentId, ExtentIndex, LayerId};

/// What a 4 KiB block of an extent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// Nothing is known here: it reads from the extent's base, or zeros where there is none.
    Absent,
    /// Its bytes are in the extent's chunks.
    Data,
    /// It reads zeros, whatever the base has.
    Zero,
    /// It is data, and its CRC lies in its disk's check space ([`crate::layout::check`]).
    Sealed,
}

impl BlockState {
    /// True if its bytes are in the extent's chunks.
    #[must_use]
    pub const fn is_data(self) -> bool {
        matches!(self, Self::Data | Self::Sealed)
    }
}

/// Where an extent lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Home {
    /// Nowhere: no chunk yet.
    #[default]
    Nowhere,
    /// One run of 16 chunks.
    Run(ChunkAddr),
    /// Each chunk on its own, or not at all: those that are there, by slot. Most such extents have one or two.
    Scattered(Box<[(u8, ChunkAddr)]>),
}

impl Home {
    /// The chunk of `slot`.
    #[must_use]
    pub fn chunk(&self, slot: usize) -> Option<ChunkAddr> {
        match self {
            Self::Nowhere => None,
            Self::Run(start) => Some(ChunkAddr { disk: start.disk, chunk: start.chunk + slot as u32 }),
            Self::Scattered(chunks) => {
                chunks.iter().find(|(found, _)| usize::from(*found) == slot).map(|(_, addr)| *addr)
            }
        }
    }

    /// Puts `slot` at `addr` (or nowhere); 16 chunks in a row become a run, none at all nowhere.
    pub fn set(&mut self, slot: usize, addr: Option<ChunkAddr>) {
        let mut chunks: [Option<ChunkAddr>; CHUNKS_PER_EXTENT] = std::array::from_fn(|slot| self.chunk(slot));
        chunks[slot] = addr;
        *self = Self::from_chunks(chunks);
    }

    /// The home whose slots lie at `chunks`.
    #[must_use]
    pub fn from_chunks(chunks: [Option<ChunkAddr>; CHUNKS_PER_EXTENT]) -> Self {
        if chunks.iter().all(Option::is_none) {
            return Self::Nowhere;
        }
        if let Some(start) = chunks[0] {
            let follows = |(slot, chunk): (usize, &Option<ChunkAddr>)| {
                *chunk == Some(ChunkAddr { disk: start.disk, chunk: start.chunk.wrapping_add(slot as u32) })
            };
            if chunks.iter().enumerate().all(follows) {
                return Self::Run(start);
            }
        }
        Self::Scattered((0..).zip(chunks).filter_map(|(slot, addr)| Some((slot, addr?))).collect())
    }

    /// Its chunks, slot by slot.
    pub fn chunks(&self) -> impl Iterator<Item = (usize, ChunkAddr)> + '_ {
        (0..CHUNKS_PER_EXTENT).filter_map(|slot| self.chunk(slot).map(|addr| (slot, addr)))
    }
}

/// What the blocks of an extent are: two bits each, unless all are data or all are sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum States {
    /// All blocks are data: the state that most extents end in, so it takes no memory.
    AllData,
    /// All blocks are sealed: what becomes of most extents that nobody writes any more.
    AllSealed,
    /// Bit pairs: a bit set in `data` alone is data, in `zero` alone zero, in both sealed, in neither absent.
    /// `(blocks + 63) / 64` words each.
    Mixed {
        /// Which blocks are data or sealed.
        data: Box<[u64]>,
        /// Which blocks are zero or sealed; empty if none is, as in most.
        zero: Box<[u64]>,
    },
}

impl States {
    /// An extent of `blocks` blocks, all absent.
    #[must_use]
    pub fn absent(blocks: u32) -> Self {
        Self::Mixed { data: vec![0; blocks.div_ceil(64) as usize].into_boxed_slice(), zero: Box::default() }
    }

    /// Blocks as the bits of `data` and `zero` say, which have as many words.
    #[must_use]
    pub fn mixed(data: Box<[u64]>, zero: Box<[u64]>) -> Self {
        let none = zero.iter().all(|word| *word == 0);
        Self::Mixed { data, zero: if none { Box::default() } else { zero } }
    }

    /// The words of a mixed extent's data and zero bits.
    pub fn words(&self) -> impl Iterator<Item = u64> + '_ {
        let (data, zero) = match self {
            Self::AllData | Self::AllSealed => (&[][..], &[][..]),
            Self::Mixed { data, zero } => (&data[..], &zero[..]),
        };
        data.iter().copied().chain((0..data.len()).map(move |word| zero.get(word).copied().unwrap_or(0)))
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::AllData | Self::AllSealed => 0,
            Self::Mixed { data, zero } => (data.len() + zero.len()) * 8,
        }
    }

    /// What block `block` is.
    #[must_use]
    pub fn get(&self, block: u32) -> BlockState {
        match self {
            Self::AllData => BlockState::Data,
            Self::AllSealed => BlockState::Sealed,
            Self::Mixed { data, zero } => {
                let (word, bit) = ((block / 64) as usize, 1 << (block % 64));
                match (data[word] & bit != 0, zero.get(word).is_some_and(|zero| zero & bit != 0)) {
                    (false, false) => BlockState::Absent,
                    (true, false) => BlockState::Data,
                    (false, true) => BlockState::Zero,
                    (true, true) => BlockState::Sealed,
                }
            }
        }
    }

    /// Puts blocks `start..start + count` of an extent of `blocks` blocks in `state`; all data becomes
    /// [`States::AllData`], all sealed [`States::AllSealed`].
    pub fn set(&mut self, start: u32, count: u32, state: BlockState, blocks: u32) {
        assert!(start + count <= blocks, "blocks lie in their extent");
        let whole = match self {
            Self::AllData => Some(BlockState::Data),
            Self::AllSealed => Some(BlockState::Sealed),
            Self::Mixed { .. } => None,
        };
        if let Some(whole) = whole {
            if state == whole || count == 0 {
                return;
            }
            let mut data = vec![0_u64; blocks.div_ceil(64) as usize].into_boxed_slice();
            for block in 0..blocks {
                data[(block / 64) as usize] |= 1 << (block % 64);
            }
            let zero = if whole == BlockState::Sealed { data.clone() } else { Box::default() };
            *self = Self::Mixed { data, zero };
        }
        let Self::Mixed { data, zero } = self else { unreachable!("made so above") };
        if matches!(state, BlockState::Zero | BlockState::Sealed) && zero.is_empty() && count > 0 {
            *zero = vec![0_u64; data.len()].into_boxed_slice();
        }
        for block in start..start + count {
            let (word, bit) = ((block / 64) as usize, 1_u64 << (block % 64));
            data[word] &= !bit;
            if let Some(zero) = zero.get_mut(word) {
                *zero &= !bit;
            }
            match state {
                BlockState::Absent => {}
                BlockState::Data => data[word] |= bit,
                BlockState::Zero => zero[word] |= bit,
                BlockState::Sealed => {
                    data[word] |= bit;
                    zero[word] |= bit;
                }
            }
        }
        let count = |words: &[u64]| words.iter().map(|word| word.count_ones()).sum::<u32>();
        match (count(data) == blocks, count(zero)) {
            (true, 0) => *self = Self::AllData,
            (true, sealed) if sealed == blocks => *self = Self::AllSealed,
            (false, 0) => *zero = Box::default(),
            _ => {}
        }
    }

    /// True if no block is data.
    #[must_use]
    pub fn none_is_data(&self) -> bool {
        match self {
            Self::AllData | Self::AllSealed => false,
            Self::Mixed { data, .. } => data.iter().all(|word| *word == 0),
        }
    }

    /// True if none of the blocks `start..start + count` is data.
    #[must_use]
    pub fn none_is_data_in(&self, start: u32, count: u32) -> bool {
        (start..start + count).all(|block| !self.get(block).is_data())
    }

    /// True if blocks `start..start + count` are all data, sealed or not.
    #[must_use]
    pub fn all_data(&self, start: u32, count: u32) -> bool {
        matches!(self, Self::AllData | Self::AllSealed) || (start..start + count).all(|block| self.get(block).is_data())
    }

    /// True if one of the blocks `start..start + count` is sealed.
    #[must_use]
    pub fn any_sealed(&self, start: u32, count: u32) -> bool {
        match self {
            Self::AllData => false,
            Self::AllSealed => count > 0,
            Self::Mixed { zero, .. } => {
                !zero.is_empty() && (start..start + count).any(|block| self.get(block) == BlockState::Sealed)
            }
        }
    }

    /// True if blocks `start..start + count` are all in `state`.
    #[must_use]
    pub fn all(&self, start: u32, count: u32, state: BlockState) -> bool {
        match self {
            Self::AllData => state == BlockState::Data,
            Self::AllSealed => state == BlockState::Sealed,
            Self::Mixed { .. } => (start..start + count).all(|block| self.get(block) == state),
        }
    }
}

/// An extent as the extent table has it: what is the same for every layer that shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its id: index and generation.
    pub id: ExtentId,
    /// The layer that bore it; only that one writes it in place.
    pub birth: LayerId,
    /// Its place in the tree.
    pub index: ExtentIndex,
    /// What absent blocks read from.
    pub base: ExtentId,
    /// Where it lies.
    pub home: Home,
    /// What its blocks are.
    pub states: States,
}

/// A slot of a row of the extent table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowSlot {
    /// No extent; the last one here had this generation (0: there never was one).
    Empty(crate::place::Generation),
    /// This extent.
    Taken(Record),
}
