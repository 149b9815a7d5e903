//! A page as a checkpoint has it: its rows for the MetaStore and its chunks' entries for the owner tables.

use sds_io::{MetaBatch, MetaStore};

use crate::error::{PoolError, PoolErrorKind};
use crate::layout::owner::{OwnerEntry, OwnerGeometry};
use crate::layout::rows;
use crate::page::{Page, PageState};
use crate::place::{BLOCK_BYTES, CHUNKS_PER_EXTENT, ChunkAddr, Lsn, PageKey, RECORDS_PER_ROW};
use crate::record::{BlockState, Home, Record, States};

/// An owner entry to write, or to clear.
pub type OwnerUpdate = (ChunkAddr, Option<OwnerEntry>, Lsn);

/// A page's content at one moment, on its way to the MetaStore. It may be stored once everything up to `lsn` is durable
/// in the journal, not before.
#[derive(Debug)]
pub struct PageImage {
    /// Which page.
    pub key: PageKey,
    /// The last group that is in it.
    pub lsn: Lsn,
    /// Its rows.
    pub batch: MetaBatch,
    /// Its chunks.
    pub owners: Vec<OwnerUpdate>,
}

impl Page {
    /// Takes an image of the page, which is clean after that unless the image can't be stored.
    #[must_use]
    pub fn image(&self) -> PageImage {
        let mut state = self.state.borrow_mut();
        assert!(state.saving.is_none(), "one image at a time");
        let (batch, owners) = (page_rows(self.key, &state), owners_of(self.key, &state));
        let since = state.dirty_since.take().expect("only dirty pages are saved");
        let dirt = std::mem::take(&mut state.dirt);
        state.saving = Some((since, dirt));
        PageImage { key: self.key, lsn: state.lsn, batch, owners }
    }

    /// The next image has the entries of all chunks of the page, whether they changed or not.
    pub(crate) fn dirty_all(&self) {
        let mut state = self.state.borrow_mut();
        let all: Vec<u64> =
            state.extents.iter().filter(|extent| extent.pushed).map(|extent| extent.record.id.index()).collect();
        let lsn = state.lsn;
        state.dirt.ids.extend(all);
        state.dirty_since.get_or_insert(lsn);
    }

    /// The image is stored, or is not: then the page is as dirty as before, and more.
    pub fn saved(&self, stored: bool) {
        let mut state = self.state.borrow_mut();
        let Some((since, dirt)) = state.saving.take() else { return };
        if !stored {
            state.dirty_since = Some(since);
            state.dirt.ids.extend(dirt.ids);
            state.dirt.cleared.extend(dirt.cleared);
        }
    }
}

/// The rows of a page: those of its records only that changed.
pub(crate) fn page_rows(key: PageKey, state: &PageState) -> MetaBatch {
    let mut batch = MetaBatch::new();
    if state.gone {
        batch.push((rows::page_set_key(key), None));
        batch.extend(state.rows.iter().map(|row| (rows::record_key(*row), None)));
        batch.extend(state.former.iter().map(|layer| (rows::page_key(key, *layer), None)));
        return batch;
    }
    batch.extend(state.former.iter().map(|layer| (rows::page_key(key, *layer), None)));
    let set = rows::PageSet { lsn: state.lsn, rows: state.rows.clone(), layers: Vec::new() };
    batch.push((rows::page_set_key(key), Some(set.encode())));
    let mut last = None;
    for row in state.dirt.ids.iter().map(|id| id / RECORDS_PER_ROW) {
        if last.replace(row) != Some(row) {
            let record = rows::RecordRow { lsn: state.lsn, page: key, slots: state.row(row) };
            batch.push((rows::record_key(row), Some(record.encode(row))));
        }
    }
    batch
}

fn owners_of(key: PageKey, state: &PageState) -> Vec<OwnerUpdate> {
    let mut owners: Vec<OwnerUpdate> = state.dirt.cleared.iter().map(|(addr, lsn)| (*addr, None, *lsn)).collect();
    for index in &state.dirt.ids {
        let Some(extent) = state.extents.get(*index).filter(|extent| extent.pushed) else { continue };
        let record = extent.pushed_record();
        owners.extend(record_owners(key, &record, extent.lsn, state.blocks_per_extent()));
    }
    owners
}

/// True if the entries of a run from `chunk` on lie in one owner block. One entry may speak for all of them only then:
/// when the extent comes apart later, each chunk needs an entry of its own, and blocks are not written as one.
const fn in_one_block(chunk: u32, blocks: u32) -> bool {
    let geometry = OwnerGeometry::new(blocks as u64 * BLOCK_BYTES);
    geometry.block_of(chunk).0 == geometry.block_of(chunk + CHUNKS_PER_EXTENT as u32 - 1).0
}

/// The owner entries of a record's chunks.
pub(crate) fn record_owners(key: PageKey, record: &Record, lsn: Lsn, blocks: u32) -> Vec<OwnerUpdate> {
    let entry = |slot: usize, whole_run: Option<BlockState>, states: Vec<BlockState>| OwnerEntry {
        id: record.id,
        tree: key.tree,
        birth: record.birth,
        index: record.index,
        base: record.base,
        slot: slot as u8,
        whole_run,
        states,
        lsn,
    };
    let whole = match &record.states {
        States::AllData => Some(BlockState::Data),
        States::AllSealed => Some(BlockState::Sealed),
        States::Few { .. } | States::Mixed(_) => None,
    };
    if let (Home::Run(start), Some(_)) = (&record.home, whole)
        && in_one_block(start.chunk, blocks)
    {
        return vec![(*start, Some(entry(0, whole, Vec::new())), lsn)];
    }
    let per_chunk = blocks / CHUNKS_PER_EXTENT as u32;
    let states = |slot: usize| {
        let first = slot as u32 * per_chunk;
        (first..first + per_chunk).map(|block| record.states.get(block)).collect()
    };
    record.home.chunks().map(|(slot, addr)| (addr, Some(entry(slot, None, states(slot))), lsn)).collect()
}

/// Reads a page with all its rows; a page that is in no row yet is empty.
///
/// # Errors
/// The MetaStore failed, or a row of it can't be decoded.
pub async fn load_page(meta: &dyn MetaStore, key: PageKey, blocks: u32) -> Result<PageState, PoolError> {
    let mut state = PageState::empty(blocks);
    let get = |keys| async move {
        let failed = |error| PoolError::new(PoolErrorKind::Meta, "the MetaStore can't be read").with_source(error);
        meta.get(keys).await.map_err(failed)
    };
    let Some(set) = get(vec![rows::page_set_key(key)]).await?.into_iter().next().flatten() else { return Ok(state) };
    let corrupt = |error| PoolError::new(PoolErrorKind::Corrupt, "a MetaStore row is damaged").with_source(error);
    let set = rows::PageSet::decode(&set).map_err(corrupt)?;
    state.lsn = set.lsn;
    state.former = set.layers;
    let keys = set.rows.iter().map(|row| rows::record_key(*row)).collect();
    let missing = PoolError::new(PoolErrorKind::Corrupt, "a row of the MetaStore is missing");
    let mut values = get(keys).await?.into_iter();
    for row in &set.rows {
        // A row is stored with its page from the moment that it is granted.
        let Some(bytes) = values.next().flatten() else { return Err(missing) };
        let record = rows::RecordRow::decode(&bytes, *row).map_err(corrupt)?;
        state.load_row(*row, record.lsn, record.slots);
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::{DiskNo, ExtentId, ExtentIndex, Generation, LayerId, PageNo, TreeId};

    /// How many entries a whole run of 1 MiB that begins at `chunk` has; a block of the table has 63.
    fn entries_of_run_at(chunk: u32) -> usize {
        let record = Record {
            id: ExtentId::new(8, Generation(1)),
            birth: LayerId(3),
            index: ExtentIndex(10),
            base: ExtentId::HOLE,
            home: Home::Run(ChunkAddr { disk: DiskNo(0), chunk }),
            states: States::AllData,
        };
        let key = PageKey { tree: TreeId(3), page: PageNo(0) };
        let owners = record_owners(key, &record, Lsn(5), 256);
        assert!(owners.iter().all(|(_, entry, _)| entry.is_some()));
        owners.len()
    }

    #[test]
    fn a_run_over_two_owner_blocks_has_an_entry_for_each_chunk() {
        assert_eq!([entries_of_run_at(16), entries_of_run_at(47)], [1, 1]);
        assert_eq!([entries_of_run_at(48), entries_of_run_at(62)], [16, 16]);
        assert_eq!(entries_of_run_at(63), 1);
    }
}
