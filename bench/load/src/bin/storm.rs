//! A host that writes over both protocols at once, and knows after each kill of the node what may be read.
//!
//!     sds-storm VOLUME...   each NUMBER,SIZE,BLOCK,PART_OFFSET,PART_SIZE,NVME_ADDRESS,NQN,ISCSI_ADDRESS,IQN,LUN
//!
//! Sizes are bytes. Commands come as lines on standard input, each is answered by lines of JSON. What is wrong is in
//! `troubles`. A load has two connections a volume; it answers when all stand, and when all are broken.
//!
//! | command | what it does |
//! |---|---|
//! | `load SEED FLUSHES` | asks at random until all connections are broken; flushes so often in a thousand requests |
//! | `verify PROTOCOL` | the node was killed: reads everything back |
#![forbid(unsafe_code)]

use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::thread;

use sds_bench::storm::load::{Load, Outcome, Protocol, Shared, Volume, connect, lock, read_back};
use sds_bench::storm::model::Model;
use sds_bench::storm::wire::Place;
use sds_sim::oracle::VolumeNo;
use sds_sim::payload::SECTOR_BYTES;
use sds_sim::random::Random;

/// The host that reads back; the loading ones come before it.
const READER: u8 = 200;

fn parse_volume(text: &str) -> Result<Volume, String> {
    let words: Vec<&str> = text.split(',').collect();
    let [number, size, block, offset, part, nvme, nqn, iscsi, iqn, lun] = words[..] else {
        return Err(format!("{text}: a volume has ten parts"));
    };
    let number_of = |word: &str| word.parse::<u64>().map_err(|_| format!("{text}: {word} is no number"));
    let address = |word: &str| word.parse().map_err(|_| format!("{text}: {word} is no address:port"));
    let block_bytes = number_of(block)? as u32;
    let place = |at: &str, target: &str, unit: u64| {
        Ok::<_, String>(Place { address: address(at)?, target: target.to_owned(), unit: unit as u8, block_bytes })
    };
    Ok(Volume {
        number: VolumeNo(number_of(number)? as u32),
        size_bytes: number_of(size)?,
        part: (number_of(offset)? / SECTOR_BYTES as u64, number_of(part)? / SECTOR_BYTES as u64),
        nvme: place(nvme, nqn, 1)?,
        iscsi: place(iscsi, iqn, number_of(lun)?)?,
    })
}

fn parse_protocol(word: &str) -> Result<Protocol, String> {
    match word {
        "nvme" => Ok(Protocol::Nvme),
        "iscsi" => Ok(Protocol::Iscsi),
        other => Err(format!("{other} is no protocol; nvme and iscsi are")),
    }
}

fn say(line: &str) {
    let mut out = io::stdout().lock();
    // Whoever reads this has gone if it fails, and ends this process.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// As a JSON string.
fn quoted(text: &str) -> String {
    let escaped = |symbol: char| match symbol {
        '"' | '\\' => vec!['\\', symbol],
        '\n' => vec!['\\', 'n'],
        other => vec![other],
    };
    format!("\"{}\"", text.chars().flat_map(escaped).collect::<String>())
}

fn list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", "))
}

fn load(volumes: &[Volume], model: &Shared<Model>, seed: u64, flush_per_mille: u32) -> Result<(), String> {
    let mut random = Random::new(seed);
    let outcome = Shared::<Outcome>::default();
    let mut loads = Vec::new();
    for (index, volume) in volumes.iter().enumerate() {
        for (way, protocol) in [Protocol::Nvme, Protocol::Iscsi].into_iter().enumerate() {
            let host = (index * 2 + way) as u8;
            let wire = connect(volume, protocol, host).map_err(|error| format!("{protocol:?}: {error}"))?;
            let shared = (Arc::clone(model), Arc::clone(&outcome));
            loads.push(Load::new(volume, wire, shared, random.fork(), flush_per_mille));
        }
    }
    let threads: Vec<_> = loads.into_iter().map(|load| move || load.run()).collect();
    thread::scope(|scope| {
        threads.into_iter().for_each(|run| drop(scope.spawn(run)));
        say("{\"loading\": true}");
    });
    let outcome = lock(&outcome);
    say(&format!(
        "{{\"changes\": {}, \"reads\": {}, \"flushes\": {}, \"open\": {}, \"ends\": {}, \"troubles\": {}}}",
        outcome.changes,
        outcome.reads,
        outcome.flushes,
        outcome.open,
        list(&outcome.ends),
        list(&outcome.troubles),
    ));
    Ok(())
}

fn verify(volumes: &[Volume], model: &Shared<Model>, protocol: Protocol) -> Result<(), String> {
    let mut troubles = Vec::new();
    for (index, volume) in volumes.iter().enumerate() {
        let reader = READER + index as u8;
        let read = connect(volume, protocol, reader).and_then(|mut wire| read_back(volume, wire.as_mut(), model));
        troubles.extend(read.map_err(|error| format!("{protocol:?}, volume {}: {error}", volume.number.0))?);
    }
    say(&format!("{{\"troubles\": {}}}", list(&troubles)));
    Ok(())
}

fn obey(volumes: &[Volume], model: &Shared<Model>, line: &str) -> Result<(), String> {
    let number = |word: &str| word.parse::<u64>().map_err(|_| format!("{word} is no number"));
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["load", seed, flushes] => load(volumes, model, number(seed)?, number(flushes)? as u32),
        ["verify", protocol] => {
            lock(model).killed();
            verify(volumes, model, parse_protocol(protocol)?)
        }
        _ => Err(format!("{line} is no command")),
    }
}

fn main() -> ExitCode {
    let volumes: Result<Vec<Volume>, String> = std::env::args().skip(1).map(|text| parse_volume(&text)).collect();
    let outcome = volumes.and_then(|volumes| {
        let known: Vec<_> = volumes.iter().map(|one| (one.number, one.size_bytes, one.block_bytes())).collect();
        let model = Arc::new(Mutex::new(Model::new(&known)));
        for line in io::stdin().lock().lines() {
            obey(&volumes, &model, &line.map_err(|error| error.to_string())?)?;
        }
        Ok(())
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("sds-storm: {why}");
            ExitCode::FAILURE
        }
    }
}
