//! What a seed decides before anything runs. Each seed turns only some things on ("swarm testing"): a world in which
//! everything goes wrong at once never gets far enough to find the rest.

use std::time::Duration;

use sds_volume::Planted;

use crate::random::Random;

const MIB: u64 = 1 << 20;

/// One disk of the world.
#[derive(Clone, Debug)]
pub struct DiskKnobs {
    /// Its size.
    pub size_bytes: u64,
    /// It seeks: slower, and of the second tier.
    pub rotational: bool,
    /// It may lose writes until a sync.
    pub volatile_cache: bool,
    /// 512 or 4096: what it tears.
    pub physical_block_bytes: u32,
    /// It takes discards.
    pub discard: bool,
    /// The usual time of a request.
    pub latency: Duration,
    /// Requests in a thousand that take 1 to 20 s.
    pub stall_per_mille: u32,
    /// Writes in a thousand that become visible in two steps.
    pub split_per_mille: u32,
    /// Reads in 100,000 that fail.
    pub read_fault_per_100k: u32,
    /// Writes in 100,000 that fail.
    pub write_fault_per_100k: u32,
    /// Syncs in 100,000 that fail.
    pub sync_fault_per_100k: u32,
}

/// How likely each operation is, against the others.
#[derive(Clone, Debug)]
pub struct Weights {
    /// In the order of [`crate::workload::Kind`].
    pub operations: Vec<u32>,
    /// Sector, block, up to 64 KiB, up to 256 KiB, up to 1 MiB.
    pub sizes: [u32; 5],
}

/// A seed's decisions.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// The seed.
    pub seed: u64,
    /// Operations in the whole run.
    pub operations: u32,
    /// Cores.
    pub cores: usize,
    /// Disks: the first is of flash.
    pub disks: Vec<DiskKnobs>,
    /// So many of them make the pool; the others may join it later.
    pub first_disks: usize,
    /// Bytes in an extent.
    pub extent_bytes: u64,
    /// Bytes of the journal, `None` for the default.
    pub journal_bytes: Option<u64>,
    /// Deltas that the journal has at the most.
    pub journal_records_max: u64,
    /// 512, or 4096 where every disk has such blocks.
    pub logical_block_bytes: u32,
    /// Sizes of the volumes that a run starts with.
    pub volume_bytes: Vec<u64>,
    /// Requests open at once.
    pub depth: usize,
    /// What is asked.
    pub weights: Weights,
    /// Operations in a thousand that go to the first mebibyte of the first volume.
    pub hot_per_mille: u32,
    /// Requests in a thousand that their host gives up while they are open, as when its connection dies.
    pub drop_per_mille: u32,
    /// Operations in a thousand after which the hosts are quiet for up to 12 s.
    pub pause_per_mille: u32,
    /// Lives of the process.
    pub lives: u32,
    /// Crashes in a thousand that are power cuts.
    pub power_cut_per_mille: u32,
    /// Crashes in a thousand that come as a durable write of several blocks is on its way: a frame of the journal.
    pub ambush_per_mille: u32,
    /// Crashes in a thousand before which hosts write and discard without a flush.
    pub churn_per_mille: u32,
    /// Opens in a thousand during which the next crash comes.
    pub recovery_crash_per_mille: u32,
    /// Ends of a life in a thousand after which one block is rotten of which the pool has another copy.
    pub rot_per_mille: u32,
    /// Crashes in a thousand after which the metadata store is empty.
    pub meta_lost_per_mille: u32,
    /// Crashes in a thousand after which the metadata store is as it was some time before.
    pub meta_aged_per_mille: u32,
    /// Operations in a thousand at which the metadata store begins to fail, or to stand still.
    pub meta_outage_per_mille: u32,
    /// Crashes in a thousand after which the pool is opened on the other node, with its own memory and metadata store.
    pub move_per_mille: u32,
    /// Openings in a thousand that are tried without one of the disks before.
    pub absent_per_mille: u32,
    /// Lives in a thousand in which one disk loses or misplaces one write, or answers one read with what was there
    /// before: where the pool has another copy.
    pub fickle_per_mille: u32,
    /// The disk that says that it made durable what it did not.
    pub liar: Option<usize>,
    /// The usual time of a batch of the metadata store.
    pub meta_latency: Duration,
    /// Scheduling steps in 100,000 at which a core stands still for up to 30 ms.
    pub core_stall_per_100k: u32,
    /// Lives in a thousand after which all volumes are read as a whole.
    pub verify_per_mille: u32,
    /// Bytes of the carry-over memory.
    pub carry_over_bytes: usize,
    /// How often the pool makes a checkpoint by itself: one of these.
    pub checkpoint_intervals_ms: [u64; 2],
    /// What was not written for so long is sealed.
    pub seal_after_ms: u64,
    /// Operations in a thousand before which a sealed block, or its CRC, goes bad.
    pub rot_sealed_per_mille: u32,
    /// Lives in a thousand that begin with a scrub.
    pub scrub_per_mille: u32,
    /// Operations in a thousand that take, clone or delete snapshots.
    pub layers_per_mille: u32,
    /// The defect that is put in.
    pub planted: Planted,
    /// Print every event.
    pub trace: bool,
}

fn disk(random: &mut Random, rotational: bool, size_bytes: u64, faults: bool) -> DiskKnobs {
    let latency = match rotational {
        false => Duration::from_micros(random.between(20, 300)),
        true => Duration::from_micros(random.between(300, 9000)),
    };
    let mut fault = |per_100k: u32| if faults && random.chance(500) { per_100k } else { 0 };
    let (read_fault_per_100k, write_fault_per_100k, sync_fault_per_100k) = (fault(50), fault(20), fault(200));
    DiskKnobs {
        size_bytes,
        rotational,
        volatile_cache: random.chance(800),
        physical_block_bytes: random.pick(&[512, 512, 4096]),
        discard: random.chance(700),
        latency,
        stall_per_mille: if random.chance(150) { 1 } else { 0 },
        split_per_mille: random.pick(&[0, 100, 500]),
        read_fault_per_100k,
        write_fault_per_100k,
        sync_fault_per_100k,
    }
}

// Mostly small, so that requests meet; some have two pages of the map, and so may have two owners.
fn volume_bytes(random: &mut Random) -> u64 {
    let (low, high) = if random.chance(700) { (4, 20) } else { (130, 200) };
    random.between(low, high) * MIB
}

impl Knobs {
    /// True if disks may fail: then a failed request excuses itself.
    #[must_use]
    pub fn faulty(&self) -> bool {
        let faults = |disk: &DiskKnobs| disk.read_fault_per_100k + disk.write_fault_per_100k + disk.sync_fault_per_100k;
        self.disks.iter().map(faults).sum::<u32>() > 0
    }

    /// What `seed` decides for a run of `operations` operations.
    #[must_use]
    pub fn new(seed: u64, operations: u32) -> Self {
        let mut random = Random::new(seed);
        let faults = random.chance(150);
        // What came later draws from a stream of its own: a seed that failed before keeps its history.
        let mut more = Random::new(seed ^ LATER_STREAM);
        let mut last = Random::new(seed ^ LAST_STREAM);
        let mut layers = Random::new(seed ^ LAYERS_STREAM);
        let has_layers = layers.chance(300);
        // A tight pool is full again and again, and what was freed is soon another's.
        let tight = random.chance(400);
        let mib = if tight { TIGHT_MIB } else { ROOMY_MIB };
        // Two disks of flash have a copy of the journal each.
        let rotational = [false, random.chance(700), random.chance(500)];
        let first_disks = 2;
        let count = first_disks + usize::from(random.chance(300));
        let mut disk = |rotational: &bool| {
            let size_bytes = random.between(mib.0, mib.1) * MIB;
            disk(&mut random, *rotational, size_bytes, faults)
        };
        let disks: Vec<DiskKnobs> = rotational[..count].iter().map(&mut disk).collect();
        let whole_blocks = disks.iter().all(|disk| disk.physical_block_bytes == 4096);
        let mut weights = |base: &[u32]| base.iter().map(|weight| weight * random.pick(&[0, 1, 1, 3])).collect();
        let mut operations_weights: Vec<u32> = weights(&[30, 50, 8, 8, 10, 6, 3, 3, 1, 1, 2, 1]);
        // Every run reads, writes and flushes.
        operations_weights[0] = operations_weights[0].max(10);
        operations_weights[1] = operations_weights[1].max(40);
        operations_weights[3] = operations_weights[3].max(2);
        let mut size = |base: u32| base * random.pick(&[0, 1, 4]);
        let sizes = [size(20), size(30).max(1), size(15), size(4), size(2)];
        let lies = more.chance(40) && !faults;
        let liar = more.index(first_disks);
        let crashy = random.pick(&[2, 5, 9, 14]);
        let knobs = Self {
            seed,
            operations,
            cores: random.between(1, 3) as usize,
            disks,
            first_disks,
            extent_bytes: 256 << 10,
            journal_bytes: random.pick(&[None, Some(128 << 10), Some(256 << 10)]),
            logical_block_bytes: if whole_blocks && random.chance(700) { 4096 } else { 512 },
            volume_bytes: (0..3).map(|_| volume_bytes(&mut random)).collect(),
            depth: random.pick(&[1, 4, 16, 48]),
            weights: Weights { operations: operations_weights, sizes },
            hot_per_mille: random.pick(&[0, 200, 700]),
            drop_per_mille: random.pick(&[0, 0, 0, 20]),
            pause_per_mille: random.pick(&[0, 5, 30]),
            lives: crashy,
            power_cut_per_mille: random.pick(&[0, 300, 500, 1000]),
            ambush_per_mille: random.pick(&[0, 300, 800]),
            churn_per_mille: random.pick(&[0, 500]),
            recovery_crash_per_mille: random.pick(&[0, 100, 300]),
            rot_per_mille: random.pick(&[0, 0, 300]),
            meta_lost_per_mille: random.pick(&[0, 0, 100, 300]),
            meta_aged_per_mille: random.pick(&[0, 0, 0, 200]),
            meta_outage_per_mille: random.pick(&[0, 0, 0, 3]),
            journal_records_max: last.pick(&[600, 2_000, 2_000_000, 2_000_000]),
            move_per_mille: more.pick(&[0, 0, 0, 150]),
            absent_per_mille: more.pick(&[0, 0, 0, 200]),
            fickle_per_mille: if faults { 0 } else { more.pick(&[0, 0, 0, 600]) },
            liar: None,
            meta_latency: Duration::from_micros(random.between(50, 20_000)),
            core_stall_per_100k: random.pick(&[0, 100, 1000]),
            verify_per_mille: random.pick(&[300, 1000]),
            carry_over_bytes: random.pick(&[1 << 20, 256 << 10]),
            checkpoint_intervals_ms: [500, 5_000],
            seal_after_ms: random.pick(&[40, 400, 4_000, 600_000]),
            // What is spoiled in one volume would be in the others that share it.
            rot_sealed_per_mille: random.pick(&[0, 0, 10]) * u32::from(!has_layers),
            scrub_per_mille: random.pick(&[0, 300]),
            layers_per_mille: if has_layers { layers.pick(&[10, 40, 120]) } else { 0 },
            planted: Planted::default(),
            trace: false,
        };
        if lies { Self { liar: Some(liar), ..knobs.gentle() } } else { knobs }
    }

    /// Nothing but crashes goes wrong around the disks.
    #[must_use]
    pub fn gentle(self) -> Self {
        Self {
            rot_per_mille: 0,
            fickle_per_mille: 0,
            absent_per_mille: 0,
            move_per_mille: 0,
            meta_lost_per_mille: 0,
            meta_aged_per_mille: 0,
            ..self
        }
    }
}

const LATER_STREAM: u64 = 0x51de;
const LAST_STREAM: u64 = 0x6a7e;
const LAYERS_STREAM: u64 = 0x1a7e;
/// Sizes of disks; of each the pool's own regions take up to 3 MiB.
const TIGHT_MIB: (u64, u64) = (4, 7);
const ROOMY_MIB: (u64, u64) = (12, 32);
