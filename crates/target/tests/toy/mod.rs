//! A small block protocol that uses all of the contract between machine and shell, for tests of the shell alone.
//!
//! Request: op (R, W, F), digest flag, tag (16 bits), first block (32), blocks (32), zero (32); a write's bytes follow.
//! Answer: tag (16), status (16), bytes (32); a read's bytes follow, then their CRC32C if it was asked for.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sds_block::{BlockError, Command, LbaRange};
use sds_proto::{Connection, Piece, Receive, Submit, Tag, Termination, Unit};
use sds_target::glue::{Begin, Executing, Glue, SessionInfo};
use sds_target::{DynDevice, Protocol, VolumeKey};

pub const BLOCK_BYTES: usize = 512;
pub const HEADER_BYTES: usize = 16;
const LOGIN_MS: u64 = 500;

#[derive(Debug, PartialEq, Eq)]
pub enum Refuse {
    Busy,
}

struct Answer {
    header: [u8; 8],
    payload: Option<(Tag, usize, bool)>,
}

/// The target's end.
pub struct Toy {
    /// A write whose payload is coming: its request and the bytes that are there.
    writing: Option<(Submit, usize, usize)>,
    in_flight: usize,
    submits: VecDeque<Submit>,
    answers: VecDeque<Answer>,
    digests: Vec<(Tag, bool, usize)>,
    /// The payload of the answer whose header was sent last.
    half_sent: Option<(Tag, usize, bool)>,
    termination: Option<Termination>,
    farewell_sent: bool,
    sent: [u8; 8],
    deadline: Option<Duration>,
    event: Option<Refuse>,
}

impl Toy {
    fn new(now: Duration, refuse: bool) -> Self {
        Self {
            writing: None,
            in_flight: 0,
            submits: VecDeque::new(),
            answers: VecDeque::new(),
            digests: Vec::new(),
            half_sent: None,
            termination: None,
            farewell_sent: false,
            sent: [0; 8],
            deadline: Some(now + Duration::from_millis(LOGIN_MS)),
            event: refuse.then_some(Refuse::Busy),
        }
    }

    fn terminate(&mut self, reason: &'static str, value: u64) {
        self.termination = Some(Termination { reason, value });
    }
}

impl Connection for Toy {
    type Event = Refuse;

    fn poll_receive(&mut self) -> Receive {
        match &self.writing {
            _ if self.termination.is_some() => Receive::Nothing,
            Some((submit, done, total)) => {
                Receive::Payload { tag: submit.tag, offset: *done, bytes: total - done, total: *total }
            }
            None => Receive::Control { bytes: HEADER_BYTES },
        }
    }

    fn handle_control(&mut self, _: Duration, bytes: &[u8]) {
        self.deadline = None;
        let word = |at: usize| u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")));
        let tag = Tag(u16::from_le_bytes([bytes[2], bytes[3]]));
        let range = LbaRange::new(word(4), word(8));
        let payload_bytes = range.count.0 as usize * BLOCK_BYTES;
        self.in_flight += payload_bytes;
        self.digests.push((tag, bytes[1] != 0, payload_bytes));
        match bytes[0] {
            b'R' => self.submits.push_back(Submit { tag, unit: Unit(1), command: Command::Read(range), fill: None }),
            b'F' => self.submits.push_back(Submit { tag, unit: Unit(1), command: Command::Flush, fill: None }),
            b'W' => {
                let submit = Submit { tag, unit: Unit(1), command: Command::Write { range, fua: false }, fill: None };
                self.writing = Some((submit, 0, payload_bytes));
            }
            other => self.terminate("no such op", u64::from(other)),
        }
    }

    fn handle_payload(&mut self, _: Duration, bytes: &[u8]) {
        let (submit, done, total) = self.writing.take().expect("a write is open");
        let done = done + bytes.len();
        if done == total {
            self.submits.push_back(submit);
        } else {
            self.writing = Some((submit, done, total));
        }
    }

    fn poll_event(&mut self) -> Option<Refuse> {
        self.event.take()
    }

    fn poll_submit(&mut self) -> Option<Submit> {
        self.submits.pop_front()
    }

    fn handle_outcome(&mut self, _: Duration, tag: Tag, outcome: Result<usize, &BlockError>) {
        let at = self.digests.iter().position(|(open, ..)| *open == tag).expect("an open tag");
        let (_, digest, payload_bytes) = self.digests.swap_remove(at);
        let (status, bytes) = outcome.map_or((1_u16, 0), |bytes| (0, bytes));
        self.in_flight -= payload_bytes - bytes;
        let mut header = [0; 8];
        header[..2].copy_from_slice(&tag.0.to_le_bytes());
        header[2..4].copy_from_slice(&status.to_le_bytes());
        header[4..].copy_from_slice(&(bytes as u32).to_le_bytes());
        self.answers.push_back(Answer { header, payload: (bytes > 0).then_some((tag, bytes, digest)) });
    }

    fn poll_transmit(&mut self) -> Option<Piece<'_>> {
        if let Some((tag, bytes, digest)) = self.half_sent.take() {
            self.in_flight -= bytes;
            return Some(Piece::Payload { tag, offset: 0, bytes, pad: 0, digest, last: true });
        }
        if let Some(answer) = self.answers.pop_front() {
            self.half_sent = answer.payload;
            self.sent = answer.header;
            return Some(Piece::Control(&self.sent));
        }
        if self.termination.is_some() && !self.farewell_sent {
            self.farewell_sent = true;
            return Some(Piece::Control(b"farewell"));
        }
        None
    }

    fn bytes_in_flight(&self) -> usize {
        self.in_flight
    }

    fn set_bytes_in_flight_max(&mut self, _: usize) {}

    fn awaited_payloads(&self) -> Vec<Tag> {
        self.writing.iter().map(|(submit, ..)| submit.tag).collect()
    }

    fn poll_timeout(&self) -> Option<Duration> {
        self.deadline
    }

    fn handle_timeout(&mut self, now: Duration) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            self.terminate("nothing was asked in time", LOGIN_MS);
        }
    }

    fn termination(&self) -> Option<&Termination> {
        self.termination.as_ref()
    }

    fn is_closed(&self) -> bool {
        false
    }
}

/// One device for all, no questions asked.
pub struct ToyGlue {
    device: Option<Rc<DynDevice>>,
    session: SessionInfo,
    executing: Executing,
}

impl Glue for ToyGlue {
    type Machine = Toy;
    type Node = ();

    fn begin(begin: Begin<Self>) -> (Self, Toy) {
        let session = SessionInfo {
            protocol: Protocol::Nvme,
            host: "toy".to_owned(),
            name: "toy".to_owned(),
            peer: begin.peer,
            queue: 0,
            header_digest: false,
            data_digest: false,
            core: begin.local.index(),
            executing: 0,
        };
        // One that is to be told that the node is full has no name; all others log in by coming.
        assert!(begin.refuse || begin.place.give_to(&session.host), "a host's limit is above what tests open");
        let device = begin.devices.open(&VolumeKey("toy".to_owned()));
        let machine = Toy::new(begin.local.turn_now(), begin.refuse);
        (Self { device, session, executing: begin.executing }, machine)
    }

    fn handle_event(&mut self, machine: &mut Toy, _: Duration, _: Refuse) {
        machine.terminate("too many connections", 0);
    }

    fn device(&self, _: Unit) -> Option<&Rc<DynDevice>> {
        self.device.as_ref()
    }

    fn handle_end(&mut self, _: &Toy) {}

    fn session(&self, _: &Toy) -> Option<SessionInfo> {
        Some(SessionInfo { executing: self.executing.count(), ..self.session.clone() })
    }
}

/// The node that toy connections share: nothing.
pub fn node() -> Arc<()> {
    Arc::new(())
}

/// A request's header.
pub fn request(op: u8, digest: bool, tag: u16, block: u32, blocks: u32) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[0] = op;
    out[1] = u8::from(digest);
    out[2..4].copy_from_slice(&tag.to_le_bytes());
    out[4..8].copy_from_slice(&block.to_le_bytes());
    out[8..12].copy_from_slice(&blocks.to_le_bytes());
    out
}
