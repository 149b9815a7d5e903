//! An extent's record: where it lies, what each of its blocks is.

use crate::place::{CHUNKS_PER_EXTENT, ChunkAddr, ExtentId, ExtentIndex, LayerId};
use crate::space::masks;

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

/// Where an extent lies. 16 bytes, since a cache of the map has millions: all that is rare is behind a pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Home {
    /// Nowhere: no chunk yet.
    #[default]
    Nowhere,
    /// One run of 16 chunks.
    Run(ChunkAddr),
    /// One chunk alone, as small writes leave most extents: its slot and where it lies.
    One(u8, ChunkAddr),
    /// Several, each on its own.
    Scattered(Box<Slots>),
}

/// Chunks by slot, some of them or all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    /// A bit for each slot that has a chunk.
    mask: u16,
    /// Those chunks, slot by slot.
    addrs: Box<[ChunkAddr]>,
}

impl Home {
    /// The chunk of `slot`.
    #[must_use]
    pub fn chunk(&self, slot: usize) -> Option<ChunkAddr> {
        match self {
            Self::Nowhere => None,
            Self::Run(start) => Some(ChunkAddr { disk: start.disk, chunk: start.chunk + slot as u32 }),
            Self::One(only, addr) => (usize::from(*only) == slot).then_some(*addr),
            Self::Scattered(slots) => {
                let before = slots.mask & !(!0 << slot);
                (slots.mask & 1 << slot != 0).then(|| slots.addrs[before.count_ones() as usize])
            }
        }
    }

    /// A bit for each slot that has a chunk.
    #[must_use]
    pub const fn mask(&self) -> u16 {
        match self {
            Self::Nowhere => 0,
            Self::Run(_) => u16::MAX,
            Self::One(slot, _) => 1 << *slot,
            Self::Scattered(slots) => slots.mask,
        }
    }

    /// Puts `slot` at `addr` (or nowhere); 16 chunks in a row become a run, none at all nowhere.
    pub fn set(&mut self, slot: usize, addr: Option<ChunkAddr>) {
        if let (Self::Nowhere, Some(addr)) = (&*self, addr) {
            *self = Self::One(slot as u8, addr);
            return;
        }
        let mut chunks: [Option<ChunkAddr>; CHUNKS_PER_EXTENT] = std::array::from_fn(|slot| self.chunk(slot));
        chunks[slot] = addr;
        *self = Self::from_chunks(chunks);
    }

    /// The home whose slots lie at `chunks`.
    #[must_use]
    pub fn from_chunks(chunks: [Option<ChunkAddr>; CHUNKS_PER_EXTENT]) -> Self {
        let mut there = (0_u8..).zip(chunks).filter_map(|(slot, addr)| Some((slot, addr?)));
        let Some((slot, addr)) = there.next() else { return Self::Nowhere };
        if there.next().is_none() {
            return Self::One(slot, addr);
        }
        if let Some(start) = chunks[0] {
            let follows = |(slot, chunk): (usize, &Option<ChunkAddr>)| {
                *chunk == Some(ChunkAddr { disk: start.disk, chunk: start.chunk.wrapping_add(slot as u32) })
            };
            if chunks.iter().enumerate().all(follows) {
                return Self::Run(start);
            }
        }
        let mask = chunks.iter().enumerate().fold(0, |mask, (slot, addr)| mask | u16::from(addr.is_some()) << slot);
        Self::Scattered(Box::new(Slots { mask, addrs: chunks.into_iter().flatten().collect() }))
    }

    /// Its chunks, slot by slot.
    pub fn chunks(&self) -> impl Iterator<Item = (usize, ChunkAddr)> + '_ {
        (0..CHUNKS_PER_EXTENT).filter_map(|slot| self.chunk(slot).map(|addr| (slot, addr)))
    }

    /// Bytes on the heap, with what the allocator adds to each block.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::Nowhere | Self::Run(_) | Self::One(..) => 0,
            Self::Scattered(slots) => heap_block(size_of::<Slots>()) + heap_block(size_of_val(&*slots.addrs)),
        }
    }
}

/// What a block of so many bytes takes of the heap: glibc adds 8 bytes, in units of 16, 32 at least.
pub(crate) const fn heap_block(bytes: usize) -> usize {
    let block = (bytes + 8).next_multiple_of(16);
    if block < 32 { 32 } else { block }
}

/// What the blocks of an extent are: two bits each, unless all are data or all are sealed. 16 bytes, as [`Home`]. A bit
/// set in `data` alone is data, in `zero` alone zero, in both sealed, in neither absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum States {
    /// All blocks are data: the state that most extents end in.
    AllData,
    /// All blocks are sealed: what becomes of most extents that nobody writes any more.
    AllSealed,
    /// Only blocks of one half of a word are not absent, as small writes leave most extents; none at all is
    /// half 0.
    Few {
        /// Words that the blocks of the extent would take, 64 blocks each.
        words: u8,
        /// Which half of a word: blocks `32 * half` and on.
        half: u8,
        /// Which of them are data or sealed.
        data: u32,
        /// Which are zero or sealed.
        zero: u32,
    },
    /// Any.
    Mixed(Box<Planes>),
}

/// Two bits for each block, as [`States`] has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planes {
    data: Box<[u64]>,
    /// Empty if no bit is set.
    zero: Box<[u64]>,
}

impl States {
    /// An extent of `blocks` blocks, all absent.
    #[must_use]
    pub const fn absent(blocks: u32) -> Self {
        Self::Few { words: blocks.div_ceil(64) as u8, half: 0, data: 0, zero: 0 }
    }

    /// Blocks as the bits of `data` and `zero` say, which have as many words.
    #[must_use]
    pub fn mixed(data: Box<[u64]>, zero: Box<[u64]>) -> Self {
        let halves = |words: &[u64]| {
            words.iter().enumerate().fold(0_u128, |halves, (at, word)| {
                halves | u128::from(*word as u32 != 0) << (2 * at) | u128::from(word >> 32 != 0) << (2 * at + 1)
            })
        };
        let used = halves(&data) | halves(&zero);
        if used.count_ones() > 1 {
            let none = zero.iter().all(|word| *word == 0);
            return Self::Mixed(Box::new(Planes { data, zero: if none { Box::default() } else { zero } }));
        }
        let half = if used == 0 { 0 } else { used.trailing_zeros() };
        let bits = |words: &[u64]| words.get((half / 2) as usize).map_or(0, |word| (word >> (half % 2 * 32)) as u32);
        Self::Few { words: data.len() as u8, half: half as u8, data: bits(&data), zero: bits(&zero) }
    }

    /// Words of a plane, 64 blocks each; 0 if all blocks are data, or all sealed.
    #[must_use]
    pub fn words(&self) -> usize {
        match self {
            Self::AllData | Self::AllSealed => 0,
            Self::Few { words, .. } => usize::from(*words),
            Self::Mixed(planes) => planes.data.len(),
        }
    }

    /// The data and zero bits of blocks `64 * word` and on.
    #[must_use]
    pub fn word(&self, word: usize) -> (u64, u64) {
        match self {
            Self::AllData => (!0, 0),
            Self::AllSealed => (!0, !0),
            Self::Few { half, data, zero, .. } if usize::from(*half / 2) == word => {
                let shift = half % 2 * 32;
                (u64::from(*data) << shift, u64::from(*zero) << shift)
            }
            Self::Few { .. } => (0, 0),
            Self::Mixed(planes) => (planes.data[word], planes.zero.get(word).copied().unwrap_or(0)),
        }
    }

    /// The words of the data bits, then those of the zero bits; none if
    /// [`States::words`] is 0.
    pub fn bits(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.words()).map(|word| self.word(word).0).chain((0..self.words()).map(|word| self.word(word).1))
    }

    /// Bytes on the heap, with what the allocator adds to each block.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::AllData | Self::AllSealed | Self::Few { .. } => 0,
            Self::Mixed(planes) => {
                let zero = if planes.zero.is_empty() { 0 } else { heap_block(planes.zero.len() * 8) };
                heap_block(size_of::<Planes>()) + heap_block(planes.data.len() * 8) + zero
            }
        }
    }

    /// What block `block` is.
    #[must_use]
    pub fn get(&self, block: u32) -> BlockState {
        let ((data, zero), bit) = (self.word((block / 64) as usize), 1 << (block % 64));
        match (data & bit != 0, zero & bit != 0) {
            (false, false) => BlockState::Absent,
            (true, false) => BlockState::Data,
            (false, true) => BlockState::Zero,
            (true, true) => BlockState::Sealed,
        }
    }

    /// Puts blocks `start..start + count` of an extent of `blocks` blocks in `state`; all data becomes
    /// [`States::AllData`], all sealed [`States::AllSealed`].
    pub fn set(&mut self, start: u32, count: u32, state: BlockState, blocks: u32) {
        assert!(start + count <= blocks, "blocks lie in their extent");
        if count == 0 || self.all(start, count, state) {
            return;
        }
        // Of all data the words have bits beyond the last block.
        let (mut data, mut zero): (Vec<u64>, Vec<u64>) = masks(0, blocks)
            .map(|(word, valid)| {
                let (data, zero) = self.word(word);
                (data & valid, zero & valid)
            })
            .unzip();
        for (word, bits) in masks(start, count) {
            let on = |set: bool| if set { bits } else { 0 };
            data[word] = data[word] & !bits | on(state.is_data());
            zero[word] = zero[word] & !bits | on(matches!(state, BlockState::Zero | BlockState::Sealed));
        }
        let count = |words: &[u64]| words.iter().map(|word| word.count_ones()).sum::<u32>();
        *self = match (count(&data) == blocks, count(&zero)) {
            (true, 0) => Self::AllData,
            (true, sealed) if sealed == blocks => Self::AllSealed,
            _ => Self::mixed(data.into(), zero.into()),
        };
    }

    /// True if no block is data.
    #[must_use]
    pub fn none_is_data(&self) -> bool {
        match self {
            Self::AllData | Self::AllSealed => false,
            Self::Few { data, .. } => *data == 0,
            Self::Mixed(planes) => planes.data.iter().all(|word| *word == 0),
        }
    }

    /// True if none of the blocks `start..start + count` is data.
    #[must_use]
    pub fn none_is_data_in(&self, start: u32, count: u32) -> bool {
        masks(start, count).all(|(word, bits)| self.word(word).0 & bits == 0)
    }

    /// True if blocks `start..start + count` are all data, sealed or not.
    #[must_use]
    pub fn all_data(&self, start: u32, count: u32) -> bool {
        masks(start, count).all(|(word, bits)| self.word(word).0 & bits == bits)
    }

    /// True if one of the blocks `start..start + count` is sealed.
    #[must_use]
    pub fn any_sealed(&self, start: u32, count: u32) -> bool {
        masks(start, count).any(|(word, bits)| {
            let (data, zero) = self.word(word);
            data & zero & bits != 0
        })
    }

    /// True if each of the extent's `blocks` blocks is data or zero.
    #[must_use]
    pub fn none_is_absent(&self, blocks: u32) -> bool {
        match self {
            Self::AllData | Self::AllSealed => true,
            Self::Few { .. } | Self::Mixed(_) => masks(0, blocks).all(|(word, bits)| {
                let (data, zero) = self.word(word);
                (data | zero) & bits == bits
            }),
        }
    }

    /// True if some block is data and not sealed.
    #[must_use]
    pub fn any_unsealed(&self) -> bool {
        match self {
            Self::AllData => true,
            Self::AllSealed => false,
            Self::Few { .. } | Self::Mixed(_) => (0..self.words()).any(|word| {
                let (data, zero) = self.word(word);
                data & !zero != 0
            }),
        }
    }

    /// True if blocks `start..start + count` are all in `state`.
    #[must_use]
    pub fn all(&self, start: u32, count: u32, state: BlockState) -> bool {
        masks(start, count).all(|(word, bits)| {
            let (data, zero) = self.word(word);
            let of_state = match state {
                BlockState::Absent => !data & !zero,
                BlockState::Data => data & !zero,
                BlockState::Zero => zero & !data,
                BlockState::Sealed => data & zero,
            };
            of_state & bits == bits
        })
    }
}

/// The base of an extent whose absent blocks are those of the births before, whatever they are. No extent has this id:
/// generations begin with 1.
pub const BELOW: ExtentId = ExtentId(1);

/// An extent as the extent table has it: what is the same for every layer that shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its id: index and generation.
    pub id: ExtentId,
    /// The layer that bore it; only that one writes it in place.
    pub birth: LayerId,
    /// Its place in the tree.
    pub index: ExtentIndex,
    /// What absent blocks read from: a hole is nothing, [`BELOW`] what lies under the extent.
    pub base: ExtentId,
    /// Where it lies.
    pub home: Home,
    /// What its blocks are.
    pub states: States,
}

impl Record {
    /// True if nothing under it is seen through it: it inherits nothing, or has every one of `blocks` blocks.
    #[must_use]
    pub fn ends_chain(&self, blocks: u32) -> bool {
        self.base.is_hole() || self.states.none_is_absent(blocks)
    }
}

/// A slot of a row of the extent table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowSlot {
    /// No extent; the last one here had this generation (0: there never was one).
    Empty(crate::place::Generation),
    /// This extent.
    Taken(Record),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::memory::{home_of, lcg};
    use crate::place::DiskNo;

    const STATES: [BlockState; 4] = [BlockState::Absent, BlockState::Data, BlockState::Zero, BlockState::Sealed];

    #[test]
    fn a_record_of_a_small_write_has_nothing_on_the_heap() {
        assert_eq!((size_of::<Home>(), size_of::<States>()), (16, 16));
        let mut states = States::absent(256);
        states.set(100, 20, BlockState::Data, 256);
        states.set(110, 2, BlockState::Zero, 256);
        let mut home = Home::Nowhere;
        home.set(6, Some(ChunkAddr { disk: DiskNo(1), chunk: 9 }));
        assert_eq!((home.heap_bytes(), states.heap_bytes()), (0, 0));
        states.set(0, 1, BlockState::Data, 256);
        assert_eq!(states.heap_bytes(), heap_block(size_of::<Planes>()) + 2 * heap_block(32));
    }

    #[test]
    fn states_agree_with_a_state_for_each_block_whatever_form_they_take() {
        for seed in 0..40 {
            let mut draw = lcg(seed);
            let blocks = [64, 100, 256, 4096][draw(4) as usize];
            let mut states = States::absent(blocks);
            let mut plain = vec![BlockState::Absent; blocks as usize];
            for _ in 0..60 {
                let start = draw(u64::from(blocks)) as u32;
                let most = [8, u64::from(blocks)][draw(2) as usize].min(u64::from(blocks - start) + 1);
                let (start, count) = if draw(20) == 0 { (0, blocks) } else { (start, draw(most) as u32) };
                let state = STATES[draw(4) as usize];
                let range = start as usize..(start + count) as usize;
                assert_eq!(states.all(start, count, state), plain[range.clone()].iter().all(|is| *is == state));
                let no_data = plain[range.clone()].iter().all(|is| !is.is_data());
                assert_eq!(states.none_is_data_in(start, count), no_data, "seed {seed}");
                assert_eq!(states.all_data(start, count), plain[range.clone()].iter().all(|is| is.is_data()));
                assert_eq!(states.any_sealed(start, count), plain[range.clone()].contains(&BlockState::Sealed));
                states.set(start, count, state, blocks);
                plain[range].fill(state);
                assert!((0..blocks).all(|block| states.get(block) == plain[block as usize]), "seed {seed}");
                assert_eq!(states == States::AllData, plain.iter().all(|is| *is == BlockState::Data));
                assert_eq!(states.none_is_data(), plain.iter().all(|is| !is.is_data()));
                assert_eq!(states == States::AllSealed, plain.iter().all(|is| *is == BlockState::Sealed));
                if states.words() > 0 {
                    let words: Vec<u64> = states.bits().collect();
                    let (data, zero) = words.split_at(states.words());
                    assert_eq!(States::mixed(data.into(), zero.into()), states, "seed {seed}");
                }
            }
        }
    }

    #[test]
    fn a_home_agrees_with_an_address_for_each_slot() {
        for seed in 0..40 {
            let mut draw = lcg(seed);
            let mut home = home_of(&mut draw);
            for _ in 0..40 {
                let mut plain: [Option<ChunkAddr>; CHUNKS_PER_EXTENT] = std::array::from_fn(|slot| home.chunk(slot));
                let slot = draw(16) as usize;
                plain[slot] = (draw(3) == 0).then(|| ChunkAddr { disk: DiskNo(0), chunk: draw(99) as u32 });
                home.set(slot, plain[slot]);
                assert_eq!(std::array::from_fn(|slot| home.chunk(slot)), plain, "seed {seed}");
                assert_eq!(home.chunks().fold(0, |mask: u16, (slot, _)| mask | 1 << slot), home.mask(), "seed {seed}");
                assert_eq!(home, Home::from_chunks(plain), "seed {seed}");
            }
        }
    }
}
