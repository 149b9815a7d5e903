//! Bytes to commands. Each PDU is read as its common header (8 bytes), the rest of its header, its data, its data's
//! digest; every one of these has its exact size, so the bytes of a payload go straight to where the device takes them.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use zerocopy::FromBytes;

use super::super::event::Event;
use super::super::fabrics::{CONNECT_BYTES, parse_connect};
use super::super::io::{self, Direction, Op, Refusal, Source, check_flags, check_sgl};
use super::super::pdu::{
    COMMON_BYTES, Fault, H2C_DATA_BYTES_MAX, IN_CAPSULE_BYTES_MAX, Parts, check, check_header_digest, ic_resp,
    parse_ic_req,
};
use super::super::spec::command::{FABRICS, Sqe, admin, fctype};
use super::super::spec::pdu::{
    CapsuleCmd, CommonHeader, DIGEST_BYTES, DataPdu, IcReq, TERM_REQ_BYTES_MAX, TermReq, fes, flags, kind,
};
use super::super::status::Status;
use super::slot::{Kind, Refused, State};
use super::transmit::Out;
use super::{Queue, Role};
use crate::connection::{CONTROL_BYTES_MAX, Receive, Tag, Termination};
use crate::crc32c::Crc32c;

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The common header of the ICReq.
    Start,
    /// The rest of the ICReq.
    IcReq,
    /// A common header.
    Common,
    /// The rest of a command capsule's header; its data follows.
    Capsule(Parts),
    /// The rest of an H2CData PDU's header.
    H2cData(Parts),
    /// The rest of a termination request.
    TermReq(usize),
    /// Payload of a slot: this many bytes in this PDU.
    Payload(u16, u32),
    /// Data that the machine reads itself.
    Control(u16, u32),
    /// Data, and its digest, of a command that was refused already.
    Skip(u16, usize, Refusal),
    /// The digest of a slot's data.
    Digest(u16),
    /// Nothing more is read.
    Ended,
}

/// The PDU that is being received.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    common: [u8; COMMON_BYTES],
    digest: Crc32c,
}

impl Queue {
    pub(super) fn next_receive(&mut self) -> Receive {
        match self.stage {
            Stage::Start | Stage::Common => Receive::Control { bytes: COMMON_BYTES },
            Stage::IcReq => Receive::Control { bytes: size_of::<IcReq>() - COMMON_BYTES },
            Stage::Capsule(parts) | Stage::H2cData(parts) => Receive::Control { bytes: parts.rest_bytes },
            Stage::TermReq(bytes) => Receive::Control { bytes },
            Stage::Payload(index, bytes) => {
                let slot = &self.slots[index];
                Receive::Payload {
                    tag: Tag(index),
                    offset: slot.received as usize,
                    bytes: bytes as usize,
                    total: slot.data_bytes as usize,
                }
            }
            Stage::Control(_, bytes) => Receive::Control { bytes: (bytes as usize).min(CONTROL_BYTES_MAX) },
            Stage::Skip(_, bytes, _) => Receive::Control { bytes },
            Stage::Digest(_) => Receive::Control { bytes: DIGEST_BYTES },
            Stage::Ended => Receive::Nothing,
        }
    }

    pub(super) fn receive_control(&mut self, now: Duration, bytes: &[u8]) {
        match self.stage {
            Stage::Start | Stage::Common => self.receive_common(now, bytes),
            Stage::IcReq => self.receive_ic_req(bytes),
            Stage::Capsule(parts) => self.receive_capsule(now, parts, bytes),
            Stage::H2cData(parts) => self.receive_h2c_data(parts, bytes),
            Stage::TermReq(_) => self.receive_term_req(bytes),
            Stage::Control(index, left) => {
                self.slots[index].control.extend_from_slice(bytes);
                self.note_data(index, left, bytes);
            }
            Stage::Skip(index, _, refusal) => {
                self.end_pdu();
                self.refuse_command(index, refusal);
            }
            Stage::Digest(index) => self.receive_digest(index, bytes),
            Stage::Payload(..) | Stage::Ended => panic!("control bytes that were not asked for"),
        }
    }

    pub(super) fn receive_payload(&mut self, bytes: &[u8]) {
        let Stage::Payload(index, left) = self.stage else { panic!("payload that was not asked for") };
        self.note_data(index, left, bytes);
    }

    fn end_pdu(&mut self) {
        self.stage = Stage::Common;
        self.stall_by = None;
    }

    fn receive_common(&mut self, now: Duration, bytes: &[u8]) {
        self.incoming.common.copy_from_slice(bytes);
        self.stall_by = Some(now + self.stall);
        match self.common() {
            Ok(stage) => self.stage = stage,
            Err(fault) => self.fault(fault, &[]),
        }
    }

    /// Ends the connection; the termination request repeats the header that came.
    fn fault(&mut self, fault: Fault, rest: &[u8]) {
        let mut header = Vec::with_capacity(COMMON_BYTES + rest.len());
        header.extend_from_slice(&self.incoming.common);
        header.extend_from_slice(rest);
        self.fail(fault, &header);
    }

    fn common(&self) -> Result<Stage, Fault> {
        let Ok(header) = CommonHeader::ref_from_bytes(&self.incoming.common) else {
            unreachable!("a common header has 8 bytes")
        };
        let plen = header.plen.get() as usize;
        match (header.kind, self.stage == Stage::Start) {
            (kind::IC_REQ, true) => {
                let len = size_of::<IcReq>();
                if usize::from(header.hlen) != len {
                    return Err(Fault::field(2, "HLEN of ICReq is not 128", u64::from(header.hlen)));
                }
                if plen != len {
                    return Err(Fault::field(4, "PLEN of ICReq is not 128", plen as u64));
                }
                Ok(Stage::IcReq)
            }
            (kind::CAPSULE_CMD, false) => {
                check(header, size_of::<CapsuleCmd>(), self.digests, IN_CAPSULE_BYTES_MAX).map(Stage::Capsule)
            }
            (kind::H2C_DATA, false) => {
                let parts = check(header, size_of::<DataPdu>(), self.digests, usize::MAX)?;
                if parts.data_bytes > H2C_DATA_BYTES_MAX {
                    let reason = "H2CData has more data than MAXH2CDATA";
                    return Err(Fault::new(fes::DATA_LIMIT_EXCEEDED, 0, reason, parts.data_bytes as u64));
                }
                if parts.data_bytes == 0 {
                    return Err(Fault::field(4, "PLEN of H2CData leaves no data", plen as u64));
                }
                Ok(Stage::H2cData(parts))
            }
            (kind::H2C_TERM_REQ, _) => {
                let len = size_of::<TermReq>();
                if usize::from(header.hlen) != len {
                    return Err(Fault::field(2, "HLEN of H2CTermReq is not 24", u64::from(header.hlen)));
                }
                if !(len..=TERM_REQ_BYTES_MAX).contains(&plen) {
                    return Err(Fault::field(4, "PLEN of H2CTermReq is not 24 to 152", plen as u64));
                }
                Ok(Stage::TermReq(plen - COMMON_BYTES))
            }
            (kind::IC_REQ, false) => Err(Fault::sequence("a second ICReq", 0)),
            (kind::CAPSULE_CMD | kind::H2C_DATA, true) => {
                Err(Fault::sequence("the first PDU is not ICReq but of type", u64::from(header.kind)))
            }
            _ => Err(Fault::field(0, "PDU-Type is none that a host sends", u64::from(header.kind))),
        }
    }

    fn receive_ic_req(&mut self, rest: &[u8]) {
        match parse_ic_req(&self.incoming.common, rest) {
            Err(fault) => self.fault(fault, rest),
            Ok((hpda, digests, _maxr2t)) => {
                // One R2T for all of a command's data: MAXR2T, whatever it is, is never exceeded.
                self.out.push_back(Out::Blob(ic_resp(digests)));
                self.digests = digests;
                self.encoder.digests = digests;
                self.encoder.align_bytes = (usize::from(hpda) + 1) * 4;
                self.end_pdu();
            }
        }
    }

    fn receive_term_req(&mut self, rest: &[u8]) {
        let fes = u64::from(u16::from_le_bytes([rest[0], rest[1]]));
        self.out.clear();
        self.sending = super::transmit::Sending::Nothing;
        self.termination.get_or_insert(Termination { reason: "the host sent H2CTermReq with FES", value: fes });
        self.stage = Stage::Ended;
    }

    fn receive_capsule(&mut self, now: Duration, parts: Parts, rest: &[u8]) {
        if self.digests.header {
            if let Err(fault) = check_header_digest(&self.incoming.common, rest, size_of::<CapsuleCmd>()) {
                return self.fault(fault, rest);
            }
        }
        let Ok((sqe, _)) = Sqe::ref_from_prefix(rest) else { unreachable!("the header's size was checked") };
        if let Role::Connecting(..) = self.role {
            return self.fault(Fault::sequence("a command before Connect was answered", sqe.opcode.into()), rest);
        }
        let index = match self.slots.take(sqe.cid.get()) {
            Ok(index) => index,
            Err(Refused::Duplicate) => {
                let fault = Fault::field(10, "CID is in use", sqe.cid.get().into());
                return self.fault(fault, rest);
            }
            Err(Refused::Full) => {
                let fault = Fault::sequence("more open commands than SQSIZE allows, which is", self.depth.into());
                return self.fault(fault, rest);
            }
        };
        self.sqhd = if self.sqhd + 1 >= self.depth { 0 } else { self.sqhd + 1 };
        let taken = match self.role {
            Role::Io => self.take_io(index, sqe, parts.data_bytes),
            Role::Admin => self.take_admin(now, index, sqe, parts.data_bytes),
            Role::Unbound | Role::Connecting(..) => self.take_connect(index, sqe, parts.data_bytes),
        };
        if let Err(refusal) = taken {
            if parts.data_bytes == 0 {
                self.end_pdu();
                self.refuse_command(index, refusal);
            } else {
                self.stage = Stage::Skip(index, parts.data_bytes + self.digests.data_bytes(), refusal);
            }
        }
    }

    fn take_io(&mut self, index: u16, sqe: &Sqe, capsule_bytes: usize) -> Result<(), Refusal> {
        let slot = &mut self.slots[index];
        slot.state = State::Ready;
        (slot.kind, slot.nsid) = (Kind::Io(Op::Flush), sqe.nsid.get());
        let mut nsid = sqe.nsid.get();
        if nsid == u32::MAX && sqe.opcode == super::super::spec::command::io::FLUSH {
            // Flush of all namespaces: there is one for each subsystem.
            nsid = self.blocks.first().map_or(nsid, |(nsid, _)| *nsid);
        }
        if sqe.opcode == FABRICS {
            return Err(Refusal::new(Status::INVALID_OPCODE, 4, 0));
        }
        let Some(block_bytes) = self.block_bytes(nsid) else {
            return Err(Refusal::new(Status::INVALID_NAMESPACE, 4, 0));
        };
        let io = io::parse(sqe, block_bytes)?;
        let slot = &mut self.slots[index];
        (slot.kind, slot.nsid) = (Kind::Io(io.op), nsid);
        (slot.range, slot.data_bytes) = (io.range, io.data_bytes);
        let direction = io.op.direction();
        let source = check_sgl(sqe, direction, io.data_bytes, capsule_bytes)?;
        match (direction, source) {
            (Direction::None, _) => {
                self.ready.push_back(index);
                self.end_pdu();
            }
            (Direction::ToHost, _) => {
                self.end_pdu();
                self.admit(index);
            }
            (Direction::FromHost, Source::Transport) => {
                self.end_pdu();
                if matches!(io.op, Op::Discard { .. }) { self.ask(index) } else { self.admit(index) }
            }
            (Direction::FromHost, Source::Capsule) => {
                self.slots[index].state = State::Receiving;
                if matches!(io.op, Op::Discard { .. }) {
                    self.stage = Stage::Control(index, io.data_bytes);
                } else {
                    // These bytes are on their way: they count, but they can't wait.
                    self.count(index);
                    self.stage = Stage::Payload(index, io.data_bytes);
                }
                self.incoming.digest = Crc32c::default();
            }
        }
        Ok(())
    }

    /// Asks for data that the machine reads itself; it is small, and not counted.
    fn ask(&mut self, index: u16) {
        self.slots[index].state = State::Receiving;
        self.out.push_back(Out::R2t(index));
    }

    /// An admin command: bits 1:0 of its opcode (of FCTYPE for fabrics commands) say which way its data goes.
    fn take_admin(&mut self, now: Duration, index: u16, sqe: &Sqe, capsule_bytes: usize) -> Result<(), Refusal> {
        if self.keep_alive_ms != 0 {
            self.set_keep_alive(now, self.keep_alive_ms);
        }
        let slot = &mut self.slots[index];
        slot.state = State::Ready;
        (slot.kind, slot.nsid, slot.data_bytes) = (Kind::Admin, sqe.nsid.get(), 0);
        slot.range = sds_block::LbaRange::new(0, 0);
        check_flags(sqe)?;
        self.entries[usize::from(index)] = *sqe;
        let code = if sqe.opcode == FABRICS { sqe.fctype() } else { sqe.opcode };
        let data_bytes = sqe.sgl.length.get();
        // Only Set Features and commands that will be refused have bits 1:0 at 1.
        let from_host = code & 3 == 1 && data_bytes != 0;
        if from_host && data_bytes as usize > IN_CAPSULE_BYTES_MAX {
            return Err(Refusal::field(32, 0));
        }
        self.take_control(index, sqe, if from_host { data_bytes } else { 0 }, capsule_bytes)
    }

    fn take_connect(&mut self, index: u16, sqe: &Sqe, capsule_bytes: usize) -> Result<(), Refusal> {
        let slot = &mut self.slots[index];
        slot.state = State::Ready;
        (slot.kind, slot.nsid, slot.data_bytes) = (Kind::Connect, 0, 0);
        check_flags(sqe)?;
        if sqe.opcode != FABRICS || sqe.fctype() != fctype::CONNECT {
            return Err(Refusal::new(Status::COMMAND_SEQUENCE_ERROR, 0, 0));
        }
        self.entries[usize::from(index)] = *sqe;
        self.take_control(index, sqe, CONNECT_BYTES as u32, capsule_bytes)
    }

    /// A command for the controller, whose data, if any, comes from the host and is read here.
    fn take_control(&mut self, index: u16, sqe: &Sqe, bytes: u32, capsule_bytes: usize) -> Result<(), Refusal> {
        self.slots[index].data_bytes = bytes;
        let direction = if bytes == 0 { Direction::None } else { Direction::FromHost };
        let source = check_sgl(sqe, direction, bytes, capsule_bytes)?;
        self.incoming.digest = Crc32c::default();
        match (direction, source) {
            (Direction::None, _) => {
                self.end_pdu();
                self.complete(index);
            }
            (_, Source::Transport) => {
                self.end_pdu();
                self.ask(index);
            }
            (_, Source::Capsule) => {
                self.slots[index].state = State::Receiving;
                self.stage = Stage::Control(index, bytes);
            }
        }
        Ok(())
    }

    fn receive_h2c_data(&mut self, parts: Parts, rest: &[u8]) {
        if self.digests.header {
            if let Err(fault) = check_header_digest(&self.incoming.common, rest, size_of::<DataPdu>()) {
                return self.fault(fault, rest);
            }
        }
        let mut bytes = [0; size_of::<DataPdu>()];
        bytes[..COMMON_BYTES].copy_from_slice(&self.incoming.common);
        bytes[COMMON_BYTES..].copy_from_slice(&rest[..size_of::<DataPdu>() - COMMON_BYTES]);
        let Ok(pdu) = DataPdu::ref_from_bytes(&bytes) else { unreachable!("the size is the type's") };
        if let Err(fault) = self.check_h2c_data(pdu, parts.data_bytes) {
            return self.fault(fault, rest);
        }
        let index = pdu.ttag.get();
        let controls = !matches!(self.slots[index].kind, Kind::Io(Op::Write { .. } | Op::Compare));
        self.incoming.digest = Crc32c::default();
        self.stage =
            if controls { Stage::Control(index, pdu.datal.get()) } else { Stage::Payload(index, pdu.datal.get()) };
    }

    fn check_h2c_data(&self, pdu: &DataPdu, data_bytes: usize) -> Result<(), Fault> {
        let Some(slot) = self.slots.find(pdu.ttag.get()).filter(|slot| slot.state == State::Receiving) else {
            return Err(Fault::field(10, "TTAG is that of no R2T", pdu.ttag.get().into()));
        };
        if slot.cid != pdu.cccid.get() {
            return Err(Fault::field(8, "CCCID is not that of the R2T", pdu.cccid.get().into()));
        }
        if pdu.datao.get() != slot.received {
            let reason = "DATAO of H2CData does not follow what came";
            return Err(Fault::new(fes::DATA_OUT_OF_RANGE, 0, reason, pdu.datao.get().into()));
        }
        let (datal, left) = (pdu.datal.get(), slot.data_bytes - slot.received);
        if datal as usize != data_bytes {
            return Err(Fault::field(16, "DATAL of H2CData does not fit PLEN", datal.into()));
        }
        if datal > left {
            return Err(Fault::new(fes::DATA_OUT_OF_RANGE, 0, "DATAL of H2CData is above R2TL", datal.into()));
        }
        if (pdu.header.flags & flags::LAST_PDU != 0) != (datal == left) {
            return Err(Fault::field(1, "LAST_PDU of H2CData is not where R2TL ends", pdu.header.flags.into()));
        }
        Ok(())
    }

    /// `bytes` of a slot's data came; `left` were to come in this PDU.
    fn note_data(&mut self, index: u16, left: u32, bytes: &[u8]) {
        assert!(bytes.len() <= left as usize, "more data than was asked for");
        if self.digests.data {
            self.incoming.digest.update(bytes);
        }
        self.slots[index].received += bytes.len() as u32;
        let left = left - bytes.len() as u32;
        if left != 0 {
            match &mut self.stage {
                Stage::Payload(_, rest) | Stage::Control(_, rest) => *rest = left,
                _ => unreachable!("data comes in these stages"),
            }
        } else if self.digests.data {
            self.stage = Stage::Digest(index);
        } else {
            self.end_data(index);
        }
    }

    fn receive_digest(&mut self, index: u16, bytes: &[u8]) {
        let holds = self.incoming.digest.finish().to_le_bytes() == bytes;
        self.slots[index].damaged |= !holds;
        self.end_data(index);
    }

    fn end_data(&mut self, index: u16) {
        self.end_pdu();
        let slot = &self.slots[index];
        if slot.received != slot.data_bytes {
            return;
        }
        if slot.damaged {
            // Not fatal (NVMe/TCP 1.0c section 3.3.2.2): the host sends the command again.
            return self.answer(index, Status::TRANSIENT_TRANSPORT_ERROR, 0);
        }
        self.complete(index);
    }

    /// All of a command is here.
    fn complete(&mut self, index: u16) {
        let slot = &mut self.slots[index];
        slot.state = State::Ready;
        match slot.kind {
            Kind::Io(_) => self.ready.push_back(index),
            Kind::Admin => self.admin_ready.push_back(index),
            Kind::Connect => {
                let data = core::mem::take(&mut slot.control);
                match parse_connect(&self.entries[usize::from(index)], &data, self.limits.queue_depth_max) {
                    Err((status, result)) => self.answer(index, status, result.into()),
                    Ok(request) => {
                        let request = Box::new(request);
                        self.role = Role::Connecting(index, request.clone());
                        self.push_event(Event::Connect(request));
                    }
                }
            }
        }
    }
}

/// Opcodes whose data comes from the host must have bits 1:0 at 1; the direction is read off them.
const _: () = assert!(admin::SET_FEATURES & 3 == 1 && fctype::PROPERTY_SET & 3 == 0 && fctype::CONNECT & 3 == 1);
