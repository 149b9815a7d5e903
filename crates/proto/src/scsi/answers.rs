//! Commands that are answered from facts.

use alloc::vec::Vec;

use sds_block::LbaRange;
use zerocopy::IntoBytes;

use super::commands::{Action, cut};
use super::sense::{Failure, Sense};
use super::spec::{LbaStatus, ReadCapacity10, ReadCapacity16};
use super::unit::LogicalUnit;

fn allocation_16(cdb: &[u8; 16]) -> u32 {
    u32::from_be_bytes([cdb[10], cdb[11], cdb[12], cdb[13]])
}

fn allocation_12(cdb: &[u8; 16]) -> u32 {
    u32::from_be_bytes([cdb[6], cdb[7], cdb[8], cdb[9]])
}

/// READ CAPACITY(10). A unit of no blocks has no last one; it says 0, and every range on it is out of range.
pub fn capacity_10(unit: &LogicalUnit, out: &mut Vec<u8>) -> Result<(), Sense> {
    let last = unit.facts.geometry.blocks.0.saturating_sub(1);
    let data = ReadCapacity10 {
        last_lba: u32::try_from(last).unwrap_or(u32::MAX).into(),
        block_bytes: unit.block_bytes().into(),
    };
    out.extend_from_slice(data.as_bytes());
    Ok(())
}

/// READ CAPACITY(16): thin (LBPME), and unmapped blocks read zeros (LBPRZ).
pub fn capacity_16(cdb: &[u8; 16], unit: &LogicalUnit, out: &mut Vec<u8>) -> Result<(), Sense> {
    let geometry = &unit.facts.geometry;
    let data = ReadCapacity16 {
        last_lba: geometry.blocks.0.saturating_sub(1).into(),
        block_bytes: geometry.logical_block_bytes.into(),
        exponent: (geometry.physical_block_bytes / geometry.logical_block_bytes).max(1).ilog2() as u8,
        provisioning: 0xc000.into(),
        ..ReadCapacity16::default()
    };
    out.extend_from_slice(data.as_bytes());
    cut(out, allocation_16(cdb));
    Ok(())
}

/// GET LBA STATUS (SBC-3 5.5): one descriptor, "mapped or unknown" to the end, since the map is not asked. Allowed: the
/// device server need not know more.
pub fn lba_status(cdb: &[u8; 16], unit: &LogicalUnit, out: &mut Vec<u8>) -> Result<(), Sense> {
    let lba = u64::from_be_bytes([cdb[2], cdb[3], cdb[4], cdb[5], cdb[6], cdb[7], cdb[8], cdb[9]]);
    let blocks = unit.facts.geometry.blocks;
    if LbaRange::new(lba, 1).check(blocks).is_err() {
        return Err(Sense::LBA_OUT_OF_RANGE.with_information(lba));
    }
    let data = LbaStatus {
        data_length: 20.into(),
        lba: lba.into(),
        blocks: u32::try_from(blocks.0 - lba).unwrap_or(u32::MAX).into(),
        ..LbaStatus::default()
    };
    out.extend_from_slice(data.as_bytes());
    cut(out, allocation_16(cdb));
    Ok(())
}

/// REPORT LUNS (SPC-4 6.33): LUN 0, or none.
pub fn report_luns(cdb: &[u8; 16], unit_exists: bool, out: &mut Vec<u8>) -> Result<(), Sense> {
    // SELECT REPORT: 00h addressable, 01h well known (none here), 02h all.
    let luns = match cdb[2] {
        0x00 | 0x02 => u32::from(unit_exists),
        0x01 => 0,
        _ => return Err(Sense::cdb_field(2, None)),
    };
    let allocation = allocation_12(cdb);
    if allocation < 16 {
        return Err(Sense::cdb_field(6, None));
    }
    out.extend_from_slice(&(8 * luns).to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.resize(8 + 8 * luns as usize, 0);
    cut(out, allocation);
    Ok(())
}

/// REQUEST SENSE (SPC-4 6.39): sense data comes with each failure, so only a waiting attention is left to tell.
pub fn request_sense(cdb: &[u8; 16], waiting: Option<Sense>, out: &mut Vec<u8>) -> Result<(), Sense> {
    // DESC: descriptor format is not offered.
    if cdb[1] & 0x01 != 0 {
        return Err(Sense::cdb_field(1, Some(0)));
    }
    out.extend_from_slice(&waiting.unwrap_or(Sense::NONE).bytes());
    cut(out, cdb[4].into());
    Ok(())
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.36).
pub fn report_task_management(cdb: &[u8; 16], out: &mut Vec<u8>) -> Result<(), Sense> {
    let allocation = allocation_12(cdb);
    if allocation < 4 {
        return Err(Sense::cdb_field(6, None));
    }
    // ATS, ATSS, CTSS, LURS; iSCSI's target resets are not of SAM-5.
    let extended = cdb[2] & 0x80 != 0;
    out.extend_from_slice(&[0xd8, 0, 0, if extended { 12 } else { 0 }]);
    if extended {
        // TMFTMOV 0: no timeouts stated.
        out.extend_from_slice(&[0; 12]);
    }
    cut(out, allocation);
    Ok(())
}

/// START STOP UNIT (SBC-3 5.25): the unit has no motor and no door; a host's wish for either changes nothing.
pub fn start_stop(cdb: &[u8; 16]) -> Result<Action, Failure> {
    let (power_condition, load_eject) = (cdb[4] >> 4, cdb[4] & 0x02 != 0);
    if power_condition != 0 {
        return Err(Sense::cdb_field(4, Some(7)).into());
    }
    if load_eject {
        return Err(Sense::cdb_field(4, Some(1)).into());
    }
    Ok(Action::Good)
}
