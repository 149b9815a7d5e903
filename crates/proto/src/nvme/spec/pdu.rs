//! PDUs of the NVMe/TCP transport 1.0c, section 3.6.

use super::layout;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::command::{Cqe, Sqe};

/// PDU types (figure 17).
pub mod kind {
    /// Host to controller: initialize connection request.
    pub const IC_REQ: u8 = 0x00;
    /// Controller to host: initialize connection response.
    pub const IC_RESP: u8 = 0x01;
    /// Host to controller: terminate connection.
    pub const H2C_TERM_REQ: u8 = 0x02;
    /// Controller to host: terminate connection.
    pub const C2H_TERM_REQ: u8 = 0x03;
    /// Host to controller: command capsule.
    pub const CAPSULE_CMD: u8 = 0x04;
    /// Controller to host: response capsule.
    pub const CAPSULE_RESP: u8 = 0x05;
    /// Host to controller: data.
    pub const H2C_DATA: u8 = 0x06;
    /// Controller to host: data.
    pub const C2H_DATA: u8 = 0x07;
    /// Controller to host: ready to transfer.
    pub const R2T: u8 = 0x09;
}

/// FLAGS bits of the common header.
pub mod flags {
    /// A header digest follows the header.
    pub const HDGST: u8 = 1 << 0;
    /// A data digest follows the data.
    pub const DDGST: u8 = 1 << 1;
    /// Data PDUs: the last of a transfer.
    pub const LAST_PDU: u8 = 1 << 2;
    /// C2HData: the command succeeded, no response capsule follows.
    pub const SUCCESS: u8 = 1 << 3;
}

/// Fatal error status of a termination request (figures 23 and 26).
pub mod fes {
    /// A header field is wrong; FEI is its offset in the PDU.
    pub const INVALID_HEADER_FIELD: u16 = 0x01;
    /// This PDU may not come now.
    pub const SEQUENCE_ERROR: u16 = 0x02;
    /// The header digest does not hold; FEI is the digest that came.
    pub const HEADER_DIGEST_ERROR: u16 = 0x03;
    /// Data lies outside what was asked for.
    pub const DATA_OUT_OF_RANGE: u16 = 0x04;
    /// More data than MAXH2CDATA in one PDU (sent by a host: more R2Ts than MAXR2T).
    pub const DATA_LIMIT_EXCEEDED: u16 = 0x05;
    /// A parameter is not supported; FEI is its offset in the PDU.
    pub const UNSUPPORTED_PARAMETER: u16 = 0x06;
}

/// Bytes of a digest.
pub const DIGEST_BYTES: usize = 4;

/// The common header of all PDUs (figure 16).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CommonHeader {
    /// PDU-Type.
    pub kind: u8,
    /// FLAGS.
    pub flags: u8,
    /// HLEN: bytes of the header without its digest.
    pub hlen: u8,
    /// PDO: where the data starts, from the PDU's start.
    pub pdo: u8,
    /// PLEN: bytes of the whole PDU.
    pub plen: U32,
}
layout!(CommonHeader, 8, flags @ 1, hlen @ 2, pdo @ 3, plen @ 4);

/// Initialize Connection Request (figure 18).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IcReq {
    /// Common header.
    pub header: CommonHeader,
    /// PFV: format version, 0.
    pub pfv: U16,
    /// HPDA: alignment of data that comes to the host, in 4-byte units, 0-based.
    pub hpda: u8,
    /// DGST: bit 0 header digests, bit 1 data digests.
    pub digests: u8,
    /// MAXR2T: open R2Ts per command, 0-based.
    pub maxr2t: U32,
    /// Reserved.
    pub reserved16: [u8; 112],
}
layout!(IcReq, 128, pfv @ 8, hpda @ 10, digests @ 11, maxr2t @ 12);

/// Initialize Connection Response (figure 19).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IcResp {
    /// Common header.
    pub header: CommonHeader,
    /// PFV: format version, 0.
    pub pfv: U16,
    /// CPDA: alignment of data that comes to the controller, in 4-byte units, 0-based.
    pub cpda: u8,
    /// DGST: which digests are used: bit 0 header, bit 1 data.
    pub digests: u8,
    /// MAXH2CDATA: bytes of data per H2CData PDU.
    pub maxh2cdata: U32,
    /// Reserved.
    pub reserved16: [u8; 112],
}
layout!(IcResp, 128, pfv @ 8, cpda @ 10, digests @ 11, maxh2cdata @ 12);

/// Termination request of either side (figures 22 and 25); up to 128 bytes of the faulty PDU's header follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TermReq {
    /// Common header.
    pub header: CommonHeader,
    /// FES: what kind of error.
    pub fes: U16,
    /// FEI: depends on FES.
    pub fei: U32,
    /// Reserved.
    pub reserved14: [u8; 10],
}
layout!(TermReq, 24, fes @ 8, fei @ 10);

/// The most that a termination request may have in all: 24 bytes and 128 of the faulty header.
pub const TERM_REQ_BYTES_MAX: usize = 152;

/// Command capsule (figure 28).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CapsuleCmd {
    /// Common header.
    pub header: CommonHeader,
    /// The submission queue entry.
    pub sqe: Sqe,
}
layout!(CapsuleCmd, 72, sqe @ 8);

/// Response capsule (figure 29).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CapsuleResp {
    /// Common header.
    pub header: CommonHeader,
    /// The completion queue entry.
    pub cqe: Cqe,
}
layout!(CapsuleResp, 24, cqe @ 8);

/// H2CData and C2HData (figures 30 and 31): their layout is the same, but that C2HData has no TTAG.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DataPdu {
    /// Common header.
    pub header: CommonHeader,
    /// CCCID: whose data.
    pub cccid: U16,
    /// TTAG: of the R2T that asked for it (H2CData only).
    pub ttag: U16,
    /// DATAO: where it belongs in the command's data.
    pub datao: U32,
    /// DATAL: how many bytes.
    pub datal: U32,
    /// Reserved.
    pub reserved20: U32,
}
layout!(DataPdu, 24, cccid @ 8, ttag @ 10, datao @ 12, datal @ 16);

/// Ready To Transfer (figure 32).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct R2t {
    /// Common header.
    pub header: CommonHeader,
    /// CCCID: whose data is wanted.
    pub cccid: U16,
    /// TTAG: to be repeated in the H2CData PDUs.
    pub ttag: U16,
    /// R2TO: from where.
    pub r2to: U32,
    /// R2TL: how many bytes.
    pub r2tl: U32,
    /// Reserved.
    pub reserved20: U32,
}
layout!(R2t, 24, cccid @ 8, ttag @ 10, r2to @ 12, r2tl @ 16);
