//! The extents of a page in memory, by the index of their id.
//!
//! A sorted vector: a page has about 512 extents, and ids are granted to it 64 in a row, so a new one mostly goes to
//! the end. A hash map of as many has 1,024 buckets, of which half are empty.

use std::ops::Range;

use crate::page::Seal;
use crate::place::{Lsn, RECORDS_PER_ROW};
use crate::record::{BlockState, Home, Record, heap_block};

/// An extent's record with what only memory knows of it.
#[derive(Clone, Debug)]
pub struct Extent {
    /// The record.
    pub record: Record,
    /// The last group that changed it.
    pub lsn: Lsn,
    /// Reads since the last heat sample; saturating.
    pub reads: u32,
    /// Writes since the last heat sample; saturating.
    pub writes: u32,
    /// Slots whose [`crate::delta::Delta::Chunks`] was pushed, a bit each.
    pub chunks_pushed: u16,
    /// Its [`crate::delta::Delta::Extent`] was pushed.
    pub pushed: bool,
    /// Rounds of the sealer since it was written last, or [`Extent::NEVER_SEALED`].
    pub rounds: u8,
}

impl Extent {
    /// A write of it failed: what a disk shows there need not be what it keeps, so it is not sealed in this opening.
    pub const NEVER_SEALED: u8 = u8::MAX;

    /// An extent as a checkpoint has it.
    #[must_use]
    pub const fn stored(record: Record, lsn: Lsn) -> Self {
        Self { chunks_pushed: record.home.mask(), record, lsn, reads: 0, writes: 0, pushed: true, rounds: 0 }
    }

    /// The sealer's rounds begin again.
    pub const fn written(&mut self) {
        if self.rounds != Self::NEVER_SEALED {
            self.rounds = 0;
        }
    }

    /// Another round of the sealer; how many there were.
    pub const fn age(&mut self) -> u8 {
        if self.rounds < Self::NEVER_SEALED - 1 {
            self.rounds += 1;
        }
        self.rounds
    }

    /// What verifies a piece that begins in `block`; `None` if that is not sealed.
    #[must_use]
    pub fn seal(&self, block: u32) -> Option<Seal> {
        let sealed = self.record.states.get(block) == BlockState::Sealed;
        sealed.then_some(Seal { id: self.record.id, block, lsn: self.lsn })
    }

    /// The record with pushed chunks only.
    #[must_use]
    pub fn pushed_record(&self) -> Record {
        let mut record = self.record.clone();
        if self.record.home.mask() != self.chunks_pushed {
            record.home = Home::from_chunks(std::array::from_fn(|slot| {
                (self.chunks_pushed & 1 << slot != 0).then(|| self.record.home.chunk(slot)).flatten()
            }));
        }
        record
    }
}

/// The extents of a page.
#[derive(Debug, Default)]
pub struct Extents(Vec<Extent>);

impl Extents {
    fn find(&self, index: u64) -> Result<usize, usize> {
        match self.0.last() {
            Some(last) if last.record.id.index() >= index => {
                self.0.binary_search_by_key(&index, |extent| extent.record.id.index())
            }
            _ => Err(self.0.len()),
        }
    }

    /// The extent whose id has this index.
    #[must_use]
    pub fn get(&self, index: u64) -> Option<&Extent> {
        self.find(index).ok().map(|at| &self.0[at])
    }

    /// As [`Extents::get`], to change it; not its id.
    pub fn get_mut(&mut self, index: u64) -> Option<&mut Extent> {
        self.find(index).ok().map(|at| &mut self.0[at])
    }

    /// Those whose id has an index in `indexes`, in order.
    #[must_use]
    pub fn range(&self, indexes: Range<u64>) -> &[Extent] {
        let at = |index| self.find(index).unwrap_or_else(|at| at);
        &self.0[at(indexes.start)..at(indexes.end)]
    }

    /// All of them, in order of index.
    pub fn iter(&self) -> impl Iterator<Item = &Extent> {
        self.0.iter()
    }

    /// As [`Extents::iter`], to change them; not their ids.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Extent> {
        self.0.iter_mut()
    }

    /// Makes room for so many more, and for no others.
    pub fn reserve(&mut self, more: usize) {
        self.0.reserve_exact(more);
    }

    /// Adds an extent, or puts it in the place of the one with the same index.
    pub fn insert(&mut self, extent: Extent) {
        match self.find(extent.record.id.index()) {
            Ok(at) => self.0[at] = extent,
            Err(at) => {
                if self.0.len() == self.0.capacity() {
                    // Doubling would leave a full page half empty.
                    self.0.reserve_exact(RECORDS_PER_ROW as usize);
                }
                self.0.insert(at, extent);
            }
        }
    }

    /// Takes the extent with this index out.
    pub fn remove(&mut self, index: u64) -> Option<Extent> {
        self.find(index).ok().map(|at| self.0.remove(at))
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let of = |extent: &Extent| extent.record.home.heap_bytes() + extent.record.states.heap_bytes();
        heap_block(self.0.capacity() * size_of::<Extent>()) + self.iter().map(of).sum::<usize>()
    }
}
