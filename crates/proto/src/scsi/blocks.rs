//! Commands that move blocks (SBC-3 5).

use alloc::vec::Vec;

use sds_block::{Command, LbaRange};
use zerocopy::FromBytes;

use super::commands::{Action, Finished, Parameters};
use super::sense::{Failure, Sense};
use super::spec::{Cdb6, Cdb10, Cdb12, Cdb16, UnmapDescriptor, UnmapHeader};
use super::unit::{LogicalUnit, UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX, WRITE_SAME_BLOCKS_MAX};

const DPO_FUA_FUA: u8 = 0x08;
const PROTECT: u8 = 0xe0;

/// The address fields of a CDB of any length.
struct Place {
    flags: u8,
    lba: u64,
    blocks: u32,
    /// Where the CDB has the length, to point at it.
    length_at: u16,
}

/// The group of the operation code says the CDB's length (SPC-4 4.2.5.1).
fn place(cdb: &[u8; 16]) -> Place {
    match cdb[0] >> 5 {
        0 => {
            let (c, _) = Cdb6::read_from_prefix(cdb).expect("16 bytes hold 6");
            let lba = u64::from(c.lba_high & 0x1f) << 16 | u64::from(c.lba_low.get());
            let blocks = if c.length == 0 { 256 } else { u32::from(c.length) };
            Place { flags: 0, lba, blocks, length_at: 4 }
        }
        4 => {
            let (c, _) = Cdb16::read_from_prefix(cdb).expect("16 bytes hold 16");
            Place { flags: c.flags, lba: c.lba.get(), blocks: c.length.get(), length_at: 10 }
        }
        5 => {
            let (c, _) = Cdb12::read_from_prefix(cdb).expect("16 bytes hold 12");
            Place { flags: c.flags, lba: c.lba.get().into(), blocks: c.length.get(), length_at: 6 }
        }
        _ => {
            let (c, _) = Cdb10::read_from_prefix(cdb).expect("16 bytes hold 10");
            Place { flags: c.flags, lba: c.lba.get().into(), blocks: c.length.get().into(), length_at: 7 }
        }
    }
}

impl Place {
    /// The range, if it lies on the unit. It is checked by the device again: the size may change in between.
    fn range(&self, unit: &LogicalUnit) -> Result<LbaRange, Sense> {
        let range = LbaRange::new(self.lba, u64::from(self.blocks));
        match range.check(unit.facts.geometry.blocks) {
            Ok(()) => Ok(range),
            Err(error) => Err(Sense { information: error.context().value, ..Sense::LBA_OUT_OF_RANGE }),
        }
    }

    /// As `range`, and no more bytes than a transfer has.
    fn transfer(&self, unit: &LogicalUnit) -> Result<(LbaRange, u32), Sense> {
        let range = self.range(unit)?;
        let bytes = u64::from(self.blocks) * u64::from(unit.block_bytes());
        match u32::try_from(bytes) {
            Ok(bytes) if bytes <= unit.limits.transfer_bytes_max => Ok((range, bytes)),
            Ok(_) | Err(_) => Err(Sense::cdb_field(self.length_at, None)),
        }
    }

    /// Protection information is not offered (SPC-4 INQUIRY PROTECT 0), so nothing may ask for it.
    fn unprotected(self) -> Result<Self, Sense> {
        if self.flags & PROTECT == 0 { Ok(self) } else { Err(Sense::cdb_field(1, Some(7))) }
    }

    fn fua(&self) -> bool {
        self.flags & DPO_FUA_FUA != 0
    }
}

fn writable(unit: &LogicalUnit) -> Result<(), Sense> {
    if unit.facts.geometry.read_only { Err(Sense::WRITE_PROTECTED) } else { Ok(()) }
}

/// READ(6), (10), (12), (16). DPO is only advice. FUA needs nothing: reads come from where writes are acknowledged.
pub fn read(cdb: &[u8; 16], unit: &LogicalUnit) -> Result<Action, Failure> {
    let (range, bytes) = place(cdb).unprotected()?.transfer(unit)?;
    Ok(if bytes == 0 { Action::Good } else { Action::Read(range) })
}

/// WRITE and, with `verify`, WRITE AND VERIFY: made durable, which is when the device has compared nothing but vouches
/// for it. With BYTCHK 01b the bytes are those just written.
pub fn write(cdb: &[u8; 16], unit: &LogicalUnit, verify: bool) -> Result<Action, Failure> {
    writable(unit)?;
    let place = place(cdb).unprotected()?;
    if verify && place.flags & 0x06 > 0x02 {
        return Err(Sense::cdb_field(1, Some(2)).into());
    }
    let (range, payload_bytes) = place.transfer(unit)?;
    let command = Command::Write { range, fua: verify || place.fua() };
    Ok(if payload_bytes == 0 { Action::Good } else { Action::Payload { command, payload_bytes, exact: false } })
}

/// VERIFY: BYTCHK 00b reads the blocks, 01b compares them with the payload; 11b (one block for all) is not offered.
pub fn verify(cdb: &[u8; 16], unit: &LogicalUnit) -> Result<Action, Failure> {
    let place = place(cdb).unprotected()?;
    match place.flags >> 1 & 0x03 {
        0 => {
            let range = place.range(unit)?;
            Ok(if range.count.0 == 0 { Action::Good } else { Action::Check(range) })
        }
        1 => {
            let (range, payload_bytes) = place.transfer(unit)?;
            let command = Command::Compare(range);
            Ok(if payload_bytes == 0 { Action::Good } else { Action::Payload { command, payload_bytes, exact: true } })
        }
        _ => Err(Sense::cdb_field(1, Some(2)).into()),
    }
}

/// SYNCHRONIZE CACHE: all of it, whatever the range, and the answer waits, whatever IMMED says.
pub fn synchronize(cdb: &[u8; 16], unit: &LogicalUnit) -> Result<Action, Failure> {
    place(cdb).range(unit)?;
    Ok(Action::NoPayload(Command::Flush))
}

/// PRE-FETCH: there is no cache to fill, which GOOD says (SBC-3 5.7; CONDITION MET would say that they are cached).
pub fn prefetch(cdb: &[u8; 16], unit: &LogicalUnit) -> Result<Action, Failure> {
    place(cdb).range(unit)?;
    Ok(Action::Good)
}

/// COMPARE AND WRITE (SBC-3 5.2): the payload is the bytes to compare and then those to write.
pub fn compare_and_write(cdb: &[u8; 16], unit: &LogicalUnit) -> Result<Action, Failure> {
    writable(unit)?;
    let mut place = place(cdb).unprotected()?;
    place.blocks &= 0xff;
    place.length_at = 13;
    let range = place.range(unit)?;
    if place.blocks > compare_and_write_blocks_max(unit) {
        return Err(Sense::cdb_field(13, None).into());
    }
    let payload_bytes = 2 * place.blocks * unit.block_bytes();
    Ok(Action::Payload { command: Command::CompareAndWrite { range, fua: place.fua() }, payload_bytes, exact: true })
}

/// The most blocks that COMPARE AND WRITE takes; its field has eight bits.
#[must_use]
pub fn compare_and_write_blocks_max(unit: &LogicalUnit) -> u32 {
    unit.blocks_of(unit.limits.compare_and_write_bytes_max).min(255)
}

/// WRITE SAME(10) and (16) up to its block (SBC-3 5.40): NDOB has none.
pub fn write_same(cdb: &[u8; 16], unit: &LogicalUnit) -> Result<Action, Failure> {
    writable(unit)?;
    let place = place(cdb).unprotected()?;
    let (unmap, anchor) = (place.flags & 0x08 != 0, place.flags & 0x10 != 0);
    if anchor {
        return Err(Sense::cdb_field(1, Some(4)).into());
    }
    // PBDATA and LBDATA: obsolete.
    if place.flags & 0x06 != 0 {
        return Err(Sense::cdb_field(1, Some(2)).into());
    }
    let range = place.range(unit)?;
    // WSNZ: 0 blocks does not mean "to the end". More than the stated maximum is refused.
    if place.blocks == 0 || range.count.0 > WRITE_SAME_BLOCKS_MAX {
        return Err(Sense::cdb_field(place.length_at, None).into());
    }
    let no_block = cdb[0] == 0x93 && place.flags & 0x01 != 0;
    if no_block {
        return Ok(Action::NoPayload(Command::WriteZeroes { range, unmap, fua: false }));
    }
    Ok(Action::Parameters { parameters: Parameters::WriteSame { range, unmap }, bytes: unit.block_bytes() })
}

/// WRITE SAME with its block: zeros are a command of the device's, anything else is written out.
#[must_use]
pub fn write_same_block(block: &[u8], range: LbaRange, unmap: bool) -> Finished {
    if block.iter().all(|&byte| byte == 0) {
        Finished::NoPayload(Command::WriteZeroes { range, unmap, fua: false })
    } else {
        Finished::Repeat(range)
    }
}

/// UNMAP up to its list (SBC-3 5.28).
pub fn unmap_start(cdb: &[u8; 16], unit: &LogicalUnit) -> Result<Action, Failure> {
    writable(unit)?;
    // ANCHOR: anchored blocks are not offered (ANC_SUP 0).
    if cdb[1] & 0x01 != 0 {
        return Err(Sense::cdb_field(1, Some(0)).into());
    }
    let bytes = u32::from(u16::from_be_bytes([cdb[7], cdb[8]]));
    if bytes == 0 {
        return Ok(Action::Good);
    }
    if !(8..=8 + UNMAP_DESCRIPTORS_MAX * 16).contains(&bytes) {
        return Err(Sense { pointer: Sense::cdb_field(7, None).pointer, ..Sense::PARAMETER_LENGTH }.into());
    }
    Ok(Action::Parameters { parameters: Parameters::Unmap, bytes })
}

/// UNMAP with its list.
pub fn unmap(list: &[u8], unit: &LogicalUnit) -> Result<Finished, Failure> {
    let (header, rest) = UnmapHeader::read_from_prefix(list).map_err(|_| Sense::PARAMETER_LENGTH)?;
    let (data, descriptors) = (usize::from(header.data_length.get()), usize::from(header.descriptors_length.get()));
    if data + 2 < descriptors + 8 {
        return Err(Sense::parameter_field(0).into());
    }
    if descriptors > rest.len() {
        return Err(Sense { pointer: Sense::parameter_field(2).pointer, ..Sense::PARAMETER_LENGTH }.into());
    }
    let mut ranges = Vec::with_capacity(descriptors / 16);
    let mut blocks = 0_u64;
    for (index, bytes) in rest[..descriptors].chunks_exact(16).enumerate() {
        let descriptor = UnmapDescriptor::read_from_bytes(bytes).expect("a chunk of 16 bytes");
        let range = LbaRange::new(descriptor.lba.get(), descriptor.blocks.get().into());
        if let Err(error) = range.check(unit.facts.geometry.blocks) {
            return Err(Sense { information: error.context().value, ..Sense::LBA_OUT_OF_RANGE }.into());
        }
        blocks += range.count.0;
        if blocks > u64::from(UNMAP_BLOCKS_MAX) {
            return Err(Sense::parameter_field(8 + 16 * index as u16 + 8).into());
        }
        if range.count.0 > 0 {
            ranges.push(range);
        }
    }
    Ok(if ranges.is_empty() { Finished::Good } else { Finished::NoPayload(Command::Discard(ranges)) })
}
