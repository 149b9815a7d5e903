//! Discards and zeroes: changes of the map alone, but for blocks that are covered in part.

use std::rc::Rc;

use sds_block::{BlockError, ErrorKind};
use sds_io::{Buffer, Clock, Io};

use crate::core::{PoolCore, VolumeCore};
use crate::delta::{Delta, Place};
use crate::extents::Extent;
use crate::page::{Page, PageState, Piece};
use crate::place::{BLOCK_BYTES, BlockNo, CHUNKS_PER_EXTENT, ChunkAddr, EXTENTS_PER_PAGE, ExtentId, ExtentIndex};
use crate::planted::Defect;
use crate::quarantine::{Quarantined, runs_of};
use crate::record::BlockState;
use crate::request::{Span, spans};
use crate::write::blocks_of;

impl<E: Io + Clock> PoolCore<E> {
    /// Makes `[start, start + len)` of the page read zeros; with `unmap` whole chunks and extents go back to the pool.
    /// True if a commit is needed to make it durable.
    pub(crate) async fn zero(
        self: &Rc<Self>,
        volume: &VolumeCore,
        page: &Rc<Page>,
        start: u64,
        len: u64,
        unmap: bool,
    ) -> Result<bool, BlockError> {
        let end = start + len;
        // Whole extents are held, so that no write is under way to a chunk that goes back.
        let per_extent = u64::from(self.shared.blocks_per_extent());
        let held = start / self.shared.extent_bytes * per_extent..end.div_ceil(self.shared.extent_bytes) * per_extent;
        let _range = page.locks.lock(held).await;
        if volume.closed.get() {
            return Err(BlockError::new(ErrorKind::DeviceGone, "the volume was deleted"));
        }
        let (first, last) = (start.next_multiple_of(BLOCK_BYTES).min(end), end / BLOCK_BYTES * BLOCK_BYTES);
        if first > last {
            self.zero_part_of_block(volume, page, start, end).await?;
            return Ok(true);
        }
        self.zero_part_of_block(volume, page, start, first).await?;
        let whole: Vec<Span> = spans(first, last - first, self.shared.extent_bytes).collect();
        for span in whole {
            self.zero_span(volume, page, span, unmap).await?;
        }
        self.zero_part_of_block(volume, page, last, end).await?;
        Ok(true)
    }

    /// Writes zeros over less than a block, unless it reads zeros already.
    async fn zero_part_of_block(
        self: &Rc<Self>,
        volume: &VolumeCore,
        page: &Rc<Page>,
        start: u64,
        end: u64,
    ) -> Result<(), BlockError> {
        if start >= end {
            return Ok(());
        }
        let mut pieces = Vec::new();
        for span in spans(start, end - start, self.shared.extent_bytes) {
            page.state.borrow().plan_read(volume.layer, span.slot, span.start, span.len, &mut pieces);
        }
        if matches!(pieces[..], [Piece::Zeros { .. }]) {
            return Ok(());
        }
        let zeros = Buffer::zeroed((end - start) as usize).share();
        self.write_locked(volume, page, start, zeros, false).await.map(|_| ())
    }

    /// Zeroes whole blocks of one extent.
    async fn zero_span(
        self: &Rc<Self>,
        volume: &VolumeCore,
        page: &Rc<Page>,
        span: Span,
        unmap: bool,
    ) -> Result<(), BlockError> {
        let in_part = span.len < self.shared.extent_bytes;
        if in_part && unmap && self.shared.planted.has(Defect::DiscardKeepsData) {
            return Ok(());
        }
        if page.state.borrow().entry(volume.layer, span.slot).is_hole() {
            return Ok(());
        }
        let _permit = self.shared.admit().await?;
        loop {
            let pushed = {
                let mut state = page.state.borrow_mut();
                let (first, count) = blocks_of(span);
                let extent = state.extent(state.entry(volume.layer, span.slot));
                let sealed = extent.is_some_and(|extent| extent.record.states.any_sealed(first, count));
                let Some((deltas, freed)) = zero_deltas(&state, volume, page, span, unmap) else { return Ok(()) };
                let pushed = self.shared.ledger().push(&deltas);
                if let Ok(lsn) = pushed {
                    for delta in deltas.iter().filter(|delta| delta.page().is_some()) {
                        state.apply(lsn, delta);
                    }
                    if sealed {
                        page.unsealed.set(lsn);
                    }
                    self.quarantine(Quarantined { runs: runs_of(freed), lsn, epoch: self.inflight.close() });
                }
                pushed
            };
            match pushed {
                Ok(_) => return Ok(()),
                Err(_) => self.shared.commit().await?,
            }
        }
    }
}

/// What zeroing the whole blocks of `span` changes, and the chunks that it frees. `None`: nothing changes.
fn zero_deltas(
    state: &PageState,
    volume: &VolumeCore,
    page: &Page,
    span: Span,
    unmap: bool,
) -> Option<(Vec<Delta>, Vec<ChunkAddr>)> {
    let id = state.entry(volume.layer, span.slot);
    let extent = state.extent(id).filter(|extent| extent.pushed)?;
    let index = ExtentIndex(page.key.page.0 * EXTENTS_PER_PAGE + span.slot as u64);
    let place = Place { tree: page.key.tree, index };
    let (first, count) = blocks_of(span);
    let to = if extent.record.base.is_hole() { BlockState::Absent } else { BlockState::Zero };
    let mut after = extent.record.states.clone();
    after.set(first, count, to, state.blocks_per_extent());
    let changes = !extent.record.states.all(first, count, to);
    if unmap && extent.record.base.is_hole() && after.none_is_data() {
        return Some(forget_extent(place, volume, extent));
    }
    let mut deltas = Vec::new();
    let mut freed = Vec::new();
    if changes {
        deltas.push(Delta::States { place, id, start: BlockNo(first), count, state: to });
    }
    if unmap {
        let per_chunk = state.blocks_per_extent() / CHUNKS_PER_EXTENT as u32;
        let slots = first / per_chunk..(first + count).div_ceil(per_chunk);
        for slot in slots.filter(|slot| after.none_is_data_in(slot * per_chunk, per_chunk)) {
            free_slot(&mut deltas, &mut freed, place, id, extent, slot as usize);
        }
    }
    if deltas.is_empty() {
        return None;
    }
    push_free(&mut deltas, place, &freed);
    Some((deltas, freed))
}

fn free_slot(
    deltas: &mut Vec<Delta>,
    freed: &mut Vec<ChunkAddr>,
    place: Place,
    id: ExtentId,
    extent: &Extent,
    slot: usize,
) {
    let Some(addr) = extent.record.home.chunk(slot) else { return };
    freed.push(addr);
    match deltas.last_mut() {
        Some(Delta::Unchunk { first, count, .. }) if usize::from(*first + *count) == slot => *count += 1,
        _ => deltas.push(Delta::Unchunk { place, id, first: slot as u8, count: 1 }),
    }
}

/// The extent has no data left and nothing under it: it goes, with all its chunks.
pub(crate) fn forget_extent(place: Place, volume: &VolumeCore, extent: &Extent) -> (Vec<Delta>, Vec<ChunkAddr>) {
    let id = extent.record.id;
    let freed: Vec<ChunkAddr> = extent.record.home.chunks().map(|(_, addr)| addr).collect();
    let mut deltas =
        vec![Delta::Entry { place, layer: volume.layer, entry: extent.record.base }, Delta::Gone { place, id }];
    push_free(&mut deltas, place, &freed);
    (deltas, freed)
}

/// The chunks are nobody's. None of them is tentative: whole extents are held.
pub(crate) fn push_free(deltas: &mut Vec<Delta>, place: Place, freed: &[ChunkAddr]) {
    if !freed.is_empty() {
        deltas.push(Delta::Free { tree: place.tree, runs: runs_of(freed.to_vec()) });
    }
}
