//! Counters and gauges, by group and name.

use std::collections::BTreeMap;

use pyo3::prelude::*;
use sds_target::connections::FrontCounters;
use sds_uring::{Counters, Local};

use crate::cores::CorePools;
use crate::engine::Engine;
use crate::refusal::Refusal;
use crate::shapes::PoolFigures;

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

/// The figures as they are now.
pub fn gather(engine: &Engine) -> Result<Metrics, Refusal> {
    let targets = &engine.targets;
    let mut cores = BTreeMap::new();
    for (core, front) in targets.cores().iter().zip(targets.counters()) {
        cores.insert(core.index().to_string(), CoreFigures::new(core.call(Local::counters)?, front));
    }
    let pools = targets.cores()[0].call(|local| {
        let figures = |pool: &crate::cores::UringPool| {
            let status = pool.status();
            (status.name.clone(), PoolFigures::from(&status))
        };
        CorePools::of(local).all().iter().map(|pool| figures(pool)).collect()
    })?;
    let (connections, refused_connections) = (targets.connections(), targets.refused_connections());
    Ok(Metrics { connections, refused_connections, cores, pools })
}
