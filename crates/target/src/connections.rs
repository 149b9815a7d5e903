//! One core's connections of a protocol, and how to reach one from another core.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sds_io::Clock;
use sds_uring::{CoreHandle, Local};

use crate::admission::Admission;
use crate::devices::Devices;
use crate::glue::{Glue, SessionInfo};
use crate::limits::Limits;
use crate::payload::PayloadShare;
use crate::shell::Conn;
use crate::throttle::Throttle;

/// How often connections are looked at for limits in time; these are seconds, so this is exact enough.
const TICK_MS: u64 = 100;
/// Received at once: what a host sends within a turn, several full in-capsule writes or half a large payload.
pub(crate) const RECEIVE_BYTES: usize = 256 * 1024;

/// What all connections of one core share, of whatever protocol.
pub(crate) struct Front {
    pub(crate) handles: Arc<Vec<CoreHandle>>,
    pub(crate) limits: Limits,
    pub(crate) admission: Arc<Admission>,
    pub(crate) devices: RefCell<Option<Rc<dyn Devices>>>,
    /// Bytes are received into this and parsed at once, so one is enough for all connections.
    pub(crate) receive: RefCell<Box<[u8]>>,
    pub(crate) payload: PayloadShare,
    pub(crate) counters: RefCell<FrontCounters>,
    /// Of connections that end for their host's fault.
    pub(crate) fault_lines: RefCell<Throttle>,
}

/// What the front end of a core has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrontCounters {
    /// Calls that received something.
    pub receives: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Calls that sent something.
    pub sends: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Requests that devices answered.
    pub requests: u64,
    /// Of those, how many were answered with an error.
    pub failed_requests: u64,
    /// Payload of the core's connections now, in bytes: coming, with devices, to be sent.
    pub payload_bytes: u64,
    /// The most that it was.
    pub payload_bytes_peak: u64,
    /// How often a connection was read no further because the node has [`Limits::payload_bytes_max`].
    pub payload_waits: u64,
}

impl Front {
    /// What the core has done so far.
    pub(crate) fn counters(&self) -> FrontCounters {
        let (used, peak) = self.payload.used_and_peak();
        FrontCounters { payload_bytes: used as u64, payload_bytes_peak: peak as u64, ..*self.counters.borrow() }
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut FrontCounters)) {
        change(&mut self.counters.borrow_mut());
    }
}

/// A way to one connection from any thread. Outlives it: then it reaches nothing.
pub struct Remote<G: Glue> {
    pub(crate) core: usize,
    pub(crate) id: u64,
    pub(crate) handles: Arc<Vec<CoreHandle>>,
    pub(crate) protocol: std::marker::PhantomData<fn(G)>,
}

impl<G: Glue> Clone for Remote<G> {
    fn clone(&self) -> Self {
        Self { core: self.core, id: self.id, handles: Arc::clone(&self.handles), protocol: std::marker::PhantomData }
    }
}

impl<G: Glue> Remote<G> {
    /// Names the connection on this node, for ever.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Runs `command` on the connection's core; afterwards the shell looks what the machine wants.
    pub fn tell(&self, command: impl FnOnce(&mut G, &mut G::Machine, Duration) + Send + 'static) {
        let id = self.id;
        // A core that has stopped has no connections.
        let _ = self.handles[self.core].post(move |local| {
            let connection = Connections::<G>::of(local).find(id);
            if let Some(connection) = connection {
                connection.run(command);
            }
        });
    }
}

/// One core's connections of a protocol.
pub(crate) struct Connections<G: Glue> {
    open: RefCell<HashMap<u64, Rc<Conn<G>>>>,
    ticking: Cell<bool>,
}

impl<G: Glue> Connections<G> {
    pub(crate) fn of(local: &Local) -> Rc<Self> {
        local.get::<Self>().unwrap_or_else(|| {
            let new = Rc::new(Self { open: RefCell::default(), ticking: Cell::new(false) });
            local.put(Rc::clone(&new));
            new
        })
    }

    pub(crate) fn find(&self, id: u64) -> Option<Rc<Conn<G>>> {
        self.open.borrow().get(&id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Rc<Conn<G>>> {
        self.open.borrow().values().cloned().collect()
    }

    pub(crate) fn sessions(&self) -> Vec<SessionInfo> {
        self.all().iter().filter_map(|connection| connection.session()).collect()
    }

    pub(crate) fn insert(self: &Rc<Self>, local: &Local, id: u64, connection: Rc<Conn<G>>) {
        self.open.borrow_mut().insert(id, connection);
        if !self.ticking.replace(true) {
            let (connections, clock) = (Rc::clone(self), local.clock());
            local.spawner().spawn(async move {
                while !connections.open.borrow().is_empty() {
                    clock.sleep(Duration::from_millis(TICK_MS)).await;
                    for connection in connections.all() {
                        connection.tick(clock.now());
                    }
                }
                connections.ticking.set(false);
            });
        }
    }

    pub(crate) fn remove(&self, id: u64) {
        let removed = self.open.borrow_mut().remove(&id);
        drop(removed);
    }
}
