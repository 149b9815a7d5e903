//! 10,000 flipped bytes: in sealed data, in its CRCs, and in what a pool keeps of itself on its disks. Each is found,
//! and none comes back as data.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sds_block::{Command, ErrorKind, LbaRange, Request};
use sds_io::{Buffer, DiskId};
use sds_sim::carry_over::Mapping;
use sds_sim::engine::{Engine as _, Surroundings};
use sds_sim::knobs::Knobs;
use sds_sim::meta::Handle;
use sds_sim::pool::PoolEngine;
use sds_sim::random::Random;
use sds_sim::schedule::{Scheduler, Step};
use sds_sim::world::World;
use sds_volume::layout::catalog::slot_bytes;
use sds_volume::layout::disk::{LABEL_A_OFFSET, LABEL_B_OFFSET, LABEL_BYTES};
use sds_volume::layout::frame::{FRAME_ALIGNMENT_BYTES, JournalHeader, Salt, decode_frame};
use sds_volume::layout::label::Label;
use sds_volume::layout::owner::{OWNER_BLOCK_BYTES, OwnerBlock, OwnerGeometry};
use sds_volume::place::{DiskNo, Lsn};
use sds_volume::{ScrubDisk, ScrubState, Structure, VolumeSpec};

const VOLUME: [u8; 16] = *b"volume of flips.";
const VOLUME_BYTES: u64 = 8 << 20;
const BLOCK_BYTES: u64 = 4096;
const BLOCKS: u64 = VOLUME_BYTES / BLOCK_BYTES;
/// Flips of sealed blocks and of CRCs, in rounds: after each the pool is opened anew, so that no CRC is at hand.
const ROUNDS: usize = 40;
const FLIPS_A_ROUND: usize = 100;
/// Flips of labels, catalog slots, journal headers, frames and owner blocks.
const METADATA_FLIPS: usize = 6_000;
/// Blocks that hosts write, or discard, before each round of those.
const FIRST_WRITES_A_ROUND: usize = 4;

struct Bench {
    knobs: Rc<Knobs>,
    world: Rc<World>,
    scheduler: Scheduler,
    random: Random,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let mut knobs = Knobs::new(seed, 0);
        (knobs.cores, knobs.logical_block_bytes, knobs.seal_after_ms) = (2, 512, 40);
        knobs.disks.truncate(2);
        for disk in &mut knobs.disks {
            (disk.size_bytes, disk.stall_per_mille, disk.latency) = (16 << 20, 0, Duration::from_micros(50));
            (disk.read_fault_per_100k, disk.write_fault_per_100k, disk.sync_fault_per_100k) = (0, 0, 0);
        }
        let mut random = Random::new(seed);
        let world = World::new(&knobs, &mut random);
        let scheduler = Scheduler::new(&world, knobs.cores, random.fork(), 0);
        Self { knobs: Rc::new(knobs), world, scheduler, random }
    }

    fn surroundings(&mut self) -> Surroundings {
        let process = &self.scheduler.process;
        Surroundings {
            io: self.scheduler.io(),
            spawners: self.scheduler.spawners(),
            meta: Arc::new(Handle { store: Arc::clone(&self.world.store), process: Arc::clone(process) }),
            carry_over: Arc::new(Mapping::new(&self.world.memory, process)),
            disks: vec![DiskId(0), DiskId(1)],
            joining: None,
            knobs: Rc::clone(&self.knobs),
            seed: 3,
        }
    }

    fn wait<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        let answer: Rc<RefCell<Option<T>>> = Rc::default();
        let out = Rc::clone(&answer);
        self.scheduler.spawners()[0].spawn(async move {
            let value = future.await;
            *out.borrow_mut() = Some(value);
        });
        loop {
            assert_eq!(self.scheduler.step(None), Step::Went);
            if let Some(value) = answer.borrow_mut().take() {
                return value;
            }
        }
    }

    fn sleep(&mut self, seconds: u64) {
        let until = self.world.now() + Duration::from_secs(seconds);
        while self.world.now() < until {
            self.scheduler.step(Some(until.as_nanos() as u64));
        }
    }

    fn open_again(&mut self, engine: PoolEngine) -> PoolEngine {
        self.wait(async move { engine.stop().await }).expect("nothing fails");
        self.scheduler.kill();
        self.world.process_crash();
        self.scheduler = Scheduler::new(&self.world, self.knobs.cores, self.random.fork(), 0);
        let surroundings = self.surroundings();
        self.wait(PoolEngine::open(surroundings)).expect("it opens")
    }

    fn ask(
        &mut self,
        engine: &PoolEngine,
        command: Command,
        payload: Option<Buffer>,
    ) -> Result<Vec<u8>, (ErrorKind, u64)> {
        let device = engine.device(0, VOLUME).expect("it is there");
        let request = Request { command, payload: payload.map(Buffer::share) };
        let answer = self.wait(device.execute(request));
        answer
            .map(|bytes| bytes.map(|bytes| bytes.to_vec()).unwrap_or_default())
            .map_err(|error| (error.kind(), error.context().value.unwrap_or(u64::MAX)))
    }
}

fn content(block: u64) -> Vec<u8> {
    let mut random = Random::new(block);
    (0..BLOCK_BYTES / 8).flat_map(|_| random.bits().to_le_bytes()).collect()
}

fn lbas(block: u64) -> LbaRange {
    LbaRange::new(block * 8, 8)
}

#[test]
fn flips_of_sealed_data_and_of_crcs_are_media_errors_of_exactly_those_blocks() {
    let mut bench = Bench::new(7);
    let surroundings = bench.surroundings();
    let mut engine = bench.wait(PoolEngine::create(surroundings)).expect("room");
    let engine_of = Rc::new(engine);
    let making = Rc::clone(&engine_of);
    bench.wait(async move { making.create_volume(VOLUME, VOLUME_BYTES, 512).await }).expect("room");
    engine = Rc::try_unwrap(engine_of).ok().expect("nobody else has it");
    for block in 0..BLOCKS {
        let range = lbas(block);
        bench.ask(&engine, Command::Write { range, fua: false }, Some(Buffer::copy_of(&content(block)))).expect("room");
    }
    bench.ask(&engine, Command::Flush, None).expect("nothing fails");
    for _ in 0..100 {
        bench.sleep(2);
        if engine.health().sealed_blocks == BLOCKS {
            break;
        }
    }
    assert_eq!(engine.health().sealed_blocks, BLOCKS);
    bench.ask(&engine, Command::Flush, None).expect("nothing fails");
    // Where each block and its CRC lie does not change any more.
    let mut places = Vec::new();
    while places.len() < BLOCKS as usize {
        // Of a core that has no page there is none.
        let Some(found) = engine.sealed(&mut bench.random) else { continue };
        if places.iter().all(|place: &sds_sim::engine::Sealed| place.volume_offset != found.volume_offset) {
            places.push(found);
        }
    }
    for round in 0..ROUNDS {
        let mut bad = BTreeSet::new();
        while bad.len() < FLIPS_A_ROUND {
            let place = places[bench.random.index(places.len())];
            if bad.insert(place.volume_offset / BLOCK_BYTES) {
                let in_block = bench.random.index(BLOCK_BYTES as usize - 4) as u64;
                let at = if bad.len() % 4 == 0 { place.crc_offset } else { place.offset + in_block };
                assert!(bench.world.flip(place.disk, at), "durable");
            }
        }
        engine = bench.open_again(engine);
        for block in 0..BLOCKS {
            let read = bench.ask(&engine, Command::Read(lbas(block)), None);
            match bad.contains(&block) {
                true => assert_eq!(read, Err((ErrorKind::ChecksumMismatch, block * 8)), "round {round}"),
                false => assert!(read == Ok(content(block)), "round {round}: block {block}"),
            }
        }
        // Written as a whole each is good again, and then sealed again.
        for block in bad {
            let range = lbas(block);
            let written =
                bench.ask(&engine, Command::Write { range, fua: true }, Some(Buffer::copy_of(&content(block))));
            written.expect("it heals");
            assert!(bench.ask(&engine, Command::Read(range), None) == Ok(content(block)), "block {block} is healed");
        }
        for _ in 0..100 {
            bench.sleep(2);
            if engine.health().sealed_blocks >= engine.health().unsealed_blocks {
                break;
            }
        }
        bench.ask(&engine, Command::Flush, None).expect("nothing fails");
    }
}

/// A copy of metadata on a disk: which, where, and how many of its bytes its CRC covers.
#[derive(Clone, Copy, Debug)]
struct Copied {
    disk: DiskNo,
    structure: Structure,
    offset: u64,
    covered: u64,
}

impl Bench {
    fn durable(&self, disk: DiskNo, offset: u64, len: u64) -> Vec<u8> {
        self.world.durable(DiskId(disk.0), offset, len as usize).expect("durable")
    }

    /// All copies that a disk has at this moment, those of the same thing one after the other.
    fn copies(&self, disk: DiskNo) -> Vec<Vec<Copied>> {
        let label = Label::decode(&self.durable(disk, LABEL_A_OFFSET, LABEL_BYTES)).expect("intact");
        let layout = &label.layout;
        let of = |structure, offset, covered| Copied { disk, structure, offset, covered };
        let labels = [LABEL_A_OFFSET, LABEL_B_OFFSET];
        let mut all = vec![(0..).zip(labels).map(|(n, at)| of(Structure::Label(n), at, LABEL_BYTES)).collect()];
        let slot = |n| {
            let offset = layout.catalog_slot_offset(u64::from(n));
            let head = self.durable(disk, offset, FRAME_ALIGNMENT_BYTES);
            of(Structure::CatalogSlot(n), offset, slot_bytes(&head).expect("a slot") as u64)
        };
        all.push((0..2).map(slot).collect());
        let header = |n| layout.journal_offset + u64::from(n) * FRAME_ALIGNMENT_BYTES;
        all.push((0..2).map(|n| of(Structure::JournalHeader(n), header(n), FRAME_ALIGNMENT_BYTES)).collect());
        let geometry = OwnerGeometry::new(layout.extent_bytes);
        for block in 0..geometry.blocks(layout.chunks) as u32 {
            let offset = |place| layout.owner_offset + (u64::from(block) * 2 + place) * OWNER_BLOCK_BYTES;
            let intact = |place| {
                let bytes = self.durable(disk, offset(place), OWNER_BLOCK_BYTES);
                OwnerBlock::decode(&bytes, &geometry, &label.disk_uuid, block).is_ok()
            };
            if intact(0) && intact(1) {
                let chunk = geometry.first_chunk(block);
                let place = |n: u8| of(Structure::OwnerBlock(chunk, n), offset(u64::from(n)), OWNER_BLOCK_BYTES);
                all.push((0..2).map(place).collect());
            }
        }
        all
    }

    /// The frames of a disk's journal, from its start to its end.
    fn frames(&self, disk: DiskNo) -> Vec<Copied> {
        let label = Label::decode(&self.durable(disk, LABEL_A_OFFSET, LABEL_BYTES)).expect("intact");
        let header = self.durable(disk, label.layout.journal_offset, FRAME_ALIGNMENT_BYTES);
        let header = JournalHeader::decode(&header).expect("intact");
        let log = label.layout.journal_offset + 2 * FRAME_ALIGNMENT_BYTES;
        let (mut frames, mut next, mut at) = (Vec::new(), header.start, header.start_offset);
        let mut lap = header.start_lap;
        while let Some(bytes) = self.world.durable(DiskId(disk.0), log + at, (header.log_bytes - at) as usize) {
            match decode_frame(&bytes, Salt { journal: header.salt, lap }, false) {
                Ok(frame) if frame.head.first == next => {
                    let covered = u64::from(u32::from_le_bytes(bytes[8..12].try_into().expect("four")));
                    let structure = Structure::JournalFrame(next);
                    frames.push(Copied { disk, structure, offset: log + at, covered });
                    (next, at) = (Lsn(frame.head.last.0 + 1), at + frame.padded_bytes as u64);
                }
                _ if at > 0 && lap == header.start_lap => (lap, at) = (lap + 1, 0),
                _ => break,
            }
        }
        frames
    }

    /// A byte of the copy, and so what it says, becomes another one.
    fn flip(&mut self, copy: &Copied) {
        let at = copy.offset + self.random.below(copy.covered / 4) * 4;
        assert!(self.world.flip(DiskId(copy.disk.0), at), "durable");
    }

    /// Scrubs; what was told since the last time, and the disks' counts of what is damaged and mended.
    fn scrub(&mut self, engine: &PoolEngine) -> (Told, [u64; 2]) {
        let pool = engine.pool();
        pool.scrub_start(1 << 40).expect("none is running");
        while pool.scrub_status().state == ScrubState::Running {
            assert_eq!(self.scheduler.step(None), Step::Went);
        }
        let status = pool.scrub_status();
        assert_eq!(status.state, ScrubState::Done);
        let sum = |of: fn(&ScrubDisk) -> u64| status.disks.iter().map(of).sum();
        let told = pool.take_damages().into_iter().map(|damage| (damage.disk, damage.structure));
        (told.collect(), [sum(|disk| disk.metadata.damaged), sum(|disk| disk.metadata.mended)])
    }

    /// The process dies; the pool is opened again, from the disks alone if its MetaStore is lost.
    fn reopen_after_a_kill(&mut self, engine: PoolEngine, lost: bool) -> PoolEngine {
        self.scheduler.kill();
        drop(engine);
        self.world.process_crash();
        if lost {
            self.world.store.lose();
        }
        self.scheduler = Scheduler::new(&self.world, self.knobs.cores, self.random.fork(), 0);
        let surroundings = self.surroundings();
        let engine = self.wait(PoolEngine::open(surroundings)).expect("it opens");
        assert_eq!(engine.recovered().imported, lost);
        assert!(engine.recovered().lost_writes.is_empty(), "a flipped slot is no lost write");
        engine
    }
}

type Told = BTreeSet<(DiskNo, Structure)>;

fn is_frame(structure: &Structure) -> bool {
    matches!(structure, Structure::JournalFrame(_))
}

/// Flips one copy of each thing that is there twice, and some frames of one member's journal, while a pool is open and
/// hosts have written to it. A scrub tells of exactly those, and mends them, or the process dies before: then the pool
/// opens, with or without its MetaStore, and what it tells then and at the scrub after that is the same.
#[test]
fn flips_of_labels_catalogs_journals_and_owner_blocks_are_told_and_mended() {
    let mut bench = Bench::new(8);
    // Checkpoints are those of scrubs alone: one that goes on while a copy is flipped may be about to write it.
    Rc::get_mut(&mut bench.knobs).expect("nobody else has them").checkpoint_intervals_ms = [3_600_000; 2];
    let surroundings = bench.surroundings();
    let mut engine = bench.wait(PoolEngine::create(surroundings)).expect("room");
    let pool = engine.pool();
    let spec = VolumeSpec { uuid: VOLUME, size_bytes: VOLUME_BYTES, logical_block_bytes: 512 };
    let making = async move {
        pool.create_volume(spec).await?;
        pool.checkpoint().await
    };
    bench.wait(making).expect("room");
    // What each block holds; the others read zeros.
    let mut written: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut flips, mut kinds, mut frames_told) = (0, [0_usize; 5], 0);
    for round in 0.. {
        // Changes of the map, so that owner tables change and the journal has frames.
        for _ in 0..FIRST_WRITES_A_ROUND {
            let block = bench.random.below(BLOCKS);
            let range = lbas(block);
            if bench.random.chance(300) {
                bench.ask(&engine, Command::Discard(vec![range]), None).expect("nothing fails");
                written.remove(&block);
            } else {
                let tag = bench.random.bits();
                let command = Command::Write { range, fua: true };
                bench.ask(&engine, command, Some(Buffer::copy_of(&content(tag)))).expect("room");
                written.insert(block, tag);
            }
        }
        bench.ask(&engine, Command::Flush, None).expect("nothing fails");
        let mut flipped = Told::new();
        let mut spoil = |bench: &mut Bench, copy: &Copied| {
            bench.flip(copy);
            flipped.insert((copy.disk, copy.structure));
            kinds[kind_of(&copy.structure)] += 1;
            flips += 1;
        };
        // Frames of one member alone: the other one has them as well.
        let member = DiskNo(round % 2);
        for frame in bench.frames(member) {
            if bench.random.chance(300) {
                spoil(&mut bench, &frame);
            }
        }
        let copies = [bench.copies(DiskNo(0)), bench.copies(DiskNo(1))].concat();
        let (died, lost) = (round % 5 == 4, round % 2 == 0);
        for twice in copies {
            // An import needs the newest catalog of one disk at least.
            let is_slot = matches!(twice[0].structure, Structure::CatalogSlot(_));
            if died && lost && is_slot && twice[0].disk == member {
                continue;
            }
            let copy = twice[bench.random.index(2)];
            spoil(&mut bench, &copy);
        }
        let mut told = Told::new();
        if died {
            engine = bench.reopen_after_a_kill(engine, lost);
            let damage = &engine.recovered().damage;
            for (disk, structure) in flipped.iter().filter(|(_, structure)| is_told_at_an_opening(structure)) {
                let what = match structure {
                    Structure::JournalHeader(_) => "a journal header".to_owned(),
                    other => other.to_string(),
                };
                let words = format!("{what} of sim:{} ", disk.0);
                let is_told = match structure {
                    Structure::Label(slot) => engine.recovered().bad_labels.contains(&(DiskId(disk.0), *slot)),
                    _ => damage.iter().any(|told| told.contains(&words)),
                };
                assert!(is_told, "round {round}: {words}: {damage:?}");
                told.insert((*disk, *structure));
            }
        }
        let (at_scrub, [damaged, mended]) = bench.scrub(&engine);
        assert_eq!((damaged, mended), (at_scrub.len() as u64, at_scrub.len() as u64), "round {round}: {at_scrub:?}");
        told.extend(at_scrub);
        // An opening copies the journal that is whole, and checkpoints make frames unneeded.
        let without_frames = |set: &Told| set.iter().filter(|(_, what)| !is_frame(what)).copied().collect::<Told>();
        assert_eq!(without_frames(&told), without_frames(&flipped), "round {round}");
        assert!(told.is_subset(&flipped), "round {round}: {told:?}");
        frames_told += told.len() - without_frames(&told).len();
        if round % 20 == 0 || died {
            assert_eq!(bench.scrub(&engine), (Told::new(), [0, 0]), "round {round}: all is mended");
            for block in 0..BLOCKS {
                let read = bench.ask(&engine, Command::Read(lbas(block)), None).expect("nothing is lost");
                let holds = written.get(&block).map_or_else(|| vec![0; BLOCK_BYTES as usize], |tag| content(*tag));
                assert!(read == holds, "round {round}: block {block}");
            }
        }
        if flips >= METADATA_FLIPS {
            break;
        }
    }
    println!("{flips} flips: labels, slots, headers, frames, owner blocks: {kinds:?}; frames told: {frames_told}");
    assert!(kinds.iter().all(|count| *count > 100), "{kinds:?}");
    assert!(frames_told * 2 > kinds[3], "{frames_told} of {} frames", kinds[3]);
}

fn kind_of(structure: &Structure) -> usize {
    match structure {
        Structure::Label(_) => 0,
        Structure::CatalogSlot(_) => 1,
        Structure::JournalHeader(_) => 2,
        Structure::JournalFrame(_) => 3,
        Structure::OwnerBlock(..) | Structure::OwnerEntries(..) => 4,
    }
}

fn is_told_at_an_opening(structure: &Structure) -> bool {
    matches!(structure, Structure::Label(_) | Structure::CatalogSlot(_) | Structure::JournalHeader(_))
}
