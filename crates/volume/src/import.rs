//! Rebuilds the MetaStore from what the disks say: catalog slots and owner tables.
//!
//! Owner tables are complete up to where the journal starts, and may be newer in places; the journal, replayed from its
//! start over what is built here, brings every page to its end, because each change from there on is in it.
//!
//! Layout: all extents found, by page, in memory at once: 1.7 kB an extent at the peak (docs/BENCHMARKS.md), so 10 TiB
//! of 1 MiB extents take 18 GB. A larger pool would be read in passes, a range of pages each.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};
use sds_io::{Clock, DiskId, Io, MetaStore};

use crate::catalog::Catalog;
use crate::error::{PoolError, PoolErrorKind};
use crate::extents::Extent;
use crate::format::clear_meta;
use crate::image::page_rows;
use crate::label_io::{SlotError, read_catalog};
use crate::layout::catalog::{decode_catalog, encode_catalog};
use crate::layout::owner::OwnerEntry;
use crate::layout::rows::{self, SEGMENT_WORDS};
use crate::owner::OwnerTable;
use crate::page::PageState;
use crate::place::{CHUNKS_PER_EXTENT, ChunkAddr, ExtentIndex, LayerId, Lsn, PageKey, RECORDS_PER_ROW, TreeId};
use crate::record::{Home, Record, States};
use crate::recover::{Checkpoint, Member, require_disks};
use crate::space::{SEGMENT_CHUNKS, SegmentImage};

/// Pages that one batch to the MetaStore holds.
const BATCH_PAGES: usize = 64;

/// What the disks say of one extent.
struct Found {
    entry: OwnerEntry,
    chunks: [Option<(Lsn, ChunkAddr)>; CHUNKS_PER_EXTENT],
    states: States,
    lsn: Lsn,
}

/// Rebuilds everything up to the journal's `start`.
pub(crate) async fn import<E: Io + Clock>(
    io: &E,
    meta: &dyn MetaStore,
    members: &[Member],
    start: Lsn,
) -> Result<Checkpoint, PoolError> {
    let before = Lsn(start.0 - 1);
    let catalog = newest_catalog(io, members, before).await?;
    // What a missing disk holds would be forgotten: the next opening takes what this one stored for whole.
    require_disks(members, &catalog)?;
    let trees: FxHashSet<TreeId> = catalog.layers.values().map(|layer| layer.tree).collect();
    let blocks = members[0].blocks_per_extent();
    let mut extents: FxHashMap<u64, Found> = FxHashMap::default();
    let mut stale = Vec::new();
    for member in members {
        let table = OwnerTable::new(io.clone(), member.disk, member.label.layout.clone(), member.label.disk_uuid);
        let mut claims = Claims::default();
        let report = table.scan(|chunk, lsn, entry| claims.add(chunk, lsn, entry)).await;
        let failed = PoolError::new(PoolErrorKind::Io, "an owner table can't be read");
        for chunk in report.map_err(|error| failed.with_source(error))?.damaged {
            log::error!("{}: the owners of chunk {chunk} and on are lost", io.disk(member.disk).path);
        }
        for (chunk, lsn, entry) in claims.holding() {
            if trees.contains(&entry.tree) {
                let addr = ChunkAddr { disk: member.label.disk_no, chunk };
                take(&mut extents, &mut stale, addr, lsn, entry, blocks);
            }
        }
    }
    one_a_place(&mut extents, &mut stale);
    clear_stale(io, members, &stale).await?;
    build(meta, members, catalog, extents, before).await
}

async fn newest_catalog<E: Io>(io: &E, members: &[Member], before: Lsn) -> Result<Catalog, PoolError> {
    let mut newest: Option<Catalog> = None;
    for (disk, read) in read_catalogs(io, members).await {
        match read {
            Ok(catalog) if newest.as_ref().is_none_or(|other| other.lsn < catalog.lsn) => newest = Some(catalog),
            Ok(_) => {}
            Err(error) => log::warn!("{}: its catalog can't be used: {error}", io.disk(disk).path),
        }
    }
    newest
        .filter(|catalog| catalog.lsn >= before)
        .ok_or_else(|| PoolError::new(PoolErrorKind::Corrupt, "no disk has a catalog that the journal goes on from"))
}

/// What each disk's newest catalog slot says, or why it has none.
pub(crate) async fn read_catalogs<E: Io>(io: &E, members: &[Member]) -> Vec<(DiskId, Result<Catalog, SlotError>)> {
    let mut catalogs = Vec::with_capacity(members.len());
    for member in members {
        let read = match read_catalog(io, member.disk, &member.label.layout).await {
            Ok((_, bytes)) => decode_catalog(&bytes).map_err(SlotError::Decode),
            Err([error, _]) => Err(error),
        };
        catalogs.push((member.disk, read));
    }
    catalogs
}

/// What the owner table of one disk claims, and which claims hold: of a chunk within a whole run the newer one does.
#[derive(Default)]
struct Claims(BTreeMap<u32, (Lsn, Option<OwnerEntry>)>);

impl Claims {
    fn add(&mut self, chunk: u32, lsn: Lsn, entry: Option<OwnerEntry>) {
        self.0.insert(chunk, (lsn, entry));
    }

    /// Chunk by chunk, who has it since when; the entry's slot is the chunk's.
    fn holding(&self) -> Vec<(u32, Lsn, OwnerEntry)> {
        let mut holding = Vec::new();
        let mut run: Option<(u32, Lsn, &OwnerEntry)> = None;
        let mut at = 0;
        while let Some((chunk, (lsn, entry))) = self.0.range(at..).next() {
            at = chunk + 1;
            let of_run = run.filter(|(first, since, _)| chunk - first < CHUNKS_PER_EXTENT as u32 && since >= lsn);
            match entry {
                _ if of_run.is_some() => {}
                Some(entry) if entry.whole_run.is_some() => {
                    run = Some((*chunk, *lsn, entry));
                    for slot in 0..CHUNKS_PER_EXTENT as u32 {
                        let newer = self.0.get(&(chunk + slot)).is_some_and(|(other, _)| slot > 0 && other > lsn);
                        if !newer {
                            holding.push((chunk + slot, *lsn, OwnerEntry { slot: slot as u8, ..entry.clone() }));
                        }
                    }
                }
                Some(entry) => holding.push((*chunk, *lsn, entry.clone())),
                None => {}
            }
        }
        holding
    }
}

/// Takes a claim, or what it replaces goes to `stale`.
fn take(
    extents: &mut FxHashMap<u64, Found>,
    stale: &mut Vec<(Lsn, ChunkAddr)>,
    addr: ChunkAddr,
    lsn: Lsn,
    entry: OwnerEntry,
    blocks: u32,
) {
    let new = |entry: &OwnerEntry| Found {
        entry: entry.clone(),
        chunks: [None; CHUNKS_PER_EXTENT],
        states: States::absent(blocks),
        lsn,
    };
    let found = extents.entry(entry.id.index()).or_insert_with(|| new(&entry));
    if found.entry.id.generation() > entry.id.generation() {
        return stale.push((lsn, addr));
    }
    if found.entry.id.generation() < entry.id.generation() {
        stale.extend(found.chunks.iter().flatten());
        *found = new(&entry);
    }
    let slot = usize::from(entry.slot);
    if found.chunks[slot].is_some_and(|(other, _)| other >= lsn) {
        return stale.push((lsn, addr));
    }
    stale.extend(found.chunks[slot].replace((lsn, addr)));
    found.lsn = found.lsn.max(lsn);
    let per_chunk = blocks / CHUNKS_PER_EXTENT as u32;
    let first = slot as u32 * per_chunk;
    match entry.whole_run {
        Some(state) => found.states.set(first, per_chunk, state, blocks),
        None => (first..).zip(&entry.states).for_each(|(block, state)| found.states.set(block, 1, *state, blocks)),
    }
}

/// Of two extents that one layer bore at one place the older one is gone: its entry outlived it.
fn one_a_place(extents: &mut FxHashMap<u64, Found>, stale: &mut Vec<(Lsn, ChunkAddr)>) {
    let mut newest: FxHashMap<(TreeId, LayerId, ExtentIndex), (Lsn, u64)> = FxHashMap::default();
    for (index, found) in extents.iter() {
        let place = (found.entry.tree, found.entry.birth, found.entry.index);
        let newest = newest.entry(place).or_insert((found.lsn, *index));
        *newest = (*newest).max((found.lsn, *index));
    }
    extents.retain(|index, found| {
        let stays = newest[&(found.entry.tree, found.entry.birth, found.entry.index)].1 == *index;
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

/// Writes what was found to the MetaStore, which is empty before that.
async fn build(
    meta: &dyn MetaStore,
    members: &[Member],
    mut catalog: Catalog,
    extents: FxHashMap<u64, Found>,
    before: Lsn,
) -> Result<Checkpoint, PoolError> {
    let blocks = members[0].blocks_per_extent();
    clear_meta(meta).await?;
    let mut bits: BTreeMap<(u16, u32), Vec<u64>> = BTreeMap::new();
    let mut pages: BTreeMap<PageKey, PageState> = BTreeMap::new();
    for (index, found) in extents {
        let chunks = found.chunks.map(|chunk| chunk.map(|(_, addr)| addr));
        for addr in chunks.iter().flatten() {
            let segment = bits.entry((addr.disk.0, addr.chunk / SEGMENT_CHUNKS)).or_default();
            segment.resize(SEGMENT_WORDS, 0);
            let bit = addr.chunk % SEGMENT_CHUNKS;
            segment[(bit / 64) as usize] |= 1 << (bit % 64);
        }
        let OwnerEntry { id, tree, birth, index: place, base, .. } = found.entry;
        let key = PageKey { tree, page: place.page() };
        let page = pages.entry(key).or_insert_with(|| PageState::empty(blocks));
        let record = Record { id, birth, index: place, base, home: Home::from_chunks(chunks), states: found.states };
        let row = index / RECORDS_PER_ROW;
        if !page.rows.contains(&row) {
            page.rows.push(row);
        }
        catalog.next_row = catalog.next_row.max(row + 1);
        page.set_entry(birth, place.slot(), id);
        page.dirt.ids.insert(index);
        page.extents.insert(Extent::stored(record, found.lsn));
        page.lsn = before;
    }
    let pages: Vec<(PageKey, PageState)> = pages.into_iter().collect();
    let failed = |error| PoolError::new(PoolErrorKind::Meta, "the MetaStore can't be written").with_source(error);
    for batch in pages.chunks(BATCH_PAGES) {
        meta.put(batch.iter().flat_map(|(key, state)| page_rows(*key, state)).collect()).await.map_err(failed)?;
    }
    let image = |((disk, segment), bits)| SegmentImage { disk: crate::place::DiskNo(disk), segment, lsn: before, bits };
    let segments: Vec<SegmentImage> = bits.into_iter().map(image).collect();
    let mut last: sds_io::MetaBatch = segments
        .iter()
        .map(|image| (rows::segment_key(image.disk, image.segment), Some(rows::encode_segment(image.lsn, &image.bits))))
        .collect();
    last.push((rows::CATALOG_KEY.to_vec(), Some(encode_catalog(&catalog))));
    last.push((rows::CHECKPOINT_KEY.to_vec(), Some(rows::encode_checkpoint(before))));
    meta.put(last).await.map_err(failed)?;
    Ok(Checkpoint { lsn: before, catalog, segments })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::{ExtentId, Generation};
    use crate::record::BlockState;

    fn entry(index: u64, slot: u8, whole_run: bool) -> OwnerEntry {
        let whole_run = whole_run.then_some(BlockState::Data);
        OwnerEntry {
            id: ExtentId::new(index, Generation(1)),
            tree: TreeId(1),
            birth: LayerId(1),
            index: ExtentIndex(index),
            base: ExtentId::HOLE,
            slot,
            whole_run,
            states: Vec::new(),
            lsn: Lsn(1),
        }
    }

    #[test]
    fn within_a_whole_run_the_newer_claim_holds() {
        let mut claims = Claims::default();
        claims.add(16, Lsn(5), Some(entry(1, 0, true)));
        claims.add(17, Lsn(4), Some(entry(2, 3, false)));
        claims.add(18, Lsn(6), Some(entry(3, 2, false)));
        claims.add(19, Lsn(7), None);
        claims.add(40, Lsn(2), Some(entry(4, 1, false)));
        let got: Vec<(u32, u64, u8)> =
            claims.holding().into_iter().map(|(chunk, _, entry)| (chunk, entry.id.index(), entry.slot)).collect();
        let mut expected: Vec<(u32, u64, u8)> = (0..16).map(|slot| (16 + slot, 1, slot as u8)).collect();
        expected.retain(|(chunk, _, _)| ![18, 19].contains(chunk));
        expected.extend([(18, 3, 2), (40, 4, 1)]);
        assert_eq!(got, expected);
    }
}
