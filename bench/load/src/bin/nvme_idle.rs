//! What an idle connection costs a target: `sds-nvme-idle --address A --nqn N --server-pid PID [options]`, one line of
//! JSON as the result.
//!
//! Opens many hosts' connections, half of them admin queues and half I/O queues, and compares the target's resident
//! memory before and after. Options: `--connections N` (1000), `--qd N` (128, what Linux asks for).
//!
//! The kernel's memory for sockets is not in the figure.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use sds_bench::host::{HostQueue, Target, bring_up};
use sds_bench::report::resident_bytes;
use sds_proto::nvme::pdu::Digests;

struct Options {
    address: SocketAddr,
    subsystem: String,
    server_pid: u32,
    connections: usize,
    queue_depth: u16,
}

fn parse(words: &[String]) -> Result<Options, String> {
    let (mut address, mut subsystem, mut server_pid) = (None, None, None);
    let (mut connections, mut queue_depth) = (1000, 128);
    for pair in words.chunks(2) {
        let [name, value] = pair else { return Err(format!("{} wants a value", pair[0])) };
        let wrong = |_| format!("{name} can't be {value}");
        match name.as_str() {
            "--address" => address = Some(value.parse().map_err(|_| format!("{value} is no address:port"))?),
            "--nqn" => subsystem = Some(value.clone()),
            "--server-pid" => server_pid = Some(value.parse().map_err(wrong)?),
            "--connections" => connections = value.parse().map_err(wrong)?,
            "--qd" => queue_depth = value.parse().map_err(wrong)?,
            other => return Err(format!("{other} is no option")),
        }
    }
    if connections < 2 {
        return Err("--connections is at least 2: an admin queue and an I/O queue".to_owned());
    }
    Ok(Options {
        address: address.ok_or("--address is missing")?,
        subsystem: subsystem.ok_or("--nqn is missing")?,
        server_pid: server_pid.ok_or("--server-pid is missing")?,
        connections,
        queue_depth,
    })
}

/// An admin queue and an I/O queue. Each pair is a host of its own: a host may have only so many connections.
fn connect(options: &Options, number: usize) -> io::Result<[HostQueue; 2]> {
    let mut host_id = [0x5d; 16];
    host_id[..8].copy_from_slice(&(number as u64).to_be_bytes());
    let target = Target {
        address: options.address,
        subsystem: options.subsystem.clone(),
        host: format!("nqn.2026-11.io.sds:idle-{number}"),
        host_id,
        digests: Digests::default(),
    };
    let admin = bring_up(&target)?;
    let queue = HostQueue::connect(&target, 1, admin.controller_id(), options.queue_depth)?;
    Ok([admin, queue])
}

fn run(options: &Options) -> io::Result<String> {
    // The first pair touches what all share.
    let first = connect(options, 0)?;
    let before = resident_bytes(options.server_pid)?;
    let pairs = (1..=options.connections / 2).map(|number| connect(options, number)).collect::<io::Result<Vec<_>>>()?;
    let after = resident_bytes(options.server_pid)?;
    let connections = pairs.len() * 2;
    drop((first, pairs));
    Ok(format!(
        "{{\"connections\": {connections}, \"qd\": {}, \"before_bytes\": {before}, \"after_bytes\": {after}, \
         \"bytes_per_connection\": {}}}",
        options.queue_depth,
        after.saturating_sub(before) / connections as u64,
    ))
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let result = parse(&words).map(|options| run(&options));
    match result {
        Ok(Ok(line)) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            eprintln!("sds-nvme-idle: {error}");
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("sds-nvme-idle: {why}");
            ExitCode::from(2)
        }
    }
}
