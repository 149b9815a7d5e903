//! The machine of one connection, which is also one session: MaxConnections is 1, ErrorRecoveryLevel is 0.
//!
//! A payload [`Piece`] of 0 bytes with `last` lets go of what a device has read for a task that was aborted, or for a
//! VERIFY.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use sds_block::BlockError;

use super::event::{Event, LoginAnswer, Reset, SessionKind, TargetListing};
use super::login::Login;
use super::management::Pending;
use super::pdu::RejectReason;
use super::receive::{Progress, Receiver, Then};
use super::service::TextExchange;
use super::session::{Parameters, Sequence, Settings};
use super::task::Tasks;
use super::transmit::{Out, Transmitter};
use crate::connection::{Connection, Piece, Receive, Submit, Tag, Termination};
use crate::scsi::unit::{Attention, Attentions, LogicalUnit, TransferLimits, UnitFacts};

/// RFC 7143 7.1 in short: before and after login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Login,
    Full { discovery: bool },
}

/// The target's end of one connection.
#[derive(Debug)]
pub struct TargetConnection {
    pub(super) settings: Settings,
    pub(super) phase: Phase,
    pub(super) login: Login,
    pub(super) parameters: Parameters,
    pub(super) sequence: Sequence,
    pub(super) rx: Receiver,
    pub(super) tx: Transmitter,
    pub(super) tasks: Tasks,
    pub(super) text: TextExchange,
    pub(super) pending: VecDeque<Pending>,
    pub(super) events: VecDeque<Event>,
    pub(super) submit: VecDeque<u16>,
    pub(super) waiting: VecDeque<u16>,
    pub(super) in_flight: usize,
    pub(super) unit: Option<LogicalUnit>,
    pub(super) attentions: Attentions,
    pub(super) discovery: bool,
    /// Nothing more is received; the connection ends when all is sent.
    pub(super) closing: bool,
    target: alloc::string::String,
    portal_group: u16,
    termination: Option<Termination>,
    started: Duration,
    heard: Duration,
    pinged: Option<Duration>,
}

impl TargetConnection {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(settings: Settings, now: Duration) -> Self {
        let depth = usize::from(settings.commands_max);
        Self {
            settings,
            phase: Phase::Login,
            login: Login::default(),
            parameters: Parameters::default(),
            sequence: Sequence { room: settings.commands_max, ..Sequence::default() },
            rx: Receiver::new(),
            tx: Transmitter::default(),
            tasks: Tasks::new(settings.commands_max),
            text: TextExchange::default(),
            pending: VecDeque::new(),
            events: VecDeque::new(),
            submit: VecDeque::with_capacity(depth),
            waiting: VecDeque::new(),
            in_flight: 0,
            unit: None,
            attentions: Attentions::default(),
            discovery: false,
            closing: false,
            target: alloc::string::String::new(),
            portal_group: 0,
            termination: None,
            started: now,
            heard: now,
            pinged: None,
        }
    }

    /// The answer to [`Event::Login`].
    pub fn answer_login(&mut self, _now: Duration, answer: LoginAnswer) {
        if !self.login.is_waiting() || self.is_ending() {
            return;
        }
        let answer = match answer {
            LoginAnswer::Refuse(refused) => self.login.refuse(refused),
            LoginAnswer::Accept(accept) => {
                self.portal_group = accept.portal_group;
                self.unit = accept.unit.clone().map(|facts| self.logical_unit(facts));
                self.attentions.add(Attention::PowerOn);
                self.login.accept(&accept, &self.settings)
            }
        };
        self.login_answer(answer);
    }

    /// The answer to [`Event::SendTargets`]: those that the initiator may use.
    pub fn answer_send_targets(&mut self, _now: Duration, targets: &[TargetListing]) {
        self.targets_answered(targets);
    }

    /// The answer to [`Event::Reset`].
    pub fn answer_reset(&mut self, _now: Duration) {
        self.reset_answered();
    }

    /// The logical unit as it is now; `None`: it is gone. The initiator hears of it by a unit attention.
    pub fn set_unit(&mut self, facts: Option<UnitFacts>) {
        let before = self.unit.take();
        let Some(facts) = facts else { return };
        match &before {
            None => self.attentions.add(Attention::LunsChanged),
            Some(before) => {
                let (old, new) = (&before.facts.geometry, &facts.geometry);
                if (old.blocks, old.logical_block_bytes) != (new.blocks, new.logical_block_bytes) {
                    self.attentions.add(Attention::CapacityChanged);
                } else if (old.read_only, old.write_cache) != (new.read_only, new.write_cache) {
                    self.attentions.add(Attention::ModeChanged);
                } else if before.facts != facts {
                    self.attentions.add(Attention::InquiryChanged);
                }
            }
        }
        self.unit = Some(self.logical_unit(facts));
    }

    /// Another session's reset: the tasks here end without an answer, and a unit attention says so.
    pub fn reset_by_other(&mut self, _now: Duration, reset: Reset) {
        match reset {
            Reset::ClearTaskSet => {
                if !self.tasks.abortable().is_empty() {
                    self.attentions.add(Attention::CommandsCleared);
                }
            }
            Reset::LogicalUnit | Reset::TargetWarm => self.attentions.add(Attention::Reset),
            Reset::TargetCold => self.terminate("target cold reset by another session", 0),
        }
        self.abort_all();
    }

    /// Ends the connection: `reason` for the log.
    pub fn end(&mut self, _now: Duration, reason: &'static str) {
        self.terminate(reason, 0);
    }

    fn logical_unit(&self, facts: UnitFacts) -> LogicalUnit {
        let limits = TransferLimits {
            transfer_bytes_max: self.settings.transfer_bytes_max,
            compare_and_write_bytes_max: self.settings.compare_and_write_bytes_max,
        };
        LogicalUnit { facts, target: self.target.clone(), portal_group: self.portal_group, limits }
    }

    /// Receives nothing more. Answers that are ready still go out, requests of the device still come to rest.
    pub(super) fn terminate(&mut self, reason: &'static str, value: u64) {
        if self.termination.is_none() {
            self.termination = Some(Termination { reason, value });
            self.tx.queue.retain(|out| matches!(out, Out::Prepared(_)));
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.termination.is_some() || self.closing
    }

    fn step(&mut self, progress: Progress) {
        let mut progress = progress;
        loop {
            match progress {
                Progress::Partial => return,
                Progress::BadHeader(computed) => {
                    return self.terminate("header digest is wrong", computed.into());
                }
                Progress::Header => {
                    let bhs = self.rx.bhs();
                    let plan = self.plan(&bhs);
                    progress = self.rx.plan(plan);
                }
                Progress::Whole => return self.whole(true),
                Progress::BadData => return self.whole(false),
            }
        }
    }

    fn whole(&mut self, digest_ok: bool) {
        let bhs = self.rx.bhs();
        if !digest_ok {
            self.reject(&bhs, RejectReason::DataDigest);
        }
        match self.rx.then {
            Then::Ignore => {}
            Then::Data { tag, last } => self.data_whole(tag, last, self.rx.data_bytes(), digest_ok),
            Then::Header if digest_ok && !self.is_ending() => {
                let data = core::mem::take(&mut self.rx.collected);
                self.header_whole(&bhs, data);
            }
            Then::Header => self.terminate("data digest is wrong", bhs[0].into()),
        }
    }

    fn note(&mut self, now: Duration) {
        self.heard = now;
        self.pinged = None;
    }
}

fn after(start: Duration, ms: u32) -> Duration {
    start.saturating_add(Duration::from_millis(ms.into()))
}

impl Connection for TargetConnection {
    type Event = Event;

    fn poll_receive(&mut self) -> Receive {
        if self.is_ending() {
            return Receive::Nothing;
        }
        let tasks = &self.tasks;
        self.rx.poll(|tag| tasks.peek(tag).take as usize)
    }

    fn handle_control(&mut self, now: Duration, bytes: &[u8]) {
        self.note(now);
        if self.is_ending() {
            return;
        }
        let tasks = &mut self.tasks;
        let progress = self.rx.control(bytes, |tag, bytes| tasks.get(tag).bytes.extend_from_slice(bytes));
        self.step(progress);
    }

    fn handle_payload(&mut self, now: Duration, bytes: &[u8]) {
        self.note(now);
        if self.is_ending() {
            return;
        }
        let progress = self.rx.payload(bytes);
        self.step(progress);
    }

    fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        if let Event::Login(request) = &event {
            match &request.kind {
                SessionKind::Discovery => self.discovery = true,
                SessionKind::Normal { target } => self.target.clone_from(target),
            }
        }
        Some(event)
    }

    fn poll_submit(&mut self) -> Option<Submit> {
        if self.termination.is_some() {
            return None;
        }
        self.next_submit()
    }

    fn handle_outcome(&mut self, _now: Duration, tag: Tag, outcome: Result<usize, &BlockError>) {
        if self.termination.is_none() {
            self.outcome(tag.0, outcome);
        }
    }

    fn poll_transmit(&mut self) -> Option<Piece<'_>> {
        self.next_piece()
    }

    fn bytes_in_flight(&self) -> usize {
        self.in_flight
    }

    fn set_bytes_in_flight_max(&mut self, bytes: usize) {
        self.settings.bytes_in_flight_max = bytes;
        self.let_in();
    }

    fn awaited_payloads(&self) -> Vec<Tag> {
        self.tasks.receiving().chain(self.submit.iter().copied()).map(Tag).collect()
    }

    fn poll_timeout(&self) -> Option<Duration> {
        if self.is_ending() {
            return None;
        }
        if self.phase == Phase::Login {
            return Some(after(self.started, self.settings.login_ms));
        }
        let alive = match self.pinged {
            Some(pinged) => after(pinged, self.settings.ping_answer_ms),
            None => after(self.heard, self.settings.ping_idle_ms),
        };
        if self.rx.is_idle() { Some(alive) } else { Some(alive.min(after(self.heard, self.settings.stall_ms))) }
    }

    fn handle_timeout(&mut self, now: Duration) {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        let silent_ms = now.saturating_sub(self.heard).as_millis() as u64;
        if self.phase == Phase::Login {
            self.terminate("login takes too long", now.saturating_sub(self.started).as_millis() as u64);
        } else if !self.rx.is_idle() && now >= after(self.heard, self.settings.stall_ms) {
            self.terminate("a PDU stalls", silent_ms);
        } else if self.pinged.is_some() {
            self.terminate("no answer to a ping", silent_ms);
        } else {
            self.pinged = Some(now);
            self.send_ping();
        }
    }

    fn termination(&self) -> Option<&Termination> {
        self.termination.as_ref()
    }

    fn is_closed(&self) -> bool {
        self.is_ending() && self.tx.is_empty()
    }
}
