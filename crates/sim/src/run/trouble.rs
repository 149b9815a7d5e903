//! What goes wrong around the pool: crashes, a metadata store that is lost, old or out, blocks that go bad.

use std::rc::Rc;
use std::time::Duration;

use sds_io::DiskId;

use super::{Ended, Run};
use crate::engine::{Engine, Spoiled};
use crate::host::{Ask, Rotten, SEALED_SECTORS};
use crate::meta::Outage;
use crate::payload::SECTOR_BYTES;
use crate::schedule::Scheduler;
use crate::world::{Strike, Whim};

/// An outage of the metadata store lasts no longer, and as long as hosts ask: one that opens a pool ends it.
const OUTAGE_MS_MAX: u64 = 40_000;
/// Operations in a thousand at which an outage ends before.
const OUTAGE_END_PER_MILLE: u32 = 10;
/// Requests that a disk does right before the one that it does not: fewer than this power of two.
const SPARED_LOG2_MAX: u64 = 9;
/// After so many laps of the journal a checkpoint has come to its end, and the first power cut is the last.
const LAPS_TOLD_MIN: u64 = 2;
/// Operations in a thousand after which somebody copies the metadata store.
const META_COPY_PER_MILLE: u32 = 5;

/// Copies of metadata that go bad at once while a pool is open: tries.
const FLIPS_MAX: usize = 6;

/// What a scrub told of; `None`: the engine has nothing of that kind.
type Told = Option<Vec<(DiskId, Spoiled)>>;

/// A copy of metadata in which a bit was flipped: which it is, where, and what is there since.
struct Flipped {
    copy: (DiskId, Spoiled),
    at: u64,
    bytes: Option<Vec<u8>>,
}

impl<E: Engine> Run<E> {
    // The metadata store gets ill or well, and somebody may copy it.
    pub(super) fn trouble_meta(&mut self) {
        if self.outage_until_ns.is_some() {
            if self.random.chance(OUTAGE_END_PER_MILLE) {
                self.end_outage();
            }
        } else if self.random.chance(self.knobs.meta_outage_per_mille) {
            let outage = self.random.pick(&[Outage::Full, Outage::Failing, Outage::Still]);
            let length = Duration::from_millis(self.random.between(1, OUTAGE_MS_MAX));
            self.outage_until_ns = Some((self.world.now() + length).as_nanos() as u64);
            self.world.counters.borrow_mut().meta_outages += 1;
            self.record(format!("metadata store: {outage:?} from now on"));
            self.world.store.begin_outage(outage);
        }
        if self.knobs.meta_aged_per_mille > 0 && self.random.chance(META_COPY_PER_MILLE) {
            self.world.store.remember();
        }
    }

    pub(super) fn end_outage(&mut self) {
        if self.outage_until_ns.take().is_some() {
            self.world.store.end_outage();
            self.record("metadata store: well".into());
        }
    }

    // The process is gone; decides how, and tells the world and the oracle.
    pub(super) fn end(&mut self, ended: &Ended) {
        let now = self.world.next_order();
        let power = self.random.chance(self.knobs.power_cut_per_mille) || self.sync_failed;
        let mut hosts = self.hosts.borrow_mut();
        hosts.freeze_pending();
        if power {
            self.world.power_cut();
            // Both nodes and the disks lose it: what the disks lost, no ring may name.
            self.other_node.0.fill(0);
            hosts.power_cut(now);
        } else {
            self.world.process_crash();
            hosts.oracle.process_crash(now);
        }
        hosts.open = 0;
        let moves = self.knobs.move_per_mille > 0 && self.random.chance(self.knobs.move_per_mille);
        if moves {
            if matches!(ended, Ended::Dead) {
                // What only this node's memory had is not where the pool is opened next.
                hosts.power_cut(now);
            }
            self.world.memory.swap(&mut self.other_node.0);
            self.world.store.swap(&mut self.other_node.1);
        }
        let lost = matches!(ended, Ended::Dead) && self.random.chance(self.knobs.meta_lost_per_mille);
        let aged = !lost && matches!(ended, Ended::Dead) && self.random.chance(self.knobs.meta_aged_per_mille);
        if lost {
            self.world.store.lose();
        }
        if aged {
            self.world.store.go_back();
        }
        self.meta_gone |= lost || aged || moves;
        let mut counters = self.world.counters.borrow_mut();
        counters.moves += u64::from(moves);
        counters.meta_lost += u64::from(lost);
        counters.meta_aged += u64::from(aged);
        match ended {
            Ended::Stopped => counters.clean_stops += 1,
            Ended::Dead if power => counters.power_cuts += 1,
            Ended::Dead => counters.process_crashes += 1,
        }
        drop((counters, hosts));
        let how = match (ended, power) {
            (Ended::Stopped, false) => "clean stop",
            (Ended::Stopped, true) => "clean stop, then a power cut",
            (Ended::Dead, false) => "process crash",
            (Ended::Dead, true) => "power cut",
        };
        let meta = match (lost, aged) {
            (true, _) => ", metadata store lost",
            (false, true) => ", metadata store of some time before",
            (false, false) => "",
        };
        let node = if moves { ", on to the other node" } else { "" };
        self.record(format!("{how}{meta}{node}"));
        self.spoil();
    }

    // True if the metadata store may have to be rebuilt from the disks.
    fn rebuilds(&self) -> bool {
        self.knobs.meta_lost_per_mille + self.knobs.meta_aged_per_mille + self.knobs.move_per_mille > 0
    }

    // A disk will do one thing wrong that the pool can bear.
    pub(super) fn arm(&mut self) {
        if self.knobs.fickle_per_mille == 0 || !self.random.chance(self.knobs.fickle_per_mille) {
            return;
        }
        let disks = self.hosts.borrow().disks.clone();
        let Some(covered) = E::covered(&self.world, &disks, self.rebuilds(), &mut self.random) else { return };
        let whim = self.random.pick(&[Whim::Drop, Whim::Misdirect, Whim::Stale]);
        let spared_max = 1 << self.random.below(SPARED_LOG2_MAX);
        let spared = self.random.below(spared_max);
        *self.world.strike.borrow_mut() = Some(Strike { covered, whim, spared });
    }

    // A disk lost what it had said was durable: the pool tells, or does not open. Nothing else is promised.
    pub(super) fn after_a_lie(&mut self, all: bool) -> Result<(), String> {
        let mut scheduler = self.scheduler();
        let surroundings = self.surroundings(&scheduler);
        let told = match self.wait(&mut scheduler, E::open(surroundings), "the open")? {
            Some(Ok(engine)) => engine.health().lost_writes > 0,
            Some(Err((_, what))) => {
                self.record(format!("no open after a lie: {what}"));
                true
            }
            None => return Ok(()),
        };
        self.world.counters.borrow_mut().lies_told += u64::from(told);
        if !told && all && self.laps >= LAPS_TOLD_MIN {
            return Err("a disk lost what it said was durable, and nobody tells".into());
        }
        Ok(())
    }

    // A sealed block goes bad, or its CRC, while nothing is open: a write that has verified it would take it for good.
    // A request that its host gave up may still be open. False if the process died.
    pub(super) fn rot_sealed(&mut self, scheduler: &mut Scheduler, engine: &Rc<E>) -> Result<bool, String> {
        if self.knobs.drop_per_mille > 0 {
            return Ok(true);
        }
        if !self.settle_to(scheduler, 1)? {
            return Ok(false);
        }
        let Some(found) = engine.sealed(&mut self.random) else { return Ok(true) };
        let known = self.hosts.borrow().live().find(|volume| volume.uuid == found.uuid).map(|volume| volume.no);
        let (Some(volume), crc) = (known, self.random.chance(300)) else { return Ok(true) };
        let spoiled = match crc {
            true => self.world.flip(found.disk, found.crc_offset),
            false => self.world.spoil(found.disk, found.offset),
        };
        if !spoiled {
            return Ok(true);
        }
        let sector = found.volume_offset / SECTOR_BYTES as u64;
        self.hosts.borrow_mut().rotten.push(Rotten { volume, sector, healed: u64::MAX });
        let mut counters = self.world.counters.borrow_mut();
        *if crc { &mut counters.rotten_crcs } else { &mut counters.rotten_blocks } += 1;
        drop(counters);
        let what = if crc { "the CRC" } else { "the content" };
        self.record(format!("volume {}: {what} of the block at sector {sector} is spoiled", volume.0));
        if self.random.chance(500) {
            self.ask_patiently(scheduler, engine, volume, Ask::Read((sector, SEALED_SECTORS)));
        }
        Ok(true)
    }

    // Copies of metadata go bad while the pool is open: a scrub tells of each, and after it all are whole again. False
    // if the process died.
    pub(super) fn mends(&mut self, scheduler: &mut Scheduler, engine: &Rc<E>) -> Result<bool, String> {
        // One trouble at a time: two copies are not three.
        if self.knobs.fickle_per_mille > 0 {
            return Ok(true);
        }
        // What a crash left half written is told and mended first.
        match self.scrub_all(scheduler, engine)? {
            Some(Some(_)) => {}
            other => return Ok(other.is_some()),
        }
        let disks = self.hosts.borrow().disks.clone();
        let mut flipped: Vec<Flipped> = Vec::new();
        for _ in 0..FLIPS_MAX {
            let Some(found) = E::expendable(&self.world, &disks, &mut self.random) else { continue };
            // Of a journal's log it is not known which frames are still needed.
            let copy = (found.disk, found.what);
            if found.what == Spoiled::JournalFrame || flipped.iter().any(|other| other.copy == copy) {
                continue;
            }
            // What is there begins with an envelope and some fields.
            let at = found.offset + 4 * self.random.index(16) as u64;
            if self.world.flip(found.disk, at) {
                self.record(format!("disk {}: {:?} at {} is flipped", found.disk.0, found.what, found.offset));
                flipped.push(Flipped { copy, at, bytes: self.world.durable(found.disk, at, size_of::<u32>()) });
            }
        }
        self.world.counters.borrow_mut().flipped_copies += flipped.len() as u64;
        let Some(Some(told)) = self.scrub_all(scheduler, engine)? else { return Ok(false) };
        // One that was written anew before the scrub came to it is gone, and nobody need tell of it.
        let is_there = |one: &Flipped| self.world.durable(one.copy.0, one.at, size_of::<u32>()) == one.bytes;
        let untold = flipped.iter().find(|one| !told.contains(&one.copy) && is_there(one));
        if let Some(Flipped { copy: (disk, what), .. }) = untold {
            return Err(format!("disk {}: a bit of {what:?} flipped, and the scrub told of {told:?}", disk.0));
        }
        match self.scrub_all(scheduler, engine)? {
            Some(Some(told)) if told.is_empty() => Ok(true),
            Some(Some(told)) => Err(format!("what the scrub mended is damaged: {told:?}")),
            Some(None) | None => Ok(false),
        }
    }

    fn scrub_all(&mut self, scheduler: &mut Scheduler, engine: &Rc<E>) -> Result<Option<Told>, String> {
        let engine = Rc::clone(engine);
        match self.wait(scheduler, async move { engine.scrub_all().await }, "a scrub")? {
            None => Ok(None),
            Some(Ok(told)) => Ok(Some(told)),
            Some(Err((_, what))) => Err(format!("the pool can't be scrubbed: {what}")),
        }
    }

    // One block goes bad of which there is another copy.
    fn spoil(&mut self) {
        // One trouble at a time: two copies are not three.
        if self.knobs.fickle_per_mille > 0 || !self.random.chance(self.knobs.rot_per_mille) {
            return;
        }
        let disks = self.hosts.borrow().disks.clone();
        let Some(found) = E::expendable(&self.world, &disks, &mut self.random) else { return };
        if !self.world.spoil(found.disk, found.offset) {
            return;
        }
        let mut counters = self.world.counters.borrow_mut();
        let counter = match found.what {
            Spoiled::Label => &mut counters.rotten_labels,
            Spoiled::Catalog => &mut counters.rotten_catalogs,
            Spoiled::JournalHeader => &mut counters.rotten_headers,
            Spoiled::OwnerBlock => &mut counters.rotten_owners,
            Spoiled::JournalFrame => &mut counters.rotten_frames,
        };
        *counter += 1;
        drop(counters);
        self.record(format!("disk {}: {:?} at {} is spoiled", found.disk.0, found.what, found.offset));
    }
}
