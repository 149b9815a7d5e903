//! What is sent, in order: StatSN and the command window are put into a header when it leaves, not before.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::connection::TargetConnection;
use super::pdu::{self, BHS_BYTES, FINAL, OVERFLOW, STATUS, TAG_NONE, U24, UNDERFLOW};
use super::task::{Job, State, Task};
use crate::connection::{Piece, Tag};
use crate::crc32c::crc32c;
use crate::scsi::sense::{Failure, Status};

/// Answers that no task holds, queued at once: a peer that asks and does not read is cut off.
pub const PREPARED_MAX: usize = 64;

/// Something to send.
#[derive(Debug)]
pub enum Out {
    /// A PDU that is complete but for its sequence numbers.
    Prepared(Box<Prepared>),
    /// The next Data-In of a task.
    DataIn(u16),
    /// A task's SCSI response.
    Response(u16),
    /// A task's next R2T.
    R2t(u16),
    /// Lets go of what a device answered for a tag, if it did.
    Release(u16, After),
}

/// What follows [`Out::Release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing: an answer is queued behind it.
    Nothing,
    /// The aborted task ends.
    End,
    /// VERIFY goes on with its next part.
    Check,
}

/// A PDU without its sequence numbers.
#[derive(Debug)]
pub struct Prepared {
    /// The header.
    pub bhs: [u8; BHS_BYTES],
    /// The data.
    pub data: Vec<u8>,
    /// It carries a status: StatSN counts on.
    pub advance: bool,
    /// Login is complete with it: digests count after it.
    pub completes_login: bool,
}

/// The sending half's state.
#[derive(Debug, Default)]
pub struct Transmitter {
    /// What waits.
    pub queue: VecDeque<Out>,
    /// How many of it are [`Out::Prepared`].
    pub prepared: usize,
    /// A Data-In's header was handed out; its payload is next.
    payload: Option<(u16, Piece<'static>)>,
    wire: Vec<u8>,
    /// Digests are in use.
    pub header_digest: bool,
    /// Digests are in use.
    pub data_digest: bool,
}

impl Transmitter {
    /// Nothing is left to send.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.payload.is_none()
    }

    /// Header, its digest, data, padding, its digest. A payload that the shell holds comes after this.
    fn lay(&mut self, bhs: &[u8; BHS_BYTES], data: &[u8]) {
        self.wire.clear();
        self.wire.extend_from_slice(bhs);
        if self.header_digest {
            self.wire.extend_from_slice(&crc32c(bhs).to_le_bytes());
        }
        if !data.is_empty() {
            let start = self.wire.len();
            self.wire.extend_from_slice(data);
            self.wire.resize(self.wire.len() + pdu::padding(data.len()), 0);
            if self.data_digest {
                let digest = crc32c(&self.wire[start..]);
                self.wire.extend_from_slice(&digest.to_le_bytes());
            }
        }
    }
}

/// Lets what a device answered go, unsent.
fn release(tag: u16) -> Piece<'static> {
    Piece::Payload { tag: Tag(tag), offset: 0, bytes: 0, pad: 0, digest: false, last: true }
}

/// Residual flags and count (RFC 7143 11.4.5).
fn residual(task: &Task) -> (u8, u32) {
    let moved = if task.moved_nothing { 0 } else { task.cdb_bytes };
    if moved > task.expected_bytes {
        (OVERFLOW, moved - task.expected_bytes)
    } else if moved < task.expected_bytes {
        (UNDERFLOW, task.expected_bytes - moved)
    } else {
        (0, 0)
    }
}

impl TargetConnection {
    pub(super) fn next_piece(&mut self) -> Option<Piece<'_>> {
        if let Some((tag, piece)) = self.tx.payload.take() {
            if matches!(piece, Piece::Payload { last: true, .. }) {
                self.end_task(tag);
            }
            return Some(piece);
        }
        loop {
            match self.tx.queue.pop_front()? {
                Out::Prepared(prepared) => self.send_prepared(*prepared),
                Out::DataIn(tag) => self.send_data_in(tag),
                Out::Response(tag) => self.send_response(tag),
                Out::R2t(tag) => self.send_r2t(tag),
                Out::Release(tag, after) => {
                    let answered = core::mem::take(&mut self.tasks.get(tag).answered);
                    match after {
                        After::Nothing => {}
                        After::End => {
                            self.make_room(tag);
                            self.end_task(tag);
                        }
                        After::Check => self.submit.push_back(tag),
                    }
                    if answered {
                        return Some(release(tag));
                    }
                    continue;
                }
            }
            return Some(Piece::Control(&self.tx.wire));
        }
    }

    /// Queues a PDU; a peer that lets too many pile up is cut off.
    pub(super) fn prepare(&mut self, prepared: Prepared) {
        if self.tx.prepared >= PREPARED_MAX {
            self.terminate("answers pile up unread", PREPARED_MAX as u64);
            return;
        }
        self.tx.prepared += 1;
        self.tx.queue.push_back(Out::Prepared(Box::new(prepared)));
    }

    /// StatSN, ExpCmdSN, MaxCmdSN: at the same place in all that a target sends.
    fn stamp(&mut self, bhs: &mut [u8; BHS_BYTES], advance: bool) {
        let sequence = &mut self.sequence;
        bhs[24..28].copy_from_slice(&sequence.stat_sn.to_be_bytes());
        bhs[28..32].copy_from_slice(&sequence.exp_cmd_sn.to_be_bytes());
        bhs[32..36].copy_from_slice(&sequence.max_cmd_sn().to_be_bytes());
        sequence.stat_sn = sequence.stat_sn.wrapping_add(advance.into());
    }

    fn send_prepared(&mut self, mut prepared: Prepared) {
        self.tx.prepared -= 1;
        self.stamp(&mut prepared.bhs, prepared.advance);
        self.tx.lay(&prepared.bhs, &prepared.data);
        if prepared.completes_login {
            self.tx.header_digest = self.parameters.header_digest;
            self.tx.data_digest = self.parameters.data_digest;
        }
    }

    /// The command window opens by one as the last PDU of a command leaves, so that this PDU says so.
    fn make_room(&mut self, tag: u16) {
        if !self.tasks.peek(tag).immediate {
            self.sequence.room += 1;
        }
    }

    fn send_data_in(&mut self, tag: u16) {
        let task = self.tasks.peek(tag);
        let burst_left = self.parameters.max_burst_bytes - task.sent % self.parameters.max_burst_bytes;
        let left = task.send - task.sent;
        let bytes = left.min(self.parameters.send_segment_bytes).min(burst_left);
        let (last, ends_burst) = (bytes == left, bytes == burst_left);
        if last {
            self.make_room(tag);
        }
        let itt = self.tasks.itt(tag);
        let task = self.tasks.get(tag);
        let (residual_flags, residual) = if last { residual(task) } else { (0, 0) };
        let header = pdu::DataIn {
            opcode: pdu::response::DATA_IN,
            flags: u8::from(last || ends_burst) << 7 | if last { STATUS | residual_flags } else { 0 },
            data_bytes: U24::new(bytes),
            itt: itt.into(),
            ttt: TAG_NONE.into(),
            data_sn: task.data_in_sn.into(),
            offset: task.sent.into(),
            residual: residual.into(),
            ..pdu::DataIn::default()
        };
        let offset = task.sent;
        task.sent += bytes;
        task.data_in_sn += 1;
        let inline = !matches!(task.job, Job::Read(_));
        let mut bhs = pdu::bytes(&header);
        self.stamp(&mut bhs, last);
        if !last {
            // StatSN is reserved in a Data-In without a status.
            bhs[24..28].fill(0);
            self.tx.queue.push_front(Out::DataIn(tag));
        }
        if inline {
            let task = self.tasks.get(tag);
            let data = core::mem::take(&mut task.bytes);
            self.tx.lay(&bhs, &data[offset as usize..(offset + bytes) as usize]);
            self.tasks.get(tag).bytes = data;
            if last {
                self.end_task(tag);
            }
        } else {
            self.tx.lay(&bhs, &[]);
            let piece = Piece::Payload {
                tag: Tag(tag),
                offset: offset as usize,
                bytes: bytes as usize,
                pad: pdu::padding(bytes as usize),
                digest: self.tx.data_digest,
                last,
            };
            self.tx.payload = Some((tag, piece));
        }
    }

    fn send_response(&mut self, tag: u16) {
        self.make_room(tag);
        let task = self.tasks.peek(tag);
        let (flags, residual) = residual(task);
        let (status, sense) = match task.failure {
            None => (Status::Good, None),
            Some(Failure::Status(status)) => (status, None),
            Some(Failure::Check(sense)) => (Status::CheckCondition, Some(sense)),
        };
        let mut data = [0; 20];
        data[1] = 18;
        let data: &[u8] = match sense {
            Some(sense) => {
                data[2..].copy_from_slice(&sense.bytes());
                &data
            }
            None => &[],
        };
        let header = pdu::ScsiResponse {
            opcode: pdu::response::SCSI,
            flags: FINAL | flags,
            status: status as u8,
            data_bytes: U24::new(data.len() as u32),
            itt: self.tasks.itt(tag).into(),
            exp_data_sn: (task.data_in_sn + task.r2t_sn).into(),
            residual: residual.into(),
            ..pdu::ScsiResponse::default()
        };
        let mut bhs = pdu::bytes(&header);
        self.stamp(&mut bhs, true);
        self.tx.lay(&bhs, data);
        self.end_task(tag);
    }

    fn send_r2t(&mut self, tag: u16) {
        let itt = self.tasks.itt(tag);
        let task = self.tasks.get(tag);
        let header = pdu::ReadyToTransfer {
            opcode: pdu::response::R2T,
            flags: FINAL,
            lun: task.lun,
            itt: itt.into(),
            ttt: task.ttt.into(),
            r2t_sn: task.r2t_sn.into(),
            offset: task.received.into(),
            desired_bytes: (task.sequence_end - task.received).into(),
            ..pdu::ReadyToTransfer::default()
        };
        task.r2t_sn += 1;
        let mut bhs = pdu::bytes(&header);
        self.stamp(&mut bhs, false);
        self.tx.lay(&bhs, &[]);
    }

    /// The task's slot and bytes are free; what waited for them goes on.
    pub(super) fn end_task(&mut self, tag: u16) {
        let task = self.tasks.get(tag);
        self.in_flight -= core::mem::take(&mut task.held);
        debug_assert!(matches!(task.state, State::Answering | State::Leaving));
        self.tasks.end(tag);
        self.let_in();
        self.pump_management();
    }
}
