//! What the cores of a pool share, and how they reach each other.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use sds_block::BlockError;
use sds_io::sync::{OneshotSender, Receiver, Sender, oneshot};
use sds_io::{DiskId, DiskInfo, Io, MetaStore};

use crate::careful::CarefulIo;
use crate::check::PageLook;
use crate::check_space::CheckLocks;
use crate::damage::Damages;
use crate::delta::Delta;
use crate::env::Tuning;
use crate::error::{PoolError, PoolErrorKind};
use crate::image::PageImage;
use crate::journal::Chain;
use crate::layout::disk::DiskLayout;
use crate::layout::label::Label;
use crate::ledger::Ledger;
use crate::owner::TableLook;
use crate::place::{BLOCK_BYTES, CHUNKS_PER_EXTENT, ChunkAddr, DiskNo, LayerId, Lsn, PageKey, TreeId};
use crate::planted::Planted;
use crate::request::{Part, PartAnswer};
use crate::scrub::Scrub;

/// A disk of the pool, as all cores see it.
#[derive(Debug)]
pub struct PoolDisk {
    /// Its number in the pool.
    pub no: DiskNo,
    /// The open disk.
    pub disk: DiskId,
    /// Its label's uuid.
    pub uuid: [u8; 16],
    /// What it is.
    pub info: DiskInfo,
    /// Where its regions lie.
    pub layout: DiskLayout,
    /// What its label says now; core 0 alone writes labels.
    pub label: Mutex<Label>,
    /// Data writes that ended on it.
    pub completed: AtomicU64,
    /// Those of them that are durable.
    pub synced: AtomicU64,
    /// A sync failed: what is durable on it is not known any more, and no later success changes that.
    pub sync_failed: AtomicBool,
    /// It left the journal: its label can't be written, and its catalog slots are not kept up any more.
    pub lost: AtomicBool,
}

impl PoolDisk {
    /// The way to the disk for all that syncs it.
    pub(crate) fn careful<E: Io>(self: &Arc<Self>, io: &E, planted: Planted) -> CarefulIo<E> {
        CarefulIo { io: io.clone(), disk: Arc::clone(self), planted }
    }

    /// The disk's byte where `addr` begins.
    #[must_use]
    pub fn offset(&self, addr: ChunkAddr) -> u64 {
        self.layout.chunk_offset(addr.chunk)
    }
}

/// What a core asks another one.
pub enum Message {
    /// Run a part of a request on a page of yours.
    Execute(Part, OneshotSender<Result<PartAnswer, BlockError>>),
    /// Hand out images of pages that changed up to this group, at most so many; none when there are no more.
    Collect(Lsn, usize, OneshotSender<Result<Vec<PageImage>, BlockError>>),
    /// Say how a page of yours is, for a check.
    Look(PageKey, OneshotSender<Result<PageLook, BlockError>>),
    /// These pages are in the MetaStore now (or not: they are as dirty as before).
    Saved(Vec<PageKey>, bool),
    /// The layer is being deleted: free what nobody needs any more of the page.
    SweepPage(PageKey, LayerId, OneshotSender<Result<(), PoolError>>),
    /// Have the next checkpoint write all owner entries of the page.
    RewriteOwners(PageKey, OneshotSender<Result<(), BlockError>>),
    /// Verify what is sealed in the page, for the scrub that is running.
    ScrubPage(PageKey, OneshotSender<Result<(), PoolError>>),
    /// Let no change of a volume begin.
    Hold(OneshotSender<()>),
    /// Look up the layers of all volumes again, and let changes begin.
    Release(OneshotSender<()>),
    /// Answer when no change is under way to these layers, which take none any more.
    Settle(Vec<LayerId>, OneshotSender<()>),
    /// A volume was resized or deleted: look it up again.
    VolumeChanged([u8; 16], OneshotSender<()>),
    /// Give back free space that was taken in advance; answer when done.
    ReleaseRuns(OneshotSender<()>),
    /// Answer when no request of your hosts is open; the number is of those that would not end.
    Drain(OneshotSender<usize>),
    /// End your tasks; nothing comes after this.
    Stop,
}

/// What the committer on core 0 is asked.
pub enum CommitRequest {
    /// Make everything pushed and written before this durable.
    Durable(OneshotSender<Result<(), PoolError>>),
    /// One more disk gets a copy of the journal.
    Admit(Arc<PoolDisk>, OneshotSender<Result<(), PoolError>>),
    /// The journal may forget everything up to here.
    Trim(Lsn, OneshotSender<Result<(), PoolError>>),
    /// Look at labels and headers, mend those that are damaged, and say which frames there are.
    Verify(OneshotSender<Result<Chain, PoolError>>),
    /// End, after everything asked before.
    Stop(OneshotSender<()>),
}

/// What the checkpointer on core 0 is asked.
pub enum CheckpointRequest {
    /// Make a checkpoint; nobody waits for it.
    Soon,
    /// Make a checkpoint of everything pushed before this, and say how it went.
    Now(OneshotSender<Result<(), PoolError>>),
    /// Look at copies that checkpoints write, and mend those that are damaged.
    Verify(Verify, OneshotSender<Result<TableLook, PoolError>>),
    /// End, after everything asked before.
    Stop(OneshotSender<()>),
}

/// What the checkpointer is to look at.
pub enum Verify {
    /// Both catalog slots of each disk. What is damaged there is told, and written by the next checkpoint.
    Slots,
    /// Some blocks of a disk's owner table from this one on.
    Owners(DiskNo, u32),
    /// These blocks of a disk's owner table are empty if they are still damaged.
    Renew(DiskNo, Vec<u32>),
}

/// Requests of one volume on one core since the pool was opened.
#[derive(Debug, Default)]
pub struct VolumeCounters {
    /// Reads.
    pub reads: AtomicU64,
    /// Writes.
    pub writes: AtomicU64,
}

/// Seals since the pool was opened.
#[derive(Debug, Default)]
pub struct SealCounters {
    /// Blocks that were sealed.
    pub sealed: AtomicU64,
    /// Blocks whose seal was taken off by a write.
    pub unsealed: AtomicU64,
    /// Times that a sealed block was found to be not what was sealed, by a read, a write or a scrub.
    pub corrupt: AtomicU64,
    /// One of them, and when it was told in the log.
    pub last_corrupt: Mutex<Option<(CorruptBlock, Duration)>>,
}

/// A sealed block that is not what was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorruptBlock {
    /// Its disk's number in the pool.
    pub disk: DiskNo,
    /// Its byte on that disk.
    pub disk_offset: u64,
    /// Its byte in its volume.
    pub volume_offset: u64,
    /// Its volume's tree.
    pub tree: TreeId,
}

/// The shared part of a pool.
pub struct PoolShared {
    /// Its name for ever.
    pub uuid: [u8; 16],
    /// Its name for people.
    pub name: String,
    /// Bytes of an extent.
    pub extent_bytes: u64,
    /// How many cores share its pages.
    pub cores: usize,
    /// Limits and intervals.
    pub tuning: Tuning,
    /// Planted defects.
    pub planted: Planted,
    /// Who opened it.
    pub opener: String,
    /// The checkpoint store.
    pub meta: Arc<dyn MetaStore>,
    pub(crate) ledger: Mutex<Ledger>,
    pub(crate) disks: Mutex<Arc<Vec<Arc<PoolDisk>>>>,
    pub(crate) disks_version: AtomicU64,
    pub(crate) inboxes: Vec<Sender<Message>>,
    pub(crate) receivers: Mutex<Vec<Option<Receiver<Message>>>>,
    pub(crate) commits: Sender<CommitRequest>,
    /// Replayed deltas of pages that nobody has loaded yet.
    pub(crate) replay: Mutex<FxHashMap<PageKey, Vec<(Lsn, Delta)>>>,
    pub(crate) checkpoints: Sender<CheckpointRequest>,
    /// A checkpoint was asked for and has not begun.
    pub(crate) checkpoint_wanted: AtomicBool,
    /// The last checkpoint failed: a request that waits for the journal's space is told to come again.
    pub(crate) checkpoint_failed: AtomicBool,
    /// The journal failed, for good.
    pub(crate) journal_failed: AtomicBool,
    pub(crate) stopping: AtomicBool,
    pub(crate) check_locks: CheckLocks,
    /// What became of seals.
    pub(crate) seals: SealCounters,
    pub(crate) scrub: Mutex<Scrub>,
    pub(crate) damages: Mutex<Damages>,
    /// Each core's counters of each volume.
    pub(crate) counters: Mutex<FxHashMap<[u8; 16], Vec<Arc<VolumeCounters>>>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A core that panics takes the process with it, so a poisoned lock is only seen by tests that expect the panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PoolShared {
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Bytes of a chunk.
    #[must_use]
    pub const fn chunk_bytes(&self) -> u64 {
        self.extent_bytes / CHUNKS_PER_EXTENT as u64
    }

    /// 4 KiB blocks of an extent.
    #[must_use]
    pub const fn blocks_per_extent(&self) -> u32 {
        (self.extent_bytes / BLOCK_BYTES) as u32
    }

    /// The core that owns the page: the only one that touches it.
    #[must_use]
    pub fn owner(&self, key: PageKey) -> usize {
        // A multiplicative hash: neighbouring pages of a volume spread over the cores.
        let hash = (u64::from(key.tree.0) << 40 ^ key.page.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((hash >> 32) as usize) % self.cores
    }

    /// True once the pool is being closed.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The disks that have a current copy of the journal.
    pub(crate) fn journal_disks(&self) -> Vec<Arc<PoolDisk>> {
        let is_member = |disk: &&Arc<PoolDisk>| lock(&disk.label).journal && !disk.lost.load(Ordering::Acquire);
        self.disks().iter().filter(is_member).cloned().collect()
    }

    /// The disks by number, as of now.
    #[must_use]
    pub fn disks(&self) -> Arc<Vec<Arc<PoolDisk>>> {
        Arc::clone(&lock(&self.disks))
    }

    /// The disk of the pool that is this one.
    pub(crate) fn disk_of(&self, disk: DiskId) -> Option<Arc<PoolDisk>> {
        self.disks().iter().find(|other| other.disk == disk).cloned()
    }

    /// Everything that was pushed and written before this call is durable when it ends.
    ///
    /// # Errors
    /// A disk failed to sync, or the journal can't be written.
    pub async fn commit(&self) -> Result<(), PoolError> {
        let (sender, receiver) = oneshot();
        self.commits.send(CommitRequest::Durable(sender));
        receiver.await.unwrap_or_else(|| Err(PoolError::new(PoolErrorKind::Closed, "the pool is being closed")))
    }

    /// A checkpoint begins soon, without waiting for its interval; but not after one that failed: trying again at once
    /// would be in vain, and go on for ever.
    pub(crate) fn want_checkpoint(&self) {
        if !self.checkpoint_failed.load(Ordering::Acquire) {
            self.begin_checkpoint();
        }
    }

    /// A checkpoint begins soon.
    pub(crate) fn begin_checkpoint(&self) {
        if !self.checkpoint_wanted.swap(true, Ordering::AcqRel) {
            self.checkpoints.send(CheckpointRequest::Soon);
        }
    }

    /// Waits until a map-changing request has room in journal and ring, and counts it until the permit is dropped.
    ///
    /// # Errors
    /// The pool is being closed, or the journal is full and no checkpoint succeeds.
    pub(crate) async fn admit(self: &Arc<Self>) -> Result<Permit, PoolError> {
        loop {
            let (progress, has_pending) = {
                let mut ledger = self.ledger();
                if ledger.has_room(self.tuning.hold_journal_percent) {
                    ledger.admitted += 1;
                    return Ok(Permit(Arc::clone(self)));
                }
                (ledger.progress(), ledger.has_pending())
            };
            if self.is_stopping() {
                return Err(PoolError::new(PoolErrorKind::Closed, "the pool is being closed"));
            }
            if self.checkpoint_failed.load(Ordering::Acquire) {
                return Err(PoolError::new(PoolErrorKind::Busy, "the journal is full and no checkpoint succeeds"));
            }
            self.want_checkpoint();
            if has_pending {
                // For the ring's space. A journal that is full gets better; else waiting would be in vain.
                self.commit()
                    .await
                    .or_else(|error| if error.kind == PoolErrorKind::Busy { Ok(()) } else { Err(error) })?;
            }
            progress.await;
        }
    }
}

/// A map-changing request that was let through.
pub(crate) struct Permit(Arc<PoolShared>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.ledger().admitted -= 1;
    }
}
