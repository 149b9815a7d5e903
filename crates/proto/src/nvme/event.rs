//! What an NVMe/TCP queue asks of the glue around it, and how the glue answers.
//!
//! One TCP connection is one queue pair: one `Queue`, made by `Queue::new(limits, now)`. The admin queue
//! and the I/O queues of one association share a `Controller`. It is plain data: keep it in an
//! `Arc<Mutex<Controller>>`, found by its id. **It is needed only for the events below, never for an I/O command.**
//!
//! How the glue answers:
//!
//! - [`Event::Connect`] with `queue_id` 0: choose a free id; `Controller::new(identity, &request, &subsystem)` gives a
//!   controller and an [`Acceptance`], or a [`ConnectRefusal`]; then `queue.accept(now, acceptance)` or
//!   `queue.refuse(now, refusal)`. It may take its time.
//! - [`Event::Connect`] with another `queue_id`: find the controller by `request.controller_id` (none:
//!   [`ConnectRefusal::UnknownController`]); `controller.connect_io(&request, &subsystem)`; then the same.
//! - [`Event::Admin`]: `queue.run_admin(now, &mut controller, &subsystem)` runs all waiting admin commands.
//! - [`Event::QueuesDeleted`]: `queue.close()` on each of the controller's I/O queues.
//! - [`Event::Refused`]: `controller.note_refused(&refused)` fills the error log page.
//!
//! What the glue does of its own accord:
//!
//! - A connection ended: an I/O queue's: `controller.disconnect_io(queue_id)`; the admin queue's: the controller is
//!   gone, so `queue.close()` on each of its I/O queues. `queue.peer()` says who it was.
//! - A volume was resized: `controller.namespace_changed(nsid)` for each controller of its subsystem, then
//!   `queue.run_admin(..)` on its admin queue, on that queue's thread: this sends the event to the host.
//! - The set of exports changed: `controller.discovery_changed()` on each discovery controller, then `run_admin`.
//! - A host's right was taken, a volume was deleted: `queue.close()` on each queue concerned.
//!
//! Whether a host may connect at all is the glue's to decide: `ConnectRefusal::HostNotAllowed`, or
//! `ConnectRefusal::UnknownSubsystem`.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use sds_block::Geometry;

use super::controller::Counters;

/// The name of the discovery subsystem that every NVMe-oF host asks first (Base 2.0c section 3.1.2.3.2).
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// What one connection may take of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Commands that an I/O queue may have open; CAP.MQES says it.
    pub queue_depth_max: u16,
    /// Bytes of payload, both ways, that may lie in buffers; further commands wait. One command is always let in.
    pub bytes_in_flight_max: usize,
    /// From the connection's start to its Connect command.
    pub connect_ms: u32,
    /// From a PDU's first bytes to its last.
    pub stall_ms: u32,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { queue_depth_max: 1024, bytes_in_flight_max: 32 << 20, connect_ms: 10_000, stall_ms: 30_000 }
    }
}

/// A matter that the queue can't decide alone.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A host wants to bind this connection to a queue of a controller. It may send no command until the answer.
    Connect(Box<ConnectRequest>),
    /// Admin commands wait (or the keep-alive time changed): call `run_admin`.
    Admin,
    /// The host disabled (`shutdown`: shut down) its controller: its I/O queues are to be closed.
    QueuesDeleted {
        /// The host is leaving for good and not resetting.
        shutdown: bool,
    },
    /// A command was refused for one of its fields; rare, and told once until it is polled.
    Refused(RefusedCommand),
}

/// A command that was refused for one of its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedCommand {
    /// QID.
    pub queue_id: u16,
    /// CID.
    pub command_id: u16,
    /// The status as in the completion.
    pub status: u16,
    /// Parameter error location: the byte of the entry in bits 7:0, the bit in bits 10:8.
    pub location: u16,
    /// The first LBA, if it has one.
    pub lba: u64,
    /// NSID.
    pub nsid: u32,
}

/// What a host sent in a Connect command (Base 2.0c section 6.3), its strings checked for form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// QID: 0 is the admin queue.
    pub queue_id: u16,
    /// How many commands the host may have open: SQSIZE + 1.
    pub queue_depth: u16,
    /// CNTLID: 0xffff asks for any controller (admin); else the id that the admin queue's Connect was given.
    pub controller_id: u16,
    /// HOSTID.
    pub host_id: [u8; 16],
    /// HOSTNQN.
    pub host_nqn: String,
    /// SUBNQN: compare with [`DISCOVERY_NQN`] first.
    pub subsystem_nqn: String,
    /// KATO: after this long without a Keep Alive the controller is gone; 0 is never.
    pub keep_alive_ms: u32,
    /// CATTR bit 2: the host keeps count of its open commands itself.
    pub flow_control_disabled: bool,
}

/// Why a Connect is refused; `status.rs` has the codes. Each names the field that the host got wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectRefusal {
    /// SUBNQN names nothing that is exported here.
    UnknownSubsystem,
    /// HOSTNQN is not among those that may see this subsystem.
    HostNotAllowed,
    /// HOSTNQN or HOSTID differs from the controller's.
    HostMismatch,
    /// HOSTID is zero, or 0xff.., or otherwise no identifier.
    InvalidHostId,
    /// CNTLID names no controller, or one of another subsystem.
    UnknownController,
    /// QID is above the number of queues that the controller has, or I/O queues don't exist there (discovery).
    InvalidQueueId,
    /// QID is connected already.
    QueueInUse,
    /// SQSIZE is 0 or above CAP.MQES.
    InvalidQueueSize,
    /// An I/O queue before CC.EN.
    ControllerDisabled,
    /// A limit was reached (controllers, connections): try again later.
    Busy,
}

/// What the controller may know of the world for an admin command; built afresh by the glue for each call.
#[derive(Clone, Copy, Debug)]
pub struct Subsystem<'a> {
    /// The namespaces that this host may see, by ascending NSID. Empty for the discovery subsystem.
    pub namespaces: &'a [Namespace],
    /// Discovery subsystem only: what this host may see.
    pub entries: &'a [DiscoveryEntry],
    /// Discovery subsystem only: grows with every change of any entry (GENCTR).
    pub generation: u64,
}

/// A namespace as its device describes it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// NSID, from 1; becomes the request's `Unit`.
    pub nsid: u32,
    /// Its device's present shape.
    pub geometry: Geometry,
}

/// One subsystem behind one port: a record of the discovery log page (Base 2.0c section 5.16.1.23).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryEntry {
    /// SUBNQN.
    pub subsystem_nqn: String,
    /// TRADDR: the address as text, without brackets.
    pub address: String,
    /// ADRFAM from the address: true for IPv6.
    pub ipv6: bool,
    /// TRSVCID.
    pub port: u16,
    /// PORTID.
    pub port_id: u16,
    /// A discovery subsystem (SUBTYPE 1 or 3), not one with namespaces (2).
    pub discovery: bool,
}

/// Who a new controller is; the glue chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// CNTLID: unique among the subsystem's living controllers, 1..=0xffef.
    pub controller_id: u16,
    /// SN: up to 20 printable characters, the same for all controllers of a subsystem, unique among subsystems.
    pub serial: String,
    /// SUBNQN of the subsystem.
    pub subsystem_nqn: String,
    /// A discovery controller: no namespaces, no I/O queues.
    pub discovery: bool,
    /// Commands that a queue may have open, 2 and more: the same as `QueueLimits::queue_depth_max`.
    pub queue_depth_max: u16,
}

/// What a queue needs to know once its Connect is granted; made by the controller, given to `Queue::accept`.
#[derive(Clone, Debug)]
pub struct Acceptance {
    /// The controller's id.
    pub controller_id: u16,
    /// Namespaces of the controller: NSID and logical block size in bytes.
    pub blocks: Vec<(u32, u32)>,
    /// KATO, for the admin queue.
    pub keep_alive_ms: u32,
    /// What this queue counts, for the SMART log page.
    pub counters: Arc<Counters>,
}

/// Whom a queue belongs to, for lists of sessions and for the glue's cleaning up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// HOSTNQN.
    pub host_nqn: String,
    /// SUBNQN.
    pub subsystem_nqn: String,
    /// CNTLID.
    pub controller_id: u16,
    /// QID: 0 is the admin queue.
    pub queue_id: u16,
    /// Commands that may be open.
    pub queue_depth: u16,
    /// PDU headers carry digests.
    pub header_digest: bool,
    /// PDU data carries digests.
    pub data_digest: bool,
}
