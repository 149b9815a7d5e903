//! Scrub: every copy of the metadata and every sealed block of a pool is read and verified, at a limited rate.
//!
//! One job a pool, on core 0, which asks each page's core in turn. The metadata comes first, verified by who writes
//! it ([`crate::scrub_metadata`]). Then comes a checkpoint, so that the MetaStore names all pages. What a page's
//! core finds it adds to the job's status at once; a block that is being written meanwhile has no seal any more and
//! is none of the job's business.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sds_io::sync::oneshot;
use sds_io::{Clock, Io};

use crate::core::PoolCore;
use crate::damage::MetadataCounts;
use crate::error::{PoolError, PoolErrorKind};
use crate::layout::rows;
use crate::page::Page;
use crate::place::{BLOCK_BYTES, DiskNo, ExtentId, PageKey};
use crate::pool::Pool;
use crate::record::BlockState;
use crate::seal::{Fault, runs_in};
use crate::shared::{CheckpointRequest, Message, PoolShared, lock};

/// Rows that are read from the MetaStore at a time.
const SCAN_ROWS_MAX: usize = 1024;
/// An extent that changes each time that it is verified is left for the next scrub.
const EXTENT_TRIES_MAX: u32 = 4;
/// How often a pause looks whether the job is to end.
const NAP_MS_MAX: u64 = 200;

/// Where a scrub is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScrubState {
    /// None was begun since the pool was opened.
    #[default]
    None,
    /// It goes on.
    Running,
    /// It came to its end.
    Done,
    /// Somebody stopped it, or the pool is being closed.
    Stopped,
    /// The MetaStore or the journal failed.
    Failed,
}

/// What a scrub found on one disk, in blocks of 4 KiB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubDisk {
    /// The disk's uuid.
    pub uuid: [u8; 16],
    /// Sealed blocks that are as they were sealed.
    pub verified: u64,
    /// Sealed blocks that are not.
    pub corrupt: u64,
    /// Sealed blocks that the disk can't read, or whose CRC it can't.
    pub unreadable: u64,
    /// What the pool keeps of itself there.
    pub metadata: MetadataCounts,
}

/// The last scrub of a pool, or the one that goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    /// Where it is.
    pub state: ScrubState,
    /// When it began, of the wall clock.
    pub began: Duration,
    /// When it ended.
    pub ended: Option<Duration>,
    /// Its limit.
    pub bytes_per_second_max: u64,
    /// Pages of the map that are done.
    pub pages_done: u64,
    /// All of them; 0 until that is known.
    pub pages: u64,
    /// Data blocks without a seal: written not long ago, so nothing is known of them.
    pub unsealed: u64,
    /// What was found, disk by disk.
    pub disks: Vec<ScrubDisk>,
}

/// A pool's scrub.
#[derive(Default)]
pub(crate) struct Scrub {
    pub(crate) status: ScrubStatus,
    stop: bool,
}

impl PoolShared {
    pub(crate) fn scrub_may_go_on(&self) -> bool {
        !self.is_stopping() && !lock(&self.scrub).stop
    }
}

impl<E: Io + Clock> Pool<E> {
    /// Begins a scrub, on core 0.
    ///
    /// # Errors
    /// One is running, or the limit is 0.
    pub fn scrub_start(&self, bytes_per_second_max: u64) -> Result<(), PoolError> {
        let core = self.core();
        assert_eq!(core.env.core, 0, "the job is core 0's");
        if bytes_per_second_max == 0 {
            let what = "scrub limit: 1 byte a second or more is accepted";
            return Err(PoolError::new(PoolErrorKind::InvalidField, what).with_value(0));
        }
        let disk = |disk: &Arc<crate::shared::PoolDisk>| ScrubDisk { uuid: disk.uuid, ..ScrubDisk::default() };
        let disks = core.shared.disks().iter().map(disk).collect();
        let mut scrub = lock(&core.shared.scrub);
        if scrub.status.state == ScrubState::Running {
            return Err(PoolError::new(PoolErrorKind::Exists, "a scrub of the pool is running"));
        }
        let (state, began) = (ScrubState::Running, core.env.io.wall());
        let status = ScrubStatus { state, began, bytes_per_second_max, disks, ..ScrubStatus::default() };
        *scrub = Scrub { status, stop: false };
        drop(scrub);
        core.env.spawner.spawn(Rc::clone(core).scrub());
        Ok(())
    }

    /// The last scrub since the pool was opened.
    #[must_use]
    pub fn scrub_status(&self) -> ScrubStatus {
        lock(&self.core().shared.scrub).status.clone()
    }

    /// A scrub that is running ends soon.
    pub fn scrub_stop(&self) {
        lock(&self.core().shared.scrub).stop = true;
    }
}

impl<E: Io + Clock> PoolCore<E> {
    /// The job.
    async fn scrub(self: Rc<Self>) {
        let outcome = self.scrub_all().await;
        let mut scrub = lock(&self.shared.scrub);
        scrub.status.ended = Some(self.env.io.wall());
        scrub.status.state = match outcome {
            Ok(()) if scrub.stop || self.shared.is_stopping() => ScrubState::Stopped,
            Ok(()) => ScrubState::Done,
            Err(_) if self.shared.is_stopping() => ScrubState::Stopped,
            Err(error) => {
                log::error!("pool {}: its scrub ended early: {error}", self.shared.name);
                ScrubState::Failed
            }
        };
    }

    async fn scrub_all(&self) -> Result<(), PoolError> {
        // Before a checkpoint, which writes over what is damaged.
        let frames = self.scrub_copies().await?;
        self.checkpoint_now().await?;
        self.settle_frames(&frames);
        let mut owners = self.scrub_owner_tables().await?;
        let keys = self.all_pages().await?;
        lock(&self.shared.scrub).status.pages = keys.len() as u64;
        for key in keys {
            if !self.shared.scrub_may_go_on() {
                break;
            }
            let (sender, receiver) = oneshot();
            self.shared.inboxes[self.shared.owner(key)].send(Message::ScrubPage(key, sender));
            receiver.await.unwrap_or(Ok(()))?;
            self.scrub_owners_of(&mut owners, key).await;
            lock(&self.shared.scrub).status.pages_done += 1;
        }
        self.mend_owners(owners).await
    }

    /// Everything pushed before this is in the MetaStore and the owner tables.
    pub(crate) async fn checkpoint_now(&self) -> Result<(), PoolError> {
        let (sender, receiver) = oneshot();
        self.shared.checkpoints.send(CheckpointRequest::Now(sender));
        receiver.await.unwrap_or(Ok(()))
    }

    /// All pages that the MetaStore has.
    pub(crate) async fn all_pages(&self) -> Result<Vec<PageKey>, PoolError> {
        let failed = |error| PoolError::new(PoolErrorKind::Meta, "the MetaStore can't be read").with_source(error);
        let (mut keys, mut after) = (Vec::new(), Vec::new());
        loop {
            let found = self.shared.meta.scan(rows::PAGE_SET_PREFIX.to_vec(), after, SCAN_ROWS_MAX).await;
            let found = found.map_err(failed)?;
            let Some((last, _)) = found.last() else { return Ok(keys) };
            after = last.clone();
            keys.extend(found.iter().filter_map(|(key, _)| rows::page_of_set_key(key)));
        }
    }

    /// Verifies a page of this core's. If nobody had it in memory, nobody has written it for long: then what is not
    /// sealed in it is sealed as well.
    pub(crate) async fn scrub_page(self: &Rc<Self>, key: PageKey) -> Result<(), PoolError> {
        let is_cold = self.resident(key).is_none();
        let failed = |error| PoolError::new(PoolErrorKind::Meta, "a page can't be loaded").with_source(error);
        let page = self.page(key).await.map_err(failed)?;
        if is_cold {
            // The first to go again.
            page.used.set(0);
        }
        let mut ids: Vec<ExtentId> = page.state.borrow().extents.iter().map(|extent| extent.record.id).collect();
        ids.sort_unstable_by_key(|id| id.index());
        for id in ids {
            let bytes = self.scrub_extent(&page, id, is_cold).await;
            if !self.pause(bytes).await {
                break;
            }
        }
        Ok(())
    }

    /// How many bytes were read.
    async fn scrub_extent(self: &Rc<Self>, page: &Rc<Page>, id: ExtentId, is_cold: bool) -> u64 {
        let mut bytes = 0;
        for _ in 0..EXTENT_TRIES_MAX {
            if let Some(read) = self.scrub_once(page, id).await {
                bytes += read;
                break;
            }
        }
        if is_cold {
            match self.seal_cold(page, id).await {
                Ok(read) => bytes += read,
                Err(error) => log::debug!("pool {}: an extent can't be sealed: {error}", self.shared.name),
            }
        }
        bytes
    }

    /// `None`: the extent changed meanwhile.
    async fn scrub_once(&self, page: &Page, id: ExtentId) -> Option<u64> {
        let _inflight = self.inflight.enter();
        let all = self.shared.blocks_per_extent();
        let (runs, unsealed) = {
            let state = page.state.borrow();
            let Some(extent) = state.extent(id) else { return Some(0) };
            let unsealed = runs_in(extent, 0..all, BlockState::Data, all);
            (runs_in(extent, 0..all, BlockState::Sealed, all), unsealed.iter().map(|run| u64::from(run.count)).sum())
        };
        let (mut good, mut bad): (Vec<(DiskNo, u64)>, Vec<Fault>) = (Vec::new(), Vec::new());
        let mut blocks = 0;
        for run in &runs {
            blocks += u64::from(run.count);
            let faults = match self.verified(run).await {
                Some(_) => Vec::new(),
                None => self.faults_of(run).await,
            };
            if !faults.is_empty() && !self.holds(page, run.seal) {
                return None;
            }
            good.push((run.addr.disk, u64::from(run.count) - faults.len() as u64));
            bad.extend(faults);
        }
        for fault in &bad {
            // Whoever reads the block is told so; here it is counted and told.
            let _ = self.report(page, id, fault);
        }
        self.add_to_scrub(&good, &bad, unsealed);
        Some(blocks * BLOCK_BYTES)
    }

    fn add_to_scrub(&self, good: &[(DiskNo, u64)], bad: &[Fault], unsealed: u64) {
        let mut scrub = lock(&self.shared.scrub);
        scrub.status.unsealed += unsealed;
        // A disk that joined since the job began has no place in it.
        let disks = &mut scrub.status.disks;
        for (disk, blocks) in good {
            disks.get_mut(usize::from(disk.0)).into_iter().for_each(|disk| disk.verified += blocks);
        }
        for fault in bad {
            let Some(disk) = disks.get_mut(usize::from(fault.addr.disk.0)) else { continue };
            *if fault.corrupt { &mut disk.corrupt } else { &mut disk.unreadable } += 1;
        }
    }

    /// As long as reading so many bytes may take; false if the job is to end.
    pub(crate) async fn pause(&self, bytes: u64) -> bool {
        let rate = lock(&self.shared.scrub).status.bytes_per_second_max;
        let until = self.env.io.now() + Duration::from_secs_f64(bytes as f64 / rate as f64);
        while self.shared.scrub_may_go_on() {
            let left = until.saturating_sub(self.env.io.now());
            if left.is_zero() {
                return true;
            }
            self.env.io.sleep(left.min(Duration::from_millis(NAP_MS_MAX))).await;
        }
        false
    }
}
