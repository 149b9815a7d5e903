//! The small part of the metadata: layers, volumes, disks, documents. All of it is in memory, in the MetaStore, and in
//! a slot on every disk.

use std::collections::BTreeMap;

use crate::delta::Delta;
use crate::place::{DiskNo, LayerId, Lsn, TreeId};

/// A layer of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerEntry {
    /// Its id.
    pub id: LayerId,
    /// Its tree.
    pub tree: TreeId,
    /// What it was opened on; 0 for a root.
    pub parent: LayerId,
    /// It is somebody's: a live volume or a snapshot. An unnamed one stays while children need it.
    pub named: bool,
    /// It takes no writes: a snapshot, or an inner layer.
    pub frozen: bool,
    /// Pages above this many bytes are not inherited from the parent: the smallest size since its birth.
    pub inherit_limit_bytes: u64,
    /// It is being deleted; a start goes on with it.
    pub deleting: bool,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeEntry {
    /// Its name for ever.
    pub uuid: [u8; 16],
    /// The layer that its writes go to.
    pub layer: LayerId,
    /// Its size.
    pub size_bytes: u64,
    /// 512 or 4096.
    pub logical_block_bytes: u32,
}

/// A disk of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskEntry {
    /// Its number in the pool.
    pub no: DiskNo,
    /// Its label's uuid.
    pub uuid: [u8; 16],
    /// Its tier's name.
    pub tier: String,
    /// The tier's rank: 0 is the fastest.
    pub rank: u8,
    /// How many chunks its data area has.
    pub chunks: u32,
}

/// The pool's catalog as of a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// Everything up to here is in it.
    pub lsn: Lsn,
    /// Layers by id.
    pub layers: BTreeMap<LayerId, LayerEntry>,
    /// Folded layers: what was born in the first belongs to the second.
    pub folds: BTreeMap<LayerId, LayerId>,
    /// Volumes by uuid.
    pub volumes: BTreeMap<[u8; 16], VolumeEntry>,
    /// Disks by number.
    pub disks: BTreeMap<DiskNo, DiskEntry>,
    /// The control plane's documents.
    pub documents: BTreeMap<String, Vec<u8>>,
    /// Chunks that each tree has: what its volumes and snapshots take together.
    pub chunks: BTreeMap<TreeId, u64>,
    /// The next row of extent ids to grant.
    pub next_row: u64,
    /// The next layer id, and the next tree id.
    pub next_layer: u32,
}

impl Catalog {
    /// The volume whose live layer is of `tree`.
    #[must_use]
    pub fn volume_of(&self, tree: TreeId) -> Option<[u8; 16]> {
        let of_tree = |volume: &&VolumeEntry| self.layers.get(&volume.layer).is_some_and(|layer| layer.tree == tree);
        self.volumes.values().find(of_tree).map(|volume| volume.uuid)
    }

    /// The largest logical block of its volumes, in bytes; 0 without one.
    #[must_use]
    pub fn largest_block(&self) -> u32 {
        self.volumes.values().map(|volume| volume.logical_block_bytes).max().unwrap_or(0)
    }

    /// Applies what concerns the catalog; deltas of the map pass by. Space is counted, so a delta must not come twice:
    /// replay skips what is not after [`Catalog::lsn`], which the caller sets when a whole group is applied.
    pub fn apply(&mut self, delta: &Delta) {
        match delta {
            Delta::Layer(layer) => {
                self.next_layer = self.next_layer.max(layer.id.0 + 1).max(layer.tree.0 + 1);
                self.layers.insert(layer.id, layer.clone());
            }
            Delta::LayerGone(id) => {
                self.layers.remove(id);
                let gone: Vec<LayerId> = self.folds.keys().copied().filter(|from| self.resolve(*from) == *id).collect();
                self.folds.retain(|from, _| !gone.contains(from));
            }
            Delta::Fold { from, into } => {
                let parent = self.layers.remove(from).map_or(LayerId(0), |layer| layer.parent);
                if let Some(heir) = self.layers.get_mut(into) {
                    heir.parent = parent;
                }
                // A chain of folds stays one step long.
                self.folds.values_mut().filter(|to| *to == from).for_each(|to| *to = *into);
                self.folds.insert(*from, *into);
            }
            Delta::Volume(volume) => {
                self.volumes.insert(volume.uuid, volume.clone());
            }
            Delta::VolumeGone { uuid } => {
                self.volumes.remove(uuid);
            }
            Delta::Disk(disk) => {
                self.disks.insert(disk.no, disk.clone());
            }
            Delta::Document { key, value: Some(value) } => {
                self.documents.insert(key.clone(), value.clone());
            }
            Delta::Document { key, value: None } => {
                self.documents.remove(key);
            }
            Delta::Row { row, .. } => self.next_row = self.next_row.max(row + 1),
            Delta::Chunks { place, addrs, .. } => {
                *self.chunks.entry(place.tree).or_default() += addrs.len() as u64;
            }
            Delta::Free { tree, runs } => {
                let freed: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
                let left = self.chunks.get(tree).copied().unwrap_or(0).saturating_sub(freed);
                self.chunks.insert(*tree, left);
            }
            Delta::Flip { place, home, .. } => {
                *self.chunks.entry(place.tree).or_default() += home.chunks().count() as u64;
            }
            Delta::Extent { .. }
            | Delta::States { .. }
            | Delta::Unchunk { .. }
            | Delta::Entry { .. }
            | Delta::Gone { .. }
            | Delta::PageGone { .. } => {}
        }
    }
}
