//! Counters and gauges, by group and name.

use std::collections::BTreeMap;

use pyo3::prelude::*;
use sds_target::connections::FrontCounters;
use sds_uring::{Counters, Local};
use sds_volume::PoolStatus;

use crate::cores::CorePools;
use crate::engine::Engine;
use crate::refusal::Refusal;

/// All figures.
#[derive(IntoPyObject)]
pub struct Metrics {
    connections: usize,
    refused_connections: u64,
    /// By number.
    cores: BTreeMap<String, CoreFigures>,
    /// By name.
    pools: BTreeMap<String, PoolFigures>,
}

#[derive(IntoPyObject)]
struct CoreFigures {
    turns: u64,
    sleeps: u64,
    ring_enters: u64,
    disk_requests: u64,
    task_polls: u64,
    receives: u64,
    received_bytes: u64,
    sends: u64,
    sent_bytes: u64,
    requests: u64,
    failed_requests: u64,
    payload_bytes: u64,
    payload_bytes_peak: u64,
    payload_waits: u64,
}

impl CoreFigures {
    fn new(core: Counters, front: FrontCounters) -> Self {
        Self {
            turns: core.turns,
            sleeps: core.sleeps,
            ring_enters: core.ring_enters,
            disk_requests: core.disk_requests,
            task_polls: core.task_polls,
            receives: front.receives,
            received_bytes: front.received_bytes,
            sends: front.sends,
            sent_bytes: front.sent_bytes,
            requests: front.requests,
            failed_requests: front.failed_requests,
            payload_bytes: front.payload_bytes,
            payload_bytes_peak: front.payload_bytes_peak,
            payload_waits: front.payload_waits,
        }
    }
}

/// What [`PoolShape`](crate::shapes::PoolShape) does not say.
#[derive(IntoPyObject)]
struct PoolFigures {
    failed_disks: usize,
    journal_laps: u64,
    journal_used_bytes: u64,
    journal_bytes: u64,
    deletions: usize,
    checkpoint_failed: bool,
    journal_failed: bool,
    sealed_blocks: u64,
    unsealed_blocks: u64,
    corrupt_blocks: u64,
    damaged_metadata_copies: u64,
    mended_metadata_copies: u64,
}

impl From<&PoolStatus> for PoolFigures {
    fn from(status: &PoolStatus) -> Self {
        Self {
            failed_disks: status.disks.iter().filter(|disk| !disk.healthy).count(),
            journal_laps: status.journal_laps,
            journal_used_bytes: status.journal_bytes.0,
            journal_bytes: status.journal_bytes.1,
            deletions: status.deletions,
            checkpoint_failed: status.checkpoint_failed,
            journal_failed: status.journal_failed,
            sealed_blocks: status.sealed_blocks,
            unsealed_blocks: status.unsealed_blocks,
            corrupt_blocks: status.corrupt_blocks,
            damaged_metadata_copies: status.damaged_copies,
            mended_metadata_copies: status.mended_copies,
        }
    }
}

/// The figures as they are now.
pub fn gather(engine: &Engine) -> Result<Metrics, Refusal> {
    let targets = &engine.targets;
    let mut cores = BTreeMap::new();
    for (core, front) in targets.cores().iter().zip(targets.counters()) {
        cores.insert(core.index().to_string(), CoreFigures::new(core.call(Local::counters)?, front));
    }
    let pools = targets.cores()[0].call(|local| {
        let statuses = CorePools::of(local).all().into_iter().map(|pool| pool.status());
        statuses.map(|status| (status.name.clone(), PoolFigures::from(&status))).collect()
    })?;
    let (connections, refused_connections) = (targets.connections(), targets.refused_connections());
    Ok(Metrics { connections, refused_connections, cores, pools })
}
