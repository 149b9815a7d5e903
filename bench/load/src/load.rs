//! Connections that keep a queue depth.
//!
//! All of a job's connections live on one core's loop, the same as the target's: what came is handled, as many commands
//! as ended are started again, and all of a turn leave with one call. Each connection asks for random places of the
//! region; or all together for each place once, and then for no more.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use sds_io::Clock;
use sds_proto::nvme::status::Status;
use sds_uring::{Local, Readiness, Source};

use crate::host::{HostQueue, Received};
use crate::places::{Random, Sweep};
use crate::report::Histogram;

/// Calls that receive for one connection in one turn.
const RECEIVES_PER_TURN_MAX: usize = 4;

/// What each connection does.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Commands that each connection keeps open.
    pub queue_depth: u16,
    /// Of a hundred commands, how many read.
    pub read_percent: u8,
    /// Bytes of one command.
    pub block_bytes: u32,
    /// Bytes of a logical block of the namespace.
    pub logical_block_bytes: u32,
    /// Where the region that is used begins.
    pub region_offset: u64,
    /// Its size.
    pub region_bytes: u64,
    /// From the beginning of a place to that of the next.
    pub stride_bytes: u64,
}

impl Job {
    /// How many places the region has.
    #[must_use]
    pub const fn places(&self) -> u64 {
        (self.region_bytes - self.block_bytes as u64) / self.stride_bytes + 1
    }
}

/// What came of a job so far.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Commands that ended well.
    pub ended: u64,
    /// Commands that failed.
    pub failed: u64,
    /// From a command's start to its end.
    pub latency: Histogram,
    /// When the last one ended, on the core's clock.
    pub last: Duration,
    /// Why a connection ended before it was told to.
    pub broken: Option<String>,
}

struct Inner {
    queue: HostQueue,
    started: Vec<Duration>,
    random: Random,
    data: Vec<u8>,
}

/// One connection of a job.
pub struct LoadConnection {
    local: Local,
    job: Job,
    stats: Rc<RefCell<Stats>>,
    inner: RefCell<Inner>,
    sweep: Option<Rc<RefCell<Sweep>>>,
    flush_asked: Cell<bool>,
    stopped: Rc<Cell<bool>>,
}

impl LoadConnection {
    /// Starts it on this core. With a sweep, which its connections share, each place is asked for once.
    ///
    /// # Errors
    /// The system's.
    pub fn start(
        local: &Local,
        mut queue: HostQueue,
        job: Job,
        seed: u64,
        sweep: Option<Rc<RefCell<Sweep>>>,
        stats: Rc<RefCell<Stats>>,
        stopped: Rc<Cell<bool>>,
    ) -> io::Result<()> {
        queue.forget_reads();
        let data = (0..job.block_bytes).map(|at| (at % 253) as u8).collect();
        let started = vec![Duration::ZERO; usize::from(job.queue_depth)];
        let connection = Rc::new(Self {
            local: local.clone(),
            job,
            stats,
            inner: RefCell::new(Inner { queue, started, random: Random::new(seed), data }),
            sweep,
            flush_asked: Cell::new(false),
            stopped,
        });
        let watched = local.watch(connection.inner.borrow().queue.socket(), Rc::clone(&connection) as Rc<dyn Source>);
        watched?;
        local.next_turn(connection);
        Ok(())
    }

    fn fill(&self, inner: &mut Inner, now: Duration) {
        let blocks = self.job.block_bytes / self.job.logical_block_bytes;
        while !self.stopped.get() && inner.queue.machine().room() > 0 {
            let random = inner.random.draw();
            let place = match &self.sweep {
                None => random % self.job.places(),
                Some(sweep) => match sweep.borrow_mut().next() {
                    Some(place) => place,
                    None => return,
                },
            };
            let offset = self.job.region_offset + place * self.job.stride_bytes;
            let lba = offset / u64::from(self.job.logical_block_bytes);
            let reads = (random >> 32) % 100 < u64::from(self.job.read_percent);
            let tag = if reads {
                inner.queue.read(lba, blocks, self.job.block_bytes as usize)
            } else {
                inner.queue.write(lba, blocks, &inner.data)
            };
            let Some(tag) = tag else { return };
            inner.started[usize::from(tag.0)] = now;
        }
    }

    fn take(&self, inner: &mut Inner) -> io::Result<bool> {
        let mut more = true;
        for _ in 0..RECEIVES_PER_TURN_MAX {
            more = inner.queue.receive()? == Received::MoreWaits;
            if !more {
                break;
            }
        }
        let now = self.local.clock().now();
        let stats = &mut *self.stats.borrow_mut();
        while let Some(completion) = inner.queue.machine().poll_completion() {
            stats.last = now;
            if completion.status == Status::SUCCESS {
                stats.ended += 1;
                stats.latency.add(now.saturating_sub(inner.started[usize::from(completion.tag.0)]));
            } else {
                stats.failed += 1;
            }
        }
        self.fill(inner, now);
        Ok(more)
    }

    fn break_off(&self, error: &io::Error) {
        if !self.stopped.get() {
            self.stats.borrow_mut().broken.get_or_insert_with(|| error.to_string());
        }
    }
}

impl Source for LoadConnection {
    fn handle_ready(self: Rc<Self>, _: Readiness) {
        match self.take(&mut self.inner.borrow_mut()) {
            Ok(true) => self.local.next_turn(Rc::clone(&self) as Rc<dyn Source>),
            Ok(false) => {}
            Err(error) => return self.break_off(&error),
        }
        if !self.flush_asked.replace(true) {
            self.local.at_turn_end(Rc::clone(&self) as Rc<dyn Source>);
        }
    }

    fn handle_turn_end(self: Rc<Self>) {
        self.flush_asked.set(false);
        if let Err(error) = self.inner.borrow_mut().queue.send() {
            self.break_off(&error);
        }
    }
}
