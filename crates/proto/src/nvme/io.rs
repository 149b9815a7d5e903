//! I/O commands (NVM command set 1.0c section 3): an entry checked and turned into what a device is asked.
//!
//! Parse, then execute: a refusal names the byte and the bit of the field at fault, for the error log page. Whether a
//! range lies on the device is the device's to say, since its size may change before the request runs.

use alloc::vec::Vec;

use sds_block::{Command, LbaRange};
use zerocopy::FromBytes;

use super::spec::command::{DSM_DEALLOCATE, DsmRange, Sqe, cdw12, flags, io, sgl};
use super::status::Status;

/// MDTS: the data of one command: 2^8 pages of 4 KiB.
pub const TRANSFER_BYTES_MAX: u32 = 1 << 20;
/// Ranges of one Dataset Management command (NR is 8 bits, 0-based).
pub const DSM_RANGES_MAX: usize = 256;
/// And the bytes that they take.
const DSM_BYTES_MAX: u32 = (DSM_RANGES_MAX * size_of::<DsmRange>()) as u32;

/// Why a command is refused, and the parameter error location: the byte in bits 7:0, the bit in bits 10:8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the host is told.
    pub status: Status,
    /// Where in the entry.
    pub location: u16,
}

impl Refusal {
    /// A field that starts at `byte` and `bit` of the entry is invalid.
    #[must_use]
    pub const fn field(byte: u16, bit: u16) -> Self {
        Self::new(Status::INVALID_FIELD, byte, bit)
    }

    /// Another status.
    #[must_use]
    pub const fn new(status: Status, byte: u16, bit: u16) -> Self {
        Self { status, location: byte | bit << 8 }
    }
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Data to the host.
    Read,
    /// Data from the host.
    Write {
        /// Durable before the answer.
        fua: bool,
    },
    /// No data.
    Flush,
    /// No data.
    WriteZeroes {
        /// DEAC.
        unmap: bool,
        /// Durable before the answer.
        fua: bool,
    },
    /// Ranges from the host. Without AD they are hints, and the answer is success.
    Discard {
        /// AD: deallocate.
        deallocate: bool,
    },
    /// Data from the host.
    Compare,
}

/// A checked I/O command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    /// What is done.
    pub op: Op,
    /// Where; nothing for Flush; for Discard its count is that of the ranges (NR).
    pub range: LbaRange,
    /// Bytes of data, either way.
    pub data_bytes: u32,
}

/// Which way a command's data goes (bits 1:0 of its opcode, Base 2.0c figure 87).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// There is none.
    None,
    /// From the host.
    FromHost,
    /// To the host.
    ToHost,
}

impl Op {
    /// Which way its data goes.
    #[must_use]
    pub const fn direction(self) -> Direction {
        match self {
            Self::Read => Direction::ToHost,
            Self::Write { .. } | Self::Discard { .. } | Self::Compare => Direction::FromHost,
            Self::Flush | Self::WriteZeroes { .. } => Direction::None,
        }
    }

    /// True if it changes nothing: decides between the two media errors.
    #[must_use]
    pub const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::Compare)
    }

    /// What the device is asked.
    #[must_use]
    pub fn command(self, range: LbaRange, ranges: Vec<LbaRange>) -> Command {
        match self {
            Self::Read => Command::Read(range),
            Self::Write { fua } => Command::Write { range, fua },
            Self::Flush => Command::Flush,
            Self::WriteZeroes { unmap, fua } => Command::WriteZeroes { range, unmap, fua },
            Self::Discard { .. } => Command::Discard(ranges),
            Self::Compare => Command::Compare(range),
        }
    }
}

/// Checks what all commands have in common: no fused operations, SGLs.
///
/// # Errors
/// FUSE or PSDT is not as it must be over fabrics.
pub fn check_flags(sqe: &Sqe) -> Result<(), Refusal> {
    if sqe.flags & flags::FUSE_MASK != 0 {
        return Err(Refusal::field(1, 0));
    }
    if sqe.flags & flags::PSDT_MASK != flags::PSDT_SGL {
        return Err(Refusal::field(1, 6));
    }
    Ok(())
}

/// Checks an I/O command for a namespace with blocks of `block_bytes`.
///
/// # Errors
/// The status, and the field that is wrong.
pub fn parse(sqe: &Sqe, block_bytes: u32) -> Result<Io, Refusal> {
    check_flags(sqe)?;
    let dword = sqe.cdw12.get();
    let fua = dword & cdw12::FUA != 0;
    let blocks = u64::from(dword & cdw12::BLOCKS_MASK) + 1;
    let range = LbaRange::new(sqe.slba(), blocks);
    let none = LbaRange::new(0, 0);
    let with_data = |op| {
        check_prinfo(dword)?;
        let data_bytes = blocks * u64::from(block_bytes);
        if data_bytes > u64::from(TRANSFER_BYTES_MAX) {
            return Err(Refusal::field(48, 0));
        }
        Ok(Io { op, range, data_bytes: data_bytes as u32 })
    };
    match sqe.opcode {
        io::READ => with_data(Op::Read),
        io::WRITE => with_data(Op::Write { fua }),
        io::COMPARE => with_data(Op::Compare),
        io::FLUSH => Ok(Io { op: Op::Flush, range: none, data_bytes: 0 }),
        io::WRITE_ZEROES => {
            check_prinfo(dword)?;
            let unmap = dword & cdw12::DEALLOCATE != 0;
            Ok(Io { op: Op::WriteZeroes { unmap, fua }, range, data_bytes: 0 })
        }
        io::DSM => {
            let ranges = (sqe.cdw10.get() & 0xff) + 1;
            let deallocate = sqe.cdw11.get() & DSM_DEALLOCATE != 0;
            // Linux sends room for 256 ranges, however few it has: what is beyond NR is received and ignored.
            let needed = ranges * size_of::<DsmRange>() as u32;
            let data_bytes = sqe.sgl.length.get().clamp(needed, DSM_BYTES_MAX);
            Ok(Io { op: Op::Discard { deallocate }, range: LbaRange::new(0, ranges.into()), data_bytes })
        }
        _ => Err(Refusal::new(Status::INVALID_OPCODE, 0, 0)),
    }
}

fn check_prinfo(dword: u32) -> Result<(), Refusal> {
    // The namespaces have no protection information, so its checks can't be asked for; PRACT alone means nothing then.
    if dword & cdw12::PRINFO_MASK != 0 { Err(Refusal::field(51, 2)) } else { Ok(()) }
}

/// Where a command's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the command's capsule.
    Capsule,
    /// Moved by data PDUs.
    Transport,
}

/// Checks a command's SGL against the bytes that its data has and those that came in the capsule.
///
/// # Errors
/// The status, and the SGL's field.
pub fn check_sgl(sqe: &Sqe, direction: Direction, data_bytes: u32, capsule_bytes: usize) -> Result<Source, Refusal> {
    let descriptor = &sqe.sgl;
    let source = match (direction, descriptor.kind) {
        (Direction::None, _) => {
            // The SGL is ignored; but data that nothing asked for is a mistake.
            return if capsule_bytes == 0 { Ok(Source::Transport) } else { Err(Refusal::field(24, 0)) };
        }
        (Direction::FromHost, sgl::IN_CAPSULE) => Source::Capsule,
        (_, sgl::TRANSPORT) => Source::Transport,
        _ => return Err(Refusal::new(Status::SGL_TYPE_INVALID, 39, 0)),
    };
    let length = descriptor.length.get();
    if source == Source::Capsule && (descriptor.address.get() != 0 || length as usize > capsule_bytes) {
        return Err(Refusal::new(Status::SGL_OFFSET_INVALID, 24, 0));
    }
    let in_capsule = if source == Source::Capsule { length as usize } else { 0 };
    if length != data_bytes || in_capsule != capsule_bytes {
        return Err(Refusal::new(Status::DATA_SGL_LENGTH_INVALID, 32, 0));
    }
    Ok(source)
}

/// The first `count` ranges of a Dataset Management command's data, empty ones left out.
#[must_use]
pub fn dsm_ranges(data: &[u8], count: usize) -> Vec<LbaRange> {
    let whole = data.len() - data.len() % size_of::<DsmRange>();
    let Ok(ranges) = <[DsmRange]>::ref_from_bytes(&data[..whole]) else { unreachable!("the length is a multiple") };
    let given = ranges.iter().take(count).map(|range| LbaRange::new(range.slba.get(), u64::from(range.blocks.get())));
    given.filter(|range| range.count.0 != 0).collect()
}
