//! Owner tables on disks: read, changed, written.
//!
//! Considerations: a block's two places are written in turn, so a torn write loses only what is newer, and that is in
//! the journal until a sync has ended. Two writes to one block without a sync between could lose both places at once:
//! so before a block is written again, the disk is synced. That is rare, because a checkpoint writes a block once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sds_io::sync::join_all;
use sds_io::{Buffer, DiskId, Io, IoError};

use crate::layout::codec::DecodeError;
use crate::layout::disk::DiskLayout;
use crate::layout::owner::{OWNER_BLOCK_BYTES, OwnerBlock, OwnerEntry, OwnerGeometry};
use crate::place::Lsn;

/// Blocks that are read and written at the same time.
const BLOCKS_IN_FLIGHT_MAX: usize = 32;
/// Blocks that a scan reads at once: 512 KiB with both places.
const SCAN_BLOCKS: u32 = 64;
/// Blocks that may be written without a sync by this table; then it syncs.
const UNSYNCED_BLOCKS_MAX: usize = 1 << 16;

/// An owner table can't be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerError {
    /// The first chunk of the block.
    pub chunk: u32,
    /// What the disk said.
    pub error: IoError,
}

impl fmt::Display for OwnerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the owners of chunk {} and on: {}", self.chunk, self.error)
    }
}

impl std::error::Error for OwnerError {}

/// What an update or a scan came upon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerReport {
    /// Blocks that were written (by an update) or are in use (in a scan).
    pub blocks: u32,
    /// The first chunks of blocks of which neither place is intact though one was written: what they said is lost.
    pub damaged: Vec<u32>,
}

/// A disk's owner table.
pub struct OwnerTable<E> {
    io: E,
    disk: DiskId,
    layout: DiskLayout,
    geometry: OwnerGeometry,
    disk_uuid: [u8; 16],
    unsynced: BTreeSet<u32>,
}

/// A block as it is on the disk.
enum Found {
    /// One place or both are intact; which one is newer.
    Intact(OwnerBlock, u64),
    /// Nothing of this disk's was ever written.
    Blank,
    /// Something was, and is damaged.
    Damaged,
}

type Update = (u32, Option<OwnerEntry>, Lsn);

impl<E: Io> OwnerTable<E> {
    /// The table of a disk whose label has this layout and uuid. Nothing is read.
    #[must_use]
    pub fn new(io: E, disk: DiskId, layout: DiskLayout, disk_uuid: [u8; 16]) -> Self {
        let geometry = OwnerGeometry::new(layout.extent_bytes);
        Self { io, disk, layout, geometry, disk_uuid, unsynced: BTreeSet::new() }
    }

    /// Changes the entries of chunks; `None` is free. An entry that is newer than its update stays. What was written is
    /// durable after the disk's next sync ([`OwnerTable::sync`] or any other): only then may the journal forget it.
    ///
    /// # Errors
    /// The disk's. Some blocks may have been written; to do it again is harmless.
    ///
    /// # Panics
    /// If the disk has no such chunk.
    pub async fn update(&mut self, updates: Vec<Update>) -> Result<OwnerReport, OwnerError> {
        let mut blocks: BTreeMap<u32, Vec<Update>> = BTreeMap::new();
        for update in updates {
            assert!(update.0 < self.layout.chunks, "chunk {} of {}", update.0, self.layout.chunks);
            blocks.entry(self.geometry.block_of(update.0).0).or_default().push(update);
        }
        if self.unsynced.len() > UNSYNCED_BLOCKS_MAX || blocks.keys().any(|block| self.unsynced.contains(block)) {
            let chunk = blocks.keys().next().map_or(0, |block| self.geometry.first_chunk(*block));
            self.sync().await.map_err(|error| OwnerError { chunk, error })?;
        }
        let mut report = OwnerReport::default();
        let mut blocks = blocks.into_iter().peekable();
        while blocks.peek().is_some() {
            let batch: Vec<_> = blocks.by_ref().take(BLOCKS_IN_FLIGHT_MAX).collect();
            // Noted before they are written: a failed write may have changed the disk as well.
            self.unsynced.extend(batch.iter().map(|(block, _)| *block));
            let this = &*self;
            let changes = batch.into_iter().map(|(block, updates)| this.change(block, updates)).collect();
            for changed in join_all(changes).await {
                let (written, damaged) = changed?;
                report.blocks += u32::from(written);
                report.damaged.extend(damaged);
            }
        }
        Ok(report)
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// The disk's; what was written since the last sync must then be written again.
    pub async fn sync(&mut self) -> Result<(), IoError> {
        self.io.sync(self.disk).await?;
        self.unsynced.clear();
        Ok(())
    }

    /// Calls `each` for every chunk that ever had an owner, in order: its number, since when, and whose it is. Of a
    /// chunk within a whole run the newer of the two holds: the entry of the run, or its own.
    ///
    /// # Errors
    /// The disk's, if neither place of a block can be read.
    pub async fn scan(&self, mut each: impl FnMut(u32, Lsn, Option<OwnerEntry>)) -> Result<OwnerReport, OwnerError> {
        let mut report = OwnerReport::default();
        let mut next = Some(0);
        while let Some(first) = next {
            next = self.scan_from(first, &mut report, &mut each).await?;
        }
        Ok(report)
    }

    /// As [`OwnerTable::scan`], of [`SCAN_BLOCKS`] from the block `first` on; the block that follows them.
    ///
    /// # Errors
    /// As there.
    pub async fn scan_from(
        &self,
        first: u32,
        report: &mut OwnerReport,
        mut each: impl FnMut(u32, Lsn, Option<OwnerEntry>),
    ) -> Result<Option<u32>, OwnerError> {
        let blocks = self.geometry.blocks(self.layout.chunks) as u32;
        let end = blocks.min(first + SCAN_BLOCKS);
        let len = (end - first) as usize * 2 * OWNER_BLOCK_BYTES as usize;
        let read = self.io.read(self.disk, self.place(first, 0), Buffer::uninit(len)).await;
        for block in first..end {
            let found = match &read {
                Ok(bytes) => {
                    let start = (block - first) as usize * 2 * OWNER_BLOCK_BYTES as usize;
                    self.choose(block, bytes.as_ref()[start..].chunks(OWNER_BLOCK_BYTES as usize).take(2))
                }
                // Something in there can't be read: block by block it is found which.
                Err(_) => self.read(block).await?,
            };
            let chunk = self.geometry.first_chunk(block);
            match found {
                Found::Blank => continue,
                Found::Damaged => report.damaged.push(chunk),
                Found::Intact(found, _) => {
                    let slots = (chunk..self.layout.chunks).zip(found.entries);
                    slots.filter_map(|(chunk, slot)| Some((chunk, slot?))).for_each(|(chunk, (lsn, entry))| {
                        each(chunk, lsn, entry);
                    });
                }
            }
            report.blocks += 1;
        }
        Ok((end < blocks).then_some(end))
    }

    /// Reads, changes and writes one block. Whether it was written, and its first chunk if it was damaged.
    async fn change(&self, block: u32, updates: Vec<Update>) -> Result<(bool, Option<u32>), OwnerError> {
        let chunk = self.geometry.first_chunk(block);
        let (mut content, newest, damaged) = match self.read(block).await? {
            Found::Intact(content, place) => (content, place, None),
            Found::Blank => (OwnerBlock::empty(&self.geometry, block), 1, None),
            Found::Damaged => (OwnerBlock::empty(&self.geometry, block), 1, Some(chunk)),
        };
        let mut changed = false;
        for (chunk, entry, lsn) in updates {
            let slot = &mut content.entries[self.geometry.block_of(chunk).1];
            let new = Some((lsn, entry));
            if slot.as_ref().is_none_or(|(old, _)| *old <= lsn) && *slot != new {
                *slot = new;
                changed = true;
            }
        }
        if !changed {
            return Ok((false, damaged));
        }
        content.sequence += 1;
        let bytes = Buffer::copy_of(&content.encode(&self.geometry, &self.disk_uuid)).share();
        let write = self.io.write(self.disk, self.place(block, 1 - newest), bytes, false).await;
        write.map_err(|error| OwnerError { chunk, error })?;
        Ok((true, damaged))
    }

    async fn read(&self, block: u32) -> Result<Found, OwnerError> {
        let size = OWNER_BLOCK_BYTES as usize;
        if let Ok(bytes) = self.io.read(self.disk, self.place(block, 0), Buffer::uninit(2 * size)).await {
            return Ok(self.choose(block, bytes.as_ref().chunks(size)));
        }
        let mut read = Vec::new();
        let mut failed = None;
        for place in 0..2 {
            match self.io.read(self.disk, self.place(block, place), Buffer::uninit(size)).await {
                Ok(bytes) => read.push(bytes.as_ref().to_vec()),
                Err(error) => {
                    failed = Some(error);
                    read.push(Vec::new());
                }
            }
        }
        match (self.choose(block, read.iter().map(Vec::as_slice)), failed) {
            (intact @ Found::Intact(..), _) => Ok(intact),
            (_, Some(error)) => Err(OwnerError { chunk: self.geometry.first_chunk(block), error }),
            (other, None) => Ok(other),
        }
    }

    fn choose<'a>(&self, block: u32, places: impl Iterator<Item = &'a [u8]>) -> Found {
        let mut found = Found::Blank;
        for (place, bytes) in (0..).zip(places) {
            found = match (OwnerBlock::decode(bytes, &self.geometry, &self.disk_uuid, block), found) {
                (Ok(new), Found::Intact(old, at)) if old.sequence > new.sequence => Found::Intact(old, at),
                (Ok(new), _) => Found::Intact(new, place),
                (Err(error), Found::Blank) if was_written(&error) => Found::Damaged,
                (Err(_), found) => found,
            };
        }
        found
    }

    const fn place(&self, block: u32, place: u64) -> u64 {
        self.layout.owner_offset + (block as u64 * 2 + place) * OWNER_BLOCK_BYTES
    }
}

/// True if the bytes look like an owner block. One of an earlier pool on this disk does, too: its CRC is seeded with
/// another uuid and so is as wrong as a damaged one's.
fn was_written(error: &DecodeError) -> bool {
    !error.is_foreign()
}

#[cfg(test)]
#[path = "owner_tests.rs"]
mod tests;
