//! The hosts: they submit requests, judge the answers with the oracle, and remember what they asked.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sds_block::{BlockError, Command, ErrorKind, LbaRange, Request};
use sds_io::{Buffer, Clock, DiskId, ReadBytes, Segment, Slice};
use smallvec::{SmallVec, smallvec};

use crate::engine::DynDevice;
use crate::oracle::frozen::Moment;
use crate::oracle::{ChangeNo, Oracle, Sectors, Violation, VolumeNo};
use crate::payload::{self, SECTOR_BYTES};
use crate::process::{Effect, Process};
use crate::world::{SimIo, World};

/// Lines of history that a failure prints.
const HISTORY_LINES_MAX: usize = 90;

/// What the hosts know of a volume.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its number in this run.
    pub no: VolumeNo,
    /// Its name.
    pub uuid: [u8; 16],
    /// Its size.
    pub size_bytes: u64,
    /// Its logical block.
    pub logical_block_bytes: u32,
    /// Where it is in its life.
    pub phase: Phase,
    /// A resize that was not answered yet, or by nobody.
    pub growing_to: Option<u64>,
    /// It is a snapshot.
    pub snapshot: Option<SnapshotOf>,
}

/// What a snapshot was taken of.
#[derive(Clone, Debug)]
pub struct SnapshotOf {
    /// The volume.
    pub volume: VolumeNo,
    /// When it was asked for.
    pub submitted: u64,
    /// When it was taken at the earliest; the same for all of its group.
    pub moment: Moment,
    /// The oracle has it.
    pub taken: bool,
}

impl Known {
    /// Sectors of 512 bytes.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.size_bytes / SECTOR_BYTES as u64
    }

    /// Sectors in a logical block.
    #[must_use]
    pub fn block_sectors(&self) -> u64 {
        u64::from(self.logical_block_bytes) / SECTOR_BYTES as u64
    }
}

/// A volume's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Asked for.
    Creating,
    /// There.
    Live,
    /// Asked to go.
    Deleting,
    /// Gone for good.
    Gone,
}

struct Line {
    order: u64,
    at: Duration,
    volume: Option<VolumeNo>,
    ranges: SmallVec<[Sectors; 1]>,
    text: String,
}

/// A block of a volume that went bad under its seal.
#[derive(Clone, Copy, Debug)]
pub struct Rotten {
    /// The volume.
    pub volume: VolumeNo,
    /// Its first sector.
    pub sector: u64,
    /// When a change of all of it was answered.
    pub healed: u64,
}

/// Sectors of a block that is sealed.
pub const SEALED_SECTORS: u64 = 4096 / SECTOR_BYTES as u64;

/// Everything outside the engine that must not be forgotten when it dies.
pub struct Hosts {
    /// What reads may return.
    pub oracle: Oracle,
    /// All volumes of the run.
    pub volumes: Vec<Known>,
    /// What each document may be; the last that was answered comes first.
    pub documents: BTreeMap<String, Vec<Option<Vec<u8>>>>,
    /// The pool's disks.
    pub disks: Vec<DiskId>,
    /// A disk that the pool was asked to take.
    pub joining: Option<DiskId>,
    /// Requests that were not answered.
    pub open: usize,
    /// When the last answer came.
    pub last_answer: Duration,
    /// A write was refused for want of space, so many operations ago.
    pub since_full: u32,
    /// Blocks that may be refused as bad.
    pub rotten: Vec<Rotten>,
    /// The first thing that was wrong.
    pub failure: Option<String>,
    history: Vec<Line>,
}

impl Hosts {
    /// Hosts that asked for nothing yet, of a pool of `disks`.
    #[must_use]
    pub fn new(disks: Vec<DiskId>) -> Self {
        Self {
            oracle: Oracle::new(),
            volumes: Vec::new(),
            documents: BTreeMap::new(),
            disks,
            joining: None,
            open: 0,
            last_answer: Duration::ZERO,
            since_full: u32::MAX,
            rotten: Vec::new(),
            failure: None,
            history: Vec::new(),
        }
    }

    /// Remembers a line.
    pub fn record(&mut self, world: &World, order: u64, on: Option<(VolumeNo, &[Sectors])>, text: String) {
        let (volume, ranges) = match on {
            Some((volume, ranges)) => (Some(volume), ranges.iter().copied().collect()),
            None => (None, SmallVec::new()),
        };
        world.note([7, order, volume.map_or(0, |volume| u64::from(volume.0)), text.len() as u64], || text.clone());
        self.history.push(Line { order, at: world.now(), volume, ranges, text });
    }

    /// Something is wrong.
    pub fn fail(&mut self, what: impl Into<String>) {
        self.failure.get_or_insert(what.into());
    }

    fn violation(&mut self, violation: &Violation) {
        if self.failure.is_none() {
            let (volume, sector) = (violation.volume, violation.sector);
            let overlaps = |ranges: &[Sectors]| {
                ranges.is_empty() || ranges.iter().any(|(first, count)| (*first..first + count).contains(&sector))
            };
            self.history.retain(|line| line.volume.is_none_or(|on| on == volume) && overlaps(&line.ranges));
            for line in self.oracle.explain(volume, sector) {
                let order = u64::MAX;
                let ranges = SmallVec::new();
                self.history.push(Line { order, at: self.last_answer, volume: Some(volume), ranges, text: line });
            }
        }
        self.fail(violation.what.clone());
    }

    /// The end of the history, for a failure's report.
    #[must_use]
    pub fn tail(&self) -> Vec<String> {
        let skipped = self.history.len().saturating_sub(HISTORY_LINES_MAX);
        let line = |line: &Line| match line.order {
            u64::MAX => format!("        {}", line.text),
            order => format!("{order:>9} {:>12.6} {}", line.at.as_secs_f64(), line.text),
        };
        self.history.iter().skip(skipped).map(line).collect()
    }

    /// The volumes that take requests.
    pub fn live(&self) -> impl Iterator<Item = &Known> {
        self.volumes.iter().filter(|volume| volume.phase == Phase::Live)
    }

    /// The volumes that may be written.
    pub fn writable(&self) -> impl Iterator<Item = &Known> {
        self.live().filter(|volume| volume.snapshot.is_none())
    }

    /// A snapshot that was asked for is there, or may be.
    pub fn freeze(&mut self, no: VolumeNo) {
        let Some(of) = self.known(no).snapshot.as_mut().filter(|of| !of.taken) else { return };
        of.taken = true;
        let of = of.clone();
        self.oracle.freeze(of.volume, no, &of.moment);
        self.oracle.read_ends(of.submitted);
    }

    /// The process ends: whatever snapshots were asked for may be there.
    pub fn freeze_pending(&mut self) {
        let pending = |known: &&Known| known.phase == Phase::Creating && known.snapshot.is_some();
        let pending: Vec<VolumeNo> = self.volumes.iter().filter(pending).map(|known| known.no).collect();
        pending.into_iter().for_each(|no| self.freeze(no));
    }

    /// What was not flushed may be lost, and with it what healed a block.
    pub fn power_cut(&mut self, now: u64) {
        self.oracle.power_cut(now);
        self.rotten.iter_mut().for_each(|rotten| rotten.healed = u64::MAX);
    }

    /// A change was answered: what it covers whole is not rotten any more.
    fn heal(&mut self, volume: VolumeNo, change: ChangeNo, now: u64) {
        let ranges = &self.oracle.change(change).ranges;
        let covered = |sector: u64| {
            ranges.iter().any(|(first, count)| *first <= sector && sector + SEALED_SECTORS <= first + count)
        };
        let of_volume = self.rotten.iter_mut().filter(|rotten| rotten.volume == volume && rotten.healed == u64::MAX);
        of_volume.filter(|rotten| covered(rotten.sector)).for_each(|rotten| rotten.healed = now);
    }

    /// True if the request may be refused for the block with that logical block of the volume.
    fn is_rotten(&self, submitted: &Submitted, lba: Option<u64>) -> bool {
        let volume = self.volumes.iter().find(|volume| volume.no == submitted.volume).expect("a volume of this run");
        lba.map(|lba| lba * volume.block_sectors()).is_some_and(|sector| {
            self.rotten.iter().any(|rotten| {
                rotten.volume == submitted.volume
                    && (rotten.sector..rotten.sector + SEALED_SECTORS).contains(&sector)
                    && rotten.healed > submitted.order
            })
        })
    }

    /// The volume with this number.
    pub fn known(&mut self, no: VolumeNo) -> &mut Known {
        self.volumes.iter_mut().find(|volume| volume.no == no).expect("a volume of this run")
    }
}

/// What one request needs to be judged.
#[derive(Clone)]
pub struct Context {
    /// The hosts.
    pub hosts: Rc<RefCell<Hosts>>,
    /// The world.
    pub world: Rc<World>,
    /// The engine's process: a dead one's answers reach nobody.
    pub process: Arc<Process>,
    /// Injected faults excuse failures.
    pub faulty: bool,
    /// There may be snapshots.
    pub has_layers: bool,
    /// Sectors of a page of the map.
    pub page_sectors: u64,
}

/// A request to a volume.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Read a range.
    Read(Sectors),
    /// Read past the end, which must be refused.
    PastEnd(Sectors),
    /// Write a range.
    Write(Sectors, bool),
    /// Flush.
    Flush,
    /// Discard ranges.
    Discard(SmallVec<[Sectors; 1]>),
    /// Write zeroes: range, unmap, FUA.
    Zeroes(Sectors, bool, bool),
    /// Compare a range with what is expected there, or with something else.
    Compare(Sectors, bool),
    /// Compare and write.
    CompareAndWrite(Sectors, bool),
}

struct Submitted {
    volume: VolumeNo,
    ask: Ask,
    order: u64,
    change: Option<ChangeNo>,
    compared: Option<Slice>,
    write_cache: bool,
}

fn lba(volume: &Known, (first, count): Sectors) -> LbaRange {
    LbaRange::new(first / volume.block_sectors(), count / volume.block_sectors())
}

fn fill(buffer: &mut [u8], volume: VolumeNo, change: ChangeNo, first: u64) {
    for (index, bytes) in buffer.chunks_exact_mut(SECTOR_BYTES).enumerate() {
        payload::fill(bytes, volume.0, change.0, first + index as u64);
    }
}

// What the oracle expects in the range; where it allows several contents, one that may be wrong.
fn expectation(hosts: &Hosts, out: &mut [u8], now: u64, volume: VolumeNo, first: u64, wrong: bool) {
    for (index, bytes) in out.chunks_exact_mut(SECTOR_BYTES).enumerate() {
        let sector = first + index as u64;
        match hosts.oracle.only(now, volume, sector, None) {
            Some(change) if !wrong && !hosts.oracle.change(change).zeros => {
                payload::fill(bytes, volume.0, change.0, sector);
            }
            _ if wrong => payload::fill(bytes, volume.0, u32::MAX, sector),
            _ => bytes.fill(0),
        }
    }
}

impl Context {
    /// Builds the request for `ask`, tells the oracle, and returns the task that waits for the answer.
    pub fn submit(
        &self,
        device: DynDevice,
        volume: VolumeNo,
        ask: Ask,
        patience: Option<Duration>,
    ) -> impl Future<Output = ()> + 'static {
        let order = self.world.next_order();
        let (submitted, request) = self.prepare(&device, volume, ask, order);
        let context = self.clone();
        async move {
            let io = SimIo { world: Rc::clone(&context.world), process: Arc::clone(&context.process) };
            let mut answer = device.execute(request);
            let mut end = patience.map(|patience| Box::pin(io.sleep(patience)));
            let result = std::future::poll_fn(|waker| match answer.as_mut().poll(waker) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending => match end.as_mut().map(|end| end.as_mut().poll(waker)) {
                    Some(Poll::Ready(())) => Poll::Ready(None),
                    Some(Poll::Pending) | None => Poll::Pending,
                },
            })
            .await;
            // The kill may come before the answer reaches the host.
            if context.process.effect() == Effect::Whole {
                match result {
                    Some(result) => context.answered(submitted, result),
                    None => {
                        context.given_up(&submitted);
                        // As the waist asks: nobody waits for the answer, and the request goes on to its end.
                        let _ = answer.await;
                    }
                }
            }
        }
    }

    // The host does not wait any more: what it asked for may still happen at any time.
    fn given_up(&self, submitted: &Submitted) {
        let mut hosts = self.hosts.borrow_mut();
        let hosts = &mut *hosts;
        let order = self.world.next_order();
        hosts.open -= 1;
        hosts.last_answer = self.world.now();
        self.world.counters.borrow_mut().dropped += 1;
        if matches!(submitted.ask, Ask::Read(_)) || submitted.compared.is_some() {
            hosts.oracle.read_ends(submitted.order);
        }
        let text = format!("volume {}: the request of {} is given up", submitted.volume.0, submitted.order);
        hosts.record(&self.world, order, Some((submitted.volume, &[])), text);
    }

    fn prepare(&self, device: &DynDevice, no: VolumeNo, ask: Ask, order: u64) -> (Submitted, Request<Slice>) {
        let mut hosts = self.hosts.borrow_mut();
        let hosts = &mut *hosts;
        let volume = hosts.known(no).clone();
        let mut change = None;
        let mut compared = None;
        let mut overlaps = 0;
        let mut begin = |hosts: &mut Hosts, ranges: SmallVec<[Sectors; 1]>, zeros: bool, fua: bool| {
            let (number, overlapped) = hosts.oracle.submit(order, no, ranges, zeros, fua);
            overlaps += overlapped as u64;
            change = Some(number);
            number
        };
        let (command, payload, ranges): (_, _, SmallVec<[Sectors; 1]>) = match &ask {
            Ask::Read(range) => {
                hosts.oracle.read_begins(order);
                (Command::Read(lba(&volume, *range)), None, smallvec![*range])
            }
            Ask::PastEnd(range) => (Command::Read(lba(&volume, *range)), None, smallvec![*range]),
            Ask::Write(range, fua) => {
                let number = begin(hosts, smallvec![*range], false, *fua);
                let mut buffer = Buffer::uninit(range.1 as usize * SECTOR_BYTES);
                fill(buffer.as_mut(), no, number, range.0);
                (Command::Write { range: lba(&volume, *range), fua: *fua }, Some(buffer.share()), smallvec![*range])
            }
            Ask::Flush => (Command::Flush, None, SmallVec::new()),
            Ask::Discard(ranges) => {
                begin(hosts, ranges.clone(), true, false);
                let lbas = ranges.iter().map(|range| lba(&volume, *range)).collect();
                (Command::Discard(lbas), None, ranges.clone())
            }
            Ask::Zeroes(range, unmap, fua) => {
                begin(hosts, smallvec![*range], true, *fua);
                let range_lba = lba(&volume, *range);
                (Command::WriteZeroes { range: range_lba, unmap: *unmap, fua: *fua }, None, smallvec![*range])
            }
            Ask::Compare(range, wrong) => {
                let mut buffer = Buffer::uninit(range.1 as usize * SECTOR_BYTES);
                expectation(hosts, buffer.as_mut(), order, no, range.0, *wrong);
                hosts.oracle.read_begins(order);
                let payload = buffer.share();
                compared = Some(payload.clone());
                (Command::Compare(lba(&volume, *range)), Some(payload), smallvec![*range])
            }
            Ask::CompareAndWrite(range, wrong) => {
                let half = range.1 as usize * SECTOR_BYTES;
                let mut buffer = Buffer::uninit(2 * half);
                expectation(hosts, &mut buffer.as_mut()[..half], order, no, range.0, *wrong);
                let number = begin(hosts, smallvec![*range], false, false);
                fill(&mut buffer.as_mut()[half..], no, number, range.0);
                hosts.oracle.read_begins(order);
                let payload = buffer.share();
                compared = Some(payload.slice(0, half));
                let range_lba = lba(&volume, *range);
                (Command::CompareAndWrite { range: range_lba, fua: false }, Some(payload), smallvec![*range])
            }
        };
        let text = match change {
            Some(change) => format!("volume {} {ask:?} change {} submitted", no.0, change.0),
            None => format!("volume {} {ask:?} submitted", no.0),
        };
        hosts.record(&self.world, order, Some((no, &ranges)), text);
        hosts.open += 1;
        self.count(&ask, overlaps);
        let write_cache = device.geometry().write_cache;
        (Submitted { volume: no, ask, order, change, compared, write_cache }, Request { command, payload })
    }

    fn count(&self, ask: &Ask, overlaps: u64) {
        let mut counters = self.world.counters.borrow_mut();
        counters.overlaps += overlaps;
        let counter = match ask {
            Ask::Read(_) | Ask::PastEnd(_) => &mut counters.reads,
            Ask::Write(_, false) => &mut counters.writes,
            Ask::Write(_, true) => &mut counters.fua_writes,
            Ask::Flush => &mut counters.flushes,
            Ask::Discard(_) => &mut counters.discards,
            Ask::Zeroes(..) => &mut counters.zeroes,
            Ask::Compare(..) | Ask::CompareAndWrite(..) => &mut counters.compares,
        };
        *counter += 1;
    }

    fn answered(&self, submitted: Submitted, result: Result<Option<ReadBytes>, BlockError>) {
        let mut hosts = self.hosts.borrow_mut();
        let hosts = &mut *hosts;
        let order = self.world.next_order();
        hosts.open -= 1;
        hosts.last_answer = self.world.now();
        let outcome = match &result {
            Ok(_) => "done".into(),
            Err(error) => format!("{error}"),
        };
        let ranges: SmallVec<[Sectors; 1]> = match &submitted.ask {
            Ask::Read(range) | Ask::PastEnd(range) | Ask::Write(range, _) | Ask::Zeroes(range, _, _) => {
                smallvec![*range]
            }
            Ask::Compare(range, _) | Ask::CompareAndWrite(range, _) => smallvec![*range],
            Ask::Discard(ranges) => ranges.clone(),
            Ask::Flush => SmallVec::new(),
        };
        let text = format!("volume {}: the request of {} is answered: {outcome}", submitted.volume.0, submitted.order);
        hosts.record(&self.world, order, Some((submitted.volume, &ranges)), text);
        match result {
            Ok(bytes) => self.succeeded(hosts, &submitted, bytes, order),
            Err(error) => self.refused(hosts, &submitted, &error, order),
        }
    }

    fn succeeded(&self, hosts: &mut Hosts, submitted: &Submitted, bytes: Option<ReadBytes>, now: u64) {
        let (volume, began) = (submitted.volume, submitted.order);
        let dying = hosts.known(volume).phase != Phase::Live;
        if matches!(submitted.ask, Ask::Read(_)) || submitted.compared.is_some() {
            hosts.oracle.read_ends(began);
        }
        match &submitted.ask {
            Ask::Read((first, count)) => match bytes {
                Some(bytes) if bytes.len() as u64 == count * SECTOR_BYTES as u64 => {
                    let mut first = *first;
                    for segment in bytes.segments.iter().filter(|_| !dying) {
                        let result = match segment {
                            Segment::Bytes(bytes) => hosts.oracle.check(now, began, volume, first, bytes.as_ref()),
                            Segment::Zeros(len) => {
                                let range = (first, (len / SECTOR_BYTES) as u64);
                                hosts.oracle.check_zeros(now, began, volume, range)
                            }
                        };
                        self.judge(hosts, result, segment.len());
                        first += (segment.len() / SECTOR_BYTES) as u64;
                    }
                }
                other => hosts.fail(format!("a read of {count} sectors returned {:?}", other.map(|bytes| bytes.len()))),
            },
            Ask::PastEnd(range) => {
                // It may have grown meanwhile.
                if range.0 + range.1
                    > hosts.known(volume).growing_to.unwrap_or(0).max(hosts.known(volume).size_bytes) / 512
                {
                    hosts.fail(format!("a read of {range:?}, past the end, was answered"));
                }
            }
            Ask::Flush => hosts.oracle.flushed(began, volume),
            Ask::Compare((first, _), _) | Ask::CompareAndWrite((first, _), _) => {
                let compared = submitted.compared.as_ref().expect("a compare has a payload");
                if !dying {
                    let result = hosts.oracle.check(now, began, volume, *first, compared.as_ref());
                    self.judge(hosts, result, compared.len());
                }
            }
            Ask::Write(..) | Ask::Discard(_) | Ask::Zeroes(..) => {}
        }
        if let Some(change) = submitted.change {
            let durable = hosts.oracle.change(change).fua || !submitted.write_cache;
            hosts.oracle.acknowledge(now, change, durable);
            hosts.heal(volume, change, now);
        }
    }

    fn judge(&self, hosts: &mut Hosts, result: Result<(), Violation>, len: usize) {
        self.world.counters.borrow_mut().sectors_checked += (len / SECTOR_BYTES) as u64;
        if let Err(violation) = result {
            hosts.violation(&violation);
        }
    }

    fn refused(&self, hosts: &mut Hosts, submitted: &Submitted, error: &BlockError, now: u64) {
        let (volume, began) = (submitted.volume, submitted.order);
        let dying = hosts.known(volume).phase != Phase::Live;
        let is_write = submitted.change.is_some();
        let mut counters = self.world.counters.borrow_mut();
        let excused = match error.kind() {
            ErrorKind::NoSpace => {
                counters.full_pools += 1;
                hosts.since_full = 0;
                // What a snapshot has must be hidden, and that may take a chunk.
                is_write && (self.has_layers || !matches!(submitted.ask, Ask::Discard(_)))
            }
            ErrorKind::Busy => {
                counters.busy += 1;
                self.faulty || self.world.store.excuses()
            }
            ErrorKind::Miscompare => {
                counters.miscompares += 1;
                self.miscompare_is_right(hosts, submitted)
            }
            ErrorKind::OutOfRange => matches!(submitted.ask, Ask::PastEnd(_)),
            ErrorKind::MediaError | ErrorKind::TimedOut | ErrorKind::ReadOnly => self.faulty,
            ErrorKind::ChecksumMismatch => {
                counters.rot_found += 1;
                hosts.is_rotten(submitted, error.context().value)
            }
            ErrorKind::DeviceGone => dying,
            // Compare-and-write is atomic within a page of the map alone.
            ErrorKind::Unsupported => matches!(submitted.ask, Ask::CompareAndWrite((first, count), _)
                if first / self.page_sectors != (first + count - 1) / self.page_sectors),
            ErrorKind::InvalidField | ErrorKind::ReservationConflict | ErrorKind::Fenced => false,
        };
        if !excused && !dying {
            hosts.fail(format!("volume {}: {:?} was refused: {error}", volume.0, submitted.ask));
        }
        if matches!(submitted.ask, Ask::Read(_)) || submitted.compared.is_some() {
            hosts.oracle.read_ends(began);
        }
        match submitted.change {
            Some(change) if error.kind() == ErrorKind::Miscompare => hosts.oracle.withdraw(now, change),
            // Whatever timed out may still land at any time.
            Some(_) if error.kind() == ErrorKind::TimedOut => {}
            Some(change) => hosts.oracle.fail(now, change),
            None => {}
        }
    }

    // Wrong only if nothing else than the payload could be there.
    fn miscompare_is_right(&self, hosts: &Hosts, submitted: &Submitted) -> bool {
        let (Some(compared), Ask::Compare((first, _), _) | Ask::CompareAndWrite((first, _), _)) =
            (&submitted.compared, &submitted.ask)
        else {
            return false;
        };
        !compared.as_ref().chunks_exact(SECTOR_BYTES).enumerate().all(|(index, bytes)| {
            let only = hosts.oracle.only(submitted.order, submitted.volume, first + index as u64, submitted.change);
            only.is_some_and(|change| match payload::parse(bytes) {
                payload::Content::Zeros => hosts.oracle.change(change).zeros,
                payload::Content::Written { write, .. } => change.0 == write,
                payload::Content::Discarded | payload::Content::Unknown => false,
            })
        })
    }
}
