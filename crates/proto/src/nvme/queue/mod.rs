//! One queue pair on one TCP connection: the target's side.
//!
//! A command's way: capsule -> slot -> (data) -> ready -> device -> answer. All that a read or a write needs is kept in
//! its slot and in three rings of indices that are as long as the queue is deep, so nothing is allocated on that way.
//!
//! | module | what it holds |
//! |---|---|
//! | [`slot`] | the open commands |
//! | [`receive`] | bytes to commands |
//! | [`transmit`] | answers to bytes |

mod slot;
mod receive;
mod transmit;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use sds_block::{BlockError, ErrorKind};

use self::receive::{Incoming, Stage};
use self::slot::{Kind, Slots, State};
use self::transmit::{Out, Sending, cqe};
use super::controller::{Answer, Controller, Counters};
use super::event::{Acceptance, ConnectRefusal, ConnectRequest, Event, Peer, QueueLimits, RefusedCommand, Subsystem};
use super::io::{Op, Refusal, dsm_ranges};
use super::pdu::{Digests, Encoder, Fault};
use super::spec::command::Sqe;
use super::status::{Status, of_refusal};
use crate::connection::{Connection, Piece, Receive, Submit, Tag, Termination, Unit};

/// What the connection is bound to.
#[derive(Debug)]
enum Role {
    /// No Connect came.
    Unbound,
    /// A Connect waits for its answer: the slot, and what was asked.
    Connecting(u16, Box<ConnectRequest>),
    /// Queue 0.
    Admin,
    /// Another queue.
    Io,
}

/// One connection of a host.
#[derive(Debug)]
pub struct Queue {
    limits: QueueLimits,
    role: Role,
    peer: Option<Peer>,
    blocks: Vec<(u32, u32)>,
    counters: Arc<Counters>,
    slots: Slots,
    /// Entries of admin commands and of Connect, by slot.
    entries: Vec<Sqe>,
    depth: u16,
    sqhd: u16,
    flow_control_disabled: bool,
    digests: Digests,
    stage: Stage,
    incoming: Incoming,
    stall: Duration,
    bytes_in_flight: usize,
    waiting: VecDeque<u16>,
    ready: VecDeque<u16>,
    admin_ready: VecDeque<u16>,
    admin_told: bool,
    events: VecDeque<Event>,
    out: VecDeque<Out>,
    sending: Sending,
    encoder: Encoder,
    blob: Vec<u8>,
    connect_by: Option<Duration>,
    stall_by: Option<Duration>,
    keep_alive_ms: u32,
    keep_alive_by: Option<Duration>,
    termination: Option<Termination>,
}

/// At most this many events wait: one Connect, one "admin", one "queues deleted", one refused command.
const EVENTS_MAX: usize = 8;

impl Queue {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(limits: QueueLimits, now: Duration) -> Self {
        Self {
            limits,
            role: Role::Unbound,
            peer: None,
            blocks: Vec::new(),
            counters: Arc::new(Counters::default()),
            slots: Slots::new(1),
            entries: alloc::vec![Sqe::default(); 1],
            depth: 1,
            sqhd: 0,
            flow_control_disabled: false,
            digests: Digests::default(),
            stage: Stage::Start,
            incoming: Incoming::default(),
            stall: Duration::from_millis(limits.stall_ms.into()),
            bytes_in_flight: 0,
            waiting: VecDeque::new(),
            ready: VecDeque::new(),
            admin_ready: VecDeque::new(),
            admin_told: false,
            events: VecDeque::with_capacity(EVENTS_MAX),
            out: VecDeque::new(),
            sending: Sending::Nothing,
            encoder: Encoder::default(),
            blob: Vec::new(),
            connect_by: Some(now + Duration::from_millis(limits.connect_ms.into())),
            stall_by: None,
            keep_alive_ms: 0,
            keep_alive_by: None,
            termination: None,
        }
    }

    /// Whom this queue belongs to, once it is connected.
    #[must_use]
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// Commands that are open.
    #[must_use]
    pub fn open_commands(&self) -> usize {
        self.slots.open()
    }

    /// Answers [`Event::Connect`]: the connection is a queue of that controller now.
    ///
    /// # Panics
    /// If no Connect waits.
    pub fn accept(&mut self, now: Duration, acceptance: Acceptance) {
        let Role::Connecting(slot, request) = core::mem::replace(&mut self.role, Role::Unbound) else {
            panic!("no Connect waits for an answer");
        };
        let cid = self.slots[slot].cid;
        let depth = request.queue_depth;
        self.slots.give_back(slot);
        self.slots = Slots::new(depth);
        let capacity = usize::from(depth);
        self.waiting.reserve(capacity);
        self.ready.reserve(capacity);
        self.out.reserve(capacity + 4);
        let admin = request.queue_id == 0;
        self.entries = if admin { alloc::vec![Sqe::default(); capacity] } else { Vec::new() };
        self.role = if admin { Role::Admin } else { Role::Io };
        (self.depth, self.sqhd) = (depth, 1 % depth);
        self.flow_control_disabled = request.flow_control_disabled;
        self.blocks = acceptance.blocks;
        self.counters = acceptance.counters;
        self.connect_by = None;
        if admin {
            self.set_keep_alive(now, acceptance.keep_alive_ms);
        }
        self.peer = Some(Peer {
            host_nqn: request.host_nqn,
            subsystem_nqn: request.subsystem_nqn,
            controller_id: acceptance.controller_id,
            queue_id: request.queue_id,
            queue_depth: depth,
            header_digest: self.digests.header,
            data_digest: self.digests.data,
        });
        self.push_cqe(cid, Status::SUCCESS, acceptance.controller_id.into());
    }

    /// Answers [`Event::Connect`]: no. The host may try another Connect until the time for it runs out.
    ///
    /// # Panics
    /// If no Connect waits.
    pub fn refuse(&mut self, _now: Duration, refusal: ConnectRefusal) {
        let Role::Connecting(slot, _) = core::mem::replace(&mut self.role, Role::Unbound) else {
            panic!("no Connect waits for an answer");
        };
        let (status, result) = of_refusal(refusal);
        self.answer(slot, status, result.into());
    }

    /// Answers [`Event::Admin`]: runs all admin commands that wait, and sends events that the controller has for the
    /// host. Also to be called after `Controller::namespace_changed` and the like.
    pub fn run_admin(&mut self, now: Duration, controller: &mut Controller, subsystem: &Subsystem<'_>) {
        self.admin_told = false;
        while let Some(index) = self.admin_ready.pop_front() {
            let entry = self.entries[usize::from(index)];
            let slot = &mut self.slots[index];
            slot.state = State::Running;
            let data = core::mem::take(&mut slot.control);
            match controller.execute(index, &entry, &data, subsystem) {
                Answer::Later => {}
                Answer::Done { status, result } => self.answer(index, status, result),
                Answer::Data { data } => {
                    let pdu = super::pdu::c2h_data(&mut self.encoder, entry.cid.get(), &data);
                    self.out.push_back(Out::Blob(pdu));
                    self.answer(index, Status::SUCCESS, 0);
                }
            }
        }
        while let Some((index, status, result)) = controller.poll_event_answer() {
            self.answer(index, status, result.into());
        }
        if self.keep_alive_ms != controller.keep_alive_ms() {
            self.set_keep_alive(now, controller.keep_alive_ms());
        }
        if let Some(shutdown) = controller.poll_queues_deleted() {
            self.push_event(Event::QueuesDeleted { shutdown });
        }
    }

    /// Ends the connection from this side, after what is queued was sent: its volume is gone, its host has lost its
    /// right, its admin queue is gone.
    pub fn close(&mut self) {
        self.stage = Stage::Ended;
    }

    /// The most that may be queued for a host that sends Events; further ones of rare kinds are dropped.
    fn push_event(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        }
    }

    fn set_keep_alive(&mut self, now: Duration, ms: u32) {
        self.keep_alive_ms = ms;
        self.keep_alive_by = (ms != 0).then(|| now + Duration::from_millis(ms.into()));
    }

    /// Answers a command and frees its slot.
    fn answer(&mut self, index: u16, status: Status, result: u64) {
        let slot = &mut self.slots[index];
        let cid = slot.cid;
        let counted = if slot.counted { slot.data_bytes as usize } else { 0 };
        self.slots.give_back(index);
        self.push_cqe(cid, status, result);
        if counted != 0 {
            self.bytes_in_flight -= counted;
            self.admit_waiting();
        }
    }

    fn push_cqe(&mut self, cid: u16, status: Status, result: u64) {
        if self.stage == Stage::Ended {
            // Nothing follows a termination request, and nobody waits for an answer on a connection that was given up.
            return;
        }
        let sqhd = self.head();
        self.out.push_back(Out::Cqe(cqe(cid, status, result, sqhd)));
    }

    /// SQHD. Without flow control the field is 0xffff (Base 2.0c section 6.3): the host keeps count itself.
    fn head(&self) -> u16 {
        if self.flow_control_disabled { 0xffff } else { self.sqhd }
    }

    /// Refuses a command for one of its fields, and has it noted in the controller's error log.
    fn refuse_command(&mut self, index: u16, refusal: Refusal) {
        let slot = &self.slots[index];
        let queue_id = self.peer.as_ref().map_or(0, |peer| peer.queue_id);
        let noted = RefusedCommand {
            queue_id,
            command_id: slot.cid,
            status: refusal.status.to_wire(),
            location: refusal.location,
            lba: slot.range.start.0,
            nsid: slot.nsid,
        };
        if self.peer.is_some() && !self.events.iter().any(|event| matches!(event, Event::Refused(_))) {
            self.push_event(Event::Refused(noted));
        }
        self.answer(index, refusal.status, 0);
    }

    /// Ends the connection for what the peer did; `header`: what came of the faulty PDU.
    fn fail(&mut self, fault: Fault, header: &[u8]) {
        if self.termination.is_none() {
            let pdu = super::pdu::term_req(super::spec::pdu::kind::C2H_TERM_REQ, &fault, header);
            self.out.push_back(Out::Blob(pdu));
            self.termination = Some(fault.termination);
        }
        self.stage = Stage::Ended;
    }

    /// Ends the connection because a time ran out: there is nobody to tell.
    fn expire(&mut self, reason: &'static str, value: u64) {
        self.termination.get_or_insert(Termination { reason, value });
        self.stage = Stage::Ended;
        self.out.clear();
        self.sending = Sending::Nothing;
    }

    /// Lets a command with a payload in, or has it wait for room. One is always let in.
    fn admit(&mut self, index: u16) {
        let bytes = self.slots[index].data_bytes as usize;
        let room = self.bytes_in_flight == 0 || self.bytes_in_flight + bytes <= self.limits.bytes_in_flight_max;
        if room && self.waiting.is_empty() {
            self.start(index);
        } else {
            self.slots[index].state = State::Waiting;
            self.waiting.push_back(index);
        }
    }

    fn admit_waiting(&mut self) {
        while let Some(&index) = self.waiting.front() {
            let bytes = self.slots[index].data_bytes as usize;
            if self.bytes_in_flight != 0 && self.bytes_in_flight + bytes > self.limits.bytes_in_flight_max {
                return;
            }
            self.waiting.pop_front();
            self.start(index);
        }
    }

    fn start(&mut self, index: u16) {
        self.count(index);
        let slot = &mut self.slots[index];
        if slot.kind == Kind::Io(Op::Read) {
            slot.state = State::Ready;
            self.ready.push_back(index);
        } else {
            slot.state = State::Receiving;
            self.out.push_back(Out::R2t(index));
        }
    }

    fn count(&mut self, index: u16) {
        let slot = &mut self.slots[index];
        slot.counted = true;
        self.bytes_in_flight += slot.data_bytes as usize;
    }

    fn block_bytes(&self, nsid: u32) -> Option<u32> {
        self.blocks.iter().find(|(known, _)| *known == nsid).map(|(_, bytes)| *bytes)
    }
}

impl Connection for Queue {
    type Event = Event;

    fn poll_receive(&mut self) -> Receive {
        self.next_receive()
    }

    fn handle_control(&mut self, now: Duration, bytes: &[u8]) {
        self.receive_control(now, bytes);
    }

    fn handle_payload(&mut self, _now: Duration, bytes: &[u8]) {
        self.receive_payload(bytes);
    }

    fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        if self.admin_told || self.admin_ready.is_empty() || self.stage == Stage::Ended {
            return None;
        }
        self.admin_told = true;
        Some(Event::Admin)
    }

    fn poll_submit(&mut self) -> Option<Submit> {
        loop {
            if self.stage == Stage::Ended {
                return None;
            }
            let index = self.ready.pop_front()?;
            let slot = &mut self.slots[index];
            let Kind::Io(op) = slot.kind else { unreachable!("admin commands never get ready for a device") };
            let ranges = match op {
                Op::Discard { deallocate: true } => {
                    dsm_ranges(&core::mem::take(&mut slot.control), slot.range.count.0 as usize)
                }
                _ => Vec::new(),
            };
            if matches!(op, Op::Discard { .. }) && ranges.is_empty() {
                // Hints, or ranges of no blocks: nothing to do.
                self.answer(index, Status::SUCCESS, 0);
                continue;
            }
            slot.state = State::Running;
            let command = op.command(slot.range, ranges);
            return Some(Submit { tag: Tag(index), unit: Unit(slot.nsid), command, fill: None });
        }
    }

    fn handle_outcome(&mut self, _now: Duration, tag: Tag, outcome: Result<usize, &BlockError>) {
        let slot = &mut self.slots[tag.0];
        assert!(slot.state == State::Running, "an outcome for a request that does not run");
        let Kind::Io(op) = slot.kind else { unreachable!("devices run I/O commands only") };
        let data_bytes = slot.data_bytes;
        let status = match outcome {
            Ok(bytes) if op != Op::Read || bytes == data_bytes as usize => Status::SUCCESS,
            Ok(_) => Status::of(ErrorKind::MediaError, true),
            Err(error) => Status::of(error.kind(), op.reads()),
        };
        if status == Status::SUCCESS {
            self.counters.note(op, data_bytes);
            if op == Op::Read && self.stage != Stage::Ended {
                slot.state = State::Sending;
                let sqhd = self.head();
                self.out.push_back(Out::Read(tag.0, sqhd));
                return;
            }
        }
        self.answer(tag.0, status, 0);
    }

    fn poll_transmit(&mut self) -> Option<Piece<'_>> {
        self.next_piece()
    }

    fn bytes_in_flight(&self) -> usize {
        self.bytes_in_flight
    }

    fn set_bytes_in_flight_max(&mut self, bytes: usize) {
        self.limits.bytes_in_flight_max = bytes;
        self.admit_waiting();
    }

    fn awaited_payloads(&self) -> Vec<Tag> {
        self.slots.receiving().chain(self.ready.iter().copied()).map(Tag).collect()
    }

    fn poll_timeout(&self) -> Option<Duration> {
        if self.stage == Stage::Ended {
            return None;
        }
        [self.connect_by, self.stall_by, self.keep_alive_by].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Duration) {
        let passed = |by: Option<Duration>| by.is_some_and(|by| by <= now);
        if self.stage == Stage::Ended {
            return;
        }
        if passed(self.connect_by) {
            self.expire("no Connect command within connect_ms", self.limits.connect_ms.into());
        } else if passed(self.stall_by) {
            self.expire("a PDU did not end within stall_ms", self.limits.stall_ms.into());
        } else if passed(self.keep_alive_by) {
            self.expire("no Keep Alive within KATO ms", self.keep_alive_ms.into());
        }
    }

    fn termination(&self) -> Option<&Termination> {
        self.termination.as_ref()
    }

    fn is_closed(&self) -> bool {
        self.stage == Stage::Ended && self.out.is_empty() && matches!(self.sending, Sending::Nothing)
    }
}
