//! 10,000 flipped bytes: in sealed data, in its CRCs, and in what a pool keeps of itself on its disks. Each is found,
//! and none comes back as data.

use std::cell::RefCell;
use std::collections::BTreeSet;
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
use sds_volume::layout::catalog::{decode_slot, slot_bytes};
use sds_volume::layout::disk::{LABEL_A_OFFSET, LABEL_B_OFFSET, LABEL_BYTES};
use sds_volume::layout::frame::{FRAME_ALIGNMENT_BYTES, JournalHeader};
use sds_volume::layout::label::Label;
use sds_volume::layout::owner::{OWNER_BLOCK_BYTES, OwnerBlock, OwnerGeometry};

const VOLUME: [u8; 16] = *b"volume of flips.";
const VOLUME_BYTES: u64 = 8 << 20;
const BLOCK_BYTES: u64 = 4096;
const BLOCKS: u64 = VOLUME_BYTES / BLOCK_BYTES;
/// Flips of sealed blocks and of CRCs, in rounds: after each the pool is opened anew, so that no CRC is at hand.
const ROUNDS: usize = 40;
const FLIPS_A_ROUND: usize = 100;
/// Flips of labels, catalog slots, journal headers and owner blocks.
const METADATA_FLIPS: usize = 6_000;

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

#[test]
fn flips_of_labels_catalogs_journal_headers_and_owner_blocks_are_seen() {
    let mut bench = Bench::new(8);
    let surroundings = bench.surroundings();
    let engine = Rc::new(bench.wait(PoolEngine::create(surroundings)).expect("room"));
    let making = Rc::clone(&engine);
    bench.wait(async move { making.create_volume(VOLUME, VOLUME_BYTES, 512).await }).expect("room");
    let range = LbaRange::new(0, 2048);
    bench.ask(&engine, Command::Write { range, fua: true }, Some(Buffer::zeroed(1 << 20))).expect("room");
    let stopping = Rc::clone(&engine);
    bench.wait(async move { stopping.stop().await }).expect("nothing fails");
    let (mut flips, disk) = (0, DiskId(0));
    let durable = |offset: u64, len: u64| bench.world.durable(disk, offset, len as usize).expect("durable");
    let label = Label::decode(&durable(LABEL_A_OFFSET, LABEL_BYTES)).expect("intact");
    let layout = &label.layout;
    let geometry = OwnerGeometry::new(layout.extent_bytes);
    let owner = |block: u64, place: u64| layout.owner_offset + (block * 2 + place) * OWNER_BLOCK_BYTES;
    type Intact<'a> = Box<dyn Fn(&[u8]) -> bool + 'a>;
    // Of each: where, how much of it is covered, and whether bytes are intact.
    let mut kinds: Vec<(u64, u64, Intact<'_>)> = Vec::new();
    for offset in [LABEL_A_OFFSET, LABEL_B_OFFSET] {
        kinds.push((offset, LABEL_BYTES, Box::new(|bytes| Label::decode(bytes).is_ok())));
    }
    for slot in 0..2 {
        let offset = layout.catalog_slot_offset(slot);
        if let Ok(len) = slot_bytes(&durable(offset, FRAME_ALIGNMENT_BYTES)) {
            let used = u64::from(u32::from_le_bytes(durable(offset, 16)[8..12].try_into().expect("four")));
            let whole = durable(offset, len as u64);
            assert!(decode_slot(&whole).is_ok());
            kinds.push((offset, used, Box::new(|bytes| decode_slot(bytes).is_ok())));
        }
    }
    for offset in [layout.journal_offset, layout.journal_offset + FRAME_ALIGNMENT_BYTES] {
        kinds.push((offset, FRAME_ALIGNMENT_BYTES, Box::new(|bytes| JournalHeader::decode(bytes).is_ok())));
    }
    for (block, place) in (0..geometry.blocks(layout.chunks)).flat_map(|block| [(block, 0), (block, 1)]) {
        let offset = owner(block, place);
        let (geometry, uuid) = (&geometry, &label.disk_uuid);
        let intact = move |bytes: &[u8]| OwnerBlock::decode(bytes, geometry, uuid, block as u32).is_ok();
        if intact(&durable(offset, OWNER_BLOCK_BYTES)) {
            kinds.push((offset, OWNER_BLOCK_BYTES, Box::new(intact)));
        }
    }
    assert!(kinds.len() >= 6, "labels, slots, headers, owners");
    let mut random = Random::new(9);
    while flips < METADATA_FLIPS {
        let (offset, covered, intact) = &kinds[random.index(kinds.len())];
        let mut bytes = durable(*offset, covered.next_multiple_of(BLOCK_BYTES));
        bytes[random.below(*covered) as usize] ^= 1 << random.index(8);
        assert!(!intact(&bytes), "a flip in what lies at {offset}");
        flips += 1;
    }
}
