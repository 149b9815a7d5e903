//! Snapshots of volumes, and clones of snapshots.
//!
//! A snapshot is a volume whose layer takes no writes; the volume that it was made of goes on in a layer over it. For
//! several volumes at once all cores hold new changes, the catalog gets the new layers by one group, and all go on:
//! else a snapshot could have a write and lack one that was answered before it. Nothing is waited for meanwhile: a
//! change that is under way goes on to the layer for which it began.
//!
//! So a layer is whole only when these have ended. Until then it has a name and no volume; that comes when the disks
//! are synced and the new layers are journaled. A start that finds such a layer deletes it: its snapshot was not
//! answered.

use std::time::Duration;

use sds_io::{Clock, Io};

use crate::catalog::{Catalog, LayerEntry, VolumeEntry};
use crate::delta::Delta;
use crate::error::{PoolError, PoolErrorKind};
use crate::ledger::Ledger;
use crate::place::LayerId;
use crate::planted::Defect;
use crate::pool::{CATALOG_ENTRY_BYTES, Pool, no_volume};
use crate::shared::Message;

/// Volumes of one group at the most: their layers are one group of the journal.
pub const SNAPSHOT_VOLUMES_MAX: usize = 1_000;

/// How long a failed snapshot stays before it is tried again to delete it.
const RETRY_MS: u64 = 1_000;

/// A snapshot that is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotSpec {
    /// The volume.
    pub volume: [u8; 16],
    /// What the snapshot is called for ever.
    pub snapshot: [u8; 16],
}

impl<E: Io + Clock> Pool<E> {
    /// Takes snapshots of volumes, all as of one moment, on core 0; durable when this returns. How long writes were
    /// held.
    ///
    /// # Errors
    /// There is no such volume, or one is a snapshot itself; a snapshot's uuid is taken; the catalog is full; or a disk
    /// failed.
    pub async fn snapshot(&self, specs: &[SnapshotSpec]) -> Result<Duration, PoolError> {
        if specs.is_empty() || specs.len() > SNAPSHOT_VOLUMES_MAX {
            let what = "snapshots: 1 to 1,000 volumes at once are accepted";
            return Err(PoolError::new(PoolErrorKind::InvalidField, what).with_value(specs.len() as u64));
        }
        let core = self.core();
        assert_eq!(core.env.core, 0, "cores are held from core 0");
        let _turn = core.snapshots.lock(0..1).await;
        let (frozen, held) = self.switch(specs).await?;
        let published = self.publish_snapshots(specs, &frozen).await;
        if published.is_err() {
            core.env.spawner.spawn(self.clone().abandon(frozen));
        }
        published.map(|()| held)
    }

    /// Opens the new layers; the entries of the snapshots that are to be, and how long writes were held.
    async fn switch(&self, specs: &[SnapshotSpec]) -> Result<(Vec<VolumeEntry>, Duration), PoolError> {
        let core = self.core();
        let shared = &core.shared;
        let holds = !shared.planted.has(Defect::SnapshotUnheld);
        loop {
            let permit = shared.admit().await?;
            let began = core.env.io.now();
            if holds {
                self.tell_all(Message::Hold).await;
            }
            let pushed = self.catalog_has_room(2 * specs.len() * CATALOG_ENTRY_BYTES).and_then(|()| {
                let mut ledger = shared.ledger();
                let (deltas, frozen) = freeze(&ledger.catalog, specs)?;
                Ok(ledger.push(&deltas).map(|_| frozen))
            });
            self.tell_all(Message::Release).await;
            let held = core.env.io.now().saturating_sub(began);
            drop(permit);
            match pushed? {
                Ok(frozen) => return Ok((frozen, held)),
                Err(_) => shared.commit().await?,
            }
        }
    }

    /// The snapshots are volumes once all that belongs to them is durable.
    async fn publish_snapshots(&self, specs: &[SnapshotSpec], frozen: &[VolumeEntry]) -> Result<(), PoolError> {
        let layers: Vec<LayerId> = frozen.iter().map(|snapshot| snapshot.layer).collect();
        if !self.core().shared.planted.has(Defect::SnapshotEarly) {
            self.tell_all(|answer| Message::Settle(layers.clone(), answer)).await;
        }
        self.core().shared.commit().await?;
        self.change_catalog(0, |ledger| {
            free_names(&ledger.catalog, specs.iter().map(|spec| spec.snapshot))?;
            Ok(frozen.iter().cloned().map(Delta::Volume).collect())
        })
        .await
    }

    /// Layers whose snapshots failed are deleted, as soon as that can be noted.
    async fn abandon(self, frozen: Vec<VolumeEntry>) {
        let core = self.core();
        for snapshot in frozen {
            while !core.shared.is_stopping() {
                let mut deleting = None;
                let noted = self.change_catalog(0, |ledger| {
                    let taken = ledger.catalog.volumes.values().any(|volume| volume.layer == snapshot.layer);
                    let layer = ledger.catalog.layers.get(&snapshot.layer).filter(|_| !taken);
                    let layer = layer.map(|layer| LayerEntry { named: false, deleting: true, ..layer.clone() });
                    deleting.clone_from(&layer);
                    Ok(layer.into_iter().map(Delta::Layer).collect())
                });
                match noted.await {
                    Ok(()) => {
                        deleting.into_iter().for_each(|layer| self.begin_deletion(layer));
                        break;
                    }
                    Err(error) => {
                        log::debug!("pool {}: a snapshot that failed can't be deleted yet: {error}", core.shared.name);
                        core.env.io.sleep(Duration::from_millis(RETRY_MS)).await;
                    }
                }
            }
        }
    }

    /// Makes a volume that begins as a snapshot is; durable when this returns.
    ///
    /// # Errors
    /// There is no such snapshot, or it is a volume that is written; the clone's uuid is taken; the catalog is full; or
    /// a disk failed.
    pub async fn clone_snapshot(&self, snapshot: [u8; 16], clone: [u8; 16]) -> Result<(), PoolError> {
        self.change_catalog(2 * CATALOG_ENTRY_BYTES, |ledger| clone_deltas(ledger, snapshot, clone)).await
    }
}

/// Refuses uuids that are taken, or named twice.
fn free_names(catalog: &Catalog, uuids: impl Iterator<Item = [u8; 16]>) -> Result<(), PoolError> {
    let mut new: Vec<[u8; 16]> = uuids.collect();
    new.sort_unstable();
    if new.windows(2).any(|two| two[0] == two[1]) || new.iter().any(|uuid| catalog.volumes.contains_key(uuid)) {
        return Err(PoolError::new(PoolErrorKind::Exists, "there is a volume or snapshot of this uuid"));
    }
    Ok(())
}

/// Each volume's layer is frozen, and it goes on in a child of that; the entries of the snapshots that are to be.
fn freeze(catalog: &Catalog, specs: &[SnapshotSpec]) -> Result<(Vec<Delta>, Vec<VolumeEntry>), PoolError> {
    free_names(catalog, specs.iter().map(|spec| spec.snapshot))?;
    let (mut deltas, mut frozen) = (Vec::new(), Vec::<VolumeEntry>::new());
    for (id, spec) in (catalog.next_layer..).map(LayerId).zip(specs) {
        let volume = catalog.volumes.get(&spec.volume).ok_or_else(no_volume)?;
        let layer = catalog.layers.get(&volume.layer).expect("a volume has a layer");
        if layer.frozen || frozen.iter().any(|other| other.layer == layer.id) {
            let what = "a snapshot is made of a volume that takes writes, each once";
            return Err(PoolError::new(PoolErrorKind::InvalidField, what));
        }
        let child = LayerEntry { id, parent: layer.id, inherit_limit_bytes: volume.size_bytes, ..layer.clone() };
        deltas.push(Delta::Layer(LayerEntry { frozen: true, ..layer.clone() }));
        deltas.push(Delta::Layer(child));
        deltas.push(Delta::Volume(VolumeEntry { layer: id, ..volume.clone() }));
        frozen.push(VolumeEntry { uuid: spec.snapshot, ..volume.clone() });
    }
    Ok((deltas, frozen))
}

fn clone_deltas(ledger: &Ledger, snapshot: [u8; 16], clone: [u8; 16]) -> Result<Vec<Delta>, PoolError> {
    let catalog = &ledger.catalog;
    let source = catalog.volumes.get(&snapshot).ok_or_else(no_volume)?;
    let parent = catalog.layers.get(&source.layer).expect("a volume has a layer");
    if !parent.frozen {
        return Err(PoolError::new(PoolErrorKind::InvalidField, "a clone is made of a snapshot"));
    }
    free_names(catalog, std::iter::once(clone))?;
    let id = LayerId(catalog.next_layer);
    let layer = LayerEntry { id, parent: parent.id, frozen: false, ..parent.clone() };
    Ok(vec![Delta::Layer(layer), Delta::Volume(VolumeEntry { uuid: clone, layer: id, ..source.clone() })])
}

/// Layers that were to be snapshots and are not: nobody will ask for them. They are deleted from now on.
pub(crate) fn forsake_orphans(catalog: &mut Catalog) {
    let of_volumes: Vec<LayerId> = catalog.volumes.values().map(|volume| volume.layer).collect();
    for layer in catalog.layers.values_mut().filter(|layer| layer.named && !of_volumes.contains(&layer.id)) {
        (layer.named, layer.deleting) = (false, true);
    }
}
