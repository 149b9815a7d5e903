//! When a target serves again: `sds-nvme-first --address A --nqn N --read BYTE --write BYTE`, one line of JSON as the
//! result.
//!
//! A host that tries to connect until it can, reads 4 KiB at one place of the namespace, then writes 4 KiB at another.
//! The times are those of the machine's monotonic clock, in nanoseconds, so that whoever killed the target can
//! subtract. It says `ready` on standard error once it has begun to try, and gives up after `--seconds N` (120).

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use sds_bench::host::{HostQueue, Target, bring_up};
use sds_proto::nvme::pdu::Digests;
use sds_proto::nvme::status::Status;

/// A host's wait between two tries is longer (Linux: 10 s); this is how exactly the time is known.
const RETRY_MS: u64 = 2;
const BLOCK_BYTES: usize = 4096;
const LOGICAL_BLOCK_BYTES: u64 = 512;
const QUEUE_DEPTH: u16 = 32;

struct Options {
    target: Target,
    read_byte: u64,
    write_byte: u64,
    limit: Duration,
}

fn parse(words: &[String]) -> Result<Options, String> {
    let (mut address, mut subsystem, mut read_byte, mut write_byte, mut seconds) = (None, None, None, None, 120);
    for pair in words.chunks(2) {
        let [name, value] = pair else { return Err(format!("{} wants a value", pair[0])) };
        let number = || value.parse::<u64>().map_err(|_| format!("{name} can't be {value}"));
        match name.as_str() {
            "--address" => address = Some(value.parse().map_err(|_| format!("{value} is no address:port"))?),
            "--nqn" => subsystem = Some(value.clone()),
            "--read" => read_byte = Some(number()?),
            "--write" => write_byte = Some(number()?),
            "--seconds" => seconds = number()?,
            other => return Err(format!("{other} is no option")),
        }
    }
    Ok(Options {
        target: Target {
            address: address.ok_or("--address is missing")?,
            subsystem: subsystem.ok_or("--nqn is missing")?,
            host: "nqn.2026-11.io.sds:bench-host".to_owned(),
            host_id: [0x5d; 16],
            digests: Digests::default(),
        },
        read_byte: read_byte.ok_or("--read is missing")?,
        write_byte: write_byte.ok_or("--write is missing")?,
        limit: Duration::from_secs(seconds),
    })
}

fn now_ns() -> i128 {
    let now = clock_gettime(ClockId::Monotonic);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

/// Connects, again and again until it works.
fn connect(options: &Options) -> io::Result<(HostQueue, HostQueue, u64)> {
    let began = Instant::now();
    let mut tries = 0;
    loop {
        tries += 1;
        let connected = bring_up(&options.target).and_then(|admin| {
            let queue = HostQueue::connect(&options.target, 1, admin.controller_id(), QUEUE_DEPTH)?;
            Ok((admin, queue))
        });
        match connected {
            Ok((admin, queue)) => return Ok((admin, queue, tries)),
            Err(error) if began.elapsed() > options.limit => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(RETRY_MS)),
        }
    }
}

fn ended(queue: &mut HostQueue, what: &str) -> io::Result<i128> {
    let status = queue.completion()?.status;
    if status != Status::SUCCESS {
        return Err(io::Error::other(format!("the {what} failed: {status:?}")));
    }
    Ok(now_ns())
}

fn run(options: &Options) -> io::Result<String> {
    eprintln!("ready");
    let (_admin, mut queue, tries) = connect(options)?;
    let connected = now_ns();
    let blocks = BLOCK_BYTES as u32 / LOGICAL_BLOCK_BYTES as u32;
    let full = || io::Error::other("a new queue is full");
    queue.read(options.read_byte / LOGICAL_BLOCK_BYTES, blocks, BLOCK_BYTES).ok_or_else(full)?;
    let read = ended(&mut queue, "read")?;
    queue.write(options.write_byte / LOGICAL_BLOCK_BYTES, blocks, &[0x5d; BLOCK_BYTES]).ok_or_else(full)?;
    let written = ended(&mut queue, "write")?;
    Ok(format!("{{\"tries\": {tries}, \"connected_ns\": {connected}, \"read_ns\": {read}, \"written_ns\": {written}}}"))
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match parse(&words).map(|options| run(&options)) {
        Ok(Ok(line)) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            eprintln!("sds-nvme-first: {error}");
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("sds-nvme-first: {why}");
            ExitCode::from(2)
        }
    }
}
