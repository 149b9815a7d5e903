//! Rebuilds the MetaStore from what the disks say: catalog slots and owner tables.
//!
//! Owner tables are complete up to where the journal starts, and may be newer in places; the journal, replayed from its
//! start over what is built here, brings every page to its end, because each change from there on is in it.
//!
//! Owner tables are in the order of chunks, and a page's chunks may lie anywhere. So there are two passes: this one
//! reads the tables and puts what they claim into the MetaStore by page ([`crate::layout::claim`]), which sorts it;
//! the other one ([`crate::rebuild`]) takes it from there page by page. Memory holds a buffer of claims, a page and the
//! bitmaps of free space, however large the pool is. The downside: the MetaStore has all claims, too, for a while.
//! A crash amid all this is harmless: without its last row the MetaStore is none, and the next opening begins
//! anew.

use rustc_hash::{FxHashMap, FxHashSet};
use sds_io::{Clock, DiskId, Io, MetaBatch, MetaStore};

use crate::catalog::Catalog;
use crate::error::{PoolError, PoolErrorKind};
use crate::format::clear_meta;
use crate::label_io::{SlotError, read_catalog};
use crate::layout::catalog::decode_catalog;
use crate::layout::claim::{CLAIMS, Claim, claims_key, put_claim};
use crate::layout::codec::Writer;
use crate::layout::owner::{OwnerEntry, OwnerGeometry};
use crate::owner::{OwnerReport, OwnerTable};
use crate::place::{CHUNKS_PER_EXTENT, ChunkAddr, DiskNo, Lsn, PageKey, TreeId};
use crate::rebuild::rebuild;
use crate::recover::{Checkpoint, Member, require_disks};

/// Bytes of claims that are in memory before they go to the MetaStore: the more, the fewer rows a page has there.
const BUFFER_BYTES_MAX: usize = 64 << 20;
/// Bytes of claims that one batch to the MetaStore holds.
const BATCH_BYTES: usize = 1 << 20;
/// What a page's buffer takes beside its bytes.
const PAGE_BYTES: usize = 64;

/// Rebuilds everything up to the journal's `start`; says of what was bad on the disks in `damage`.
pub(crate) async fn import<E: Io + Clock>(
    io: &E,
    meta: &dyn MetaStore,
    members: &[Member],
    start: Lsn,
    damage: &mut Vec<String>,
) -> Result<Checkpoint, PoolError> {
    let before = Lsn(start.0 - 1);
    let catalog = newest_catalog(io, members, before).await?;
    // What a missing disk holds would be forgotten: the next opening takes what this one stored for whole.
    require_disks(members, &catalog)?;
    clear_meta(meta).await?;
    let trees: FxHashSet<TreeId> = catalog.layers.values().map(|layer| layer.tree).collect();
    let geometry = OwnerGeometry::new(members[0].label.layout.extent_bytes);
    let mut sorter = Sorter { meta, geometry, pages: FxHashMap::default(), bytes: 0, rows: 0 };
    for member in members {
        gather(io, member, &trees, &mut sorter, damage).await?;
    }
    sorter.flush().await?;
    rebuild(io, meta, members, catalog, before).await
}

/// Puts what the owner table of one disk claims into `sorter`; says what was bad in `damage`.
async fn gather<E: Io>(
    io: &E,
    member: &Member,
    trees: &FxHashSet<TreeId>,
    sorter: &mut Sorter<'_>,
    damage: &mut Vec<String>,
) -> Result<(), PoolError> {
    let table = OwnerTable::new(io.clone(), member.disk, member.label.layout.clone(), member.label.disk_uuid);
    let mut report = OwnerReport::default();
    let mut claims = Claims::default();
    let disk = member.label.disk_no;
    let mut next = Some(0);
    while let Some(first) = next {
        let mut take = sorter.taking(disk, trees);
        let scanned = table.scan_from(first, &mut report, |chunk, lsn, entry| claims.add(chunk, lsn, entry, &mut take));
        let failed = |error| PoolError::new(PoolErrorKind::Io, "an owner table can't be read").with_source(error);
        next = scanned.await.map_err(failed)?;
        drop(take);
        sorter.make_room().await?;
    }
    claims.end_run(u32::MAX, &mut sorter.taking(disk, trees));
    let path = io.disk(member.disk).path;
    for chunk in report.damaged {
        log::error!("{path}: the owners of chunk {chunk} and on are lost");
        damage.push(format!("both places of the owner block of chunk {chunk} of {path} are bad: its extents are lost"));
    }
    for (chunk, place) in report.half {
        damage.push(format!("place {place} of the owner block of chunk {chunk} of {path} is bad; the other one holds"));
    }
    Ok(())
}

/// Claims on their way to the MetaStore, by page.
struct Sorter<'a> {
    meta: &'a dyn MetaStore,
    geometry: OwnerGeometry,
    pages: FxHashMap<PageKey, Writer>,
    bytes: usize,
    /// Rows that were written.
    rows: u64,
}

impl Sorter<'_> {
    /// Takes what the owner table of `disk` claims, of `trees` alone.
    fn taking(&mut self, disk: DiskNo, trees: &FxHashSet<TreeId>) -> impl FnMut(u32, u8, u8, &OwnerEntry) {
        move |chunk, slot, count, entry| {
            if trees.contains(&entry.tree) {
                let addr = ChunkAddr { disk, chunk };
                self.add(&Claim { addr, slot, count, entry: entry.clone() });
            }
        }
    }

    fn add(&mut self, claim: &Claim) {
        let page = PageKey { tree: claim.entry.tree, page: claim.entry.index.page() };
        let out = self.pages.entry(page).or_insert_with(|| {
            self.bytes += PAGE_BYTES;
            CLAIMS.begin()
        });
        let before = out.0.len();
        put_claim(out, &self.geometry, claim);
        self.bytes += out.0.len() - before;
    }

    async fn make_room(&mut self) -> Result<(), PoolError> {
        if self.bytes < BUFFER_BYTES_MAX { Ok(()) } else { self.flush().await }
    }

    async fn flush(&mut self) -> Result<(), PoolError> {
        let failed = |error| PoolError::new(PoolErrorKind::Meta, "the MetaStore can't be written").with_source(error);
        self.bytes = 0;
        let mut pages: Vec<(PageKey, Writer)> = std::mem::take(&mut self.pages).into_iter().collect();
        pages.sort_unstable_by_key(|(page, _)| *page);
        let (mut batch, mut bytes) = (MetaBatch::new(), 0);
        for (page, out) in pages {
            let row = CLAIMS.seal(out, &[]);
            bytes += row.len();
            batch.push((claims_key(page, self.rows), Some(row)));
            self.rows += 1;
            if bytes >= BATCH_BYTES {
                self.meta.put(std::mem::take(&mut batch)).await.map_err(failed)?;
                bytes = 0;
            }
        }
        if batch.is_empty() { Ok(()) } else { self.meta.put(batch).await.map_err(failed) }
    }
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

/// Which claims of an owner table hold, as its chunks come in order: within a whole run that of the run, unless the
/// chunk's own is newer.
#[derive(Default)]
struct Claims {
    /// The entry of the last whole run, and its first chunk.
    run: Option<(u32, OwnerEntry)>,
    /// The first chunk of it that was not told of.
    told: u32,
}

impl Claims {
    /// The next chunk of which the table knows something. Tells `each` of chunks in a row: the first, its slot, how
    /// many, whose.
    fn add(
        &mut self,
        chunk: u32,
        lsn: Lsn,
        entry: Option<OwnerEntry>,
        each: &mut impl FnMut(u32, u8, u8, &OwnerEntry),
    ) {
        let within = |first: u32| chunk - first < CHUNKS_PER_EXTENT as u32;
        if self.run.as_ref().is_some_and(|(first, run)| within(*first) && run.lsn >= lsn) {
            return;
        }
        self.end_run(chunk, each);
        self.told = chunk + 1;
        match entry {
            Some(entry) if entry.whole_run.is_some() => {
                self.told = chunk;
                self.run = Some((chunk, entry));
            }
            Some(entry) => each(chunk, entry.slot, 1, &entry),
            None => {}
        }
    }

    /// Tells of what the run has before `end`.
    fn end_run(&mut self, end: u32, each: &mut impl FnMut(u32, u8, u8, &OwnerEntry)) {
        let Some((first, run)) = &self.run else { return };
        let last = end.min(first + CHUNKS_PER_EXTENT as u32);
        if self.told < last {
            each(self.told, (self.told - first) as u8, (last - self.told) as u8, run);
        }
        if last < end {
            self.run = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::{ExtentId, ExtentIndex, Generation, LayerId};
    use crate::record::BlockState;

    fn entry(index: u64, slot: u8, whole_run: bool, lsn: u64) -> OwnerEntry {
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
            lsn: Lsn(lsn),
        }
    }

    #[test]
    fn within_a_whole_run_the_newer_claim_holds() {
        let mut claims = Claims::default();
        let mut got: Vec<(u32, u8, u8, u64)> = Vec::new();
        let mut each = |chunk, slot, count, entry: &OwnerEntry| got.push((chunk, slot, count, entry.id.index()));
        let mut add = |chunk, lsn, entry| claims.add(chunk, Lsn(lsn), entry, &mut each);
        add(16, 5, Some(entry(1, 0, true, 5)));
        add(17, 4, Some(entry(2, 3, false, 4)));
        add(18, 6, Some(entry(3, 2, false, 6)));
        add(19, 7, None);
        add(40, 2, Some(entry(4, 1, false, 2)));
        add(64, 8, Some(entry(5, 0, true, 8)));
        claims.end_run(u32::MAX, &mut each);
        let run_of_5 = (64, 0, 16, 5);
        assert_eq!(got, [(16, 0, 2, 1), (18, 2, 1, 3), (20, 4, 12, 1), (40, 1, 1, 4), run_of_5]);
    }
}
