//! The ledger: every change since the journal's end, in order, with what follows from it at once.
//!
//! One mutex guards it, taken by map-changing requests only (an overwrite of mapped blocks never comes here). Under it
//! a group of deltas gets its LSN, goes into the carry-over ring, and is applied to free space and the catalog: so the
//! ring, the journal and both tables agree on one order whatever core a change came from. The downside is that first
//! writes of all cores meet here, for about as long as it takes to encode sixty bytes; the decision note on cores has
//! the figure.

use std::collections::VecDeque;

use sds_io::sync::{OneshotReceiver, OneshotSender, oneshot};

use crate::catalog::Catalog;
use crate::delta::Delta;
use crate::layout::delta::encode_group;
use crate::place::{ChunkRun, Lsn};
use crate::planted::{Defect, Planted};
use crate::ring::{Ring, RingFull};
use crate::space::Space;

/// What the ledger's lock guards.
pub struct Ledger {
    /// The last group that took effect.
    pub last: Lsn,
    /// Everything up to here is durable in the journal.
    pub durable: Lsn,
    /// Everything up to here is in the MetaStore and the owner tables.
    pub checkpointed: Lsn,
    /// Groups after `durable`, encoded.
    pending: VecDeque<(Lsn, Vec<u8>)>,
    pending_bytes: usize,
    planted: Planted,
    /// None once the pool is closed: its memory is the next engine's.
    ring: Option<Ring>,
    /// Free space.
    pub space: Space,
    /// Layers, volumes, disks, documents.
    pub catalog: Catalog,
    /// The catalog changed after this checkpoint of it.
    pub catalog_saved: Lsn,
    /// Requests that were let through and may still push: each is counted as a frame of its own.
    pub admitted: usize,
    /// Bytes of the journal that are in use, as of the last commit or trim.
    pub journal_used_bytes: u64,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// Times that the journal began again at its start, since the pool was opened.
    pub journal_laps: u64,
    /// Chunks that were freed and can't be given out yet.
    pub quarantined_chunks: u64,
    /// Deleted volumes whose chunks are still being freed.
    pub deletions: usize,
    waiters: Vec<OneshotSender<()>>,
    space_waiters: Vec<OneshotSender<()>>,
}

/// The smallest frame of the journal: what an admitted request may come to cost.
const FRAME_BYTES_MIN: u64 = 4096;
/// Of the ring, this part may be in use before map-changing requests wait: the rest is for those let through before.
const RING_HOLD_PERCENT: usize = 50;

impl Ledger {
    /// The ledger after recovery: everything up to the catalog's LSN is durable.
    #[must_use]
    pub fn new(checkpointed: Lsn, ring: Ring, space: Space, catalog: Catalog, planted: Planted) -> Self {
        let last = catalog.lsn;
        Self {
            last,
            durable: last,
            checkpointed,
            pending: VecDeque::new(),
            pending_bytes: 0,
            planted,
            ring: Some(ring),
            space,
            catalog_saved: Lsn::default(),
            catalog,
            admitted: 0,
            journal_used_bytes: 0,
            journal_bytes: 0,
            journal_laps: 0,
            quarantined_chunks: 0,
            deletions: 0,
            waiters: Vec::new(),
            space_waiters: Vec::new(),
        }
    }

    /// The group of `deltas` takes effect: after this it survives the death of the process.
    ///
    /// # Errors
    /// [`RingFull`]: nothing happened; wait for a commit. That is refused once the pool is closed.
    pub fn push(&mut self, deltas: &[Delta]) -> Result<Lsn, RingFull> {
        let lsn = Lsn(self.last.0 + 1);
        let bytes = encode_group(lsn, deltas);
        let Some(ring) = &mut self.ring else {
            return Err(RingFull { needs_bytes: bytes.len(), free_bytes: 0 });
        };
        if !self.planted.has(Defect::SkipRing) {
            ring.push(lsn, &bytes)?;
        }
        self.pending_bytes += bytes.len();
        self.pending.push_back((lsn, bytes));
        self.last = lsn;
        for delta in deltas {
            self.space.apply(delta, lsn);
            self.catalog.apply(delta);
            if let Delta::Free { runs, .. } = delta {
                self.quarantined_chunks += chunks_of(runs);
            }
        }
        self.catalog.lsn = lsn;
        Ok(lsn)
    }

    /// True if a map-changing request may go on now.
    #[must_use]
    pub fn has_room(&self, hold_percent: u32) -> bool {
        let owed = self.pending_bytes as u64 + (self.admitted as u64 + 1) * FRAME_BYTES_MIN;
        let limit = self.journal_bytes / 100 * u64::from(hold_percent);
        let ring_has_room = |ring: &Ring| ring.used_bytes() <= ring.capacity_bytes() / 100 * RING_HOLD_PERCENT;
        self.journal_used_bytes + owed <= limit && self.ring.as_ref().is_some_and(ring_has_room)
    }

    /// The groups that a commit takes.
    pub fn seal(&mut self) -> (Lsn, Vec<(Lsn, Vec<u8>)>) {
        self.pending_bytes = 0;
        (self.last, self.pending.drain(..).collect())
    }

    /// A commit failed before its groups were journaled: they wait for the next one.
    pub fn unseal(&mut self, groups: Vec<(Lsn, Vec<u8>)>) {
        for group in groups.into_iter().rev() {
            self.pending_bytes += group.1.len();
            self.pending.push_front(group);
        }
    }

    /// Everything up to `lsn` is durable.
    pub fn set_durable(&mut self, lsn: Lsn) {
        if lsn > self.durable {
            self.durable = lsn;
            if let Some(ring) = &mut self.ring {
                ring.release(lsn);
            }
            self.notify();
        }
    }

    /// Freed chunks may be given out again.
    pub fn unquarantine(&mut self, runs: &[ChunkRun]) {
        for run in runs {
            self.space.unquarantine(*run);
        }
        self.quarantined_chunks -= chunks_of(runs);
        self.notify_space();
    }

    /// Granted chunks that were not used are free.
    pub fn release_grants(&mut self, runs: &[ChunkRun]) {
        for run in runs {
            self.space.release_grant(*run);
        }
        self.notify_space();
    }

    /// Ends when there may be more space than now; `None`: none is on its way.
    pub fn space_to_come(&mut self) -> Option<OneshotReceiver<()>> {
        (self.quarantined_chunks > 0 || self.deletions > 0).then(|| {
            let (sender, receiver) = oneshot();
            self.space_waiters.push(sender);
            receiver
        })
    }

    /// A deleted volume's chunks are all freed.
    pub fn end_deletion(&mut self) {
        self.deletions -= 1;
        self.notify_space();
    }

    /// The pool is closed: nothing is pushed any more, and the ring's memory is let go of.
    pub fn close(&mut self) {
        self.ring = None;
        self.notify();
        self.notify_space();
    }

    /// Whoever waits for space looks again.
    pub fn notify_space(&mut self) {
        self.space_waiters.drain(..).for_each(|waiter| waiter.send(()));
    }

    /// True if something waits to be journaled.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Ends at the next commit or trim.
    pub fn progress(&mut self) -> OneshotReceiver<()> {
        let (sender, receiver) = oneshot();
        self.waiters.push(sender);
        receiver
    }

    /// Whoever waits for progress looks again.
    pub fn notify(&mut self) {
        self.waiters.drain(..).for_each(|waiter| waiter.send(()));
    }
}

fn chunks_of(runs: &[ChunkRun]) -> u64 {
    runs.iter().map(|run| u64::from(run.count)).sum()
}
