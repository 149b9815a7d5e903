//! A controller: what the admin queue and the I/O queues of one association share.
//!
//! Plain data. The glue keeps it under a lock and brings it along for Connect, for admin commands and for news; no I/O
//! command needs it. What I/O queues count, for the SMART log page, lies in [`Counters`] that only their own thread
//! writes.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use super::event::{Acceptance, ConnectRefusal, ConnectRequest, Identity, RefusedCommand, Subsystem};
use super::io::Op;
use super::spec::command::{PropertyCmd, property};
use super::spec::log::{ErrorEntry, event};
use super::status::Status;

/// I/O queues of one controller.
pub const IO_QUEUES_MAX: u16 = 128;
/// Event requests that may be open: AERL + 1.
pub const EVENT_REQUESTS_MAX: usize = 4;
/// Entries of the error log page: ELPE + 1.
pub const ERRORS_MAX: usize = 64;
/// The changed namespace list has room for so many; more are told as "many".
pub const CHANGED_MAX: usize = 1024;
/// The version that is implemented: 2.0.0.
pub const VERSION: u32 = 0x0002_0000;
/// KATO of a discovery controller whose host asked for none: so long may it be silent (Linux's target does the same).
const DISCOVERY_IDLE_MS: u32 = 120_000;
/// CAP.TO and CRTO.CRWMT: 500 ms units until ready; a controller is ready at once.
const READY_TIMEOUT: u64 = 1;

/// What one queue counts. Its own thread alone writes, so load and store do.
#[derive(Debug, Default)]
pub struct Counters {
    reads: AtomicU64,
    writes: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
}

/// The sums of several queues' counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Read and Compare commands.
    pub reads: u64,
    /// Write commands.
    pub writes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

impl Counters {
    pub(super) fn note(&self, op: Op, bytes: u32) {
        let add = |counter: &AtomicU64, more: u64| {
            counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
        };
        match op {
            Op::Read | Op::Compare => {
                add(&self.reads, 1);
                add(&self.read_bytes, bytes.into());
            }
            Op::Write { .. } => {
                add(&self.writes, 1);
                add(&self.written_bytes, bytes.into());
            }
            Op::Flush | Op::WriteZeroes { .. } | Op::Discard { .. } => {}
        }
    }

    fn add_to(&self, totals: &mut Totals) {
        totals.reads += self.reads.load(Ordering::Relaxed);
        totals.writes += self.writes.load(Ordering::Relaxed);
        totals.read_bytes += self.read_bytes.load(Ordering::Relaxed);
        totals.written_bytes += self.written_bytes.load(Ordering::Relaxed);
    }
}

/// What came of an admin command.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// No data.
    Done {
        /// Status.
        status: Status,
        /// DW0 and DW1.
        result: u64,
    },
    /// Success, with data for the host.
    Data {
        /// The data.
        data: Vec<u8>,
    },
    /// An event request: answered when there is something to tell.
    Later,
}

/// A kind of event: told once, then not again until the host has read the log page.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Notice {
    pub pending: bool,
    pub masked: bool,
}

/// A controller of one host.
#[derive(Debug)]
pub struct Controller {
    pub(super) identity: Identity,
    pub(super) host_nqn: String,
    pub(super) host_id: [u8; 16],
    cc: u32,
    csts: u32,
    pub(super) keep_alive_ms: u32,
    pub(super) queues_granted: u16,
    pub(super) queues: Vec<(u16, Arc<Counters>)>,
    ended: Totals,
    pub(super) event_config: u32,
    pub(super) event_requests: VecDeque<(u16, u16)>,
    pub(super) event_answers: VecDeque<(u16, Status, u32)>,
    pub(super) namespaces_notice: Notice,
    pub(super) discovery_notice: Notice,
    pub(super) changed: Vec<u32>,
    pub(super) temperature_threshold: u32,
    pub(super) atomicity: u32,
    pub(super) errors: VecDeque<ErrorEntry>,
    pub(super) errors_count: u64,
    queues_deleted: Option<bool>,
}

/// Bits of CC (Base section 3.1.3.5).
mod cc {
    pub const EN: u32 = 1;
    pub const CSS_MASK: u32 = 7 << 4;
    pub const CSS_ALL: u32 = 6 << 4;
    pub const MPS_MASK: u32 = 0xf << 7;
    pub const AMS_MASK: u32 = 7 << 11;
    pub const SHN_MASK: u32 = 3 << 14;
    pub const IOSQES_64: u32 = 6 << 16;
    pub const IOCQES_16: u32 = 4 << 20;
    pub const SIZES_MASK: u32 = 0xff << 16;
}

/// Bits of CSTS (Base section 3.1.3.6).
mod csts {
    pub const RDY: u32 = 1;
    pub const CFS: u32 = 2;
    pub const SHUTDOWN_COMPLETE: u32 = 2 << 2;
    pub const SHST_MASK: u32 = 3 << 2;
}

impl Controller {
    /// The controller that an admin queue's Connect makes, and what that queue is to know.
    ///
    /// # Errors
    /// The request is for an I/O queue, or for a certain controller, which dynamic controllers can't be.
    pub fn new(
        identity: Identity,
        request: &ConnectRequest,
        subsystem: &Subsystem<'_>,
    ) -> Result<(Self, Acceptance), ConnectRefusal> {
        if request.queue_id != 0 {
            return Err(ConnectRefusal::InvalidQueueId);
        }
        if request.controller_id != 0xffff {
            return Err(ConnectRefusal::UnknownController);
        }
        let idle = identity.discovery && request.keep_alive_ms == 0;
        let counters = Arc::new(Counters::default());
        let controller = Self {
            identity,
            host_nqn: request.host_nqn.clone(),
            host_id: request.host_id,
            cc: 0,
            csts: 0,
            keep_alive_ms: if idle { DISCOVERY_IDLE_MS } else { request.keep_alive_ms },
            queues_granted: IO_QUEUES_MAX,
            queues: Vec::new(),
            ended: Totals::default(),
            event_config: 0,
            event_requests: VecDeque::with_capacity(EVENT_REQUESTS_MAX),
            event_answers: VecDeque::new(),
            namespaces_notice: Notice::default(),
            discovery_notice: Notice::default(),
            changed: Vec::new(),
            temperature_threshold: 0xffff,
            atomicity: 0,
            errors: VecDeque::new(),
            errors_count: 0,
            queues_deleted: None,
        };
        let acceptance = controller.acceptance(subsystem, counters);
        Ok((controller, acceptance))
    }

    fn acceptance(&self, subsystem: &Subsystem<'_>, counters: Arc<Counters>) -> Acceptance {
        let block = |space: &super::event::Namespace| (space.nsid, space.geometry.logical_block_bytes);
        Acceptance {
            controller_id: self.identity.controller_id,
            blocks: subsystem.namespaces.iter().map(block).collect(),
            keep_alive_ms: self.keep_alive_ms,
            counters,
        }
    }

    /// Grants an I/O queue's Connect.
    ///
    /// # Errors
    /// It is another host's, the controller is not enabled, or the queue's id can't be had.
    pub fn connect_io(
        &mut self,
        request: &ConnectRequest,
        subsystem: &Subsystem<'_>,
    ) -> Result<Acceptance, ConnectRefusal> {
        if request.subsystem_nqn != self.identity.subsystem_nqn {
            return Err(ConnectRefusal::UnknownController);
        }
        if request.host_nqn != self.host_nqn || request.host_id != self.host_id {
            return Err(ConnectRefusal::HostMismatch);
        }
        if self.identity.discovery || request.queue_id == 0 || request.queue_id > self.queues_granted {
            return Err(ConnectRefusal::InvalidQueueId);
        }
        if !self.is_ready() {
            return Err(ConnectRefusal::ControllerDisabled);
        }
        if self.queues.iter().any(|(id, _)| *id == request.queue_id) {
            return Err(ConnectRefusal::QueueInUse);
        }
        let counters = Arc::new(Counters::default());
        self.queues.push((request.queue_id, counters.clone()));
        Ok(self.acceptance(subsystem, counters))
    }

    /// An I/O queue's connection ended.
    pub fn disconnect_io(&mut self, queue_id: u16) {
        if let Some(at) = self.queues.iter().position(|(id, _)| *id == queue_id) {
            let (_, counters) = self.queues.swap_remove(at);
            counters.add_to(&mut self.ended);
        }
    }

    /// CNTLID.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.identity.controller_id
    }

    /// A discovery controller: no namespaces, no I/O queues.
    #[must_use]
    pub fn is_discovery(&self) -> bool {
        self.identity.discovery
    }

    /// The ids of the I/O queues that are connected.
    pub fn io_queues(&self) -> impl Iterator<Item = u16> + '_ {
        self.queues.iter().map(|(id, _)| *id)
    }

    /// KATO, as it is now; 0 is never.
    #[must_use]
    pub fn keep_alive_ms(&self) -> u32 {
        self.keep_alive_ms
    }

    /// CSTS.RDY.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.csts & csts::RDY != 0
    }

    /// The sums over all I/O queues, also of those that ended.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = self.ended;
        for (_, counters) in &self.queues {
            counters.add_to(&mut totals);
        }
        totals
    }

    /// A namespace changed its size, came or went. Call `run_admin` of the admin queue afterwards.
    pub fn namespace_changed(&mut self, nsid: u32) {
        if !self.changed.contains(&nsid) && self.changed.len() <= CHANGED_MAX {
            self.changed.push(nsid);
            self.changed.sort_unstable();
        }
        self.namespaces_notice.pending = true;
    }

    /// The discovery log page changed. Call `run_admin` of the admin queue afterwards.
    pub fn discovery_changed(&mut self) {
        self.discovery_notice.pending = true;
    }

    /// A command was refused for one of its fields: an entry of the error log page.
    pub fn note_refused(&mut self, refused: &RefusedCommand) {
        self.errors_count += 1;
        self.errors.truncate(ERRORS_MAX - 1);
        self.errors.push_front(ErrorEntry {
            count: self.errors_count.into(),
            sqid: refused.queue_id.into(),
            cid: refused.command_id.into(),
            status: refused.status.into(),
            location: refused.location.into(),
            lba: refused.lba.into(),
            nsid: refused.nsid.into(),
            trtype: 3,
            ..ErrorEntry::default()
        });
    }

    /// The next event request that can be answered: its slot, its status, its result.
    pub(super) fn poll_event_answer(&mut self) -> Option<(u16, Status, u32)> {
        if let Some(answer) = self.event_answers.pop_front() {
            return Some(answer);
        }
        let notices = [
            (&mut self.namespaces_notice, event::NAMESPACE_NOTICES, event::NAMESPACE_CHANGED),
            (&mut self.discovery_notice, event::DISCOVERY_NOTICES, event::DISCOVERY_CHANGED),
        ];
        for (notice, wanted, result) in notices {
            if notice.pending && !notice.masked && self.event_config & wanted != 0 {
                let (slot, _) = self.event_requests.pop_front()?;
                (notice.pending, notice.masked) = (false, true);
                return Some((slot, Status::SUCCESS, result));
            }
        }
        None
    }

    /// The host has its controller's queues deleted; true: it shut it down.
    pub(super) fn poll_queues_deleted(&mut self) -> Option<bool> {
        self.queues_deleted.take()
    }

    /// Property Get.
    pub(super) fn property(&self, cmd: &PropertyCmd) -> Option<u64> {
        let value = match (cmd.ofst.get(), cmd.attrib & 7) {
            (property::CAP, 1) => self.cap(),
            (property::VS, 0) => VERSION.into(),
            (property::CC, 0) => self.cc.into(),
            (property::CSTS, 0) => self.csts.into(),
            // Resets of the whole subsystem are not offered, so this reads as 0.
            (property::NSSR, 0) => 0,
            (property::CRTO, 0) => READY_TIMEOUT,
            _ => return None,
        };
        Some(value)
    }

    /// CAP (Base figure 36): MQES, contiguous queues, timeout, the NVM command set, ready with media.
    fn cap(&self) -> u64 {
        let mqes = u64::from(self.identity.queue_depth_max - 1);
        mqes | 1 << 16 | READY_TIMEOUT << 24 | 1 << 37 | 1 << 59
    }

    /// Property Set: true if there is such a writable property.
    pub(super) fn set_property(&mut self, cmd: &PropertyCmd) -> bool {
        if (cmd.ofst.get(), cmd.attrib & 7) != (property::CC, 0) {
            return false;
        }
        let (old, new) = (self.cc, cmd.value.get() as u32);
        self.cc = new;
        if new & cc::EN != 0 && old & cc::EN == 0 {
            self.csts = if Self::can_run(new) { csts::RDY } else { csts::CFS };
        }
        if new & cc::EN == 0 && old & cc::EN != 0 {
            self.csts = 0;
            self.forget_requests();
            self.queues_deleted = Some(false);
        }
        if new & cc::SHN_MASK != 0 && old & cc::SHN_MASK == 0 {
            self.csts = (self.csts & !csts::SHST_MASK) | csts::SHUTDOWN_COMPLETE;
            self.queues_deleted = Some(true);
        }
        true
    }

    /// Discovery controllers have no I/O queues, so nobody need say how large entries are.
    fn can_run(cc: u32) -> bool {
        let sizes = cc & cc::SIZES_MASK;
        let sizes_fit = sizes == 0 || sizes == cc::IOSQES_64 | cc::IOCQES_16;
        let set = cc & cc::CSS_MASK;
        sizes_fit && cc & (cc::MPS_MASK | cc::AMS_MASK) == 0 && (set == 0 || set == cc::CSS_ALL)
    }

    /// A reset ends the open event requests, and all that was asked of them.
    fn forget_requests(&mut self) {
        for (slot, _) in self.event_requests.drain(..) {
            self.event_answers.push_back((slot, Status::ABORT_REQUESTED, 0));
        }
        self.event_config = 0;
        self.namespaces_notice = Notice::default();
        self.discovery_notice = Notice::default();
        self.queues_granted = IO_QUEUES_MAX;
    }
}
