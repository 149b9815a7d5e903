//! Freed chunks wait here until nothing can touch them any more.
//!
//! A chunk may be given out again when the change that freed it is durable (else a power cut brings its old owner back,
//! reading the new owner's bytes), when every I/O that began before has ended, and when its TRIM is done.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::place::{ChunkAddr, ChunkRun, Lsn};

#[derive(Default)]
struct Epochs {
    /// The number of the first epoch in `open`.
    first: u64,
    /// Open I/O of each epoch; the last one is the present.
    open: VecDeque<usize>,
}

/// Which I/O of this core is open, by epochs: entering and leaving costs an increment.
#[derive(Clone, Default)]
pub struct InFlight(Rc<RefCell<Epochs>>);

/// An open I/O.
pub struct InFlightGuard {
    epochs: InFlight,
    epoch: u64,
}

impl InFlight {
    /// An I/O begins.
    #[must_use]
    pub fn enter(&self) -> InFlightGuard {
        let mut epochs = self.0.borrow_mut();
        if epochs.open.is_empty() {
            epochs.open.push_back(0);
        }
        *epochs.open.back_mut().expect("one epoch at least") += 1;
        let epoch = epochs.first + epochs.open.len() as u64 - 1;
        InFlightGuard { epochs: self.clone(), epoch }
    }

    /// Ends the present epoch and returns its number: see [`InFlight::drained`].
    #[must_use]
    pub fn close(&self) -> u64 {
        let mut epochs = self.0.borrow_mut();
        if epochs.open.is_empty() {
            epochs.open.push_back(0);
        }
        let closed = epochs.first + epochs.open.len() as u64 - 1;
        epochs.open.push_back(0);
        epochs.retire();
        closed
    }

    /// True if every I/O that began in `epoch` or before has ended.
    #[must_use]
    pub fn drained(&self, epoch: u64) -> bool {
        self.0.borrow().first > epoch
    }
}

impl Epochs {
    fn retire(&mut self) {
        while self.open.len() > 1 && self.open[0] == 0 {
            self.open.pop_front();
            self.first += 1;
        }
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let mut epochs = self.epochs.0.borrow_mut();
        let index = (self.epoch - epochs.first) as usize;
        epochs.open[index] -= 1;
        epochs.retire();
    }
}

/// Chunks that one group freed.
#[derive(Clone, Debug)]
pub struct Quarantined {
    /// The chunks.
    pub runs: Vec<ChunkRun>,
    /// The group that freed them.
    pub lsn: Lsn,
    /// The epoch that was closed when they were freed.
    pub epoch: u64,
}

/// Joins chunks that follow each other on their disk.
#[must_use]
pub fn runs_of(mut chunks: Vec<ChunkAddr>) -> Vec<ChunkRun> {
    chunks.sort_unstable();
    let mut runs: Vec<ChunkRun> = Vec::new();
    for addr in chunks {
        match runs.last_mut() {
            Some(run) if run.start.disk == addr.disk && run.start.chunk + run.count == addr.chunk => run.count += 1,
            _ => runs.push(ChunkRun { start: addr, count: 1 }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::DiskNo;

    #[test]
    fn an_epoch_is_drained_when_its_io_and_all_before_it_have_ended() {
        let inflight = InFlight::default();
        let old = inflight.enter();
        let first = inflight.close();
        let young = inflight.enter();
        let second = inflight.close();
        assert!(!inflight.drained(first));
        drop(young);
        assert!(!inflight.drained(second), "the older one is still open");
        drop(old);
        assert!(inflight.drained(first) && inflight.drained(second));
        assert!(inflight.drained(inflight.close()), "nothing is open");
    }

    #[test]
    fn chunks_in_a_row_become_runs() {
        let at = |disk, chunk| ChunkAddr { disk: DiskNo(disk), chunk };
        let got = runs_of(vec![at(0, 3), at(1, 4), at(0, 2), at(0, 5)]);
        let run = |disk, chunk, count| ChunkRun { start: at(disk, chunk), count };
        assert_eq!(got, [run(0, 2, 2), run(0, 5, 1), run(1, 4, 1)]);
    }
}
