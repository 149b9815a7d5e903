//! Bytes to completions: the mirror image of the target's receiving.

use alloc::vec::Vec;

use zerocopy::FromBytes;

use super::super::pdu::{COMMON_BYTES, Digests, Fault, Parts, check, check_header_digest};
use super::super::spec::command::Cqe;
use super::super::spec::pdu::{
    CapsuleResp, CommonHeader, DIGEST_BYTES, DataPdu, IcResp, R2t, TERM_REQ_BYTES_MAX, TermReq, fes, flags, kind,
};
use super::super::status::Status;
use super::{Initiator, Out, Progress, Sending, Way};
use crate::connection::{CONTROL_BYTES_MAX, Receive, Tag, Termination};
use crate::crc32c::Crc32c;

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// ICResp.
    Start,
    /// A common header.
    Common,
    /// The rest of a header: its PDU's type, its parts.
    Rest(u8, Parts),
    /// The rest of a termination request.
    TermReq(usize),
    /// A read's data.
    Payload(u16, u32),
    /// Data that the machine keeps.
    Control(u16, u32),
    /// The digest of data.
    Digest(u16),
    /// Nothing more.
    Ended,
}

/// The PDU that is being received.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    common: [u8; COMMON_BYTES],
    success: bool,
    digest: Crc32c,
}

impl Initiator {
    pub(super) fn next_receive(&mut self) -> Receive {
        match self.stage {
            Stage::Start => Receive::Control { bytes: size_of::<IcResp>() },
            Stage::Common => Receive::Control { bytes: COMMON_BYTES },
            Stage::Rest(_, parts) => Receive::Control { bytes: parts.rest_bytes },
            Stage::TermReq(bytes) => Receive::Control { bytes },
            Stage::Payload(cid, left) => {
                let slot = &self.slots[usize::from(cid)];
                Receive::Payload {
                    tag: Tag(cid),
                    offset: slot.moved as usize,
                    bytes: left as usize,
                    total: slot.bytes as usize,
                }
            }
            Stage::Control(_, left) => Receive::Control { bytes: (left as usize).min(CONTROL_BYTES_MAX) },
            Stage::Digest(_) => Receive::Control { bytes: DIGEST_BYTES },
            Stage::Ended => Receive::Nothing,
        }
    }

    pub(super) fn receive_control(&mut self, bytes: &[u8]) {
        let received = match self.stage {
            Stage::Start => self.receive_ic_resp(bytes),
            Stage::Common => {
                self.incoming.common.copy_from_slice(bytes);
                self.receive_common()
            }
            Stage::Rest(kind, parts) => self.receive_rest(kind, parts, bytes),
            Stage::TermReq(_) => {
                let fes = u64::from(u16::from_le_bytes([bytes[0], bytes[1]]));
                self.termination = Some(Termination { reason: "the target sent C2HTermReq with FES", value: fes });
                (self.progress, self.stage) = (Progress::Ended, Stage::Ended);
                self.out.clear();
                Ok(())
            }
            Stage::Control(cid, left) => {
                self.slots[usize::from(cid)].control.extend_from_slice(bytes);
                self.note_data(cid, left, bytes);
                Ok(())
            }
            Stage::Digest(cid) => {
                let holds = self.incoming.digest.finish().to_le_bytes() == bytes;
                self.slots[usize::from(cid)].damaged |= !holds;
                self.end_data(cid);
                Ok(())
            }
            Stage::Payload(..) | Stage::Ended => panic!("control bytes that were not asked for"),
        };
        if let Err(fault) = received {
            let mut header = Vec::from(self.incoming.common);
            header.extend_from_slice(bytes);
            self.fail(fault, &header);
        }
    }

    pub(super) fn receive_payload(&mut self, bytes: &[u8]) {
        let Stage::Payload(cid, left) = self.stage else { panic!("payload that was not asked for") };
        self.note_data(cid, left, bytes);
    }

    fn receive_ic_resp(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.incoming.common.copy_from_slice(&bytes[..COMMON_BYTES]);
        let Ok(pdu) = IcResp::ref_from_bytes(bytes) else { unreachable!("so many were asked for") };
        if (pdu.header.kind, pdu.header.plen.get()) != (kind::IC_RESP, 128) {
            return Err(Fault::sequence("the first PDU is not ICResp but of type", pdu.header.kind.into()));
        }
        if pdu.pfv.get() != 0 {
            return Err(Fault::new(fes::UNSUPPORTED_PARAMETER, 8, "PFV is not 0", pdu.pfv.get().into()));
        }
        let digests = Digests::from_bits(pdu.digests);
        if digests != self.config.digests {
            return Err(Fault::field(11, "DGST is not what was asked for", pdu.digests.into()));
        }
        if pdu.maxh2cdata.get() < 4096 || pdu.cpda > super::super::pdu::PDA_MAX {
            return Err(Fault::field(12, "MAXH2CDATA is below 4096, or CPDA above 31", pdu.maxh2cdata.get().into()));
        }
        self.digests = digests;
        self.encoder.digests = digests;
        self.encoder.align_bytes = (usize::from(pdu.cpda) + 1) * 4;
        self.maxh2cdata = pdu.maxh2cdata.get();
        self.stage = Stage::Common;
        self.connect();
        Ok(())
    }

    fn receive_common(&mut self) -> Result<(), Fault> {
        let Ok(header) = CommonHeader::ref_from_bytes(&self.incoming.common) else {
            unreachable!("a common header has 8 bytes")
        };
        let hlen = match header.kind {
            kind::CAPSULE_RESP => size_of::<CapsuleResp>(),
            kind::C2H_DATA => size_of::<DataPdu>(),
            kind::R2T => size_of::<R2t>(),
            kind::C2H_TERM_REQ => {
                let plen = header.plen.get() as usize;
                if !(size_of::<TermReq>()..=TERM_REQ_BYTES_MAX).contains(&plen) {
                    return Err(Fault::field(4, "PLEN of C2HTermReq is not 24 to 152", plen as u64));
                }
                self.stage = Stage::TermReq(plen - COMMON_BYTES);
                return Ok(());
            }
            _ => return Err(Fault::field(0, "PDU-Type is none that a target sends now", header.kind.into())),
        };
        let parts = check(header, hlen, self.digests, u32::MAX as usize)?;
        if (parts.data_bytes != 0) != (header.kind == kind::C2H_DATA) {
            return Err(Fault::field(4, "PLEN does not fit the PDU's type", header.plen.get().into()));
        }
        self.stage = Stage::Rest(header.kind, parts);
        Ok(())
    }

    fn receive_rest(&mut self, kind: u8, parts: Parts, rest: &[u8]) -> Result<(), Fault> {
        if self.digests.header {
            check_header_digest(&self.incoming.common, rest, size_of::<DataPdu>())?;
        }
        self.stage = Stage::Common;
        if kind == kind::CAPSULE_RESP {
            let Ok((cqe, _)) = Cqe::ref_from_prefix(rest) else { unreachable!("the header's size was checked") };
            return self.receive_response(cqe);
        }
        let mut bytes = [0; size_of::<DataPdu>()];
        bytes[..COMMON_BYTES].copy_from_slice(&self.incoming.common);
        bytes[COMMON_BYTES..].copy_from_slice(&rest[..size_of::<DataPdu>() - COMMON_BYTES]);
        // R2T has the same fields at the same offsets.
        let Ok(pdu) = DataPdu::ref_from_bytes(&bytes) else { unreachable!("the size is the type's") };
        if kind == kind::R2T { self.receive_r2t(pdu) } else { self.receive_c2h_data(pdu, parts) }
    }

    fn receive_response(&mut self, cqe: &Cqe) -> Result<(), Fault> {
        let cid = cqe.cid.get();
        if self.slots.get(usize::from(cid)).is_none_or(|slot| !slot.open) {
            return Err(Fault::field(20, "CID of the response is that of no open command", cid.into()));
        }
        if self.is_being_sent(cid) {
            return Err(Fault::sequence("a response to a command before all of it was sent", cid.into()));
        }
        let slot = &self.slots[usize::from(cid)];
        let status = Status::from_wire(cqe.status.get());
        let reads = matches!(slot.way, Way::Read | Way::ReadControl);
        if status == Status::SUCCESS && reads && slot.moved != slot.bytes {
            return Err(Fault::sequence("a read succeeded before all its data came", slot.moved.into()));
        }
        self.complete(cid, status, cqe.result.get());
        Ok(())
    }

    /// Whether the command, or data of it, is still to be sent. Its tag must not be free before: what is sent then
    /// would be another command's.
    fn is_being_sent(&self, cid: u16) -> bool {
        let waits = self.out.iter().any(|out| match *out {
            Out::Capsule(of) | Out::Data { cid: of, .. } => of == cid,
            Out::Blob => self.slots[usize::from(cid)].way == Way::WriteControl,
        });
        waits || matches!(self.sending, Sending::Payload { cid: of, .. } if of == cid)
    }

    fn receive_r2t(&mut self, pdu: &DataPdu) -> Result<(), Fault> {
        let (cid, offset, bytes) = (pdu.cccid.get(), pdu.datao.get(), pdu.datal.get());
        let Some(slot) = self.slots.get_mut(usize::from(cid)).filter(|slot| slot.open && slot.way == Way::Write) else {
            return Err(Fault::field(8, "CCCID of R2T is that of no open write", cid.into()));
        };
        if offset != slot.moved || bytes == 0 || bytes > slot.bytes - slot.moved {
            return Err(Fault::new(fes::DATA_OUT_OF_RANGE, 0, "R2T asks for data out of turn", offset.into()));
        }
        slot.moved += bytes;
        self.out.push_back(Out::Data { cid, ttag: pdu.ttag.get(), offset, end: offset + bytes });
        Ok(())
    }

    fn receive_c2h_data(&mut self, pdu: &DataPdu, parts: Parts) -> Result<(), Fault> {
        let (cid, offset, bytes) = (pdu.cccid.get(), pdu.datao.get(), pdu.datal.get());
        let reads = |way: Way| matches!(way, Way::Read | Way::ReadControl);
        let Some(slot) = self.slots.get(usize::from(cid)).filter(|slot| slot.open && reads(slot.way)) else {
            return Err(Fault::field(8, "CCCID of C2HData is that of no open read", cid.into()));
        };
        if self.is_being_sent(cid) {
            return Err(Fault::sequence("data of a read before it was sent", cid.into()));
        }
        if bytes as usize != parts.data_bytes || offset != slot.moved || bytes > slot.bytes - slot.moved {
            return Err(Fault::new(fes::DATA_OUT_OF_RANGE, 0, "C2HData lies outside what was asked", offset.into()));
        }
        let ends = offset + bytes == slot.bytes;
        self.incoming.success = pdu.header.flags & flags::SUCCESS != 0;
        if self.incoming.success && !(ends && self.config.disable_flow_control) {
            return Err(Fault::field(1, "SUCCESS of C2HData where it may not be", pdu.header.flags.into()));
        }
        self.incoming.digest = Crc32c::default();
        self.stage = if slot.way == Way::Read { Stage::Payload(cid, bytes) } else { Stage::Control(cid, bytes) };
        Ok(())
    }

    fn note_data(&mut self, cid: u16, left: u32, bytes: &[u8]) {
        assert!(bytes.len() <= left as usize, "more data than was asked for");
        if self.digests.data {
            self.incoming.digest.update(bytes);
        }
        self.slots[usize::from(cid)].moved += bytes.len() as u32;
        let left = left - bytes.len() as u32;
        if left != 0 {
            match &mut self.stage {
                Stage::Payload(_, rest) | Stage::Control(_, rest) => *rest = left,
                _ => unreachable!("data comes in these stages"),
            }
        } else if self.digests.data {
            self.stage = Stage::Digest(cid);
        } else {
            self.end_data(cid);
        }
    }

    fn end_data(&mut self, cid: u16) {
        self.stage = Stage::Common;
        if self.incoming.success {
            self.complete(cid, Status::SUCCESS, 0);
        }
    }
}
