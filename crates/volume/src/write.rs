//! Writes: data first, then the change of the map, then the answer.
//!
//! The order within one write, under its range lock: an extent and chunks where there are none (tentative: in memory
//! only), partial blocks filled up, the data written, the deltas pushed (from here on the write survives the death of
//! the process), the map changed so that reads see it. An overwrite of data blocks is only the third of these, after
//! what is sealed there is unsealed ([`crate::seal`]). Who
//! gives a chunk its place holds all of it, so a write that is refused can take its places back.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use sds_block::{BlockError, ErrorKind};
use sds_io::sync::join_all;
use sds_io::{Buffer, Clock, Io, Slice};

use crate::core::{PoolCore, VolumeCore};
use crate::delta::{Delta, Place};
use crate::extents::Extent;
use crate::forest::{Needs, View};
use crate::ledger::Ledger;
use crate::page::{Page, PageState};
use crate::place::{
    BLOCK_BYTES, BlockNo, CHUNKS_PER_EXTENT, ChunkAddr, EXTENTS_PER_PAGE, ExtentId, ExtentIndex, Lsn, PageKey,
};
use crate::planted::Defect;
use crate::quarantine::{Quarantined, runs_of};
use crate::record::{BELOW, BlockState};
use crate::request::{Span, disk_error, spans};
use crate::ring::RingFull;

/// What a change makes of its blocks.
#[derive(Clone)]
pub(crate) enum Content {
    /// They are these bytes.
    Data(Slice),
    /// So many bytes, whole blocks, are zeros whatever lies under them.
    Zeros(u64),
    /// The extent inherits nothing any more: its first block is named to get it a chunk, which tells an import of it.
    Nothing,
}

impl Content {
    fn bytes(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Zeros(len) => *len,
            Self::Nothing => BLOCK_BYTES,
        }
    }

    const fn state(&self) -> Option<BlockState> {
        match self {
            Self::Data(_) => Some(BlockState::Data),
            Self::Zeros(_) => Some(BlockState::Zero),
            Self::Nothing => None,
        }
    }
}

/// A contiguous write to one disk.
struct Piece {
    addr: ChunkAddr,
    within: u64,
    data: Slice,
}

/// How often a request asks again for chunks that others took in advance, and how long it waits before.
const GRANT_WAITS_MAX: u32 = 50;
const GRANT_POLL_MS: u64 = 1;

impl<E: Io + Clock> PoolCore<E> {
    /// Writes `data` at byte `start` of the page. True if a commit is needed to make it durable.
    pub(crate) async fn write(
        self: &Rc<Self>,
        volume: &VolumeCore,
        page: &Rc<Page>,
        start: u64,
        data: Slice,
        fua: bool,
    ) -> Result<bool, BlockError> {
        let len = data.len() as u64;
        let unlocked = self.shared.planted.has(Defect::PartialUnlocked) && (start | len) % BLOCK_BYTES != 0;
        let mut range = page.locks.lock(if unlocked { 0..0 } else { blocks_in(start, len) }).await;
        let mut change = self.begin_change(volume).await?;
        if self.lacks_chunks(change.view(), &page.state.borrow(), start, len) {
            // A chunk is given a place by one who holds all of it, so that it can take the chunk back.
            drop((range, change));
            range = page.locks.lock(self.whole_chunks(start, len)).await;
            change = self.begin_change(volume).await?;
        }
        let written = self.write_locked(volume, change.view(), page, start, data, fua).await;
        drop(range);
        written
    }

    /// As [`PoolCore::write`], by one who holds the range; and all of each chunk that has no place yet.
    pub(crate) async fn write_locked(
        self: &Rc<Self>,
        volume: &VolumeCore,
        view: &View,
        page: &Rc<Page>,
        start: u64,
        data: Slice,
        fua: bool,
    ) -> Result<bool, BlockError> {
        let len = data.len() as u64;
        let bad = self.unseal(view, page, start, len).await?;
        if let Some(depends_on) = self.overwrites(view, page, start, len) {
            // FUA alone makes the data durable if nothing that its blocks depend on is still undurable.
            let pending = depends_on > self.shared.ledger().durable;
            let durable = fua && (!pending || self.shared.planted.has(Defect::FuaIgnoresPending));
            self.write_pieces(view, page, start, &data, durable).await?;
            self.heal(page, &bad).await?;
            return Ok(fua && (!durable || !bad.is_empty()));
        }
        self.change_blocks(volume, view, page, start, Content::Data(data)).await?;
        self.heal(page, &bad).await?;
        Ok(fua)
    }

    /// Makes the blocks at byte `start` of the page what `content` says, by one who holds all chunks that have no place
    /// yet; waits for space that is on its way.
    pub(crate) async fn change_blocks(
        self: &Rc<Self>,
        volume: &VolumeCore,
        view: &View,
        page: &Rc<Page>,
        start: u64,
        content: Content,
    ) -> Result<(), BlockError> {
        let mut freed = None;
        let mut grant_waits = 0;
        for _ in 0..=2 * self.shared.tuning.space_waits_max {
            let permit = self.shared.admit().await?;
            let changed = self.change_once(volume, view, page, start, &content).await;
            if changed.is_err() {
                self.take_back(view, page, start, content.bytes());
            }
            drop(permit);
            match changed {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::NoSpace => {}
                Err(error) => return Err(error),
            }
            // What it has it gave back, so that whoever frees space is not held up by it. One more try, with an ear to
            // what comes free meanwhile; then it waits.
            freed = match freed {
                None => Some(self.shared.ledger().space_to_come()),
                // Another one took in advance what is left, and took it again as it was asked to give it back.
                Some(None) if grant_waits < GRANT_WAITS_MAX && self.shared.ledger().space.has_unused() => {
                    grant_waits += 1;
                    self.env.io.sleep(std::time::Duration::from_millis(GRANT_POLL_MS)).await;
                    None
                }
                Some(None) => break,
                Some(Some(freed)) => {
                    self.shared.commit().await?;
                    freed.await;
                    None
                }
            };
        }
        Err(BlockError::new(ErrorKind::NoSpace, "the pool has no free chunk"))
    }

    /// Places, whole blocks, data, then the map.
    async fn change_once(
        self: &Rc<Self>,
        volume: &VolumeCore,
        view: &View,
        page: &Rc<Page>,
        start: u64,
        content: &Content,
    ) -> Result<(), BlockError> {
        self.prepare(volume, view, page, start, content).await?;
        let Content::Data(data) = content else {
            return self.publish(view, page, start, content.bytes(), content.state()).await;
        };
        let (start, data) = self.fill_edges(view, page, start, data.clone()).await?;
        let (len, state) = (data.len() as u64, content.state());
        if self.shared.planted.has(Defect::MapBeforeData) {
            self.publish(view, page, start, len, state).await?;
        }
        self.write_pieces(view, page, start, &data, false).await?;
        self.publish(view, page, start, len, state).await
    }

    /// The blocks of all chunks that the range touches.
    fn whole_chunks(&self, start: u64, len: u64) -> std::ops::Range<u64> {
        let chunk_bytes = self.shared.chunk_bytes();
        let first = start / chunk_bytes * chunk_bytes;
        let end = (start + len).div_ceil(chunk_bytes) * chunk_bytes;
        first / BLOCK_BYTES..end / BLOCK_BYTES
    }

    /// True if a chunk that the range touches has no place in an extent of `view`'s layer.
    fn lacks_chunks(&self, view: &View, state: &PageState, start: u64, len: u64) -> bool {
        spans(start, len, self.shared.extent_bytes).any(|span| match state.own(view, span.slot) {
            Some(extent) => self.slots(span).any(|slot| extent.record.home.chunk(slot).is_none()),
            None => true,
        })
    }

    /// The chunk slots that a span touches.
    fn slots(&self, span: Span) -> std::ops::Range<usize> {
        let chunk_bytes = self.shared.chunk_bytes();
        (span.start / chunk_bytes) as usize..(span.start + span.len).div_ceil(chunk_bytes) as usize
    }

    /// A write was refused: the places that it got and no delta tells of are free again.
    fn take_back(&self, view: &View, page: &Rc<Page>, start: u64, len: u64) {
        let mut chunks = Vec::new();
        let mut state = page.state.borrow_mut();
        for span in spans(start, len, self.shared.extent_bytes) {
            let Some(extent) = state.own_mut(view, span.slot) else { continue };
            for slot in self.slots(span).filter(|slot| extent.chunks_pushed & 1 << slot == 0) {
                chunks.extend(extent.record.home.chunk(slot));
                extent.record.home.set(slot, None);
            }
        }
        drop(state);
        self.shared.ledger().release_grants(&runs_of(chunks));
    }

    /// If every touched block is data of an extent that `view` may write in place: the last group that changed one of
    /// these extents.
    fn overwrites(&self, view: &View, page: &Rc<Page>, start: u64, len: u64) -> Option<Lsn> {
        let mut state = page.state.borrow_mut();
        let mut depends_on = Lsn::default();
        for span in spans(start, len, self.shared.extent_bytes) {
            let extent = state.own_mut(view, span.slot)?;
            let (first, count) = blocks_of(span);
            if !extent.record.states.all_data(first, count) || !self.takes_sectors(extent, span) {
                return None;
            }
            extent.writes = extent.writes.saturating_add(1);
            extent.written();
            depends_on = depends_on.max(extent.lsn);
        }
        Some(depends_on)
    }

    /// True if the span's ends suit the logical blocks of the disks it lies on, so that no block must be read first.
    fn takes_sectors(&self, extent: &Extent, span: Span) -> bool {
        if span.start % BLOCK_BYTES == 0 && span.len % BLOCK_BYTES == 0 {
            return true;
        }
        let disks = self.disks();
        self.slots(span).filter_map(|slot| extent.record.home.chunk(slot)).all(|addr| {
            let unit = u64::from(disks[usize::from(addr.disk.0)].info.logical_block_bytes);
            span.start % unit == 0 && span.len % unit == 0
        })
    }

    /// Gives every touched extent an id and every touched chunk a place, tentatively.
    async fn prepare(
        self: &Rc<Self>,
        volume: &VolumeCore,
        view: &View,
        page: &Rc<Page>,
        start: u64,
        content: &Content,
    ) -> Result<(), BlockError> {
        let base = if view.inherits() && !matches!(content, Content::Nothing) { BELOW } else { ExtentId::HOLE };
        let spans: Vec<Span> = spans(start, content.bytes(), self.shared.extent_bytes).collect();
        for span in spans {
            let id = self.extent_for(view, page, span.slot, base).await?;
            loop {
                let missing = self.missing_chunks(&page.state.borrow(), id, span);
                if missing.is_empty() {
                    break;
                }
                let got = self.allocate(volume, missing.len()).await?;
                let mut state = page.state.borrow_mut();
                let extent = state.extent_mut(id).expect("its range is held");
                for (slot, addr) in missing.into_iter().zip(got) {
                    extent.record.home.set(slot, Some(addr));
                }
            }
        }
        Ok(())
    }

    /// The extent that `view` writes at `slot`: its own, or a new one over what is there.
    async fn extent_for(
        &self,
        view: &View,
        page: &Rc<Page>,
        slot: usize,
        base: ExtentId,
    ) -> Result<ExtentId, BlockError> {
        loop {
            {
                let mut state = page.state.borrow_mut();
                if let Some(extent) = state.own_mut(view, slot) {
                    if !extent.pushed {
                        // A change that was refused may have wanted another one.
                        extent.record.base = base;
                    }
                    return Ok(extent.record.id);
                }
                let index = ExtentIndex(page.key.page.0 * EXTENTS_PER_PAGE + slot as u64);
                if let Some(id) = state.bear(view.layer(), index, base) {
                    return Ok(id);
                }
            }
            self.grant_row(page).await?;
        }
    }

    /// A row of ids for the page.
    async fn grant_row(&self, page: &Rc<Page>) -> Result<(), BlockError> {
        loop {
            let granted = {
                let mut ledger = self.shared.ledger();
                let delta = Delta::Row { page: page.key, row: ledger.catalog.next_row };
                ledger.push(std::slice::from_ref(&delta)).map(|lsn| (lsn, delta))
            };
            match granted {
                Ok((lsn, delta)) => {
                    page.state.borrow_mut().apply(lsn, &delta);
                    return Ok(());
                }
                Err(_) => self.shared.commit().await?,
            }
        }
    }

    fn missing_chunks(&self, state: &PageState, id: ExtentId, span: Span) -> Vec<usize> {
        let extent = state.extent(id).expect("its range is held");
        self.slots(span).filter(|slot| extent.record.home.chunk(*slot).is_none()).collect()
    }

    /// Widens a write whose first or last block is not data yet to whole blocks, with what reads find there now.
    async fn fill_edges(
        &self,
        view: &View,
        page: &Rc<Page>,
        start: u64,
        data: Slice,
    ) -> Result<(u64, Slice), BlockError> {
        let end = start + data.len() as u64;
        let (first, last) = (start / BLOCK_BYTES * BLOCK_BYTES, end.next_multiple_of(BLOCK_BYTES));
        if first == start && last == end {
            return Ok((start, data));
        }
        let mut whole = Buffer::uninit((last - first) as usize);
        let bytes = whole.as_mut();
        let head = (start - first) as usize;
        if head > 0 {
            let old = self.read(view, page, first, start - first).await?;
            bytes[..head].copy_from_slice(&old.to_vec());
        }
        bytes[head..head + data.len()].copy_from_slice(data.as_ref());
        if last > end {
            let old = self.read(view, page, end, last - end).await?;
            bytes[head + data.len()..].copy_from_slice(&old.to_vec());
        }
        Ok((first, whole.share()))
    }

    /// Writes `data` where the map has byte `start` on.
    async fn write_pieces(
        &self,
        view: &View,
        page: &Rc<Page>,
        start: u64,
        data: &Slice,
        durable: bool,
    ) -> Result<(), BlockError> {
        let _inflight = self.inflight.enter();
        let pieces = self.pieces(view, &page.state.borrow(), start, data);
        let written = if let [piece] = &pieces[..] {
            self.write_piece(piece, durable).await
        } else {
            let writes = pieces.iter().map(|piece| self.write_piece(piece, durable)).collect();
            join_all(writes).await.into_iter().collect()
        };
        if written.is_err() {
            let mut state = page.state.borrow_mut();
            for span in spans(start, data.len() as u64, self.shared.extent_bytes) {
                state.own_mut(view, span.slot).into_iter().for_each(|extent| extent.rounds = Extent::NEVER_SEALED);
            }
        }
        written
    }

    async fn write_piece(&self, piece: &Piece, durable: bool) -> Result<(), BlockError> {
        let disks = self.disks();
        let disk = &disks[usize::from(piece.addr.disk.0)];
        let offset = disk.offset(piece.addr) + piece.within;
        let early = u64::from(self.shared.planted.has(Defect::CountsEarly));
        disk.completed.fetch_add(early, Ordering::AcqRel);
        let done = self.env.io.write(disk.disk, offset, piece.data.clone(), durable).await;
        disk.completed.fetch_add(1 - early, Ordering::AcqRel);
        done.map_err(disk_error)
    }

    fn pieces(&self, view: &View, state: &PageState, start: u64, data: &Slice) -> Vec<Piece> {
        let chunk_bytes = self.shared.chunk_bytes();
        let mut pieces: Vec<Piece> = Vec::with_capacity(1);
        for span in spans(start, data.len() as u64, self.shared.extent_bytes) {
            let extent = state.own(view, span.slot).expect("prepared");
            let (mut at, end) = (span.start, span.start + span.len);
            while at < end {
                let slot = (at / chunk_bytes) as usize;
                let stop = end.min((slot as u64 + 1) * chunk_bytes);
                let addr = extent.record.home.chunk(slot).expect("prepared");
                let from = (span.offset + at - span.start) as usize;
                let len = (stop - at) as usize;
                match pieces.last_mut() {
                    Some(last) if follows(last, addr, chunk_bytes) && at % chunk_bytes == 0 => {
                        let whole = last.data.len() + len;
                        last.data = data.slice(from + len - whole, whole);
                    }
                    _ => pieces.push(Piece { addr, within: at % chunk_bytes, data: data.slice(from, len) }),
                }
                at = stop;
            }
        }
        pieces
    }

    /// Pushes what a change of these whole blocks changes in the map, then changes it. What is not needed under them
    /// any more is free.
    async fn publish(
        &self,
        view: &View,
        page: &Rc<Page>,
        start: u64,
        len: u64,
        to: Option<BlockState>,
    ) -> Result<(), BlockError> {
        loop {
            let pushed = {
                let mut state = page.state.borrow_mut();
                let (mut deltas, ending) = self.write_deltas(view, page, &state, start, len, to);
                if deltas.is_empty() {
                    return Ok(());
                }
                let unseals = spans(start, len, self.shared.extent_bytes).any(|span| {
                    let (first, count) = blocks_of(span);
                    state.own(view, span.slot).is_some_and(|extent| extent.record.states.any_sealed(first, count))
                });
                let mut ledger = self.shared.ledger();
                let mut freed = Vec::new();
                let open = if ending.is_empty() { Vec::new() } else { self.open_layers() };
                for (slot, id) in ending {
                    let layer = (page.key.tree, view.layer());
                    let unneeded = state.unneeded(Needs { catalog: &ledger.catalog, open: &open }, layer, slot, &[id]);
                    push_gone(&mut deltas, &mut freed, page.key, &state, &unneeded);
                }
                let pushed = push_with_free(&mut ledger, page.key, &mut deltas, &freed);
                drop(ledger);
                if let Ok(lsn) = pushed {
                    if unseals {
                        page.unsealed.set(lsn);
                    }
                    self.applied(&mut state, lsn, &deltas, freed);
                }
                pushed
            };
            match pushed {
                Ok(_) => return Ok(()),
                Err(_) => self.shared.commit().await?,
            }
        }
    }

    /// A group took effect: the page has it, and what it freed waits to be reused.
    pub(crate) fn applied(&self, state: &mut PageState, lsn: Lsn, deltas: &[Delta], freed: Vec<ChunkAddr>) {
        for delta in deltas.iter().filter(|delta| delta.page().is_some()) {
            state.apply(lsn, delta);
        }
        if !freed.is_empty() {
            self.quarantine(Quarantined { runs: runs_of(freed), lsn, epoch: self.inflight.close() });
        }
    }

    /// The deltas, and which extents end their chains by them: each with its slot.
    fn write_deltas(
        &self,
        view: &View,
        page: &Rc<Page>,
        state: &PageState,
        start: u64,
        len: u64,
        to: Option<BlockState>,
    ) -> (Vec<Delta>, Vec<(usize, ExtentId)>) {
        let mut deltas = Vec::with_capacity(3);
        let mut ending = Vec::new();
        let blocks = state.blocks_per_extent();
        for span in spans(start, len, self.shared.extent_bytes) {
            let extent = state.own(view, span.slot).expect("prepared");
            let id = extent.record.id;
            let index = ExtentIndex(page.key.page.0 * EXTENTS_PER_PAGE + span.slot as u64);
            let place = Place { tree: page.key.tree, index };
            // Said again with each new chunk: after a crash amid a checkpoint this chunk may be the only one that owner
            // tables or the journal still know of.
            if !extent.pushed || self.slots(span).any(|slot| extent.chunks_pushed & 1 << slot == 0) {
                deltas.push(Delta::Extent { place, layer: extent.record.birth, id, base: extent.record.base });
            }
            push_chunks(&mut deltas, place, extent, self.slots(span));
            let (first, count) = blocks_of(span);
            let is_so = |to: BlockState| match to {
                BlockState::Data => extent.record.states.all_data(first, count),
                to => extent.record.states.all(first, count, to),
            };
            let to = to.filter(|to| !is_so(*to));
            deltas.extend(to.map(|state| Delta::States { place, id, start: BlockNo(first), count, state }));
            if state.is_shared(span.slot) {
                let mut after = extent.record.clone();
                to.into_iter().for_each(|to| after.states.set(first, count, to, blocks));
                ending.extend(after.ends_chain(blocks).then_some((span.slot, id)));
            }
        }
        (deltas, ending)
    }

    /// If the range's content is the first half of `data`, writes the second half; nothing else touches it meanwhile.
    pub(crate) async fn compare_and_write(
        self: &Rc<Self>,
        volume: &VolumeCore,
        page: &Rc<Page>,
        start: u64,
        data: Slice,
    ) -> Result<(), BlockError> {
        let len = data.len() / 2;
        let _range = page.locks.lock(self.whole_chunks(start, len as u64)).await;
        let change = self.begin_change(volume).await?;
        let found = self.read(change.view(), page, start, len as u64).await?.to_vec();
        miscompare(&found, &data.as_ref()[..len])?;
        self.write_locked(volume, change.view(), page, start, data.slice(len, len), false).await.map(|_| ())
    }
}

/// Appends that these extents are gone, and their chunks to `freed`.
pub(crate) fn push_gone(
    deltas: &mut Vec<Delta>,
    freed: &mut Vec<ChunkAddr>,
    key: PageKey,
    state: &PageState,
    ids: &[ExtentId],
) {
    for extent in ids.iter().filter_map(|id| state.extent(*id)) {
        let place = Place { tree: key.tree, index: extent.record.index };
        deltas.push(Delta::Gone { place, id: extent.record.id });
        freed.extend(extent.record.home.chunks().map(|(_, addr)| addr));
    }
}

/// Pushes the group with what it frees: these chunks are nobody's then.
pub(crate) fn push_with_free(
    ledger: &mut Ledger,
    key: PageKey,
    deltas: &mut Vec<Delta>,
    freed: &[ChunkAddr],
) -> Result<Lsn, RingFull> {
    if !freed.is_empty() {
        deltas.push(Delta::Free { tree: key.tree, runs: runs_of(freed.to_vec()) });
    }
    ledger.push(deltas)
}

/// Refuses content that is not as expected, with the first differing byte's offset.
///
/// # Errors
/// [`ErrorKind::Miscompare`].
pub(crate) fn miscompare(found: &[u8], expected: &[u8]) -> Result<(), BlockError> {
    match found.iter().zip(expected).position(|(found, expected)| found != expected) {
        None => Ok(()),
        Some(at) => Err(BlockError::new(ErrorKind::Miscompare, "the content differs here").with_value(at as u64)),
    }
}

/// The blocks of a page that a byte range touches.
const fn blocks_in(start: u64, len: u64) -> std::ops::Range<u64> {
    start / BLOCK_BYTES..(start + len).div_ceil(BLOCK_BYTES)
}

/// The first block that a span touches and how many.
pub(crate) fn blocks_of(span: Span) -> (u32, u32) {
    let first = span.start / BLOCK_BYTES;
    let end = (span.start + span.len).div_ceil(BLOCK_BYTES);
    (first as u32, (end - first) as u32)
}

/// True if `addr` begins on the disk where `piece` ends.
fn follows(piece: &Piece, addr: ChunkAddr, chunk_bytes: u64) -> bool {
    piece.addr.disk == addr.disk
        && u64::from(piece.addr.chunk) * chunk_bytes + piece.within + piece.data.len() as u64
            == u64::from(addr.chunk) * chunk_bytes
}

/// Deltas for those of the chunk `slots` whose place no delta says yet.
fn push_chunks(deltas: &mut Vec<Delta>, place: Place, extent: &Extent, slots: std::ops::Range<usize>) {
    debug_assert!(slots.end <= CHUNKS_PER_EXTENT);
    let mut run: Option<(u8, Vec<ChunkAddr>)> = None;
    let id = extent.record.id;
    for slot in slots {
        if extent.chunks_pushed & 1 << slot != 0 {
            if let Some((first, addrs)) = run.take() {
                deltas.push(Delta::Chunks { place, id, first, addrs });
            }
            continue;
        }
        let addr = extent.record.home.chunk(slot).expect("prepared");
        run.get_or_insert_with(|| (slot as u8, Vec::new())).1.push(addr);
    }
    if let Some((first, addrs)) = run {
        deltas.push(Delta::Chunks { place, id, first, addrs });
    }
}
