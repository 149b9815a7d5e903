//! Every change of map, free space and catalog, as the journal and the carry-over ring have it.
//!
//! Deltas are absolute and idempotent: applying one twice, or after a later checkpoint that already has it, changes
//! nothing. Those that took effect together form a group with one [`Lsn`](crate::place::Lsn); a group is never torn: a
//! journal frame holds whole groups.

use crate::catalog::{DiskEntry, LayerEntry, VolumeEntry};
use crate::place::{BlockNo, ChunkAddr, ChunkRun, ExtentId, ExtentIndex, LayerId, PageKey, TreeId};
use crate::record::{BlockState, Home};

/// Where an extent is referenced: the key of everything that speaks of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The tree of layers.
    pub tree: TreeId,
    /// The extent's index in it.
    pub index: ExtentIndex,
}

impl Place {
    /// The page that it is on.
    #[must_use]
    pub const fn page(&self) -> PageKey {
        PageKey { tree: self.tree, page: self.index.page() }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// A new extent without chunks, all blocks absent, that `layer` bore; or one that is there has this base now.
    Extent {
        /// Where.
        place: Place,
        /// The layer that bore it.
        layer: LayerId,
        /// Its id.
        id: ExtentId,
        /// What its absent blocks read from: a hole is nothing, [`crate::record::BELOW`] what lies under it.
        base: ExtentId,
    },
    /// The extent's chunk slots from `first` lie at `addrs` (and are allocated).
    Chunks {
        /// Where.
        place: Place,
        /// The extent.
        id: ExtentId,
        /// The first slot, below 16.
        first: u8,
        /// One address a slot.
        addrs: Vec<ChunkAddr>,
    },
    /// The extent's blocks from `start` are in `state`.
    States {
        /// Where.
        place: Place,
        /// The extent.
        id: ExtentId,
        /// The first block.
        start: BlockNo,
        /// How many.
        count: u32,
        /// What they are.
        state: BlockState,
    },
    /// The extent's chunk slots `first..first + count` have no chunk any more. The chunks are freed by
    /// [`Delta::Free`].
    Unchunk {
        /// Where.
        place: Place,
        /// The extent.
        id: ExtentId,
        /// The first slot, below 16.
        first: u8,
        /// How many slots.
        count: u8,
    },
    /// Engines without snapshots said so of an extent that went; [`Delta::Gone`] says it all.
    Entry {
        /// Where.
        place: Place,
        /// The layer whose page it is.
        layer: LayerId,
        /// What it names.
        entry: ExtentId,
    },
    /// The extent is gone: its record is empty and its id may be given out with the next generation.
    Gone {
        /// Where it was.
        place: Place,
        /// The extent.
        id: ExtentId,
    },
    /// The extent lies elsewhere: the seam for moves, one record changed however many layers share it. Allocates the
    /// new home's chunks; the old ones are freed by [`Delta::Free`] in the same group.
    Flip {
        /// Where.
        place: Place,
        /// The extent.
        id: ExtentId,
        /// Its new home.
        home: Home,
    },
    /// These chunks, which were the tree's, belong to nobody.
    Free {
        /// Whose they were: its space is counted.
        tree: TreeId,
        /// The chunks.
        runs: Vec<ChunkRun>,
    },
    /// A row of 64 extent ids belongs to this page.
    Row {
        /// The page.
        page: PageKey,
        /// The row: ids `row * 64 .. row * 64 + 64`.
        row: u64,
    },
    /// The page and all that it references are gone (a volume is being deleted).
    PageGone {
        /// The page.
        page: PageKey,
    },
    /// A layer is this.
    Layer(LayerEntry),
    /// The layer is gone.
    LayerGone(LayerId),
    /// The layer `from` is gone; what it bore counts for its only child, which has its parent now.
    Fold {
        /// The layer that goes.
        from: LayerId,
        /// Its child.
        into: LayerId,
    },
    /// A volume is this.
    Volume(VolumeEntry),
    /// The volume is gone.
    VolumeGone {
        /// Its name for ever.
        uuid: [u8; 16],
    },
    /// A disk of the pool is this.
    Disk(DiskEntry),
    /// A document of the control plane: names, hosts, exports. `None`: it is gone.
    Document {
        /// Its key.
        key: String,
        /// Its bytes.
        value: Option<Vec<u8>>,
    },
}

impl Delta {
    /// The page that it changes; `None` for free space and the catalog.
    #[must_use]
    pub fn page(&self) -> Option<PageKey> {
        match self {
            Self::Extent { place, .. }
            | Self::Chunks { place, .. }
            | Self::States { place, .. }
            | Self::Unchunk { place, .. }
            | Self::Entry { place, .. }
            | Self::Gone { place, .. }
            | Self::Flip { place, .. } => Some(place.page()),
            Self::Row { page, .. } | Self::PageGone { page } => Some(*page),
            Self::Free { .. }
            | Self::Layer(_)
            | Self::LayerGone(_)
            | Self::Fold { .. }
            | Self::Volume(_)
            | Self::VolumeGone { .. }
            | Self::Disk(_)
            | Self::Document { .. } => None,
        }
    }

    /// The extent that it changes; `None` for all else.
    #[must_use]
    pub fn extent(&self) -> Option<ExtentId> {
        match self {
            Self::Extent { id, .. }
            | Self::Chunks { id, .. }
            | Self::States { id, .. }
            | Self::Unchunk { id, .. }
            | Self::Gone { id, .. }
            | Self::Flip { id, .. } => Some(*id),
            Self::Entry { .. }
            | Self::Free { .. }
            | Self::Row { .. }
            | Self::PageGone { .. }
            | Self::Layer(_)
            | Self::LayerGone(_)
            | Self::Fold { .. }
            | Self::Volume(_)
            | Self::VolumeGone { .. }
            | Self::Disk(_)
            | Self::Document { .. } => None,
        }
    }
}
