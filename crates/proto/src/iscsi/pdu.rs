//! The basic header segment of every PDU (RFC 7143 11). Layouts and names of bits; nothing else. Numbers are
//! big-endian.

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a basic header segment.
pub const BHS_BYTES: usize = 48;
/// The tag that names nothing: an ITT or TTT that is not used.
pub const TAG_NONE: u32 = 0xffff_ffff;
/// The immediate bit of a request's opcode byte.
pub const IMMEDIATE: u8 = 0x40;
/// The bits of the opcode byte that are the opcode.
pub const OPCODE: u8 = 0x3f;
/// F: the last of its sequence. Reserved and 1 in most PDUs.
pub const FINAL: u8 = 0x80;
/// C: the text goes on in the next PDU (11.10.2, 11.12.2).
pub const CONTINUE: u8 = 0x40;
/// T: leave this stage (11.12.1).
pub const TRANSIT: u8 = 0x80;
/// R of a SCSI command: it expects data in (11.3.1).
pub const READ: u8 = 0x40;
/// W of a SCSI command: it expects to send data out.
pub const WRITE: u8 = 0x20;
/// O of a response: residual overflow (11.4.1).
pub const OVERFLOW: u8 = 0x04;
/// U of a response: residual underflow.
pub const UNDERFLOW: u8 = 0x02;
/// S of Data-In: it carries the status (11.7.1).
pub const STATUS: u8 = 0x01;

/// What an initiator sends (11.2.1.2).
pub mod request {
    #![allow(missing_docs)]
    pub const NOP_OUT: u8 = 0x00;
    pub const SCSI_COMMAND: u8 = 0x01;
    pub const TASK_MANAGEMENT: u8 = 0x02;
    pub const LOGIN: u8 = 0x03;
    pub const TEXT: u8 = 0x04;
    pub const DATA_OUT: u8 = 0x05;
    pub const LOGOUT: u8 = 0x06;
    pub const SNACK: u8 = 0x10;
}

/// What a target sends (11.2.1.2).
pub mod response {
    #![allow(missing_docs)]
    pub const NOP_IN: u8 = 0x20;
    pub const SCSI: u8 = 0x21;
    pub const TASK_MANAGEMENT: u8 = 0x22;
    pub const LOGIN: u8 = 0x23;
    pub const TEXT: u8 = 0x24;
    pub const DATA_IN: u8 = 0x25;
    pub const LOGOUT: u8 = 0x26;
    pub const R2T: u8 = 0x31;
    pub const REJECT: u8 = 0x3f;
}

/// Why a PDU is rejected (11.17.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum RejectReason {
    DataDigest = 0x02,
    Snack = 0x03,
    Protocol = 0x04,
    NotSupported = 0x05,
    TooManyImmediate = 0x06,
    TaskInProgress = 0x07,
    InvalidField = 0x09,
    OutOfResources = 0x0a,
}

/// DataSegmentLength: 24 bits.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct U24(pub [u8; 3]);

impl U24 {
    /// Its value.
    #[must_use]
    pub fn get(self) -> u32 {
        u32::from_be_bytes([0, self.0[0], self.0[1], self.0[2]])
    }

    /// The low 24 bits of `value`.
    #[must_use]
    pub fn new(value: u32) -> Self {
        let [_, a, b, c] = value.to_be_bytes();
        Self([a, b, c])
    }
}

macro_rules! bhs {
    ($(#[$about:meta])* $name:ident { $($(#[$field_about:meta])* $field:ident: $kind:ty,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
        #[repr(C)]
        pub struct $name { $($(#[$field_about])* pub $field: $kind,)+ }
        const _: () = assert!(size_of::<$name>() == BHS_BYTES);
    };
}

bhs! {
    /// What all have in common (11.2.1).
    Bhs {
        /// Immediate bit and opcode.
        opcode: u8,
        /// F and opcode-specific bits.
        flags: u8,
        /// Opcode-specific.
        specific_2: u8,
        /// Opcode-specific.
        specific_3: u8,
        /// TotalAHSLength, in words of four bytes.
        ahs_words: u8,
        /// DataSegmentLength, in bytes, without padding.
        data_bytes: U24,
        /// LUN, or opcode-specific.
        lun: [u8; 8],
        /// Initiator Task Tag.
        itt: U32,
        /// Opcode-specific: TTT or expected length.
        specific_20: U32,
        /// CmdSN of requests, StatSN of responses.
        sn: U32,
        /// ExpStatSN of requests, ExpCmdSN of responses.
        expected_sn: U32,
        /// Opcode-specific; MaxCmdSN of responses.
        specific_32: U32,
        /// Opcode-specific.
        specific_36: [u8; 12],
    }
}

bhs! {
    /// SCSI Command (11.3).
    ScsiCommand {
        /// 01h.
        opcode: u8,
        /// F, R, W, ATTR in 2-0.
        flags: u8,
        /// Reserved.
        reserved: [u8; 2],
        /// TotalAHSLength.
        ahs_words: u8,
        /// Immediate data.
        data_bytes: U24,
        /// LUN.
        lun: [u8; 8],
        /// Initiator Task Tag.
        itt: U32,
        /// Expected Data Transfer Length, bytes.
        expected_bytes: U32,
        /// CmdSN.
        cmd_sn: U32,
        /// ExpStatSN.
        exp_stat_sn: U32,
        /// CDB, zeros at the end.
        cdb: [u8; 16],
    }
}

bhs! {
    /// SCSI Response (11.4).
    ScsiResponse {
        /// 21h.
        opcode: u8,
        /// F; o, u, O, U.
        flags: u8,
        /// 00h: command completed at target.
        response: u8,
        /// SCSI status.
        status: u8,
        /// TotalAHSLength.
        ahs_words: u8,
        /// Sense length (2 bytes) and sense data.
        data_bytes: U24,
        /// Reserved.
        reserved: [u8; 8],
        /// Initiator Task Tag.
        itt: U32,
        /// SNACK Tag: 0 at ErrorRecoveryLevel 0.
        snack_tag: U32,
        /// StatSN.
        stat_sn: U32,
        /// ExpCmdSN.
        exp_cmd_sn: U32,
        /// MaxCmdSN.
        max_cmd_sn: U32,
        /// ExpDataSN: how many Data-In or R2T PDUs the command had.
        exp_data_sn: U32,
        /// Bidirectional Read Residual Count.
        read_residual: U32,
        /// Residual Count.
        residual: U32,
    }
}

bhs! {
    /// Task Management Function Request (11.5).
    TaskManagementRequest {
        /// 02h.
        opcode: u8,
        /// 1, Function in 6-0.
        function: u8,
        /// Reserved.
        reserved: [u8; 2],
        /// TotalAHSLength.
        ahs_words: u8,
        /// 0.
        data_bytes: U24,
        /// LUN.
        lun: [u8; 8],
        /// Initiator Task Tag.
        itt: U32,
        /// Referenced Task Tag: the ITT of the task to abort.
        referenced: U32,
        /// CmdSN.
        cmd_sn: U32,
        /// ExpStatSN.
        exp_stat_sn: U32,
        /// RefCmdSN.
        referenced_cmd_sn: U32,
        /// ExpDataSN.
        exp_data_sn: U32,
        /// Reserved.
        reserved_end: [u8; 8],
    }
}

bhs! {
    /// Responses whose only field is a code: Task Management Function (11.6), Logout (11.15), Text (11.11), NOP-In
    /// (11.19).
    Answer {
        /// 20h, 22h, 24h, 26h.
        opcode: u8,
        /// F; C of Text.
        flags: u8,
        /// Response of Task Management and Logout.
        response: u8,
        /// Reserved.
        reserved: u8,
        /// TotalAHSLength.
        ahs_words: u8,
        /// Text, ping data.
        data_bytes: U24,
        /// LUN of NOP-In.
        lun: [u8; 8],
        /// Initiator Task Tag.
        itt: U32,
        /// Target Transfer Tag of Text and NOP-In; reserved in the others.
        ttt: U32,
        /// StatSN.
        stat_sn: U32,
        /// ExpCmdSN.
        exp_cmd_sn: U32,
        /// MaxCmdSN.
        max_cmd_sn: U32,
        /// Reserved.
        reserved_36: U32,
        /// Time2Wait of Logout, seconds.
        time2wait: U16,
        /// Time2Retain of Logout, seconds.
        time2retain: U16,
        /// Reserved.
        reserved_end: U32,
    }
}

bhs! {
    /// SCSI Data-Out (11.7).
    DataOut {
        /// 05h.
        opcode: u8,
        /// F.
        flags: u8,
        /// Reserved.
        reserved: [u8; 2],
        /// TotalAHSLength.
        ahs_words: u8,
        /// Its data.
        data_bytes: U24,
        /// LUN.
        lun: [u8; 8],
        /// Initiator Task Tag of the command.
        itt: U32,
        /// Target Transfer Tag of the R2T, or FFFFFFFFh: unsolicited.
        ttt: U32,
        /// Reserved.
        reserved_24: U32,
        /// ExpStatSN.
        exp_stat_sn: U32,
        /// Reserved.
        reserved_32: U32,
        /// DataSN: counts within the sequence.
        data_sn: U32,
        /// Where the data belongs.
        offset: U32,
        /// Reserved.
        reserved_end: U32,
    }
}

bhs! {
    /// SCSI Data-In (11.7).
    DataIn {
        /// 25h.
        opcode: u8,
        /// F, A, O, U, S.
        flags: u8,
        /// Reserved.
        reserved: u8,
        /// SCSI status, if S.
        status: u8,
        /// TotalAHSLength.
        ahs_words: u8,
        /// Its data.
        data_bytes: U24,
        /// LUN, if A.
        lun: [u8; 8],
        /// Initiator Task Tag of the command.
        itt: U32,
        /// FFFFFFFFh without A.
        ttt: U32,
        /// StatSN, if S.
        stat_sn: U32,
        /// ExpCmdSN.
        exp_cmd_sn: U32,
        /// MaxCmdSN.
        max_cmd_sn: U32,
        /// DataSN: counts within the command.
        data_sn: U32,
        /// Where the data belongs.
        offset: U32,
        /// Residual Count, if S.
        residual: U32,
    }
}

bhs! {
    /// Ready To Transfer (11.8).
    ReadyToTransfer {
        /// 31h.
        opcode: u8,
        /// F.
        flags: u8,
        /// Reserved.
        reserved: [u8; 2],
        /// TotalAHSLength.
        ahs_words: u8,
        /// 0.
        data_bytes: U24,
        /// LUN.
        lun: [u8; 8],
        /// Initiator Task Tag of the command.
        itt: U32,
        /// Target Transfer Tag.
        ttt: U32,
        /// The next StatSN; not advanced.
        stat_sn: U32,
        /// ExpCmdSN.
        exp_cmd_sn: U32,
        /// MaxCmdSN.
        max_cmd_sn: U32,
        /// R2TSN: counts within the command.
        r2t_sn: U32,
        /// Buffer Offset.
        offset: U32,
        /// Desired Data Transfer Length.
        desired_bytes: U32,
    }
}

bhs! {
    /// Login Request (11.12).
    LoginRequest {
        /// 43h: always immediate.
        opcode: u8,
        /// T, C, CSG in 3-2, NSG in 1-0.
        flags: u8,
        /// Version-max.
        version_max: u8,
        /// Version-min.
        version_min: u8,
        /// TotalAHSLength.
        ahs_words: u8,
        /// Text.
        data_bytes: U24,
        /// ISID.
        isid: [u8; 6],
        /// TSIH.
        tsih: U16,
        /// Initiator Task Tag.
        itt: U32,
        /// CID.
        cid: U16,
        /// Reserved.
        reserved: U16,
        /// CmdSN: the first that a command will have.
        cmd_sn: U32,
        /// ExpStatSN.
        exp_stat_sn: U32,
        /// Reserved.
        reserved_end: [u8; 16],
    }
}

bhs! {
    /// Login Response (11.13).
    LoginResponse {
        /// 23h.
        opcode: u8,
        /// T, C, CSG in 3-2, NSG in 1-0.
        flags: u8,
        /// Version-max.
        version_max: u8,
        /// Version-active.
        version_active: u8,
        /// TotalAHSLength.
        ahs_words: u8,
        /// Text.
        data_bytes: U24,
        /// ISID.
        isid: [u8; 6],
        /// TSIH.
        tsih: U16,
        /// Initiator Task Tag.
        itt: U32,
        /// Reserved.
        reserved: U32,
        /// StatSN.
        stat_sn: U32,
        /// ExpCmdSN.
        exp_cmd_sn: U32,
        /// MaxCmdSN.
        max_cmd_sn: U32,
        /// Status-Class.
        status_class: u8,
        /// Status-Detail.
        status_detail: u8,
        /// Reserved.
        reserved_end: [u8; 10],
    }
}

bhs! {
    /// Reject (11.17); its data is the rejected header.
    Reject {
        /// 3Fh.
        opcode: u8,
        /// F.
        flags: u8,
        /// Reason.
        reason: u8,
        /// Reserved.
        reserved: u8,
        /// TotalAHSLength.
        ahs_words: u8,
        /// 48.
        data_bytes: U24,
        /// Reserved.
        reserved_8: [u8; 8],
        /// FFFFFFFFh.
        itt: U32,
        /// Reserved.
        reserved_20: U32,
        /// StatSN.
        stat_sn: U32,
        /// ExpCmdSN.
        exp_cmd_sn: U32,
        /// MaxCmdSN.
        max_cmd_sn: U32,
        /// DataSN or R2TSN; reserved for all others.
        data_sn: U32,
        /// Reserved.
        reserved_end: [u8; 8],
    }
}

/// Reads a header as the layout of its opcode.
#[must_use]
pub fn view<T: FromBytes + KnownLayout + Immutable + Unaligned>(bhs: &[u8; BHS_BYTES]) -> &T {
    T::ref_from_bytes(bhs).expect("every layout has the size of a BHS")
}

/// A header's bytes.
#[must_use]
pub fn bytes<T: IntoBytes + Immutable>(header: &T) -> [u8; BHS_BYTES] {
    let mut bytes = [0; BHS_BYTES];
    bytes.copy_from_slice(header.as_bytes());
    bytes
}

/// Zero bytes after `length` bytes of data, up to a multiple of four (11.2.3).
#[must_use]
pub const fn padding(length: usize) -> usize {
    length.wrapping_neg() & 3
}

/// `a` is before `b` in the serial number arithmetic of RFC 1982 (RFC 7143 4.2.2.1).
#[must_use]
pub const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}
