//! MODE SENSE and MODE SELECT (SPC-4 7.5, SBC-3 6.5), LOG SENSE (SPC-4 7.3).

use alloc::vec::Vec;

use zerocopy::{FromBytes, IntoBytes};

use super::commands::{Action, Parameters, cut};
use super::sense::{Failure, Sense};
use super::spec::{ModeHeader6, ModeHeader10};
use super::unit::{LogicalUnit, PARAMETER_BYTES_MAX};

/// A mode page without subpages.
struct ModePage {
    code: u8,
    write: fn(&LogicalUnit, &mut Vec<u8>),
}

/// All pages, in the order of page 3Fh. No field of any is changeable.
const PAGES: [ModePage; 4] = [
    ModePage { code: 0x01, write: read_write_error_recovery },
    ModePage { code: 0x08, write: caching },
    ModePage { code: 0x0a, write: control },
    ModePage { code: 0x1c, write: informational_exceptions },
];

/// SBC-3 6.5.8. AWRE and ARRE: bad places are the storage's business.
fn read_write_error_recovery(_: &LogicalUnit, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0x01, 0x0a, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

/// SBC-3 6.5.6. WCE as the geometry says; RCD: reads may not be trusted to come from a cache, since there is none.
fn caching(unit: &LogicalUnit, out: &mut Vec<u8>) {
    let write_cache = u8::from(unit.facts.geometry.write_cache) << 2;
    out.extend_from_slice(&[0x08, 0x12, write_cache | 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

/// SPC-4 7.5.8. QUEUE ALGORITHM MODIFIER 1: unrestricted reordering. SWP as the geometry says. D_SENSE 0. TAS 0.
fn control(unit: &LogicalUnit, out: &mut Vec<u8>) {
    let protect = u8::from(unit.facts.geometry.read_only) << 3;
    out.extend_from_slice(&[0x0a, 0x0a, 0, 0x10, protect, 0, 0, 0, 0, 0, 0, 0]);
}

/// SPC-4 7.5.11. DEXCPT: no exceptions are reported by way of sense data.
fn informational_exceptions(_: &LogicalUnit, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0x1c, 0x0a, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

/// MODE SENSE(6) and (10).
///
/// # Errors
/// INVALID FIELD IN CDB at a page or subpage that is not there; SAVING PARAMETERS NOT SUPPORTED.
pub fn sense(cdb: &[u8; 16], unit: &LogicalUnit, out: &mut Vec<u8>) -> Result<(), Sense> {
    let long = cdb[0] == 0x5a;
    let (no_descriptor, long_lba) = (cdb[1] & 0x08 != 0, long && cdb[1] & 0x10 != 0);
    let (control, page, subpage) = (cdb[2] >> 6, cdb[2] & 0x3f, cdb[3]);
    if control == 3 {
        return Err(Sense::NO_SAVING);
    }
    let pages = |page_code: u8| page == 0x3f || page == page_code;
    if !PAGES.iter().any(|known| pages(known.code)) {
        return Err(Sense::cdb_field(2, Some(5)));
    }
    if subpage != 0 && subpage != 0xff {
        return Err(Sense::cdb_field(3, None));
    }
    out.resize(if long { 8 } else { 4 }, 0);
    let header = out.len();
    if !no_descriptor {
        block_descriptor(unit, long_lba, out);
    }
    let descriptor = out.len() - header;
    for known in PAGES.iter().filter(|known| pages(known.code)) {
        let start = out.len();
        (known.write)(unit, out);
        if control == 1 {
            // Changeable values: a mask of nothing, after the page's code and length.
            out[start + 2..].fill(0);
        }
    }
    // WP; DPOFUA: both bits are honoured.
    let device_specific = u8::from(unit.facts.geometry.read_only) << 7 | 0x10;
    if long {
        let header = ModeHeader10 {
            data_length: (out.len() as u16 - 2).into(),
            device_specific,
            long_lba: u8::from(long_lba && descriptor != 0),
            descriptor_length: (descriptor as u16).into(),
            ..ModeHeader10::default()
        };
        out[..8].copy_from_slice(header.as_bytes());
    } else {
        let data_length = out.len() as u8 - 1;
        let header = ModeHeader6 { data_length, medium_type: 0, device_specific, descriptor_length: descriptor as u8 };
        out[..4].copy_from_slice(header.as_bytes());
    }
    cut(out, if long { u16::from_be_bytes([cdb[7], cdb[8]]).into() } else { cdb[4].into() });
    Ok(())
}

/// SBC-3 6.5.2: short with 32 bits of count (FFFFFFFFh if it does not fit), or long with 64.
fn block_descriptor(unit: &LogicalUnit, long_lba: bool, out: &mut Vec<u8>) {
    let blocks = unit.facts.geometry.blocks.0;
    if long_lba {
        out.extend_from_slice(&blocks.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
    } else {
        out.extend_from_slice(&u32::try_from(blocks).unwrap_or(u32::MAX).to_be_bytes());
    }
    // The short form has 24 bits of length after a reserved byte; block sizes have no more.
    out.extend_from_slice(&unit.block_bytes().to_be_bytes());
}

/// MODE SELECT(6) and (10) up to the list.
pub fn select_start(cdb: &[u8; 16]) -> Result<Action, Failure> {
    let long = cdb[0] == 0x55;
    // PF must be 1: pages are as in the standard. SP: nothing is saved.
    if cdb[1] & 0x10 == 0 {
        return Err(Sense::cdb_field(1, Some(4)).into());
    }
    if cdb[1] & 0x01 != 0 {
        return Err(Sense::cdb_field(1, Some(0)).into());
    }
    let (bytes, field) = if long { (u16::from_be_bytes([cdb[7], cdb[8]]), 7) } else { (cdb[4].into(), 4) };
    if usize::from(bytes) > PARAMETER_BYTES_MAX {
        return Err(Sense::cdb_field(field, None).into());
    }
    if bytes == 0 {
        return Ok(Action::Good);
    }
    Ok(Action::Parameters { parameters: Parameters::ModeSelect { long }, bytes: bytes.into() })
}

/// MODE SELECT with its list: pages that say what is so are accepted, a change of anything is refused.
pub fn select(list: &[u8], long: bool, unit: &LogicalUnit) -> Result<(), Failure> {
    let (header, descriptor) = if long {
        let (header, _) = ModeHeader10::read_from_prefix(list).map_err(|_| Sense::PARAMETER_LENGTH)?;
        (8, usize::from(header.descriptor_length.get()))
    } else {
        let (header, _) = ModeHeader6::read_from_prefix(list).map_err(|_| Sense::PARAMETER_LENGTH)?;
        (4, usize::from(header.descriptor_length))
    };
    let mut at = header + descriptor;
    if at > list.len() {
        return Err(Sense::PARAMETER_LENGTH.into());
    }
    let mut current = Vec::new();
    while at < list.len() {
        let given = &list[at..];
        // PS is reserved in MODE SELECT; SPF would be a subpage.
        let Some(page) = PAGES.iter().find(|page| page.code == given[0] & 0x7f) else {
            return Err(Sense::parameter_field(at as u16).into());
        };
        current.clear();
        (page.write)(unit, &mut current);
        if given.len() < current.len() {
            return Err(Sense::PARAMETER_LENGTH.into());
        }
        if let Some(differs) = (1..current.len()).find(|&i| given[i] != current[i]) {
            return Err(Sense::parameter_field((at + differs) as u16).into());
        }
        at += current.len();
    }
    Ok(())
}

/// LOG SENSE (SPC-4 6.8): the list of pages, and Informational Exceptions (7.3.8), which has nothing to report.
///
/// # Errors
/// INVALID FIELD IN CDB at a page or subpage that is not there.
pub fn log_sense(cdb: &[u8; 16], out: &mut Vec<u8>) -> Result<(), Sense> {
    let (page, subpage) = (cdb[2] & 0x3f, cdb[3]);
    if subpage != 0 {
        return Err(Sense::cdb_field(3, None));
    }
    match page {
        0x00 => out.extend_from_slice(&[0x00, 0, 0, 2, 0x00, 0x2f]),
        // Parameter 0: format and linking 03h, 4 bytes; ASC and ASCQ 0; temperature FFh: not known.
        0x2f => out.extend_from_slice(&[0x2f, 0, 0, 8, 0, 0, 0x03, 4, 0, 0, 0xff, 0]),
        _ => return Err(Sense::cdb_field(2, Some(5))),
    }
    cut(out, u16::from_be_bytes([cdb[7], cdb[8]]).into());
    Ok(())
}
