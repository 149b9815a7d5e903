//! A disk's content, with a volatile cache.
//!
//! Layout: blocks of 4 KiB, shared and copied on write. `current` is what a read sees; `durable` is what a power cut
//! leaves for certain; between them `cache` has, per block, every version that is not yet durable, oldest first. A
//! version knows the write that it is part of, so that a write's fate at a power cut (kept, lost, torn) is one.
//!
//! Considerations: a cache may write back in any order and at any time, so at a power cut each sector is the durable
//! one or any cached version. A sync hardens the versions of writes answered before it was submitted, and what they
//! overwrote is then gone for good.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use sds_io::DiskInfo;

use crate::payload::{self, SECTOR_BYTES};
use crate::random::Random;
use crate::report::Counters;

/// Blocks of the content model.
pub const BLOCK_BYTES: u64 = 4096;
const SECTORS_PER_BLOCK: u64 = BLOCK_BYTES / SECTOR_BYTES as u64;

type Block = [u8; BLOCK_BYTES as usize];

/// A write's place in time, shared by all its cached versions.
#[derive(Debug)]
pub struct WriteState {
    /// When it was answered, in the world's order of events.
    completed: Cell<u64>,
    /// A failed sync covered it: no later sync makes it durable.
    doomed: Cell<bool>,
    fate: Cell<Option<Fate>>,
}

impl WriteState {
    /// A write that was not answered yet.
    #[must_use]
    pub fn open() -> Rc<Self> {
        Rc::new(Self { completed: Cell::new(u64::MAX), doomed: Cell::new(false), fate: Cell::new(None) })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    Lost,
    Torn,
}

struct Version {
    data: Rc<Block>,
    /// A bit for each sector that it has.
    sectors: u8,
    state: Rc<WriteState>,
}

/// A disk.
pub struct Disk {
    /// What it says it is.
    pub info: DiskInfo,
    current: BTreeMap<u64, Rc<Block>>,
    durable: BTreeMap<u64, Rc<Block>>,
    cache: BTreeMap<u64, Vec<Version>>,
    /// What each block was before its last write, if that is kept.
    previous: Option<BTreeMap<u64, Rc<Block>>>,
    /// It says that it made durable what it did not.
    lies: bool,
    random: Random,
}

fn merge(blocks: &mut BTreeMap<u64, Rc<Block>>, number: u64, data: &Rc<Block>, sectors: u8) {
    if sectors == u8::MAX {
        blocks.insert(number, Rc::clone(data));
        return;
    }
    let block = Rc::make_mut(blocks.entry(number).or_insert_with(|| Rc::new([0; BLOCK_BYTES as usize])));
    for sector in (0..SECTORS_PER_BLOCK as usize).filter(|sector| sectors & (1 << sector) != 0) {
        let bytes = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
        block[bytes.clone()].copy_from_slice(&data[bytes]);
    }
}

impl Disk {
    /// An empty disk.
    #[must_use]
    pub fn new(info: DiskInfo, random: Random) -> Self {
        let (current, durable, cache) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { info, current, durable, cache, previous: None, lies: false, random }
    }

    /// From now on it makes nothing durable, whatever it says.
    pub fn lie(&mut self) {
        (self.lies, self.info.volatile_cache) = (true, true);
    }

    /// From now on it keeps what blocks were before their last write.
    pub fn keep_previous(&mut self) {
        self.previous = Some(BTreeMap::new());
    }

    /// What a read sees that finds what was there before the last write.
    pub fn read_stale(&self, offset: u64, out: &mut [u8]) {
        self.read(offset, out);
        let Some(previous) = &self.previous else { return };
        for (number, bytes) in (offset / BLOCK_BYTES..).zip(out.chunks_exact_mut(BLOCK_BYTES as usize)) {
            if let Some(block) = previous.get(&number) {
                bytes.copy_from_slice(&block[..]);
            }
        }
    }

    /// What a read of `out.len()` bytes at `offset` sees.
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let within = (at % BLOCK_BYTES) as usize;
            let len = (BLOCK_BYTES as usize - within).min(out.len() - done);
            match self.current.get(&(at / BLOCK_BYTES)) {
                Some(block) => out[done..done + len].copy_from_slice(&block[within..within + len]),
                None => out[done..done + len].fill(0),
            }
            done += len;
        }
    }

    /// How many units `len` bytes at `offset` have that are written as a whole.
    #[must_use]
    pub fn units(&self, offset: u64, len: u64) -> usize {
        let unit = u64::from(self.info.physical_block_bytes);
        ((offset + len).div_ceil(unit) - offset / unit) as usize
    }

    /// Takes those units of `data` that `chosen` wants, into the cache.
    pub fn write(
        &mut self,
        offset: u64,
        data: &[u8],
        state: &Rc<WriteState>,
        counters: &mut Counters,
        mut chosen: impl FnMut(usize) -> bool,
    ) {
        let unit = u64::from(self.info.physical_block_bytes);
        let end = offset + data.len() as u64;
        for number in offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES) {
            let start = number * BLOCK_BYTES;
            let (from, to) = (offset.max(start), end.min(start + BLOCK_BYTES));
            let mut sectors = 0_u8;
            for sector in (from - start) / SECTOR_BYTES as u64..(to - start) / SECTOR_BYTES as u64 {
                if chosen(((start + sector * SECTOR_BYTES as u64) / unit - offset / unit) as usize) {
                    sectors |= 1 << sector;
                }
            }
            if sectors == 0 {
                continue;
            }
            let mut block = [0; BLOCK_BYTES as usize];
            block[(from - start) as usize..(to - start) as usize]
                .copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
            if from == start && self.reuses(number, &block) {
                counters.blocks_reused += 1;
            }
            let data = Rc::new(block);
            if let (Some(previous), Some(old)) = (&mut self.previous, self.current.get(&number)) {
                previous.insert(number, Rc::clone(old));
            }
            merge(&mut self.current, number, &data, sectors);
            self.cache.entry(number).or_default().push(Version { data, sectors, state: Rc::clone(state) });
        }
    }

    fn reuses(&self, number: u64, block: &Block) -> bool {
        let old = self.current.get(&number).and_then(|old| payload::header(&old[..]));
        old.is_some_and(|old| payload::header(block).is_some_and(|new| new != old))
    }

    /// The disk answers the write of `len` bytes at `offset`; `durable`: a power cut can't take it back any more.
    pub fn complete(&mut self, offset: u64, len: u64, state: &Rc<WriteState>, order: u64, durable: bool) {
        state.completed.set(order);
        if (durable || !self.info.volatile_cache) && !self.lies {
            for number in offset / BLOCK_BYTES..(offset + len).div_ceil(BLOCK_BYTES) {
                self.harden(number, |version| Rc::ptr_eq(&version.state, state));
            }
        }
    }

    /// What the writes that were answered before `order` wrote becomes durable.
    pub fn sync(&mut self, order: u64) {
        if self.lies {
            return;
        }
        let numbers: Vec<u64> = self.cache.keys().copied().collect();
        for number in numbers {
            self.harden(number, |version| version.state.completed.get() < order && !version.state.doomed.get());
        }
    }

    /// Whoever wrote is gone: what failed writes left is as any other write's from now on.
    pub fn settle(&mut self, order: u64) {
        for version in self.cache.values().flatten().filter(|version| version.state.completed.get() == u64::MAX) {
            version.state.completed.set(order);
        }
    }

    /// A sync that covers the writes answered before `order` fails: no later one makes them durable.
    pub fn sync_failed(&mut self, order: u64) {
        for version in self.cache.values().flatten() {
            if version.state.completed.get() < order {
                version.state.doomed.set(true);
            }
        }
    }

    // Newest first: what a hardened version overwrote can't come back.
    fn harden(&mut self, number: u64, which: impl Fn(&Version) -> bool) {
        let Some(versions) = self.cache.get_mut(&number) else { return };
        let mut hardened = 0_u8;
        for version in versions.iter_mut().rev() {
            let sectors = version.sectors & !hardened;
            if which(version) {
                if sectors != 0 {
                    merge(&mut self.durable, number, &version.data, sectors);
                }
                hardened |= version.sectors;
                version.sectors = 0;
            } else {
                version.sectors = sectors;
            }
        }
        versions.retain(|version| version.sectors != 0);
        if versions.is_empty() {
            self.cache.remove(&number);
        }
    }

    /// The space of `[offset, offset + len)` is given back: each block keeps its content, reads zeros, or reads
    /// whatever.
    pub fn discard(&mut self, offset: u64, len: u64, state: &Rc<WriteState>) {
        for number in offset.div_ceil(BLOCK_BYTES)..(offset + len) / BLOCK_BYTES {
            let mut block = [0; BLOCK_BYTES as usize];
            match self.random.index(3) {
                0 => continue,
                1 => payload::fill_garbage(&mut block, self.random.bits()),
                _ => {}
            }
            let data = Rc::new(block);
            merge(&mut self.current, number, &data, u8::MAX);
            self.cache.entry(number).or_default().push(Version { data, sectors: u8::MAX, state: Rc::clone(state) });
        }
    }

    /// `len` bytes at `offset` if they are durable.
    #[must_use]
    pub fn durable(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let blocks = offset / BLOCK_BYTES..(offset + len as u64).div_ceil(BLOCK_BYTES);
        if self.cache.range(blocks).next().is_some() {
            return None;
        }
        let mut out = vec![0; len];
        self.read(offset, &mut out);
        Some(out)
    }

    /// The durable block at `offset` becomes something else: a bit of it flips, it reads zeros, or it holds what was
    /// meant for another place.
    pub fn spoil(&mut self, offset: u64) {
        let number = offset / BLOCK_BYTES;
        assert!(offset % BLOCK_BYTES == 0 && !self.cache.contains_key(&number), "a durable block is spoiled");
        let mut block = self.current.get(&number).map_or([0; BLOCK_BYTES as usize], |block| **block);
        match self.random.index(3) {
            0 => block[self.random.index(BLOCK_BYTES as usize)] ^= 1 << self.random.index(8),
            1 => block.fill(0),
            _ => {
                // Mostly one nearby, which looks alike.
                let last = self.current.keys().next_back().copied().unwrap_or(0);
                let near = number + self.random.index(8) as u64;
                let from = if self.random.chance(700) { near } else { self.random.below(last + 1) };
                block = self.current.get(&from).map_or([0; BLOCK_BYTES as usize], |block| **block);
            }
        }
        let block = Rc::new(block);
        self.current.insert(number, Rc::clone(&block));
        self.durable.insert(number, block);
    }

    /// A bit flips in the four durable bytes at `offset`.
    pub fn flip(&mut self, offset: u64) {
        let number = offset / BLOCK_BYTES;
        let mut block = self.current.get(&number).map_or([0; BLOCK_BYTES as usize], |block| **block);
        block[(offset % BLOCK_BYTES) as usize + self.random.index(4)] ^= 1 << self.random.index(8);
        let block = Rc::new(block);
        self.current.insert(number, Rc::clone(&block));
        self.durable.insert(number, block);
    }

    /// Power is gone: each write that is not durable is kept, lost or torn, in any order. Of a disk that lies: `Some`,
    /// true if all were lost.
    pub fn power_cut(&mut self, counters: &mut Counters) -> Option<bool> {
        let lied = (self.lies && !self.cache.is_empty()).then(|| self.random.chance(500));
        if lied == Some(true) {
            self.cache.values().flatten().for_each(|version| version.state.fate.set(Some(Fate::Lost)));
        }
        let random = &mut self.random;
        let by_sector = self.info.physical_block_bytes < BLOCK_BYTES as u32;
        for (number, mut versions) in std::mem::take(&mut self.cache) {
            random.shuffle(&mut versions);
            for version in versions {
                let fate = version.state.fate.get().unwrap_or_else(|| {
                    let fate = random.pick(&[Fate::Kept, Fate::Lost, Fate::Torn]);
                    counters.torn_writes += u64::from(fate == Fate::Torn);
                    counters.lost_writes += u64::from(fate == Fate::Lost);
                    version.state.fate.set(Some(fate));
                    fate
                });
                let sectors = match fate {
                    Fate::Kept => version.sectors,
                    Fate::Lost => 0,
                    Fate::Torn if by_sector => version.sectors & random.bits() as u8,
                    Fate::Torn => version.sectors & if random.chance(500) { u8::MAX } else { 0 },
                };
                if sectors != 0 {
                    merge(&mut self.durable, number, &version.data, sectors);
                }
            }
            match self.durable.get(&number) {
                Some(block) => self.current.insert(number, Rc::clone(block)),
                None => self.current.remove(&number),
            };
        }
        lied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(physical_block_bytes: u32, seed: u64) -> Disk {
        let info = DiskInfo {
            path: "test".into(),
            size_bytes: 1 << 20,
            logical_block_bytes: 512,
            physical_block_bytes,
            rotational: false,
            volatile_cache: true,
            discard: true,
        };
        Disk::new(info, Random::new(seed))
    }

    fn put(disk: &mut Disk, offset: u64, byte: u8, len: usize, order: u64) {
        let state = WriteState::open();
        disk.write(offset, &vec![byte; len], &state, &mut Counters::default(), |_| true);
        disk.complete(offset, len as u64, &state, order, false);
    }

    fn get(disk: &Disk, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![9; len];
        disk.read(offset, &mut out);
        out
    }

    #[test]
    fn a_block_is_spoiled_for_good_once_it_is_durable() {
        let mut disk = disk(512, 3);
        put(&mut disk, 0, 1, 8192, 1);
        assert_eq!(disk.durable(4096, 4096), None);
        disk.sync(5);
        assert_eq!(disk.durable(4096, 4096), Some(vec![1; 4096]));
        while get(&disk, 4096, 4096) == [1; 4096] {
            disk.spoil(4096);
        }
        let _ = disk.power_cut(&mut Counters::default());
        assert!(get(&disk, 0, 4096) == [1; 4096] && get(&disk, 4096, 4096) != [1; 4096]);
    }

    #[test]
    fn a_sync_covers_only_what_was_answered_before_it() {
        let mut kept = [false; 2];
        for seed in 0..64 {
            let mut disk = disk(512, seed);
            put(&mut disk, 0, 1, 8192, 1);
            put(&mut disk, 4096, 2, 4096, 5);
            disk.sync(5);
            let _ = disk.power_cut(&mut Counters::default());
            assert!(get(&disk, 0, 4096).iter().all(|byte| *byte == 1));
            let second = get(&disk, 4096, 4096);
            assert!(second.iter().all(|byte| [1, 2].contains(byte)));
            kept[usize::from(second[0] == 2)] = true;
        }
        assert!(kept[0] && kept[1], "some seeds lose the second write and some keep it");
    }

    #[test]
    fn a_power_cut_tears_between_physical_blocks_only() {
        for (physical, tears) in [(512, true), (4096, false)] {
            let torn = (0..64).filter(|seed| {
                let mut disk = disk(physical, *seed);
                put(&mut disk, 4096, 7, 4096, 1);
                let _ = disk.power_cut(&mut Counters::default());
                let bytes = get(&disk, 4096, 4096);
                bytes.contains(&0) && bytes.contains(&7)
            });
            assert_eq!(torn.count() > 0, tears);
        }
    }

    #[test]
    fn what_a_failed_sync_covered_is_not_saved_by_the_next() {
        let lost = (0..64).filter(|seed| {
            let mut disk = disk(4096, *seed);
            put(&mut disk, 0, 3, 4096, 1);
            disk.sync_failed(2);
            disk.sync(3);
            let _ = disk.power_cut(&mut Counters::default());
            get(&disk, 0, 1) == [0]
        });
        assert!(lost.count() > 8);
    }

    #[test]
    fn an_older_cached_version_never_overwrites_a_hardened_newer_one() {
        for seed in 0..64 {
            let mut disk = disk(512, seed);
            let late = WriteState::open();
            disk.write(0, &[1; 4096], &late, &mut Counters::default(), |_| true);
            put(&mut disk, 0, 2, 4096, 3);
            disk.sync(4);
            disk.complete(0, 4096, &late, 5, false);
            let _ = disk.power_cut(&mut Counters::default());
            assert!(get(&disk, 0, 4096).iter().all(|byte| *byte == 2));
        }
    }
}
