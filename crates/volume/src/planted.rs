//! Defects that the simulator plants, to see that it would find them.
//!
//! Each stands where the mistake could be made, behind [`Planted::has`]. Without the feature `planted`, which the
//! simulator alone turns on, that is `false` when the crate is compiled and takes neither memory nor time.

macro_rules! defects {
    ($($(#[$doc:meta])* $name:ident: $label:literal,)*) => {
        /// A defect: the order is that of [`crate`]'s modules.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Defect {
            $($(#[$doc])* $name,)*
        }

        impl Defect {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name on a command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }
        }
    };
}

defects! {
    /// The carry-over ring is not written before the answer, or ever.
    SkipRing: "skip_ring",
    /// A ring of whatever opening is taken.
    ForeignRing: "foreign_ring",
    /// The journal's frames are believed without looking at their CRC.
    IgnoreCrc: "ignore_crc",
    /// A frame that an earlier lap left behind is taken for the next one: its lap is not in its CRC's seed, and neither
    /// its first LSN nor the frame before it is looked at.
    StaleFrame: "stale_frame",
    /// The shortest chain is copied to the other disk, not the longest.
    ShortestJournal: "shortest_journal",
    /// A journal whose label has an older epoch counts as well.
    OlderEpoch: "older_epoch",
    /// Catalog slots all have the same sequence: the newest one is not known.
    StaleCatalog: "stale_catalog",
    /// Partial blocks are written without a range lock.
    PartialUnlocked: "partial_unlocked",
    /// Reads see a write's blocks before its data is written.
    MapBeforeData: "map_before_data",
    /// A write counts as ended when it is submitted: a sync that does not cover it is enough.
    CountsEarly: "counts_early",
    /// A write with FUA over mapped blocks does not ask whether their mapping is durable.
    FuaIgnoresPending: "fua_ignores_pending",
    /// A flush that finds nothing to journal does not sync the disks.
    FlushIgnoresOverwrites: "flush_ignores_overwrites",
    /// A write does not wait until the unsealing of what it replaces is durable.
    UnsealLate: "unseal_late",
    /// A write unseals its neighbours without verifying them.
    UnsealUnverified: "unseal_unverified",
    /// Blocks are sealed without their CRCs.
    SealUnchecked: "seal_unchecked",
    /// An extent is sealed while a write to it is under way.
    SealUnlocked: "seal_unlocked",
    /// A discard of what a snapshot has leaves it to be seen.
    DiscardShowsOld: "discard_shows_old",
    /// Only the newest extent of a chain counts as needed.
    ChainForgotten: "chain_forgotten",
    /// Cores switch to a volume's new layer one after the other, and hold no writes meanwhile.
    SnapshotUnheld: "snapshot_unheld",
    /// A snapshot is there before the writes have ended that began before it.
    SnapshotEarly: "snapshot_early",
    /// A discard of a part of an extent leaves its blocks data.
    DiscardKeepsData: "discard_keeps_data",
    /// Freed chunks are given out at once: before the freeing delta is durable and old I/O has ended.
    FreeEarly: "free_early",
    /// Freed chunks are given out while a read that began before may still be on its way to them.
    ReuseUnderRead: "reuse_under_read",
    /// Room in the journal is a matter of bytes alone.
    RecordsUncounted: "records_uncounted",
    /// A commit journals without syncing the data disks.
    SkipSync: "skip_sync",
    /// Deltas are sealed when the disks' syncs have ended: the data of some came after.
    LateSeal: "late_seal",
    /// A failed sync is tried again, and its success believed.
    SyncRetried: "sync_retried",
    /// A change of the catalog is answered before it is durable.
    CatalogUnsynced: "catalog_unsynced",
    /// Owner tables are written after the MetaStore.
    OwnersAfterMeta: "owners_after_meta",
    /// Owner tables are not told of freed chunks.
    OwnersNotCleared: "owners_not_cleared",
    /// A checkpoint trims the journal up to its end, not to where the checkpoint began.
    TrimEarly: "trim_early",
    /// Replay passes over the first group that a loaded page does not have.
    ReplaySkipsGroup: "replay_skips_group",
}

/// Which defects are in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    #[cfg(feature = "planted")]
    bits: u64,
}

#[cfg(feature = "planted")]
impl Planted {
    /// This one alone.
    #[must_use]
    pub const fn only(defect: Defect) -> Self {
        Self { bits: 1 << defect as u64 }
    }

    /// True if the defect is in.
    #[must_use]
    pub const fn has(self, defect: Defect) -> bool {
        self.bits & 1 << defect as u64 != 0
    }
}

#[cfg(not(feature = "planted"))]
impl Planted {
    /// False.
    #[must_use]
    pub const fn has(self, _: Defect) -> bool {
        false
    }
}
