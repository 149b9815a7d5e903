//! One core's loop.
//!
//! A turn: sleep in epoll until a socket, the ring, a timer or another thread has something (not at all if there is
//! work left); handle sockets; run tasks; submit and take disk I/O, again while that makes tasks ready; then let those
//! who asked for it flush. So all answers of a turn leave with one `sendmsg` per connection, and all disk requests of
//! a turn enter with one `io_uring_enter`.
//!
//! Considerations: sources are edge-triggered and watched once for both directions, so no turn pays for `epoll_ctl`;
//! the downside is that a source must note for itself that it stopped before its socket was empty, and come back by
//! [`Local::next_turn`]. No busy polling: an idle core sleeps.

use std::any::{Any, TypeId};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use sds_io::{Clock, Executor, Spawner};

use crate::clock::CoreClock;
use crate::disks::Disks;
use crate::handle::{CoreOptions, Mailbox};
use crate::io::UringIo;
use crate::ring::Ring;

/// Sockets that are taken from epoll in one turn; the rest waits for the next.
const EVENTS_PER_TURN_MAX: usize = 256;
/// Tasks that run before the ring and the sockets get their turn again.
const TASKS_PER_ROUND_MAX: usize = 1024;
/// Rounds of tasks and ring within one turn: an answer should not wait for all that follows from it.
const ROUNDS_PER_TURN_MAX: usize = 4;
/// Sources on one core.
const SOURCES_MAX: usize = 1 << 16;
const TOKEN_RING: u64 = u64::MAX;
const TOKEN_DOORBELL: u64 = u64::MAX - 1;

/// What a source's socket became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// There is something to receive, or the end of it.
    pub readable: bool,
    /// There is room to send.
    pub writable: bool,
    /// The peer has closed, or the connection broke: receiving goes on until that is reached.
    pub hangup: bool,
}

/// What lives on a core and has a socket.
pub trait Source {
    /// Its socket became ready (an edge: it is told once), or it asked for another turn.
    fn handle_ready(self: Rc<Self>, readiness: Readiness);

    /// The turn ends, and it asked to be told by [`Local::at_turn_end`].
    fn handle_turn_end(self: Rc<Self>);
}

/// Names a source on its core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceId {
    index: u32,
    generation: u32,
}

struct SourceSlot {
    generation: u32,
    source: Option<Rc<dyn Source>>,
}

/// What a core has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Turns of the loop.
    pub turns: u64,
    /// Turns that slept.
    pub sleeps: u64,
    /// Calls of `io_uring_enter`.
    pub ring_enters: u64,
    /// Disk requests that ended.
    pub disk_requests: u64,
    /// Tasks that were polled.
    pub task_polls: u64,
}

struct State {
    index: usize,
    spin: Duration,
    epoll: OwnedFd,
    ring: Rc<Ring>,
    clock: CoreClock,
    executor: Executor,
    mailbox: Arc<Mailbox>,
    now: Cell<Duration>,
    /// When a turn last had something to do.
    worked_at: Cell<Duration>,
    stopping: Cell<bool>,
    sources: RefCell<Vec<SourceSlot>>,
    free_sources: RefCell<Vec<u32>>,
    next_turn: RefCell<Vec<Rc<dyn Source>>>,
    turn_end: RefCell<Vec<Rc<dyn Source>>>,
    slots: RefCell<HashMap<TypeId, Rc<dyn Any>>>,
    counters: Cell<Counters>,
}

/// A core, seen from its own thread. Cheap to clone; stays there.
#[derive(Clone)]
pub struct Local(Rc<State>);

impl Local {
    /// A core on this thread; `mailbox` is how others reach it.
    pub(crate) fn new(options: CoreOptions, disks: Arc<Disks>, mailbox: Arc<Mailbox>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let ring = Ring::new(disks)?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, ring.watched(), epoll::EventData::new_u64(TOKEN_RING), edge)?;
        epoll::add(&epoll, mailbox.bell(), epoll::EventData::new_u64(TOKEN_DOORBELL), edge)?;
        mailbox.claim();
        let ringer = Arc::clone(&mailbox);
        let clock = CoreClock::default();
        Ok(Self(Rc::new(State {
            index: options.index,
            spin: Duration::from_micros(u64::from(options.spin_us)),
            epoll,
            ring: Rc::new(ring),
            executor: Executor::new(Arc::new(move || ringer.ring_unless_here())),
            now: Cell::new(clock.now()),
            worked_at: Cell::new(Duration::ZERO),
            clock,
            mailbox,
            stopping: Cell::new(false),
            sources: RefCell::default(),
            free_sources: RefCell::default(),
            next_turn: RefCell::default(),
            turn_end: RefCell::default(),
            slots: RefCell::default(),
            counters: Cell::default(),
        })))
    }

    /// Which core this is.
    #[must_use]
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// The core's disks and clock.
    #[must_use]
    pub fn io(&self) -> UringIo {
        UringIo::new(Rc::clone(&self.0.ring), self.0.clock.clone())
    }

    /// The core's clock.
    #[must_use]
    pub fn clock(&self) -> CoreClock {
        self.0.clock.clone()
    }

    /// Starts tasks here.
    #[must_use]
    pub fn spawner(&self) -> Spawner {
        self.0.executor.spawner()
    }

    /// The time at which this turn began: good enough for limits, and free.
    #[must_use]
    pub fn turn_now(&self) -> Duration {
        self.0.now.get()
    }

    /// What the core has done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.0.counters.get();
        counters.ring_enters = self.0.ring.enters.get();
        counters.disk_requests = self.0.ring.requests_ended.get();
        counters
    }

    /// Tasks that have not ended.
    #[must_use]
    pub fn open_tasks(&self) -> usize {
        self.0.executor.open_tasks()
    }

    /// Puts `value` into the core's slot for its type; what was there is dropped.
    pub fn put<T: 'static>(&self, value: Rc<T>) {
        let old = self.0.slots.borrow_mut().insert(TypeId::of::<T>(), value);
        drop(old);
    }

    /// What the core's slot for `T` has.
    #[must_use]
    pub fn get<T: 'static>(&self) -> Option<Rc<T>> {
        self.0.slots.borrow().get(&TypeId::of::<T>()).cloned()?.downcast().ok()
    }

    /// Watches `socket` for `source`, until [`Local::unwatch`].
    ///
    /// # Errors
    /// The system's, or `QuotaExceeded` if the core has too many.
    pub fn watch(&self, socket: impl AsFd, source: Rc<dyn Source>) -> io::Result<SourceId> {
        let mut sources = self.0.sources.borrow_mut();
        let index = self.0.free_sources.borrow_mut().pop().unwrap_or_else(|| {
            sources.push(SourceSlot { generation: 0, source: None });
            (sources.len() - 1) as u32
        });
        let slot = &mut sources[index as usize];
        let id = SourceId { index, generation: slot.generation };
        let token = epoll::EventData::new_u64(u64::from(id.generation) << 32 | u64::from(index));
        let both = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        let added = if index as usize >= SOURCES_MAX {
            Err(io::ErrorKind::QuotaExceeded.into())
        } else {
            epoll::add(&self.0.epoll, socket, token, both).map_err(io::Error::from)
        };
        match added {
            Ok(()) => {
                slot.source = Some(source);
                Ok(id)
            }
            Err(error) => {
                self.0.free_sources.borrow_mut().push(index);
                Err(error)
            }
        }
    }

    /// Forgets the source; its socket leaves epoll when it is closed. Events that are on their way are dropped.
    pub fn unwatch(&self, id: SourceId) {
        let mut sources = self.0.sources.borrow_mut();
        let slot = &mut sources[id.index as usize];
        if slot.generation != id.generation {
            return;
        }
        slot.generation = (slot.generation + 1) & 0x7fff_ffff;
        let source = slot.source.take();
        self.0.free_sources.borrow_mut().push(id.index);
        drop(sources);
        drop(source);
    }

    /// `source` has more to do: it is told (readable and writable) in the next turn, which will not sleep.
    pub fn next_turn(&self, source: Rc<dyn Source>) {
        self.0.next_turn.borrow_mut().push(source);
    }

    /// `source` is told when this turn ends. It sees to it that it asks once a turn.
    pub fn at_turn_end(&self, source: Rc<dyn Source>) {
        self.0.turn_end.borrow_mut().push(source);
    }

    /// The loop ends after this turn. Tasks and sources that are left are dropped.
    pub fn stop(&self) {
        self.0.stopping.set(true);
    }

    /// Runs until [`Local::stop`].
    pub(crate) fn run(&self) {
        let mut events = Vec::with_capacity(EVENTS_PER_TURN_MAX);
        while !self.0.stopping.get() {
            self.turn(&mut events);
        }
        // Dropped tasks may start or wake others, and sources refer to the core: both are let go of until none is left.
        self.0.executor.clear();
        self.0.next_turn.take();
        self.0.turn_end.take();
        let sources = std::mem::take(&mut *self.0.sources.borrow_mut());
        drop(sources);
        let slots = self.0.slots.take();
        drop(slots);
        self.0.executor.clear();
    }

    fn count(&self, change: impl FnOnce(&mut Counters)) {
        let mut counters = self.0.counters.get();
        change(&mut counters);
        self.0.counters.set(counters);
    }

    /// How long the turn may sleep; `None`: until something happens.
    fn sleep_limit(&self) -> Option<Duration> {
        // This re-arms the doorbell before the queue is looked at: a task that another core readies after the look
        // rings it. What this core readies itself rings nothing, and is seen by the look.
        self.0.executor.turn(0);
        let work = self.0.executor.ready_tasks() > 0
            || !self.0.next_turn.borrow().is_empty()
            || !self.0.turn_end.borrow().is_empty()
            || self.0.ring.has_entries()
            || self.0.mailbox.has_jobs();
        if work {
            return Some(Duration::ZERO);
        }
        if !self.0.spin.is_zero() && self.0.now.get() < self.0.worked_at.get() + self.0.spin {
            return Some(Duration::ZERO);
        }
        self.0.clock.next_deadline().map(|deadline| deadline.saturating_sub(self.0.clock.now()))
    }

    fn turn(&self, events: &mut Vec<epoll::Event>) {
        let limit = self.sleep_limit();
        let timeout = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        });
        events.clear();
        match epoll::wait(&self.0.epoll, rustix::buffer::spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => panic!("epoll_wait failed: {errno}"),
        }
        self.0.now.set(self.0.clock.now());
        self.count(|counters| {
            counters.turns += 1;
            counters.sleeps += u64::from(limit != Some(Duration::ZERO));
        });
        if !events.is_empty() {
            self.0.worked_at.set(self.0.now.get());
        }
        let mut ring_ready = false;
        for event in events.iter() {
            match event.data.u64() {
                TOKEN_RING => ring_ready = true,
                TOKEN_DOORBELL => {}
                token => self.ready(token, event.flags),
            }
        }
        for source in self.0.next_turn.take() {
            source.handle_ready(Readiness { readable: true, writable: true, hangup: false });
        }
        self.0.clock.fire(self.0.now.get());
        for job in self.0.mailbox.take() {
            job(self);
        }
        self.run_tasks(ring_ready);
        for source in self.0.turn_end.take() {
            source.handle_turn_end();
        }
    }

    fn ready(&self, token: u64, flags: epoll::EventFlags) {
        let (index, generation) = ((token & 0xffff_ffff) as usize, (token >> 32) as u32);
        let source = {
            let sources = self.0.sources.borrow();
            let Some(slot) = sources.get(index) else { return };
            // An event of a source that an earlier one of this turn has closed.
            if slot.generation != generation {
                return;
            }
            slot.source.clone()
        };
        let broken = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
        let hangup = broken || flags.contains(epoll::EventFlags::RDHUP);
        let readable = hangup || flags.contains(epoll::EventFlags::IN);
        let writable = broken || flags.contains(epoll::EventFlags::OUT);
        if let Some(source) = source {
            source.handle_ready(Readiness { readable, writable, hangup });
        }
    }

    fn run_tasks(&self, mut ring_ready: bool) {
        for _ in 0..ROUNDS_PER_TURN_MAX {
            let ran = self.0.executor.turn(TASKS_PER_ROUND_MAX);
            self.count(|counters| counters.task_polls += ran as u64);
            let mut completed = 0;
            if ring_ready || self.0.ring.has_entries() {
                completed = self.0.ring.turn(0);
                ring_ready = false;
            }
            if ran == 0 && completed == 0 {
                return;
            }
        }
    }
}
