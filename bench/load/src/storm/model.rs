//! The simulator's oracle on the machine's clock.

use rustix::time::{ClockId, clock_gettime};
use sds_sim::oracle::{ChangeNo, Oracle, Sectors, Violation, VolumeNo};
use smallvec::smallvec;

/// What hosts know. Times are those of CLOCK_MONOTONIC in nanoseconds, no two the same.
pub struct Model {
    oracle: Oracle,
    last: u64,
}

impl Model {
    /// Of these volumes, which read zeros: number, size and logical block in bytes.
    #[must_use]
    pub fn new(volumes: &[(VolumeNo, u64, u32)]) -> Self {
        let mut oracle = Oracle::new();
        for (volume, size_bytes, block_bytes) in volumes {
            oracle.add_volume(*volume, *size_bytes, *block_bytes);
        }
        Self { oracle, last: 0 }
    }

    fn now(&mut self) -> u64 {
        let now = clock_gettime(ClockId::Monotonic);
        self.last = (now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64).max(self.last + 1);
        self.last
    }

    /// A change is about to be sent; the number that its payload names.
    pub fn submitted(&mut self, volume: VolumeNo, range: Sectors, zeros: bool, durable: bool) -> ChangeNo {
        let now = self.now();
        self.oracle.submit(now, volume, smallvec![range], zeros, durable).0
    }

    /// A change was answered; one that was refused may have happened in part.
    pub fn ended(&mut self, change: ChangeNo, durable: bool, refused: bool) {
        let now = self.now();
        if refused {
            self.oracle.fail(now, change);
        } else {
            self.oracle.acknowledge(now, change, durable);
        }
    }

    /// A flush is about to be sent; when.
    pub fn flush_begins(&mut self) -> u64 {
        self.now()
    }

    /// A flush that was sent at `began` was answered.
    pub fn flushed(&mut self, volume: VolumeNo, began: u64) {
        self.oracle.flushed(began, volume);
    }

    /// A read is about to be sent; when.
    pub fn read_begins(&mut self) -> u64 {
        let now = self.now();
        self.oracle.read_begins(now);
        now
    }

    /// A read that began at `began` was answered with `bytes`; none if it was refused.
    ///
    /// # Errors
    /// The first sector that no history allows, and its history.
    pub fn read_ended(&mut self, began: u64, volume: VolumeNo, first: u64, bytes: &[u8]) -> Result<(), String> {
        let now = self.now();
        let checked = self.oracle.check(now, began, volume, first, bytes);
        self.oracle.read_ends(began);
        checked.map_err(|Violation { volume, sector, what }| {
            format!("{what}\n  {}", self.oracle.explain(volume, sector).join("\n  "))
        })
    }

    /// Every process of the node was killed; no request is open any more.
    pub fn killed(&mut self) {
        let now = self.now();
        self.oracle.process_crash(now);
    }
}
