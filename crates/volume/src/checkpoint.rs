//! Checkpoints: what the journal has goes to the MetaStore and the owner tables, and the journal forgets it.
//!
//! One task on core 0 asks every core for images of its dirty pages, batch by batch. An image may hold changes that are
//! in no journal yet, so it is stored only after a commit that covers it; nothing reaches the MetaStore or an owner
//! table before the journal has it. When everything that was pushed before the checkpoint began is stored, the journal
//! is trimmed to that point.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sds_block::BlockError;
use sds_io::sync::{Receiver, join_all, oneshot};
use sds_io::{Clock, Io, MetaBatch};

use crate::careful::CarefulIo;
use crate::core::PoolCore;
use crate::damage::Structure;
use crate::error::{PoolError, PoolErrorKind};
use crate::image::{OwnerUpdate, PageImage};
use crate::label_io::{BadSlots, SlotError, catalog_sequences, write_catalog};
use crate::layout::catalog::encode_catalog;
use crate::layout::owner::OwnerGeometry;
use crate::layout::rows;
use crate::owner::{OwnerTable, TableLook};
use crate::place::{ChunkAddr, DiskNo, Lsn, PageKey, is_check_chunk};
use crate::planted::Defect;
use crate::shared::{CheckpointRequest, CommitRequest, Message, PoolDisk, PoolShared, Verify, lock};

/// The task on core 0 that makes checkpoints.
pub(crate) struct Checkpointer<E: Io + Clock> {
    core: Rc<PoolCore<E>>,
    owners: Vec<OwnerTable<CarefulIo<E>>>,
    requests: Receiver<CheckpointRequest>,
    /// Catalog slots of which it was told that they are damaged, until they are written; true: since the pool was
    /// opened.
    bad_slots: BTreeMap<(DiskNo, u8), bool>,
    /// The first chunks of owner blocks that a scrub found damaged in both places: it tells of those that pages need.
    lost_owners: BTreeSet<(DiskNo, u32)>,
}

impl<E: Io + Clock> Checkpointer<E> {
    /// The opening has told of `bad_slots`.
    pub(crate) fn new(
        core: Rc<PoolCore<E>>,
        requests: Receiver<CheckpointRequest>,
        bad_slots: Vec<(DiskNo, u8)>,
    ) -> Self {
        let bad_slots = bad_slots.into_iter().map(|slot| (slot, false)).collect();
        Self { core, owners: Vec::new(), requests, bad_slots, lost_owners: BTreeSet::new() }
    }

    /// Makes one checkpoint for all that ask before it begins.
    pub(crate) async fn run(mut self) {
        while let Some(request) = self.requests.next().await {
            let (mut waiting, mut looks, mut wanted, mut stop) = (Vec::new(), Vec::new(), false, None);
            let mut next = Some(request);
            while let Some(request) = next {
                match request {
                    CheckpointRequest::Soon => wanted = true,
                    CheckpointRequest::Now(done) => waiting.push(done),
                    CheckpointRequest::Verify(what, done) => looks.push((what, done)),
                    CheckpointRequest::Stop(done) => stop = Some(done),
                }
                next = if stop.is_some() { None } else { self.requests.try_next() };
            }
            // Before a checkpoint writes over what is damaged.
            for (what, done) in looks {
                done.send(self.verify(what).await);
            }
            if waiting.is_empty() {
                if let Some(done) = stop.take() {
                    done.send(());
                    return;
                }
                if !wanted {
                    continue;
                }
            }
            self.core.shared.checkpoint_wanted.store(false, Ordering::Release);
            let outcome = self.checkpoint().await;
            self.core.shared.checkpoint_failed.store(outcome.is_err(), Ordering::Release);
            if let Err(error) = &outcome {
                log::error!("pool {}: checkpoint failed: {error}", self.core.shared.name);
                self.core.shared.ledger().notify();
            }
            for done in waiting {
                done.send(outcome.as_ref().copied().map_err(PoolError::again));
            }
            if let Some(done) = stop {
                done.send(());
                return;
            }
        }
    }

    /// What a scrub asks of copies that nobody else writes.
    async fn verify(&mut self, what: Verify) -> Result<TableLook, PoolError> {
        let shared = Arc::clone(&self.core.shared);
        if shared.is_stopping() {
            return Err(PoolError::new(PoolErrorKind::Closed, "the pool is being closed"));
        }
        let failed = || PoolError::new(PoolErrorKind::Io, "an owner table can't be written");
        match what {
            Verify::Slots => {
                for disk in shared.disks().iter().filter(|disk| !disk.lost.load(Ordering::Acquire)) {
                    self.verify_slots(disk).await;
                }
                Ok(TableLook::default())
            }
            Verify::Owners(disk, first) => {
                let look = self.table(disk).mend_from(first).await.map_err(|error| failed().with_source(error))?;
                let disk = &shared.disks()[usize::from(disk.0)];
                shared.count_verified(disk.no, look.verified);
                for (chunk, place) in &look.mended {
                    shared.tell_damage(disk, Structure::OwnerBlock(*chunk, *place), "the other place holds");
                }
                shared.tell_mended(disk.no, look.mended.len() as u64);
                let geometry = OwnerGeometry::new(shared.extent_bytes);
                self.lost_owners.extend(look.lost.iter().map(|block| (disk.no, geometry.first_chunk(*block))));
                Ok(look)
            }
            Verify::Renew(disk, blocks) => {
                self.table(disk).renew(&blocks).await.map_err(|error| failed().with_source(error))?;
                Ok(TableLook::default())
            }
        }
    }

    /// Tells of slots that can't be used. Before the first catalog is written there is none.
    async fn verify_slots(&mut self, disk: &Arc<PoolDisk>) {
        let shared = Arc::clone(&self.core.shared);
        let slots = catalog_sequences(&self.core.env.io, disk.disk, &disk.layout).await;
        let newest = slots.iter().flatten().max().copied();
        let mut bad = 0;
        for (slot, read) in (0..).zip(&slots) {
            match read {
                Ok(_) => {}
                Err(SlotError::Decode(error)) if error.is_blank() && newest.is_none() => {}
                Err(error) => {
                    bad += 1;
                    self.bad_slots.entry((disk.no, slot)).or_insert_with(|| {
                        shared.tell_damage(disk, Structure::CatalogSlot(slot), error);
                        true
                    });
                }
            }
        }
        shared.count_verified(disk.no, 2 - bad);
    }

    fn table(&mut self, disk: DiskNo) -> &mut OwnerTable<CarefulIo<E>> {
        let disks = self.core.shared.disks();
        while self.owners.len() < disks.len() {
            self.owners.push(owner_table(&self.core, &disks[self.owners.len()]));
        }
        &mut self.owners[usize::from(disk.0)]
    }

    async fn checkpoint(&mut self) -> Result<(), PoolError> {
        let shared = Arc::clone(&self.core.shared);
        let up_to = shared.ledger().last;
        for core in 0..shared.cores {
            loop {
                let images = self.collect(core, up_to).await?;
                if images.is_empty() {
                    break;
                }
                let keys: Vec<PageKey> = images.iter().map(|image| image.key).collect();
                let outcome = self.save(images).await;
                shared.inboxes[core].send(Message::Saved(keys, outcome.is_ok()));
                outcome?;
            }
        }
        self.save_catalog(up_to).await?;
        let (sender, receiver) = oneshot();
        let trim_to = if shared.planted.has(Defect::TrimEarly) { shared.ledger().durable } else { up_to };
        shared.commits.send(CommitRequest::Trim(trim_to, sender));
        receiver.await.unwrap_or(Ok(()))
    }

    async fn collect(&self, core: usize, up_to: Lsn) -> Result<Vec<PageImage>, PoolError> {
        let (sender, receiver) = oneshot();
        let pages_max = self.core.shared.tuning.checkpoint_batch_pages_max;
        self.core.shared.inboxes[core].send(Message::Collect(up_to, pages_max, sender));
        let images = receiver.await.unwrap_or_else(|| Ok(Vec::new()));
        images.map_err(|error| PoolError::new(PoolErrorKind::Meta, "pages can't be loaded").with_source(error))
    }

    /// Stores images once they are durable in the journal.
    async fn save(&mut self, images: Vec<PageImage>) -> Result<(), PoolError> {
        let newest = images.iter().map(|image| image.lsn).max().unwrap_or_default();
        self.wait_durable(newest).await?;
        let planted = self.core.shared.planted;
        let mut batch = MetaBatch::new();
        let mut owners: Vec<OwnerUpdate> = Vec::new();
        for image in images {
            batch.extend(image.batch);
            let keeps = |update: &OwnerUpdate| update.1.is_some() || !planted.has(Defect::OwnersNotCleared);
            owners.extend(image.owners.into_iter().filter(keeps));
        }
        if planted.has(Defect::OwnersAfterMeta) {
            self.put(batch).await?;
            return self.save_owners(owners).await;
        }
        self.save_owners(owners).await?;
        self.put(batch).await
    }

    async fn wait_durable(&self, lsn: Lsn) -> Result<(), PoolError> {
        if self.core.shared.ledger().durable < lsn {
            self.core.shared.commit().await?;
        }
        assert!(self.core.shared.ledger().durable >= lsn, "a commit covers all that was pushed before it");
        Ok(())
    }

    async fn put(&self, batch: MetaBatch) -> Result<(), PoolError> {
        let failed = |error| PoolError::new(PoolErrorKind::Meta, "the MetaStore can't be written").with_source(error);
        self.core.shared.meta.put(batch).await.map_err(failed)
    }

    async fn save_owners(&mut self, updates: Vec<OwnerUpdate>) -> Result<(), PoolError> {
        let shared = Arc::clone(&self.core.shared);
        for disk in shared.disks().iter() {
            let of_disk: Vec<_> = updates.iter().filter(|(addr, _, _)| addr.disk == disk.no).cloned().collect();
            if of_disk.is_empty() {
                continue;
            }
            let changed: BTreeSet<u32> = of_disk.iter().map(|(addr, ..)| addr.chunk).collect();
            let updates = of_disk.into_iter().map(|(addr, entry, lsn)| (addr.chunk, entry, lsn)).collect();
            let table = self.table(disk.no);
            let failed = || PoolError::new(PoolErrorKind::Io, "an owner table can't be written");
            let report = table.update(updates).await.map_err(|error| failed().with_source(error))?;
            // Durable before the MetaStore has the page: replay passes over what the page has, and would not write
            // these entries again.
            table.sync().await.map_err(|error| failed().with_source(error))?;
            for chunk in report.damaged {
                if self.lost_owners.remove(&(disk.no, chunk)) || !says_more(&shared, disk, chunk, &changed) {
                    continue;
                }
                // What it said is in the MetaStore; the changed entries are whole again, and a scrub writes the others.
                for place in 0..2 {
                    shared.tell_damage(disk, Structure::OwnerBlock(chunk, place), "so is the other place");
                }
            }
            for (chunk, place) in &report.half {
                shared.tell_damage(disk, Structure::OwnerBlock(*chunk, *place), "the other place holds");
            }
            shared.tell_mended(disk.no, report.half.len() as u64);
        }
        Ok(())
    }

    /// Stores free space and the catalog as of now, and that everything up to `up_to` is stored.
    async fn save_catalog(&mut self, up_to: Lsn) -> Result<(), PoolError> {
        let shared = Arc::clone(&self.core.shared);
        let (segments, catalog, lsn) = {
            let mut ledger = shared.ledger();
            (ledger.space.take_dirty_segments(), encode_catalog(&ledger.catalog), ledger.last)
        };
        let outcome = self.save_catalog_rows(up_to, &segments, catalog, lsn).await;
        let mut ledger = shared.ledger();
        match &outcome {
            Ok(()) => ledger.catalog_saved = lsn,
            Err(_) => {
                for segment in &segments {
                    ledger.space.mark_dirty(segment.disk, segment.segment);
                }
            }
        }
        outcome
    }

    async fn save_catalog_rows(
        &mut self,
        up_to: Lsn,
        segments: &[crate::space::SegmentImage],
        catalog: Vec<u8>,
        lsn: Lsn,
    ) -> Result<(), PoolError> {
        self.wait_durable(lsn).await?;
        let mut batch: MetaBatch = segments
            .iter()
            .map(|image| {
                let key = rows::segment_key(image.disk, image.segment);
                (key, Some(rows::encode_segment(image.lsn, &image.bits)))
            })
            .collect();
        batch.push((rows::CATALOG_KEY.to_vec(), Some(catalog.clone())));
        batch.push((rows::CHECKPOINT_KEY.to_vec(), Some(rows::encode_checkpoint(up_to))));
        let disks = self.core.shared.disks();
        let left: Vec<_> = disks.iter().filter(|disk| !disk.lost.load(Ordering::Acquire)).collect();
        let writes = left.iter().map(|disk| save_on_disk(&self.core, disk, &catalog, lsn)).collect();
        let before = join_all(writes).await.into_iter().collect::<Result<Vec<BadSlots>, PoolError>>()?;
        for (disk, bad) in left.into_iter().zip(before) {
            self.tell_slots(disk, bad);
        }
        self.put(batch).await
    }

    /// These slots were damaged before they were written now.
    fn tell_slots(&mut self, disk: &PoolDisk, bad: BadSlots) {
        for (slot, error) in (0..).zip(bad).filter_map(|(slot, error)| Some((slot, error?))) {
            let told = self.bad_slots.remove(&(disk.no, slot));
            if told.is_none() {
                self.core.shared.tell_damage(disk, Structure::CatalogSlot(slot), error);
            }
            if told != Some(false) {
                self.core.shared.tell_mended(disk.no, 1);
            }
        }
    }
}

/// The catalog into a disk's slot; the sync covers the owner table's writes too.
async fn save_on_disk<E: Io + Clock>(
    core: &PoolCore<E>,
    disk: &Arc<PoolDisk>,
    catalog: &[u8],
    lsn: Lsn,
) -> Result<BadSlots, PoolError> {
    let failed = |error| PoolError::new(PoolErrorKind::Io, "the catalog can't be written to a disk").with_source(error);
    let sequence = if core.shared.planted.has(Defect::StaleCatalog) { 0 } else { lsn.0 };
    let io = disk.careful(&core.env.io, core.shared.planted);
    write_catalog(&io, disk.disk, &disk.layout, catalog, sequence).await.map_err(failed)
}

/// True if the owner block of `first` should say something of chunks that are not `changed`. Where it should not, what
/// is there may be an earlier pool's.
fn says_more(shared: &PoolShared, disk: &PoolDisk, first: u32, changed: &BTreeSet<u32>) -> bool {
    let count = OwnerGeometry::new(disk.layout.extent_bytes).entries_per_block as u32;
    let chunks = first..first.saturating_add(count).min(disk.layout.chunks);
    let ledger = shared.ledger();
    let is_allocated = |chunk| ledger.space.is_allocated(ChunkAddr { disk: disk.no, chunk });
    chunks.filter(|chunk| !is_check_chunk(*chunk) && !changed.contains(chunk)).any(is_allocated)
}

pub(crate) fn owner_table<E: Io + Clock>(core: &PoolCore<E>, disk: &Arc<PoolDisk>) -> OwnerTable<CarefulIo<E>> {
    OwnerTable::new(disk.careful(&core.env.io, core.shared.planted), disk.disk, disk.layout.clone(), disk.uuid)
}

/// The task on core 0 that asks for a checkpoint now and then.
pub(crate) async fn checkpoint_regularly<E: Io + Clock>(core: Rc<PoolCore<E>>) {
    loop {
        core.env.io.sleep(core.shared.tuning.checkpoint_interval()).await;
        if core.shared.is_stopping() {
            return;
        }
        let behind = {
            let ledger = core.shared.ledger();
            ledger.checkpointed < ledger.last
        };
        if behind {
            core.shared.begin_checkpoint();
        }
    }
}

impl<E: Io + Clock> PoolCore<E> {
    /// Images of up to `pages_max` pages that changed up to `up_to`; pages that only replay has touched are loaded
    /// first.
    pub(crate) async fn collect(&self, up_to: Lsn, pages_max: usize) -> Result<Vec<PageImage>, BlockError> {
        loop {
            let replayed: Vec<PageKey> = {
                let replay = lock(&self.shared.replay);
                let ours = replay.keys().filter(|key| self.shared.owner(**key) == self.env.core);
                ours.take(pages_max).copied().collect()
            };
            let none_left = replayed.is_empty();
            let loads = replayed.into_iter().map(|key| self.page(key)).collect();
            join_all(loads).await.into_iter().collect::<Result<Vec<_>, BlockError>>()?;
            let images: Vec<PageImage> = {
                let pages = self.pages.borrow();
                let due = pages.values().filter(|page| {
                    let state = page.state.borrow();
                    state.saving.is_none() && state.dirty_since.is_some_and(|since| since <= up_to)
                });
                due.take(pages_max).map(|page| page.image()).collect()
            };
            // Pages that were stored with all that was replayed are clean: then there may be more.
            if none_left || !images.is_empty() {
                return Ok(images);
            }
        }
    }

    /// Images were stored (or not).
    pub(crate) fn saved(&self, keys: &[PageKey], stored: bool) {
        for key in keys {
            let Some(page) = self.pages.borrow().get(key).map(Rc::clone) else { continue };
            page.saved(stored);
            self.count(&page);
            let gone = stored && page.state.borrow().gone && page.state.borrow().dirty_since.is_none();
            if gone {
                self.let_go(key);
            }
        }
        self.evict_above.set(0);
        self.evict();
    }
}
