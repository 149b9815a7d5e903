//! Seals: blocks that nobody writes get CRCs, and lose them before they are written again.
//!
//! Who seals an extent holds all of it, so no write is under way while its blocks are read and their CRCs written; then
//! the delta that says so is pushed, and is journaled only after a sync of the disk, as any other.
//!
//! Who writes takes the seals off first, of whole chunks, so that a stream pays once a chunk. Their blocks are verified
//! before: a bad one stays sealed until it has been written as a whole, so nothing but new data ends an error. The
//! unsealing of the good ones is durable before a byte is written in place: else a power cut brings the seal back, and
//! good data reads as corrupt.

use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sds_block::{BlockError, ErrorKind};
use sds_io::{Clock, Io, Slice};

use crate::core::PoolCore;
use crate::delta::{Delta, Place};
use crate::extents::Extent;
use crate::forest::View;
use crate::page::{Page, Seal};
use crate::place::{
    BLOCK_BYTES, BlockNo, CHUNKS_PER_EXTENT, ChunkAddr, EXTENTS_PER_PAGE, ExtentId, ExtentIndex, Lsn, PageKey,
};
#[cfg(feature = "planted")]
use crate::place::{DiskNo, TreeId};
use crate::planted::Defect;
use crate::record::BlockState;
use crate::request::{Span, spans};
use crate::shared::{CorruptBlock, lock};
use crate::volume::OpenRequest;
use crate::write::blocks_of;

/// An extent is sealed when it was not written for so many rounds of the sealer.
const SEAL_ROUNDS: u8 = 4;
/// How often the sealer looks whether the pool is being closed.
const NAP_MS_MAX: u64 = 1_000;
/// Pages that the sealer looks at before it lets others go on.
const PAGES_A_TURN_MAX: usize = 16;
/// Bytes that are read at once to be sealed or verified.
pub(crate) const RUN_BYTES_MAX: u64 = 1 << 20;
/// Corrupt blocks are told in the log this often at the most.
const REPORTS_INTERVAL: Duration = Duration::from_secs(1);

/// Blocks of an extent in a row that lie in a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SealedRun {
    pub seal: Seal,
    pub addr: ChunkAddr,
    /// The first block's byte in that chunk.
    pub within: u64,
    pub count: u32,
}

/// A sealed block that can't be had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// The extent's block.
    pub block: u32,
    pub addr: ChunkAddr,
    pub within: u64,
    /// It can be read and is not what was sealed; else it, or its CRC, can't be read.
    pub corrupt: bool,
}

/// A block of an extent that is bad and is being replaced.
pub(crate) type BadBlock = (ExtentId, u32);

/// Runs of those of the extent's `blocks` that are in `state`, which is data; an extent has `all` blocks.
pub(crate) fn runs_in(extent: &Extent, blocks: Range<u32>, state: BlockState, all: u32) -> Vec<SealedRun> {
    let per_chunk = all / CHUNKS_PER_EXTENT as u32;
    let mut runs: Vec<SealedRun> = Vec::new();
    for block in blocks.filter(|block| extent.record.states.get(*block) == state) {
        let addr = extent.record.home.chunk((block / per_chunk) as usize).expect("a data block has a chunk");
        let within = u64::from(block % per_chunk) * BLOCK_BYTES;
        let on_disk =
            |addr: ChunkAddr, within: u64| u64::from(addr.chunk) * u64::from(per_chunk) + within / BLOCK_BYTES;
        match runs.last_mut() {
            Some(run)
                if run.seal.block + run.count == block
                    && run.addr.disk == addr.disk
                    && on_disk(run.addr, run.within) + u64::from(run.count) == on_disk(addr, within)
                    && u64::from(run.count) < RUN_BYTES_MAX / BLOCK_BYTES =>
            {
                run.count += 1;
            }
            _ => {
                let seal = Seal { id: extent.record.id, block, lsn: extent.lsn };
                runs.push(SealedRun { seal, addr, within, count: 1 });
            }
        }
    }
    runs
}

/// One delta for each row of `blocks`, which rise.
fn states_deltas(place: Place, id: ExtentId, blocks: &[u32], state: BlockState) -> Vec<Delta> {
    let rows = blocks.chunk_by(|a, b| a + 1 == *b);
    rows.map(|row| Delta::States { place, id, start: BlockNo(row[0]), count: row.len() as u32, state }).collect()
}

impl<E: Io + Clock> PoolCore<E> {
    /// The run's bytes, if all of them are what was sealed.
    pub(crate) async fn verified(&self, run: &SealedRun) -> Option<Slice> {
        let data = self.read_disk(run.addr, run.within, u64::from(run.count) * BLOCK_BYTES).await.ok()?;
        let bad = self.first_bad(run.seal, run.addr, run.within, data.as_ref(), false).await.ok()?;
        bad.is_none().then_some(data)
    }

    /// Which blocks of the run can't be had, each read once more with its CRC.
    pub(crate) async fn faults_of(&self, run: &SealedRun) -> Vec<Fault> {
        let mut faults = Vec::new();
        for number in 0..run.count {
            let (block, within) = (run.seal.block + number, run.within + u64::from(number) * BLOCK_BYTES);
            let bad = match self.read_disk(run.addr, within, BLOCK_BYTES).await {
                Ok(data) => self.first_bad(Seal { block, ..run.seal }, run.addr, within, data.as_ref(), true).await,
                Err(error) => Err(error),
            };
            let corrupt = match bad {
                Ok(None) => continue,
                Ok(Some(_)) => true,
                Err(_) => false,
            };
            faults.push(Fault { block, addr: run.addr, within, corrupt });
        }
        faults
    }

    /// True if nothing changed the extent since that was its seal.
    pub(crate) fn holds(&self, page: &Page, seal: Seal) -> bool {
        page.state.borrow().extent(seal.id).is_some_and(|extent| extent.lsn == seal.lsn)
    }

    /// Counts and tells of a block that can't be had. The error's value is the block's byte within the page.
    pub(crate) fn report(&self, page: &Page, id: ExtentId, fault: &Fault) -> BlockError {
        let index = page.state.borrow().extent(id).map_or(ExtentIndex(0), |extent| extent.record.index);
        let in_extent = u64::from(fault.block) * BLOCK_BYTES;
        let in_page = index.slot() as u64 * self.shared.extent_bytes + in_extent;
        if !fault.corrupt {
            let what = "the disk can't read this block";
            return BlockError::new(ErrorKind::MediaError, what).with_value(in_page);
        }
        let seals = &self.shared.seals;
        seals.corrupt.fetch_add(1, Ordering::Relaxed);
        let disk = &self.disks()[usize::from(fault.addr.disk.0)];
        let found = CorruptBlock {
            disk: fault.addr.disk,
            disk_offset: disk.offset(fault.addr) + fault.within,
            volume_offset: index.0 * self.shared.extent_bytes + in_extent,
            tree: page.key.tree,
        };
        let now = self.env.io.now();
        let mut last = lock(&seals.last_corrupt);
        if last.is_none_or(|(_, told)| now >= told + REPORTS_INTERVAL) {
            log::error!("{}: the block at byte {} is not what was sealed", disk.info.path, found.disk_offset);
            *last = Some((found, now));
        }
        BlockError::new(ErrorKind::ChecksumMismatch, "this block is not what was sealed").with_value(in_page)
    }

    /// Takes the seals off what a write of the range replaces, durably; by one who holds the range. Blocks that are bad
    /// keep theirs until they are written: see [`PoolCore::heal`].
    pub(crate) async fn unseal(
        self: &Rc<Self>,
        view: &View,
        page: &Rc<Page>,
        start: u64,
        len: u64,
    ) -> Result<Vec<BadBlock>, BlockError> {
        let sealed: Vec<Span> = {
            let state = page.state.borrow();
            let sealed = |span: &Span| {
                let (first, count) = blocks_of(*span);
                state.own(view, span.slot).is_some_and(|extent| extent.record.states.any_sealed(first, count))
            };
            spans(start, len, self.shared.extent_bytes).filter(sealed).collect()
        };
        let mut replaced = Vec::new();
        for span in sealed {
            replaced.extend(self.unseal_span(view, page, span).await?);
        }
        self.wait_unsealed(page).await?;
        Ok(replaced)
    }

    /// Whoever took seals off: before that is durable, no byte is written in place.
    async fn wait_unsealed(&self, page: &Page) -> Result<(), BlockError> {
        let unsealed = page.unsealed.get();
        if unsealed == Lsn::default() || self.shared.planted.has(Defect::UnsealLate) {
            return Ok(());
        }
        if self.shared.ledger().durable < unsealed {
            self.shared.commit().await?;
        }
        if page.unsealed.get() == unsealed {
            page.unsealed.set(Lsn::default());
        }
        Ok(())
    }

    /// Unseals the chunks that the span touches, but for the blocks that are bad; those of them that the span replaces.
    async fn unseal_span(
        self: &Rc<Self>,
        view: &View,
        page: &Rc<Page>,
        span: Span,
    ) -> Result<Vec<BadBlock>, BlockError> {
        let _inflight = self.inflight.enter();
        let all = self.shared.blocks_per_extent();
        let per_chunk = all / CHUNKS_PER_EXTENT as u32;
        let (first, count) = blocks_of(span);
        let chunks = first / per_chunk * per_chunk..(first + count).next_multiple_of(per_chunk);
        let replaced = span.start.div_ceil(BLOCK_BYTES) as u32..((span.start + span.len) / BLOCK_BYTES) as u32;
        let Some(id) = page.state.borrow().own(view, span.slot).map(|extent| extent.record.id) else {
            return Ok(Vec::new());
        };
        let mut bad = match self.shared.planted.has(Defect::UnsealUnverified) {
            false => self.bad_blocks(page, id, chunks.clone()).await,
            true => Vec::new(),
        };
        // Others may have unsealed some of these meanwhile, and written them.
        bad.retain(|fault| is_sealed(page, id, fault.block));
        if let Some(fault) =
            bad.iter().find(|fault| (first..first + count).contains(&fault.block) && !replaced.contains(&fault.block))
        {
            // Some of the block is to stay as it is, and nobody knows how that is.
            return Err(self.report(page, id, fault));
        }
        let blocks = chunks.filter(|block| bad.iter().all(|fault| fault.block != *block)).collect();
        self.push_unsealed(page, id, blocks).await?;
        Ok(bad.iter().filter(|fault| replaced.contains(&fault.block)).map(|fault| (id, fault.block)).collect())
    }

    /// Which sealed blocks of these are not what was sealed.
    async fn bad_blocks(&self, page: &Page, id: ExtentId, blocks: Range<u32>) -> Vec<Fault> {
        let runs = match page.state.borrow().extent(id) {
            Some(extent) => runs_in(extent, blocks, BlockState::Sealed, self.shared.blocks_per_extent()),
            None => Vec::new(),
        };
        let mut bad = Vec::new();
        for run in runs {
            if self.verified(&run).await.is_none() {
                bad.extend(self.faults_of(&run).await);
            }
        }
        bad
    }

    /// Pushes that those of the rising `blocks` that are sealed are not.
    async fn push_unsealed(&self, page: &Page, id: ExtentId, mut blocks: Vec<u32>) -> Result<(), BlockError> {
        let _permit = self.shared.admit().await?;
        loop {
            blocks.retain(|block| is_sealed(page, id, *block));
            let pushed = {
                let mut state = page.state.borrow_mut();
                let Some(extent) = state.extent(id).filter(|_| !blocks.is_empty()) else { return Ok(()) };
                let deltas = states_deltas(place_of(page.key, extent), id, &blocks, BlockState::Data);
                let pushed = self.shared.ledger().push(&deltas);
                if let Ok(lsn) = pushed {
                    deltas.iter().for_each(|delta| state.apply(lsn, delta));
                    page.unsealed.set(lsn);
                    self.shared.seals.unsealed.fetch_add(blocks.len() as u64, Ordering::Relaxed);
                }
                pushed
            };
            match pushed {
                Ok(_) => return Ok(()),
                Err(_) => self.shared.commit().await?,
            }
        }
    }

    /// The bad blocks that a write replaced are good now. Said after they were written: if a power cut takes the write,
    /// they are as bad as before.
    pub(crate) async fn heal(&self, page: &Page, replaced: &[BadBlock]) -> Result<(), BlockError> {
        for of_extent in replaced.chunk_by(|(a, _), (b, _)| a == b) {
            let blocks = of_extent.iter().map(|(_, block)| *block).collect();
            self.push_unsealed(page, of_extent[0].0, blocks).await?;
        }
        Ok(())
    }

    /// The task that seals what was not written for a while, of the pages that are in memory.
    pub(crate) async fn seal_task(self: Rc<Self>) {
        let round = Duration::from_millis(self.shared.tuning.seal_after_ms / u64::from(SEAL_ROUNDS));
        while self.nap(round).await {
            let keys: Vec<PageKey> = self.pages.borrow().keys().copied().collect();
            for (number, key) in keys.into_iter().enumerate() {
                if number % PAGES_A_TURN_MAX == 0 && !self.nap(Duration::from_millis(1)).await {
                    return;
                }
                let page = self.pages.borrow().get(&key).map(Rc::clone);
                let Some(page) = page else { continue };
                if !self.seal_page(&page).await {
                    return;
                }
            }
        }
    }

    /// Sleeps, but not much longer than the pool is open; false if it is being closed.
    async fn nap(&self, length: Duration) -> bool {
        let until = self.env.io.now() + length;
        while !self.shared.is_stopping() {
            let left = until.saturating_sub(self.env.io.now());
            if left.is_zero() {
                return true;
            }
            self.env.io.sleep(left.min(Duration::from_millis(NAP_MS_MAX))).await;
        }
        false
    }

    /// A round over one page; false if the pool is being closed.
    async fn seal_page(self: &Rc<Self>, page: &Rc<Page>) -> bool {
        let due: Vec<ExtentId> = {
            let mut state = page.state.borrow_mut();
            let aged = state.extents.iter_mut().filter_map(|extent| {
                let due = (SEAL_ROUNDS..Extent::NEVER_SEALED).contains(&extent.age());
                (due && extent.record.states.any_unsealed()).then_some(extent.record.id)
            });
            aged.collect()
        };
        for id in due {
            let bytes = match self.seal_extent(page, id).await {
                Ok(bytes) => bytes,
                Err(error) => {
                    // It is as readable as before; it has its turn again when it is as old again.
                    log::debug!("pool {}: an extent can't be sealed: {error}", self.shared.name);
                    if let Some(extent) = page.state.borrow_mut().extent_mut(id) {
                        extent.written();
                    }
                    0
                }
            };
            let pause = Duration::from_secs_f64(bytes as f64 / self.shared.tuning.seal_bytes_per_second_max as f64);
            if !self.nap(pause).await {
                return false;
            }
        }
        true
    }

    /// As [`PoolCore::seal_extent`], however many rounds there were.
    pub(crate) async fn seal_cold(self: &Rc<Self>, page: &Rc<Page>, id: ExtentId) -> Result<u64, BlockError> {
        if let Some(extent) = page.state.borrow_mut().extent_mut(id) {
            extent.rounds = extent.rounds.max(SEAL_ROUNDS);
        }
        self.seal_extent(page, id).await
    }

    /// Seals the extent's data blocks, unless it was written meanwhile. How many bytes were read.
    pub(crate) async fn seal_extent(self: &Rc<Self>, page: &Rc<Page>, id: ExtentId) -> Result<u64, BlockError> {
        let all = self.shared.blocks_per_extent();
        let Some(slot) = page.state.borrow().extent(id).map(|extent| extent.record.index.slot() as u64) else {
            return Ok(0);
        };
        let _open = OpenRequest::new(self);
        let _range = match self.shared.planted.has(Defect::SealUnlocked) {
            false => Some(page.locks.lock(slot * u64::from(all)..(slot + 1) * u64::from(all)).await),
            true => None,
        };
        let _inflight = self.inflight.enter();
        let (place, runs) = {
            let state = page.state.borrow();
            let due = |extent: &&Extent| extent.pushed && (SEAL_ROUNDS..Extent::NEVER_SEALED).contains(&extent.rounds);
            let Some(extent) = state.extent(id).filter(due) else { return Ok(0) };
            (place_of(page.key, extent), runs_in(extent, 0..all, BlockState::Data, all))
        };
        let mut crcs = Vec::new();
        let mut blocks: Vec<u32> = Vec::new();
        for run in &runs {
            let data = self.read_disk(run.addr, run.within, u64::from(run.count) * BLOCK_BYTES).await?;
            crcs.extend(self.crcs_of(id, run.seal.block, run.addr, run.within, data.as_ref()));
            blocks.extend(run.seal.block..run.seal.block + run.count);
        }
        if blocks.is_empty() {
            return Ok(0);
        }
        if !self.shared.planted.has(Defect::SealUnchecked) {
            self.write_crcs(crcs).await?;
        }
        let deltas = states_deltas(place, id, &blocks, BlockState::Sealed);
        let _permit = self.shared.admit().await?;
        loop {
            let pushed = {
                let mut state = page.state.borrow_mut();
                let pushed = self.shared.ledger().push(&deltas);
                if let Ok(lsn) = pushed {
                    deltas.iter().for_each(|delta| state.apply(lsn, delta));
                    self.shared.seals.sealed.fetch_add(blocks.len() as u64, Ordering::Relaxed);
                }
                pushed
            };
            match pushed {
                Ok(_) => return Ok(blocks.len() as u64 * BLOCK_BYTES),
                Err(_) => self.shared.commit().await?,
            }
        }
    }
}

/// A sealed block, for those who spoil it.
#[cfg(feature = "planted")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SealedBlock {
    /// Its volume's tree.
    pub tree: TreeId,
    /// Its byte in the volume.
    pub volume_offset: u64,
    /// Its disk's number.
    pub disk: DiskNo,
    /// Its byte there.
    pub disk_offset: u64,
    /// The byte there of its CRC.
    pub crc_offset: u64,
}

#[cfg(feature = "planted")]
impl<E: Io + Clock> PoolCore<E> {
    /// All that are sealed, by changes up to `durable`, in the pages of this core that are in memory, in order.
    pub(crate) fn sealed_blocks(&self, durable: Lsn) -> Vec<SealedBlock> {
        let disks = self.disks();
        let all = self.shared.blocks_per_extent();
        let mut blocks = Vec::new();
        for page in self.pages.borrow().values() {
            let state = page.state.borrow();
            for extent in state.extents.iter().filter(|extent| extent.lsn <= durable) {
                for run in runs_in(extent, 0..all, BlockState::Sealed, all) {
                    blocks.extend((0..run.count).map(|number| {
                        let disk = &disks[usize::from(run.addr.disk.0)];
                        let (block, within) = (run.seal.block + number, run.within + u64::from(number) * BLOCK_BYTES);
                        let first = self.block_on_disk(run.addr, within);
                        let ((_, check_block), at) = self.check_place(disk, first);
                        SealedBlock {
                            tree: page.key.tree,
                            volume_offset: extent.record.index.0 * self.shared.extent_bytes
                                + u64::from(block) * BLOCK_BYTES,
                            disk: disk.no,
                            disk_offset: disk.offset(run.addr) + within,
                            crc_offset: check_block + at as u64,
                        }
                    }));
                }
            }
        }
        blocks.sort_unstable();
        blocks
    }
}

fn is_sealed(page: &Page, id: ExtentId, block: u32) -> bool {
    page.state.borrow().extent(id).is_some_and(|extent| extent.record.states.get(block) == BlockState::Sealed)
}

fn place_of(key: PageKey, extent: &Extent) -> Place {
    debug_assert_eq!(extent.record.index.0 / EXTENTS_PER_PAGE, key.page.0, "an extent of the page");
    Place { tree: key.tree, index: extent.record.index }
}
