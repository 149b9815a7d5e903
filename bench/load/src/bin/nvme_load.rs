//! Drives an NVMe/TCP target: `sds-nvme-load --address A --nqn N [options]`, one line of JSON as the result.
//!
//! Options: `--host NQN`, `--qd N` (of each connection), `--connections N`, `--read-percent N`, `--block BYTES`,
//! `--logical-block BYTES`, `--offset BYTES` and `--region BYTES` (the part of the namespace that is used),
//! `--stride BYTES` (from a place to the next; a block if not given), `--seconds N`, `--seed N`, `--digests`,
//! `--server-pid PID` (repeatable: their processor time is divided by the commands).
//!
//! Places are random. With `--sweep PLACES` each place is visited once instead, shuffled within windows of so many, and
//! the run ends when all were.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sds_bench::host::{HostQueue, Target, bring_up};
use sds_bench::load::{Job, LoadConnection, Stats};
use sds_bench::places::Sweep;
use sds_bench::report::processor_time;
use sds_io::Clock;
use sds_proto::nvme::pdu::Digests;
use sds_uring::{CoreHandle, CoreOptions, Disks};

/// Before this the connections and caches warm up; nothing is counted.
const WARM_UP_MS: u64 = 500;
/// How often it is looked whether a sweep is over. When it was is known more exactly.
const SWEEP_POLL_MS: u64 = 20;

struct Options {
    target: Target,
    job: Job,
    connections: u16,
    seconds: u64,
    /// Places of a window of the sweep, if it is to be one.
    sweep: Option<u64>,
    seed: u64,
    server_pids: Vec<u32>,
}

fn parse(words: &[String]) -> Result<Options, String> {
    let mut values: HashMap<&str, &str> = HashMap::new();
    let mut server_pids = Vec::new();
    let mut digests = false;
    let mut rest = words.iter();
    while let Some(name) = rest.next() {
        if name == "--digests" {
            digests = true;
            continue;
        }
        let value = rest.next().ok_or_else(|| format!("{name} wants a value"))?;
        match name.as_str() {
            "--server-pid" => server_pids.push(value.parse().map_err(|_| format!("{value} is no process id"))?),
            "--address" | "--nqn" | "--host" | "--qd" | "--connections" | "--read-percent" | "--block"
            | "--logical-block" | "--offset" | "--region" | "--stride" | "--sweep" | "--seconds" | "--seed" => {
                values.insert(name.as_str(), value);
            }
            other => return Err(format!("{other} is no option")),
        }
    }
    let number = |name: &str, default: u64| match values.get(name) {
        None => Ok(default),
        Some(text) => text.parse::<u64>().map_err(|_| format!("{name} {text} is no number")),
    };
    let block_bytes = number("--block", 4096)?;
    let job = Job {
        queue_depth: number("--qd", 32)?.clamp(1, 1023) as u16,
        read_percent: number("--read-percent", 100)?.min(100) as u8,
        block_bytes: block_bytes as u32,
        logical_block_bytes: number("--logical-block", 512)? as u32,
        region_offset: number("--offset", 0)?,
        region_bytes: number("--region", 64 << 20)?,
        stride_bytes: number("--stride", block_bytes)?,
    };
    let blocks = |bytes: u64| bytes % u64::from(job.logical_block_bytes.max(1)) == 0;
    if job.stride_bytes == 0 || !blocks(job.stride_bytes) || !blocks(job.region_offset) {
        return Err("--stride and --offset are multiples of --logical-block".to_owned());
    }
    if job.block_bytes == 0 || job.block_bytes % job.logical_block_bytes.max(1) != 0 {
        return Err("--block is a multiple of --logical-block".to_owned());
    }
    if job.region_bytes < u64::from(job.block_bytes) {
        return Err("--region holds at least one block".to_owned());
    }
    let address = values.get("--address").ok_or("--address is missing")?;
    Ok(Options {
        target: Target {
            address: address.parse().map_err(|_| format!("{address} is no address:port"))?,
            subsystem: (*values.get("--nqn").ok_or("--nqn is missing")?).to_owned(),
            host: values.get("--host").map_or("nqn.2026-11.io.sds:bench-host", |text| *text).to_owned(),
            host_id: [0x5d; 16],
            digests: Digests { header: digests, data: digests },
        },
        job,
        connections: number("--connections", 1)?.clamp(1, 128) as u16,
        seconds: number("--seconds", 5)?.max(1),
        sweep: if values.contains_key("--sweep") { Some(number("--sweep", 1)?.max(1)) } else { None },
        seed: number("--seed", 1)?,
        server_pids,
    })
}

fn times(options: &Options) -> io::Result<(Duration, Duration)> {
    let server = options.server_pids.iter().map(|pid| processor_time(*pid)).sum::<io::Result<Duration>>()?;
    Ok((server, processor_time(std::process::id())?))
}

/// What a run came to.
struct Outcome {
    stats: Stats,
    elapsed: Duration,
    server: Duration,
    client: Duration,
}

fn run(options: &Options) -> io::Result<Outcome> {
    let admin = bring_up(&options.target)?;
    let mut queues = Vec::new();
    for number in 1..=options.connections {
        queues.push(HostQueue::connect(&options.target, number, admin.controller_id(), options.job.queue_depth)?);
    }
    let core = CoreHandle::start(CoreOptions::default(), Arc::clone(&Disks::new()))?;
    let (job, seed, window) = (options.job, options.seed, options.sweep);
    let at_start = times(options)?;
    let began = core
        .call(move |local| {
            let stats = Rc::new(RefCell::new(Stats::default()));
            let stopped = Rc::new(Cell::new(false));
            local.put(Rc::clone(&stats));
            let sweep = window.map(|window| Rc::new(RefCell::new(Sweep::new(job.places(), window, seed))));
            for (number, queue) in queues.into_iter().enumerate() {
                let seed = seed.wrapping_add(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                LoadConnection::start(local, queue, job, seed, sweep.clone(), Rc::clone(&stats), Rc::clone(&stopped))?;
            }
            Ok::<Duration, io::Error>(local.clock().now())
        })
        .map_err(io::Error::other)??;
    let take = || core.call(|local| local.get::<RefCell<Stats>>().map(|stats| stats.take()).unwrap_or_default());
    let (stats, elapsed, before) = if options.sweep.is_some() {
        wait_for_sweep(&core, job.places())?;
        let stats = take().map_err(io::Error::other)?;
        let elapsed = stats.last.saturating_sub(began);
        (stats, elapsed, at_start)
    } else {
        std::thread::sleep(Duration::from_millis(WARM_UP_MS));
        take().map_err(io::Error::other)?;
        let (began, before) = (Instant::now(), times(options)?);
        std::thread::sleep(Duration::from_secs(options.seconds));
        (take().map_err(io::Error::other)?, began.elapsed(), before)
    };
    let after = times(options)?;
    core.stop();
    drop(admin);
    if let Some(why) = stats.broken {
        return Err(io::Error::other(format!("a connection broke: {why}")));
    }
    Ok(Outcome { stats, elapsed, server: after.0 - before.0, client: after.1 - before.1 })
}

fn wait_for_sweep(core: &CoreHandle, places: u64) -> io::Result<()> {
    loop {
        std::thread::sleep(Duration::from_millis(SWEEP_POLL_MS));
        let over = core.call(move |local| {
            local.get::<RefCell<Stats>>().is_none_or(|stats| {
                let stats = stats.borrow();
                stats.broken.is_some() || stats.ended + stats.failed == places
            })
        });
        if over.map_err(io::Error::other)? {
            return Ok(());
        }
    }
}

fn line(options: &Options, outcome: &Outcome) -> String {
    let (job, stats) = (options.job, &outcome.stats);
    let per_command = |time: Duration| time.as_secs_f64() * 1e6 / stats.ended.max(1) as f64;
    let micros = |share: f64| stats.latency.quantile(share).as_secs_f64() * 1e6;
    let server =
        if options.server_pids.is_empty() { "null".to_owned() } else { format!("{:.3}", per_command(outcome.server)) };
    format!(
        "{{\"qd\": {}, \"connections\": {}, \"read_percent\": {}, \"block_bytes\": {}, \"seconds\": {:.2}, \
         \"commands\": {}, \"failed\": {}, \"iops\": {:.0}, \"p50_us\": {:.1}, \"p99_us\": {:.1}, \
         \"server_cpu_us\": {server}, \"client_cpu_us\": {:.3}}}",
        job.queue_depth,
        options.connections,
        job.read_percent,
        job.block_bytes,
        outcome.elapsed.as_secs_f64(),
        stats.ended,
        stats.failed,
        stats.ended as f64 / outcome.elapsed.as_secs_f64(),
        micros(0.5),
        micros(0.99),
        per_command(outcome.client),
    )
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let options = match parse(&words) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("sds-nvme-load: {why}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(outcome) => {
            println!("{}", line(&options, &outcome));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sds-nvme-load: {error}");
            ExitCode::FAILURE
        }
    }
}
