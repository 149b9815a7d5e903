//! A CDB becomes an [`Action`]: blocks to move, a parameter list to take, or an answer at once. Parse, then execute.

use alloc::vec::Vec;

use sds_block::{Command, LbaRange};

use super::opcodes::{self, Operation};
use super::sense::{Failure, Sense};
use super::unit::LogicalUnit;
use super::{answers, blocks, inquiry, modes};

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing more: GOOD.
    Good,
    /// GOOD with the bytes that were put out, cut to the allocation length.
    Answer,
    /// Blocks to read: as many bytes go to the host.
    Read(LbaRange),
    /// A command with a payload of `payload_bytes` from the host.
    Payload {
        /// For the device.
        command: Command,
        /// How long it is.
        payload_bytes: u32,
        /// If the host offers another amount, the command is refused; otherwise it moves the blocks that fit.
        exact: bool,
    },
    /// A command for the device without a payload.
    NoPayload(Command),
    /// Blocks to read for the sake of reading: VERIFY without bytes to compare. May be longer than one transfer.
    Check(LbaRange),
    /// `bytes` of parameters are needed; then [`Parameters::finish`].
    Parameters {
        /// What they are for.
        parameters: Parameters,
        /// How many.
        bytes: u32,
    },
}

/// What a parameter list is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameters {
    /// UNMAP's descriptors.
    Unmap,
    /// WRITE SAME's block, to repeat.
    WriteSame {
        /// Over these blocks.
        range: LbaRange,
        /// Give the space back if the block is zeros.
        unmap: bool,
    },
    /// MODE SELECT's pages.
    ModeSelect {
        /// The header has 8 bytes, not 4.
        long: bool,
    },
}

/// What came of a parameter list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finished {
    /// Nothing more: GOOD.
    Good,
    /// A command for the device without a payload.
    NoPayload(Command),
    /// The parameter list is a block to write over the range, which may be longer than one transfer.
    Repeat(LbaRange),
}

impl Parameters {
    /// Executes the command with its parameter list, all of it.
    ///
    /// # Errors
    /// What the list has wrong, as ILLEGAL REQUEST with a pointer to the field.
    pub fn finish(self, list: &[u8], unit: &LogicalUnit) -> Result<Finished, Failure> {
        match self {
            Self::Unmap => blocks::unmap(list, unit),
            Self::WriteSame { range, unmap } => Ok(blocks::write_same_block(list, range, unmap)),
            Self::ModeSelect { long } => modes::select(list, long, unit).map(|()| Finished::Good),
        }
    }

    /// Whether an amount other than the command's is refused, not cut.
    #[must_use]
    pub fn exact(self) -> bool {
        match self {
            Self::Unmap | Self::WriteSame { .. } => true,
            Self::ModeSelect { .. } => false,
        }
    }
}

/// Shortens an answer to the ALLOCATION LENGTH (SPC-4 4.2.5.6).
pub fn cut(out: &mut Vec<u8>, allocation: u32) {
    out.truncate(allocation as usize);
}

/// Whether a command runs while a unit attention waits (SAM-5 5.14.2): it says what is there, not what it holds.
#[must_use]
pub fn ignores_attention(code: u8) -> bool {
    matches!(code, 0x12 | 0xa0 | 0x03)
}

/// Parses a CDB for `unit`, which exists; an answer is put into the empty `out`. `attention` is what REQUEST SENSE
/// tells.
///
/// # Errors
/// What the CDB has wrong, as ILLEGAL REQUEST with a pointer to the field.
pub fn decode(
    cdb: &[u8; 16],
    unit: &LogicalUnit,
    attention: Option<Sense>,
    out: &mut Vec<u8>,
) -> Result<Action, Failure> {
    let opcode = opcodes::find(cdb)?;
    // CONTROL: NACA asks for auto contingent allegiance, which no command here has.
    let control = opcode.usage.len() - 1;
    if cdb[control] & 0x04 != 0 {
        return Err(Sense::cdb_field(control as u16, Some(2)).into());
    }
    match opcode.operation {
        Operation::Read => blocks::read(cdb, unit),
        Operation::Write => blocks::write(cdb, unit, false),
        Operation::WriteAndVerify => blocks::write(cdb, unit, true),
        Operation::SynchronizeCache => blocks::synchronize(cdb, unit),
        Operation::Unmap => blocks::unmap_start(cdb, unit),
        Operation::WriteSame => blocks::write_same(cdb, unit),
        Operation::Verify => blocks::verify(cdb, unit),
        Operation::Prefetch => blocks::prefetch(cdb, unit),
        Operation::CompareAndWrite => blocks::compare_and_write(cdb, unit),
        Operation::TestUnitReady => Ok(Action::Good),
        Operation::StartStopUnit => answers::start_stop(cdb),
        Operation::PreventAllow => Ok(Action::Good),
        Operation::ModeSelect => modes::select_start(cdb),
        Operation::RequestSense => answered(answers::request_sense(cdb, attention, out)),
        Operation::Inquiry => answered(inquiry::inquiry(cdb, unit, out)),
        Operation::ModeSense => answered(modes::sense(cdb, unit, out)),
        Operation::LogSense => answered(modes::log_sense(cdb, out)),
        Operation::ReadCapacity10 => answered(answers::capacity_10(unit, out)),
        Operation::ReadCapacity16 => answered(answers::capacity_16(cdb, unit, out)),
        Operation::GetLbaStatus => answered(answers::lba_status(cdb, unit, out)),
        Operation::ReportLuns => answered(answers::report_luns(cdb, true, out)),
        Operation::ReportOperationCodes => answered(opcodes::report(cdb, out)),
        Operation::ReportTaskManagement => answered(answers::report_task_management(cdb, out)),
    }
}

/// Parses a CDB for a LUN that does not exist (SPC-4 6.6.1, 6.33, 6.39): hosts may still ask what is there.
///
/// # Errors
/// LOGICAL UNIT NOT SUPPORTED for everything else.
pub fn decode_absent(cdb: &[u8; 16], unit_exists: bool, out: &mut Vec<u8>) -> Result<Action, Failure> {
    match cdb[0] {
        0x12 => answered(inquiry::absent(cdb, out)),
        0xa0 => answered(answers::report_luns(cdb, unit_exists, out)),
        0x03 => answered(answers::request_sense(cdb, Some(Sense::NO_SUCH_UNIT), out)),
        _ => Err(Sense::NO_SUCH_UNIT.into()),
    }
}

fn answered(result: Result<(), Sense>) -> Result<Action, Failure> {
    result.map(|()| Action::Answer).map_err(Failure::Check)
}
