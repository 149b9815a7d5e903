//! The scrub's look at what a pool keeps of itself on its disks: labels, journal, catalog slots, owner tables.
//!
//! Considerations: each structure has one writer, and that one looks at it and mends it between two changes of its own,
//! so nothing newer is written over: the committer labels and journal headers, the checkpointer catalog slots and
//! owner tables. Frames of the journal do not change, so the scrub reads them itself; a checkpoint makes a damaged one
//! unneeded. CRCs of sealed blocks are verified with their blocks.
//!
//! What both places of an owner block say, or should, is compared with the map, page by page. A page of which something
//! is missing is written by the next checkpoint as if all of it had changed. Until that one ends, an owner block that
//! is damaged in both places says too little: who loses RocksDB in that moment loses what it had lost before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use sds_block::BlockError;
use sds_io::sync::oneshot;
use sds_io::{Clock, Io};

use crate::careful::CarefulIo;
use crate::check::{PageLook, differing_owners};
use crate::checkpoint::owner_table;
use crate::core::PoolCore;
use crate::damage::Structure;
use crate::error::{PoolError, PoolErrorKind};
use crate::layout::catalog::encode_catalog;
use crate::layout::disk::LABEL_BYTES;
use crate::layout::owner::{OWNER_BLOCK_BYTES, OwnerGeometry};
use crate::owner::{OwnerTable, TableLook};
use crate::place::{ChunkAddr, DiskNo, ExtentId, Lsn, PageKey};
use crate::shared::{CheckpointRequest, CommitRequest, Message, Verify};

/// Pages whose owner entries are to be written anew that are remembered before they are: then a checkpoint comes.
const REWRITES_MAX: usize = 1024;

/// A damaged frame: its disk, and its last group.
type BadFrame = (DiskNo, Lsn);

/// Owner tables as a scrub reads them.
pub(crate) struct OwnersLook<E> {
    tables: Vec<OwnerTable<CarefulIo<E>>>,
    /// Blocks that are damaged in both places.
    lost: BTreeSet<(DiskNo, u32)>,
    /// Those of them that some page needs.
    told: BTreeSet<(DiskNo, u32)>,
    /// Pages that the next checkpoint writes whole, with the damages that it mends.
    rewrites: BTreeMap<PageKey, Vec<DiskNo>>,
}

impl<E: Io + Clock> PoolCore<E> {
    /// Labels, journal and catalog slots. Returns damaged frames.
    pub(crate) async fn scrub_copies(&self) -> Result<Vec<BadFrame>, PoolError> {
        let (sender, receiver) = oneshot();
        self.shared.commits.send(CommitRequest::Verify(sender));
        let chain = receiver.await.unwrap_or_else(closed)?;
        self.pause(self.shared.disks().len() as u64 * 4 * LABEL_BYTES).await;
        let mut bad = Vec::new();
        for member in &chain.members {
            let Some(disk) = self.shared.disk_of(member.disk) else { continue };
            for number in 0..chain.len() {
                let frame = chain.look(&self.env.io, member, number).await;
                let is_trimmed = || self.shared.ledger().checkpointed >= frame.last;
                match frame.why {
                    None => self.shared.count_verified(disk.no, 1),
                    // What lies there may be another frame by now.
                    Some(_) if is_trimmed() || disk.lost.load(Ordering::Acquire) => {}
                    Some(why) => {
                        self.shared.tell_damage(&disk, Structure::JournalFrame(frame.first), why);
                        bad.push((disk.no, frame.last));
                    }
                }
                if !self.pause(frame.bytes).await {
                    return Ok(bad);
                }
            }
        }
        self.ask_checkpointer(Verify::Slots).await?;
        let catalog_bytes = encode_catalog(&self.shared.ledger().catalog).len() as u64;
        self.pause(self.shared.disks().len() as u64 * 2 * catalog_bytes).await;
        Ok(bad)
    }

    /// After a checkpoint nothing needs the frames before it.
    pub(crate) fn settle_frames(&self, bad: &[BadFrame]) {
        let checkpointed = self.shared.ledger().checkpointed;
        bad.iter().filter(|(_, last)| *last <= checkpointed).for_each(|(disk, _)| self.shared.tell_mended(*disk, 1));
    }

    /// Both places of all owner blocks.
    pub(crate) async fn scrub_owner_tables(&self) -> Result<OwnersLook<E>, PoolError> {
        let tables = self.shared.disks().iter().map(|disk| owner_table(self, disk)).collect();
        let mut owners = OwnersLook { tables, lost: BTreeSet::new(), told: BTreeSet::new(), rewrites: BTreeMap::new() };
        for disk in self.shared.disks().iter() {
            let mut next = Some(0);
            while let Some(first) = next {
                let look = self.ask_checkpointer(Verify::Owners(disk.no, first)).await?;
                owners.lost.extend(look.lost.iter().map(|block| (disk.no, *block)));
                next = look.next;
                let blocks = look.verified.div_ceil(2).max(1);
                if !self.pause(blocks * 2 * OWNER_BLOCK_BYTES).await {
                    return Ok(owners);
                }
            }
        }
        Ok(owners)
    }

    /// Compares what the owner tables say with a page of the map.
    pub(crate) async fn scrub_owners_of(&self, owners: &mut OwnersLook<E>, key: PageKey) {
        let Some(PageLook { lsn, owners: Some(expected), .. }) = self.look_at(key).await else { return };
        self.pause(expected.len() as u64 * 64).await;
        // What can't be read was found before.
        let Ok(differing) = differing_owners(&owners.tables, &expected).await else { return };
        // They count only if the page is still as it was when it said what to expect.
        let is_unchanged = |now: PageLook| now.lsn == lsn && now.owners.is_some();
        if differing.is_empty() || !self.look_at(key).await.is_some_and(is_unchanged) {
            return;
        }
        let damages = self.tell_owners(owners, &differing);
        let (sender, receiver) = oneshot();
        self.shared.inboxes[self.shared.owner(key)].send(Message::RewriteOwners(key, sender));
        if matches!(receiver.await, Some(Ok(()))) {
            owners.rewrites.insert(key, damages);
        }
        if owners.rewrites.len() >= REWRITES_MAX {
            self.write_owners(owners).await;
        }
    }

    /// Tells of owner blocks that do not say so of chunks what they should; the disk of each damage.
    fn tell_owners(&self, owners: &mut OwnersLook<E>, differing: &[(ChunkAddr, ExtentId)]) -> Vec<DiskNo> {
        let geometry = OwnerGeometry::new(self.shared.extent_bytes);
        let mut by_block: BTreeMap<(DiskNo, u32), u32> = BTreeMap::new();
        for (addr, _) in differing {
            *by_block.entry((addr.disk, geometry.block_of(addr.chunk).0)).or_default() += 1;
        }
        let mut damages = Vec::new();
        let disks = self.shared.disks();
        for ((no, block), count) in by_block {
            let (disk, chunk) = (&disks[usize::from(no.0)], geometry.first_chunk(block));
            if !owners.lost.contains(&(no, block)) {
                let why = "the map says otherwise";
                self.shared.tell_damage(disk, Structure::OwnerEntries(chunk, count), why);
                damages.push(no);
            } else if owners.told.insert((no, block)) {
                for place in 0..2 {
                    self.shared.tell_damage(disk, Structure::OwnerBlock(chunk, place), "so is the other place");
                    damages.push(no);
                }
            }
        }
        damages
    }

    /// Has a checkpoint write what is to be written anew; what is as it should be after it is mended.
    async fn write_owners(&self, owners: &mut OwnersLook<E>) {
        if let Err(error) = self.checkpoint_now().await {
            return log::error!("pool {}: owner tables can't be written anew: {error}", self.shared.name);
        }
        for (key, damages) in std::mem::take(&mut owners.rewrites) {
            let Some(PageLook { owners: Some(expected), .. }) = self.look_at(key).await else { continue };
            if differing_owners(&owners.tables, &expected).await.is_ok_and(|differing| differing.is_empty()) {
                damages.into_iter().for_each(|disk| self.shared.tell_mended(disk, 1));
            }
        }
    }

    /// Writes what is missing in owner tables; what is damaged then is needed by nobody, and is emptied.
    pub(crate) async fn mend_owners(&self, mut owners: OwnersLook<E>) -> Result<(), PoolError> {
        if !owners.rewrites.is_empty() {
            self.write_owners(&mut owners).await;
        }
        if !self.shared.scrub_may_go_on() {
            return Ok(());
        }
        let mut by_disk: BTreeMap<DiskNo, Vec<u32>> = BTreeMap::new();
        owners.lost.iter().for_each(|(disk, block)| by_disk.entry(*disk).or_default().push(*block));
        for (disk, blocks) in by_disk {
            self.ask_checkpointer(Verify::Renew(disk, blocks)).await?;
        }
        Ok(())
    }

    /// The next checkpoint writes all owner entries of the page, which is this core's.
    pub(crate) async fn rewrite_owners(&self, key: PageKey) -> Result<(), BlockError> {
        let page = self.page(key).await?;
        page.dirty_all();
        self.count(&page);
        Ok(())
    }

    async fn look_at(&self, key: PageKey) -> Option<PageLook> {
        let (sender, receiver) = oneshot();
        self.shared.inboxes[self.shared.owner(key)].send(Message::Look(key, sender));
        receiver.await?.ok()
    }

    async fn ask_checkpointer(&self, what: Verify) -> Result<TableLook, PoolError> {
        let (sender, receiver) = oneshot();
        self.shared.checkpoints.send(CheckpointRequest::Verify(what, sender));
        receiver.await.unwrap_or_else(closed)
    }
}

fn closed<T>() -> Result<T, PoolError> {
    Err(PoolError::new(PoolErrorKind::Closed, "the pool is being closed"))
}
