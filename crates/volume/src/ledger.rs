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
use crate::journal::{Load, Room};
use crate::layout::delta::{encode_group, group_head};
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
    /// What these will take of the journal.
    pending_load: Load,
    /// The same of groups that a commit has taken, until [`Ledger::room`] has them.
    sealed_load: Load,
    planted: Planted,
    /// None once the pool is closed: its memory is the next engine's.
    ring: Option<Ring>,
    /// Free space.
    pub space: Space,
    /// Layers, volumes, disks, documents.
    pub catalog: Catalog,
    /// The catalog changed after this checkpoint of it.
    pub catalog_saved: Lsn,
    /// Requests that were let through and may still push.
    pub admitted: usize,
    /// How full the journal was after the last commit or trim.
    pub room: Room,
    /// Times that the journal began again at its start, since the pool was opened.
    pub journal_laps: u64,
    /// Chunks that were freed and can't be given out yet.
    pub quarantined_chunks: u64,
    /// Deleted volumes whose chunks are still being freed.
    pub deletions: usize,
    waiters: Vec<OneshotSender<()>>,
    space_waiters: Vec<OneshotSender<()>>,
}

/// What an admitted request may come to cost: the smallest frame; of deltas those of 1 MiB of which every other block
/// is unsealed. Larger extents may have more when they are sealed: what is above the percentage of [`Ledger::has_room`]
/// takes it.
const REQUEST_LOAD: Load = Load { bytes: 4096, records: 128 };
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
            pending_load: Load::default(),
            sealed_load: Load::default(),
            planted,
            ring: Some(ring),
            space,
            catalog_saved: Lsn::default(),
            catalog,
            admitted: 0,
            room: Room::default(),
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
        self.pending_load = self.pending_load.plus(load_of(&bytes));
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

    /// True if a map-changing request may go on now. A journal that can't take all that was pushed could not be
    /// trimmed either, ever: a checkpoint stores nothing that is not durable in it. So what was let through, what waits
    /// and what a commit has in hand are counted, each in bytes and in deltas.
    #[must_use]
    pub fn has_room(&self, hold_percent: u32) -> bool {
        let requests = REQUEST_LOAD.times(self.admitted as u64 + 1);
        let mut owed = self.pending_load.plus(self.sealed_load).plus(requests);
        if self.planted.has(Defect::RecordsUncounted) {
            owed.records = 0;
        }
        let ring_has_room = |ring: &Ring| ring.used_bytes() <= ring.capacity_bytes() / 100 * RING_HOLD_PERCENT;
        self.room.takes(owed, hold_percent) && self.ring.as_ref().is_some_and(ring_has_room)
    }

    /// The groups that a commit takes.
    pub fn seal(&mut self) -> (Lsn, Vec<(Lsn, Vec<u8>)>) {
        self.sealed_load = std::mem::take(&mut self.pending_load);
        (self.last, self.pending.drain(..).collect())
    }

    /// A commit failed before its groups were journaled: they wait for the next one.
    pub fn unseal(&mut self, groups: Vec<(Lsn, Vec<u8>)>) {
        self.pending_load = self.pending_load.plus(std::mem::take(&mut self.sealed_load));
        groups.into_iter().rev().for_each(|group| self.pending.push_front(group));
    }

    /// The journal was written or trimmed: it is so full now, with all that a commit had in hand.
    pub fn set_room(&mut self, room: Room) {
        self.room = room;
        self.sealed_load = Load::default();
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

fn load_of(group: &[u8]) -> Load {
    let (_, records, length) = group_head(group).expect("just encoded");
    Load { bytes: length as u64, records: records as u64 }
}

fn chunks_of(runs: &[ChunkRun]) -> u64 {
    runs.iter().map(|run| u64::from(run.count)).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::catalog::Catalog;
    use crate::delta::Place;
    use crate::layout::memory::MemoryCarryOver;
    use crate::place::{BlockNo, ExtentId, ExtentIndex, Generation, TreeId};
    use crate::record::BlockState;

    const HOLD_PERCENT: u32 = 75;

    /// A ledger whose ring is much larger than its journal.
    fn ledger(capacity: Load) -> Ledger {
        let ring = Ring::new(Arc::new(MemoryCarryOver::new(64 << 20)), [7; 16], 1);
        let (space, _) = Space::load(&[], Vec::new());
        let mut ledger = Ledger::new(Lsn(0), ring, space, Catalog::default(), Planted::default());
        ledger.set_room(Room { used: Load::default(), capacity, frame_bytes_max: 1 << 20 });
        ledger
    }

    /// Pushes small changes as long as they are let through.
    fn fill(ledger: &mut Ledger) -> u64 {
        let place = Place { tree: TreeId(1), index: ExtentIndex(0) };
        let id = ExtentId::new(1, Generation(1));
        let delta = |block| Delta::States { place, id, start: BlockNo(block), count: 1, state: BlockState::Data };
        let deltas = [delta(0), delta(2), delta(4)];
        (0..).take_while(|_| ledger.has_room(HOLD_PERCENT) && ledger.push(&deltas).is_ok()).count() as u64
    }

    #[test]
    fn a_large_ring_does_not_let_through_more_records_than_the_journal_takes() {
        let mut ledger = ledger(Load { bytes: 1 << 30, records: 10_000 });
        let pushed = fill(&mut ledger);
        assert!((7_300..=7_500).contains(&(pushed * 3)), "{pushed} groups of 3");
        // A commit has them in hand: they are not in the journal yet, and count all the same.
        let (last, groups) = ledger.seal();
        assert_eq!(fill(&mut ledger), 0);
        ledger.unseal(groups);
        assert_eq!(fill(&mut ledger), 0);
        // They are in the journal, and later they are trimmed.
        ledger.seal();
        ledger.set_durable(last);
        ledger.set_room(Room { used: Load { bytes: 1 << 20, records: pushed * 3 }, ..ledger.room });
        assert_eq!(fill(&mut ledger), 0);
        ledger.set_room(Room { used: Load::default(), ..ledger.room });
        assert_eq!(fill(&mut ledger), pushed);
    }

    #[test]
    fn requests_that_were_let_through_count_before_they_push() {
        let mut ledger = ledger(Load { bytes: 1 << 30, records: 10_000 });
        while ledger.has_room(HOLD_PERCENT) {
            ledger.admitted += 1;
        }
        assert_eq!(ledger.admitted as u64, 7_500 / REQUEST_LOAD.records);
    }
}
