//! What a pool is given by the process that runs it.

use std::sync::Arc;
use std::time::Duration;

use sds_io::{CarryOver, Clock, DiskId, Io, MetaStore, Spawner};

use crate::journal::JOURNAL_RECORDS_MAX;
use crate::planted::Planted;

/// One core's part of the world.
#[derive(Clone)]
pub struct CoreEnv<E: Io + Clock> {
    /// The core's number, from 0.
    pub core: usize,
    /// Its way to disks and time.
    pub io: E,
    /// Starts tasks on it.
    pub spawner: Spawner,
}

/// What all cores share.
#[derive(Clone)]
pub struct PoolEnv {
    /// How many cores work on the pool.
    pub cores: usize,
    /// The checkpoint store, empty for a new pool.
    pub meta: Arc<dyn MetaStore>,
    /// Memory that outlives the process.
    pub carry_over: Arc<dyn CarryOver>,
    /// Who opens the pool: written in every label, so that a second engine can name the first.
    pub opener: String,
    /// What the pool is called from this opening on; `None`: as its labels say.
    pub rename: Option<String>,
    /// Limits and intervals.
    pub tuning: Tuning,
    /// Defects that the simulator plants to see that it would find them. All off in production.
    pub planted: Planted,
}

/// Limits and intervals of a pool.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// The core syncs and journals by itself this often: what a power cut may take is no older.
    pub commit_interval_ms: u64,
    /// Dirty pages go to the MetaStore at least this often.
    pub checkpoint_interval_ms: u64,
    /// A checkpoint also starts when the journal is this full.
    pub checkpoint_journal_percent: u32,
    /// Map-changing writes wait while the journal is fuller than this.
    pub hold_journal_percent: u32,
    /// Deltas that the journal has at the most: a start replays them.
    pub journal_records_max: u64,
    /// Pages that one checkpoint batch carries: 64 keep RocksDB's batches near 15,000 pages a second.
    pub checkpoint_batch_pages_max: usize,
    /// Memory that the pool's pages of the map may take, a part for each core; a page of extents with a chunk each
    /// takes 53 KiB.
    pub map_cache_bytes_max: usize,
    /// Extents that a volume takes from free space at a time, so that a stream stays sequential on an HDD.
    pub run_extents: u32,
    /// How often a write that finds no space waits for freed chunks before it is refused.
    pub space_waits_max: u32,
    /// What was not written for about so long is sealed.
    pub seal_after_ms: u64,
    /// Bytes a second that a core reads to seal them: little beside what hosts want of a disk.
    pub seal_bytes_per_second_max: u64,
    /// Blocks of check space that a core keeps, each for 1,024 blocks of data: 64 MiB for 64 GiB.
    pub check_cache_blocks_max: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            commit_interval_ms: 2_000,
            checkpoint_interval_ms: 5_000,
            checkpoint_journal_percent: 25,
            hold_journal_percent: 75,
            journal_records_max: JOURNAL_RECORDS_MAX,
            checkpoint_batch_pages_max: 64,
            map_cache_bytes_max: 1 << 30,
            run_extents: 16,
            space_waits_max: 1_000,
            seal_after_ms: 600_000,
            seal_bytes_per_second_max: 32 << 20,
            check_cache_blocks_max: 16_384,
        }
    }
}

impl Tuning {
    /// [`Tuning::commit_interval_ms`].
    #[must_use]
    pub const fn commit_interval(&self) -> Duration {
        Duration::from_millis(self.commit_interval_ms)
    }

    /// [`Tuning::checkpoint_interval_ms`].
    #[must_use]
    pub const fn checkpoint_interval(&self) -> Duration {
        Duration::from_millis(self.checkpoint_interval_ms)
    }
}

/// A disk that is to join a pool.
#[derive(Clone, Debug)]
pub struct NewDisk {
    /// The open disk.
    pub disk: DiskId,
    /// The name that its label will carry.
    pub uuid: [u8; 16],
    /// Its tier's name.
    pub tier: String,
    /// The tier's rank: 0 is the fastest.
    pub rank: u8,
}

/// A pool that is to be made.
#[derive(Clone, Debug)]
pub struct PoolSpec {
    /// Its name for ever.
    pub uuid: [u8; 16],
    /// Its name for people; also in every label.
    pub name: String,
    /// Bytes of an extent: 256 KiB to 16 MiB, a power of two. Fixed for ever.
    pub extent_bytes: u64,
    /// Bytes of the journal on each of its disks, `None` for the default.
    pub journal_bytes: Option<u64>,
}

/// A volume that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct VolumeSpec {
    /// Its name for ever.
    pub uuid: [u8; 16],
    /// Its size: a multiple of 4 KiB, at most [`VOLUME_BYTES_MAX`].
    pub size_bytes: u64,
    /// 512 or 4096.
    pub logical_block_bytes: u32,
}

/// The largest volume: 64 TiB.
pub const VOLUME_BYTES_MAX: u64 = 64 << 40;
/// The smallest and the largest extent.
pub const EXTENT_BYTES: std::ops::RangeInclusive<u64> = (256 << 10)..=(16 << 20);
