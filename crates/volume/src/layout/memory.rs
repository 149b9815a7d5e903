//! Disks in memory with faults at the caller's wish, for the tests of this crate's on-disk half.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::{Future, ready};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use sds_io::{Buffer, CarryOver, DiskId, DiskInfo, Executor, Io, IoError, IoErrorKind, Slice};

use crate::delta::{Delta, Place};
use crate::place::{
    BlockNo, ChunkAddr, ChunkRun, DiskNo, ExtentId, ExtentIndex, Generation, LayerId, PageKey, PageNo, TreeId,
};
use crate::record::{BELOW, BlockState, Home};

#[derive(Default)]
struct MemoryDisk {
    bytes: Vec<u8>,
    /// What unsynced writes replaced, oldest first.
    undo: Vec<(usize, Vec<u8>)>,
    dead: bool,
    unreadable: BTreeSet<u64>,
    /// The next write stores this many bytes, then the disk is dead.
    tear_at: Option<usize>,
    writes: usize,
    syncs: usize,
}

#[derive(Clone, Default)]
pub(crate) struct MemoryIo(Rc<RefCell<Vec<MemoryDisk>>>);

const FAILED: IoError = IoError { kind: IoErrorKind::Media, os_code: 5 };

impl MemoryIo {
    /// Disks of these sizes, filled with 0xa5: nobody may take a fresh disk for zeros.
    pub(crate) fn new(sizes: &[usize]) -> Self {
        let disk = |size: &usize| MemoryDisk { bytes: vec![0xa5; *size], ..MemoryDisk::default() };
        Self(Rc::new(RefCell::new(sizes.iter().map(disk).collect())))
    }

    fn with<T>(&self, disk: DiskId, act: impl FnOnce(&mut MemoryDisk) -> T) -> T {
        act(&mut self.0.borrow_mut()[usize::from(disk.0)])
    }

    pub(crate) fn peek(&self, disk: DiskId, offset: u64, len: usize) -> Vec<u8> {
        self.with(disk, |d| d.bytes[offset as usize..offset as usize + len].to_vec())
    }

    pub(crate) fn poke(&self, disk: DiskId, offset: u64, bytes: &[u8]) {
        self.with(disk, |d| d.bytes[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes));
    }

    pub(crate) fn flip(&self, disk: DiskId, offset: u64) {
        self.with(disk, |d| d.bytes[offset as usize] ^= 0x10);
    }

    /// All requests to it fail from now on, or work again.
    pub(crate) fn set_dead(&self, disk: DiskId, dead: bool) {
        self.with(disk, |d| d.dead = dead);
    }

    /// Reads that touch the 4 KiB block at `offset` fail.
    pub(crate) fn set_unreadable(&self, disk: DiskId, offset: u64) {
        self.with(disk, |d| d.unreadable.insert(offset / 4096));
    }

    pub(crate) fn tear_next_write(&self, disk: DiskId, bytes: usize) {
        self.with(disk, |d| d.tear_at = Some(bytes));
    }

    /// What was written and not synced is gone.
    pub(crate) fn power_cut(&self) {
        for disk in self.0.borrow_mut().iter_mut() {
            while let Some((offset, old)) = disk.undo.pop() {
                disk.bytes[offset..offset + old.len()].copy_from_slice(&old);
            }
        }
    }

    pub(crate) fn writes(&self, disk: DiskId) -> usize {
        self.with(disk, |d| d.writes)
    }

    pub(crate) fn syncs(&self, disk: DiskId) -> usize {
        self.with(disk, |d| d.syncs)
    }
}

impl Io for MemoryIo {
    fn disk(&self, disk: DiskId) -> DiskInfo {
        DiskInfo {
            path: format!("memory:{}", disk.0),
            size_bytes: self.with(disk, |d| d.bytes.len() as u64),
            logical_block_bytes: 4096,
            physical_block_bytes: 4096,
            rotational: false,
            volatile_cache: true,
            discard: false,
        }
    }

    fn read(
        &self,
        disk: DiskId,
        offset: u64,
        mut buffer: Buffer,
    ) -> impl Future<Output = Result<Buffer, IoError>> + 'static {
        assert!(offset % 4096 == 0 && buffer.len() % 4096 == 0, "reads of whole blocks");
        ready(self.with(disk, |d| {
            let start = offset as usize;
            let blocks = offset / 4096..(offset + buffer.len() as u64) / 4096;
            if d.dead || d.unreadable.range(blocks).next().is_some() {
                return Err(FAILED);
            }
            let bytes = d.bytes.get(start..start + buffer.len()).expect("reads lie on the disk");
            buffer.as_mut().copy_from_slice(bytes);
            Ok(buffer)
        }))
    }

    fn write(
        &self,
        disk: DiskId,
        offset: u64,
        data: Slice,
        durable: bool,
    ) -> impl Future<Output = Result<(), IoError>> + 'static {
        assert!(offset % 4096 == 0 && data.len() % 4096 == 0, "writes of whole blocks");
        ready(self.with(disk, |d| {
            if d.dead {
                return Err(FAILED);
            }
            d.writes += 1;
            let tear = d.tear_at.take();
            let len = tear.unwrap_or(data.len()).min(data.len());
            let start = offset as usize;
            if !durable && tear.is_none() {
                d.undo.push((start, d.bytes[start..start + len].to_vec()));
            }
            d.bytes[start..start + len].copy_from_slice(&data.as_ref()[..len]);
            if tear.is_some() {
                d.dead = true;
                return Err(FAILED);
            }
            Ok(())
        }))
    }

    fn sync(&self, disk: DiskId) -> impl Future<Output = Result<(), IoError>> + 'static {
        ready(self.with(disk, |d| {
            if d.dead {
                return Err(FAILED);
            }
            d.undo.clear();
            d.syncs += 1;
            Ok(())
        }))
    }

    fn discard(&self, _: DiskId, _: u64, _: u64) -> impl Future<Output = Result<(), IoError>> + 'static {
        ready(Ok(()))
    }
}

/// Runs `future` to its end on an executor of its own.
pub(crate) fn run<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
    let executor = Executor::new(Arc::new(|| {}));
    let out = Rc::new(RefCell::new(None));
    let answer = Rc::clone(&out);
    executor.spawner().spawn(async move { *answer.borrow_mut() = Some(future.await) });
    while executor.turn(64) > 0 {}
    out.take().expect("a future that ends without outside help")
}

pub(crate) struct MemoryCarryOver(Mutex<Vec<u8>>);

impl MemoryCarryOver {
    pub(crate) fn new(capacity_bytes: usize) -> Self {
        Self(Mutex::new(vec![0; capacity_bytes]))
    }
}

impl CarryOver for MemoryCarryOver {
    fn capacity_bytes(&self) -> usize {
        self.0.lock().expect("no panic in here").len()
    }

    fn load(&self) -> Vec<u8> {
        self.0.lock().expect("no panic in here").clone()
    }

    fn store(&self, offset: usize, bytes: &[u8]) {
        self.0.lock().expect("no panic in here")[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

/// Numbers below a bound, drawn by `seed`: Knuth's MMIX generator.
pub(crate) fn lcg(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below.max(1)
    }
}

fn addr_of(draw: &mut impl FnMut(u64) -> u64) -> ChunkAddr {
    ChunkAddr { disk: DiskNo(draw(3) as u16), chunk: draw(1 << 30) as u32 }
}

pub(crate) fn home_of(draw: &mut impl FnMut(u64) -> u64) -> Home {
    match draw(3) {
        0 => Home::Nowhere,
        1 => Home::Run(addr_of(draw)),
        _ => Home::from_chunks(std::array::from_fn(|_| (draw(2) == 0).then(|| addr_of(draw)))),
    }
}

/// Deltas of the map and of free space, and documents.
pub(crate) fn deltas_of(draw: &mut impl FnMut(u64) -> u64, count: usize) -> Vec<Delta> {
    let mut deltas = Vec::new();
    for _ in 0..count {
        let place = Place { tree: TreeId(draw(2) as u32), index: ExtentIndex(draw(3) << draw(40)) };
        let id = ExtentId::new(1 + draw(3), Generation(draw(2) as u32));
        let page = PageKey { tree: place.tree, page: PageNo(draw(1 << 30)) };
        let layer = LayerId(draw(1000) as u32);
        let first = draw(16) as u8;
        let slots = 1 + draw(16 - u64::from(first));
        deltas.push(match draw(11) {
            0 => Delta::Extent { place, layer, id, base: [ExtentId::HOLE, BELOW][draw(2) as usize] },
            1 => Delta::Chunks { place, id, first, addrs: (0..slots).map(|_| addr_of(draw)).collect() },
            2 => {
                let start = addr_of(draw);
                let next = |i| ChunkAddr { chunk: start.chunk + i as u32, ..start };
                Delta::Chunks { place, id, first, addrs: (0..slots).map(next).collect() }
            }
            3 => {
                let state = [BlockState::Absent, BlockState::Data, BlockState::Zero][draw(3) as usize];
                Delta::States { place, id, start: BlockNo(draw(4096) as u32), count: draw(4096) as u32, state }
            }
            4 => Delta::Unchunk { place, id, first, count: slots as u8 },
            5 => Delta::Entry { place, layer, entry: if draw(2) == 0 { ExtentId::HOLE } else { id } },
            6 => Delta::Gone { place, id },
            7 => Delta::Flip { place, id, home: home_of(draw) },
            8 => {
                let run = |draw: &mut dyn FnMut(u64) -> u64| ChunkRun {
                    start: ChunkAddr { disk: DiskNo(1), chunk: draw(1 << 30) as u32 },
                    count: 1 + draw(1 << 20) as u32,
                };
                Delta::Free { tree: place.tree, runs: (0..draw(4)).map(|_| run(draw)).collect() }
            }
            9 => Delta::Row { page, row: draw(1 << 30) },
            _ => Delta::Document { key: "host/a".into(), value: (draw(2) == 0).then(|| vec![7; draw(300) as usize]) },
        });
    }
    deltas
}
