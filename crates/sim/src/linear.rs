//! A small engine for the simulator's own tests: each volume is a region of a disk, its table is in the metadata store.
//! It is right by being simple, so what the oracle says of it is the oracle's own doing; its defects are put in.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use sds_block::{BlockError, Bytes, Command, Device, DeviceFuture, ErrorKind, Geometry, LbaCount, LbaRange, Request};
use sds_io::sync::Event;
use sds_io::{Buffer, DiskId, Io, IoError, ReadBytes, Slice};
use sds_volume::Defect;

use crate::engine::{Covered, DynDevice, Engine, Expendable, Health, Listed, Refusal, Refused, Surroundings};
use crate::knobs::Knobs;
use crate::random::Random;
use crate::world::{SimIo, World};

const REGION_BYTES: u64 = 320 << 20;
const ZERO_BYTES: u64 = 1 << 20;

#[derive(Clone, Copy)]
struct Row {
    region: u64,
    size_bytes: u64,
    logical_block_bytes: u32,
}

impl Row {
    fn encode(self) -> Vec<u8> {
        [self.region, self.size_bytes, u64::from(self.logical_block_bytes)].map(u64::to_le_bytes).concat()
    }

    fn decode(bytes: &[u8]) -> Self {
        let word = |at: usize| u64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().expect("8 bytes"));
        Self { region: word(0), size_bytes: word(1), logical_block_bytes: word(2) as u32 }
    }
}

/// The engine.
pub struct Linear {
    around: Surroundings,
    volumes: RefCell<BTreeMap<[u8; 16], Rc<Region>>>,
    documents: RefCell<BTreeMap<String, Vec<u8>>>,
    used: RefCell<Vec<u64>>,
}

struct Region {
    io: SimIo,
    row: Cell<Row>,
    locked: Cell<bool>,
    unlocked: Event,
    disks: u64,
    skip_sync: bool,
}

fn refusal(error: IoError) -> Refusal {
    (Refused::Failed, error.to_string())
}

fn media(error: IoError) -> BlockError {
    BlockError::new(ErrorKind::MediaError, "the disk failed").with_source(error)
}

impl Region {
    fn place(&self, offset: u64) -> (DiskId, u64) {
        let region = self.row.get().region;
        (DiskId((region % self.disks) as u16), region / self.disks * REGION_BYTES + offset)
    }

    async fn lock(&self) {
        while self.locked.replace(true) {
            self.unlocked.wait().await;
        }
    }

    fn unlock(&self) {
        self.locked.set(false);
        self.unlocked.notify();
    }

    async fn zero(&self, offset: u64, len: u64, durable: bool) -> Result<(), IoError> {
        let zeros = Buffer::zeroed(ZERO_BYTES as usize).share();
        let mut done = 0;
        while done < len {
            let count = ZERO_BYTES.min(len - done);
            let (disk, at) = self.place(offset + done);
            self.io.write(disk, at, zeros.slice(0, count as usize), durable).await?;
            done += count;
        }
        Ok(())
    }

    async fn read(&self, offset: u64, len: u64) -> Result<Slice, IoError> {
        let (disk, at) = self.place(offset);
        Ok(self.io.read(disk, at, Buffer::uninit(len as usize)).await?.share())
    }

    fn bytes(&self, range: LbaRange) -> Result<(u64, u64), BlockError> {
        let row = self.row.get();
        let block = u64::from(row.logical_block_bytes);
        range.check(LbaCount(row.size_bytes / block))?;
        Ok((range.start.0 * block, range.count.0 * block))
    }

    async fn change(&self, request: Request<Slice>) -> Result<(), BlockError> {
        let payload = request.payload;
        match request.command {
            Command::Write { range, fua } => {
                let (disk, at) = self.place(self.bytes(range)?.0);
                self.io.write(disk, at, payload.expect("a payload"), fua).await.map_err(media)
            }
            Command::WriteZeroes { range, fua, .. } => {
                let (offset, len) = self.bytes(range)?;
                self.zero(offset, len, fua).await.map_err(media)
            }
            Command::Discard(ranges) => {
                for range in ranges {
                    let (offset, len) = self.bytes(range)?;
                    self.zero(offset, len, false).await.map_err(media)?;
                }
                Ok(())
            }
            Command::CompareAndWrite { range, fua } => {
                let (offset, len) = self.bytes(range)?;
                let payload = payload.expect("a payload");
                self.compare(offset, &payload.slice(0, len as usize)).await?;
                let (disk, at) = self.place(offset);
                self.io.write(disk, at, payload.slice(len as usize, len as usize), fua).await.map_err(media)
            }
            Command::Read(_) | Command::Flush | Command::Compare(_) => unreachable!("these change nothing"),
        }
    }

    async fn compare(&self, offset: u64, payload: &Slice) -> Result<(), BlockError> {
        let found = self.read(offset, payload.len() as u64).await.map_err(media)?;
        match found.as_ref() == payload.as_ref() {
            true => Ok(()),
            false => Err(BlockError::new(ErrorKind::Miscompare, "other bytes")),
        }
    }

    async fn execute(&self, request: Request<Slice>) -> Result<Option<ReadBytes>, BlockError> {
        match request.command {
            Command::Read(range) => {
                let (offset, len) = self.bytes(range)?;
                Ok(Some(self.read(offset, len).await.map_err(media)?.into()))
            }
            Command::Flush if self.skip_sync => Ok(None),
            Command::Flush => self.io.sync(self.place(0).0).await.map(|()| None).map_err(media),
            Command::Compare(range) => {
                let offset = self.bytes(range)?.0;
                self.compare(offset, &request.payload.expect("a payload")).await.map(|()| None)
            }
            Command::Write { .. }
            | Command::WriteZeroes { .. }
            | Command::Discard(_)
            | Command::CompareAndWrite { .. } => {
                self.lock().await;
                let result = self.change(request).await;
                self.unlock();
                result.map(|()| None)
            }
        }
    }
}

struct RegionDevice(Rc<Region>);

impl Device for RegionDevice {
    type Write = Slice;
    type Read = ReadBytes;

    fn geometry(&self) -> Geometry {
        let row = self.0.row.get();
        Geometry {
            logical_block_bytes: row.logical_block_bytes,
            physical_block_bytes: 4096,
            blocks: LbaCount(Bytes(row.size_bytes).0 / u64::from(row.logical_block_bytes)),
            write_cache: true,
            read_only: false,
            discard_granularity_bytes: 4096,
            optimal_transfer_bytes: 4096,
            uuid: [0; 16],
        }
    }

    fn execute(&self, request: Request<Slice>) -> DeviceFuture<ReadBytes> {
        let region = Rc::clone(&self.0);
        Box::pin(async move { region.execute(request).await })
    }
}

impl Linear {
    fn region(&self, row: Row) -> Rc<Region> {
        self.used.borrow_mut().push(row.region);
        Rc::new(Region {
            io: self.around.io.clone(),
            row: Cell::new(row),
            locked: Cell::new(false),
            unlocked: Event::default(),
            disks: self.around.disks.len() as u64,
            skip_sync: self.around.knobs.planted.has(Defect::SkipSync),
        })
    }

    async fn put(&self, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), Refusal> {
        let put = self.around.meta.put(vec![(key, value)]);
        put.await.map_err(|error| (Refused::Defect, error.to_string()))
    }
}

impl Engine for Linear {
    async fn create(around: Surroundings) -> Result<Self, Refusal> {
        let (volumes, documents, used) = Default::default();
        Ok(Self { around, volumes, documents, used })
    }

    async fn open(around: Surroundings) -> Result<Self, Refusal> {
        let rows = around.meta.scan(Vec::new(), Vec::new(), usize::MAX).await;
        let this = Self::create(around).await?;
        for (key, value) in rows.map_err(|error| (Refused::Defect, error.to_string()))? {
            if key[0] == b'v' {
                let region = this.region(Row::decode(&value));
                this.volumes.borrow_mut().insert(key[1..].try_into().expect("a uuid"), region);
            } else {
                let key = String::from_utf8(key[1..].to_vec()).expect("a key");
                this.documents.borrow_mut().insert(key, value);
            }
        }
        Ok(this)
    }

    fn volumes(&self) -> Vec<Listed> {
        let listed =
            |(uuid, region): (&[u8; 16], &Rc<Region>)| Listed { uuid: *uuid, size_bytes: region.row.get().size_bytes };
        self.volumes.borrow().iter().map(listed).collect()
    }

    fn disks(&self) -> Vec<DiskId> {
        self.around.disks.clone()
    }

    fn documents(&self) -> Vec<(String, Vec<u8>)> {
        self.documents.borrow().clone().into_iter().collect()
    }

    fn device(&self, _: usize, uuid: [u8; 16]) -> Option<DynDevice> {
        let region = self.volumes.borrow().get(&uuid).cloned()?;
        Some(Rc::new(RegionDevice(region)))
    }

    async fn create_volume(&self, uuid: [u8; 16], size_bytes: u64, logical: u32) -> Result<(), Refusal> {
        // A region is used once in a life, so late requests to a deleted volume harm nobody.
        let region = (0..).find(|region| !self.used.borrow().contains(region)).expect("a region");
        let row = Row { region, size_bytes, logical_block_bytes: logical };
        let region = self.region(row);
        if !self.around.knobs.planted.has(Defect::FreeEarly) {
            region.zero(0, size_bytes, false).await.map_err(refusal)?;
        }
        region.io.sync(region.place(0).0).await.map_err(refusal)?;
        self.put([b"v", &uuid[..]].concat(), Some(row.encode())).await?;
        self.volumes.borrow_mut().insert(uuid, region);
        Ok(())
    }

    async fn resize_volume(&self, uuid: [u8; 16], size_bytes: u64) -> Result<(), Refusal> {
        let region = self.volumes.borrow().get(&uuid).cloned();
        let Some(region) = region else { return Err((Refused::Gone, "it is gone".into())) };
        let mut row = region.row.get();
        region.zero(row.size_bytes, size_bytes - row.size_bytes, false).await.map_err(refusal)?;
        region.io.sync(region.place(0).0).await.map_err(refusal)?;
        row.size_bytes = size_bytes;
        if !self.volumes.borrow().contains_key(&uuid) {
            return Err((Refused::Gone, "it is gone".into()));
        }
        self.put([b"v", &uuid[..]].concat(), Some(row.encode())).await?;
        region.row.set(row);
        Ok(())
    }

    async fn delete_volume(&self, uuid: [u8; 16]) -> Result<(), Refusal> {
        self.volumes.borrow_mut().remove(&uuid);
        self.put([b"v", &uuid[..]].concat(), None).await
    }

    async fn add_disk(&self, _: DiskId) -> Result<(), Refusal> {
        unreachable!("its worlds have no spare disk")
    }

    async fn put_document(&self, key: String, value: Option<Vec<u8>>) -> Result<(), Refusal> {
        self.put([b"d", key.as_bytes()].concat(), value.clone()).await?;
        match value {
            Some(value) => self.documents.borrow_mut().insert(key, value),
            None => self.documents.borrow_mut().remove(&key),
        };
        Ok(())
    }

    fn expendable(_: &World, _: &[DiskId], _: &mut Random) -> Option<Expendable> {
        None
    }

    fn covered(_: &World, _: &[DiskId], _: bool, _: &mut Random) -> Option<Covered> {
        None
    }

    async fn check(&self) -> Result<Vec<String>, Refusal> {
        Ok(Vec::new())
    }

    fn health(&self) -> Health {
        Health::default()
    }

    async fn stop(&self) -> Result<(), Refusal> {
        for disk in &self.around.disks {
            self.around.io.sync(*disk).await.map_err(refusal)?;
        }
        Ok(())
    }
}

/// What this engine needs: room for its regions, small volumes (their creation writes zeros), a metadata store that is
/// always there, and hosts that wait for their answers (its lock would stay locked).
#[must_use]
pub fn suited(mut knobs: Knobs) -> Knobs {
    knobs = knobs.gentle();
    knobs.liar = None;
    (knobs.meta_lost_per_mille, knobs.meta_aged_per_mille, knobs.meta_outage_per_mille) = (0, 0, 0);
    knobs.disks.truncate(knobs.first_disks);
    knobs.drop_per_mille = 0;
    knobs.volume_bytes.iter_mut().for_each(|bytes| *bytes = (*bytes).min(16 << 20));
    knobs.disks.iter_mut().for_each(|disk| disk.size_bytes = 32 << 30);
    knobs
}

#[cfg(test)]
mod tests {
    use super::*;
    use sds_volume::Planted;

    use crate::report::Counters;
    use crate::run::{Outcome, run};

    fn one(seed: u64, planted: Planted) -> Outcome {
        crate::panics::catch_here();
        let mut knobs = suited(Knobs::new(seed, 500));
        knobs.planted = planted;
        run::<Linear>(knobs)
    }

    #[test]
    fn an_engine_without_defects_passes_every_seed() {
        let mut all = Counters::default();
        for seed in 0..24 {
            let outcome = one(seed, Planted::default());
            if let Some(failure) = outcome.failure {
                panic!("{failure}");
            }
            all.add(&outcome.counters);
        }
        println!("{all}");
        assert!(all.process_crashes > 10 && all.power_cuts > 10 && all.torn_writes > 40, "{all}");
    }

    #[test]
    fn the_same_seed_gives_the_same_run() {
        for seed in 0..5 {
            let (first, second) = (one(seed, Planted::default()), one(seed, Planted::default()));
            assert_eq!((first.trace, first.counters), (second.trace, second.counters));
        }
    }

    #[test]
    fn a_skipped_sync_is_caught() {
        let caught = |seed: &u64| {
            let failure = one(*seed, Planted::only(Defect::SkipSync)).failure;
            failure.inspect(|failure| println!("{failure}")).is_some()
        };
        assert!((0..20).filter(caught).count() > 3);
    }

    #[test]
    fn a_region_that_is_given_out_uncleared_is_caught_as_foreign_bytes() {
        let caught = |seed: &u64| {
            let failure = one(*seed, Planted::only(Defect::FreeEarly)).failure;
            failure.is_some_and(|failure| failure.what.contains("foreign bytes"))
        };
        assert!((0..20).any(|seed| caught(&seed)));
    }
}
