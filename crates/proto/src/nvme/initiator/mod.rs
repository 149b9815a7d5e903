//! One queue pair on one TCP connection: the host's side. Used by the load generator and for remote disks.
//!
//! Its contract with the socket shell is the target's, seen from the other end: [`Receive`] says where the next bytes
//! go (a read's data: into the buffer of its tag), [`Piece`] what to send (a write's data: from the buffer of its tag).
//! A tag is the command's identifier: dense, below the queue's depth, free again once its [`Completion`] was polled.
//!
//! | module | what it holds |
//! |---|---|
//! | [`receive`] | bytes to completions |

mod receive;

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use self::receive::Stage;
use super::fabrics::CONNECT_BYTES;
use super::pdu::{Digests, Encoder, Fault, IN_CAPSULE_BYTES_MAX, ic_req, term_req};
use super::spec::command::{
    CATTR_DISABLE_SQ_FLOW_CONTROL, ConnectCmd, ConnectData, FABRICS, Sqe, admin, cdw12, fctype, flags, io, sgl,
};
use super::spec::pdu::{self, kind};
use super::status::Status;
use crate::connection::{Piece, Receive, Tag, Termination};
use crate::crc32c::crc32c;

/// How to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// HOSTNQN.
    pub host_nqn: String,
    /// HOSTID.
    pub host_id: [u8; 16],
    /// SUBNQN.
    pub subsystem_nqn: String,
    /// QID: 0 makes a controller.
    pub queue_id: u16,
    /// CNTLID: 0xffff for queue 0, else what queue 0 was given.
    pub controller_id: u16,
    /// Commands that may be open, 1 and more; SQSIZE is this, as the queue has one entry more.
    pub queue_depth: u16,
    /// KATO for queue 0.
    pub keep_alive_ms: u32,
    /// Digests to ask for; an error if the target declines.
    pub digests: Digests,
    /// No SQ flow control: the target may leave out responses of reads.
    pub disable_flow_control: bool,
    /// Writes of up to so many bytes go into the command's capsule: (IOCCSZ * 16) - 64, 8192 for queue 0.
    pub in_capsule_bytes: u32,
}

/// A command's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// None.
    None,
    /// So many bytes to the buffer of its tag.
    Read(u32),
    /// So many bytes from the buffer of its tag.
    Write(u32),
    /// So many bytes into [`Completion::data`].
    ReadControl(u32),
    /// These bytes, at most 8192.
    WriteControl(Vec<u8>),
}

/// A command that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Which.
    pub tag: Tag,
    /// How.
    pub status: Status,
    /// DW0 and DW1.
    pub result: u64,
    /// What came for [`Data::ReadControl`]; empty (and not allocated) else.
    pub data: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    None,
    Read,
    Write,
    ReadControl,
    WriteControl,
}

#[derive(Debug)]
struct Slot {
    open: bool,
    way: Way,
    damaged: bool,
    bytes: u32,
    moved: u32,
    control: Vec<u8>,
    sqe: Sqe,
}

#[derive(Clone, Copy, Debug)]
enum Out {
    Capsule(u16),
    Data { cid: u16, ttag: u16, offset: u32, end: u32 },
    Blob,
}

/// A part of a PDU that comes before all else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Nothing,
    Payload { cid: u16, offset: u32, bytes: u32, last: bool },
}

/// Where the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// ICResp or Connect's answer is awaited.
    Connecting,
    /// Commands may be submitted; the controller's id.
    Connected(u16),
    /// The target refused Connect.
    Refused(Status, u32),
    /// The connection ended.
    Ended,
}

/// A host's queue.
#[derive(Debug)]
pub struct Initiator {
    config: Config,
    progress: Progress,
    slots: Vec<Slot>,
    free: Vec<u16>,
    out: VecDeque<Out>,
    sending: Sending,
    encoder: Encoder,
    blob: Vec<u8>,
    stage: Stage,
    incoming: receive::Incoming,
    digests: Digests,
    maxh2cdata: u32,
    completions: VecDeque<Completion>,
    termination: Option<Termination>,
}

impl Initiator {
    /// A new connection; its first piece is ICReq, and Connect follows by itself.
    ///
    /// # Panics
    /// If the depth is 0.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let depth = config.queue_depth;
        assert!(depth > 0, "a queue has room for a command");
        let slot = |_| Slot {
            open: false,
            way: Way::None,
            damaged: false,
            bytes: 0,
            moved: 0,
            control: Vec::new(),
            sqe: Sqe::default(),
        };
        let capacity = usize::from(depth) + 4;
        let mut out = VecDeque::with_capacity(capacity * 2);
        out.push_back(Out::Blob);
        Self {
            progress: Progress::Connecting,
            slots: (0..depth).map(slot).collect(),
            free: (0..depth).rev().collect(),
            out,
            sending: Sending::Nothing,
            encoder: Encoder::default(),
            blob: ic_req(0, config.digests, 0),
            stage: Stage::Start,
            incoming: receive::Incoming::default(),
            digests: Digests::default(),
            maxh2cdata: 0,
            completions: VecDeque::with_capacity(capacity),
            termination: None,
            config,
        }
    }

    /// Where the connection stands.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Why the connection ended, if the other side is at fault.
    #[must_use]
    pub fn termination(&self) -> Option<&Termination> {
        self.termination.as_ref()
    }

    /// How many commands may be submitted now.
    #[must_use]
    pub fn room(&self) -> usize {
        if matches!(self.progress, Progress::Connected(_)) { self.free.len() } else { 0 }
    }

    /// Reads `bytes` (as many as `blocks` have) into the buffer of the tag; `None` if the queue is full.
    pub fn read(&mut self, nsid: u32, lba: u64, blocks: u32, bytes: u32) -> Option<Tag> {
        self.submit(block_command(io::READ, nsid, lba, blocks), Data::Read(bytes))
    }

    /// Writes `bytes` (as many as `blocks` have) from the buffer of the tag; `None` if the queue is full.
    pub fn write(&mut self, nsid: u32, lba: u64, blocks: u32, bytes: u32, fua: bool) -> Option<Tag> {
        let mut sqe = block_command(io::WRITE, nsid, lba, blocks);
        if fua {
            sqe.cdw12 = (sqe.cdw12.get() | cdw12::FUA).into();
        }
        self.submit(sqe, Data::Write(bytes))
    }

    /// Makes durable what was answered; `None` if the queue is full.
    pub fn flush(&mut self, nsid: u32) -> Option<Tag> {
        self.submit(Sqe { opcode: io::FLUSH, nsid: nsid.into(), ..Sqe::default() }, Data::None)
    }

    /// Tells the target that this host lives; `None` if the queue is full.
    pub fn keep_alive(&mut self) -> Option<Tag> {
        self.submit(Sqe { opcode: admin::KEEP_ALIVE, ..Sqe::default() }, Data::None)
    }

    /// Any command: its identifier, flags and SGL are filled in here. `None` if the queue is full or not connected.
    pub fn submit(&mut self, sqe: Sqe, data: Data) -> Option<Tag> {
        if !matches!(self.progress, Progress::Connected(_)) {
            return None;
        }
        self.push(sqe, data)
    }

    fn push(&mut self, mut sqe: Sqe, data: Data) -> Option<Tag> {
        let cid = self.free.pop()?;
        let slot = &mut self.slots[usize::from(cid)];
        slot.open = true;
        (slot.moved, slot.damaged) = (0, false);
        (slot.way, slot.bytes) = match data {
            Data::None => (Way::None, 0),
            Data::Read(bytes) => (Way::Read, bytes),
            Data::Write(bytes) => (Way::Write, bytes),
            Data::ReadControl(bytes) => (Way::ReadControl, bytes),
            Data::WriteControl(bytes) => {
                assert!(bytes.len() <= IN_CAPSULE_BYTES_MAX, "control data fits the capsule");
                slot.control = bytes;
                (Way::WriteControl, slot.control.len() as u32)
            }
        };
        let in_capsule = match slot.way {
            Way::WriteControl => true,
            Way::Write => slot.bytes <= self.config.in_capsule_bytes,
            Way::None | Way::Read | Way::ReadControl => false,
        };
        sqe.cid = cid.into();
        sqe.flags = flags::PSDT_SGL;
        sqe.sgl.length = slot.bytes.into();
        sqe.sgl.kind = if in_capsule { sgl::IN_CAPSULE } else { sgl::TRANSPORT };
        slot.sqe = sqe;
        self.out.push_back(Out::Capsule(cid));
        Some(Tag(cid))
    }

    /// The next command that ended; its tag is free again.
    pub fn poll_completion(&mut self) -> Option<Completion> {
        let completion = self.completions.pop_front()?;
        self.free.push(completion.tag.0);
        Some(completion)
    }

    fn complete(&mut self, cid: u16, status: Status, result: u64) {
        let slot = &mut self.slots[usize::from(cid)];
        slot.open = false;
        let data = core::mem::take(&mut slot.control);
        let data = if slot.way == Way::ReadControl { data } else { Vec::new() };
        let status = if slot.damaged { Status::TRANSIENT_TRANSPORT_ERROR } else { status };
        if self.progress == Progress::Connecting {
            self.progress = match status {
                Status::SUCCESS => Progress::Connected(result as u16),
                status => Progress::Refused(status, result as u32),
            };
            self.free.push(cid);
            return;
        }
        self.completions.push_back(Completion { tag: Tag(cid), status, result, data });
    }

    fn connect(&mut self) {
        let mut cmd = ConnectCmd::new_zeroed();
        (cmd.opcode, cmd.fctype) = (FABRICS, fctype::CONNECT);
        cmd.qid = self.config.queue_id.into();
        cmd.sqsize = self.config.queue_depth.into();
        cmd.cattr = if self.config.disable_flow_control { CATTR_DISABLE_SQ_FLOW_CONTROL } else { 0 };
        cmd.kato = self.config.keep_alive_ms.into();
        let mut data = ConnectData::new_zeroed();
        data.hostid = self.config.host_id;
        data.cntlid = self.config.controller_id.into();
        super::identify::fill(&mut data.subnqn, &self.config.subsystem_nqn, 0);
        super::identify::fill(&mut data.hostnqn, &self.config.host_nqn, 0);
        let Ok(sqe) = Sqe::read_from_bytes(cmd.as_bytes()) else { unreachable!("both have 64 bytes") };
        let data = data.as_bytes().to_vec();
        debug_assert!(data.len() == CONNECT_BYTES);
        let tag = self.push(sqe, Data::WriteControl(data));
        assert!(tag.is_some(), "a new queue has room for Connect");
    }

    /// Where the next received bytes go.
    pub fn poll_receive(&mut self) -> Receive {
        self.next_receive()
    }

    /// The bytes that [`Receive::Control`] asked for, all of them.
    pub fn handle_control(&mut self, bytes: &[u8]) {
        self.receive_control(bytes);
    }

    /// Bytes that were put where [`Receive::Payload`] said.
    pub fn handle_payload(&mut self, bytes: &[u8]) {
        self.receive_payload(bytes);
    }

    /// The next piece to send.
    pub fn poll_transmit(&mut self) -> Option<Piece<'_>> {
        if let Sending::Payload { cid, offset, bytes, last } = self.sending {
            self.sending = Sending::Nothing;
            return Some(Piece::Payload {
                tag: Tag(cid),
                offset: offset as usize,
                bytes: bytes as usize,
                pad: 0,
                digest: self.digests.data,
                last,
            });
        }
        self.encoder.clear();
        while self.encoder.has_room() && self.sending == Sending::Nothing {
            let Some(out) = self.out.front().copied() else { break };
            if matches!(out, Out::Blob) {
                if self.encoder.is_empty() {
                    self.out.pop_front();
                    return Some(Piece::Control(&self.blob));
                }
                break;
            }
            if self.encode(out) {
                self.out.pop_front();
            }
        }
        (!self.encoder.is_empty()).then(|| Piece::Control(self.encoder.bytes()))
    }

    /// Encodes what is next; false if it is not done with: more data PDUs follow, or it is a blob now.
    fn encode(&mut self, out: Out) -> bool {
        match out {
            Out::Capsule(cid) => {
                let slot = &self.slots[usize::from(cid)];
                let data = if slot.sqe.sgl.kind == sgl::IN_CAPSULE { slot.bytes } else { 0 };
                self.encoder.capsule_cmd(&slot.sqe, data as usize);
                if slot.way == Way::WriteControl {
                    self.blob = self.encoder.bytes().to_vec();
                    self.encoder.clear();
                    self.blob.extend_from_slice(&slot.control);
                    if self.digests.data {
                        self.blob.extend_from_slice(&crc32c(&slot.control).to_le_bytes());
                    }
                    self.out[0] = Out::Blob;
                    // All that was gathered is in the blob now, and the loop's next turn sends it.
                    return false;
                }
                if data != 0 {
                    self.sending = Sending::Payload { cid, offset: 0, bytes: data, last: true };
                }
                true
            }
            Out::Data { cid, ttag, offset, end } => {
                let bytes = (end - offset).min(self.maxh2cdata);
                let done = offset + bytes == end;
                let flags = if done { pdu::flags::LAST_PDU } else { 0 };
                self.encoder.h2c_data(cid, ttag, offset, bytes, flags);
                let last = done && end == self.slots[usize::from(cid)].bytes;
                self.sending = Sending::Payload { cid, offset, bytes, last };
                self.out[0] = Out::Data { cid, ttag, offset: offset + bytes, end };
                done
            }
            Out::Blob => false,
        }
    }

    /// Nothing more is to be received or sent.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.stage == Stage::Ended && self.out.is_empty() && self.sending == Sending::Nothing
    }

    fn fail(&mut self, fault: Fault, header: &[u8]) {
        if self.termination.is_none() {
            self.blob = term_req(kind::H2C_TERM_REQ, &fault, header);
            self.out.clear();
            self.out.push_back(Out::Blob);
            self.termination = Some(fault.termination);
        }
        self.progress = Progress::Ended;
        self.stage = Stage::Ended;
    }
}

fn block_command(opcode: u8, nsid: u32, lba: u64, blocks: u32) -> Sqe {
    Sqe {
        opcode,
        nsid: nsid.into(),
        cdw10: (lba as u32).into(),
        cdw11: ((lba >> 32) as u32).into(),
        cdw12: (blocks.wrapping_sub(1) & cdw12::BLOCKS_MASK).into(),
        ..Sqe::default()
    }
}
