//! An NVMe/TCP target that only receives and answers: what is left of a request's cost with it is the front end's.
//!
//! `sds-null-target ADDRESS [CORES] [memory|null] [SPIN_US]` prints address and NQN, then IQN with its address,
//! and serves until it is killed. With `memory` the unit is a real one in RAM (1 GiB, one core); else reads give the
//! same bytes and writes go nowhere.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;

use sds_bench::words::log_to_standard_error;
use sds_target::devices::NamedDevices;
use sds_target::{Access, DynDevice, Export, MemoryDevice, NullDevice, Protocol, Targets, TargetsOptions, VolumeKey};
use sds_uring::Disks;

const IQN: &str = "iqn.2026-11.io.sds:bench.null";
const NQN: &str = "nqn.2026-11.io.sds:bench.null";
const NULL_BYTES: u64 = 1 << 40;
const MEMORY_BYTES: u64 = 1 << 30;

fn serve(address: SocketAddr, cores: usize, memory: bool, spin_us: u32) -> std::io::Result<Targets> {
    let options = TargetsOptions { cores, spin_us, ..TargetsOptions::default() };
    let targets = Targets::start(&options, &Disks::new())?;
    targets
        .set_devices(move |_| {
            let device: Rc<DynDevice> = if memory {
                Rc::new(MemoryDevice::new(MEMORY_BYTES, [1; 16]))
            } else {
                Rc::new(NullDevice::new(NULL_BYTES, [1; 16]))
            };
            Rc::new(NamedDevices::default().with("bench/null", device))
        })
        .map_err(std::io::Error::other)?;
    let export = |protocol, name: &str, unit| Export {
        protocol,
        name: name.to_owned(),
        unit,
        volume: VolumeKey("bench/null".to_owned()),
        access: Access::AnyHost,
        serial: "bench".to_owned(),
    };
    targets.set_exports(vec![export(Protocol::Nvme, NQN, 1), export(Protocol::Iscsi, IQN, 0)]);
    println!("{} {NQN}", targets.listen(Protocol::Nvme, address)?);
    let portal = SocketAddr::new(address.ip(), 0);
    println!("{} {IQN}", targets.listen(Protocol::Iscsi, portal)?);
    Ok(targets)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let address = words.first().and_then(|text| text.parse().ok());
    let cores = words.get(1).map_or(Some(1), |text| text.parse().ok());
    let memory = words.get(2).is_some_and(|word| word == "memory");
    let spin_us = words.get(3).map_or(Some(0), |text| text.parse().ok());
    let (Some(address), Some(cores), Some(spin_us)) = (address, cores, spin_us) else {
        eprintln!("usage: sds-null-target ADDRESS [CORES] [memory|null] [SPIN_US]");
        return ExitCode::from(2);
    };
    if memory && cores != 1 {
        eprintln!("the memory device is one core's");
        return ExitCode::from(2);
    }
    log_to_standard_error(log::LevelFilter::Info);
    match serve(address, cores, memory, spin_us) {
        Ok(_targets) => loop {
            std::thread::park();
        },
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
