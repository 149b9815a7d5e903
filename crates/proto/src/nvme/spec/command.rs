//! Submission and completion entries (Base 2.0c sections 3.3.3 and 6), opcodes, and Connect's data.

use super::layout;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Admin opcodes (Base figure 138).
pub mod admin {
    /// Get Log Page.
    pub const GET_LOG_PAGE: u8 = 0x02;
    /// Identify.
    pub const IDENTIFY: u8 = 0x06;
    /// Abort.
    pub const ABORT: u8 = 0x08;
    /// Set Features.
    pub const SET_FEATURES: u8 = 0x09;
    /// Get Features.
    pub const GET_FEATURES: u8 = 0x0a;
    /// Asynchronous Event Request.
    pub const ASYNC_EVENT: u8 = 0x0c;
    /// Keep Alive.
    pub const KEEP_ALIVE: u8 = 0x18;
}

/// I/O opcodes (NVM figure 15).
pub mod io {
    /// Flush.
    pub const FLUSH: u8 = 0x00;
    /// Write.
    pub const WRITE: u8 = 0x01;
    /// Read.
    pub const READ: u8 = 0x02;
    /// Compare.
    pub const COMPARE: u8 = 0x05;
    /// Write Zeroes.
    pub const WRITE_ZEROES: u8 = 0x08;
    /// Dataset Management.
    pub const DSM: u8 = 0x09;
}

/// The opcode of all fabrics commands, on every queue.
pub const FABRICS: u8 = 0x7f;

/// Fabrics command types (Base figure 548).
pub mod fctype {
    /// Property Set.
    pub const PROPERTY_SET: u8 = 0x00;
    /// Connect.
    pub const CONNECT: u8 = 0x01;
    /// Property Get.
    pub const PROPERTY_GET: u8 = 0x04;
}

/// FLAGS bits of a submission entry (figure 87).
pub mod flags {
    /// FUSE.
    pub const FUSE_MASK: u8 = 0x03;
    /// PSDT.
    pub const PSDT_MASK: u8 = 0xc0;
    /// PSDT: SGLs, metadata in a contiguous buffer.
    pub const PSDT_SGL: u8 = 0x40;
}

/// SGL descriptor: type in the high, subtype in the low half (Base section 4.1.2; transport section 3.4).
pub mod sgl {
    /// Data block at an offset within the capsule.
    pub const IN_CAPSULE: u8 = 0x01;
    /// Transport data block: moved by the transport's own PDUs.
    pub const TRANSPORT: u8 = 0x5a;
}

/// Command dword 12 of Read, Write, Write Zeroes (NVM sections 3.2.4, 3.2.6, 3.2.8).
pub mod cdw12 {
    /// NLB, 0-based.
    pub const BLOCKS_MASK: u32 = 0xffff;
    /// DEAC: deallocate (Write Zeroes).
    pub const DEALLOCATE: u32 = 1 << 25;
    /// PRINFO: protection information: action and checks.
    pub const PRINFO_MASK: u32 = 0xf << 26;
    /// FUA.
    pub const FUA: u32 = 1 << 30;
}

/// Command dword 11 of Dataset Management: AD, deallocate (NVM figure 42).
pub const DSM_DEALLOCATE: u32 = 1 << 2;

/// Controller properties (Base section 3.1.3).
pub mod property {
    /// CAP, 8 bytes.
    pub const CAP: u32 = 0x00;
    /// VS.
    pub const VS: u32 = 0x08;
    /// CC.
    pub const CC: u32 = 0x14;
    /// CSTS.
    pub const CSTS: u32 = 0x1c;
    /// NSSR.
    pub const NSSR: u32 = 0x20;
    /// CRTO.
    pub const CRTO: u32 = 0x68;
}

/// A scatter-gather descriptor (figure 88; subtypes in the transport's figure 13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Sgl {
    /// Address, or the offset within the capsule's data.
    pub address: U64,
    /// Bytes.
    pub length: U32,
    /// Reserved.
    pub reserved12: [u8; 3],
    /// SGL identifier: see [`sgl`].
    pub kind: u8,
}
layout!(Sgl, 16, length @ 8, kind @ 15);

/// Submission queue entry (figure 87).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Sqe {
    /// OPC.
    pub opcode: u8,
    /// FUSE and PSDT.
    pub flags: u8,
    /// CID.
    pub cid: U16,
    /// NSID; its first byte is FCTYPE in fabrics commands.
    pub nsid: U32,
    /// CDW2.
    pub cdw2: U32,
    /// CDW3.
    pub cdw3: U32,
    /// MPTR.
    pub mptr: U64,
    /// SGL1.
    pub sgl: Sgl,
    /// CDW10 and on.
    pub cdw10: U32,
    /// CDW11.
    pub cdw11: U32,
    /// CDW12.
    pub cdw12: U32,
    /// CDW13.
    pub cdw13: U32,
    /// CDW14.
    pub cdw14: U32,
    /// CDW15.
    pub cdw15: U32,
}
layout!(Sqe, 64, cid @ 2, nsid @ 4, mptr @ 16, sgl @ 24, cdw10 @ 40, cdw11 @ 44, cdw12 @ 48, cdw15 @ 60);

impl Sqe {
    /// SLBA: CDW10 and CDW11.
    #[must_use]
    pub fn slba(&self) -> u64 {
        u64::from(self.cdw10.get()) | u64::from(self.cdw11.get()) << 32
    }

    /// FCTYPE of a fabrics command: byte 4.
    #[must_use]
    pub fn fctype(&self) -> u8 {
        self.nsid.as_bytes()[0]
    }
}

/// Completion queue entry (figure 90; fabrics: figure 95).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Cqe {
    /// DW0 and DW1: the command's result.
    pub result: U64,
    /// SQHD.
    pub sqhd: U16,
    /// SQID; reserved over fabrics.
    pub sqid: U16,
    /// CID.
    pub cid: U16,
    /// Phase (0 over fabrics) in bit 0, status above.
    pub status: U16,
}
layout!(Cqe, 16, sqhd @ 8, cid @ 12, status @ 14);

/// A Connect command's entry (figure 385).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ConnectCmd {
    /// OPC: 0x7f.
    pub opcode: u8,
    /// PSDT.
    pub flags: u8,
    /// CID.
    pub cid: U16,
    /// FCTYPE: 1.
    pub fctype: u8,
    /// Reserved.
    pub reserved5: [u8; 19],
    /// SGL1.
    pub sgl: Sgl,
    /// RECFMT: 0.
    pub recfmt: U16,
    /// QID.
    pub qid: U16,
    /// SQSIZE, 0-based.
    pub sqsize: U16,
    /// CATTR.
    pub cattr: u8,
    /// Reserved.
    pub reserved47: u8,
    /// KATO, milliseconds.
    pub kato: U32,
    /// Reserved.
    pub reserved52: [u8; 12],
}
layout!(ConnectCmd, 64, fctype @ 4, sgl @ 24, recfmt @ 40, qid @ 42, sqsize @ 44, cattr @ 46, kato @ 48);

/// CATTR: the host asks for no SQ flow control.
pub const CATTR_DISABLE_SQ_FLOW_CONTROL: u8 = 1 << 2;

/// A Connect command's data (figure 386).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ConnectData {
    /// HOSTID.
    pub hostid: [u8; 16],
    /// CNTLID.
    pub cntlid: U16,
    /// Reserved.
    pub reserved18: [u8; 238],
    /// SUBNQN, ended by a zero.
    pub subnqn: [u8; 256],
    /// HOSTNQN, ended by a zero.
    pub hostnqn: [u8; 256],
    /// Reserved.
    pub reserved768: [u8; 256],
}
layout!(ConnectData, 1024, cntlid @ 16, subnqn @ 256, hostnqn @ 512);

/// A property command's entry (figures 389 and 391).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct PropertyCmd {
    /// OPC: 0x7f.
    pub opcode: u8,
    /// PSDT.
    pub flags: u8,
    /// CID.
    pub cid: U16,
    /// FCTYPE.
    pub fctype: u8,
    /// Reserved.
    pub reserved5: [u8; 35],
    /// ATTRIB: bits 2:0: 0 for 4 bytes, 1 for 8.
    pub attrib: u8,
    /// Reserved.
    pub reserved41: [u8; 3],
    /// OFST.
    pub ofst: U32,
    /// VALUE (Property Set).
    pub value: U64,
    /// Reserved.
    pub reserved56: [u8; 8],
}
layout!(PropertyCmd, 64, fctype @ 4, attrib @ 40, ofst @ 44, value @ 48);

/// A range of Dataset Management (NVM figure 43).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DsmRange {
    /// Context attributes: hints.
    pub cattr: U32,
    /// Length in blocks.
    pub blocks: U32,
    /// The first block.
    pub slba: U64,
}
layout!(DsmRange, 16, blocks @ 4, slba @ 8);
