//! One connection: bytes in, requests out, answers back.
//!
//! Layout: the machine and its glue, the buffers that tags name, what waits to be sent, and the socket. Bytes are
//! received into one buffer of the core and parsed at once; only an incomplete header is kept. A payload whose rest is
//! not there yet is received straight into its aligned buffer, with what follows it going to the core's buffer.
//!
//! Considerations: requests are polled once where they are parsed, because devices in memory answer at once, and become
//! tasks only if they wait. Nothing is sent until the turn ends. A connection gets [`RECEIVES_PER_TURN_MAX`] and
//! [`SENDS_PER_TURN_MAX`] calls a turn, so that no host starves the others; it is read no further while too much waits
//! to be sent, or while the node holds too much payload. For its machine, time stands still as long as it waits for the
//! node: what the host has sent meanwhile is not late. When it ends, its requests run on: what a device was given can't
//! be taken back.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use sds_block::{BlockError, Command, ErrorKind, Request};
use sds_io::{Buffer, ReadBytes};
use sds_proto::connection::CONTROL_BYTES_MAX;
use sds_proto::{Connection, Piece, Receive, Submit, Tag};
use sds_uring::net::{Moved, Socket};
use sds_uring::{Local, Readiness, Source, SourceId};

use crate::admission::Place;
use crate::buffers::{Buffers, SWEEPS_PER_STALL};
use crate::connections::{Connections, Front, RECEIVE_BYTES, Remote};
use crate::glue::{Begin, Executing, Glue, SessionInfo};
use crate::outgoing::Outgoing;

/// Calls that receive for one connection in one turn: a megabyte, if it comes in full buffers.
const RECEIVES_PER_TURN_MAX: usize = 4;
/// Calls that send for one connection in one turn.
const SENDS_PER_TURN_MAX: usize = 8;
/// Calls that receive before a command from outside is run: the most that lies in a socket (tcp_rmem, 6 MiB), unless
/// somebody has set that higher.
const RECEIVES_UP_TO_NOW_MAX: usize = 32;
/// A rest of a payload below this is copied, which is cheaper than a second part of the receive call.
const DIRECT_BYTES_MIN: usize = 2048;

type Outcome = Result<Option<ReadBytes>, BlockError>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// All is said; the host gets some time to read it.
    Lingering {
        until: Duration,
    },
    Closed,
}

struct Inner<G: Glue> {
    glue: G,
    machine: G::Machine,
    socket: Option<Socket>,
    source: Option<SourceId>,
    buffers: Buffers,
    /// When payloads are looked at next, by the connection's clock.
    sweep_at: Duration,
    /// Its part of the core's payload.
    counted_bytes: usize,
    /// Its machine was told that the core is short of payload.
    short: bool,
    /// Since when it waits for the node's payload to become less, and how long it did before.
    held_since: Option<Duration>,
    held: Duration,
    /// The beginning of a header whose rest has not come, and when that was.
    carry: Vec<u8>,
    carry_since: Duration,
    outgoing: Outgoing,
    /// When the socket last took something, while something waits.
    sent_at: Duration,
    readable: bool,
    writable: bool,
    hangup: bool,
    phase: Phase,
}

/// One connection, on its core.
pub(crate) struct Conn<G: Glue> {
    local: Local,
    front: Rc<Front>,
    connections: Rc<Connections<G>>,
    id: u64,
    peer: SocketAddr,
    executing: Executing,
    place: Rc<Place>,
    flush_asked: Cell<bool>,
    turn_asked: Cell<bool>,
    inner: RefCell<Inner<G>>,
}

impl<G: Glue> Conn<G> {
    /// Starts a connection that was let in.
    pub(crate) fn start(local: &Local, node: std::sync::Arc<G::Node>, socket: Socket, place: Place) {
        let Some(front) = local.get::<Front>() else { return };
        let (peer, id) = (socket.peer(), place.id());
        let portal = socket.local().unwrap_or(peer);
        let Some(devices) = front.devices.borrow().clone() else {
            log::warn!("a connection from {peer} is closed: core {} has no devices yet", local.index());
            return;
        };
        let (executing, place) = (Executing::default(), Rc::new(place));
        let me = Remote {
            core: local.index(),
            id,
            handles: std::sync::Arc::clone(&front.handles),
            protocol: std::marker::PhantomData,
        };
        let (glue, machine) = G::begin(Begin {
            node,
            local: local.clone(),
            devices,
            me,
            peer,
            portal,
            refuse: place.is_refused(),
            place: Rc::clone(&place),
            limits: front.limits,
            executing: executing.clone(),
        });
        let now = local.turn_now();
        let inner = Inner {
            glue,
            machine,
            socket: None,
            source: None,
            buffers: Buffers::default(),
            sweep_at: now,
            counted_bytes: 0,
            short: false,
            held_since: None,
            held: Duration::ZERO,
            carry: Vec::new(),
            carry_since: now,
            outgoing: Outgoing::default(),
            sent_at: now,
            readable: true,
            writable: true,
            hangup: false,
            phase: Phase::Open,
        };
        let connections = Connections::<G>::of(local);
        let conn = Rc::new(Self {
            local: local.clone(),
            front,
            connections: Rc::clone(&connections),
            id,
            peer,
            executing,
            place,
            flush_asked: Cell::new(false),
            turn_asked: Cell::new(false),
            inner: RefCell::new(inner),
        });
        connections.insert(local, id, Rc::clone(&conn));
        let watched = local.watch(&socket, Rc::clone(&conn) as Rc<dyn Source>);
        let mut inner = conn.inner.borrow_mut();
        inner.socket = Some(socket);
        match watched {
            Ok(source) => {
                inner.source = Some(source);
                // What came before the socket was watched makes no edge.
                conn.ask_turn();
            }
            Err(error) => {
                log::warn!("a connection from {peer} is closed: {error}");
                conn.close(&mut inner);
            }
        }
    }

    /// Its requests that a device has.
    pub(crate) fn executing(&self) -> Executing {
        self.executing.clone()
    }

    /// Its line in the list of sessions.
    pub(crate) fn session(&self) -> Option<SessionInfo> {
        let inner = self.inner.borrow();
        inner.glue.session(&inner.machine)
    }

    /// Runs a command from outside, after reading the socket up to now: a command may depend on what the host sent, or
    /// on its having closed, before.
    pub(crate) fn run(self: &Rc<Self>, command: impl FnOnce(&mut G, &mut G::Machine, Duration)) {
        let inner = &mut *self.inner.borrow_mut();
        inner.readable = true;
        for _ in 0..RECEIVES_UP_TO_NOW_MAX {
            if inner.readable && inner.phase == Phase::Open {
                self.receive_once(inner);
            }
        }
        if inner.phase == Phase::Open {
            let now = self.now(inner);
            command(&mut inner.glue, &mut inner.machine, now);
            self.pump(inner);
            self.ask_flush();
        }
    }

    /// Closes a connection that gave way to another one, if it is still there.
    pub(crate) fn give_way(local: &Local, id: u64) {
        if let Some(connection) = Connections::<G>::of(local).find(id) {
            connection.drop_now();
        }
    }

    /// Ends the connection at once: the node stops, or is full.
    pub(crate) fn drop_now(&self) {
        self.close(&mut self.inner.borrow_mut());
    }

    /// Looks at the limits in time.
    pub(crate) fn tick(self: &Rc<Self>, now: Duration) {
        let inner = &mut *self.inner.borrow_mut();
        let stall = Duration::from_millis(u64::from(self.front.limits.stall_ms));
        let (phase, read_now) = (inner.phase, self.now(inner));
        match phase {
            Phase::Closed => {}
            Phase::Lingering { until } if now >= until => self.close(inner),
            Phase::Lingering { .. } => {}
            Phase::Open if !inner.carry.is_empty() && read_now >= inner.carry_since + stall => {
                self.log_fault(format_args!("a header stalled after {} bytes", inner.carry.len()));
                self.close(inner);
            }
            Phase::Open if !inner.outgoing.is_empty() && now >= inner.sent_at + stall => {
                self.log_fault(format_args!("the host read none of {} bytes", inner.outgoing.bytes()));
                self.close(inner);
            }
            Phase::Open if self.payload_stalls(inner, read_now) => {
                self.log_fault(format_args!("a command's payload stalled"));
                self.close(inner);
            }
            Phase::Open => {
                if inner.machine.poll_timeout().is_some_and(|due| due <= read_now) {
                    inner.machine.handle_timeout(read_now);
                    self.pump(inner);
                    self.ask_flush();
                }
            }
        }
    }

    /// A command's payload was asked for, or begun, and does not come.
    fn payload_stalls(&self, inner: &mut Inner<G>, now: Duration) -> bool {
        if now < inner.sweep_at {
            return false;
        }
        inner.sweep_at = now + Duration::from_millis(u64::from(self.front.limits.stall_ms)) / SWEEPS_PER_STALL;
        !inner.buffers.sweep(&inner.machine.awaited_payloads())
    }

    /// The connection ends by its host's fault.
    fn log_fault(&self, why: fmt::Arguments<'_>) {
        if let Some(more) = self.front.fault_lines.borrow_mut().pass(Instant::now()) {
            log::warn!("{}: closed, {why}{more}", self.peer);
        }
    }

    /// The connection's clock, which stands while it waits for the node.
    fn now(&self, inner: &Inner<G>) -> Duration {
        inner.held_since.unwrap_or_else(|| self.local.turn_now()) - inner.held
    }

    /// Tells the core how much payload the connection has, and its machine how much it may have. True if that is more
    /// than before.
    fn account(&self, inner: &mut Inner<G>) -> bool {
        let bytes = inner.machine.bytes_in_flight() + inner.outgoing.bytes();
        if bytes != inner.counted_bytes {
            self.front.payload.change(inner.counted_bytes, bytes);
            inner.counted_bytes = bytes;
        }
        let short = self.front.payload.is_short();
        if short == inner.short {
            return false;
        }
        inner.short = short;
        inner.machine.set_bytes_in_flight_max(if short { 0 } else { self.front.limits.connection_bytes_max });
        !short
    }

    fn ask_flush(self: &Rc<Self>) {
        if !self.flush_asked.replace(true) {
            self.local.at_turn_end(Rc::clone(self) as Rc<dyn Source>);
        }
    }

    fn ask_turn(self: &Rc<Self>) {
        if !self.turn_asked.replace(true) {
            self.local.next_turn(Rc::clone(self) as Rc<dyn Source>);
        }
    }

    /// Too much waits to be sent: the host reads too slowly. Or the node has too much payload, and some of this
    /// connection's becomes free without its host sending more.
    fn is_held_back(&self, inner: &mut Inner<G>) -> bool {
        let becomes_free = || self.executing.count() > 0 || !inner.outgoing.is_empty();
        if self.front.payload.is_short() && becomes_free() {
            if inner.held_since.is_none() {
                inner.held_since = Some(self.local.turn_now());
                self.front.count(|counters| counters.payload_waits += 1);
            }
            return true;
        }
        if let Some(since) = inner.held_since.take() {
            inner.held += self.local.turn_now() - since;
        }
        inner.outgoing.bytes() > self.front.limits.outgoing_bytes_max
    }

    fn receive(self: &Rc<Self>, inner: &mut Inner<G>) {
        for _ in 0..RECEIVES_PER_TURN_MAX {
            if !inner.readable || inner.phase == Phase::Closed || self.is_held_back(inner) {
                return;
            }
            self.receive_once(inner);
        }
        if inner.readable && inner.phase != Phase::Closed {
            self.ask_turn();
        }
    }

    fn receive_once(self: &Rc<Self>, inner: &mut Inner<G>) {
        // Other connections may have taken what there was since this one last looked.
        if self.account(inner) {
            self.pump(inner);
        }
        let now = self.now(inner);
        let space = &mut *self.front.receive.borrow_mut();
        let kept = inner.carry.len();
        space[..kept].copy_from_slice(&inner.carry);
        // Where the rest of a payload goes, if the next bytes are one's.
        let direct = match inner.machine.poll_receive() {
            Receive::Payload { tag, offset, bytes, total } if kept == 0 && bytes >= DIRECT_BYTES_MIN => {
                Some((tag, offset, bytes, total))
            }
            Receive::Payload { .. } | Receive::Control { .. } | Receive::Nothing => None,
        };
        let socket = inner.socket.as_ref().expect("an open connection has its socket");
        let end = space.len();
        let room = end - kept + direct.as_ref().map_or(0, |(_, _, bytes, _)| *bytes);
        let received = match direct {
            Some((tag, offset, bytes, total)) => {
                let buffer = inner.buffers.payload(tag, total);
                let received = socket.receive(&mut buffer.as_mut()[offset..offset + bytes], space);
                if let Ok(Moved::Bytes(count)) = received {
                    let direct = count.min(bytes);
                    let buffer = inner.buffers.payload(tag, total);
                    inner.machine.handle_payload(now, &buffer.as_ref()[offset..offset + direct]);
                    self.feed(inner, &space[..count - direct]);
                }
                received
            }
            None => {
                let received = socket.receive(&mut [], &mut space[kept..]);
                if let Ok(Moved::Bytes(count)) = received {
                    self.feed(inner, &space[..kept + count]);
                }
                received
            }
        };
        match received {
            Ok(Moved::Bytes(count)) => {
                self.front.count(|counters| {
                    counters.receives += 1;
                    counters.received_bytes += count as u64;
                });
                // Less than there was room for: the socket is empty, and the next bytes make an edge. The end of the
                // stream may have come with the last edge, so that is read up to.
                inner.readable = count == room || inner.hangup;
                self.pump(inner);
            }
            Ok(Moved::WouldBlock) => inner.readable = false,
            Ok(Moved::End) => self.close(inner),
            Err(error) => {
                log::info!("{}: the connection broke: {error}", self.peer);
                self.close(inner);
            }
        }
    }

    /// Gives the machine all of `bytes` that it takes; the beginning of a header is kept.
    fn feed(&self, inner: &mut Inner<G>, bytes: &[u8]) {
        let now = self.now(inner);
        let mut at = 0;
        loop {
            let rest = bytes.len() - at;
            match inner.machine.poll_receive() {
                Receive::Control { bytes: wanted } => {
                    assert!(wanted > 0 && wanted <= CONTROL_BYTES_MAX, "the machine asks for what fits");
                    if rest < wanted {
                        break;
                    }
                    inner.machine.handle_control(now, &bytes[at..at + wanted]);
                    at += wanted;
                }
                Receive::Payload { tag, offset, bytes: wanted, total } => {
                    if rest == 0 {
                        break;
                    }
                    let part = &bytes[at..at + rest.min(wanted)];
                    let buffer = inner.buffers.payload(tag, total);
                    buffer.as_mut()[offset..offset + part.len()].copy_from_slice(part);
                    inner.machine.handle_payload(now, part);
                    at += part.len();
                }
                // What a peer sends after its end is not looked at.
                Receive::Nothing => {
                    at = bytes.len();
                    break;
                }
            }
        }
        if at > 0 || inner.carry.is_empty() {
            inner.carry_since = now;
        }
        if inner.buffers.payload_bytes() > self.front.limits.connection_bytes_max {
            inner.buffers.release_unless(&inner.machine.awaited_payloads());
        }
        inner.carry.clear();
        inner.carry.extend_from_slice(&bytes[at..]);
    }

    /// Decides and runs what the machine has.
    fn pump(self: &Rc<Self>, inner: &mut Inner<G>) {
        let now = self.now(inner);
        loop {
            let mut idle = true;
            while let Some(event) = inner.machine.poll_event() {
                inner.glue.handle_event(&mut inner.machine, now, event);
                idle = false;
            }
            while let Some(submit) = inner.machine.poll_submit() {
                self.submit(inner, submit);
                idle = false;
            }
            if idle && !self.account(inner) {
                return;
            }
        }
    }

    fn submit(self: &Rc<Self>, inner: &mut Inner<G>, submit: Submit) {
        let Submit { tag, unit, command, fill } = submit;
        let payload = match (&command, fill) {
            (Command::Write { range, .. }, Some(block)) => Some(filled(range.count.0 as usize, &block)),
            (Command::Write { .. } | Command::Compare(_) | Command::CompareAndWrite { .. }, _) => {
                inner.buffers.take_payload(tag)
            }
            (Command::Read(_) | Command::Flush | Command::WriteZeroes { .. } | Command::Discard(_), _) => None,
        };
        let payload = payload.map(Buffer::share);
        let Some(device) = inner.glue.device(unit) else {
            let gone = BlockError::new(ErrorKind::DeviceGone, "the unit is not exported any more");
            return self.finish(inner, tag, Err(gone));
        };
        let mut future = device.execute(Request { command, payload });
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => self.finish(inner, tag, outcome),
            Poll::Pending => {
                self.executing.begin();
                let conn = Rc::clone(self);
                self.local.spawner().spawn(async move {
                    let outcome = future.await;
                    conn.complete(tag, outcome);
                });
            }
        }
    }

    /// A device has answered, some turns later.
    fn complete(self: &Rc<Self>, tag: Tag, outcome: Outcome) {
        self.executing.end();
        let inner = &mut *self.inner.borrow_mut();
        if inner.phase == Phase::Open {
            self.finish(inner, tag, outcome);
            self.pump(inner);
            self.ask_flush();
        } else if self.executing.count() == 0 {
            self.front.payload.change(inner.counted_bytes, 0);
            inner.counted_bytes = 0;
        }
    }

    fn finish(&self, inner: &mut Inner<G>, tag: Tag, outcome: Outcome) {
        self.front.count(|counters| {
            counters.requests += 1;
            counters.failed_requests += u64::from(outcome.is_err());
        });
        let now = self.now(inner);
        match outcome {
            Ok(Some(read)) => {
                let bytes = read.len();
                *inner.buffers.answer(tag) = Some(read);
                inner.machine.handle_outcome(now, tag, Ok(bytes));
            }
            Ok(None) => inner.machine.handle_outcome(now, tag, Ok(0)),
            Err(error) => {
                log::debug!("{}: a request failed: {error}", self.peer);
                inner.machine.handle_outcome(now, tag, Err(&error));
            }
        }
    }

    /// Sends what the socket takes, within this turn's budget.
    fn flush(self: &Rc<Self>, inner: &mut Inner<G>) {
        for sends in 0.. {
            fill(inner, self.front.limits.outgoing_bytes_max);
            if inner.outgoing.is_empty() || !inner.writable {
                break;
            }
            if sends == SENDS_PER_TURN_MAX {
                return self.ask_turn();
            }
            let before = inner.outgoing.bytes();
            let socket = inner.socket.as_ref().expect("an open connection has its socket");
            match inner.outgoing.send(socket) {
                Ok(sent) => {
                    inner.writable = !sent.socket_full;
                    inner.sent_at = self.local.turn_now();
                    let sent_bytes = (before - inner.outgoing.bytes()) as u64;
                    self.front.count(|counters| {
                        counters.sends += 1;
                        counters.sent_bytes += sent_bytes;
                    });
                }
                Err(error) => {
                    log::info!("{}: the connection broke: {error}", self.peer);
                    return self.close(inner);
                }
            }
        }
        if self.account(inner) {
            self.pump(inner);
            self.ask_flush();
        }
        if !inner.outgoing.is_empty() {
            // The socket says when it takes more.
            return;
        }
        if inner.machine.termination().is_some() || inner.machine.is_closed() {
            self.begin_linger(inner);
        } else if inner.readable {
            // Reading may have been held back.
            self.ask_turn();
        }
    }

    /// All is said. The socket stays a moment: closing it with unread bytes would make the kernel reset the connection,
    /// and the host would never read why it ended.
    fn begin_linger(&self, inner: &mut Inner<G>) {
        if let Some(termination) = inner.machine.termination() {
            self.log_fault(format_args!("{} ({:#x})", termination.reason, termination.value));
        }
        let until = self.local.turn_now() + Duration::from_millis(u64::from(self.front.limits.linger_ms));
        inner.phase = Phase::Lingering { until };
        if let Some(socket) = &inner.socket {
            socket.finish_sending();
        }
        inner.glue.handle_end(&inner.machine);
    }

    /// Reads and forgets, up to the end.
    fn discard(self: &Rc<Self>, inner: &mut Inner<G>) {
        let space = &mut *self.front.receive.borrow_mut();
        for _ in 0..RECEIVES_PER_TURN_MAX {
            let Some(socket) = &inner.socket else { return };
            match socket.receive(&mut [], space) {
                Ok(Moved::Bytes(_)) => {}
                Ok(Moved::WouldBlock) => return,
                Ok(Moved::End) | Err(_) => return self.close(inner),
            }
        }
        self.ask_turn();
    }

    fn close(&self, inner: &mut Inner<G>) {
        let before = std::mem::replace(&mut inner.phase, Phase::Closed);
        if before == Phase::Closed {
            return;
        }
        if let Some(source) = inner.source.take() {
            self.local.unwatch(source);
        }
        inner.socket = None;
        inner.outgoing = Outgoing::default();
        inner.buffers = Buffers::default();
        // What devices have is counted until they have answered.
        let left = if self.executing.count() == 0 { 0 } else { inner.counted_bytes };
        self.front.payload.change(inner.counted_bytes, left);
        inner.counted_bytes = left;
        if before == Phase::Open {
            inner.glue.handle_end(&inner.machine);
        }
        self.connections.remove(self.id);
        self.place.leave();
    }
}

/// Takes from the machine what one call can send.
fn fill<G: Glue>(inner: &mut Inner<G>, bytes_max: usize) {
    while !inner.outgoing.is_full() && inner.outgoing.bytes() < bytes_max {
        match inner.machine.poll_transmit() {
            None => return,
            Some(Piece::Control(bytes)) => inner.outgoing.push_control(bytes),
            Some(Piece::Payload { tag, offset, bytes, pad, digest, last }) => {
                let answer = inner.buffers.answer(tag);
                let read = answer.as_ref().expect("the machine sends what a device answered");
                inner.outgoing.push_payload(read, offset, bytes, pad, digest);
                if last {
                    *answer = None;
                }
            }
        }
    }
}

/// A payload of `blocks` times `block`.
fn filled(blocks: usize, block: &[u8]) -> Buffer {
    let mut buffer = Buffer::uninit(blocks * block.len());
    buffer.as_mut().chunks_exact_mut(block.len()).for_each(|place| place.copy_from_slice(block));
    buffer
}

impl<G: Glue> Source for Conn<G> {
    fn handle_ready(self: Rc<Self>, readiness: Readiness) {
        self.turn_asked.set(false);
        let inner = &mut *self.inner.borrow_mut();
        inner.readable |= readiness.readable;
        inner.writable |= readiness.writable;
        inner.hangup |= readiness.hangup;
        match inner.phase {
            Phase::Open => {
                self.receive(inner);
                if inner.phase == Phase::Open {
                    self.ask_flush();
                }
            }
            Phase::Lingering { .. } => self.discard(inner),
            Phase::Closed => {}
        }
    }

    fn handle_turn_end(self: Rc<Self>) {
        self.flush_asked.set(false);
        let inner = &mut *self.inner.borrow_mut();
        if inner.phase == Phase::Open {
            self.flush(inner);
        }
    }
}

/// A core's buffer for what is received: room for a kept header and for [`RECEIVE_BYTES`] more.
pub(crate) fn receive_space() -> Box<[u8]> {
    vec![0; CONTROL_BYTES_MAX + RECEIVE_BYTES].into_boxed_slice()
}
