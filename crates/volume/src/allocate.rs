//! Space: chunks for writes that need some, and freed chunks on their way back.

use std::rc::Rc;

use sds_block::{BlockError, ErrorKind};
use sds_io::sync::{join_all, oneshot};
use sds_io::{Clock, Io};

use crate::core::{PoolCore, VolumeCore};
use crate::place::{CHUNKS_PER_EXTENT, ChunkAddr, ChunkRun};
use crate::planted::Defect;
use crate::quarantine::Quarantined;
use crate::shared::Message;

impl<E: Io + Clock> PoolCore<E> {
    /// Between one and `count` chunks for `volume`, in a row where possible.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] when nothing is free and no core has any in advance.
    pub(crate) async fn allocate(
        self: &Rc<Self>,
        volume: &VolumeCore,
        count: usize,
    ) -> Result<Vec<ChunkAddr>, BlockError> {
        if volume.closed.get() {
            // Its deletion may be the space that is waited for.
            return Err(BlockError::new(ErrorKind::DeviceGone, "the volume was deleted"));
        }
        if let Some(chunks) = self.take(volume, count as u32) {
            return Ok(chunks);
        }
        self.gather_runs().await;
        let full = || BlockError::new(ErrorKind::NoSpace, "the pool has no free chunk");
        self.take(volume, count as u32).ok_or_else(full)
    }

    /// Chunks from the volume's run, or from a new run.
    fn take(&self, volume: &VolumeCore, count: u32) -> Option<Vec<ChunkAddr>> {
        let run = match volume.run.get() {
            Some(run) if run.count >= count => run,
            short => {
                let mut ledger = self.shared.ledger();
                let wanted = (self.shared.tuning.run_extents * CHUNKS_PER_EXTENT as u32).max(count);
                match ledger.space.allocate_run(wanted, count) {
                    Some(run) => {
                        if let Some(short) = short {
                            ledger.space.release_grant(short);
                        }
                        run
                    }
                    // What is left of the old run, or of the pool: fewer than asked, one by one if need be.
                    None => short.or_else(|| ledger.space.allocate_run(count, 1))?,
                }
            }
        };
        let taken = run.count.min(count);
        let rest = ChunkAddr { disk: run.start.disk, chunk: run.start.chunk + taken };
        volume.run.set((run.count > taken).then_some(ChunkRun { start: rest, count: run.count - taken }));
        let chunk = |n| ChunkAddr { disk: run.start.disk, chunk: run.start.chunk + n };
        Some((0..taken).map(chunk).collect())
    }

    /// All cores give back what they took in advance.
    async fn gather_runs(&self) {
        self.release_runs();
        let mut answers = Vec::new();
        for (core, inbox) in self.shared.inboxes.iter().enumerate() {
            if core != self.env.core {
                let (sender, receiver) = oneshot();
                inbox.send(Message::ReleaseRuns(sender));
                answers.push(receiver);
            }
        }
        join_all(answers).await;
    }

    /// This core gives back what its volumes took in advance.
    pub(crate) fn release_runs(&self) {
        let volumes: Vec<Rc<VolumeCore>> = self.volumes.borrow().values().map(Rc::clone).collect();
        for volume in volumes {
            self.release_run(&volume);
        }
    }

    /// Freed chunks begin to wait.
    pub(crate) fn quarantine(&self, freed: Quarantined) {
        if freed.runs.is_empty() {
            return;
        }
        if self.shared.planted.has(Defect::FreeEarly) {
            self.shared.ledger().unquarantine(&freed.runs);
            return;
        }
        self.quarantine.borrow_mut().push(freed);
        self.reclaim.notify();
    }

    /// The task that lets freed chunks go, when commits and the end of old I/O allow it.
    pub(crate) async fn reclaim_task(self: Rc<Self>) {
        while !self.shared.is_stopping() {
            let woken = self.reclaim.wait();
            if self.quarantine.borrow().is_empty() {
                woken.await;
                continue;
            }
            let progress = self.shared.ledger().progress();
            let ready = self.releasable();
            if !ready.is_empty() {
                for freed in ready {
                    self.trim(&freed).await;
                    self.shared.ledger().unquarantine(&freed.runs);
                }
            } else if self.only_io_is_open() {
                // Old I/O ends without a word: look again soon.
                self.env.io.sleep(std::time::Duration::from_millis(RECLAIM_POLL_MS)).await;
            } else {
                progress.await;
            }
        }
    }

    /// Takes out what may go now.
    fn releasable(&self) -> Vec<Quarantined> {
        let durable = self.shared.ledger().durable;
        let mut waiting = self.quarantine.borrow_mut();
        let all = std::mem::take(&mut *waiting);
        let drained = |epoch| self.inflight.drained(epoch) || self.shared.planted.has(Defect::ReuseUnderRead);
        let (ready, rest) = all.into_iter().partition(|freed| freed.lsn <= durable && drained(freed.epoch));
        *waiting = rest;
        ready
    }

    /// True if something waits whose freeing is durable already.
    fn only_io_is_open(&self) -> bool {
        let durable = self.shared.ledger().durable;
        self.quarantine.borrow().iter().any(|freed| freed.lsn <= durable)
    }

    async fn trim(&self, freed: &Quarantined) {
        let disks = self.disks();
        for run in &freed.runs {
            let disk = &disks[usize::from(run.start.disk.0)];
            if !disk.info.discard {
                continue;
            }
            let bytes = u64::from(run.count) * self.shared.chunk_bytes();
            if let Err(error) = self.env.io.discard(disk.disk, disk.offset(run.start), bytes).await {
                // The space is free all the same; the disk only does not know it.
                log::debug!("{}: discard of {bytes} bytes failed: {error}", disk.info.path);
            }
        }
    }
}

/// How often the end of old I/O is looked for while freed chunks wait for nothing else.
const RECLAIM_POLL_MS: u64 = 1;
