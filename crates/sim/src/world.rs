//! The world: virtual time, an ordered queue of what will happen, disks; [`SimIo`] is one core's way to them.
//!
//! A disk request has two moments, both drawn at its submission: when it takes effect and when it is answered. So
//! requests overtake each other, and a read may see a write that is not answered yet, or half of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use sds_io::sync::{OneshotSender, oneshot};
use sds_io::{Buffer, Clock, DiskId, DiskInfo, Io, IoError, IoErrorKind, Slice};

use crate::carry_over::Memory;
use crate::disk::{BLOCK_BYTES, Disk, WriteState};
use crate::engine::Covered;
use crate::knobs::{DiskKnobs, Knobs};
use crate::meta::Store;
use crate::process::{Effect, Process};
use crate::random::Random;
use crate::report::{Counters, TraceHash};

/// The wall clock's start: some day in 2026.
const WALL_START: Duration = Duration::from_secs(1_780_000_000);
/// A stalled request takes this long at the most.
const STALL_S_MAX: u64 = 20;

enum Request {
    Read { buffer: Buffer, answer: OneshotSender<Result<Buffer, IoError>> },
    Write { data: Slice, durable: bool, answer: OneshotSender<Result<(), IoError>> },
    Sync { answer: OneshotSender<Result<(), IoError>> },
    Discard { len: u64, answer: OneshotSender<Result<(), IoError>> },
}

struct Inflight {
    disk: usize,
    offset: u64,
    request: Request,
    state: Rc<WriteState>,
    /// Its place in the order of all events: a sync covers what was answered before it was submitted.
    submitted: u64,
    /// A read that finds what was there before.
    stale: bool,
    /// It fails instead.
    fault: bool,
    /// The process is killed as it is submitted.
    ambushed: bool,
    /// The units of a split write that took effect at first.
    applied: Option<Vec<bool>>,
}

/// What a disk does to a request without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whim {
    /// A write is not done.
    Drop,
    /// A write lands elsewhere.
    Misdirect,
    /// A read finds what was there before the last write.
    Stale,
}

/// A request to come that a disk will not do right.
pub struct Strike {
    /// Where.
    pub covered: Covered,
    /// What.
    pub whim: Whim,
    /// So many such requests are done before.
    pub spared: u64,
}

enum Event {
    Wake(Waker),
    Apply(u64),
    Complete(u64),
}

/// Everything outside the process.
pub struct World {
    now_ns: Arc<AtomicU64>,
    order: Cell<u64>,
    queue: RefCell<BTreeMap<(u64, u64), Event>>,
    inflight: RefCell<BTreeMap<u64, Inflight>>,
    disks: RefCell<Vec<(Disk, DiskKnobs, Random)>>,
    /// What one disk will do to one request; see [`Engine::covered`](crate::engine::Engine::covered).
    pub strike: RefCell<Option<Strike>>,
    /// In the last power cut a disk lost what it had said was durable; true: all that it ever had.
    pub lied: Cell<Option<bool>>,
    /// The process is killed when it submits a durable write of several blocks.
    pub ambush: Cell<bool>,
    verbose: bool,
    /// The metadata store.
    pub store: Arc<Store>,
    /// The carry-over memory.
    pub memory: Arc<Memory>,
    /// What happened how often.
    pub counters: RefCell<Counters>,
    /// All that happened, hashed.
    pub trace: Cell<TraceHash>,
}

impl World {
    /// The world that `knobs` describes.
    #[must_use]
    pub fn new(knobs: &Knobs, random: &mut Random) -> Rc<Self> {
        let now_ns = Arc::new(AtomicU64::new(0));
        let (liar, keeps_previous) = (knobs.liar, knobs.fickle_per_mille > 0);
        let disk = |(number, knobs): (usize, &DiskKnobs)| {
            let info = DiskInfo {
                path: format!("sim:{number}"),
                size_bytes: knobs.size_bytes,
                logical_block_bytes: 512,
                physical_block_bytes: knobs.physical_block_bytes,
                rotational: knobs.rotational,
                volatile_cache: knobs.volatile_cache,
                discard: knobs.discard,
            };
            let mut disk = Disk::new(info, random.fork());
            if keeps_previous {
                disk.keep_previous();
            }
            if liar == Some(number) {
                disk.lie();
            }
            (disk, knobs.clone(), random.fork())
        };
        let disks = knobs.disks.iter().enumerate().map(disk).collect();
        let latency_ns = knobs.meta_latency.as_nanos() as u64;
        Rc::new(Self {
            store: Arc::new(Store::new(&now_ns, random.fork(), latency_ns)),
            memory: Arc::new(Memory::new(knobs.carry_over_bytes)),
            now_ns,
            order: Cell::new(1),
            queue: RefCell::default(),
            inflight: RefCell::default(),
            disks: RefCell::new(disks),
            ambush: Cell::new(false),
            strike: RefCell::default(),
            lied: Cell::new(None),
            verbose: knobs.trace,
            counters: RefCell::default(),
            trace: Cell::default(),
        })
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.now_ns.load(Ordering::Relaxed))
    }

    /// The next number in the order of all events.
    pub fn next_order(&self) -> u64 {
        let order = self.order.get();
        self.order.set(order + 1);
        order
    }

    /// Takes an event into the trace; `text` is made only for `--trace`.
    pub fn note(&self, words: [u64; 4], text: impl FnOnce() -> String) {
        let mut trace = self.trace.get();
        trace.mix(words);
        self.trace.set(trace);
        if self.verbose {
            println!("{:>14.6} {}", self.now().as_secs_f64(), text());
        }
    }

    /// When something will happen next.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        let queued = self.queue.borrow().first_key_value().map(|((due, _), _)| *due);
        [queued, self.store.next_due()].into_iter().flatten().min()
    }

    /// Lets time pass until `until` at the most, or until the next thing happens. False if nothing ever will.
    pub fn advance(&self, until: Option<u64>) -> bool {
        let due = self.next_due();
        let now = self.now_ns.load(Ordering::Relaxed);
        if let Some(until) = until.filter(|until| due.is_none_or(|due| *until <= due)) {
            self.now_ns.store(until.max(now), Ordering::Relaxed);
            return true;
        }
        let Some(due) = due else { return false };
        self.now_ns.store(due.max(now), Ordering::Relaxed);
        if self.store.next_due() == Some(due) {
            self.note([1, due, 0, 0], || "metadata: request ends".into());
            self.store.fire();
            return true;
        }
        let event = self.queue.borrow_mut().pop_first();
        match event {
            Some((_, Event::Wake(waker))) => waker.wake(),
            Some((_, Event::Apply(number))) => self.apply(number),
            Some((_, Event::Complete(number))) => self.complete(number),
            None => {}
        }
        true
    }

    fn push(&self, due: u64, event: Event) {
        let order = self.next_order();
        self.queue.borrow_mut().insert((due, order), event);
    }

    // What becomes of a request that its disk is about to do wrong: where it goes, and whether a read is stale.
    fn strike(&self, disk: DiskId, offset: u64, request: &mut Request, random: &mut Random) -> (u64, bool) {
        let mut strike = self.strike.borrow_mut();
        let Some(Strike { covered, whim, spared }) = strike.as_mut().filter(|strike| strike.covered.disk == disk)
        else {
            return (offset, false);
        };
        let end = match request {
            Request::Read { buffer, .. } if *whim == Whim::Stale => offset + buffer.len() as u64,
            Request::Write { data, .. } if *whim != Whim::Stale => offset + data.len() as u64,
            _ => return (offset, false),
        };
        let Some(region) = covered.regions.iter().position(|region| region.contains(&offset) && end <= region.end)
        else {
            return (offset, false);
        };
        if *spared > 0 {
            *spared -= 1;
            return (offset, false);
        }
        let mut counters = self.counters.borrow_mut();
        let mut to = offset;
        match (request, *whim) {
            (Request::Write { data, .. }, Whim::Drop) => {
                counters.dropped_writes += 1;
                *data = data.slice(0, 0);
            }
            (Request::Write { data, .. }, _) => {
                counters.misdirected_writes += 1;
                let others = covered.regions.len();
                let landing = &covered.regions[(region + 1 + random.index(others - 1)) % others];
                to = landing.start + random.below((landing.end - landing.start) / BLOCK_BYTES) * BLOCK_BYTES;
                *data = data.slice(0, data.len().min((landing.end - to) as usize));
            }
            _ => counters.stale_reads += 1,
        }
        let (stale, whim) = (*whim == Whim::Stale, *whim);
        drop(counters);
        *strike = None;
        self.note([9, offset, to, u64::from(disk.0)], || format!("disk {}: {whim:?} at {offset}, {to}", disk.0));
        (to, stale)
    }

    fn submit(&self, disk: DiskId, offset: u64, request: Request, ambushed: bool) {
        let number = self.next_order();
        let now = self.now_ns.load(Ordering::Relaxed);
        let mut disks = self.disks.borrow_mut();
        let (content, knobs, random) = &mut disks[usize::from(disk.0)];
        let info = &content.info;
        let (kind, len, fault_per_100k) = match &request {
            Request::Read { buffer, .. } => ("read", buffer.len() as u64, knobs.read_fault_per_100k),
            Request::Write { data, .. } => ("write", data.len() as u64, knobs.write_fault_per_100k),
            Request::Sync { .. } => ("sync", 0, knobs.sync_fault_per_100k),
            Request::Discard { len, .. } => ("discard", *len, 0),
        };
        let block = u64::from(info.logical_block_bytes);
        let end = offset.checked_add(len).expect("an offset");
        assert!(
            offset % block == 0 && len % block == 0 && end <= info.size_bytes,
            "{kind} of {len} bytes at {offset} does not fit {}",
            info.path
        );
        self.note([2, u64::from(disk.0) << 56 | offset, len, number], || {
            format!("disk {}: {kind} {offset}+{len} submitted as {number}", disk.0)
        });
        let fault = fault_per_100k > 0 && random.below(100_000) < u64::from(fault_per_100k);
        let mut latency = knobs.latency.as_nanos() as u64 / 2 + len / if knobs.rotational { 1 } else { 4 };
        latency += random.below(2 * latency);
        if matches!(request, Request::Sync { .. }) {
            latency *= 3;
        }
        if random.chance(10) {
            latency *= 10;
        }
        let mut counters = self.counters.borrow_mut();
        counters.disk_requests += 1;
        if random.chance(knobs.stall_per_mille) {
            counters.stalls += 1;
            latency += random.between(1_000_000_000, STALL_S_MAX * 1_000_000_000);
        }
        let apply = now + random.between(1, latency);
        let (state, applied) = (WriteState::open(), None);
        let disk_no = usize::from(disk.0);
        let mut inflight = Inflight {
            disk: disk_no,
            offset,
            request,
            state,
            submitted: number,
            stale: false,
            fault,
            ambushed,
            applied,
        };
        drop(counters);
        let (offset, stale) = self.strike(disk, offset, &mut inflight.request, random);
        (inflight.offset, inflight.stale) = (offset, stale);
        drop(disks);
        self.inflight.borrow_mut().insert(number, inflight);
        self.push(apply, Event::Apply(number));
        self.push(now + latency, Event::Complete(number));
    }

    fn apply(&self, number: u64) {
        let mut inflight = self.inflight.borrow_mut();
        let Some(entry) = inflight.get_mut(&number) else { return };
        let mut disks = self.disks.borrow_mut();
        let (disk, knobs, random) = &mut disks[entry.disk];
        let mut counters = self.counters.borrow_mut();
        match &mut entry.request {
            Request::Read { buffer, .. } if entry.stale => disk.read_stale(entry.offset, buffer.as_mut()),
            Request::Read { buffer, .. } => disk.read(entry.offset, buffer.as_mut()),
            Request::Write { data, .. } => {
                let units = disk.units(entry.offset, data.len() as u64);
                let split = units > 1 && random.chance(knobs.split_per_mille);
                let chosen: Vec<bool> = (0..units).map(|_| !(split || entry.fault) || random.chance(500)).collect();
                disk.write(entry.offset, data.as_ref(), &entry.state, &mut counters, |unit| chosen[unit]);
                entry.applied = Some(chosen);
            }
            // What it covers is lost when it is told: a sync that ends before may still have saved it.
            Request::Sync { .. } if entry.fault => {}
            Request::Sync { .. } => disk.sync(entry.submitted),
            Request::Discard { len, .. } => {
                counters.disk_discards += 1;
                disk.discard(entry.offset, *len, &entry.state);
            }
        }
    }

    fn complete(&self, number: u64) {
        let Some(entry) = self.inflight.borrow_mut().remove(&number) else { return };
        let order = self.next_order();
        let mut disks = self.disks.borrow_mut();
        let disk = &mut disks[entry.disk].0;
        let mut counters = self.counters.borrow_mut();
        let failed = IoError { kind: IoErrorKind::Media, os_code: 5 };
        let result = if entry.fault { Err(failed) } else { Ok(()) };
        // The answer wakes tasks, which may submit: nothing is borrowed by then.
        let answer: Box<dyn FnOnce()> = match entry.request {
            Request::Read { buffer, answer } => {
                counters.read_faults += u64::from(entry.fault);
                Box::new(move || answer.send(result.map(|()| buffer)))
            }
            Request::Write { data, durable, answer } => {
                counters.write_faults += u64::from(entry.fault);
                let applied = entry.applied.unwrap_or_default();
                if !entry.fault && applied.contains(&false) {
                    disk.write(entry.offset, data.as_ref(), &entry.state, &mut counters, |unit| !applied[unit]);
                }
                // What a failed write left in the cache goes with the next sync, as all that is there.
                disk.complete(entry.offset, data.len() as u64, &entry.state, order, durable && !entry.fault);
                Box::new(move || answer.send(result))
            }
            Request::Sync { answer } => {
                if entry.fault {
                    disk.sync_failed(entry.submitted);
                }
                counters.sync_faults += u64::from(entry.fault);
                Box::new(move || answer.send(result))
            }
            Request::Discard { len, answer } => {
                disk.complete(entry.offset, len, &entry.state, order, false);
                Box::new(move || answer.send(result))
            }
        };
        drop((disks, counters));
        self.note([3, number, u64::from(entry.fault), 0], || {
            format!("disk {}: {number} {}", entry.disk, if entry.fault { "fails" } else { "ends" })
        });
        answer();
    }

    /// `len` bytes of `disk` at `offset`, if they are durable.
    #[must_use]
    pub fn durable(&self, disk: DiskId, offset: u64, len: usize) -> Option<Vec<u8>> {
        self.disks.borrow()[usize::from(disk.0)].0.durable(offset, len)
    }

    /// The block of `disk` at `offset` rots, or another one's content lands on it: if it is durable. True if it did.
    pub fn spoil(&self, disk: DiskId, offset: u64) -> bool {
        if self.durable(disk, offset, 1).is_none() {
            return false;
        }
        self.note([8, u64::from(disk.0), offset, 0], || format!("disk {}: the block at {offset} is spoiled", disk.0));
        self.disks.borrow_mut()[usize::from(disk.0)].0.spoil(offset);
        true
    }

    /// A bit flips in the four bytes of `disk` at `offset`, if they are durable. True if it did.
    pub fn flip(&self, disk: DiskId, offset: u64) -> bool {
        let block = offset / BLOCK_BYTES * BLOCK_BYTES;
        if self.durable(disk, block, 1).is_none() {
            return false;
        }
        self.note([9, u64::from(disk.0), offset, 0], || format!("disk {}: a bit flips at {offset}", disk.0));
        self.disks.borrow_mut()[usize::from(disk.0)].0.flip(offset);
        true
    }

    /// The process is dead: what it had in flight still lands, in part or not at all; its timers are gone.
    pub fn process_crash(&self) {
        self.ambush.set(false);
        *self.strike.borrow_mut() = None;
        self.queue.borrow_mut().clear();
        let inflight = std::mem::take(&mut *self.inflight.borrow_mut());
        let mut disks = self.disks.borrow_mut();
        let mut counters = self.counters.borrow_mut();
        for entry in inflight.into_values() {
            let order = self.next_order();
            let (disk, _, random) = &mut disks[entry.disk];
            // Most frames that were waited for are torn.
            let landed = if entry.ambushed { random.pick(&[0, 1, 2, 2, 2, 2]) } else { random.index(3) };
            match entry.request {
                Request::Write { data, .. } => {
                    let applied = entry.applied.unwrap_or_default();
                    let units = disk.units(entry.offset, data.len() as u64);
                    let lands = |unit: usize| !applied.get(unit).copied().unwrap_or(false);
                    // Torn: either anywhere, or cut short.
                    let cut = if random.chance(500) { random.index(units.max(1)) } else { units };
                    let torn = |random: &mut Random, unit: usize| {
                        if cut < units { unit <= cut } else { random.chance(500) }
                    };
                    let chosen: Vec<bool> =
                        (0..units).map(|unit| lands(unit) && (landed == 1 || torn(random, unit))).collect();
                    counters.lost_writes += u64::from(landed == 0);
                    counters.torn_writes += u64::from(landed == 2 && units > 1);
                    if landed > 0 {
                        disk.write(entry.offset, data.as_ref(), &entry.state, &mut counters, |unit| chosen[unit]);
                    }
                    disk.complete(entry.offset, data.len() as u64, &entry.state, order, false);
                }
                Request::Discard { len, .. } if landed > 0 => {
                    disk.discard(entry.offset, len, &entry.state);
                    disk.complete(entry.offset, len, &entry.state, order, false);
                }
                Request::Sync { .. } if landed == 1 => disk.sync(entry.submitted),
                Request::Discard { .. } | Request::Sync { .. } | Request::Read { .. } => {}
            }
        }
        let order = self.next_order();
        disks.iter_mut().for_each(|(disk, _, _)| disk.settle(order));
        counters.meta_batches_lost += self.store.crash();
        counters.torn_carry_over += self.memory.take_torn();
        self.note([4, 0, 0, 0], || "process crash".into());
    }

    /// The machine loses power: caches and the carry-over memory as well.
    pub fn power_cut(&self) {
        self.process_crash();
        let mut counters = self.counters.borrow_mut();
        for (disk, _, _) in self.disks.borrow_mut().iter_mut() {
            if let Some(all) = disk.power_cut(&mut counters) {
                counters.lies += 1;
                self.lied.set(Some(all));
            }
        }
        self.memory.clear();
        self.note([5, 0, 0, 0], || "power cut".into());
    }
}

/// One core's way to the world, for one life of the process.
#[derive(Clone)]
pub struct SimIo {
    /// The world.
    pub world: Rc<World>,
    /// Whose it is.
    pub process: Arc<Process>,
}

const GONE: IoError = IoError { kind: IoErrorKind::Gone, os_code: 0 };

impl SimIo {
    fn submit(&self, disk: DiskId, offset: u64, request: Request) {
        // The kill may come within the submission: then the request is one of those that may still land.
        if self.process.effect() != Effect::Never {
            let unit = self.disk(disk).physical_block_bytes as usize;
            // Padding does not count: what a tear can't change is no ambush.
            let tears = |data: &Slice| data.as_ref().iter().skip(unit).any(|byte| *byte != 0);
            let ambushed = self.world.ambush.get()
                && matches!(&request, Request::Write { data, durable: true, .. } if tears(data));
            self.world.submit(disk, offset, request, ambushed);
            if ambushed {
                self.world.ambush.set(false);
                self.world.counters.borrow_mut().ambushes += 1;
                self.process.kill();
            }
        }
    }
}

impl Io for SimIo {
    fn disk(&self, disk: DiskId) -> DiskInfo {
        self.world.disks.borrow()[usize::from(disk.0)].0.info.clone()
    }

    fn read(
        &self,
        disk: DiskId,
        offset: u64,
        buffer: Buffer,
    ) -> impl Future<Output = Result<Buffer, IoError>> + 'static {
        let (answer, receiver) = oneshot();
        self.submit(disk, offset, Request::Read { buffer, answer });
        async move { receiver.await.unwrap_or(Err(GONE)) }
    }

    fn write(
        &self,
        disk: DiskId,
        offset: u64,
        data: Slice,
        durable: bool,
    ) -> impl Future<Output = Result<(), IoError>> + 'static {
        assert!(data.offset_in_buffer() % 512 == 0, "a direct write's buffer is aligned");
        let (answer, receiver) = oneshot();
        self.submit(disk, offset, Request::Write { data, durable, answer });
        async move { receiver.await.unwrap_or(Err(GONE)) }
    }

    fn sync(&self, disk: DiskId) -> impl Future<Output = Result<(), IoError>> + 'static {
        let (answer, receiver) = oneshot();
        self.submit(disk, 0, Request::Sync { answer });
        async move { receiver.await.unwrap_or(Err(GONE)) }
    }

    fn discard(&self, disk: DiskId, offset: u64, len: u64) -> impl Future<Output = Result<(), IoError>> + 'static {
        let (answer, receiver) = oneshot();
        self.submit(disk, offset, Request::Discard { len, answer });
        async move { receiver.await.unwrap_or(Err(GONE)) }
    }
}

impl Clock for SimIo {
    fn now(&self) -> Duration {
        self.world.now()
    }

    fn wall(&self) -> Duration {
        WALL_START + self.world.now()
    }

    fn sleep(&self, delay: Duration) -> impl Future<Output = ()> + 'static {
        let world = Rc::clone(&self.world);
        let process = Arc::clone(&self.process);
        let due = (world.now() + delay).as_nanos() as u64;
        let mut queued = false;
        std::future::poll_fn(move |context| {
            if world.now().as_nanos() as u64 >= due {
                return Poll::Ready(());
            }
            if !std::mem::replace(&mut queued, true) && process.alive() {
                world.push(due, Event::Wake(context.waker().clone()));
            }
            Poll::Pending
        })
    }
}
