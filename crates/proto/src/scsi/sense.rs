//! What a host is told of a failure: status and sense data (SAM-5 5.3, SPC-4 4.5), and the one table from block errors.

use sds_block::{BlockError, ErrorKind};
use zerocopy::IntoBytes;

use super::spec::FixedSense;

/// A SCSI status code (SAM-5 table 30).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Good = 0x00,
    /// Sense data says what.
    CheckCondition = 0x02,
    /// Not now: try again.
    Busy = 0x08,
    /// Another host's reservation forbids it.
    ReservationConflict = 0x18,
    /// More commands than the queue takes.
    TaskSetFull = 0x28,
}

/// A sense key (SPC-4 table 27).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SenseKey {
    /// Nothing to report.
    NoSense = 0x0,
    /// The unit can't be accessed.
    NotReady = 0x2,
    /// The medium, or the data on it, is bad.
    MediumError = 0x3,
    /// The command is wrong.
    IllegalRequest = 0x5,
    /// Something has changed since the last command.
    UnitAttention = 0x6,
    /// Writing is not possible.
    DataProtect = 0x7,
    /// Ended by the target; the host may try again.
    AbortedCommand = 0xb,
    /// The compared bytes differ.
    Miscompare = 0xe,
}

/// Which field was wrong (SPC-4 4.5.2.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldPointer {
    /// In the CDB; otherwise in the parameter list.
    pub in_cdb: bool,
    /// Its first byte.
    pub byte: u16,
    /// Its most significant bit, where it does not fill the byte.
    pub bit: Option<u8>,
}

/// Sense data, before it is bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// What kind of condition.
    pub key: SenseKey,
    /// ADDITIONAL SENSE CODE.
    pub asc: u8,
    /// ADDITIONAL SENSE CODE QUALIFIER.
    pub ascq: u8,
    /// An LBA or an offset, by condition. Fixed format has 32 bits for it; a larger one is left out.
    pub information: Option<u64>,
    /// The field at fault.
    pub pointer: Option<FieldPointer>,
}

impl Sense {
    /// LBA OUT OF RANGE.
    pub const LBA_OUT_OF_RANGE: Self = Self::new(SenseKey::IllegalRequest, 0x21, 0x00);
    /// INVALID COMMAND OPERATION CODE.
    pub const INVALID_OPCODE: Self = Self::new(SenseKey::IllegalRequest, 0x20, 0x00);
    /// INVALID FIELD IN CDB.
    pub const INVALID_FIELD_IN_CDB: Self = Self::new(SenseKey::IllegalRequest, 0x24, 0x00);
    /// INVALID FIELD IN PARAMETER LIST.
    pub const INVALID_FIELD_IN_PARAMETERS: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x00);
    /// PARAMETER LIST LENGTH ERROR.
    pub const PARAMETER_LENGTH: Self = Self::new(SenseKey::IllegalRequest, 0x1a, 0x00);
    /// LOGICAL UNIT NOT SUPPORTED.
    pub const NO_SUCH_UNIT: Self = Self::new(SenseKey::IllegalRequest, 0x25, 0x00);
    /// SAVING PARAMETERS NOT SUPPORTED.
    pub const NO_SAVING: Self = Self::new(SenseKey::IllegalRequest, 0x39, 0x00);
    /// WRITE PROTECTED.
    pub const WRITE_PROTECTED: Self = Self::new(SenseKey::DataProtect, 0x27, 0x00);
    /// NO ADDITIONAL SENSE INFORMATION.
    pub const NONE: Self = Self::new(SenseKey::NoSense, 0x00, 0x00);
    /// UNEXPECTED UNSOLICITED DATA (RFC 7143 11.4.7.2).
    pub const UNEXPECTED_DATA: Self = Self::new(SenseKey::AbortedCommand, 0x0c, 0x0c);
    /// NOT ENOUGH UNSOLICITED DATA, "incorrect amount of data" (RFC 7143 11.4.7.2).
    pub const INCORRECT_AMOUNT: Self = Self::new(SenseKey::AbortedCommand, 0x0c, 0x0d);
    /// PROTOCOL SERVICE CRC ERROR (RFC 7143 11.4.7.2).
    pub const DATA_DIGEST: Self = Self::new(SenseKey::AbortedCommand, 0x47, 0x05);

    /// Sense data with nothing but its codes.
    #[must_use]
    pub const fn new(key: SenseKey, asc: u8, ascq: u8) -> Self {
        Self { key, asc, ascq, information: None, pointer: None }
    }

    /// INVALID FIELD IN CDB that names the field: its first byte, and its top bit if it is part of a byte.
    #[must_use]
    pub const fn cdb_field(byte: u16, bit: Option<u8>) -> Self {
        Self { pointer: Some(FieldPointer { in_cdb: true, byte, bit }), ..Self::INVALID_FIELD_IN_CDB }
    }

    /// INVALID FIELD IN PARAMETER LIST that names the field.
    #[must_use]
    pub const fn parameter_field(byte: u16) -> Self {
        Self { pointer: Some(FieldPointer { in_cdb: false, byte, bit: None }), ..Self::INVALID_FIELD_IN_PARAMETERS }
    }

    /// The same with INFORMATION.
    #[must_use]
    pub const fn with_information(mut self, information: u64) -> Self {
        self.information = Some(information);
        self
    }

    /// The bytes, in fixed format (control mode page: D_SENSE is 0).
    #[must_use]
    pub fn bytes(&self) -> [u8; 18] {
        let mut sense = FixedSense {
            response: 0x70,
            key: self.key as u8,
            additional_length: 10,
            asc: self.asc,
            ascq: self.ascq,
            ..FixedSense::default()
        };
        if let Some(information) = self.information.and_then(|value| u32::try_from(value).ok()) {
            sense.response |= 0x80;
            sense.information = information.into();
        }
        if let Some(pointer) = self.pointer {
            let bit = pointer.bit.map_or(0, |bit| 0x08 | bit);
            sense.key_specific = 0x80 | u8::from(pointer.in_cdb) << 6 | bit;
            sense.field = pointer.byte.into();
        }
        let mut bytes = [0; 18];
        bytes.copy_from_slice(sense.as_bytes());
        bytes
    }
}

/// How a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// CHECK CONDITION with this sense data.
    Check(Sense),
    /// A status without sense data.
    Status(Status),
}

impl From<Sense> for Failure {
    fn from(sense: Sense) -> Self {
        Self::Check(sense)
    }
}

/// Whether a command changes blocks: a medium error reads differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// It reads or compares.
    Read,
    /// It writes, zeroes, discards or flushes.
    Write,
}

/// What a host is told of `error`: the one table from [`ErrorKind`] to SCSI.
#[must_use]
pub fn failure_of(error: &BlockError, intent: Intent) -> Failure {
    let sense = match error.kind() {
        ErrorKind::OutOfRange => Sense::LBA_OUT_OF_RANGE,
        ErrorKind::InvalidField => Sense::INVALID_FIELD_IN_CDB,
        ErrorKind::Unsupported => Sense::INVALID_OPCODE,
        // SPACE ALLOCATION FAILED WRITE PROTECT.
        ErrorKind::NoSpace => Sense::new(SenseKey::DataProtect, 0x27, 0x07),
        ErrorKind::MediaError => match intent {
            // UNRECOVERED READ ERROR; WRITE ERROR.
            Intent::Read => Sense::new(SenseKey::MediumError, 0x11, 0x00),
            Intent::Write => Sense::new(SenseKey::MediumError, 0x0c, 0x00),
        },
        // L-EC UNCORRECTABLE ERROR: bytes came, and they are not the right ones.
        ErrorKind::ChecksumMismatch => Sense::new(SenseKey::MediumError, 0x11, 0x05),
        ErrorKind::ReservationConflict => return Failure::Status(Status::ReservationConflict),
        // LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN STANDBY STATE: multipath hosts take another path.
        ErrorKind::Fenced => Sense::new(SenseKey::NotReady, 0x04, 0x0b),
        ErrorKind::DeviceGone => Sense::NO_SUCH_UNIT,
        // LOGICAL UNIT COMMUNICATION TIME-OUT: hosts try again.
        ErrorKind::TimedOut => Sense::new(SenseKey::AbortedCommand, 0x08, 0x01),
        ErrorKind::ReadOnly => Sense::WRITE_PROTECTED,
        // MISCOMPARE DURING VERIFY OPERATION; INFORMATION is the offset of the first differing byte (SBC-3 5.2).
        ErrorKind::Miscompare => Sense::new(SenseKey::Miscompare, 0x1d, 0x00),
        ErrorKind::Busy => return Failure::Status(Status::Busy),
    };
    Failure::Check(Sense { information: error.context().value, ..sense })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_pool_is_space_allocation_failed_write_protect() {
        let error = BlockError::new(ErrorKind::NoSpace, "no free chunk");
        let Failure::Check(sense) = failure_of(&error, Intent::Write) else { panic!("a check condition") };
        let expected: [u8; 18] = [
            0x70, 0x00, // current, fixed format; obsolete
            0x07, // DATA PROTECT
            0, 0, 0, 0,  // no information
            10, // additional length
            0, 0, 0, 0, // command-specific
            0x27, 0x07, // SPACE ALLOCATION FAILED WRITE PROTECT
            0,    // FRU
            0, 0, 0, // no sense-key specific
        ];
        assert_eq!(sense.bytes(), expected);
    }

    #[test]
    fn an_illegal_request_points_at_the_field() {
        let expected: [u8; 18] = [
            0x70, 0x00, 0x05, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0x00, 0,
            0xcf, // SKSV, in the CDB, bit pointer valid, bit 7
            0x00, 0x01, // byte 1
        ];
        assert_eq!(Sense::cdb_field(1, Some(7)).bytes(), expected);
        // A parameter list's byte 4 as a whole.
        assert_eq!(Sense::parameter_field(4).bytes()[15..], [0x80, 0x00, 0x04]);
    }

    #[test]
    fn information_that_fixed_format_can_not_hold_is_left_out() {
        let small = Sense::LBA_OUT_OF_RANGE.with_information(0x1234_5678).bytes();
        assert_eq!((small[0], &small[3..7]), (0xf0, &[0x12, 0x34, 0x56, 0x78][..]));
        let large = Sense::LBA_OUT_OF_RANGE.with_information(1 << 32).bytes();
        assert_eq!((large[0], &large[3..7]), (0x70, &[0; 4][..]));
    }

    #[test]
    fn every_kind_has_its_answer() {
        let of = |kind, intent| match failure_of(&BlockError::new(kind, "x"), intent) {
            Failure::Check(sense) => (0x02, sense.key as u8, sense.asc, sense.ascq),
            Failure::Status(status) => (status as u8, 0, 0, 0),
        };
        use ErrorKind::*;
        let table = [
            (OutOfRange, (0x02, 0x5, 0x21, 0x00)),
            (InvalidField, (0x02, 0x5, 0x24, 0x00)),
            (Unsupported, (0x02, 0x5, 0x20, 0x00)),
            (NoSpace, (0x02, 0x7, 0x27, 0x07)),
            (MediaError, (0x02, 0x3, 0x0c, 0x00)),
            (ChecksumMismatch, (0x02, 0x3, 0x11, 0x05)),
            (ReservationConflict, (0x18, 0, 0, 0)),
            (Fenced, (0x02, 0x2, 0x04, 0x0b)),
            (DeviceGone, (0x02, 0x5, 0x25, 0x00)),
            (TimedOut, (0x02, 0xb, 0x08, 0x01)),
            (ReadOnly, (0x02, 0x7, 0x27, 0x00)),
            (Miscompare, (0x02, 0xe, 0x1d, 0x00)),
            (Busy, (0x08, 0, 0, 0)),
        ];
        for (kind, expected) in table {
            assert_eq!(of(kind, Intent::Write), expected, "{kind:?}");
        }
        assert_eq!(of(MediaError, Intent::Read), (0x02, 0x3, 0x11, 0x00));
    }
}
