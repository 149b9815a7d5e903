//! A target's queues and a host's, joined by byte streams and a virtual clock: whole conversations with no socket.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::ToString;
use alloc::vec::Vec;
use core::time::Duration;

use sds_block::{BlockError, Command, ErrorKind, Geometry, LbaCount, LbaRange};

use super::controller::Controller;
use super::event::{ConnectRefusal, DISCOVERY_NQN, DiscoveryEntry, Event, Identity, Namespace, QueueLimits, Subsystem};
use super::initiator::{Completion, Config, Data, Initiator, Progress};
use super::pdu::Digests;
use super::queue::Queue;
use super::spec::command::{FABRICS, Sqe, admin, fctype, property};
use super::status::Status;
use crate::connection::{Connection, Piece, Receive, Tag};
use crate::crc32c::crc32c;

pub(super) const SUBSYSTEM: &str = "nqn.2026-11.io.sds:archive.pacs";
pub(super) const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555";
pub(super) const BLOCKS: u64 = 8192;

/// A disk of 512-byte blocks.
pub(super) struct Disk {
    pub geometry: Geometry,
    pub bytes: Vec<u8>,
    /// Every command that came, for tests that look at what a device is asked.
    pub asked: Vec<Command>,
    /// What every further command fails with.
    pub fails: Option<ErrorKind>,
}

impl Disk {
    pub fn new() -> Self {
        let geometry = Geometry {
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            blocks: LbaCount(BLOCKS),
            write_cache: true,
            read_only: false,
            discard_granularity_bytes: 65536,
            optimal_transfer_bytes: 1 << 20,
            uuid: *b"0123456789abcdef",
        };
        Self { geometry, bytes: alloc::vec![0; BLOCKS as usize * 512], asked: Vec::new(), fails: None }
    }

    fn span(range: LbaRange) -> core::ops::Range<usize> {
        range.start.0 as usize * 512..(range.start.0 + range.count.0) as usize * 512
    }

    fn run(&mut self, command: Command, payload: &[u8]) -> Result<Vec<u8>, BlockError> {
        self.asked.push(command.clone());
        if let Some(kind) = self.fails {
            return Err(BlockError::new(kind, "as the test asked"));
        }
        let ranges = match &command {
            Command::Read(range) | Command::Compare(range) => alloc::vec![*range],
            Command::Write { range, .. } | Command::WriteZeroes { range, .. } => alloc::vec![*range],
            Command::Discard(ranges) => ranges.clone(),
            Command::Flush | Command::CompareAndWrite { .. } => Vec::new(),
        };
        ranges.iter().try_for_each(|range| range.check(self.geometry.blocks))?;
        match command {
            Command::Read(range) => return Ok(self.bytes[Self::span(range)].to_vec()),
            Command::Write { range, .. } => self.bytes[Self::span(range)].copy_from_slice(payload),
            Command::Compare(range) if self.bytes[Self::span(range)] != *payload => {
                return Err(BlockError::new(ErrorKind::Miscompare, "other bytes"));
            }
            Command::Compare(_) | Command::Flush => {}
            Command::WriteZeroes { .. } | Command::Discard(_) => {
                ranges.into_iter().for_each(|range| self.bytes[Self::span(range)].fill(0));
            }
            Command::CompareAndWrite { .. } => return Err(BlockError::new(ErrorKind::Unsupported, "not here")),
        }
        Ok(Vec::new())
    }
}

/// A target's connection as the shell would drive it.
pub(super) struct TargetEnd {
    pub queue: Queue,
    pub incoming: VecDeque<u8>,
    buffers: BTreeMap<u16, Vec<u8>>,
    /// Devices answer when they are let: for tests that need commands to stay open.
    pub hold: bool,
    held: Vec<(Tag, Command)>,
    /// The most bytes that are fed at once.
    pub chunk_bytes: usize,
}

/// A host's connection.
pub(super) struct HostEnd {
    pub machine: Initiator,
    pub incoming: VecDeque<u8>,
    pub buffers: BTreeMap<u16, Vec<u8>>,
    pub chunk_bytes: usize,
}

/// What all connections share: time, the disk, the controllers.
pub(super) struct World {
    pub now: Duration,
    pub disk: Disk,
    pub controllers: BTreeMap<u16, Controller>,
    pub entries: Vec<DiscoveryEntry>,
    pub generation: u64,
    pub events: Vec<Event>,
    pub limits: QueueLimits,
}

impl World {
    pub fn new() -> Self {
        Self {
            now: Duration::from_secs(1000),
            disk: Disk::new(),
            controllers: BTreeMap::new(),
            entries: Vec::new(),
            generation: 1,
            events: Vec::new(),
            limits: QueueLimits::default(),
        }
    }

    /// Runs `act` with what the controller may know.
    pub fn with<R>(&mut self, id: u16, act: impl FnOnce(&mut Controller, &Subsystem<'_>) -> R) -> R {
        let controller = self.controllers.get_mut(&id).expect("the controller is there");
        let namespaces = [Namespace { nsid: 1, geometry: self.disk.geometry }];
        let namespaces = if controller.is_discovery() { &[][..] } else { &namespaces[..] };
        act(controller, &Subsystem { namespaces, entries: &self.entries, generation: self.generation })
    }

    fn decide(&mut self, queue: &mut Queue, event: Event) {
        match event {
            Event::Connect(request) => {
                let discovery = request.subsystem_nqn == DISCOVERY_NQN;
                if !discovery && request.subsystem_nqn != SUBSYSTEM {
                    return queue.refuse(self.now, ConnectRefusal::UnknownSubsystem);
                }
                if request.queue_id != 0 {
                    if !self.controllers.contains_key(&request.controller_id) {
                        return queue.refuse(self.now, ConnectRefusal::UnknownController);
                    }
                    let granted = self.with(request.controller_id, |c, subsystem| c.connect_io(&request, subsystem));
                    return match granted {
                        Ok(acceptance) => queue.accept(self.now, acceptance),
                        Err(refusal) => queue.refuse(self.now, refusal),
                    };
                }
                let identity = Identity {
                    controller_id: self.controllers.len() as u16 + 1,
                    serial: "0123456789".to_string(),
                    subsystem_nqn: request.subsystem_nqn.clone(),
                    discovery,
                    queue_depth_max: self.limits.queue_depth_max,
                };
                let namespaces = [Namespace { nsid: 1, geometry: self.disk.geometry }];
                let namespaces = if discovery { &[][..] } else { &namespaces[..] };
                let subsystem = Subsystem { namespaces, entries: &self.entries, generation: self.generation };
                match Controller::new(identity, &request, &subsystem) {
                    Ok((controller, acceptance)) => {
                        self.controllers.insert(controller.id(), controller);
                        queue.accept(self.now, acceptance);
                    }
                    Err(refusal) => queue.refuse(self.now, refusal),
                }
            }
            Event::Admin => self.run_admin(queue),
            Event::Refused(refused) => {
                let id = queue.peer().expect("connected").controller_id;
                self.with(id, |controller, _| controller.note_refused(&refused));
                self.events.push(event);
            }
            Event::QueuesDeleted { .. } => self.events.push(event),
        }
    }

    pub fn run_admin(&mut self, queue: &mut Queue) {
        let (id, now) = (queue.peer().expect("connected").controller_id, self.now);
        self.with(id, |controller, subsystem| queue.run_admin(now, controller, subsystem));
    }
}

impl TargetEnd {
    pub fn new(world: &World) -> Self {
        let queue = Queue::new(world.limits, world.now);
        let (incoming, buffers, held) = (VecDeque::new(), BTreeMap::new(), Vec::new());
        Self { queue, incoming, buffers, hold: false, held, chunk_bytes: usize::MAX }
    }

    /// Takes what came, decides, runs; returns the bytes to send.
    pub fn turn(&mut self, world: &mut World) -> Vec<u8> {
        loop {
            let wanted = self.queue.poll_receive();
            let progress = self.feed(world.now, wanted);
            while let Some(event) = self.queue.poll_event() {
                world.decide(&mut self.queue, event);
            }
            let awaited = self.queue.awaited_payloads();
            while let Some(submit) = self.queue.poll_submit() {
                assert_eq!(submit.unit.0, 1);
                let has_payload = matches!(submit.command, Command::Write { .. } | Command::Compare(_));
                assert!(!has_payload || awaited.contains(&submit.tag), "a shell may have let its payload go");
                self.held.push((submit.tag, submit.command));
            }
            if !self.hold {
                self.release(world);
            }
            if !progress {
                return self.drain();
            }
        }
    }

    /// The device answers all that it holds.
    pub fn release(&mut self, world: &mut World) {
        for (tag, command) in core::mem::take(&mut self.held) {
            let payload = self.buffers.remove(&tag.0).unwrap_or_default();
            match world.disk.run(command, &payload) {
                Ok(bytes) => {
                    let len = bytes.len();
                    self.buffers.insert(tag.0, bytes);
                    self.queue.handle_outcome(world.now, tag, Ok(len));
                }
                Err(error) => self.queue.handle_outcome(world.now, tag, Err(&error)),
            }
        }
    }

    pub fn held(&self) -> usize {
        self.held.len()
    }

    fn feed(&mut self, now: Duration, wanted: Receive) -> bool {
        match wanted {
            Receive::Control { bytes } if self.incoming.len() >= bytes => {
                assert!((1..=crate::connection::CONTROL_BYTES_MAX).contains(&bytes));
                let taken: Vec<u8> = self.incoming.drain(..bytes).collect();
                self.queue.handle_control(now, &taken);
                true
            }
            Receive::Payload { tag, offset, bytes, total } if !self.incoming.is_empty() => {
                let len = bytes.min(self.incoming.len()).min(self.chunk_bytes);
                let buffer = self.buffers.entry(tag.0).or_default();
                if offset == 0 {
                    buffer.clear();
                }
                buffer.resize(total, 0xee);
                let taken: Vec<u8> = self.incoming.drain(..len).collect();
                buffer[offset..offset + len].copy_from_slice(&taken);
                self.queue.handle_payload(now, &taken);
                true
            }
            Receive::Control { .. } | Receive::Payload { .. } | Receive::Nothing => false,
        }
    }

    pub fn drain(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(piece) = self.queue.poll_transmit() {
            append(&mut out, piece, &self.buffers);
        }
        out
    }
}

fn append(out: &mut Vec<u8>, piece: Piece<'_>, buffers: &BTreeMap<u16, Vec<u8>>) {
    match piece {
        Piece::Control(bytes) => {
            assert!(!bytes.is_empty());
            out.extend_from_slice(bytes);
        }
        Piece::Payload { tag, offset, bytes, pad, digest, .. } => {
            let data = &buffers[&tag.0][offset..offset + bytes];
            out.extend_from_slice(data);
            out.resize(out.len() + pad, 0);
            if digest {
                out.extend_from_slice(&crc32c(data).to_le_bytes());
            }
        }
    }
}

impl HostEnd {
    pub fn new(config: Config) -> Self {
        let machine = Initiator::new(config);
        Self { machine, incoming: VecDeque::new(), buffers: BTreeMap::new(), chunk_bytes: usize::MAX }
    }

    pub fn turn(&mut self) -> Vec<u8> {
        loop {
            match self.machine.poll_receive() {
                Receive::Control { bytes } if self.incoming.len() >= bytes => {
                    let taken: Vec<u8> = self.incoming.drain(..bytes).collect();
                    self.machine.handle_control(&taken);
                }
                Receive::Payload { tag, offset, bytes, total } if !self.incoming.is_empty() => {
                    let len = bytes.min(self.incoming.len()).min(self.chunk_bytes);
                    let buffer = self.buffers.entry(tag.0).or_default();
                    buffer.resize(total, 0xee);
                    let taken: Vec<u8> = self.incoming.drain(..len).collect();
                    buffer[offset..offset + len].copy_from_slice(&taken);
                    self.machine.handle_payload(&taken);
                }
                _ => break,
            }
        }
        let mut out = Vec::new();
        while let Some(piece) = self.machine.poll_transmit() {
            append(&mut out, piece, &self.buffers);
        }
        out
    }
}

/// One connection: both ends of it.
pub(super) struct Pair {
    pub target: TargetEnd,
    pub host: HostEnd,
    /// All that the target has sent, for tests that look at bytes.
    pub sent: Vec<u8>,
}

impl Pair {
    pub fn new(world: &World, config: Config) -> Self {
        Self { target: TargetEnd::new(world), host: HostEnd::new(config), sent: Vec::new() }
    }

    /// Passes bytes on until both ends are silent.
    pub fn settle(&mut self, world: &mut World) {
        loop {
            let to_target = self.host.turn();
            self.target.incoming.extend(&to_target);
            let to_host = self.target.turn(world);
            self.host.incoming.extend(&to_host);
            self.sent.extend_from_slice(&to_host);
            if to_target.is_empty() && to_host.is_empty() {
                return;
            }
        }
    }

    /// Runs one command to its end.
    pub fn run(&mut self, world: &mut World, sqe: Sqe, data: Data) -> Completion {
        let tag = self.host.machine.submit(sqe, data).expect("the queue has room");
        self.end(world, tag)
    }

    /// Lets the one open command end.
    pub fn end(&mut self, world: &mut World, tag: Tag) -> Completion {
        self.settle(world);
        let completion = self.host.machine.poll_completion();
        let completion = completion.unwrap_or_else(|| panic!("no answer: {:?}", self.target.queue.termination()));
        assert_eq!(completion.tag, tag);
        completion
    }

    /// Writes `data` at block `lba`.
    pub fn write(&mut self, world: &mut World, lba: u64, data: &[u8]) -> Status {
        let blocks = (data.len() / 512) as u32;
        let tag = self.host.machine.write(1, lba, blocks, data.len() as u32, false).expect("room");
        self.host.buffers.insert(tag.0, data.to_vec());
        self.end(world, tag).status
    }

    /// Reads `blocks` from block `lba`.
    pub fn read(&mut self, world: &mut World, lba: u64, blocks: u32) -> Result<Vec<u8>, Status> {
        let tag = self.host.machine.read(1, lba, blocks, blocks * 512).expect("room");
        let status = self.end(world, tag).status;
        if status == Status::SUCCESS { Ok(self.host.buffers[&tag.0].clone()) } else { Err(status) }
    }
}

pub(super) fn config(queue_id: u16, controller_id: u16) -> Config {
    Config {
        host_nqn: HOST.to_string(),
        host_id: [0x5a; 16],
        subsystem_nqn: SUBSYSTEM.to_string(),
        queue_id,
        controller_id,
        queue_depth: 31,
        keep_alive_ms: 5000,
        digests: Digests::default(),
        disable_flow_control: true,
        in_capsule_bytes: 8192,
    }
}

/// A property command.
pub(super) fn property_sqe(kind: u8, attrib: u32, offset: u32, value: u64) -> Sqe {
    Sqe {
        opcode: FABRICS,
        nsid: u32::from(kind).into(),
        cdw10: attrib.into(),
        cdw11: offset.into(),
        cdw12: (value as u32).into(),
        cdw13: ((value >> 32) as u32).into(),
        ..Sqe::default()
    }
}

/// An admin queue with an enabled controller.
pub(super) fn admin_queue(world: &mut World, config: Config) -> Pair {
    let mut pair = Pair::new(world, config);
    pair.settle(world);
    assert!(matches!(pair.host.machine.progress(), Progress::Connected(_)), "{:?}", pair.host.machine.progress());
    let enable = property_sqe(fctype::PROPERTY_SET, 0, property::CC, 0x0046_0001);
    assert_eq!(pair.run(world, enable, Data::None).status, Status::SUCCESS);
    pair
}

/// An admin queue and an I/O queue with these digests.
pub(super) fn association(world: &mut World, digests: Digests, disable_flow_control: bool) -> (Pair, Pair) {
    let set = |config| Config { digests, disable_flow_control, ..config };
    let admin = admin_queue(world, set(config(0, 0xffff)));
    let Progress::Connected(id) = admin.host.machine.progress() else { panic!("not connected") };
    let mut io = Pair::new(world, set(config(1, id)));
    io.settle(world);
    assert_eq!(io.host.machine.progress(), Progress::Connected(id));
    (admin, io)
}

/// Identify.
pub(super) fn identify(cns: u8, nsid: u32) -> Sqe {
    Sqe { opcode: admin::IDENTIFY, nsid: nsid.into(), cdw10: u32::from(cns).into(), ..Sqe::default() }
}

/// Get Log Page.
pub(super) fn log_page(page: u8, bytes: u32, retain: bool) -> Sqe {
    let dword = u32::from(page) | u32::from(retain) << 15 | (bytes / 4 - 1) << 16;
    Sqe { opcode: admin::GET_LOG_PAGE, cdw10: dword.into(), ..Sqe::default() }
}
