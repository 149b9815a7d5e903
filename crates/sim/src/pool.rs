//! The real engine in the simulated world: a pool of `sds-volume` on all cores.

use std::rc::Rc;
use std::time::Duration;

use sds_block::Device as _;
use sds_io::{Clock as _, DiskId, Io as _};
use sds_volume::label_io::read_label;
use sds_volume::{
    CoreEnv, NewDisk, Pool, PoolEnv, PoolSpec, Recovered, ScrubState, SnapshotSpec, Structure, Tuning, VolumeSpec,
    error,
};

use crate::engine::{
    Covered, DynDevice, Engine, Expendable, Health, Listed, Refusal, Refused, Sealed, Spoiled, Surroundings,
};
use crate::knobs::Knobs;
use crate::random::Random;
use crate::rot;
use crate::world::{SimIo, World};

const POOL_UUID: [u8; 16] = *b"a simulated pool";

/// A pool on every core of the world.
pub struct PoolEngine {
    /// By core.
    cores: Vec<Pool<SimIo>>,
    io: SimIo,
    recovered: Recovered,
}

fn refusal(error: error::PoolError) -> Refusal {
    use error::PoolErrorKind as Kind;
    let refused = match error.kind {
        Kind::NoSpace => Refused::Full,
        Kind::Busy => Refused::Busy,
        Kind::Closed | Kind::NotFound => Refused::Gone,
        Kind::Io | Kind::Meta => Refused::Failed,
        Kind::InvalidField
        | Kind::TooSmall
        | Kind::Exists
        | Kind::PhysicalBlock
        | Kind::ForeignLabel
        | Kind::DiskMissing
        | Kind::Corrupt => Refused::Defect,
    };
    (refused, error.to_string())
}

/// Limits and intervals small enough that a run meets them.
fn tuning(random: &mut Random, knobs: &Knobs) -> Tuning {
    Tuning {
        seal_after_ms: knobs.seal_after_ms,
        commit_interval_ms: random.pick(&[200, 2_000]),
        checkpoint_interval_ms: random.pick(&knobs.checkpoint_intervals_ms),
        checkpoint_journal_percent: random.pick(&[10, 25, 60]),
        checkpoint_batch_pages_max: random.pick(&[1, 64]),
        map_cache_bytes_max: random.pick(&[1, 64 << 10, 1 << 30]),
        journal_records_max: knobs.journal_records_max,
        run_extents: random.pick(&[1, 4, 16]),
        seal_bytes_per_second_max: random.pick(&[1 << 20, 1 << 30]),
        check_cache_blocks_max: random.pick(&[2, 16_384]),
        ..Tuning::default()
    }
}

/// Fast enough to come to an end within a life.
const SCRUB_BYTES_PER_SECOND_MAX: u64 = 64 << 20;
/// How often it is looked whether a scrub has come to its end.
const SCRUB_POLL: Duration = Duration::from_millis(20);

impl PoolEngine {
    fn world(around: &Surroundings) -> PoolEnv {
        PoolEnv {
            cores: around.spawners.len(),
            meta: around.meta.clone(),
            carry_over: around.carry_over.clone(),
            opener: "the simulator".to_owned(),
            rename: None,
            tuning: tuning(&mut Random::new(around.seed), &around.knobs),
            planted: around.knobs.planted,
        }
    }

    fn env(around: &Surroundings, core: usize) -> CoreEnv<SimIo> {
        CoreEnv { core, io: around.io.clone(), spawner: around.spawners[core].clone() }
    }

    /// The pool on core 0.
    #[must_use]
    pub fn pool(&self) -> Pool<SimIo> {
        self.cores[0].clone()
    }

    /// What the opening found.
    #[must_use]
    pub const fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    fn on_all_cores(first: Pool<SimIo>, around: &Surroundings, recovered: Recovered) -> Self {
        let shared = first.shared();
        let others = (1..around.spawners.len()).map(|core| Pool::join(shared.clone(), Self::env(around, core)));
        let others: Vec<Pool<SimIo>> = others.collect();
        Self { cores: std::iter::once(first).chain(others).collect(), io: around.io.clone(), recovered }
    }

    // `no` tells apart what one disk is called each time that it joins.
    fn new_disk(io: &SimIo, disk: DiskId, no: u64) -> NewDisk {
        let rotational = io.disk(disk).rotational;
        let tier = if rotational { "hdd" } else { "flash" };
        let mut uuid = [0; 16];
        uuid[0] = disk.0 as u8 + 1;
        uuid[8..].copy_from_slice(&no.to_le_bytes());
        NewDisk { disk, uuid, tier: tier.to_owned(), rank: u8::from(rotational) }
    }
}

impl Engine for PoolEngine {
    async fn create(around: Surroundings) -> Result<Self, Refusal> {
        let spec = PoolSpec {
            uuid: POOL_UUID,
            name: "sim".to_owned(),
            extent_bytes: around.knobs.extent_bytes,
            journal_bytes: around.knobs.journal_bytes,
        };
        let disks: Vec<NewDisk> = around.disks.iter().map(|disk| Self::new_disk(&around.io, *disk, 0)).collect();
        let pool = Pool::create(Self::env(&around, 0), Self::world(&around), &spec, &disks).await.map_err(refusal)?;
        Ok(Self::on_all_cores(pool, &around, Recovered::default()))
    }

    async fn open(around: Surroundings) -> Result<Self, Refusal> {
        let mut disks = around.disks.clone();
        // It is looked at first, as the node does: one that was not labelled is none of the pool's.
        if let Some(joining) = around.joining {
            let label = read_label(&around.io, joining).await.label;
            disks.extend(label.filter(|label| label.pool_uuid == POOL_UUID).map(|_| joining));
        }
        let opened = Pool::open(Self::env(&around, 0), Self::world(&around), POOL_UUID, &disks).await;
        let (pool, recovered) = opened.map_err(refusal)?;
        Ok(Self::on_all_cores(pool, &around, recovered))
    }

    fn volumes(&self) -> Vec<Listed> {
        let listed = |volume: sds_volume::VolumeStatus| Listed { uuid: volume.uuid, size_bytes: volume.size_bytes };
        self.cores[0].volumes().into_iter().map(listed).collect()
    }

    fn disks(&self) -> Vec<DiskId> {
        self.cores[0].status().disks.iter().map(|disk| disk.disk).collect()
    }

    fn documents(&self) -> Vec<(String, Vec<u8>)> {
        self.cores[0].documents()
    }

    fn device(&self, core: usize, uuid: [u8; 16]) -> Option<DynDevice> {
        let volume = self.cores[core].device(uuid)?;
        debug_assert_eq!(volume.geometry().uuid, uuid);
        Some(Rc::new(volume))
    }

    async fn create_volume(&self, uuid: [u8; 16], size_bytes: u64, logical: u32) -> Result<(), Refusal> {
        let spec = VolumeSpec { uuid, size_bytes, logical_block_bytes: logical };
        self.cores[0].create_volume(spec).await.map_err(refusal)
    }

    async fn resize_volume(&self, uuid: [u8; 16], size_bytes: u64) -> Result<(), Refusal> {
        self.cores[0].resize_volume(uuid, size_bytes).await.map_err(refusal)
    }

    async fn delete_volume(&self, uuid: [u8; 16]) -> Result<(), Refusal> {
        self.cores[0].delete_volume(uuid).await.map_err(refusal)
    }

    async fn snapshot(&self, pairs: Vec<([u8; 16], [u8; 16])>) -> Result<(), Refusal> {
        let spec = |(volume, snapshot)| SnapshotSpec { volume, snapshot };
        let specs: Vec<SnapshotSpec> = pairs.into_iter().map(spec).collect();
        self.cores[0].snapshot(&specs).await.map(drop).map_err(refusal)
    }

    async fn clone_snapshot(&self, snapshot: [u8; 16], clone: [u8; 16]) -> Result<(), Refusal> {
        self.cores[0].clone_snapshot(snapshot, clone).await.map_err(refusal)
    }

    async fn add_disk(&self, disk: DiskId) -> Result<(), Refusal> {
        let new = Self::new_disk(&self.io, disk, self.io.world.next_order());
        self.cores[0].add_disk(&new).await.map_err(refusal)
    }

    async fn put_document(&self, key: String, value: Option<Vec<u8>>) -> Result<(), Refusal> {
        self.cores[0].put_document(key, value).await.map_err(refusal)
    }

    fn expendable(world: &World, disks: &[DiskId], random: &mut Random) -> Option<Expendable> {
        rot::expendable(world, disks, random)
    }

    async fn check(&self) -> Result<Vec<String>, Refusal> {
        let report = self.cores[0].check(u32::MAX).await.map_err(refusal)?;
        Ok(report.findings.iter().map(ToString::to_string).collect())
    }

    fn covered(world: &World, disks: &[DiskId], rebuilds: bool, random: &mut Random) -> Option<Covered> {
        rot::covered(world, disks, rebuilds, random)
    }

    fn health(&self) -> Health {
        let status = self.cores[0].status();
        Health {
            journal_bytes: status.journal_bytes,
            journal_laps: status.journal_laps,
            capacity_bytes: status.disks.iter().map(|disk| disk.capacity_bytes).sum(),
            allocated_bytes: status.disks.iter().map(|disk| disk.allocated_bytes).sum(),
            deletions: status.deletions,
            imported: self.recovered.imported,
            lost_writes: self.recovered.lost_writes.len(),
            sealed_blocks: status.sealed_blocks,
            unsealed_blocks: status.unsealed_blocks,
        }
    }

    fn sealed(&self, random: &mut Random) -> Option<Sealed> {
        let blocks = self.cores[random.index(self.cores.len())].sealed_blocks();
        let (uuid, block) = *blocks.get(random.index(blocks.len().max(1)))?;
        let disk = self.cores[0].status().disks[usize::from(block.disk.0)].disk;
        let (offset, crc_offset, volume_offset) = (block.disk_offset, block.crc_offset, block.volume_offset);
        Some(Sealed { uuid, volume_offset, disk, offset, crc_offset })
    }

    fn scrub(&self) {
        // One that is running goes on.
        let _ = self.cores[0].scrub_start(SCRUB_BYTES_PER_SECOND_MAX);
    }

    async fn scrub_all(&self) -> Result<Option<Vec<(DiskId, Spoiled)>>, Refusal> {
        let pool = &self.cores[0];
        let ended = async || {
            while pool.scrub_status().state == ScrubState::Running {
                self.io.sleep(SCRUB_POLL).await;
            }
        };
        ended().await;
        pool.scrub_start(u64::MAX).map_err(refusal)?;
        ended().await;
        if pool.scrub_status().state != ScrubState::Done {
            return Err((Refused::Failed, "the scrub did not come to its end".to_owned()));
        }
        let disks = self.disks();
        let spoiled = |structure| match structure {
            Structure::Label(_) => Spoiled::Label,
            Structure::CatalogSlot(_) => Spoiled::Catalog,
            Structure::JournalHeader(_) => Spoiled::JournalHeader,
            Structure::JournalFrame(_) => Spoiled::JournalFrame,
            Structure::OwnerBlock(..) | Structure::OwnerEntries(..) => Spoiled::OwnerBlock,
        };
        let found = pool.take_damages().into_iter();
        Ok(Some(found.map(|damage| (disks[usize::from(damage.disk.0)], spoiled(damage.structure))).collect()))
    }

    async fn stop(&self) -> Result<(), Refusal> {
        self.cores[0].stop().await.map_err(refusal)
    }
}
