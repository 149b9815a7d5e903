//! Connections that write, discard and read at random until the target is gone; and reading everything back.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use sds_sim::oracle::{ChangeNo, Sectors, VolumeNo};
use sds_sim::payload::{SECTOR_BYTES, fill};
use sds_sim::random::Random;

use super::iscsi::Iscsi;
use super::model::Model;
use super::wire::{Ask, Ended, Nvme, Place, Wire};

/// A target that is being started is tried again this often, and for so long.
const CONNECT_RETRY_MS: u64 = 5;
const CONNECT_LIMIT_MS: u64 = 90_000;
/// What one request takes at most, and each read when all is read back.
const REQUEST_SECTORS_MAX: u64 = 512;
const READ_BACK_SECTORS: u64 = 256;
/// Half of all requests go here, so that extents are written again and again.
const HOT_SECTORS: u64 = 2048;
/// Told at most; the first says enough.
pub const TROUBLES_MAX: usize = 5;

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// NVMe/TCP.
    Nvme,
    /// iSCSI.
    Iscsi,
}

/// A volume, and the part of it that is used.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its number in payloads.
    pub number: VolumeNo,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// First sector of the part, and how many.
    pub part: Sectors,
    /// Over NVMe/TCP.
    pub nvme: Place,
    /// Over iSCSI.
    pub iscsi: Place,
}

impl Volume {
    /// Bytes of a logical block.
    #[must_use]
    pub const fn block_bytes(&self) -> u32 {
        self.nvme.block_bytes
    }

    const fn block_sectors(&self) -> u64 {
        self.block_bytes() as u64 / SECTOR_BYTES as u64
    }
}

/// What came of a load.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Writes, zeroes and discards that were answered.
    pub changes: u64,
    /// Reads that were answered, and right.
    pub reads: u64,
    /// Flushes that were answered.
    pub flushes: u64,
    /// Requests that were open when the connection broke.
    pub open: u64,
    /// Why each connection ended.
    pub ends: Vec<String>,
    /// Requests that were refused, reads that were wrong.
    pub troubles: Vec<String>,
}

/// Shared by all connections.
pub type Shared<T> = Arc<Mutex<T>>;

/// A panic elsewhere fails the run anyway.
pub fn lock<T>(shared: &Shared<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connects, again and again until it works.
///
/// # Errors
/// The last try's, when the time is over.
pub fn connect(volume: &Volume, protocol: Protocol, host: u8) -> io::Result<Box<dyn Wire>> {
    let deadline = Instant::now() + Duration::from_millis(CONNECT_LIMIT_MS);
    loop {
        let tried: io::Result<Box<dyn Wire>> = match protocol {
            Protocol::Nvme => Nvme::connect(&volume.nvme, host).map(|wire| Box::new(wire) as Box<dyn Wire>),
            Protocol::Iscsi => Iscsi::connect(&volume.iscsi, host).map(|wire| Box::new(wire) as Box<dyn Wire>),
        };
        match tried {
            Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(CONNECT_RETRY_MS)),
            tried => return tried,
        }
    }
}

enum Open {
    Change(ChangeNo, bool),
    Flush(u64),
    Read(u64, u64),
}

/// One connection's load.
pub struct Load {
    volume: Volume,
    wire: Box<dyn Wire>,
    model: Shared<Model>,
    outcome: Shared<Outcome>,
    random: Random,
    flush_per_mille: u32,
    open: HashMap<u32, Open>,
}

impl Load {
    /// On a connection.
    #[must_use]
    pub fn new(
        volume: &Volume,
        wire: Box<dyn Wire>,
        (model, outcome): (Shared<Model>, Shared<Outcome>),
        random: Random,
        flush_per_mille: u32,
    ) -> Self {
        Self { volume: volume.clone(), wire, model, outcome, random, flush_per_mille, open: HashMap::new() }
    }

    /// Asks until the connection breaks.
    pub fn run(mut self) {
        let end = loop {
            if let Err(error) = self.step() {
                break error;
            }
        };
        let mut outcome = lock(&self.outcome);
        outcome.open += self.open.len() as u64;
        outcome.ends.push(end.to_string());
    }

    fn step(&mut self) -> io::Result<()> {
        while self.wire.has_room() {
            self.submit()?;
        }
        let ended = self.wire.ended()?;
        self.take(ended)
    }

    /// A range of whole logical blocks: often one 4 KiB block, at times less or many.
    fn range(&mut self) -> Sectors {
        let unit = self.volume.block_sectors();
        let sectors = match self.random.weighted(&[50, 20, 25, 5]) {
            0 => 8,
            1 => unit * self.random.between(1, 8),
            2 => self.random.between(1, 16) * 8,
            _ => REQUEST_SECTORS_MAX,
        };
        let (start, size) = self.volume.part;
        let room = if self.random.chance(500) { HOT_SECTORS.min(size) } else { size };
        let last = (room - sectors) / unit;
        let mut first = self.random.below(last + 1) * unit;
        if self.random.chance(600) {
            first = first / 8 * 8;
        }
        (start + first, sectors)
    }

    fn submit(&mut self) -> io::Result<()> {
        let range @ (sector, sectors) = self.range();
        let unit = self.volume.block_sectors();
        let (first, blocks) = (sector / unit, (sectors / unit) as u32);
        let kind = self.random.weighted(&[600, 60, 80, 200]);
        let durable = kind == 0 && self.random.chance(self.flush_per_mille);
        // Submissions of all connections are told to the model in the order of its clock, and before they are sent.
        let mut model = lock(&self.model);
        let number = self.volume.number;
        let (ask, open) = if self.random.chance(self.flush_per_mille) {
            (Ask::Flush, Open::Flush(model.flush_begins()))
        } else {
            match kind {
                0 => {
                    let change = model.submitted(number, range, false, durable);
                    (Ask::Write(first, payload(number, change, range), durable), Open::Change(change, durable))
                }
                1 => (Ask::Zero(first, blocks), Open::Change(model.submitted(number, range, true, false), false)),
                2 => (Ask::Discard(first, blocks), Open::Change(model.submitted(number, range, true, false), false)),
                _ => (Ask::Read(first, blocks), Open::Read(model.read_begins(), sector)),
            }
        };
        drop(model);
        let tag = self.wire.submit(&ask)?;
        self.open.insert(tag, open);
        Ok(())
    }

    fn take(&mut self, ended: Ended) -> io::Result<()> {
        let open = self.open.remove(&ended.tag).ok_or_else(|| io::Error::other("an answer to nothing"))?;
        let mut model = lock(&self.model);
        let refused = ended.refused.is_some();
        let mut wrong = None;
        match open {
            Open::Change(change, durable) => model.ended(change, durable, refused),
            Open::Flush(began) if !refused => model.flushed(self.volume.number, began),
            Open::Flush(_) => {}
            Open::Read(began, first) => {
                let data = if refused { &[] } else { &ended.data[..] };
                wrong = model.read_ended(began, self.volume.number, first, data).err();
            }
        }
        drop(model);
        let mut outcome = lock(&self.outcome);
        match open {
            Open::Change(..) => outcome.changes += 1,
            Open::Read(..) => outcome.reads += 1,
            Open::Flush(_) => outcome.flushes += 1,
        }
        let refused = ended.refused.map(|why| format!("refused: {why}"));
        outcome.troubles.extend(refused.into_iter().chain(wrong));
        outcome.troubles.truncate(TROUBLES_MAX);
        Ok(())
    }
}

fn payload(volume: VolumeNo, change: ChangeNo, (first, count): Sectors) -> Vec<u8> {
    let mut data = vec![0; count as usize * SECTOR_BYTES];
    for (sector, bytes) in (first..).zip(data.chunks_exact_mut(SECTOR_BYTES)) {
        fill(bytes, volume.0, change.0, sector);
    }
    data
}

/// Reads the used part of a volume and compares it with the model; what was wrong.
///
/// # Errors
/// The connection's.
pub fn read_back(volume: &Volume, wire: &mut dyn Wire, model: &Shared<Model>) -> io::Result<Vec<String>> {
    let (start, size) = volume.part;
    let unit = volume.block_sectors();
    let mut next = start;
    let mut open: HashMap<u32, (u64, u64)> = HashMap::new();
    let mut troubles = Vec::new();
    while next < start + size || !open.is_empty() {
        while next < start + size && wire.has_room() {
            let sectors = READ_BACK_SECTORS.min(start + size - next);
            let began = lock(model).read_begins();
            let tag = wire.submit(&Ask::Read(next / unit, (sectors / unit) as u32))?;
            open.insert(tag, (began, next));
            next += sectors;
        }
        let ended = wire.ended()?;
        let (began, first) = open.remove(&ended.tag).ok_or_else(|| io::Error::other("an answer to nothing"))?;
        match ended.refused {
            Some(why) => troubles.push(format!("reading back sector {first}: refused: {why}")),
            None => troubles.extend(lock(model).read_ended(began, volume.number, first, &ended.data).err()),
        }
    }
    troubles.truncate(TROUBLES_MAX);
    Ok(troubles)
}
