//! Owner tables on disks: read, changed, written.
//!
//! Considerations: a block's two places are written one after the other, with a sync between, so that one of them is
//! whole at any moment; and both have all that the journal forgets, so that either may rot and nothing is lost, even
//! where the MetaStore is lost, too. The downside: a checkpoint writes each block twice and syncs twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sds_io::sync::join_all;
use sds_io::{Buffer, DiskId, Io, IoError, Slice};

use crate::layout::codec::DecodeError;
use crate::layout::disk::DiskLayout;
use crate::layout::owner::{BLOCK, OWNER_BLOCK_BYTES, OwnerBlock, OwnerEntry, OwnerGeometry};
use crate::place::Lsn;

/// Blocks that are read and written at the same time.
const BLOCKS_IN_FLIGHT_MAX: usize = 32;
/// Blocks that a scan reads at once: 512 KiB with both places.
const SCAN_BLOCKS: u32 = 64;
/// Blocks that wait for a sync and their second write, each with its 4 KiB in memory; then the table syncs.
const UNSETTLED_BLOCKS_MAX: usize = 4096;

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
    /// Blocks of which one place is damaged and the other one says all: the first chunk, and which place.
    pub half: Vec<(u32, u8)>,
}

/// What a look at some blocks of a table came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableLook {
    /// Places that are intact.
    pub verified: u64,
    /// Damaged places that were written anew from the other one: the first chunk of their block, and which place.
    pub mended: Vec<(u32, u8)>,
    /// Blocks of which neither place is intact: what they said is lost, or it was an earlier pool's.
    pub lost: Vec<u32>,
    /// The block that follows those that were looked at.
    pub next: Option<u32>,
}

/// A disk's owner table.
pub struct OwnerTable<E> {
    io: E,
    disk: DiskId,
    layout: DiskLayout,
    geometry: OwnerGeometry,
    disk_uuid: [u8; 16],
    /// Blocks whose first place may have been written since the last sync, and what the other place is to hold after
    /// it; `None`: the write failed.
    unsettled: BTreeMap<u32, Option<OtherPlace>>,
}

/// What a block's older place is to hold.
struct OtherPlace {
    place: u64,
    bytes: Slice,
}

/// A block as it is on the disk.
enum Found {
    /// One place or both are intact: what the newer one says, which that is, and what is with the other.
    Intact(OwnerBlock, u64, Other),
    /// Nothing of this disk's was ever written.
    Blank,
    /// Something was, and is damaged.
    Damaged,
}

/// What is with a block's other place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Other {
    Same,
    Older,
    Blank,
    Bad,
}

type Update = (u32, Option<OwnerEntry>, Lsn);

/// What came of a block's update.
struct Changed {
    /// One of its places was written.
    written: bool,
    /// Its first chunk, if neither place was intact.
    damaged: Option<u32>,
    /// The same, and which it was, if one was damaged.
    half: Option<(u32, u8)>,
    /// What is to follow after a sync.
    copy: Option<OtherPlace>,
}

impl<E: Io> OwnerTable<E> {
    /// The table of a disk whose label has this layout and uuid. Nothing is read.
    #[must_use]
    pub fn new(io: E, disk: DiskId, layout: DiskLayout, disk_uuid: [u8; 16]) -> Self {
        let geometry = OwnerGeometry::new(layout.extent_bytes);
        Self { io, disk, layout, geometry, disk_uuid, unsettled: BTreeMap::new() }
    }

    /// Changes the entries of chunks; `None` is free. An entry that is newer than its update stays. Only after
    /// [`OwnerTable::sync`] may the journal forget what was changed.
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
        if blocks.keys().any(|block| self.unsettled.contains_key(block)) {
            self.sync_before(blocks.keys().next()).await?;
        }
        let mut report = OwnerReport::default();
        let mut blocks = blocks.into_iter().peekable();
        while blocks.peek().is_some() {
            if self.unsettled.len() > UNSETTLED_BLOCKS_MAX {
                self.sync_before(blocks.peek().map(|(block, _)| block)).await?;
            }
            let batch: Vec<_> = blocks.by_ref().take(BLOCKS_IN_FLIGHT_MAX).collect();
            // Noted before they are written: a failed write may have changed the disk as well.
            self.unsettled.extend(batch.iter().map(|(block, _)| (*block, None)));
            let numbers: Vec<u32> = batch.iter().map(|(block, _)| *block).collect();
            let this = &*self;
            let changes = batch.into_iter().map(|(block, updates)| this.change(block, updates)).collect();
            for (block, changed) in numbers.into_iter().zip(join_all(changes).await) {
                let Changed { written, damaged, half, copy } = changed?;
                report.blocks += u32::from(written);
                report.damaged.extend(damaged);
                report.half.extend(half);
                match copy {
                    Some(copy) => self.unsettled.insert(block, Some(copy)),
                    None => self.unsettled.remove(&block),
                };
            }
        }
        Ok(report)
    }

    async fn sync_before(&mut self, block: Option<&u32>) -> Result<(), OwnerError> {
        let chunk = block.map_or(0, |block| self.geometry.first_chunk(*block));
        self.sync().await.map_err(|error| OwnerError { chunk, error })
    }

    /// Makes what was written durable, in both places.
    ///
    /// # Errors
    /// The disk's; what was written since the last sync must then be written again.
    pub async fn sync(&mut self) -> Result<(), IoError> {
        if self.unsettled.is_empty() {
            return Ok(());
        }
        self.io.sync(self.disk).await?;
        let copies: Vec<_> = self.unsettled.iter().filter_map(|(block, copy)| Some((*block, copy.as_ref()?))).collect();
        for batch in copies.chunks(BLOCKS_IN_FLIGHT_MAX) {
            let write = |(block, copy): &(u32, &OtherPlace)| {
                self.io.write(self.disk, self.place(*block, copy.place), copy.bytes.clone(), false)
            };
            join_all(batch.iter().map(write).collect()).await.into_iter().collect::<Result<(), _>>()?;
        }
        self.io.sync(self.disk).await?;
        self.unsettled.clear();
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
                    self.choose(block, bytes.as_ref()[start..].chunks(OWNER_BLOCK_BYTES as usize).take(2).map(Some))
                }
                // Something in there can't be read: block by block it is found which.
                Err(_) => self.read(block).await?,
            };
            let chunk = self.geometry.first_chunk(block);
            match found {
                Found::Blank => continue,
                Found::Damaged => report.damaged.push(chunk),
                Found::Intact(found, place, other) => {
                    if other == Other::Bad {
                        report.half.push((chunk, 1 - place as u8));
                    }
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

    /// Looks at both places of [`SCAN_BLOCKS`] from the block `first` on, after all that is owed is written. A place
    /// that is damaged or older is written anew from the other one; durable when this returns.
    ///
    /// # Errors
    /// The disk can't be written or synced. What can't be read is damaged.
    pub async fn mend_from(&mut self, first: u32) -> Result<TableLook, OwnerError> {
        self.sync_before(Some(&first)).await?;
        let blocks = self.geometry.blocks(self.layout.chunks) as u32;
        let end = blocks.min(first + SCAN_BLOCKS);
        let mut look = TableLook { next: (end < blocks).then_some(end), ..TableLook::default() };
        for batch in (first..end).collect::<Vec<_>>().chunks(BLOCKS_IN_FLIGHT_MAX) {
            let reads = batch.iter().map(|block| self.read(*block)).collect();
            let found = join_all(reads).await;
            for (block, found) in batch.iter().zip(found) {
                let chunk = self.geometry.first_chunk(*block);
                match found {
                    Ok(Found::Blank) => {}
                    Ok(Found::Damaged) | Err(_) => look.lost.push(*block),
                    Ok(Found::Intact(_, _, Other::Same)) => look.verified += 2,
                    Ok(Found::Intact(content, place, other)) => {
                        look.verified += 1;
                        if other == Other::Bad {
                            look.mended.push((chunk, 1 - place as u8));
                        }
                        let bytes = Buffer::copy_of(&content.encode(&self.geometry, &self.disk_uuid)).share();
                        self.unsettled.insert(*block, Some(OtherPlace { place: 1 - place, bytes }));
                    }
                }
            }
        }
        self.sync_before(Some(&first)).await?;
        Ok(look)
    }

    /// Blocks of these that are still damaged in both places say from now on that nobody ever had their chunks; durable
    /// when this returns. How many.
    ///
    /// # Errors
    /// The disk's.
    pub async fn renew(&mut self, blocks: &[u32]) -> Result<u64, OwnerError> {
        let mut renewed = 0;
        for block in blocks {
            if !matches!(self.read(*block).await, Ok(Found::Damaged) | Err(_)) {
                continue;
            }
            let empty = OwnerBlock::empty(&self.geometry, *block).encode(&self.geometry, &self.disk_uuid);
            let bytes = Buffer::copy_of(&empty).share();
            self.unsettled.insert(*block, None);
            let write = self.io.write(self.disk, self.place(*block, 0), bytes.clone(), false).await;
            write.map_err(|error| OwnerError { chunk: self.geometry.first_chunk(*block), error })?;
            self.unsettled.insert(*block, Some(OtherPlace { place: 1, bytes }));
            renewed += 1;
        }
        self.sync_before(blocks.first()).await?;
        Ok(renewed)
    }

    /// What the table says of chunks, in the order given: since when and whose each is; `None`: it never had an owner,
    /// or what was said is damaged.
    ///
    /// # Errors
    /// The disk's, if neither place of a block can be read.
    pub async fn entries(&self, chunks: &[u32]) -> Result<Vec<Option<(Lsn, Option<OwnerEntry>)>>, OwnerError> {
        let numbers: BTreeSet<u32> = chunks.iter().map(|chunk| self.geometry.block_of(*chunk).0).collect();
        let numbers: Vec<u32> = numbers.into_iter().collect();
        let mut blocks = BTreeMap::new();
        for batch in numbers.chunks(BLOCKS_IN_FLIGHT_MAX) {
            let reads = batch.iter().map(|block| self.read(*block)).collect();
            for (block, found) in batch.iter().zip(join_all(reads).await) {
                if let Found::Intact(content, ..) = found? {
                    blocks.insert(*block, content);
                }
            }
        }
        let entry = |chunk: &u32| {
            let (block, slot) = self.geometry.block_of(*chunk);
            blocks.get(&block).and_then(|content: &OwnerBlock| content.entries[slot].clone())
        };
        Ok(chunks.iter().map(entry).collect())
    }

    /// Reads, changes and writes the older place of one block.
    async fn change(&self, block: u32, updates: Vec<Update>) -> Result<Changed, OwnerError> {
        let chunk = self.geometry.first_chunk(block);
        let (mut content, newest, other, damaged) = match self.read(block).await? {
            Found::Intact(content, place, other) => (content, place, other, None),
            Found::Blank => (OwnerBlock::empty(&self.geometry, block), 1, Other::Same, None),
            Found::Damaged => (OwnerBlock::empty(&self.geometry, block), 1, Other::Same, Some(chunk)),
        };
        let half = (other == Other::Bad).then_some((chunk, 1 - newest as u8));
        let encoded = |content: &OwnerBlock| Buffer::copy_of(&content.encode(&self.geometry, &self.disk_uuid)).share();
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
            // An update that was cut off may have reached one place alone.
            let copy = (other != Other::Same).then(|| OtherPlace { place: 1 - newest, bytes: encoded(&content) });
            return Ok(Changed { written: false, damaged, half, copy });
        }
        content.sequence += 1;
        let bytes = encoded(&content);
        let write = self.io.write(self.disk, self.place(block, 1 - newest), bytes.clone(), false).await;
        write.map_err(|error| OwnerError { chunk, error })?;
        Ok(Changed { written: true, damaged, half, copy: Some(OtherPlace { place: newest, bytes }) })
    }

    async fn read(&self, block: u32) -> Result<Found, OwnerError> {
        let size = OWNER_BLOCK_BYTES as usize;
        if let Ok(bytes) = self.io.read(self.disk, self.place(block, 0), Buffer::uninit(2 * size)).await {
            return Ok(self.choose(block, bytes.as_ref().chunks(size).map(Some)));
        }
        let mut read = Vec::new();
        let mut failed = None;
        for place in 0..2 {
            match self.io.read(self.disk, self.place(block, place), Buffer::uninit(size)).await {
                Ok(bytes) => read.push(Some(bytes.as_ref().to_vec())),
                Err(error) => {
                    failed = Some(error);
                    read.push(None);
                }
            }
        }
        match (self.choose(block, read.iter().map(Option::as_deref)), failed) {
            (intact @ Found::Intact(..), _) => Ok(intact),
            (_, Some(error)) => Err(OwnerError { chunk: self.geometry.first_chunk(block), error }),
            (other, None) => Ok(other),
        }
    }

    /// Of both places, `None`: it can't be read.
    fn choose<'a>(&self, block: u32, places: impl Iterator<Item = Option<&'a [u8]>>) -> Found {
        let mut found = Found::Blank;
        for (place, bytes) in (0..).zip(places) {
            let decoded = bytes.map(|bytes| OwnerBlock::decode(bytes, &self.geometry, &self.disk_uuid, block));
            // One of an earlier pool on this disk looks so, too: its CRC is seeded with another uuid and so is as wrong
            // as a damaged one's.
            let was_written = |error: &DecodeError| match bytes {
                Some(bytes) if error.is_foreign() => BLOCK.is_but_for_magic(bytes, &self.disk_uuid),
                _ => true,
            };
            let Some(decoded) = decoded else {
                found = match found {
                    Found::Intact(old, at, _) => Found::Intact(old, at, Other::Bad),
                    Found::Blank | Found::Damaged => Found::Damaged,
                };
                continue;
            };
            found = match (decoded, found) {
                (Ok(new), Found::Intact(old, at, _)) if old.sequence > new.sequence => {
                    Found::Intact(old, at, Other::Older)
                }
                (Ok(new), Found::Intact(old, ..)) => {
                    let other = if old.sequence == new.sequence { Other::Same } else { Other::Older };
                    Found::Intact(new, place, other)
                }
                (Ok(new), Found::Damaged) => Found::Intact(new, place, Other::Bad),
                (Ok(new), Found::Blank) => Found::Intact(new, place, Other::Blank),
                (Err(error), Found::Intact(old, at, _)) if was_written(&error) => Found::Intact(old, at, Other::Bad),
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

#[cfg(test)]
#[path = "owner_tests.rs"]
mod tests;
