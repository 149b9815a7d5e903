//! Task management (RFC 7143 11.5) and logout (11.14): aborted tasks first come to rest, then the answer goes out.

use super::connection::TargetConnection;
use super::event::{Event, Reset};
use super::pdu::{self, Answer, BHS_BYTES, FINAL, RejectReason};
use super::task::State;
use super::transmit::{After, Out, Prepared};
use crate::scsi::unit::Attention;

/// Task management requests and logouts that may be open.
const PENDING_MAX: usize = 8;

/// An answer that waits for tasks to come to rest.
#[derive(Debug)]
pub struct Pending {
    bhs: [u8; BHS_BYTES],
    wait: Wait,
    /// The connection ends with it.
    close: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// The glue is still to be asked.
    Ask(Reset),
    /// The glue is being asked.
    Asked,
    /// For the aborted tasks only.
    Rest,
}

impl TargetConnection {
    /// A task management request.
    pub(super) fn task_management(&mut self, bhs: &[u8; BHS_BYTES]) {
        if !self.admit(bhs) {
            return;
        }
        let request = pdu::view::<pdu::TaskManagementRequest>(bhs);
        let unit_exists = self.unit.is_some() && matches!(request.lun, [0 | 0x40, 0, 0, 0, 0, 0, 0, 0]);
        let (mut response, mut wait) = (0, Wait::Rest);
        let function = request.function & 0x7f;
        match function {
            1 => match self.tasks.find(request.referenced.get()) {
                Some(tag) if self.tasks.abortable().contains(&tag) => self.abort(tag),
                _ => response = 1,
            },
            2 | 4 | 5 if !unit_exists => response = 2,
            2 => self.abort_all(),
            4 => wait = Wait::Ask(Reset::ClearTaskSet),
            5 => wait = Wait::Ask(Reset::LogicalUnit),
            6 => wait = Wait::Ask(Reset::TargetWarm),
            7 => wait = Wait::Ask(Reset::TargetCold),
            8 => response = 4,
            _ => response = 5,
        }
        if wait != Wait::Rest {
            self.abort_all();
            if function != 4 {
                self.attentions.add(Attention::Reset);
            }
        }
        let answer = Answer {
            opcode: pdu::response::TASK_MANAGEMENT,
            flags: FINAL,
            response,
            itt: request.itt,
            ..Answer::default()
        };
        self.pend(bhs, Pending { bhs: pdu::bytes(&answer), wait, close: function == 7 });
    }

    /// A logout request: all tasks end, then the connection.
    pub(super) fn logout(&mut self, bhs: &[u8; BHS_BYTES]) {
        if !self.admit(bhs) {
            return;
        }
        let header = pdu::view::<pdu::Bhs>(bhs);
        // 2: for recovery, which ErrorRecoveryLevel 0 does not have.
        let recovery = header.flags & 0x7f == 2;
        let answer = Answer {
            opcode: pdu::response::LOGOUT,
            flags: FINAL,
            response: if recovery { 2 } else { 0 },
            itt: header.itt,
            ..Answer::default()
        };
        if !recovery {
            self.abort_all();
        }
        self.pend(bhs, Pending { bhs: pdu::bytes(&answer), wait: Wait::Rest, close: !recovery });
    }

    fn pend(&mut self, bhs: &[u8; BHS_BYTES], pending: Pending) {
        if self.pending.len() >= PENDING_MAX {
            self.reject(bhs, RejectReason::OutOfResources);
            return;
        }
        self.pending.push_back(pending);
        self.pump_management();
    }

    /// Answers what can be answered.
    pub(super) fn pump_management(&mut self) {
        while let Some(first) = self.pending.front_mut() {
            match first.wait {
                Wait::Ask(reset) => {
                    first.wait = Wait::Asked;
                    self.events.push_back(Event::Reset(reset));
                    return;
                }
                Wait::Asked => return,
                Wait::Rest if self.tasks.aborting > 0 => return,
                Wait::Rest => {}
            }
            let Some(done) = self.pending.pop_front() else { return };
            self.closing |= done.close;
            let prepared =
                Prepared { bhs: done.bhs, data: alloc::vec::Vec::new(), advance: true, completes_login: false };
            self.prepare(prepared);
        }
    }

    /// The glue has reset all others.
    pub(super) fn reset_answered(&mut self) {
        if let Some(first) = self.pending.front_mut() {
            if first.wait == Wait::Asked {
                first.wait = Wait::Rest;
            }
        }
        self.pump_management();
    }

    /// Aborts every task that has no answer yet.
    pub(super) fn abort_all(&mut self) {
        for tag in self.tasks.abortable() {
            self.abort(tag);
        }
    }

    fn abort(&mut self, tag: u16) {
        self.tasks.aborting += 1;
        let receiving_now = self.rx.concerns(tag);
        let task = self.tasks.get(tag);
        task.aborted = true;
        match task.state {
            // The device has it, or the shell has its buffer in hand: it leaves when they are done.
            State::Submitted => {}
            State::Receiving if receiving_now => {}
            State::Receiving => {
                self.tx.queue.retain(|out| !matches!(out, Out::R2t(other) if *other == tag));
                self.leave(tag);
            }
            State::Waiting => {
                self.waiting.retain(|&other| other != tag);
                self.leave(tag);
            }
            State::Free | State::Answering | State::Leaving => {}
        }
    }

    /// An aborted task is at rest: what was read for it is let go and its slot freed, without an answer.
    pub(super) fn leave(&mut self, tag: u16) {
        let task = self.tasks.get(tag);
        task.state = State::Leaving;
        self.tx.queue.push_back(Out::Release(tag, After::End));
    }
}
