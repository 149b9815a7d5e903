//! One seed: a pool is made, lives through operations and crashes, and is read back in the end.
//!
//! Layout: a run has lives; each opens the pool, compares what is there with what the hosts know, issues its share of
//! the operations, and ends in a kill, a power cut, a clean stop, or a stop and a power cut. The kill comes at a drawn
//! number of effects after a drawn operation, or during the open.

mod control;
mod ending;
mod layers;
mod trouble;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use sds_io::DiskId;

use sds_volume::place::EXTENTS_PER_PAGE;

use crate::carry_over::Mapping;
use crate::engine::{Engine, Refused, Surroundings};
use crate::host::{Ask, Context, Hosts, Known, Phase};
use crate::knobs::Knobs;
use crate::meta::{Handle, Rows};
use crate::oracle::VolumeNo;
use crate::payload::SECTOR_BYTES;
use crate::random::Random;
use crate::report::{Counters, Failure, TraceHash};
use crate::schedule::{Scheduler, Step};
use crate::workload::{self, Kind, Mood};
use crate::world::World;

/// Requests of a verification that are open at once, and their size.
/// Volumes that a life tries to make before it begins.
const FILL_UP_CREATIONS_MAX: usize = 100;
const VERIFY_DEPTH: usize = 8;
const VERIFY_SECTORS: u64 = (256 << 10) / SECTOR_BYTES as u64;
/// Without an answer for so long, a request counts as lost.
const ANSWER_S_MAX: u64 = 1000;
/// A pool whose disk failed while it was opened is opened again so often.
const OPENS_MAX: u32 = 20;
/// The first crash of a life comes within so many effects after the operation that was drawn.
const KILL_EFFECTS_MAX: u64 = 400;
/// The crash of an opening comes within this power of two of its effects.
const RECOVERY_EFFECTS_LOG2_MAX: u64 = 11;
/// Operations for which a full pool changes what hosts do.
const FULL_OPERATIONS: u32 = 12;
/// Operations without a flush before a crash.
const CHURN_OPERATIONS: u32 = 30;
/// A host that gives up does so within this time.
const PATIENCE_US_MAX: u64 = 20_000;
const PAUSE_MS_MAX: u64 = 12_000;

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// What happened how often.
    pub counters: Counters,
    /// All of it, hashed.
    pub trace: TraceHash,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

enum Ended {
    Dead,
    Stopped,
}

struct Run<E> {
    knobs: Rc<Knobs>,
    random: Random,
    world: Rc<World>,
    hosts: Rc<RefCell<Hosts>>,
    operations_left: u32,
    quiet_until_ns: u64,
    /// When the metadata store is well again; `None` if it is.
    outage_until_ns: Option<u64>,
    /// It was lost or is an older one, and the pool was not opened since.
    meta_gone: bool,
    /// Memory and metadata store of the node that has not the pool.
    other_node: (Vec<u8>, Rows),
    /// A sync failed as the pool was open; what was flushed before is there, and nothing else is promised.
    sync_failed: bool,
    /// A sync failed before or as the pool was opened: what is durable is not known.
    opened_uncertain: bool,
    /// Laps of the journal so far.
    laps: u64,
    /// The one that is open, for a failure's words.
    engine: Weak<E>,
}

/// Runs `knobs`' seed with the engine `E`.
#[must_use]
pub fn run<E: Engine>(knobs: Knobs) -> Outcome {
    let seed = knobs.seed;
    let mut random = Random::new(!seed);
    let world = World::new(&knobs, &mut random);
    let disks = (0..knobs.first_disks as u16).map(DiskId).collect();
    let hosts = Rc::new(RefCell::new(Hosts::new(disks)));
    let operations_left = knobs.operations;
    let other_node = (vec![0; knobs.carry_over_bytes], Rows::new());
    let mut run: Run<E> = Run {
        knobs: Rc::new(knobs),
        random,
        world: Rc::clone(&world),
        hosts: Rc::clone(&hosts),
        operations_left,
        quiet_until_ns: 0,
        outage_until_ns: None,
        meta_gone: false,
        other_node,
        sync_failed: false,
        opened_uncertain: false,
        laps: 0,
        engine: Weak::new(),
    };
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.lives()));
    let what = match panicked {
        Ok(result) => result.err(),
        Err(_) => Some(crate::panics::take()),
    };
    drop(run);
    let failure = what.map(|what| {
        let history = hosts.try_borrow().map(|hosts| hosts.tail()).unwrap_or_default();
        Failure { seed, what, history }
    });
    let mut counters = world.counters.borrow().clone();
    counters.checkpoints += world.store.take_batches();
    counters.meta_refused += world.store.take_refused();
    counters.seeds_lapped += u64::from(counters.journal_laps > 0);
    counters.seeds_full += u64::from(counters.full_pools > 0);
    Outcome { counters, trace: world.trace.get(), failure }
}

type Shared<T> = Rc<RefCell<Option<T>>>;

impl<E: Engine> Run<E> {
    fn lives(&mut self) -> Result<(), String> {
        let mut made = false;
        let lives = self.knobs.lives;
        for life in 0..=lives {
            let last = life == lives;
            let mut scheduler = self.scheduler();
            self.record(format!("life {life} begins"));
            if !last && self.random.chance(self.knobs.recovery_crash_per_mille) {
                // Few and many alike: an import takes longer than a look at the labels.
                let effects_max = 1 << self.random.between(3, RECOVERY_EFFECTS_LOG2_MAX);
                scheduler.process.kill_after(self.random.below(effects_max));
            }
            if made {
                self.arm();
            }
            let ended = self.life(&mut scheduler, &mut made, life)?;
            scheduler.kill();
            drop(scheduler);
            self.end(&ended);
            if let Some(all) = self.world.lied.take() {
                return if made { self.after_a_lie(all) } else { Ok(()) };
            }
            if self.world.counters.borrow().sync_faults > 0 {
                return if self.sync_failed { self.after_a_failed_sync() } else { Ok(()) };
            }
        }
        Ok(())
    }

    // What a disk lost in a failed sync is lost, where there is no second copy: in that life no flush may say
    // otherwise. That is looked at now, and after it nothing is promised.
    fn after_a_failed_sync(&mut self) -> Result<(), String> {
        self.world.counters.borrow_mut().sync_inspections += 1;
        let mut scheduler = self.scheduler();
        let Some(engine) = self.open(&mut scheduler, &mut true)? else { return Ok(()) };
        self.reconcile(&*engine)?;
        self.verify(&mut scheduler, &engine).map(|_| ())
    }

    fn scheduler(&mut self) -> Scheduler {
        let random = self.random.fork();
        Scheduler::new(&self.world, self.knobs.cores, random, self.knobs.core_stall_per_100k)
    }

    fn life(&mut self, scheduler: &mut Scheduler, made: &mut bool, life: u32) -> Result<Ended, String> {
        let last = life == self.knobs.lives;
        let Some(engine) = self.open(scheduler, made)? else { return Ok(Ended::Dead) };
        self.reconcile(&*engine)?;
        let before = engine.health().journal_laps;
        if self.random.chance(self.knobs.scrub_per_mille) {
            self.world.counters.borrow_mut().scrubs += 1;
            engine.scrub();
        }
        if !self.fill_up(scheduler, &engine)? {
            return Ok(Ended::Dead);
        }
        if (last || self.random.chance(self.knobs.verify_per_mille)) && !self.verify(scheduler, &engine)? {
            return Ok(Ended::Dead);
        }
        let share = if last { self.operations_left } else { self.operations_left / (self.knobs.lives - life + 1) };
        let stops = last || self.random.chance(150);
        let kill_at = self.random.below(u64::from(share.max(1))) as u32;
        let churns = !stops && self.random.chance(self.knobs.churn_per_mille);
        for operation in 0..share {
            if !stops && operation == kill_at {
                if self.random.chance(self.knobs.ambush_per_mille) {
                    self.world.ambush.set(true);
                } else {
                    scheduler.process.kill_after(self.random.below(KILL_EFFECTS_MAX));
                }
            }
            self.operations_left -= 1;
            self.world.counters.borrow_mut().operations += 1;
            self.trouble_meta();
            if self.random.chance(self.knobs.rot_sealed_per_mille) && !self.rot_sealed(scheduler, &engine)? {
                self.count(&engine, before);
                return Ok(Ended::Dead);
            }
            let churn = churns && operation + CHURN_OPERATIONS >= kill_at;
            self.issue(scheduler, &engine, churn);
            if !self.settle_to(scheduler, self.knobs.depth)? {
                self.count(&engine, before);
                return Ok(Ended::Dead);
            }
        }
        if last {
            // From here on nothing excuses a refusal.
            self.end_outage();
            self.quiet_until_ns = self.quiet_until_ns.max(self.world.store.excused_until_ns());
        }
        if !stops {
            scheduler.process.kill_after(self.random.below(KILL_EFFECTS_MAX));
        }
        let mut alive = self.settle_to(scheduler, 1)? && (!last || self.verify(scheduler, &engine)?);
        if alive && last && !self.knobs.faulty() {
            alive = self.agrees(scheduler, &engine)?
                && self.mends(scheduler, &engine)?
                && self.give_all_back(scheduler, &engine)?
                && self.agrees(scheduler, &engine)?;
        }
        self.count(&engine, before);
        if !alive || !stops {
            return Ok(Ended::Dead);
        }
        self.stop(scheduler, engine)
    }

    // At the end of a life, however it came.
    fn count(&mut self, engine: &Rc<E>, laps_before: u64) {
        self.laps += engine.health().journal_laps.saturating_sub(laps_before);
        self.sync_failed = !self.opened_uncertain && self.world.counters.borrow().sync_faults > 0;
        let (health, joins) = (engine.health(), self.hosts.borrow().joining.is_some());
        let mut counters = self.world.counters.borrow_mut();
        counters.journal_laps += health.journal_laps.saturating_sub(laps_before);
        counters.deletion_crashes += u64::from(health.deletions > 0);
        counters.joining_crashes += u64::from(joins);
        counters.sealed_blocks += health.sealed_blocks;
        counters.unsealed_blocks += health.unsealed_blocks;
    }

    // A step of the scheduler; an outage ends in time.
    fn step(&mut self, scheduler: &mut Scheduler, until: Option<u64>) -> Step {
        let Some(well_at) = self.outage_until_ns else { return scheduler.step(until) };
        let step = scheduler.step(Some(until.unwrap_or(u64::MAX).min(well_at)));
        if self.world.now().as_nanos() as u64 >= well_at {
            self.end_outage();
        }
        step
    }

    fn record(&self, text: String) {
        let order = self.world.next_order();
        self.hosts.borrow_mut().record(&self.world, order, None, text);
    }

    fn surroundings(&mut self, scheduler: &Scheduler) -> Surroundings {
        Surroundings {
            io: scheduler.io(),
            spawners: scheduler.spawners(),
            meta: Arc::new(Handle { store: Arc::clone(&self.world.store), process: Arc::clone(&scheduler.process) }),
            carry_over: Arc::new(Mapping::new(&self.world.memory, &scheduler.process)),
            disks: self.hosts.borrow().disks.clone(),
            joining: self.hosts.borrow().joining,
            knobs: Rc::clone(&self.knobs),
            seed: self.random.bits(),
        }
    }

    // Runs `future` on the first core to its end; `None` if the process died before.
    fn wait<T: 'static>(
        &mut self,
        scheduler: &mut Scheduler,
        future: impl Future<Output = T> + 'static,
        what: &str,
    ) -> Result<Option<T>, String> {
        let answer: Shared<T> = Rc::default();
        let out = Rc::clone(&answer);
        scheduler.spawners()[0].spawn(async move {
            let value = future.await;
            *out.borrow_mut() = Some(value);
        });
        let until = self.world.now() + Duration::from_secs(ANSWER_S_MAX);
        loop {
            match self.step(scheduler, None) {
                Step::Dead => return Ok(None),
                Step::Stuck => return Err(format!("{what} never ends: nothing is left to happen")),
                Step::Went if self.world.now() > until => return Err(format!("{what} does not end")),
                Step::Went => {}
            }
            if let Some(value) = answer.borrow_mut().take() {
                return Ok(Some(value));
            }
        }
    }

    fn faults(&self) -> u64 {
        let counters = self.world.counters.borrow();
        counters.read_faults + counters.write_faults + counters.sync_faults
    }

    // A pool without one of its disks is refused, and none the worse for it when all are there again. False if the
    // process died.
    fn open_without_a_disk(&mut self, scheduler: &mut Scheduler) -> Result<bool, String> {
        if self.knobs.absent_per_mille == 0 || !self.random.chance(self.knobs.absent_per_mille) {
            return Ok(true);
        }
        let mut surroundings = self.surroundings(scheduler);
        let absent = surroundings.disks.swap_remove(self.random.index(surroundings.disks.len()));
        self.world.counters.borrow_mut().absent_disks += 1;
        match self.wait(scheduler, E::open(surroundings), "the open")? {
            Some(Ok(_)) => Err(format!("the pool opens without disk {}", absent.0)),
            Some(Err((_, what))) => {
                self.record(format!("no open without disk {}: {what}", absent.0));
                Ok(true)
            }
            None => Ok(false),
        }
    }

    fn open(&mut self, scheduler: &mut Scheduler, made: &mut bool) -> Result<Option<Rc<E>>, String> {
        if *made && !self.open_without_a_disk(scheduler)? {
            return Ok(None);
        }
        for _ in 0..OPENS_MAX {
            self.world.counters.borrow_mut().opens += 1;
            let surroundings = self.surroundings(scheduler);
            let faults = self.faults();
            let opened = if *made {
                self.wait(scheduler, E::open(surroundings), "the open")?
            } else {
                self.wait(scheduler, E::create(surroundings), "the creation")?
            };
            match opened {
                None => {
                    let mut counters = self.world.counters.borrow_mut();
                    counters.recovery_crashes += 1;
                    counters.import_crashes += u64::from(self.meta_gone);
                    return Ok(None);
                }
                Some(Ok(engine)) => {
                    *made = true;
                    self.opened_uncertain = self.world.counters.borrow().sync_faults > 0;
                    self.meta_gone = false;
                    self.world.counters.borrow_mut().imports += u64::from(engine.health().imported);
                    if engine.health().lost_writes > 0 && !self.disks_did_wrong() {
                        return Err("disks are said to have lost writes, and did not".into());
                    }
                    let engine = Rc::new(engine);
                    self.engine = Rc::downgrade(&engine);
                    return Ok(Some(engine));
                }
                Some(Err((Refused::Failed, what))) if self.faults() > faults || self.outage_until_ns.is_some() => {
                    self.record(format!("no open: {what}"));
                    self.end_outage();
                    self.restart(scheduler);
                }
                Some(Err((_, what))) => return Err(format!("the pool does not open: {what}")),
            }
        }
        Err("the pool does not open, however often".into())
    }

    fn disks_did_wrong(&self) -> bool {
        let counters = self.world.counters.borrow();
        let silent = counters.dropped_writes + counters.misdirected_writes + counters.stale_reads;
        silent + counters.lies + counters.rotten_catalogs > 0
    }

    // The process ended by itself and is started again.
    fn restart(&mut self, scheduler: &mut Scheduler) {
        scheduler.kill();
        self.world.process_crash();
        *scheduler = self.scheduler();
    }

    // Compares what the engine has with what the hosts know; what was open when it died is settled by what is there.
    fn reconcile(&mut self, engine: &E) -> Result<(), String> {
        let mut listed = engine.volumes();
        let mut hosts = self.hosts.borrow_mut();
        let hosts = &mut *hosts;
        for known in &mut hosts.volumes {
            let position = listed.iter().position(|volume| volume.uuid == known.uuid);
            let found = position.map(|position| listed.swap_remove(position));
            match (known.phase, found) {
                (Phase::Gone, None) => {}
                (Phase::Gone, Some(_)) => return Err(format!("deleted volume {} is there again", known.no.0)),
                (Phase::Live, None) => return Err(format!("volume {} is lost", known.no.0)),
                (Phase::Creating | Phase::Deleting, None) => {
                    known.phase = Phase::Gone;
                    hosts.oracle.remove_volume(known.no);
                }
                (Phase::Creating | Phase::Deleting | Phase::Live, Some(found)) => {
                    if known.snapshot.is_some() && known.phase == Phase::Creating {
                        self.world.counters.borrow_mut().snapshots_found += 1;
                        // The volume may have grown before it was taken.
                        known.growing_to = Some(found.size_bytes).filter(|size| *size >= known.size_bytes);
                    }
                    known.phase = Phase::Live;
                    if found.size_bytes != known.size_bytes && Some(found.size_bytes) != known.growing_to {
                        let (no, size) = (known.no.0, known.size_bytes);
                        return Err(format!("volume {no} has {} bytes instead of {size}", found.size_bytes));
                    }
                    known.size_bytes = found.size_bytes;
                    known.growing_to = None;
                    hosts.oracle.grow(known.no, found.size_bytes);
                }
            }
        }
        if let Some(unknown) = listed.first() {
            return Err(format!("a volume that nobody created: {:?}", unknown.uuid));
        }
        let disks = engine.disks();
        if let Some(disk) = hosts.disks.iter().find(|disk| !disks.contains(disk)) {
            return Err(format!("the pool lost disk {}", disk.0));
        }
        if let Some(joined) = hosts.joining.take().filter(|disk| disks.contains(disk)) {
            hosts.disks.push(joined);
            self.world.counters.borrow_mut().disks_added += 1;
        }
        let found: std::collections::BTreeMap<_, _> = engine.documents().into_iter().collect();
        for (key, allowed) in &mut hosts.documents {
            let value = found.get(key).cloned();
            if !allowed.contains(&value) {
                let brief = |value: &Option<Vec<u8>>| value.as_ref().map(|bytes| (bytes.len(), bytes.first().copied()));
                let allowed: Vec<_> = allowed.iter().map(brief).collect();
                return Err(format!("document {key} is {:?}, none of {allowed:?}", brief(&value)));
            }
            *allowed = vec![value];
        }
        match found.keys().find(|key| !hosts.documents.contains_key(*key)) {
            Some(key) => Err(format!("a document that nobody put: {key}")),
            None => Ok(()),
        }
    }

    // Creates the volumes that a run begins with, or that are missing.
    fn fill_up(&mut self, scheduler: &mut Scheduler, engine: &Rc<E>) -> Result<bool, String> {
        // A pool that can't make anything durable, or whose metadata store is out, refuses them all: the life goes on.
        for _ in 0..FILL_UP_CREATIONS_MAX {
            if self.hosts.borrow().writable().count() >= self.knobs.volume_bytes.len() {
                break;
            }
            self.create_volume(scheduler, engine);
            if !self.settle_to(scheduler, 1)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn verify(&mut self, scheduler: &mut Scheduler, engine: &Rc<E>) -> Result<bool, String> {
        let live: Vec<Known> = self.hosts.borrow().live().cloned().collect();
        for volume in live {
            for first in (0..volume.sectors()).step_by(VERIFY_SECTORS as usize) {
                let count = VERIFY_SECTORS.min(volume.sectors() - first);
                self.ask(scheduler, engine, volume.no, Ask::Read((first, count)));
                if !self.settle_to(scheduler, VERIFY_DEPTH)? {
                    return Ok(false);
                }
            }
        }
        self.settle_to(scheduler, 1)
    }

    // All that the engine keeps in several places says the same, unless a disk did wrong in one of them.
    fn agrees(&mut self, scheduler: &mut Scheduler, engine: &Rc<E>) -> Result<bool, String> {
        let engine = Rc::clone(engine);
        let checked = self.wait(scheduler, async move { engine.check().await }, "a check")?;
        match checked {
            None => Ok(false),
            Some(Ok(findings)) if findings.is_empty() || self.disks_did_wrong() => Ok(true),
            Some(Ok(findings)) => Err(format!("the check found: {}", findings.join("; "))),
            Some(Err((_, what))) => Err(format!("the pool can't be checked: {what}")),
        }
    }

    // Runs until fewer than `depth` requests are open and the hosts are not quiet any more; false if the process died.
    fn settle_to(&mut self, scheduler: &mut Scheduler, depth: usize) -> Result<bool, String> {
        loop {
            let (open, last_answer) = {
                let mut hosts = self.hosts.borrow_mut();
                if let Some(failure) = hosts.failure.take() {
                    return Err(failure);
                }
                (hosts.open, hosts.last_answer)
            };
            let quiet = (self.world.now().as_nanos() as u64) < self.quiet_until_ns;
            if open < depth && !quiet {
                return Ok(true);
            }
            match self.step(scheduler, quiet.then_some(self.quiet_until_ns)) {
                Step::Dead => return Ok(false),
                Step::Stuck if open > 0 => return Err(format!("{open} requests are never answered")),
                Step::Went if open > 0 && self.world.now() > last_answer + Duration::from_secs(ANSWER_S_MAX) => {
                    let health = self.engine.upgrade().map(|engine| engine.health());
                    return Err(format!("{open} requests have no answer after {ANSWER_S_MAX} s: {health:?}"));
                }
                Step::Stuck | Step::Went => {}
            }
        }
    }

    fn context(&self, scheduler: &Scheduler) -> Context {
        Context {
            hosts: Rc::clone(&self.hosts),
            world: Rc::clone(&self.world),
            process: Arc::clone(&scheduler.process),
            faulty: self.knobs.faulty(),
            has_layers: self.knobs.layers_per_mille > 0,
            page_sectors: self.knobs.extent_bytes * EXTENTS_PER_PAGE / SECTOR_BYTES as u64,
        }
    }

    fn ask(&mut self, scheduler: &Scheduler, engine: &Rc<E>, volume: VolumeNo, ask: Ask) {
        let patience = self.random.chance(self.knobs.drop_per_mille);
        let patience = patience.then(|| Duration::from_micros(self.random.between(1, PATIENCE_US_MAX)));
        self.send(scheduler, engine, volume, ask, patience);
    }

    fn ask_patiently(&mut self, scheduler: &Scheduler, engine: &Rc<E>, volume: VolumeNo, ask: Ask) {
        self.send(scheduler, engine, volume, ask, None);
    }

    fn send(&mut self, scheduler: &Scheduler, engine: &Rc<E>, volume: VolumeNo, ask: Ask, patience: Option<Duration>) {
        let core = self.random.index(self.knobs.cores);
        let uuid = self.hosts.borrow_mut().known(volume).uuid;
        match engine.device(core, uuid) {
            Some(device) => {
                self.touch();
                let task = self.context(scheduler).submit(device, volume, ask, patience);
                scheduler.spawners()[core].spawn(task);
            }
            None => self.hosts.borrow_mut().fail(format!("volume {} has no device", volume.0)),
        }
    }

    // The clock of unanswered requests starts again when there were none.
    fn touch(&self) {
        let mut hosts = self.hosts.borrow_mut();
        if hosts.open == 0 {
            hosts.last_answer = self.world.now();
        }
    }

    fn issue(&mut self, scheduler: &Scheduler, engine: &Rc<E>, churn: bool) {
        let mood = {
            let mut hosts = self.hosts.borrow_mut();
            hosts.since_full = hosts.since_full.saturating_add(1);
            match churn {
                true => Mood::Churn,
                false if hosts.since_full < FULL_OPERATIONS => Mood::Full,
                false => Mood::Usual,
            }
        };
        if self.random.chance(self.knobs.pause_per_mille) {
            let pause = Duration::from_millis(self.random.between(1, PAUSE_MS_MAX));
            self.quiet_until_ns = (self.world.now() + pause).as_nanos() as u64;
        }
        if self.knobs.layers_per_mille > 0 && self.random.chance(self.knobs.layers_per_mille) {
            return self.layer_operation(scheduler, engine);
        }
        let kind = workload::kind(&mut self.random, &self.knobs, mood);
        let live: Vec<Known> = self.hosts.borrow().writable().cloned().collect();
        if kind == Kind::Read && self.knobs.layers_per_mille > 0 && self.random.chance(300) {
            return self.read_snapshot(scheduler, engine);
        }
        match kind {
            Kind::Volume => return self.volume_operation(scheduler, engine, &live),
            Kind::AddDisk if self.add_disk(scheduler, engine) => return,
            Kind::Document | Kind::AddDisk => return self.put_document(scheduler, engine),
            _ if live.is_empty() => return self.create_volume(scheduler, engine),
            Kind::Grow => return self.grow(scheduler, engine, &live),
            _ => {}
        }
        let random = &mut self.random;
        let hot = random.chance(self.knobs.hot_per_mille);
        let volume = if hot { &live[0] } else { &live[random.index(live.len())] };
        let (sectors, block) = (volume.sectors(), volume.block_sectors());
        let mut range = workload::range(random, &self.knobs, sectors, block, hot);
        let ask = match kind {
            Kind::Read if random.chance(10) => Ask::PastEnd((sectors - block, 2 * block)),
            Kind::Read => Ask::Read(range),
            Kind::Write => Ask::Write(range, false),
            Kind::WriteFua => Ask::Write(range, true),
            Kind::Flush => Ask::Flush,
            Kind::Discard => Ask::Discard(workload::discard(random, &self.knobs, sectors, block, mood)),
            Kind::Zeroes => Ask::Zeroes(range, random.chance(500), random.chance(200)),
            Kind::Compare => Ask::Compare(range, random.chance(300)),
            Kind::CompareAndWrite => {
                range.1 = range.1.min(64);
                Ask::CompareAndWrite(range, random.chance(300))
            }
            Kind::Volume | Kind::Grow | Kind::Document | Kind::AddDisk => unreachable!("returned above"),
        };
        let no = volume.no;
        self.ask(scheduler, engine, no, ask);
    }

    // A clean stop: everything answered is durable.
    fn stop(&mut self, scheduler: &mut Scheduler, engine: Rc<E>) -> Result<Ended, String> {
        let submitted = self.world.next_order();
        let clean = Rc::new(Cell::new(false));
        let out = Rc::clone(&clean);
        let stopping = async move {
            let result = engine.stop().await;
            out.set(result.is_ok());
            result
        };
        match self.wait(scheduler, stopping, "the stop")? {
            None => return Ok(Ended::Dead),
            Some(Ok(())) => {}
            // A fault of long ago may have ended its journal.
            Some(Err((Refused::Failed, _))) if self.knobs.faulty() || self.world.store.excuses() => {
                return Ok(Ended::Dead);
            }
            Some(Err((_, words))) => return Err(format!("the stop failed: {words}")),
        }
        let mut hosts = self.hosts.borrow_mut();
        let live: Vec<VolumeNo> = hosts.writable().map(|volume| volume.no).collect();
        for volume in live {
            hosts.oracle.flushed(submitted, volume);
        }
        Ok(Ended::Stopped)
    }
}
