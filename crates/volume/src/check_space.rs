//! Check space on disks: CRCs are read, kept for the next reader, and changed.
//!
//! Layout: a lock for each 4 KiB of check space that is being read or changed, shared by all cores, and a cache of
//! such blocks for each core. A block has the CRCs of several extents, which may be several cores'; so it is changed
//! under its lock, from what the disk has, not from the cache.
//!
//! Considerations: a core's cached block may be older than the disk's, but not where it matters: CRCs of an extent are
//! changed by the core that owns its page, which caches what it wrote. Torn, such a write leaves the CRCs of the
//! other extents as they were, because it writes the same bytes there.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use rustc_hash::FxHashMap;
use sds_block::BlockError;
use sds_io::sync::{OneshotSender, oneshot};
use sds_io::{Buffer, Clock, Io, Slice};

use crate::core::PoolCore;
use crate::layout::check::{CHECK_BLOCK_BYTES, CRC_BYTES, block_crc};
use crate::page::Seal;
use crate::place::{BLOCK_BYTES, CHUNKS_PER_EXTENT, ChunkAddr, DiskNo, ExtentId};
use crate::request::disk_error;
use crate::shared::{PoolDisk, lock};

/// A block of check space: its disk and its first byte there.
pub(crate) type CheckKey = (DiskNo, u64);
/// Where a CRC lies: a block of check space and the byte in it.
pub(crate) type CheckPlace = (CheckKey, usize);

/// Who reads or changes which block of check space, on any core.
#[derive(Default)]
pub(crate) struct CheckLocks(Mutex<FxHashMap<CheckKey, VecDeque<OneshotSender<()>>>>);

/// A block of check space that nobody else reads or changes.
struct CheckGuard<'a> {
    locks: &'a CheckLocks,
    key: CheckKey,
}

impl CheckLocks {
    /// Ends when the block is the caller's alone; to be polled to its end.
    async fn lock(&self, key: CheckKey) -> CheckGuard<'_> {
        let turn = {
            let mut held = lock(&self.0);
            match held.get_mut(&key) {
                None => {
                    held.insert(key, VecDeque::new());
                    None
                }
                Some(waiters) => {
                    let (sender, receiver) = oneshot();
                    waiters.push_back(sender);
                    Some(receiver)
                }
            }
        };
        if let Some(turn) = turn {
            turn.await;
        }
        CheckGuard { locks: self, key }
    }
}

impl Drop for CheckGuard<'_> {
    fn drop(&mut self) {
        let mut held = lock(&self.locks.0);
        match held.get_mut(&self.key).and_then(VecDeque::pop_front) {
            Some(next) => next.send(()),
            None => drop(held.remove(&self.key)),
        }
    }
}

/// Blocks of check space that a core has at hand. Two halves: what is used moves to the young one; when that is full,
/// the old one is let go of.
pub(crate) struct CheckCache {
    young: FxHashMap<CheckKey, Slice>,
    old: FxHashMap<CheckKey, Slice>,
    half_blocks_max: usize,
}

impl CheckCache {
    pub(crate) fn new(blocks_max: usize) -> Self {
        Self { young: FxHashMap::default(), old: FxHashMap::default(), half_blocks_max: (blocks_max / 2).max(1) }
    }

    fn get(&mut self, key: CheckKey) -> Option<Slice> {
        if let Some(found) = self.young.get(&key) {
            return Some(found.clone());
        }
        let found = self.old.remove(&key)?;
        self.put(key, found.clone());
        Some(found)
    }

    fn put(&mut self, key: CheckKey, bytes: Slice) {
        if self.young.len() >= self.half_blocks_max && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, bytes);
    }

    fn remove(&mut self, key: CheckKey) {
        self.young.remove(&key);
        self.old.remove(&key);
    }
}

impl<E: Io + Clock> PoolCore<E> {
    /// The first of the whole blocks `data`, which lie from byte `within` of the chunk `addr` on, that is not what
    /// `seal` says; counted from the first of them. `fresh`: by the CRCs that the disk has now.
    pub(crate) async fn first_bad(
        &self,
        seal: Seal,
        addr: ChunkAddr,
        within: u64,
        data: &[u8],
        fresh: bool,
    ) -> Result<Option<u32>, BlockError> {
        let disks = self.disks();
        let disk = &disks[usize::from(addr.disk.0)];
        let first = self.block_on_disk(addr, within);
        let mut checks: Option<(CheckKey, Slice)> = None;
        for (number, bytes) in (0..).zip(data.chunks(BLOCK_BYTES as usize)) {
            let (key, at) = self.check_place(disk, first + u64::from(number));
            if checks.as_ref().is_none_or(|(of, _)| *of != key) {
                checks = Some((key, self.check_block(disk, key, fresh).await?));
            }
            let stored = &checks.as_ref().expect("loaded above").1.as_ref()[at..at + CRC_BYTES as usize];
            if stored != block_crc(seal.id, seal.block + number, bytes).to_le_bytes() {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// Stores CRCs, each with its place. Durable after the next sync of their disks.
    pub(crate) async fn write_crcs(&self, mut crcs: Vec<(CheckPlace, u32)>) -> Result<(), BlockError> {
        crcs.sort_unstable();
        let disks = self.disks();
        for same in crcs.chunk_by(|((a, _), _), ((b, _), _)| a == b) {
            let key = same[0].0.0;
            self.change_check_block(&disks[usize::from(key.0.0)], key, same).await?;
        }
        Ok(())
    }

    /// The CRCs of the whole blocks `data`, which lie from byte `within` of the chunk `addr` on and are the extent's
    /// from block `block` on.
    pub(crate) fn crcs_of(
        &self,
        id: ExtentId,
        block: u32,
        addr: ChunkAddr,
        within: u64,
        data: &[u8],
    ) -> impl Iterator<Item = (CheckPlace, u32)> {
        let disks = self.disks();
        let first = self.block_on_disk(addr, within);
        (0..).zip(data.chunks(BLOCK_BYTES as usize)).map(move |(number, bytes)| {
            let disk = &disks[usize::from(addr.disk.0)];
            (self.check_place(disk, first + u64::from(number)), block_crc(id, block + number, bytes))
        })
    }

    /// Where a block lies, counted in blocks of its disk's data area.
    pub(crate) fn block_on_disk(&self, addr: ChunkAddr, within: u64) -> u64 {
        let per_chunk = u64::from(self.shared.blocks_per_extent()) / CHUNKS_PER_EXTENT as u64;
        u64::from(addr.chunk) * per_chunk + within / BLOCK_BYTES
    }

    /// The block of check space with the CRC of that block of the disk, and the byte in it.
    pub(crate) fn check_place(&self, disk: &PoolDisk, block: u64) -> CheckPlace {
        let per_chunk = u64::from(self.shared.blocks_per_extent()) / CHUNKS_PER_EXTENT as u64;
        let offset = disk.layout.check_offset((block / per_chunk) as u32, (block % per_chunk) as u32);
        let at = offset % CHECK_BLOCK_BYTES;
        ((disk.no, offset - at), at as usize)
    }

    async fn check_block(&self, disk: &PoolDisk, key: CheckKey, fresh: bool) -> Result<Slice, BlockError> {
        let cached = || self.checks.borrow_mut().get(key).filter(|_| !fresh);
        if let Some(found) = cached() {
            return Ok(found);
        }
        let _guard = self.shared.check_locks.lock(key).await;
        if let Some(found) = cached() {
            return Ok(found);
        }
        let read = self.env.io.read(disk.disk, key.1, Buffer::uninit(CHECK_BLOCK_BYTES as usize)).await;
        let bytes = read.map_err(disk_error)?.share();
        self.checks.borrow_mut().put(key, bytes.clone());
        Ok(bytes)
    }

    async fn change_check_block(
        &self,
        disk: &PoolDisk,
        key: CheckKey,
        crcs: &[(CheckPlace, u32)],
    ) -> Result<(), BlockError> {
        let _guard = self.shared.check_locks.lock(key).await;
        let read = self.env.io.read(disk.disk, key.1, Buffer::uninit(CHECK_BLOCK_BYTES as usize)).await;
        let mut bytes = read.map_err(disk_error)?;
        for ((_, at), crc) in crcs {
            bytes.as_mut()[*at..*at + CRC_BYTES as usize].copy_from_slice(&crc.to_le_bytes());
        }
        let bytes = bytes.share();
        let written = self.env.io.write(disk.disk, key.1, bytes.clone(), false).await;
        disk.completed.fetch_add(1, Ordering::AcqRel);
        let mut checks = self.checks.borrow_mut();
        match &written {
            Ok(()) => checks.put(key, bytes),
            // Some of it may be there.
            Err(_) => checks.remove(key),
        }
        written.map_err(disk_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let mut cache = CheckCache::new(4);
        let key = |n: u64| (DiskNo(0), n * CHECK_BLOCK_BYTES);
        let bytes = || Buffer::zeroed(16).share();
        for n in 0..100 {
            cache.put(key(n), bytes());
            assert!(cache.get(key(0)).is_some(), "used each time");
            assert!(cache.young.len() + cache.old.len() <= 4);
        }
        assert!(cache.get(key(50)).is_none());
        cache.remove(key(0));
        assert!(cache.get(key(0)).is_none());
    }
}
