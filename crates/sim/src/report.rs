//! What happened: counters over all seeds, a hash of everything in order, and the history that a failure prints.

use std::fmt;

use crate::random::mix;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident: $label:literal,)*) => {
        /// How often each thing happened.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Adds another run's.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Label and value of each.
            #[must_use]
            pub fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![$(($label, self.$name),)*]
            }
        }
    };
}

counters! {
    /// Requests to volumes and to the pool.
    operations: "operations",
    /// Of those, reads.
    reads: "reads",
    /// Writes.
    writes: "writes",
    /// Writes with FUA.
    fua_writes: "writes with FUA",
    /// Flushes.
    flushes: "flushes",
    /// Discards.
    discards: "discards",
    /// Write-zeroes.
    zeroes: "write zeroes",
    /// Compares and compare-and-writes.
    compares: "compares",
    /// Of those, the ones that found other bytes.
    miscompares: "miscompares",
    /// Volumes created.
    creates: "volumes created",
    /// Volumes deleted.
    deletes: "volumes deleted",
    /// Volumes grown.
    resizes: "volumes grown",
    /// Snapshots asked for.
    snapshots: "snapshots taken",
    /// Of these, the ones that were taken together with others.
    group_snapshots: "snapshots in groups",
    /// Clones asked for.
    clones: "clones made",
    /// Snapshots deleted.
    snapshot_deletes: "snapshots deleted",
    /// Snapshots that were there after a crash, though nobody had been told.
    snapshots_found: "snapshots found after a crash",
    /// Documents put or removed.
    documents: "documents",
    /// Writes that overlapped another open one.
    overlaps: "overlapping open writes",
    /// Disks that joined the pool.
    disks_added: "disks added",
    /// Requests that their host gave up while they were open.
    dropped: "requests given up",
    /// Sectors compared with the oracle.
    sectors_checked: "sectors checked",
    /// Times that a pool was opened.
    opens: "pool opens",
    /// Clean stops.
    clean_stops: "clean stops",
    /// The process was killed.
    process_crashes: "process crashes",
    /// The machine lost power.
    power_cuts: "power cuts",
    /// Of all crashes, those as a journal's frame was on its way.
    ambushes: "crashes amid a frame",
    /// Those while a pool was being created or opened.
    recovery_crashes: "crashes during an open",
    /// Of these, the ones without the metadata store that the pool had.
    import_crashes: "crashes during an import",
    /// Those while a deleted volume's space was being freed.
    deletion_crashes: "crashes amid a deletion",
    /// Those while a disk was joining.
    joining_crashes: "crashes as a disk joins",
    /// A carry-over store was cut short by a kill.
    torn_carry_over: "torn carry-over stores",
    /// Writes that a crash tore.
    torn_writes: "torn writes",
    /// Writes that a crash lost.
    lost_writes: "lost writes",
    /// The metadata store was empty after a crash.
    meta_lost: "metadata stores lost",
    /// The metadata store was as some time before, after a crash.
    meta_aged: "metadata stores aged",
    /// The pool was opened on another node.
    moves: "moves to another node",
    /// It was to be opened without one of its disks.
    absent_disks: "openings without a disk",
    /// The pool was rebuilt from its disks.
    imports: "imports",
    /// Outages of the metadata store.
    meta_outages: "metadata outages",
    /// Requests that it refused in them.
    meta_refused: "metadata refusals",
    /// Batches that a crash kept from the metadata store.
    meta_batches_lost: "metadata batches lost",
    /// Labels of which one of two went bad.
    rotten_labels: "spoiled labels",
    /// Catalog slots that went bad.
    rotten_catalogs: "spoiled catalog slots",
    /// Journal headers of which one of two went bad.
    rotten_headers: "spoiled journal headers",
    /// Places of owner blocks that went bad.
    rotten_owners: "spoiled owner blocks",
    /// Frames of one of two journals that went bad.
    rotten_frames: "spoiled journal frames",
    /// Copies of metadata that went bad while the pool was open, and that a scrub told of and mended.
    flipped_copies: "flipped copies found",
    /// Writes of metadata that a disk lost without a word.
    dropped_writes: "writes lost silently",
    /// Those that landed elsewhere.
    misdirected_writes: "misdirected writes",
    /// Reads of metadata that found what was there before.
    stale_reads: "stale reads",
    /// Power cuts in which a disk lost what it had said was durable.
    lies: "lies about durability",
    /// Of those, the ones that the pool told of or refused.
    lies_told: "lies that were told",
    /// Lives in which a sync failed, looked at in the next.
    sync_inspections: "lives after a failed sync",
    /// Blocks that got a seal.
    sealed_blocks: "blocks sealed",
    /// Blocks that lost it to a write.
    unsealed_blocks: "blocks unsealed",
    /// Scrubs that were begun.
    scrubs: "scrubs",
    /// Sealed blocks that went bad.
    rotten_blocks: "spoiled sealed blocks",
    /// CRCs of sealed blocks that went bad.
    rotten_crcs: "spoiled CRCs",
    /// Requests that were told of one of these.
    rot_found: "spoiled blocks found",
    /// Disk blocks written with another volume's or address's payload than they had.
    blocks_reused: "disk blocks reused",
    /// Times the journal began again at its start.
    journal_laps: "journal laps",
    /// Seeds in which it did.
    seeds_lapped: "seeds with journal laps",
    /// Batches that the metadata store took.
    checkpoints: "checkpoint batches",
    /// Writes refused because the pool was full.
    full_pools: "full-pool refusals",
    /// Seeds that had such.
    seeds_full: "seeds with full pools",
    /// Requests refused as busy.
    busy: "busy refusals",
    /// Reads that failed by injection.
    read_faults: "read faults",
    /// Writes that failed by injection.
    write_faults: "write faults",
    /// Syncs that failed by injection.
    sync_faults: "sync faults",
    /// Requests that took seconds.
    stalls: "stalled requests",
    /// Cores that were held up while the others ran.
    core_stalls: "stalled cores",
    /// Discards that the disks did.
    disk_discards: "disk discards",
    /// Requests to disks.
    disk_requests: "disk requests",
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (label, value) in self.rows() {
            writeln!(f, "{label:>26} {value:>12}")?;
        }
        Ok(())
    }
}

/// A hash of everything that happened, in order: the same seed must give the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceHash(pub u64);

impl TraceHash {
    /// Takes in one more event.
    pub fn mix(&mut self, words: [u64; 4]) {
        for word in words {
            self.0 = mix(self.0 ^ word);
        }
    }
}

/// Why a seed failed, and what led to it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was wrong, in a sentence.
    pub what: String,
    /// The last events before, oldest first.
    pub history: Vec<String>,
}

impl Failure {
    /// True if an assertion of the engine ended it, not the oracle or a refusal.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        self.what.starts_with("panic")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.history {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "seed {} failed: {}", self.seed, self.what)
    }
}
