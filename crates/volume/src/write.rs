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
use crate::page::{Page, PageState};
use crate::place::{BLOCK_BYTES, BlockNo, CHUNKS_PER_EXTENT, ChunkAddr, EXTENTS_PER_PAGE, ExtentId, ExtentIndex, Lsn};
use crate::planted::Defect;
use crate::quarantine::runs_of;
use crate::record::BlockState;
use crate::request::{Span, disk_error, spans};

/// A contiguous write to one disk.
struct Piece {
    addr: ChunkAddr,
    within: u64,
    data: Slice,
}

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
        if self.lacks_chunks(volume, &page.state.borrow(), start, len) {
            // A chunk is given a place by one who holds all of it, so that it can take the chunk back.
            drop(range);
            range = page.locks.lock(self.whole_chunks(start, len)).await;
        }
        let written = self.write_locked(volume, page, start, data, fua).await;
        drop(range);
        written
    }

    /// As [`PoolCore::write`], by one who holds the range; and all of each chunk that has no place yet.
    pub(crate) async fn write_locked(
        self: &Rc<Self>,
        volume: &VolumeCore,
        page: &Rc<Page>,
        start: u64,
        data: Slice,
        fua: bool,
    ) -> Result<bool, BlockError> {
        if volume.closed.get() {
            return Err(BlockError::new(ErrorKind::DeviceGone, "the volume was deleted"));
        }
        let len = data.len() as u64;
        let bad = self.unseal(volume, page, start, len).await?;
        if let Some(depends_on) = self.overwrites(volume, page, start, len) {
            // FUA alone makes the data durable if nothing that its blocks depend on is still undurable.
            let pending = depends_on > self.shared.ledger().durable;
            let durable = fua && (!pending || self.shared.planted.has(Defect::FuaIgnoresPending));
            self.write_pieces(volume, page, start, &data, durable).await?;
            self.heal(page, &bad).await?;
            return Ok(fua && (!durable || !bad.is_empty()));
        }
        let mut freed = None;
        for _ in 0..=2 * self.shared.tuning.space_waits_max {
            let permit = self.shared.admit().await?;
            let written = self.write_first(volume, page, start, data.clone()).await;
            if written.is_err() {
                self.take_back(volume, page, start, len);
            }
            drop(permit);
            match written {
                Ok(()) => {
                    self.heal(page, &bad).await?;
                    return Ok(fua);
                }
                Err(error) if error.kind() == ErrorKind::NoSpace => {}
                Err(error) => return Err(error),
            }
            // What it has it gave back, so that whoever frees space is not held up by it. One more try, with an ear to
            // what comes free meanwhile; then it waits.
            freed = match freed {
                None => Some(self.shared.ledger().space_to_come()),
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

    /// Writes where blocks are not data yet: places, whole blocks, data, then the map.
    async fn write_first(
        self: &Rc<Self>,
        volume: &VolumeCore,
        page: &Rc<Page>,
        start: u64,
        data: Slice,
    ) -> Result<(), BlockError> {
        self.prepare(volume, page, start, data.len() as u64).await?;
        let (start, data) = self.fill_edges(volume, page, start, data).await?;
        if self.shared.planted.has(Defect::MapBeforeData) {
            self.publish(volume, page, start, data.len() as u64).await?;
        }
        self.write_pieces(volume, page, start, &data, false).await?;
        self.publish(volume, page, start, data.len() as u64).await
    }

    /// The blocks of all chunks that the range touches.
    fn whole_chunks(&self, start: u64, len: u64) -> std::ops::Range<u64> {
        let chunk_bytes = self.shared.chunk_bytes();
        let first = start / chunk_bytes * chunk_bytes;
        let end = (start + len).div_ceil(chunk_bytes) * chunk_bytes;
        first / BLOCK_BYTES..end / BLOCK_BYTES
    }

    /// True if a chunk that the range touches has no place in an extent of `volume`'s layer.
    fn lacks_chunks(&self, volume: &VolumeCore, state: &PageState, start: u64, len: u64) -> bool {
        spans(start, len, self.shared.extent_bytes).any(|span| {
            let extent = state.extent(state.entry(volume.layer, span.slot));
            match extent.filter(|extent| extent.record.birth == volume.layer) {
                Some(extent) => self.slots(span).any(|slot| extent.record.home.chunk(slot).is_none()),
                None => true,
            }
        })
    }

    /// The chunk slots that a span touches.
    fn slots(&self, span: Span) -> std::ops::Range<usize> {
        let chunk_bytes = self.shared.chunk_bytes();
        (span.start / chunk_bytes) as usize..(span.start + span.len).div_ceil(chunk_bytes) as usize
    }

    /// A write was refused: the places that it got and no delta tells of are free again.
    fn take_back(&self, volume: &VolumeCore, page: &Rc<Page>, start: u64, len: u64) {
        let mut chunks = Vec::new();
        let mut state = page.state.borrow_mut();
        for span in spans(start, len, self.shared.extent_bytes) {
            let id = state.entry(volume.layer, span.slot);
            let ours = state.extent_mut(id).filter(|extent| extent.record.birth == volume.layer);
            let Some(extent) = ours else { continue };
            for slot in self.slots(span).filter(|slot| extent.chunks_pushed & 1 << slot == 0) {
                chunks.extend(extent.record.home.chunk(slot));
                extent.record.home.set(slot, None);
            }
        }
        drop(state);
        self.shared.ledger().release_grants(&runs_of(chunks));
    }

    /// If every touched block is data of an extent that `volume` may write in place: the last group that changed one of
    /// these extents.
    fn overwrites(&self, volume: &VolumeCore, page: &Rc<Page>, start: u64, len: u64) -> Option<Lsn> {
        let mut state = page.state.borrow_mut();
        let mut depends_on = Lsn::default();
        for span in spans(start, len, self.shared.extent_bytes) {
            let id = state.entry(volume.layer, span.slot);
            let extent = state.extent_mut(id).filter(|extent| extent.record.birth == volume.layer)?;
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
        page: &Rc<Page>,
        start: u64,
        len: u64,
    ) -> Result<(), BlockError> {
        let spans: Vec<Span> = spans(start, len, self.shared.extent_bytes).collect();
        for span in spans {
            let id = self.extent_for(volume, page, span.slot).await?;
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

    /// The extent that `volume` writes at `slot`: the one there if the volume's layer bore it, else a new one over it.
    async fn extent_for(&self, volume: &VolumeCore, page: &Rc<Page>, slot: usize) -> Result<ExtentId, BlockError> {
        loop {
            {
                let mut state = page.state.borrow_mut();
                let id = state.entry(volume.layer, slot);
                if state.extent(id).is_some_and(|extent| extent.record.birth == volume.layer) {
                    return Ok(id);
                }
                let index = ExtentIndex(page.key.page.0 * EXTENTS_PER_PAGE + slot as u64);
                if let Some(id) = state.bear(volume.layer, index, id) {
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
        volume: &VolumeCore,
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
            let old = self.read(volume, page, first, start - first).await?;
            bytes[..head].copy_from_slice(&old.to_vec());
        }
        bytes[head..head + data.len()].copy_from_slice(data.as_ref());
        if last > end {
            let old = self.read(volume, page, end, last - end).await?;
            bytes[head + data.len()..].copy_from_slice(&old.to_vec());
        }
        Ok((first, whole.share()))
    }

    /// Writes `data` where the map has byte `start` on.
    async fn write_pieces(
        &self,
        volume: &VolumeCore,
        page: &Rc<Page>,
        start: u64,
        data: &Slice,
        durable: bool,
    ) -> Result<(), BlockError> {
        let _inflight = self.inflight.enter();
        let pieces = self.pieces(volume, &page.state.borrow(), start, data);
        let written = if let [piece] = &pieces[..] {
            self.write_piece(piece, durable).await
        } else {
            let writes = pieces.iter().map(|piece| self.write_piece(piece, durable)).collect();
            join_all(writes).await.into_iter().collect()
        };
        if written.is_err() {
            let mut state = page.state.borrow_mut();
            for span in spans(start, data.len() as u64, self.shared.extent_bytes) {
                let id = state.entry(volume.layer, span.slot);
                state.extent_mut(id).into_iter().for_each(|extent| extent.rounds = Extent::NEVER_SEALED);
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

    fn pieces(&self, volume: &VolumeCore, state: &PageState, start: u64, data: &Slice) -> Vec<Piece> {
        let chunk_bytes = self.shared.chunk_bytes();
        let mut pieces: Vec<Piece> = Vec::with_capacity(1);
        for span in spans(start, data.len() as u64, self.shared.extent_bytes) {
            let extent = state.extent(state.entry(volume.layer, span.slot)).expect("prepared");
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

    /// Pushes what the write of these whole blocks changes in the map, then changes it.
    async fn publish(&self, volume: &VolumeCore, page: &Rc<Page>, start: u64, len: u64) -> Result<(), BlockError> {
        loop {
            let pushed = {
                let mut state = page.state.borrow_mut();
                let deltas = self.write_deltas(volume, page, &state, start, len);
                if deltas.is_empty() {
                    return Ok(());
                }
                let pushed = self.shared.ledger().push(&deltas);
                if let Ok(lsn) = pushed {
                    for delta in &deltas {
                        state.apply(lsn, delta);
                    }
                }
                pushed
            };
            match pushed {
                Ok(_) => return Ok(()),
                Err(_) => self.shared.commit().await?,
            }
        }
    }

    fn write_deltas(
        &self,
        volume: &VolumeCore,
        page: &Rc<Page>,
        state: &PageState,
        start: u64,
        len: u64,
    ) -> Vec<Delta> {
        let mut deltas = Vec::with_capacity(3);
        for span in spans(start, len, self.shared.extent_bytes) {
            let id = state.entry(volume.layer, span.slot);
            let extent = state.extent(id).expect("prepared");
            let index = ExtentIndex(page.key.page.0 * EXTENTS_PER_PAGE + span.slot as u64);
            let place = Place { tree: page.key.tree, index };
            // Said again with each new chunk: after a crash amid a checkpoint this chunk may be the only one that owner
            // tables or the journal still know of.
            if !extent.pushed || self.slots(span).any(|slot| extent.chunks_pushed & 1 << slot == 0) {
                deltas.push(Delta::Extent { place, layer: volume.layer, id, base: extent.record.base });
            }
            push_chunks(&mut deltas, place, extent, self.slots(span));
            let (first, count) = blocks_of(span);
            if !extent.record.states.all_data(first, count) {
                deltas.push(Delta::States { place, id, start: BlockNo(first), count, state: BlockState::Data });
            }
        }
        deltas
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
        let found = self.read(volume, page, start, len as u64).await?.to_vec();
        miscompare(&found, &data.as_ref()[..len])?;
        self.write_locked(volume, page, start, data.slice(len, len), false).await.map(|_| ())
    }
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
