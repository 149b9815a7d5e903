//! What a session has agreed on, and its sequence numbers.

use super::pdu::before;

/// What this end offers and allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// SCSI commands that an initiator may have open: the command window.
    pub commands_max: u16,
    /// Bytes of payload, both ways, that may lie in buffers; further reads and R2Ts wait. One command is always let in.
    /// Commands whose data comes unasked can't wait: they are let in too, but for those that alone would take more than
    /// this, which are told that the task set is full (SAM-5 5.3.1); their initiators send them again later.
    pub bytes_in_flight_max: usize,
    /// The largest READ and WRITE: VPD page B0h says it.
    pub transfer_bytes_max: u32,
    /// The compared half of the largest COMPARE AND WRITE.
    pub compare_and_write_bytes_max: u32,
    /// MaxRecvDataSegmentLength that is declared.
    pub receive_segment_bytes: u32,
    /// MaxBurstLength that is offered.
    pub max_burst_bytes: u32,
    /// FirstBurstLength that is offered.
    pub first_burst_bytes: u32,
    /// InitialR2T that is wished for: No lets small writes come without asking.
    pub initial_r2t: bool,
    /// ImmediateData that is offered.
    pub immediate_data: bool,
    /// From the connection's start to its full feature phase.
    pub login_ms: u32,
    /// Without a byte from the initiator for this long, it is pinged.
    pub ping_idle_ms: u32,
    /// Without a byte for this long after the ping, it is dead.
    pub ping_answer_ms: u32,
    /// Within a PDU's data, without a byte for this long, it is dead.
    pub stall_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            commands_max: 128,
            bytes_in_flight_max: 32 << 20,
            transfer_bytes_max: 1 << 20,
            compare_and_write_bytes_max: 64 << 10,
            receive_segment_bytes: 256 << 10,
            max_burst_bytes: 1 << 20,
            first_burst_bytes: 64 << 10,
            initial_r2t: false,
            immediate_data: true,
            login_ms: 15_000,
            ping_idle_ms: 15_000,
            ping_answer_ms: 15_000,
            stall_ms: 30_000,
        }
    }
}

/// What login has agreed on; the defaults of RFC 7143 13 until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// HeaderDigest: CRC32C.
    pub header_digest: bool,
    /// DataDigest: CRC32C.
    pub data_digest: bool,
    /// The initiator's MaxRecvDataSegmentLength.
    pub send_segment_bytes: u32,
    /// MaxBurstLength.
    pub max_burst_bytes: u32,
    /// FirstBurstLength.
    pub first_burst_bytes: u32,
    /// InitialR2T.
    pub initial_r2t: bool,
    /// ImmediateData.
    pub immediate_data: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            send_segment_bytes: 8192,
            max_burst_bytes: 262_144,
            first_burst_bytes: 65_536,
            initial_r2t: true,
            immediate_data: true,
        }
    }
}

/// Where a request's CmdSN lies (RFC 7143 4.2.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is the next one.
    Next,
    /// Outside the window: it is dropped without a word.
    Outside,
    /// In the window, and one before it is missing. On the only connection of a session nothing can bring that one.
    Gap,
}

/// CmdSN and StatSN.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sequence {
    /// The next command's number.
    pub exp_cmd_sn: u32,
    /// The next status's number.
    pub stat_sn: u32,
    /// How many more commands may come now.
    pub room: u16,
}

impl Sequence {
    /// The last number that is let in. It never goes back: what takes room also counts `exp_cmd_sn` up.
    #[must_use]
    pub fn max_cmd_sn(&self) -> u32 {
        self.exp_cmd_sn.wrapping_add(self.room.into()).wrapping_sub(1)
    }

    /// Where `cmd_sn` lies.
    #[must_use]
    pub fn arrival(&self, cmd_sn: u32) -> Arrival {
        if before(cmd_sn, self.exp_cmd_sn) || before(self.max_cmd_sn(), cmd_sn) {
            Arrival::Outside
        } else if cmd_sn == self.exp_cmd_sn {
            Arrival::Next
        } else {
            Arrival::Gap
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_wraps_and_drops_what_is_outside() {
        let mut sequence = Sequence { exp_cmd_sn: 0xffff_fffe, stat_sn: 0, room: 4 };
        assert_eq!(sequence.max_cmd_sn(), 1);
        assert_eq!(sequence.arrival(0xffff_fffe), Arrival::Next);
        assert_eq!(sequence.arrival(1), Arrival::Gap);
        assert_eq!(sequence.arrival(2), Arrival::Outside);
        assert_eq!(sequence.arrival(0xffff_fffd), Arrival::Outside);
        sequence.room = 0;
        assert_eq!(sequence.arrival(0xffff_fffe), Arrival::Outside);
    }
}
