//! Status codes (Base 2.0c section 3.3.3.2.1), and which of them answers which failure of a device.
//!
//! DNR (do not retry) is set where the same command would fail again: Linux retries all else at once, five times.

use sds_block::ErrorKind;

use super::event::ConnectRefusal;

/// A completion's status: code in bits 7:0, type in bits 10:8, DNR in bit 14.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(u16);

impl Status {
    const DNR: u16 = 1 << 14;

    /// The command did what it should.
    pub const SUCCESS: Self = Self(0x000);
    /// The opcode is not offered here.
    pub const INVALID_OPCODE: Self = Self(Self::DNR | 0x001);
    /// A field of the command has a value that it may not have.
    pub const INVALID_FIELD: Self = Self(Self::DNR | 0x002);
    /// The node failed, not the command.
    pub const INTERNAL_ERROR: Self = Self(0x006);
    /// An Abort ended it.
    pub const ABORT_REQUESTED: Self = Self(0x007);
    /// The NSID names no namespace of this controller.
    pub const INVALID_NAMESPACE: Self = Self(Self::DNR | 0x00b);
    /// Not in this state: the controller is not enabled.
    pub const COMMAND_SEQUENCE_ERROR: Self = Self(Self::DNR | 0x00c);
    /// The SGL is shorter or longer than the command's data.
    pub const DATA_SGL_LENGTH_INVALID: Self = Self(Self::DNR | 0x00f);
    /// An SGL of this type can't be used for this.
    pub const SGL_TYPE_INVALID: Self = Self(Self::DNR | 0x011);
    /// In-capsule data lies outside the capsule.
    pub const SGL_OFFSET_INVALID: Self = Self(Self::DNR | 0x016);
    /// The Keep Alive time is more than can be had.
    pub const KEEP_ALIVE_TIMEOUT_INVALID: Self = Self(Self::DNR | 0x01a);
    /// The namespace takes no writes.
    pub const WRITE_PROTECTED: Self = Self(Self::DNR | 0x020);
    /// Nothing wrong with the command: try it again later.
    pub const COMMAND_INTERRUPTED: Self = Self(0x021);
    /// The data was hurt on its way: send it again.
    pub const TRANSIENT_TRANSPORT_ERROR: Self = Self(0x022);
    /// The range ends past the namespace.
    pub const LBA_OUT_OF_RANGE: Self = Self(Self::DNR | 0x080);
    /// There is no space for this write; Linux makes ENOSPC of it.
    pub const CAPACITY_EXCEEDED: Self = Self(Self::DNR | 0x081);
    /// Another host's reservation forbids it.
    pub const RESERVATION_CONFLICT: Self = Self(Self::DNR | 0x083);
    /// More open event requests than AERL.
    pub const EVENT_LIMIT_EXCEEDED: Self = Self(Self::DNR | 0x105);
    /// No such log page.
    pub const INVALID_LOG_PAGE: Self = Self(Self::DNR | 0x109);
    /// Features are not kept over a restart.
    pub const FEATURE_NOT_SAVEABLE: Self = Self(Self::DNR | 0x10d);
    /// This feature has one value only.
    pub const FEATURE_NOT_CHANGEABLE: Self = Self(Self::DNR | 0x10e);
    /// Connect: RECFMT is unknown.
    pub const CONNECT_FORMAT: Self = Self(Self::DNR | 0x180);
    /// Connect: no controller is to be had now.
    pub const CONNECT_BUSY: Self = Self(0x181);
    /// Connect: a parameter is wrong; the result says where.
    pub const CONNECT_INVALID_PARAMETERS: Self = Self(Self::DNR | 0x182);
    /// Connect: this host may not.
    pub const CONNECT_INVALID_HOST: Self = Self(Self::DNR | 0x184);
    /// The write can't be made durable.
    pub const WRITE_FAULT: Self = Self(Self::DNR | 0x280);
    /// The data can't be read.
    pub const UNRECOVERED_READ: Self = Self(Self::DNR | 0x281);
    /// Compare found other bytes.
    pub const COMPARE_FAILURE: Self = Self(Self::DNR | 0x285);
    /// Not on this path: a multipath host tries another.
    pub const INTERNAL_PATH_ERROR: Self = Self(0x300);

    /// The code without DNR: type in bits 10:8, code in bits 7:0.
    #[must_use]
    pub const fn code(self) -> u16 {
        self.0 & 0x7ff
    }

    /// A retry is useless.
    #[must_use]
    pub const fn do_not_retry(self) -> bool {
        self.0 & Self::DNR != 0
    }

    /// As it stands in a completion entry: shifted over the phase bit.
    #[must_use]
    pub const fn to_wire(self) -> u16 {
        self.0 << 1
    }

    /// From a completion entry.
    #[must_use]
    pub const fn from_wire(wire: u16) -> Self {
        Self(wire >> 1)
    }

    /// What answers a device's error. `reads`: the command only reads, which decides between the two media errors.
    #[must_use]
    pub const fn of(kind: ErrorKind, reads: bool) -> Self {
        match kind {
            ErrorKind::OutOfRange => Self::LBA_OUT_OF_RANGE,
            ErrorKind::InvalidField => Self::INVALID_FIELD,
            ErrorKind::Unsupported => Self::INVALID_OPCODE,
            ErrorKind::NoSpace => Self::CAPACITY_EXCEEDED,
            ErrorKind::MediaError if reads => Self::UNRECOVERED_READ,
            ErrorKind::MediaError => Self::WRITE_FAULT,
            ErrorKind::ChecksumMismatch => Self::UNRECOVERED_READ,
            ErrorKind::ReservationConflict => Self::RESERVATION_CONFLICT,
            ErrorKind::Fenced => Self::INTERNAL_PATH_ERROR,
            ErrorKind::DeviceGone => Self::INVALID_NAMESPACE,
            ErrorKind::TimedOut => Self::INTERNAL_ERROR,
            ErrorKind::ReadOnly => Self::WRITE_PROTECTED,
            ErrorKind::Miscompare => Self::COMPARE_FAILURE,
            ErrorKind::Busy => Self::COMMAND_INTERRUPTED,
        }
    }
}

/// What answers a refused Connect: the status and the result (Base section 6.3): for invalid
/// parameters the offset of the field in bits 15:0, and bit 16 set when that offset is in the data.
#[must_use]
pub const fn of_refusal(refusal: ConnectRefusal) -> (Status, u32) {
    const IN_DATA: u32 = 1 << 16;
    match refusal {
        ConnectRefusal::UnknownSubsystem => (Status::CONNECT_INVALID_PARAMETERS, IN_DATA | 256),
        ConnectRefusal::HostNotAllowed => (Status::CONNECT_INVALID_HOST, 0),
        ConnectRefusal::HostMismatch => (Status::CONNECT_INVALID_PARAMETERS, IN_DATA | 512),
        ConnectRefusal::InvalidHostId => (Status::CONNECT_INVALID_PARAMETERS, IN_DATA),
        ConnectRefusal::UnknownController => (Status::CONNECT_INVALID_PARAMETERS, IN_DATA | 16),
        ConnectRefusal::InvalidQueueId => (Status::CONNECT_INVALID_PARAMETERS, 42),
        ConnectRefusal::QueueInUse => (Status::COMMAND_SEQUENCE_ERROR, 0),
        ConnectRefusal::InvalidQueueSize => (Status::CONNECT_INVALID_PARAMETERS, 44),
        ConnectRefusal::ControllerDisabled => (Status::COMMAND_SEQUENCE_ERROR, 0),
        ConnectRefusal::Busy => (Status::CONNECT_BUSY, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_stands_above_the_phase_bit_with_dnr_in_bit_15() {
        // Capacity Exceeded: SC 0x81 in bits 8:1, SCT 0 in 11:9, DNR in 15.
        assert_eq!(Status::CAPACITY_EXCEEDED.to_wire(), 0x8102);
        // Unrecovered Read Error: SCT 2, SC 0x81.
        assert_eq!(Status::UNRECOVERED_READ.to_wire(), 0x8502);
        assert_eq!(Status::from_wire(0x8502).code(), 0x281);
        assert!(!Status::TRANSIENT_TRANSPORT_ERROR.do_not_retry());
    }

    #[test]
    fn a_media_error_says_which_way_the_data_went() {
        assert_eq!(Status::of(ErrorKind::MediaError, true).code(), 0x281);
        assert_eq!(Status::of(ErrorKind::MediaError, false).code(), 0x280);
        assert_eq!(Status::of(ErrorKind::NoSpace, false).code(), 0x081);
    }

    #[test]
    fn a_refused_connect_names_the_field() {
        // IATTR bit 16: in the data; IPO 256: SUBNQN.
        assert_eq!(of_refusal(ConnectRefusal::UnknownSubsystem), (Status::CONNECT_INVALID_PARAMETERS, 0x0001_0100));
        assert_eq!(of_refusal(ConnectRefusal::InvalidQueueSize).1, 44);
    }
}
