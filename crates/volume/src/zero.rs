//! Discards and zeroes: changes of the map alone, but for blocks that are covered in part.
//!
//! Where nothing lies under a layer's own extent, what is zeroed goes back to the pool. Where something does, it must
//! not be seen again: blocks become *zero* in an extent of the layer's own, which has a chunk for them, because owner
//! tables say of chunks what their blocks are. A whole extent takes one chunk, and inherits nothing. The downside: a
//! discard over a snapshot may need space, and is refused when there is none.

use std::rc::Rc;

use sds_block::BlockError;
use sds_io::{Buffer, Clock, Io};

use crate::catalog::Catalog;
use crate::core::{PoolCore, VolumeCore};
use crate::delta::{Delta, Place};
use crate::extents::Extent;
use crate::forest::{Needs, Placed, View, free};
use crate::page::{Page, PageState, Piece};
use crate::place::{BLOCK_BYTES, BlockNo, CHUNKS_PER_EXTENT, ChunkAddr, EXTENTS_PER_PAGE, ExtentId, PageKey};
use crate::planted::Defect;
use crate::record::{BlockState, Record, States};
use crate::request::{Span, spans};
use crate::write::{Content, blocks_of, push_gone, push_with_free};

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
        let change = self.begin_change(volume).await?;
        let view = change.view();
        let (first, last) = (start.next_multiple_of(BLOCK_BYTES).min(end), end / BLOCK_BYTES * BLOCK_BYTES);
        if first > last {
            self.zero_part_of_block(volume, view, page, start, end).await?;
            return Ok(true);
        }
        self.zero_part_of_block(volume, view, page, start, first).await?;
        let whole: Vec<Span> =
            spans(first, self.to_end(volume, page, last) - first, self.shared.extent_bytes).collect();
        for span in whole {
            self.zero_span(volume, view, page, span, unmap).await?;
        }
        self.zero_part_of_block(volume, view, page, last, end).await?;
        Ok(true)
    }

    /// The end of a range that ends at byte `last` of the page: where the volume ends amid an extent, that of the
    /// extent. Nobody sees what is behind, and what lies under all the rest is not kept for it.
    fn to_end(&self, volume: &VolumeCore, page: &Page, last: u64) -> u64 {
        let extent_bytes = self.shared.extent_bytes;
        if last % extent_bytes == 0 {
            return last;
        }
        // This core may not know yet that it grew; the catalog does before anybody writes there.
        let size = self.shared.ledger().catalog.volumes.get(&volume.uuid).map(|entry| entry.size_bytes);
        let in_volume = page.key.page.0 * EXTENTS_PER_PAGE * extent_bytes + last;
        if size == Some(in_volume) { last.next_multiple_of(extent_bytes) } else { last }
    }

    /// Writes zeros over less than a block, unless it reads zeros already.
    async fn zero_part_of_block(
        self: &Rc<Self>,
        volume: &VolumeCore,
        view: &View,
        page: &Rc<Page>,
        start: u64,
        end: u64,
    ) -> Result<(), BlockError> {
        if start >= end || reads_zeros(&page.state.borrow(), view, spans(start, end - start, self.shared.extent_bytes))
        {
            return Ok(());
        }
        let zeros = Buffer::zeroed((end - start) as usize).share();
        self.write_locked(volume, view, page, start, zeros, false).await.map(|_| ())
    }

    /// Zeroes whole blocks of one extent.
    async fn zero_span(
        self: &Rc<Self>,
        volume: &VolumeCore,
        view: &View,
        page: &Rc<Page>,
        span: Span,
        unmap: bool,
    ) -> Result<(), BlockError> {
        let in_part = span.len < self.shared.extent_bytes;
        if in_part && unmap && self.shared.planted.has(Defect::DiscardKeepsData) {
            return Ok(());
        }
        let over = match Over::of(&page.state.borrow(), view, span) {
            None => return Ok(()),
            Some(over) => over,
        };
        if self.shared.planted.has(Defect::DiscardShowsOld) && unmap && !matches!(over, Over::Nothing) {
            return Ok(());
        }
        match over {
            Over::Nothing => {
                self.zero_by(page, span, |state, _| zero_deltas(state, view, page.key, span, unmap)).await.map(drop)
            }
            Over::Part => {
                let start = span.slot as u64 * self.shared.extent_bytes + span.start;
                self.change_blocks(volume, view, page, start, Content::Zeros(span.len)).await
            }
            Over::Whole { blank } => {
                let open = self.open_layers();
                let hide = |state: &PageState, catalog: &Catalog| {
                    hide_deltas(state, Needs { catalog, open: &open }, view, page.key, span, unmap)
                };
                if self.zero_by(page, span, hide).await? || blank {
                    return Ok(());
                }
                let start = span.slot as u64 * self.shared.extent_bytes;
                self.change_blocks(volume, view, page, start, Content::Nothing).await
            }
        }
    }

    /// Pushes what `deltas` says, and the chunks that it frees, then changes the page. False if it says nothing.
    async fn zero_by(
        &self,
        page: &Page,
        span: Span,
        deltas: impl Fn(&PageState, &Catalog) -> Option<(Vec<Delta>, Vec<ChunkAddr>)>,
    ) -> Result<bool, BlockError> {
        let _permit = self.shared.admit().await?;
        loop {
            let pushed = {
                let mut state = page.state.borrow_mut();
                let mut ledger = self.shared.ledger();
                let Some((mut deltas, freed)) = deltas(&state, &ledger.catalog) else { return Ok(false) };
                if deltas.is_empty() {
                    return Ok(true);
                }
                let pushed = push_with_free(&mut ledger, page.key, &mut deltas, &freed);
                drop(ledger);
                if let Ok(lsn) = pushed {
                    let (first, count) = blocks_of(span);
                    let is_sealed = |extent: &Extent| extent.record.states.any_sealed(first, count);
                    if deltas.iter().filter_map(Delta::extent).any(|id| state.extent(id).is_some_and(is_sealed)) {
                        page.unsealed.set(lsn);
                    }
                    self.applied(&mut state, lsn, &deltas, freed);
                }
                pushed
            };
            match pushed {
                Ok(_) => return Ok(true),
                Err(_) => self.shared.commit().await?,
            }
        }
    }
}

/// What zeroing whole blocks of an extent has to do with.
pub(crate) enum Over {
    /// The layer's own extent, and nothing under it.
    Nothing,
    /// There is something under it, or all that is there is inherited; some blocks stay.
    Part,
    /// The same, and no block stays.
    Whole {
        /// None of it is the layer's own, and there is no data in its chain.
        blank: bool,
    },
}

impl Over {
    /// `None`: there is nothing to do.
    pub(crate) fn of(state: &PageState, view: &View, span: Span) -> Option<Self> {
        let mut seen = state.seen(view, span.slot);
        let top = seen.next()?;
        let blocks = state.blocks_per_extent();
        let owned = view.owns(top.record.birth);
        if owned && seen.next().is_none() {
            return Some(Self::Nothing);
        }
        let (first, count) = blocks_of(span);
        let mut after = if owned { top.record.states.clone() } else { States::absent(blocks) };
        after.set(first, count, BlockState::Zero, blocks);
        if after.all(0, blocks, BlockState::Zero) || (owned && top.record.base.is_hole() && after.none_is_data()) {
            let has_data = |extent: &Extent| !extent.record.states.none_is_data();
            let end = state.seen(view, span.slot).position(|extent| extent.record.ends_chain(blocks));
            let mut chain = state.seen(view, span.slot).take(end.map_or(usize::MAX, |end| end + 1));
            return Some(Self::Whole { blank: !owned && !chain.any(has_data) });
        }
        if reads_zeros(state, view, std::iter::once(span)) { None } else { Some(Self::Part) }
    }
}

fn reads_zeros(state: &PageState, view: &View, spans: impl Iterator<Item = Span>) -> bool {
    let mut pieces = Vec::new();
    for span in spans {
        state.plan_read(view, span.slot, span.start, span.len, &mut pieces);
    }
    matches!(pieces[..], [Piece::Zeros { .. }])
}

/// What makes all of an extent zero over something, and the chunks that it frees; no delta if it is so already. `None`:
/// the layer needs an extent of its own for it.
pub(crate) fn hide_deltas(
    state: &PageState,
    needs: Needs<'_>,
    view: &View,
    key: PageKey,
    span: Span,
    unmap: bool,
) -> Option<(Vec<Delta>, Vec<ChunkAddr>)> {
    let seen: Vec<&Extent> = state.seen(view, span.slot).collect();
    let (mut deltas, mut freed) = (Vec::new(), Vec::new());
    if unmap && seen.iter().all(|extent| needs.may_be_free(extent.record.birth, view.layer())) {
        // If nobody else needs what is there, all of it can go.
        let views = needs.views(key.tree, Some(view.layer()));
        let placed = state.placed(span.slot, &[]);
        let may_be_free = |extent: &Placed| needs.may_be_free(extent.birth, view.layer());
        let unneeded = free(placed, &views, may_be_free);
        if seen.iter().all(|extent| unneeded.contains(&extent.record.id)) {
            push_gone(&mut deltas, &mut freed, key, state, &unneeded);
            return Some((deltas, freed));
        }
    }
    let top = seen.first().filter(|extent| view.owns(extent.record.birth))?;
    let Record { id, index, birth, .. } = top.record;
    let place = Place { tree: key.tree, index };
    let blocks = state.blocks_per_extent();
    if !top.record.base.is_hole() {
        deltas.push(Delta::Extent { place, layer: birth, id, base: ExtentId::HOLE });
    }
    if !top.record.states.all(0, blocks, BlockState::Absent) {
        deltas.push(Delta::States { place, id, start: BlockNo(0), count: blocks, state: BlockState::Absent });
    }
    // One chunk stays: its owner entry tells an import of the extent.
    let kept = if unmap { 1 } else { CHUNKS_PER_EXTENT };
    for (slot, _) in top.record.home.chunks().skip(kept) {
        free_slot(&mut deltas, &mut freed, place, id, top, slot);
    }
    let unneeded = state.unneeded(needs, (key.tree, view.layer()), span.slot, &[id]);
    push_gone(&mut deltas, &mut freed, key, state, &unneeded);
    Some((deltas, freed))
}

/// What zeroing the whole blocks of `span` changes where nothing lies under the extent, and the chunks that it frees.
/// `None`: nothing changes.
pub(crate) fn zero_deltas(
    state: &PageState,
    view: &View,
    key: PageKey,
    span: Span,
    unmap: bool,
) -> Option<(Vec<Delta>, Vec<ChunkAddr>)> {
    let extent = state.own(view, span.slot).filter(|extent| extent.pushed)?;
    let Record { id, index, .. } = extent.record;
    let place = Place { tree: key.tree, index };
    let (first, count) = blocks_of(span);
    let mut after = extent.record.states.clone();
    after.set(first, count, BlockState::Absent, state.blocks_per_extent());
    let (mut deltas, mut freed) = (Vec::new(), Vec::new());
    if unmap && after.none_is_data() {
        push_gone(&mut deltas, &mut freed, key, state, &[id]);
        return Some((deltas, freed));
    }
    if !extent.record.states.all(first, count, BlockState::Absent) {
        deltas.push(Delta::States { place, id, start: BlockNo(first), count, state: BlockState::Absent });
    }
    if unmap {
        let per_chunk = state.blocks_per_extent() / CHUNKS_PER_EXTENT as u32;
        let slots = first / per_chunk..(first + count).div_ceil(per_chunk);
        for slot in slots.filter(|slot| after.none_is_data_in(slot * per_chunk, per_chunk)) {
            free_slot(&mut deltas, &mut freed, place, id, extent, slot as usize);
        }
    }
    if deltas.is_empty() { None } else { Some((deltas, freed)) }
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
