//! A page of the map in memory: the records of its extents, and which of them are at each index.
//!
//! All layers of a tree share its pages. Everything about an extent is in its record: the page and the rows of the
//! extent table that were granted to it are loaded, changed and checkpointed together, on one core. Which extents a
//! layer has at an index follows from who bore them ([`crate::forest`]); so that is kept in memory alone.
//!
//! Live requests and replay change a page by the same method, [`PageState::apply`]. A live write also makes *tentative*
//! changes before its data is written (an id, chunk addresses): they are in memory only, no reader sees a block of
//! theirs, nothing is looked for under them, and [`PageState::row`] leaves them out of every checkpoint until the delta
//! that makes them real was pushed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use crate::delta::Delta;
use crate::extents::{Extent, Extents};
use crate::forest::{Needs, Placed, View, free};
use crate::lock::RangeLocks;
use crate::place::{
    BLOCK_BYTES, CHUNKS_PER_EXTENT, ChunkAddr, ExtentId, ExtentIndex, Generation, LayerId, Lsn, PageKey,
    RECORDS_PER_ROW, TreeId,
};
use crate::record::{BlockState, Home, Record, RowSlot, States, heap_block};

/// An extent at its place in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    slot: u16,
    birth: LayerId,
    id: ExtentId,
}

impl Entry {
    /// By place, the newest birth first.
    const fn order(&self) -> (u16, std::cmp::Reverse<LayerId>) {
        (self.slot, std::cmp::Reverse(self.birth))
    }
}

/// A page of the map, its locks, and who uses it. Stays on its core.
pub struct Page {
    /// Which page.
    pub key: PageKey,
    /// Its content.
    pub state: RefCell<PageState>,
    /// Orders overlapping writes; ranges are in blocks of the page.
    pub locks: RangeLocks,
    /// When it was last used, in turns of the shard's clock: what eviction goes by.
    pub used: Cell<u64>,
    /// What its core's sum of all pages has for it, in bytes.
    pub counted: Cell<usize>,
    /// The last group that took the seal off a block, until it is known to be durable: before it is, no byte is written
    /// in place. A page whose last such group is not durable is dirty, so it is not forgotten.
    pub unsealed: Cell<Lsn>,
}

/// By which CRCs a piece is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The extent that has it.
    pub id: ExtentId,
    /// The extent's block in which the piece begins.
    pub block: u32,
    /// The last group that changed the extent: while that holds, so does the seal.
    pub lsn: Lsn,
}

/// The content of a page.
#[derive(Debug)]
pub struct PageState {
    blocks_per_extent: u32,
    /// The extents by place, the newest birth first.
    entries: Vec<Entry>,
    /// The extents of the page by the index of their id.
    pub extents: Extents,
    /// Rows of the extent table that belong to the page.
    pub rows: Vec<u64>,
    /// Layers of which the MetaStore may have a row that says nothing any more.
    pub former: Vec<LayerId>,
    /// Ids to give out next; their generation is the one that the new extent gets.
    pub free: Vec<ExtentId>,
    /// The last group that changed the page.
    pub lsn: Lsn,
    /// The first group that changed it since its last checkpoint.
    pub dirty_since: Option<Lsn>,
    /// What changed since then.
    pub dirt: Dirt,
    /// A checkpoint has an image of the page and has not said yet that it is safe: since when the page was dirty, and
    /// what that image covers.
    pub saving: Option<(Lsn, Dirt)>,
    /// The page was dropped with the last layer of its tree.
    pub gone: bool,
}

/// What a page's next checkpoint must write beside the page itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirt {
    /// Extents that changed, by the index of their id.
    pub ids: BTreeSet<u64>,
    /// Chunks that were freed: their owner entries must be cleared before the journal forgets it.
    pub cleared: Vec<(ChunkAddr, Lsn)>,
}

/// A piece of an extent, as a read finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Nothing is stored: zeros.
    Zeros {
        /// How many bytes.
        len: u64,
    },
    /// On a disk.
    Disk {
        /// The chunk where it starts.
        addr: ChunkAddr,
        /// The byte within that chunk.
        within: u64,
        /// How many bytes; they may run over into the disk's next chunks.
        len: u64,
        /// For sealed blocks, which are all of one extent.
        seal: Option<Seal>,
    },
}

impl Page {
    /// The page `key` with `state`.
    #[must_use]
    pub fn new(key: PageKey, state: PageState) -> Self {
        Self {
            key,
            state: RefCell::new(state),
            locks: RangeLocks::default(),
            used: Cell::default(),
            counted: Cell::default(),
            unsealed: Cell::default(),
        }
    }
}

impl PageState {
    /// A page that nobody has written: all holes.
    #[must_use]
    pub fn empty(blocks_per_extent: u32) -> Self {
        Self {
            blocks_per_extent,
            entries: Vec::new(),
            extents: Extents::default(),
            rows: Vec::new(),
            former: Vec::new(),
            free: Vec::new(),
            lsn: Lsn::default(),
            dirty_since: None,
            dirt: Dirt::default(),
            saving: None,
            gone: false,
        }
    }

    /// 4 KiB blocks of an extent.
    #[must_use]
    pub const fn blocks_per_extent(&self) -> u32 {
        self.blocks_per_extent
    }

    /// True if nothing of the page is in memory alone: it may be let go of and loaded again. A tentative extent without
    /// chunks is nothing: the write that wanted it was refused.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let settled = |extent: &Extent| extent.record.home.mask() == extent.chunks_pushed;
        self.dirty_since.is_none() && self.saving.is_none() && self.extents.iter().all(settled)
    }

    /// The memory that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let lists = [
            self.entries.capacity() * size_of::<Entry>(),
            self.rows.capacity() * size_of::<u64>(),
            self.free.capacity() * size_of::<ExtentId>(),
        ];
        heap_block(size_of::<Page>()) + lists.into_iter().map(heap_block).sum::<usize>() + self.extents.heap_bytes()
    }

    /// What is at `slot`, the newest birth first.
    fn at(&self, slot: usize) -> &[Entry] {
        let start = self.entries.partition_point(|entry| usize::from(entry.slot) < slot);
        let len = self.entries[start..].iter().take_while(|entry| usize::from(entry.slot) == slot).count();
        &self.entries[start..start + len]
    }

    fn place(&mut self, entry: Entry) {
        match self.entries.binary_search_by_key(&entry.order(), Entry::order) {
            Ok(at) => self.entries[at] = entry,
            Err(at) => {
                if self.entries.len() == self.entries.capacity() {
                    // As with the extents.
                    self.entries.reserve_exact(RECORDS_PER_ROW as usize);
                }
                self.entries.insert(at, entry);
            }
        }
    }

    /// The extent that `view`'s layer writes at `slot`, tentative or not; `None` if it must bear one.
    #[must_use]
    pub fn own(&self, view: &View, slot: usize) -> Option<&Extent> {
        let first = self.at(slot).iter().find(|entry| view.sees(entry.birth))?;
        if view.owns(first.birth) { self.extent(first.id) } else { None }
    }

    /// As [`PageState::own`], to change it.
    pub fn own_mut(&mut self, view: &View, slot: usize) -> Option<&mut Extent> {
        let id = self.own(view, slot)?.record.id;
        self.extent_mut(id)
    }

    /// What `view` sees at `slot`, the newest birth first, without what is tentative.
    pub fn seen<'a>(&'a self, view: &'a View, slot: usize) -> impl Iterator<Item = &'a Extent> {
        let entries = self.at(slot).iter().filter(|entry| view.sees(entry.birth));
        entries.filter_map(|entry| self.extent(entry.id)).filter(|extent| extent.pushed)
    }

    /// True if several extents are at `slot`.
    #[must_use]
    pub fn is_shared(&self, slot: usize) -> bool {
        self.at(slot).len() > 1
    }

    /// The slots at which there is an extent, tentative or not.
    #[must_use]
    pub fn slots(&self) -> Vec<usize> {
        let mut slots: Vec<usize> = self.entries.iter().map(|entry| usize::from(entry.slot)).collect();
        slots.dedup();
        slots
    }

    /// What is at `slot` for the rules of [`crate::forest`], when a group will have taken effect after which those of
    /// `ending` end their chains. An extent that is tentative and not one of these is not there.
    #[must_use]
    pub fn placed(&self, slot: usize, ending: &[ExtentId]) -> Vec<Placed> {
        let placed = |entry: &Entry| {
            let extent = self.extent(entry.id)?;
            let (ends, blocks) = (ending.contains(&entry.id), self.blocks_per_extent);
            let is_there = extent.pushed || ends;
            let ends = ends || extent.record.ends_chain(blocks);
            let blank = extent.record.states.none_is_data() && !ending.contains(&entry.id);
            is_there.then_some(Placed { id: entry.id, birth: entry.birth, ends, blank })
        };
        self.at(slot).iter().filter_map(placed).collect()
    }

    /// The extents at `slot` that no named layer needs, when the group will have taken effect by which `changing`
    /// changes and those of `ending` end their chains.
    #[must_use]
    pub fn unneeded(
        &self,
        needs: Needs<'_>,
        (tree, changing): (TreeId, LayerId),
        slot: usize,
        ending: &[ExtentId],
    ) -> Vec<ExtentId> {
        let placed = self.placed(slot, ending);
        let may_be_free = |extent: &Placed| !ending.contains(&extent.id) && needs.may_be_free(extent.birth, changing);
        if placed.len() < 2 || !placed.iter().any(may_be_free) {
            return Vec::new();
        }
        let views = needs.views(tree, None);
        free(placed, &views, may_be_free)
    }

    /// The extent `id`; `None` if it is not there or of another generation.
    #[must_use]
    pub fn extent(&self, id: ExtentId) -> Option<&Extent> {
        self.extents.get(id.index()).filter(|extent| extent.record.id == id)
    }

    /// As [`PageState::extent`], to change it.
    pub fn extent_mut(&mut self, id: ExtentId) -> Option<&mut Extent> {
        self.extents.get_mut(id.index()).filter(|extent| extent.record.id == id)
    }

    /// A new extent at `index` for `layer`: tentative until its delta is pushed. `None` if the page needs another row
    /// of ids.
    pub fn bear(&mut self, layer: LayerId, index: ExtentIndex, base: ExtentId) -> Option<ExtentId> {
        let id = self.free.pop()?;
        self.insert(layer, index, id, base, false);
        Some(id)
    }

    /// Adds an extent as a checkpoint or an import has it.
    pub fn add(&mut self, extent: Extent) {
        let Record { id, birth, index, .. } = extent.record;
        if self.extents.get(id.index()).is_some_and(|old| old.record.id != id) {
            self.entries.retain(|entry| entry.id.index() != id.index());
        }
        self.place(Entry { slot: index.slot() as u16, birth, id });
        self.extents.insert(extent);
    }

    fn insert(&mut self, layer: LayerId, index: ExtentIndex, id: ExtentId, base: ExtentId, pushed: bool) {
        let states = States::absent(self.blocks_per_extent);
        let record = Record { id, birth: layer, index, base, home: Home::Nowhere, states };
        let lsn = Lsn::default();
        let extent = Extent { record, lsn, reads: 0, writes: 0, chunks_pushed: 0, pushed, rounds: 0 };
        self.add(extent);
        // Replayed over an import, which finds no row of which nothing is in use.
        let row = id.index() / RECORDS_PER_ROW;
        if !self.rows.contains(&row) {
            self.rows.push(row);
        }
    }

    /// Adds a row of ids that were never given out.
    fn add_row(&mut self, row: u64) {
        if self.rows.contains(&row) {
            return;
        }
        self.rows.push(row);
        let first = row * RECORDS_PER_ROW;
        self.free.extend((first..first + RECORDS_PER_ROW).rev().map(|index| ExtentId::new(index, Generation(1))));
    }

    /// Takes a row as the MetaStore has it.
    pub fn load_row(&mut self, row: u64, lsn: Lsn, slots: Vec<RowSlot>) {
        self.rows.push(row);
        self.extents.reserve(slots.len());
        self.entries.reserve_exact(slots.len());
        let before = self.free.len();
        for (offset, slot) in slots.into_iter().enumerate() {
            let index = row * RECORDS_PER_ROW + offset as u64;
            match slot {
                RowSlot::Empty(generation) if generation.0 < ExtentId::GENERATION_MAX => {
                    self.free.push(ExtentId::new(index, Generation(generation.0 + 1)));
                }
                // Every generation of this index was used: it is never given out again.
                RowSlot::Empty(_) => {}
                RowSlot::Taken(record) => {
                    let Record { id, birth, index, .. } = record;
                    self.entries.push(Entry { slot: index.slot() as u16, birth, id });
                    self.extents.insert(Extent::stored(record, lsn));
                }
            }
        }
        // What earlier rows brought is in order.
        self.entries.sort_by_key(Entry::order);
        // The last is given out first.
        self.free[before..].reverse();
    }

    /// A row as a checkpoint stores it: pushed changes only.
    #[must_use]
    pub fn row(&self, row: u64) -> Vec<RowSlot> {
        let first = row * RECORDS_PER_ROW;
        let mut slots = vec![RowSlot::Empty(Generation(ExtentId::GENERATION_MAX)); RECORDS_PER_ROW as usize];
        for id in &self.free {
            if id.index() / RECORDS_PER_ROW == row {
                slots[(id.index() - first) as usize] = RowSlot::Empty(Generation(id.generation().0 - 1));
            }
        }
        for extent in self.extents.range(first..first + RECORDS_PER_ROW) {
            slots[(extent.record.id.index() - first) as usize] = if extent.pushed {
                RowSlot::Taken(extent.pushed_record())
            } else {
                RowSlot::Empty(Generation(extent.record.id.generation().0 - 1))
            };
        }
        slots
    }

    /// Applies one delta of the group `lsn` that concerns this page. Idempotent.
    pub fn apply(&mut self, lsn: Lsn, delta: &Delta) {
        self.lsn = self.lsn.max(lsn);
        self.dirty_since.get_or_insert(lsn);
        let blocks = self.blocks_per_extent;
        match delta {
            Delta::Extent { place, layer, id, base } => {
                self.free.retain(|free| free.index() != id.index());
                match self.extent_mut(*id) {
                    Some(extent) => {
                        extent.pushed = true;
                        extent.record.base = *base;
                        // An import may have it while replay is before its birth, and at the end of another one there.
                        self.place(Entry { slot: place.index.slot() as u16, birth: *layer, id: *id });
                    }
                    None => self.insert(*layer, place.index, *id, *base, true),
                }
            }
            Delta::Chunks { id, first, addrs, .. } => {
                if let Some(extent) = self.extent_mut(*id) {
                    for (slot, addr) in (usize::from(*first)..).zip(addrs) {
                        extent.record.home.set(slot, Some(*addr));
                        extent.chunks_pushed |= 1 << slot;
                    }
                }
            }
            Delta::States { id, start, count, state, .. } => {
                if start.0.checked_add(*count).is_none_or(|end| end > blocks) {
                    log::error!("group {} speaks of {count} blocks from {}, an extent has {blocks}", lsn.0, start.0);
                } else if let Some(extent) = self.extent_mut(*id) {
                    extent.record.states.set(start.0, *count, *state, blocks);
                }
            }
            Delta::Unchunk { id, first, count, .. } => self.unchunk(lsn, *id, *first, *count),
            Delta::Entry { .. } => {}
            Delta::Gone { id, .. } => self.forget(lsn, *id),
            Delta::Flip { id, home, .. } => self.flip(lsn, *id, home),
            Delta::Row { row, .. } => self.add_row(*row),
            Delta::PageGone { .. } => {
                let ids: Vec<ExtentId> = self.extents.iter().map(|extent| extent.record.id).collect();
                for id in ids {
                    self.forget(lsn, id);
                }
                self.gone = true;
            }
            Delta::Free { .. }
            | Delta::Layer(_)
            | Delta::LayerGone(_)
            | Delta::Fold { .. }
            | Delta::Volume(_)
            | Delta::VolumeGone { .. }
            | Delta::Disk(_)
            | Delta::Document { .. } => unreachable!("not a delta of a page"),
        }
        self.touch(lsn, delta);
    }

    /// Notes which extent the delta changed.
    fn touch(&mut self, lsn: Lsn, delta: &Delta) {
        match delta {
            Delta::Extent { id, .. }
            | Delta::Chunks { id, .. }
            | Delta::States { id, .. }
            | Delta::Unchunk { id, .. }
            | Delta::Gone { id, .. }
            | Delta::Flip { id, .. } => {
                self.dirt.ids.insert(id.index());
                if let Some(extent) = self.extent_mut(*id) {
                    extent.lsn = lsn;
                    extent.written();
                }
            }
            Delta::Row { row, .. } => {
                self.dirt.ids.insert(*row * RECORDS_PER_ROW);
            }
            Delta::Entry { .. }
            | Delta::PageGone { .. }
            | Delta::Free { .. }
            | Delta::Layer(_)
            | Delta::LayerGone(_)
            | Delta::Fold { .. }
            | Delta::Volume(_)
            | Delta::VolumeGone { .. }
            | Delta::Disk(_)
            | Delta::Document { .. } => {}
        }
    }

    fn unchunk(&mut self, lsn: Lsn, id: ExtentId, first: u8, count: u8) {
        let Some(extent) = self.extents.get_mut(id.index()).filter(|extent| extent.record.id == id) else { return };
        for slot in usize::from(first)..usize::from(first + count) {
            if let Some(addr) = extent.record.home.chunk(slot) {
                self.dirt.cleared.push((addr, lsn));
            }
            extent.record.home.set(slot, None);
            extent.chunks_pushed &= !(1 << slot);
        }
    }

    fn flip(&mut self, lsn: Lsn, id: ExtentId, home: &Home) {
        let Some(extent) = self.extents.get_mut(id.index()).filter(|extent| extent.record.id == id) else { return };
        self.dirt.cleared.extend(extent.record.home.chunks().map(|(_, addr)| (addr, lsn)));
        extent.record.home = home.clone();
        extent.chunks_pushed = home.mask();
    }

    fn forget(&mut self, lsn: Lsn, id: ExtentId) {
        if self.extent(id).is_none() {
            return;
        }
        let extent = self.extents.remove(id.index()).expect("found above");
        self.entries.retain(|entry| entry.id != id);
        self.dirt.cleared.extend(extent.record.home.chunks().map(|(_, addr)| (addr, lsn)));
        if id.generation().0 < ExtentId::GENERATION_MAX {
            self.free.push(ExtentId::new(id.index(), Generation(id.generation().0 + 1)));
        }
    }

    /// Where the bytes `[start, start + len)` at `slot` are for `view`. Appends to `pieces`.
    pub fn plan_read(&self, view: &View, slot: usize, start: u64, len: u64, pieces: &mut Vec<Piece>) {
        let chunk_bytes = u64::from(self.blocks_per_extent) * BLOCK_BYTES / CHUNKS_PER_EXTENT as u64;
        if let Some(extent) = self.seen(view, slot).next() {
            if let (Home::Run(first), States::AllData | States::AllSealed) =
                (&extent.record.home, &extent.record.states)
            {
                let chunk = first.chunk + (start / chunk_bytes) as u32;
                let addr = ChunkAddr { disk: first.disk, chunk };
                let seal = extent.seal((start / BLOCK_BYTES) as u32);
                push_piece(pieces, chunk_bytes, Piece::Disk { addr, within: start % chunk_bytes, len, seal });
                return;
            }
        }
        let (mut at, end) = (start, start + len);
        while at < end {
            let block = (at / BLOCK_BYTES) as u32;
            let piece_end = end.min(u64::from(block + 1) * BLOCK_BYTES);
            let piece = plan_block(self.seen(view, slot), block, at, piece_end - at, chunk_bytes);
            push_piece(pieces, chunk_bytes, piece);
            at = piece_end;
        }
    }
}

/// Where one block's bytes are: in the first extent of the chain that has the block.
fn plan_block<'a>(chain: impl Iterator<Item = &'a Extent>, block: u32, at: u64, len: u64, chunk_bytes: u64) -> Piece {
    for found in chain {
        match found.record.states.get(block) {
            BlockState::Data | BlockState::Sealed => {
                let addr = found.record.home.chunk((at / chunk_bytes) as usize).expect("a data block has a chunk");
                return Piece::Disk { addr, within: at % chunk_bytes, len, seal: found.seal(block) };
            }
            BlockState::Absent if !found.record.base.is_hole() => {}
            BlockState::Zero | BlockState::Absent => break,
        }
    }
    Piece::Zeros { len }
}

/// Appends `piece`, joined to the last one where it goes on from there.
fn push_piece(pieces: &mut Vec<Piece>, chunk_bytes: u64, piece: Piece) {
    match (pieces.last_mut(), piece) {
        (Some(Piece::Zeros { len: last }), Piece::Zeros { len }) => *last += len,
        (
            Some(Piece::Disk { addr, within, len: last, seal }),
            Piece::Disk { addr: next, within: next_within, len, seal: next_seal },
        ) if addr.disk == next.disk
            && u64::from(addr.chunk) * chunk_bytes + *within + *last
                == u64::from(next.chunk) * chunk_bytes + next_within
            && seal_goes_on(*seal, (*within % BLOCK_BYTES + *last).div_ceil(BLOCK_BYTES), next_seal) =>
        {
            *last += len;
        }
        _ => pieces.push(piece),
    }
}

/// True if what verifies a piece of `blocks` blocks verifies the next one too.
fn seal_goes_on(seal: Option<Seal>, blocks: u64, next: Option<Seal>) -> bool {
    match (seal, next) {
        (None, None) => true,
        (Some(seal), Some(next)) => seal.id == next.id && u64::from(seal.block) + blocks == u64::from(next.block),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::Place;
    use crate::place::{BlockNo, DiskNo};

    const LAYER: LayerId = LayerId(3);
    const PLACE: Place = Place { tree: TreeId(1), index: ExtentIndex(5) };

    fn addr(chunk: u32) -> ChunkAddr {
        ChunkAddr { disk: DiskNo(0), chunk }
    }

    /// A page of 1 MiB extents with one row and a first write of blocks 1 and 2.
    fn page_after_a_first_write() -> (PageState, ExtentId) {
        let mut page = PageState::empty(256);
        page.apply(Lsn(1), &Delta::Row { page: PLACE.page(), row: 2 });
        let id = page.bear(LAYER, PLACE.index, ExtentId::HOLE).expect("a row was added");
        page.apply(Lsn(2), &Delta::Extent { place: PLACE, layer: LAYER, id, base: ExtentId::HOLE });
        page.apply(Lsn(2), &Delta::Chunks { place: PLACE, id, first: 0, addrs: vec![addr(7)] });
        let state = BlockState::Data;
        page.apply(Lsn(2), &Delta::States { place: PLACE, id, start: BlockNo(1), count: 2, state });
        (page, id)
    }

    #[test]
    fn a_read_finds_data_among_zeros() {
        let (page, id) = page_after_a_first_write();
        assert_eq!(id, ExtentId::new(128, Generation(1)));
        let mut pieces = Vec::new();
        page.plan_read(&View::alone(LAYER), 5, 0, 65536, &mut pieces);
        let data = Piece::Disk { addr: addr(7), within: 4096, len: 8192, seal: None };
        assert_eq!(pieces, [Piece::Zeros { len: 4096 }, data, Piece::Zeros { len: 65536 - 12288 }]);
    }

    #[test]
    fn sealed_blocks_are_a_piece_of_their_own() {
        let (mut page, id) = page_after_a_first_write();
        let states = |start, state| Delta::States { place: PLACE, id, start: BlockNo(start), count: 2, state };
        page.apply(Lsn(3), &states(3, BlockState::Data));
        page.apply(Lsn(4), &states(2, BlockState::Sealed));
        let mut pieces = Vec::new();
        page.plan_read(&View::alone(LAYER), 5, 4096, 16384, &mut pieces);
        let piece = |block: u64, blocks: u64, sealed: bool| {
            let seal = sealed.then_some(Seal { id, block: block as u32, lsn: Lsn(4) });
            Piece::Disk { addr: addr(7), within: block * 4096, len: blocks * 4096, seal }
        };
        assert_eq!(pieces, [piece(1, 1, false), piece(2, 2, true), piece(4, 1, false)]);
    }

    #[test]
    fn a_checkpoint_leaves_out_what_no_delta_says_yet() {
        let (mut page, id) = page_after_a_first_write();
        page.extent_mut(id).expect("there").record.home.set(3, Some(addr(9)));
        let tentative = page.bear(LAYER, ExtentIndex(6), ExtentId::HOLE).expect("an id");
        let row = page.row(2);
        let RowSlot::Taken(record) = &row[0] else { panic!("the pushed extent") };
        assert_eq!(record.home.chunks().collect::<Vec<_>>(), [(0, addr(7))]);
        assert_eq!(row[(tentative.index() - 128) as usize], RowSlot::Empty(Generation(0)));
        assert_eq!(page.seen(&View::alone(LAYER), 6).count(), 0);
    }

    #[test]
    fn replay_over_a_newer_page_changes_nothing() {
        let (mut page, id) = page_after_a_first_write();
        let before = page.row(2);
        page.apply(Lsn(2), &Delta::Extent { place: PLACE, layer: LAYER, id, base: ExtentId::HOLE });
        page.apply(Lsn(2), &Delta::Chunks { place: PLACE, id, first: 0, addrs: vec![addr(7)] });
        assert_eq!(page.row(2), before);
        page.apply(Lsn(3), &Delta::Gone { place: PLACE, id });
        let again = page.bear(LAYER, PLACE.index, ExtentId::HOLE).expect("its id is free again");
        assert_eq!(again, ExtentId::new(128, Generation(2)));
    }
}
