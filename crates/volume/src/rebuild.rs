//! The second pass of an import: pages from what the owner tables claim of them.
//!
//! Everything about an extent concerns one page: its id's row of the extent table was granted to that page, and so were
//! all generations of the id; and so does everything about one place of a layer. So each page is judged alone.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use sds_io::{Clock, Io, MetaBatch, MetaStore};

use crate::catalog::Catalog;
use crate::error::{PoolError, PoolErrorKind};
use crate::extents::Extent;
use crate::image::page_rows;
use crate::layout::catalog::encode_catalog;
use crate::layout::claim::{CLAIMS_PREFIX, Claim, decode_claims, page_of_claims_key};
use crate::layout::owner::{OwnerEntry, OwnerGeometry};
use crate::layout::rows::{self, SEGMENT_WORDS};
use crate::owner::OwnerTable;
use crate::page::PageState;
use crate::place::{CHUNKS_PER_EXTENT, ChunkAddr, DiskNo, ExtentIndex, LayerId, Lsn, PageKey, RECORDS_PER_ROW};
use crate::record::{Home, Record, States};
use crate::recover::{Checkpoint, Member};
use crate::space::{SEGMENT_CHUNKS, SegmentImage};

/// Pages that one batch to the MetaStore holds.
const BATCH_PAGES: usize = 64;
/// Rows of claims that are read at a time.
const SCAN_ROWS_MAX: usize = 64;
/// Chunks whose owner entries are to be cleared that are remembered before they are.
const STALE_MAX: usize = 1 << 16;

/// What the disks say of one extent.
struct Found {
    entry: OwnerEntry,
    chunks: [Option<(Lsn, ChunkAddr)>; CHUNKS_PER_EXTENT],
    states: States,
    lsn: Lsn,
}

/// A page's extents, by the index of their id.
type Extents = BTreeMap<u64, Found>;

/// What is built beside the pages.
struct Rebuild {
    blocks: u32,
    before: Lsn,
    catalog: Catalog,
    /// Bitmaps of allocated chunks, by disk and segment.
    bits: BTreeMap<(DiskNo, u32), Vec<u64>>,
    /// Claims that do not hold.
    stale: Vec<(Lsn, ChunkAddr)>,
    batch: MetaBatch,
    batch_pages: usize,
}

/// Makes all rows up to `before` of the claims that are in the MetaStore, which has nothing else.
pub(crate) async fn rebuild<E: Io + Clock>(
    io: &E,
    meta: &dyn MetaStore,
    members: &[Member],
    catalog: Catalog,
    before: Lsn,
) -> Result<Checkpoint, PoolError> {
    let layout = &members[0].label.layout;
    let geometry = OwnerGeometry::new(layout.extent_bytes);
    let (bits, stale, batch) = (BTreeMap::new(), Vec::new(), MetaBatch::new());
    let blocks = members[0].blocks_per_extent();
    let mut to = Rebuild { blocks, before, catalog, bits, stale, batch, batch_pages: 0 };
    let mut page: Option<(PageKey, Extents)> = None;
    let mut after = Vec::new();
    loop {
        let read = |error| PoolError::new(PoolErrorKind::Meta, "the MetaStore can't be read").with_source(error);
        let found = meta.scan(CLAIMS_PREFIX.to_vec(), after, SCAN_ROWS_MAX).await.map_err(read)?;
        let Some((last, _)) = found.last() else { break };
        after = last.clone();
        for (key, value) in found {
            let damaged = PoolError::new(PoolErrorKind::Corrupt, "a MetaStore row is damaged");
            let Some(of) = page_of_claims_key(&key) else { return Err(damaged) };
            let claims = decode_claims(&value, &geometry).map_err(|error| damaged.with_source(error))?;
            if let Some((other, extents)) = page.take_if(|(other, _)| *other != of) {
                to.add_page(other, extents);
                to.make_room(io, meta, members).await?;
            }
            let extents = &mut page.get_or_insert_with(|| (of, Extents::new())).1;
            claims.iter().for_each(|claim| take(extents, &mut to.stale, claim, blocks));
            to.batch.push((key, None));
        }
    }
    if let Some((key, extents)) = page {
        to.add_page(key, extents);
    }
    clear_stale(io, members, &to.stale).await?;
    to.finish(meta).await
}

impl Rebuild {
    fn add_page(&mut self, key: PageKey, mut extents: Extents) {
        one_a_place(&mut extents, &mut self.stale);
        let mut page = PageState::empty(self.blocks);
        page.lsn = self.before;
        for (index, found) in extents {
            let chunks = found.chunks.map(|chunk| chunk.map(|(_, addr)| addr));
            for addr in chunks.iter().flatten() {
                let segment = self.bits.entry((addr.disk, addr.chunk / SEGMENT_CHUNKS)).or_default();
                segment.resize(SEGMENT_WORDS, 0);
                let bit = addr.chunk % SEGMENT_CHUNKS;
                segment[(bit / 64) as usize] |= 1 << (bit % 64);
            }
            let OwnerEntry { id, birth, index: place, base, .. } = found.entry;
            let record =
                Record { id, birth, index: place, base, home: Home::from_chunks(chunks), states: found.states };
            let row = index / RECORDS_PER_ROW;
            if !page.rows.contains(&row) {
                page.rows.push(row);
            }
            self.catalog.next_row = self.catalog.next_row.max(row + 1);
            page.dirt.ids.insert(index);
            page.add(Extent::stored(record, found.lsn));
        }
        self.batch.extend(page_rows(key, &page));
        self.batch_pages += 1;
    }

    async fn make_room<E: Io>(&mut self, io: &E, meta: &dyn MetaStore, members: &[Member]) -> Result<(), PoolError> {
        if self.batch_pages >= BATCH_PAGES {
            self.batch_pages = 0;
            meta.put(std::mem::take(&mut self.batch)).await.map_err(unwritten)?;
        }
        if self.stale.len() >= STALE_MAX {
            clear_stale(io, members, &std::mem::take(&mut self.stale)).await?;
        }
        Ok(())
    }

    /// Writes what is left, then free space, the catalog, and that it is whole.
    async fn finish(mut self, meta: &dyn MetaStore) -> Result<Checkpoint, PoolError> {
        meta.put(self.batch).await.map_err(unwritten)?;
        let lsn = self.before;
        let image = |((disk, segment), bits)| SegmentImage { disk, segment, lsn, bits };
        let segments: Vec<SegmentImage> = std::mem::take(&mut self.bits).into_iter().map(image).collect();
        let row = |image: &SegmentImage| {
            let key = rows::segment_key(image.disk, image.segment);
            (key, Some(rows::encode_segment(image.lsn, &image.bits)))
        };
        for some in segments.chunks(SCAN_ROWS_MAX) {
            meta.put(some.iter().map(row).collect()).await.map_err(unwritten)?;
        }
        let catalog = (rows::CATALOG_KEY.to_vec(), Some(encode_catalog(&self.catalog)));
        meta.put(vec![catalog, (rows::CHECKPOINT_KEY.to_vec(), Some(rows::encode_checkpoint(lsn)))])
            .await
            .map_err(unwritten)?;
        Ok(Checkpoint { lsn, catalog: self.catalog, segments })
    }
}

fn unwritten(error: sds_io::MetaError) -> PoolError {
    PoolError::new(PoolErrorKind::Meta, "the MetaStore can't be written").with_source(error)
}

/// Takes a claim, or what it replaces goes to `stale`.
fn take(extents: &mut Extents, stale: &mut Vec<(Lsn, ChunkAddr)>, claim: &Claim, blocks: u32) {
    let entry = &claim.entry;
    let new = || Found {
        entry: entry.clone(),
        chunks: [None; CHUNKS_PER_EXTENT],
        states: States::absent(blocks),
        lsn: entry.lsn,
    };
    let addr = |at: u8| ChunkAddr { chunk: claim.addr.chunk + u32::from(at), ..claim.addr };
    let found = extents.entry(entry.id.index()).or_insert_with(new);
    if found.entry.id.generation() > entry.id.generation() {
        return stale.extend((0..claim.count).map(|at| (entry.lsn, addr(at))));
    }
    if found.entry.id.generation() < entry.id.generation() {
        stale.extend(found.chunks.iter().flatten());
        *found = new();
    }
    let per_chunk = blocks / CHUNKS_PER_EXTENT as u32;
    for at in 0..claim.count {
        let slot = usize::from(claim.slot + at);
        if found.chunks[slot].is_some_and(|(other, _)| other >= entry.lsn) {
            stale.push((entry.lsn, addr(at)));
            continue;
        }
        stale.extend(found.chunks[slot].replace((entry.lsn, addr(at))));
        if entry.lsn >= found.lsn {
            found.entry.base = entry.base;
        }
        found.lsn = found.lsn.max(entry.lsn);
        let first = slot as u32 * per_chunk;
        match entry.whole_run {
            Some(state) => found.states.set(first, per_chunk, state, blocks),
            None => (first..).zip(&entry.states).for_each(|(block, state)| found.states.set(block, 1, *state, blocks)),
        }
    }
}

/// Of two extents that one layer bore at one place the older one is gone: its entry outlived it.
fn one_a_place(extents: &mut Extents, stale: &mut Vec<(Lsn, ChunkAddr)>) {
    let mut newest: FxHashMap<(LayerId, ExtentIndex), (Lsn, u64)> = FxHashMap::default();
    for (index, found) in extents.iter() {
        let newest = newest.entry((found.entry.birth, found.entry.index)).or_insert((found.lsn, *index));
        *newest = (*newest).max((found.lsn, *index));
    }
    extents.retain(|index, found| {
        let stays = newest[&(found.entry.birth, found.entry.index)].1 == *index;
        if !stays {
            stale.extend(found.chunks.iter().flatten());
        }
        stays
    });
}

/// A crash amid a checkpoint leaves entries of chunks that are nobody's any more; the pages that are built here do not
/// know of them, so no later checkpoint would clear them, and the next import would believe them.
async fn clear_stale<E: Io>(io: &E, members: &[Member], stale: &[(Lsn, ChunkAddr)]) -> Result<(), PoolError> {
    let failed = |error| PoolError::new(PoolErrorKind::Io, "an owner table can't be written").with_source(error);
    for member in members {
        let ours = stale.iter().filter(|(_, addr)| addr.disk == member.label.disk_no);
        let updates: Vec<_> = ours.map(|(lsn, addr)| (addr.chunk, None, *lsn)).collect();
        if updates.is_empty() {
            continue;
        }
        let layout = member.label.layout.clone();
        let mut table = OwnerTable::new(io.clone(), member.disk, layout, member.label.disk_uuid);
        table.update(updates).await.map_err(failed)?;
        let failed = |error| PoolError::new(PoolErrorKind::Io, "an owner table can't be synced").with_source(error);
        table.sync().await.map_err(failed)?;
    }
    Ok(())
}
