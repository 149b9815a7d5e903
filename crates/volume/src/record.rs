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

/// What the blocks of an extent are: two bits each, unless all are data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum States {
    /// All blocks are data: the state that most extents end in, so it takes no memory.
    AllData,
    /// Bit pairs: a bit set in `data` is data, one set in `zero` is zero, neither is absent. `(blocks + 63) / 64` words
    /// each.
    Mixed {
        /// Which blocks are data.
        data: Box<[u64]>,
        /// Which blocks are zero; empty if none is, as in most.
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
            Self::AllData => (&[][..], &[][..]),
            Self::Mixed { data, zero } => (&data[..], &zero[..]),
        };
        data.iter().copied().chain((0..data.len()).map(move |word| zero.get(word).copied().unwrap_or(0)))
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::AllData => 0,
            Self::Mixed { data, zero } => (data.len() + zero.len()) * 8,
        }
    }

    /// What block `block` is.
    #[must_use]
    pub fn get(&self, block: u32) -> BlockState {
        match self {
            Self::AllData => BlockState::Data,
            Self::Mixed { data, zero } => {
                let (word, bit) = ((block / 64) as usize, 1 << (block % 64));
                if data[word] & bit != 0 {
                    BlockState::Data
                } else if zero.get(word).is_some_and(|zero| zero & bit != 0) {
                    BlockState::Zero
                } else {
                    BlockState::Absent
                }
            }
        }
    }

    /// Puts blocks `start..start + count` of an extent of `blocks` blocks in `state`; all data becomes
    /// [`States::AllData`].
    pub fn set(&mut self, start: u32, count: u32, state: BlockState, blocks: u32) {
        assert!(start + count <= blocks, "blocks lie in their extent");
        if matches!(self, Self::AllData) {
            if state == BlockState::Data || count == 0 {
                return;
            }
            let mut data = vec![0_u64; blocks.div_ceil(64) as usize].into_boxed_slice();
            for block in 0..blocks {
                data[(block / 64) as usize] |= 1 << (block % 64);
            }
            *self = Self::Mixed { data, zero: Box::default() };
        }
        let Self::Mixed { data, zero } = self else { unreachable!("made so above") };
        if state == BlockState::Zero && zero.is_empty() && count > 0 {
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
            }
        }
        if data.iter().map(|word| word.count_ones()).sum::<u32>() == blocks {
            *self = Self::AllData;
        } else if zero.iter().all(|word| *word == 0) {
            *zero = Box::default();
        }
    }

    /// True if no block is data.
    #[must_use]
    pub fn none_is_data(&self) -> bool {
        match self {
            Self::AllData => false,
            Self::Mixed { data, .. } => data.iter().all(|word| *word == 0),
        }
    }

    /// True if none of the blocks `start..start + count` is data.
    #[must_use]
    pub fn none_is_data_in(&self, start: u32, count: u32) -> bool {
        (start..start + count).all(|block| self.get(block) != BlockState::Data)
    }

    /// True if blocks `start..start + count` are all in `state`.
    #[must_use]
    pub fn all(&self, start: u32, count: u32, state: BlockState) -> bool {
        (matches!(self, Self::AllData) && state == BlockState::Data)
            || (start..start + count).all(|block| self.get(block) == state)
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
