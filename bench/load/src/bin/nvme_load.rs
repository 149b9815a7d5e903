//! Drives an NVMe/TCP target: `sds-nvme-load --address A --nqn N [options]`, one line of JSON as the result.
//!
//! Options: `--host NQN`, `--qd N` (of each connection), `--connections N`, `--read-percent N`, `--block BYTES`,
//! `--logical-block BYTES`, `--region BYTES`, `--seconds N`, `--seed N`, `--digests`, `--server-pid PID` (repeatable:
//! their processor time is divided by the commands).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sds_bench::host::{HostQueue, Target, bring_up};
use sds_bench::load::{Job, LoadConnection, Stats};
use sds_bench::report::processor_time;
use sds_proto::nvme::pdu::Digests;
use sds_uring::{CoreHandle, CoreOptions, Disks};

/// Before this the connections and caches warm up; nothing is counted.
const WARM_UP_MS: u64 = 500;

struct Options {
    target: Target,
    job: Job,
    connections: u16,
    seconds: u64,
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
            | "--logical-block" | "--region" | "--seconds" | "--seed" => drop(values.insert(name.as_str(), value)),
            other => return Err(format!("{other} is no option")),
        }
    }
    let number = |name: &str, default: u64| match values.get(name) {
        None => Ok(default),
        Some(text) => text.parse::<u64>().map_err(|_| format!("{name} {text} is no number")),
    };
    let job = Job {
        queue_depth: number("--qd", 32)?.clamp(1, 1023) as u16,
        read_percent: number("--read-percent", 100)?.min(100) as u8,
        block_bytes: number("--block", 4096)? as u32,
        logical_block_bytes: number("--logical-block", 512)? as u32,
        region_bytes: number("--region", 64 << 20)?,
    };
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
        seed: number("--seed", 1)?,
        server_pids,
    })
}

fn times(options: &Options) -> io::Result<(Duration, Duration)> {
    let server = options.server_pids.iter().map(|pid| processor_time(*pid)).sum::<io::Result<Duration>>()?;
    Ok((server, processor_time(std::process::id())?))
}

fn run(options: &Options) -> io::Result<String> {
    let admin = bring_up(&options.target)?;
    let mut queues = Vec::new();
    for number in 1..=options.connections {
        queues.push(HostQueue::connect(&options.target, number, admin.controller_id(), options.job.queue_depth)?);
    }
    let core = CoreHandle::start(CoreOptions::default(), Arc::clone(&Disks::new()))?;
    let (job, seed) = (options.job, options.seed);
    core.call(move |local| {
        let stats = Rc::new(RefCell::new(Stats::default()));
        let stopped = Rc::new(Cell::new(false));
        local.put(Rc::clone(&stats));
        for (number, queue) in queues.into_iter().enumerate() {
            let seed = seed.wrapping_add(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            LoadConnection::start(local, queue, job, seed, Rc::clone(&stats), Rc::clone(&stopped))?;
        }
        Ok::<(), io::Error>(())
    })
    .map_err(io::Error::other)??;
    let take = || core.call(|local| local.get::<RefCell<Stats>>().map(|stats| stats.take()).unwrap_or_default());
    std::thread::sleep(Duration::from_millis(WARM_UP_MS));
    take().map_err(io::Error::other)?;
    let (began, before) = (Instant::now(), times(options)?);
    std::thread::sleep(Duration::from_secs(options.seconds));
    let stats = take().map_err(io::Error::other)?;
    let (elapsed, after) = (began.elapsed(), times(options)?);
    core.stop();
    drop(admin);
    if let Some(why) = stats.broken {
        return Err(io::Error::other(format!("a connection broke: {why}")));
    }
    let per_command = |time: Duration| time.as_secs_f64() * 1e6 / stats.ended.max(1) as f64;
    let micros = |share: f64| stats.latency.quantile(share).as_secs_f64() * 1e6;
    let server = if options.server_pids.is_empty() {
        "null".to_owned()
    } else {
        format!("{:.3}", per_command(after.0 - before.0))
    };
    Ok(format!(
        "{{\"qd\": {}, \"connections\": {}, \"read_percent\": {}, \"block_bytes\": {}, \"seconds\": {:.2}, \
         \"commands\": {}, \"failed\": {}, \"iops\": {:.0}, \"p50_us\": {:.1}, \"p99_us\": {:.1}, \
         \"server_cpu_us\": {server}, \"client_cpu_us\": {:.3}}}",
        job.queue_depth,
        options.connections,
        job.read_percent,
        job.block_bytes,
        elapsed.as_secs_f64(),
        stats.ended,
        stats.failed,
        stats.ended as f64 / elapsed.as_secs_f64(),
        micros(0.5),
        micros(0.99),
        per_command(after.1 - before.1),
    ))
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
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sds-nvme-load: {error}");
            ExitCode::FAILURE
        }
    }
}
