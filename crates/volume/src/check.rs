//! Looks whether the places that speak of the same agree: pages of the map, extents, owner tables, free space, and the
//! catalog's counts. It reads alone, while hosts go on.
//!
//! Considerations: each page is looked at in one step on its core, together with free space, so that much is exact
//! under any load. What needs the whole walk (a chunk that nobody has, the sums) is compared with how it was before the
//! walk, and a chunk may go from a page not yet seen to one that was: so what does not agree is believed only if walk
//! after walk says it, or nothing changed meanwhile. Pages that changed since their last checkpoint are newer than the
//! owner tables and are not compared with those. Memory: a bit for each chunk of the pool, 200 MB at 100 TiB of 64 KiB.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use sds_block::BlockError;
use sds_io::sync::oneshot;
use sds_io::{Clock, Io};

use crate::careful::CarefulIo;
use crate::catalog::LayerEntry;
use crate::checkpoint::owner_table;
use crate::core::PoolCore;
use crate::error::{PoolError, PoolErrorKind};
use crate::forest::{Needs, Placed, free};
use crate::image::{OwnerUpdate, record_owners};
use crate::owner::OwnerTable;
use crate::place::{
    ChunkAddr, DiskNo, EXTENTS_PER_PAGE, ExtentId, LayerId, Lsn, PageKey, RECORDS_PER_ROW, TreeId, is_check_chunk,
};
use crate::pool::Pool;
use crate::shared::Message;

/// Walks that a check makes at the most.
const WALKS_MAX: u32 = 3;
/// Disagreements that a walk keeps; it ends at so many.
const FINDINGS_MAX: usize = 10_000;
/// Words of free space that are copied under the ledger's lock at a time: 8 KiB.
const COPY_WORDS: usize = 1024;

/// What does not agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// A page's rows can't be read.
    Unreadable(PageKey),
    /// An extent that no volume and no snapshot needs.
    Unnamed(PageKey, ExtentId),
    /// An extent that belongs to another page.
    Elsewhere(PageKey, ExtentId),
    /// An extent has a chunk that free space has, or that is none for data.
    NotAllocated(ChunkAddr, PageKey, ExtentId),
    /// An extent has a chunk that another one has.
    Twice(ChunkAddr, PageKey, ExtentId),
    /// A chunk is allocated and no extent has it.
    Unowned(ChunkAddr),
    /// The owner table says otherwise than the extent.
    Owner(ChunkAddr, PageKey, ExtentId),
    /// The owner table says that somebody has a free chunk.
    OwnerOfFree(ChunkAddr, ExtentId),
    /// Neither place of the chunk's owner block is intact.
    OwnerDamaged(ChunkAddr),
    /// The catalog counts so many chunks of a tree; its extents have so many.
    Counted(TreeId, u64, u64),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chunk = |addr: &ChunkAddr| format!("disk {} chunk {}", addr.disk.0, addr.chunk);
        let extent = |key: &PageKey, id: &ExtentId| {
            let (tree, page) = (key.tree.0, key.page.0);
            format!("extent {} (generation {}) of page {page} of tree {tree}", id.index(), id.generation().0)
        };
        match self {
            Self::Unreadable(key) => write!(f, "page {} of tree {} can't be read", key.page.0, key.tree.0),
            Self::Unnamed(key, id) => write!(f, "{} is there and nobody needs it", extent(key, id)),
            Self::Elsewhere(key, id) => write!(f, "{} belongs to another page", extent(key, id)),
            Self::NotAllocated(addr, key, id) => write!(f, "{}: free, and {} has it", chunk(addr), extent(key, id)),
            Self::Twice(addr, key, id) => write!(f, "{}: {} has it, and another one", chunk(addr), extent(key, id)),
            Self::Unowned(addr) => write!(f, "{}: allocated, and no extent has it", chunk(addr)),
            Self::Owner(addr, key, id) => {
                write!(f, "{}: the owner table does not say that {} has it so", chunk(addr), extent(key, id))
            }
            Self::OwnerOfFree(addr, id) => {
                write!(f, "{}: free, and the owner table says that extent {} has it", chunk(addr), id.index())
            }
            Self::OwnerDamaged(addr) => write!(f, "{} and on: the owner block is damaged", chunk(addr)),
            Self::Counted(tree, catalog, counted) => {
                write!(f, "tree {}: the catalog counts {catalog} chunks, its extents have {counted}", tree.0)
            }
        }
    }
}

/// What a check came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Pages of the map, in the last walk.
    pub pages: u64,
    /// Extents of those pages.
    pub extents: u64,
    /// Chunks of those extents.
    pub chunks: u64,
    /// Owner entries that were compared with their extents.
    pub owners: u64,
    /// Pages whose owner entries were not, because they changed since the checkpoint before.
    pub pages_changing: u64,
    /// Walks that were made.
    pub walks: u32,
    /// There may be more than `findings`: the walk ended at so many.
    pub cut_off: bool,
    /// What does not agree.
    pub findings: Vec<Finding>,
}

/// What a page's core says of it.
#[derive(Debug, Default)]
pub struct PageLook {
    pub(crate) lsn: Lsn,
    findings: Vec<Finding>,
    extents: u64,
    chunks: Vec<(ChunkAddr, ExtentId, Lsn)>,
    /// What the owner tables should say; `None`: they are not that far yet.
    pub(crate) owners: Option<Vec<OwnerUpdate>>,
}

/// A walk over everything.
struct Walk {
    report: CheckReport,
    findings: BTreeSet<Finding>,
    started: Lsn,
    /// For each disk, the chunks that were allocated when the walk began and that no extent has been found to have.
    left: BTreeMap<DiskNo, Vec<u64>>,
    counts: BTreeMap<TreeId, u64>,
    counted: BTreeMap<TreeId, u64>,
}

impl<E: Io + Clock> Pool<E> {
    /// Compares all that speaks of the same, on core 0, at `pages_per_s` pages a second at the most.
    ///
    /// # Errors
    /// A disk or the MetaStore can't be read, or the pool is being closed.
    pub async fn check(&self, pages_per_s: u32) -> Result<CheckReport, PoolError> {
        let mut believed: Option<BTreeSet<Finding>> = None;
        for number in 1.. {
            let mut walk = self.walk(pages_per_s.max(1)).await?;
            let found = match believed {
                Some(before) => before.intersection(&walk.findings).copied().collect(),
                None => std::mem::take(&mut walk.findings),
            };
            let still = self.core().shared.ledger().last == walk.started;
            if found.is_empty() || still || number == WALKS_MAX {
                walk.report.walks = number;
                walk.report.findings = found.into_iter().collect();
                return Ok(walk.report);
            }
            believed = Some(found);
        }
        unreachable!("the last walk returns")
    }

    async fn walk(&self, pages_per_s: u32) -> Result<Walk, PoolError> {
        // Every page has its rows then, and the owner tables are up to date but for what changes from now on.
        self.checkpoint().await?;
        let core = self.core();
        let shared = &core.shared;
        let mut walk = Walk::begin(core);
        let tables: Vec<_> = shared.disks().iter().map(|disk| owner_table(core, disk)).collect();
        let pace = Pace { began: core.env.io.now(), pages_per_s };
        for key in core.all_pages().await? {
            if shared.is_stopping() {
                return Err(PoolError::new(PoolErrorKind::Closed, "the pool is being closed"));
            }
            self.walk_page(&mut walk, &tables, key).await?;
            if walk.is_full() {
                break;
            }
            pace.wait(&core.env.io, walk.report.pages).await;
        }
        for (table, disk) in tables.iter().zip(shared.disks().iter()) {
            if !walk.is_full() {
                walk.owners_of_free(core, table, disk.no).await?;
            }
        }
        if !walk.is_full() {
            walk.end(core);
        }
        walk.report.cut_off = walk.is_full();
        Ok(walk)
    }

    async fn walk_page(
        &self,
        walk: &mut Walk,
        tables: &[OwnerTable<CarefulIo<E>>],
        key: PageKey,
    ) -> Result<(), PoolError> {
        walk.report.pages += 1;
        let Some(look) = self.look(key).await else {
            walk.findings.insert(Finding::Unreadable(key));
            return Ok(());
        };
        walk.report.extents += look.extents;
        walk.report.chunks += look.chunks.len() as u64;
        walk.findings.extend(&look.findings);
        walk.claim(key, &look.chunks);
        let Some(expected) = look.owners else {
            walk.report.pages_changing += 1;
            return Ok(());
        };
        let differing = differing_owners(tables, &expected).await?;
        // They count only if the page is still as it was when it said what to expect.
        if !differing.is_empty() && !self.look(key).await.is_some_and(|now| now.lsn == look.lsn && now.owners.is_some())
        {
            walk.report.pages_changing += 1;
            return Ok(());
        }
        walk.report.owners += expected.len() as u64;
        walk.findings.extend(differing.into_iter().map(|(addr, id)| Finding::Owner(addr, key, id)));
        Ok(())
    }

    /// What the page's core says; `None` if it can't be loaded.
    async fn look(&self, key: PageKey) -> Option<PageLook> {
        let (sender, receiver) = oneshot();
        let shared = &self.core().shared;
        shared.inboxes[shared.owner(key)].send(Message::Look(key, sender));
        receiver.await?.ok()
    }
}

/// The owner entries that are not what is expected.
pub(crate) async fn differing_owners<E: Io>(
    tables: &[OwnerTable<E>],
    expected: &[OwnerUpdate],
) -> Result<Vec<(ChunkAddr, ExtentId)>, PoolError> {
    let failed = |error| PoolError::new(PoolErrorKind::Io, "an owner table can't be read").with_source(error);
    let mut by_disk: BTreeMap<DiskNo, Vec<&OwnerUpdate>> = BTreeMap::new();
    expected.iter().for_each(|update| by_disk.entry(update.0.disk).or_default().push(update));
    let mut differing = Vec::new();
    for (disk, updates) in by_disk {
        let Some(table) = tables.get(usize::from(disk.0)) else { continue };
        let chunks: Vec<u32> = updates.iter().map(|(addr, _, _)| addr.chunk).collect();
        let found = table.entries(&chunks).await.map_err(failed)?;
        for ((addr, wanted, _), slot) in updates.into_iter().zip(found) {
            let Some(wanted) = wanted else { continue };
            let said = slot
                .and_then(|(_, entry)| entry)
                .map(|entry| crate::layout::owner::OwnerEntry { lsn: wanted.lsn, ..entry });
            if said.as_ref() != Some(wanted) {
                differing.push((*addr, wanted.id));
            }
        }
    }
    Ok(differing)
}

/// So many pages a second.
struct Pace {
    began: Duration,
    pages_per_s: u32,
}

impl Pace {
    async fn wait<C: Clock>(&self, clock: &C, pages: u64) {
        let due = self.began + Duration::from_micros(pages * 1_000_000 / u64::from(self.pages_per_s));
        let now = clock.now();
        if now < due {
            clock.sleep(due - now).await;
        }
    }
}

impl Walk {
    fn begin<E: Io + Clock>(core: &PoolCore<E>) -> Self {
        let shared = &core.shared;
        let (started, counts) = {
            let ledger = shared.ledger();
            (ledger.last, ledger.catalog.chunks.clone())
        };
        let mut left = BTreeMap::new();
        for disk in shared.disks().iter() {
            let words = disk.layout.chunks.div_ceil(64) as usize;
            let mut bits = Vec::with_capacity(words);
            while bits.len() < words {
                let to = (bits.len() + COPY_WORDS).min(words);
                bits.extend_from_slice(shared.ledger().space.allocated_words(disk.no, bits.len()..to));
            }
            left.insert(disk.no, bits);
        }
        let (report, findings, counted) = Default::default();
        Self { report, findings, started, left, counts, counted }
    }

    fn is_full(&self) -> bool {
        self.findings.len() >= FINDINGS_MAX
    }

    fn claim(&mut self, key: PageKey, chunks: &[(ChunkAddr, ExtentId, Lsn)]) {
        *self.counted.entry(key.tree).or_default() += chunks.len() as u64;
        for (addr, id, lsn) in chunks {
            let Some(word) = self.left.get_mut(&addr.disk).and_then(|bits| bits.get_mut((addr.chunk / 64) as usize))
            else {
                continue;
            };
            let bit = 1 << (addr.chunk % 64);
            if *word & bit != 0 {
                *word &= !bit;
            } else if *lsn <= self.started {
                // It was allocated before the walk began, so somebody else was found to have it.
                self.findings.insert(Finding::Twice(*addr, key, *id));
            }
        }
    }

    /// Chunks of which the owner table says that somebody has them, and that are free.
    async fn owners_of_free<E: Io + Clock>(
        &mut self,
        core: &PoolCore<E>,
        table: &OwnerTable<CarefulIo<E>>,
        disk: DiskNo,
    ) -> Result<(), PoolError> {
        let shared = &core.shared;
        // What a tree that is gone had may stay: an import passes over it, and whoever gets the chunk writes over it.
        let trees: BTreeSet<TreeId> = shared.ledger().catalog.layers.values().map(|layer| layer.tree).collect();
        let findings = &mut self.findings;
        let scan = table.scan(|chunk, lsn, entry| {
            let addr = ChunkAddr { disk, chunk };
            let room = findings.len() < FINDINGS_MAX;
            let Some(entry) = entry.filter(|entry| room && trees.contains(&entry.tree)) else { return };
            // What was freed since the walk began has its entry until the next checkpoint.
            let freed_since =
                self.left[&disk].get((chunk / 64) as usize).is_none_or(|word| word >> (chunk % 64) & 1 == 1);
            if lsn <= self.started && !freed_since && !shared.ledger().space.is_allocated(addr) {
                findings.insert(Finding::OwnerOfFree(addr, entry.id));
            }
        });
        let failed = |error| PoolError::new(PoolErrorKind::Io, "an owner table can't be read").with_source(error);
        let damaged = scan.await.map_err(failed)?.damaged;
        self.findings.extend(damaged.into_iter().map(|chunk| Finding::OwnerDamaged(ChunkAddr { disk, chunk })));
        Ok(())
    }

    fn end<E: Io + Clock>(&mut self, core: &PoolCore<E>) {
        let ledger = core.shared.ledger();
        for (disk, bits) in &self.left {
            let now = ledger.space.allocated_words(*disk, 0..bits.len());
            for (at, word) in bits.iter().zip(now).enumerate().map(|(at, (left, now))| (at, left & now)) {
                let chunks = (0..64).filter(|bit| word >> bit & 1 == 1).map(|bit| at as u32 * 64 + bit);
                let room = FINDINGS_MAX.saturating_sub(self.findings.len());
                let unowned = chunks.map(|chunk| Finding::Unowned(ChunkAddr { disk: *disk, chunk }));
                self.findings.extend(unowned.take(room));
            }
        }
        for (tree, count) in &ledger.catalog.chunks {
            let counted = self.counted.get(tree).copied().unwrap_or(0);
            if self.counts.get(tree) == Some(count) && *count != counted {
                self.findings.insert(Finding::Counted(*tree, *count, counted));
            }
        }
    }
}

impl<E: Io + Clock> PoolCore<E> {
    /// The page as it is at this moment, compared with free space.
    pub(crate) async fn look(self: &Rc<Self>, key: PageKey) -> Result<PageLook, BlockError> {
        let page = self.page(key).await?;
        let state = page.state.borrow();
        let ledger = self.shared.ledger();
        let blocks = self.shared.blocks_per_extent();
        let mut look = PageLook { lsn: state.lsn, owners: state.is_clean().then(Vec::new), ..PageLook::default() };
        let layers: Vec<&LayerEntry> = ledger.catalog.layers.values().filter(|layer| layer.tree == key.tree).collect();
        // What a deleted layer had goes page by page.
        if !layers.iter().any(|layer| layer.deleting) {
            let needs = Needs { catalog: &ledger.catalog, open: &[] };
            let views = needs.views(key.tree, None);
            for slot in state.slots() {
                let may_be_free = |extent: &Placed| needs.may_be_free(extent.birth, LayerId(0));
                let free = free(state.placed(slot, &[]), &views, may_be_free);
                look.findings.extend(free.into_iter().map(|id| Finding::Unnamed(key, id)));
            }
        }
        for extent in state.extents.iter().filter(|extent| extent.pushed) {
            let record = extent.pushed_record();
            look.extents += 1;
            let row = record.id.index() / RECORDS_PER_ROW;
            if record.index.0 / EXTENTS_PER_PAGE != key.page.0 || !state.rows.contains(&row) {
                look.findings.push(Finding::Elsewhere(key, record.id));
            }
            for (_, addr) in record.home.chunks() {
                if is_check_chunk(addr.chunk) || !ledger.space.is_allocated(addr) {
                    look.findings.push(Finding::NotAllocated(addr, key, record.id));
                }
                look.chunks.push((addr, record.id, extent.lsn));
            }
            if let Some(owners) = &mut look.owners {
                owners.extend(record_owners(key, &record, extent.lsn, blocks));
            }
        }
        Ok(look)
    }
}
