//! CDBs and parameter lists: what is let through lies on the unit and within its limits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sds_block::{Command, LbaRange};
use sds_fuzz::shell::geometry;
use sds_fuzz::words::Words;
use sds_proto::Unit;
use sds_proto::scsi::commands::{Action, Finished, decode, decode_absent};
use sds_proto::scsi::unit::{LogicalUnit, PARAMETER_BYTES_MAX, TransferLimits, UnitFacts};

const TRANSFER_BYTES_MAX: u32 = 1 << 20;

fn unit(options: u8, target: &str) -> LogicalUnit {
    let mut geometry = geometry();
    geometry.read_only = options & 1 != 0;
    if options & 2 != 0 {
        geometry.logical_block_bytes = 4096;
    }
    geometry.blocks.0 = [0, 1, 4096, u64::MAX / 4096][usize::from(options >> 2 & 3)];
    LogicalUnit {
        facts: UnitFacts {
            unit: Unit(0),
            geometry,
            vendor: "SDS".to_owned(),
            product: "VOLUME".to_owned(),
            revision: "1".to_owned(),
            serial: "S1".to_owned(),
        },
        target: target.to_owned(),
        portal_group: 1,
        limits: TransferLimits { transfer_bytes_max: TRANSFER_BYTES_MAX, compare_and_write_bytes_max: 64 << 10 },
    }
}

fn check(range: &LbaRange, unit: &LogicalUnit) {
    assert!(range.check(unit.facts.geometry.blocks).is_ok(), "{range:?} lies past the end");
}

fn check_transfer(range: &LbaRange, unit: &LogicalUnit) {
    check(range, unit);
    let bytes = range.count.0 * u64::from(unit.block_bytes());
    assert!((1..=u64::from(TRANSFER_BYTES_MAX)).contains(&bytes), "{bytes} bytes in one transfer");
}

fn check_command(command: &Command, unit: &LogicalUnit) {
    match command {
        Command::Read(range) | Command::Compare(range) => check_transfer(range, unit),
        Command::Write { range, .. } => check_transfer(range, unit),
        Command::CompareAndWrite { range, .. } | Command::WriteZeroes { range, .. } => check(range, unit),
        Command::Discard(ranges) => ranges.iter().for_each(|range| check(range, unit)),
        Command::Flush => {}
    }
    if unit.facts.geometry.read_only {
        assert!(matches!(command, Command::Read(_) | Command::Compare(_) | Command::Flush), "{command:?}");
    }
}

fuzz_target!(|input: &[u8]| {
    let mut words = Words(input);
    let (options, cdb) = (words.u8(), words.array::<16>());
    let unit = unit(options, "iqn.2026-11.io.sds:pool.volume");
    let mut out = Vec::new();
    let action = if options & 0x10 == 0 {
        decode(&cdb, &unit, None, &mut out)
    } else {
        decode_absent(&cdb, options & 0x20 != 0, &mut out)
    };
    assert!(out.len() < 1 << 16, "{} bytes of answer", out.len());
    match action {
        Ok(Action::Good | Action::Answer) | Err(_) => {}
        Ok(Action::Read(range)) => check_transfer(&range, &unit),
        Ok(Action::Check(range)) => check(&range, &unit),
        Ok(Action::NoPayload(command)) => check_command(&command, &unit),
        Ok(Action::Payload { command, payload_bytes, .. }) => {
            check_command(&command, &unit);
            assert!(payload_bytes <= TRANSFER_BYTES_MAX, "{payload_bytes} bytes of payload");
        }
        Ok(Action::Parameters { parameters, bytes }) => {
            assert!(bytes as usize <= PARAMETER_BYTES_MAX, "{bytes} bytes of parameters");
            let mut list = words.rest().to_vec();
            if parameters.exact() {
                list.resize(bytes as usize, 0);
            } else {
                list.truncate(bytes as usize);
            }
            match parameters.finish(&list, &unit) {
                Ok(Finished::Good) | Err(_) => {}
                Ok(Finished::NoPayload(command)) => check_command(&command, &unit),
                Ok(Finished::Repeat(range)) => check(&range, &unit),
            }
        }
    }
});
