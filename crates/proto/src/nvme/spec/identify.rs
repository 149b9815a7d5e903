//! What Identify returns (Base 2.0c section 5.17.2, NVM 1.0c section 4.1.5).

use super::layout;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// CNS values (Base figure 273).
pub mod cns {
    /// Identify namespace.
    pub const NAMESPACE: u8 = 0x00;
    /// Identify controller.
    pub const CONTROLLER: u8 = 0x01;
    /// Active namespace list.
    pub const ACTIVE_LIST: u8 = 0x02;
    /// Namespace identification descriptors.
    pub const DESCRIPTORS: u8 = 0x03;
    /// Identify namespace of a command set.
    pub const CSI_NAMESPACE: u8 = 0x05;
    /// Identify controller of a command set.
    pub const CSI_CONTROLLER: u8 = 0x06;
    /// Active namespaces of a command set.
    pub const CSI_ACTIVE_LIST: u8 = 0x07;
    /// Namespace, whatever its command set.
    pub const INDEPENDENT_NAMESPACE: u8 = 0x08;
}

/// Bytes of every Identify answer.
pub const IDENTIFY_BYTES: usize = 4096;

/// Identify Controller (Base figure 275; NVM figure 98). Fields that stay zero here are under `reserved`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IdentifyController {
    /// VID.
    pub vid: U16,
    /// SSVID.
    pub ssvid: U16,
    /// SN: ASCII, padded with spaces.
    pub serial: [u8; 20],
    /// MN.
    pub model: [u8; 40],
    /// FR.
    pub firmware: [u8; 8],
    /// RAB.
    pub rab: u8,
    /// IEEE OUI.
    pub ieee: [u8; 3],
    /// CMIC: bit 0 several ports, bit 1 several controllers.
    pub cmic: u8,
    /// MDTS: as a power of two, in units of CAP.MPSMIN.
    pub mdts: u8,
    /// CNTLID.
    pub cntlid: U16,
    /// VER.
    pub ver: U32,
    /// RTD3R, RTD3E.
    pub reserved84: [u8; 8],
    /// OAES: optional asynchronous events.
    pub oaes: U32,
    /// CTRATT: bit 0: 128-bit host ids.
    pub ctratt: U32,
    /// RRLS and on.
    pub reserved100: [u8; 11],
    /// CNTRLTYPE: 1 I/O, 2 discovery.
    pub cntrltype: u8,
    /// FGUID, CRDT and on.
    pub reserved112: [u8; 144],
    /// OACS.
    pub oacs: U16,
    /// ACL: concurrent Aborts, 0-based.
    pub acl: u8,
    /// AERL: concurrent event requests, 0-based.
    pub aerl: u8,
    /// FRMW: bit 0 slot 1 is read-only, bits 3:1 number of slots.
    pub frmw: u8,
    /// LPA: log page attributes.
    pub lpa: u8,
    /// ELPE: error log entries, 0-based.
    pub elpe: u8,
    /// NPSS.
    pub npss: u8,
    /// AVSCC, APSTA.
    pub reserved264: [u8; 2],
    /// WCTEMP, kelvin.
    pub wctemp: U16,
    /// CCTEMP, kelvin.
    pub cctemp: U16,
    /// MTFA and on.
    pub reserved270: [u8; 50],
    /// KAS: granularity of the keep-alive timer, 100 ms.
    pub kas: U16,
    /// HCTMA and on.
    pub reserved322: [u8; 190],
    /// SQES: sizes of submission entries, powers of two: least in bits 3:0, most in bits 7:4.
    pub sqes: u8,
    /// CQES.
    pub cqes: u8,
    /// MAXCMD: commands per queue.
    pub maxcmd: U16,
    /// NN: the highest NSID.
    pub nn: U32,
    /// ONCS: optional NVM commands.
    pub oncs: U16,
    /// FUSES.
    pub fuses: U16,
    /// FNA.
    pub fna: u8,
    /// VWC: bit 0 a volatile cache, bits 2:1 3: Flush takes NSID 0xffffffff.
    pub vwc: u8,
    /// AWUN: 0-based blocks.
    pub awun: U16,
    /// AWUPF: 0-based blocks.
    pub awupf: U16,
    /// ICSVSCC, NWPC.
    pub reserved530: [u8; 2],
    /// ACWU.
    pub acwu: U16,
    /// OCFS.
    pub reserved534: [u8; 2],
    /// SGLS.
    pub sgls: U32,
    /// MNAN: how many namespaces at most.
    pub mnan: U32,
    /// MAXDNA and on.
    pub reserved544: [u8; 224],
    /// SUBNQN, ended by a zero.
    pub subnqn: [u8; 256],
    /// Reserved.
    pub reserved1024: [u8; 768],
    /// IOCCSZ: bytes of an I/O command capsule / 16.
    pub ioccsz: U32,
    /// IORCSZ: bytes of an I/O response capsule / 16.
    pub iorcsz: U32,
    /// ICDOFF: where in-capsule data starts after the entry / 16.
    pub icdoff: U16,
    /// FCATT: bit 0: a static controller.
    pub fcatt: u8,
    /// MSDBD: data blocks in an SGL.
    pub msdbd: u8,
    /// OFCS: bit 0: Disconnect.
    pub ofcs: U16,
    /// DCTYPE.
    pub dctype: u8,
    /// Reserved, and power states.
    pub reserved1807: [u8; 2289],
}
layout!(
    IdentifyController, 4096, serial @ 4, model @ 24, firmware @ 64, rab @ 72, cmic @ 76, mdts @ 77, cntlid @ 78,
    ver @ 80, oaes @ 92, ctratt @ 96, cntrltype @ 111, oacs @ 256, acl @ 258, aerl @ 259, frmw @ 260, lpa @ 261,
    elpe @ 262, npss @ 263, wctemp @ 266, cctemp @ 268, kas @ 320, sqes @ 512, cqes @ 513, maxcmd @ 514, nn @ 516,
    oncs @ 520, fuses @ 522, vwc @ 525, awun @ 526, awupf @ 528, acwu @ 532, sgls @ 536, mnan @ 540, subnqn @ 768,
    ioccsz @ 1792, iorcsz @ 1796, icdoff @ 1800, fcatt @ 1802, msdbd @ 1803, ofcs @ 1804, dctype @ 1806,
);

/// Identify Namespace (NVM figure 97).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// NSZE, blocks.
    pub nsze: U64,
    /// NCAP, blocks.
    pub ncap: U64,
    /// NUSE, blocks.
    pub nuse: U64,
    /// NSFEAT: bit 3 NGUIDs are never reused, bit 4 NPWG and the like are valid.
    pub nsfeat: u8,
    /// NLBAF, 0-based.
    pub nlbaf: u8,
    /// FLBAS.
    pub flbas: u8,
    /// MC, DPC, DPS.
    pub reserved27: [u8; 3],
    /// NMIC: bit 0: may be attached to several controllers.
    pub nmic: u8,
    /// RESCAP, FPI.
    pub reserved31: [u8; 2],
    /// DLFEAT: bits 2:0 1: deallocated blocks read zeros; bit 3 Write Zeroes may deallocate.
    pub dlfeat: u8,
    /// NAWUN, NAWUPF, NACWU, NABSN, NABO, NABSPF: 0: as the controller's.
    pub reserved34: [u8; 12],
    /// NOIOB, blocks.
    pub noiob: U16,
    /// NVMCAP.
    pub nvmcap: [u8; 16],
    /// NPWG: preferred write granularity, blocks, 0-based.
    pub npwg: U16,
    /// NPWA: and its alignment.
    pub npwa: U16,
    /// NPDG: preferred deallocate granularity, blocks, 0-based.
    pub npdg: U16,
    /// NPDA: and its alignment.
    pub npda: U16,
    /// NOWS: optimal write size, blocks, 0-based.
    pub nows: U16,
    /// MSSRL and on.
    pub reserved74: [u8; 18],
    /// ANAGRPID.
    pub anagrpid: U32,
    /// Reserved.
    pub reserved96: [u8; 3],
    /// NSATTR: bit 0: write protected.
    pub nsattr: u8,
    /// NVMSETID, ENDGID.
    pub reserved100: [u8; 4],
    /// NGUID.
    pub nguid: [u8; 16],
    /// EUI64.
    pub eui64: [u8; 8],
    /// LBAF0: metadata bytes.
    pub lbaf0_ms: U16,
    /// LBAF0: block size as a power of two.
    pub lbaf0_lbads: u8,
    /// LBAF0: relative performance.
    pub lbaf0_rp: u8,
    /// More formats, vendor specific.
    pub reserved132: [u8; 3964],
}
layout!(
    IdentifyNamespace, 4096, ncap @ 8, nuse @ 16, nsfeat @ 24, nlbaf @ 25, flbas @ 26, nmic @ 30, dlfeat @ 33,
    noiob @ 46, nvmcap @ 48, npwg @ 64, npwa @ 66, npdg @ 68, npda @ 70, nows @ 72, anagrpid @ 92, nsattr @ 99,
    nguid @ 104, eui64 @ 120, lbaf0_ms @ 128, lbaf0_lbads @ 130,
);

/// Types of namespace identification descriptors: type, length, 2 reserved bytes, then the value (Base figure 277).
pub mod nidt {
    /// EUI64, 8 bytes.
    pub const EUI64: u8 = 1;
    /// NGUID, 16 bytes.
    pub const NGUID: u8 = 2;
    /// UUID, 16 bytes.
    pub const UUID: u8 = 3;
    /// CSI, 1 byte.
    pub const CSI: u8 = 4;
}

/// Identify Controller of the NVM command set, CNS 06 (NVM figure 103).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NvmController {
    /// VSL.
    pub vsl: u8,
    /// WZSL: the most that Write Zeroes takes: a power of two, in units of CAP.MPSMIN.
    pub wzsl: u8,
    /// WUSL.
    pub wusl: u8,
    /// DMRL: ranges of Dataset Management; 0: no limit but 256.
    pub dmrl: u8,
    /// DMRSL: blocks of one range; 0: no limit.
    pub dmrsl: U32,
    /// DMSL: blocks of all ranges; 0: no limit.
    pub dmsl: U64,
    /// Reserved.
    pub reserved16: [u8; 4080],
}
layout!(NvmController, 4096, wzsl @ 1, dmrl @ 3, dmrsl @ 4, dmsl @ 8);

/// Identify Namespace, whatever its command set, CNS 08 (Base figure 280).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IndependentNamespace {
    /// NSFEAT.
    pub nsfeat: u8,
    /// NMIC.
    pub nmic: u8,
    /// RESCAP.
    pub rescap: u8,
    /// FPI.
    pub fpi: u8,
    /// ANAGRPID.
    pub anagrpid: U32,
    /// NSATTR.
    pub nsattr: u8,
    /// Reserved, NVMSETID, ENDGID.
    pub reserved9: [u8; 5],
    /// NSTAT: bit 0: ready.
    pub nstat: u8,
    /// Reserved.
    pub reserved15: [u8; 4081],
}
layout!(IndependentNamespace, 4096, nmic @ 1, anagrpid @ 4, nsattr @ 8, nstat @ 14);
