//! Log pages (Base 2.0c section 5.16.1) and features (section 5.27.1).

use super::layout;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// LID values (Base figure 202).
pub mod lid {
    /// Supported log pages.
    pub const SUPPORTED: u8 = 0x00;
    /// Error information.
    pub const ERROR: u8 = 0x01;
    /// SMART / health.
    pub const SMART: u8 = 0x02;
    /// Firmware slots.
    pub const FIRMWARE: u8 = 0x03;
    /// Changed namespaces.
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    /// Commands supported and their effects.
    pub const COMMAND_EFFECTS: u8 = 0x05;
    /// Features supported and their effects.
    pub const FEATURE_EFFECTS: u8 = 0x12;
    /// Discovery.
    pub const DISCOVERY: u8 = 0x70;
}

/// FID values (Base figure 317).
pub mod fid {
    /// Arbitration.
    pub const ARBITRATION: u8 = 0x01;
    /// Power management.
    pub const POWER: u8 = 0x02;
    /// Temperature threshold.
    pub const TEMPERATURE: u8 = 0x04;
    /// Error recovery (NVM command set).
    pub const ERROR_RECOVERY: u8 = 0x05;
    /// Volatile write cache.
    pub const WRITE_CACHE: u8 = 0x06;
    /// Number of queues.
    pub const QUEUES: u8 = 0x07;
    /// Write atomicity (NVM command set).
    pub const WRITE_ATOMICITY: u8 = 0x0a;
    /// Asynchronous event configuration.
    pub const ASYNC_EVENT: u8 = 0x0b;
    /// Keep Alive timer.
    pub const KEEP_ALIVE: u8 = 0x0f;
    /// Host identifier.
    pub const HOST_ID: u8 = 0x81;
}

/// Asynchronous events: type in bits 2:0, information in bits 15:8, log page in bits 23:16 (Base figure 146).
pub mod event {
    /// Notice: a namespace's attributes changed; see log page 4.
    pub const NAMESPACE_CHANGED: u32 = 0x02 | 0x04 << 16;
    /// Notice: the discovery log page changed.
    pub const DISCOVERY_CHANGED: u32 = 0x02 | 0xf0 << 8 | 0x70 << 16;
    /// OAES and feature 0x0b: namespace attribute notices.
    pub const NAMESPACE_NOTICES: u32 = 1 << 8;
    /// OAES and feature 0x0b: discovery log page change notices.
    pub const DISCOVERY_NOTICES: u32 = 1 << 31;
}

/// An entry of the error log page (Base figure 206).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ErrorEntry {
    /// Error count: unique, from 1; 0: no entry.
    pub count: U64,
    /// SQID.
    pub sqid: U16,
    /// CID.
    pub cid: U16,
    /// Status, as in the completion.
    pub status: U16,
    /// Parameter error location: byte in bits 7:0, bit in bits 10:8; 0xffff: none.
    pub location: U16,
    /// LBA.
    pub lba: U64,
    /// NSID.
    pub nsid: U32,
    /// Vendor specific.
    pub vendor: u8,
    /// TRTYPE.
    pub trtype: u8,
    /// Reserved.
    pub reserved30: [u8; 2],
    /// Command specific.
    pub specific: U64,
    /// Transport specific, reserved.
    pub reserved40: [u8; 24],
}
layout!(ErrorEntry, 64, sqid @ 8, cid @ 10, status @ 12, location @ 14, lba @ 16, nsid @ 24, trtype @ 29);

/// SMART / health (Base figure 207).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Smart {
    /// Critical warning: bit 3: read-only.
    pub critical: u8,
    /// Composite temperature, kelvin.
    pub temperature: U16,
    /// Available spare, percent.
    pub spare: u8,
    /// Available spare threshold, percent.
    pub spare_threshold: u8,
    /// Percentage used, endurance summary and reserved.
    pub reserved5: [u8; 27],
    /// Data units read: thousands of 512 bytes, rounded up.
    pub units_read: [u8; 16],
    /// Data units written.
    pub units_written: [u8; 16],
    /// Read commands (and Compare).
    pub reads: [u8; 16],
    /// Write commands.
    pub writes: [u8; 16],
    /// Busy time, power cycles, power-on hours, unsafe shutdowns, media errors.
    pub reserved96: [u8; 80],
    /// Error log entries over the controller's life.
    pub errors: [u8; 16],
    /// Temperatures, reserved.
    pub reserved192: [u8; 320],
}
layout!(Smart, 512, temperature @ 1, spare @ 3, units_read @ 32, units_written @ 48, reads @ 64, errors @ 176);

/// Firmware slots (Base figure 209).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Firmware {
    /// AFI: the active slot.
    pub afi: u8,
    /// Reserved.
    pub reserved1: [u8; 7],
    /// FRS1: the revision in slot 1.
    pub slot1: [u8; 8],
    /// Other slots, reserved.
    pub reserved16: [u8; 496],
}
layout!(Firmware, 512, slot1 @ 8);

/// Header of the discovery log page (Base figure 266).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DiscoveryHeader {
    /// GENCTR.
    pub genctr: U64,
    /// NUMREC.
    pub numrec: U64,
    /// RECFMT: 0.
    pub recfmt: U16,
    /// Reserved.
    pub reserved18: [u8; 1006],
}
layout!(DiscoveryHeader, 1024, numrec @ 8, recfmt @ 16);

/// Record of the discovery log page (Base figure 266).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DiscoveryRecord {
    /// TRTYPE: 3: TCP.
    pub trtype: u8,
    /// ADRFAM: 1: IPv4, 2: IPv6.
    pub adrfam: u8,
    /// SUBTYPE: 2: with namespaces; 3: this discovery subsystem.
    pub subtype: u8,
    /// TREQ: bits 1:0 0: nothing is said about secure channels; bit 2: SQ flow control may be disabled.
    pub treq: u8,
    /// PORTID.
    pub portid: U16,
    /// CNTLID: 0xffff: any.
    pub cntlid: U16,
    /// ASQSZ: entries of the admin queue.
    pub asqsz: U16,
    /// EFLAGS.
    pub eflags: U16,
    /// Reserved.
    pub reserved12: [u8; 20],
    /// TRSVCID: the port as text, padded with spaces.
    pub trsvcid: [u8; 32],
    /// Reserved.
    pub reserved64: [u8; 192],
    /// SUBNQN, ended by a zero.
    pub subnqn: [u8; 256],
    /// TRADDR, padded with spaces.
    pub traddr: [u8; 256],
    /// TSAS: byte 0: SECTYPE, 0: none.
    pub tsas: [u8; 256],
}
layout!(
    DiscoveryRecord, 1024, subtype @ 2, treq @ 3, portid @ 4, cntlid @ 6, asqsz @ 8, trsvcid @ 32, subnqn @ 256,
    traddr @ 512, tsas @ 768,
);
