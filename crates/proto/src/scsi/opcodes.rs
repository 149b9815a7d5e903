//! The table of commands. It decides what is implemented, and REPORT SUPPORTED OPERATION CODES answers from it.

use alloc::vec::Vec;

use super::commands::cut;
use super::sense::Sense;

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation {
    Read,
    Write,
    SynchronizeCache,
    Unmap,
    WriteSame,
    TestUnitReady,
    RequestSense,
    Inquiry,
    ModeSelect,
    ModeSense,
    StartStopUnit,
    PreventAllow,
    ReadCapacity10,
    ReadCapacity16,
    WriteAndVerify,
    Verify,
    Prefetch,
    LogSense,
    CompareAndWrite,
    GetLbaStatus,
    ReportLuns,
    ReportOperationCodes,
    ReportTaskManagement,
}

/// One command: SPC-4 6.35.
#[derive(Debug)]
pub struct Opcode {
    /// OPERATION CODE.
    pub code: u8,
    /// SERVICE ACTION, in byte 1, bits 4-0.
    pub service_action: Option<u8>,
    /// CDB USAGE DATA: which bits are looked at; byte 0 is the code. As long as the CDB.
    pub usage: &'static [u8],
    /// What it does.
    pub operation: Operation,
}

const fn plain(code: u8, operation: Operation, usage: &'static [u8]) -> Opcode {
    assert!(usage[0] == code);
    Opcode { code, service_action: None, usage, operation }
}

const fn action(code: u8, service_action: u8, operation: Operation, usage: &'static [u8]) -> Opcode {
    assert!(usage[0] == code && usage[1] == service_action);
    Opcode { code, service_action: Some(service_action), usage, operation }
}

/// All commands; those of every I/O first, since the search is linear.
pub static OPCODES: &[Opcode] = &[
    plain(0x28, Operation::Read, &[0x28, 0xf8, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]),
    plain(0x2a, Operation::Write, &[0x2a, 0xf8, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]),
    plain(0x88, Operation::Read, &READ_16),
    plain(0x8a, Operation::Write, &[0x8a, 0xf8, M, M, M, M, M, M, M, M, M, M, M, M, 0, 0]),
    plain(0x35, Operation::SynchronizeCache, &[0x35, 0x02, M, M, M, M, 0, M, M, 0]),
    plain(0x91, Operation::SynchronizeCache, &[0x91, 0x02, M, M, M, M, M, M, M, M, M, M, M, M, 0, 0]),
    plain(0x42, Operation::Unmap, &[0x42, 0x01, 0, 0, 0, 0, 0, M, M, 0]),
    plain(0x41, Operation::WriteSame, &[0x41, 0xf8, M, M, M, M, 0, M, M, 0]),
    plain(0x93, Operation::WriteSame, &[0x93, 0xf9, M, M, M, M, M, M, M, M, M, M, M, M, 0, 0]),
    plain(0x00, Operation::TestUnitReady, &[0x00, 0, 0, 0, 0, 0]),
    plain(0x03, Operation::RequestSense, &[0x03, 0x01, 0, 0, M, 0]),
    plain(0x08, Operation::Read, &[0x08, 0x1f, M, M, M, 0]),
    plain(0x0a, Operation::Write, &[0x0a, 0x1f, M, M, M, 0]),
    plain(0x12, Operation::Inquiry, &[0x12, 0x01, M, M, M, 0]),
    plain(0x15, Operation::ModeSelect, &[0x15, 0x11, 0, 0, M, 0]),
    plain(0x1a, Operation::ModeSense, &[0x1a, 0x08, M, M, M, 0]),
    plain(0x1b, Operation::StartStopUnit, &[0x1b, 0x01, 0, 0x0f, 0xf7, 0]),
    plain(0x1e, Operation::PreventAllow, &[0x1e, 0, 0, 0, 0x03, 0]),
    plain(0x25, Operation::ReadCapacity10, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    plain(0x2e, Operation::WriteAndVerify, &[0x2e, 0xf6, M, M, M, M, 0, M, M, 0]),
    plain(0x2f, Operation::Verify, &[0x2f, 0xf6, M, M, M, M, 0, M, M, 0]),
    plain(0x34, Operation::Prefetch, &[0x34, 0x02, M, M, M, M, 0, M, M, 0]),
    plain(0x4d, Operation::LogSense, &[0x4d, 0, M, M, 0, M, M, M, M, 0]),
    plain(0x55, Operation::ModeSelect, &[0x55, 0x11, 0, 0, 0, 0, 0, M, M, 0]),
    plain(0x5a, Operation::ModeSense, &[0x5a, 0x18, M, M, 0, 0, 0, M, M, 0]),
    plain(0x89, Operation::CompareAndWrite, &[0x89, 0xf8, M, M, M, M, M, M, M, M, 0, 0, 0, M, 0, 0]),
    plain(0x8e, Operation::WriteAndVerify, &[0x8e, 0xf6, M, M, M, M, M, M, M, M, M, M, M, M, 0, 0]),
    plain(0x8f, Operation::Verify, &[0x8f, 0xf6, M, M, M, M, M, M, M, M, M, M, M, M, 0, 0]),
    plain(0x90, Operation::Prefetch, &[0x90, 0x02, M, M, M, M, M, M, M, M, M, M, M, M, 0, 0]),
    action(0x9e, 0x10, Operation::ReadCapacity16, &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, M, M, M, M, 0, 0]),
    action(0x9e, 0x12, Operation::GetLbaStatus, &[0x9e, 0x12, M, M, M, M, M, M, M, M, M, M, M, M, 0, 0]),
    plain(0xa0, Operation::ReportLuns, &[0xa0, 0, M, 0, 0, 0, M, M, M, M, 0, 0]),
    action(0xa3, 0x0c, Operation::ReportOperationCodes, &[0xa3, 0x0c, 0x87, M, M, M, M, M, M, M, 0, 0]),
    action(0xa3, 0x0d, Operation::ReportTaskManagement, &[0xa3, 0x0d, 0x80, 0, 0, 0, M, M, M, M, 0, 0]),
    plain(0xa8, Operation::Read, &[0xa8, 0xf8, M, M, M, M, M, M, M, M, 0, 0]),
    plain(0xaa, Operation::Write, &[0xaa, 0xf8, M, M, M, M, M, M, M, M, 0, 0]),
    plain(0xae, Operation::WriteAndVerify, &[0xae, 0xf6, M, M, M, M, M, M, M, M, 0, 0]),
    plain(0xaf, Operation::Verify, &[0xaf, 0xf6, M, M, M, M, M, M, M, M, 0, 0]),
];

/// A byte whose bits all count.
const M: u8 = 0xff;
const READ_16: [u8; 16] = [0x88, 0xf8, M, M, M, M, M, M, M, M, M, M, M, M, 0, 0];

/// Finds a CDB's command.
///
/// # Errors
/// INVALID COMMAND OPERATION CODE; or INVALID FIELD IN CDB at the service action of a code that has others.
pub fn find(cdb: &[u8; 16]) -> Result<&'static Opcode, Sense> {
    let mut code_known = false;
    for opcode in OPCODES.iter().filter(|opcode| opcode.code == cdb[0]) {
        match opcode.service_action {
            Some(service_action) if service_action != cdb[1] & 0x1f => code_known = true,
            Some(_) | None => return Ok(opcode),
        }
    }
    Err(if code_known { Sense::cdb_field(1, Some(4)) } else { Sense::INVALID_OPCODE })
}

/// REPORT SUPPORTED OPERATION CODES (SPC-4 6.35).
///
/// # Errors
/// INVALID FIELD IN CDB at the reporting options, or at the code or service action that does not go with them.
pub fn report(cdb: &[u8; 16], out: &mut Vec<u8>) -> Result<(), Sense> {
    let with_timeouts = cdb[2] & 0x80 != 0;
    let (code, service_action) = (cdb[3], u16::from_be_bytes([cdb[4], cdb[5]]));
    let allocation = u32::from_be_bytes([cdb[6], cdb[7], cdb[8], cdb[9]]);
    let has_actions = OPCODES.iter().any(|opcode| opcode.code == code && opcode.service_action.is_some());
    let wanted = (u16::from(u8::MAX) >= service_action).then_some(service_action as u8);
    match cdb[2] & 0x07 {
        0 => report_all(with_timeouts, out),
        1 if has_actions => return Err(Sense::cdb_field(2, Some(2))),
        1 => report_one(OPCODES.iter().find(|opcode| opcode.code == code), with_timeouts, out),
        2 if !has_actions => return Err(Sense::cdb_field(2, Some(2))),
        2 | 3 => {
            let matches = |opcode: &&Opcode| {
                opcode.code == code
                    && match opcode.service_action {
                        Some(action) => Some(action) == wanted,
                        None => service_action == 0,
                    }
            };
            report_one(OPCODES.iter().find(matches), with_timeouts, out);
        }
        _ => return Err(Sense::cdb_field(2, Some(2))),
    }
    cut(out, allocation);
    Ok(())
}

fn report_all(with_timeouts: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; 4]);
    for opcode in OPCODES {
        let flags = u8::from(with_timeouts) << 1 | u8::from(opcode.service_action.is_some());
        let action = opcode.service_action.unwrap_or(0);
        out.extend_from_slice(&[opcode.code, 0, 0, action, 0, flags, 0, opcode.usage.len() as u8]);
        if with_timeouts {
            out.extend_from_slice(&NO_TIMEOUTS);
        }
    }
    let bytes = out.len() as u32 - 4;
    out[..4].copy_from_slice(&bytes.to_be_bytes());
}

fn report_one(opcode: Option<&Opcode>, with_timeouts: bool, out: &mut Vec<u8>) {
    let Some(opcode) = opcode else {
        // SUPPORT 001b: not supported.
        out.extend_from_slice(&[0, 0x01, 0, 0]);
        return;
    };
    // SUPPORT 011b: supported as in the standard.
    out.extend_from_slice(&[0, u8::from(with_timeouts) << 7 | 0x03, 0, opcode.usage.len() as u8]);
    out.extend_from_slice(opcode.usage);
    if with_timeouts {
        out.extend_from_slice(&NO_TIMEOUTS);
    }
}

/// A command timeouts descriptor that states none (SPC-4 6.35.4).
const NO_TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[cfg(test)]
mod tests {
    use super::*;

    fn request(options: u8, code: u8, action: u16) -> [u8; 16] {
        let [high, low] = action.to_be_bytes();
        [0xa3, 0x0c, options, code, high, low, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0]
    }

    #[test]
    fn one_command_is_reported_with_its_usage() {
        let mut out = Vec::new();
        report(&request(0x82, 0x9e, 0x10), &mut out).unwrap();
        let expected = [
            0, 0x83, 0, 16, // CTDP, supported as in the standard; CDB size
            0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, // usage
            0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // timeouts
        ];
        assert_eq!(out, expected);
    }

    #[test]
    fn options_and_service_actions_must_go_together() {
        let mut out = Vec::new();
        assert_eq!(report(&request(1, 0x9e, 0), &mut out), Err(Sense::cdb_field(2, Some(2))));
        assert_eq!(report(&request(2, 0x28, 0), &mut out), Err(Sense::cdb_field(2, Some(2))));
        assert_eq!(report(&request(4, 0x28, 0), &mut out), Err(Sense::cdb_field(2, Some(2))));
        assert!(out.is_empty());
        report(&request(3, 0x9e, 0x1f), &mut out).unwrap();
        assert_eq!(out, [0, 0x01, 0, 0]);
    }

    #[test]
    fn all_commands_are_listed_once() {
        let mut out = Vec::new();
        report(&request(0, 0, 0), &mut out).unwrap();
        assert_eq!(out.len(), 4 + 8 * OPCODES.len());
        assert_eq!(out[..4], (8 * OPCODES.len() as u32).to_be_bytes());
        assert_eq!(out[4..12], [0x28, 0, 0, 0, 0, 0, 0, 10]);
        let mut pairs: Vec<_> = OPCODES.iter().map(|opcode| (opcode.code, opcode.service_action)).collect();
        pairs.sort_unstable();
        pairs.dedup();
        assert_eq!(pairs.len(), OPCODES.len());
    }

    #[test]
    fn unknown_codes_and_unknown_actions_are_refused_differently() {
        let mut cdb = [0; 16];
        cdb[0] = 0xc1;
        assert_eq!(find(&cdb).unwrap_err(), Sense::INVALID_OPCODE);
        cdb[..2].copy_from_slice(&[0x9e, 0x11]);
        assert_eq!(find(&cdb).unwrap_err(), Sense::cdb_field(1, Some(4)));
        cdb[1] = 0xf2;
        assert_eq!(find(&cdb).unwrap().operation, Operation::GetLbaStatus);
    }
}
