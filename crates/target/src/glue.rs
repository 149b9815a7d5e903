//! What a protocol adds to the shell: who may connect, and what its requests go to.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sds_proto::{Connection, Unit};
use sds_uring::Local;

use crate::admission::Place;
use crate::connections::Remote;
use crate::devices::{Devices, DynDevice};
use crate::exports::Protocol;
use crate::limits::Limits;

/// Requests of one connection that a device has: they outlive the connection, and a host's next association waits for
/// them. Counted on the connection's core, read on any.
#[derive(Clone, Debug, Default)]
pub struct Executing(Arc<AtomicUsize>);

impl Executing {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn begin(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn end(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a new connection is made of.
pub struct Begin<G: Glue> {
    /// What the protocol's connections on all cores share.
    pub node: Arc<G::Node>,
    /// The core.
    pub local: Local,
    /// The core's devices.
    pub devices: Rc<dyn Devices>,
    /// How others reach this connection.
    pub me: Remote<G>,
    /// The host's address.
    pub peer: SocketAddr,
    /// The address that it connected to.
    pub portal: SocketAddr,
    /// The node has too many connections: this one is to be told so.
    pub refuse: bool,
    /// Its place among the node's connections, to be given to the host that logs in.
    pub place: Rc<Place>,
    /// What it may take.
    pub limits: Limits,
    /// Its requests that a device has.
    pub executing: Executing,
}

/// One line of the list of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Over which protocol.
    pub protocol: Protocol,
    /// The host's NQN or IQN.
    pub host: String,
    /// The subsystem's NQN or the target's IQN.
    pub name: String,
    /// The host's address.
    pub peer: SocketAddr,
    /// NVMe: the queue's number; iSCSI: the connection's.
    pub queue: u16,
    /// Headers carry digests.
    pub header_digest: bool,
    /// Data carries digests.
    pub data_digest: bool,
    /// The core that runs it.
    pub core: usize,
    /// Requests that a device has now.
    pub executing: usize,
}

/// A protocol's side of a connection. It lives on the connection's core.
pub trait Glue: Sized + 'static {
    /// The protocol's machine.
    type Machine: Connection + 'static;
    /// What the protocol's connections on all cores share.
    type Node: Send + Sync + 'static;

    /// A connection was accepted.
    fn begin(begin: Begin<Self>) -> (Self, Self::Machine);

    /// The machine needs something decided. An answer may come later, by [`Remote::tell`].
    fn handle_event(&mut self, machine: &mut Self::Machine, now: Duration, event: <Self::Machine as Connection>::Event);

    /// Where requests for `unit` go; `None`: nowhere (any more).
    fn device(&self, unit: Unit) -> Option<&Rc<DynDevice>>;

    /// The connection has ended. Requests may still be with their devices.
    fn handle_end(&mut self, machine: &Self::Machine);

    /// Its line in the list of sessions, once somebody has logged in.
    fn session(&self, machine: &Self::Machine) -> Option<SessionInfo>;
}
