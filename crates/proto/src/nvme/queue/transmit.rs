//! Answers to bytes. Headers are gathered in the encoder until a payload comes between, so that a turn of the shell's
//! loop sends few pieces.

use alloc::vec::Vec;

use super::super::spec::command::Cqe;
use super::super::spec::pdu::flags;
use super::super::status::Status;
use super::Queue;
use super::slot::State;
use crate::connection::{Piece, Tag};

/// What waits to be sent.
#[derive(Debug)]
pub(super) enum Out {
    /// A response capsule.
    Cqe(Cqe),
    /// The answer of a read: data, and its response, with this SQHD, if the host counts on one. Heads are taken when an
    /// answer is queued: they never go back from one response to the next.
    Read(u16, u16),
    /// The host may send a write's data.
    R2t(u16),
    /// PDUs that are ready.
    Blob(Vec<u8>),
}

/// What was begun.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// Nothing.
    Nothing,
    /// The header of this slot's data was sent, its payload comes next.
    Payload(u16, u16),
}

impl Queue {
    pub(super) fn next_piece(&mut self) -> Option<Piece<'_>> {
        if let Sending::Payload(index, sqhd) = self.sending {
            return Some(self.send_payload(index, sqhd));
        }
        self.encoder.clear();
        while self.encoder.has_room() && self.sending == Sending::Nothing {
            match self.out.front() {
                None => break,
                Some(Out::Blob(_)) if !self.encoder.is_empty() => break,
                Some(_) => {}
            }
            match self.out.pop_front()? {
                Out::Cqe(cqe) => self.encoder.capsule_resp(&cqe),
                Out::R2t(index) => {
                    let slot = &self.slots[index];
                    self.encoder.r2t(slot.cid, index, 0, slot.data_bytes);
                }
                Out::Read(index, sqhd) => {
                    let slot = &self.slots[index];
                    let success = if self.flow_control_disabled { flags::SUCCESS } else { 0 };
                    self.encoder.c2h_data(slot.cid, 0, slot.data_bytes, flags::LAST_PDU | success);
                    self.sending = Sending::Payload(index, sqhd);
                }
                Out::Blob(blob) => {
                    self.blob = blob;
                    return Some(Piece::Control(&self.blob));
                }
            }
        }
        (!self.encoder.is_empty()).then(|| Piece::Control(self.encoder.bytes()))
    }

    fn send_payload(&mut self, index: u16, sqhd: u16) -> Piece<'static> {
        self.sending = Sending::Nothing;
        let slot = &self.slots[index];
        assert!(slot.state == State::Sending, "only an answered read is sent");
        let (bytes, cid) = (slot.data_bytes as usize, slot.cid);
        self.slots.give_back(index);
        if !self.flow_control_disabled {
            // A read's response follows its data at once: nothing of another command in between holds it up.
            self.out.push_front(Out::Cqe(cqe(cid, Status::SUCCESS, 0, sqhd)));
        }
        self.bytes_in_flight -= bytes;
        self.admit_waiting();
        Piece::Payload { tag: Tag(index), offset: 0, bytes, pad: 0, digest: self.digests.data, last: true }
    }
}

/// A completion entry.
pub(super) fn cqe(cid: u16, status: Status, result: u64, sqhd: u16) -> Cqe {
    Cqe { result: result.into(), sqhd: sqhd.into(), sqid: 0.into(), cid: cid.into(), status: status.to_wire().into() }
}
