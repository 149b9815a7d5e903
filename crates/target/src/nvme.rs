//! NVMe/TCP: subsystems, controllers, discovery.
//!
//! One subsystem per name in the export table; its namespaces are the exports of that name which the host may see. A
//! controller is made by an admin queue's Connect and goes with that queue. Queues of one controller live on several
//! cores, so what they share lies here under one lock that is taken at connects, admin commands and connections' ends,
//! never for an I/O.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sds_proto::Unit;
use sds_proto::nvme::event::{
    ConnectRefusal, ConnectRequest, DiscoveryEntry, Identity, Namespace, QueueLimits, Subsystem,
};
use sds_proto::nvme::{Controller, DISCOVERY_NQN, Event, Queue};

use crate::connections::Remote;
use crate::devices::DynDevice;
use crate::exports::{Exports, Protocol, VolumeKey};
use crate::glue::{Begin, Executing, Glue, SessionInfo};
use crate::settle::{LostRequests, read_up_to_now, settled};

/// The largest controller id (Base 2.0c section 3.1.2: the rest is reserved).
const CONTROLLER_ID_MAX: u16 = 0xffef;
/// The serial number of the discovery subsystem, which has nothing to tell apart.
const DISCOVERY_SERIAL: &str = "sds-discovery";
/// The port's number in discovery records; the node is one port.
const PORT_ID: u16 = 1;

/// A queue of a controller, wherever it lives.
struct QueueEntry {
    queue_id: u16,
    remote: Remote<NvmeGlue>,
    executing: Executing,
}

struct ControllerEntry {
    controller: Arc<Mutex<Controller>>,
    host: String,
    subsystem: String,
    discovery: bool,
    volumes: Vec<(u32, VolumeKey)>,
    /// The admin queue is the first.
    queues: Vec<QueueEntry>,
}

#[derive(Default)]
struct State {
    controllers: BTreeMap<u16, ControllerEntry>,
    last_id: u16,
    lost: LostRequests,
    portals: Vec<SocketAddr>,
}

/// What all NVMe connections of the node share.
pub struct NvmeNode {
    exports: Arc<Exports>,
    state: Mutex<State>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic on a core ends the process, so nobody sees a half-made change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl NvmeNode {
    pub(crate) fn new(exports: Arc<Exports>) -> Arc<Self> {
        Arc::new(Self { exports, state: Mutex::default() })
    }

    /// Discovery tells hosts of this address.
    pub(crate) fn add_portal(&self, address: SocketAddr) {
        lock(&self.state).portals.push(address);
    }

    /// The exports were replaced: controllers whose namespaces are others now end (their hosts come back and see what
    /// is there), and discovery controllers tell their hosts.
    pub(crate) fn exports_changed(&self) {
        let table = self.exports.table();
        let state = lock(&self.state);
        for entry in state.controllers.values() {
            if entry.discovery {
                lock(&entry.controller).discovery_changed();
                entry.queues[0].remote.tell(NvmeGlue::run_admin);
                continue;
            }
            let visible = table.of_name(Protocol::Nvme, &entry.subsystem).filter(|e| e.access.allows(&entry.host));
            let volumes: Vec<_> = visible.map(|export| (export.unit, export.volume.clone())).collect();
            if volumes != entry.volumes {
                entry.queues.iter().for_each(|queue| queue.remote.tell(|_, queue, _| queue.close()));
            }
        }
    }

    /// What a volume looks like has changed: its hosts are told.
    pub(crate) fn volume_changed(&self, volume: &VolumeKey) {
        for entry in lock(&self.state).controllers.values() {
            for (nsid, _) in entry.volumes.iter().filter(|(_, key)| key == volume) {
                lock(&entry.controller).namespace_changed(*nsid);
                entry.queues[0].remote.tell(NvmeGlue::run_admin);
            }
        }
    }

    /// Requests of `host`'s lost connections to `subsystem` that devices still have.
    fn lost(&self, host: &str, subsystem: &str) -> usize {
        lock(&self.state).lost.count(host, subsystem)
    }

    /// The host's other connections to the subsystem.
    fn connections_of(&self, host: &str, subsystem: &str) -> Vec<Remote<NvmeGlue>> {
        let state = lock(&self.state);
        let of_host = |entry: &&ControllerEntry| entry.host == host && entry.subsystem == subsystem;
        let queues = state.controllers.values().filter(of_host).flat_map(|entry| &entry.queues);
        queues.map(|queue| queue.remote.clone()).collect()
    }
}

impl State {
    /// A controller id that is free, the one after the last if possible: a host that comes late with an old id should
    /// find nothing.
    fn free_id(&self) -> Option<u16> {
        let after = (self.last_id + 1..=CONTROLLER_ID_MAX).chain(1..=self.last_id);
        after.into_iter().find(|id| !self.controllers.contains_key(id))
    }
}

/// One queue's glue.
pub struct NvmeGlue {
    begin: Begin<Self>,
    units: Vec<(u32, Rc<DynDevice>)>,
    controller: Option<Arc<Mutex<Controller>>>,
    host: String,
    discovery: bool,
}

impl NvmeGlue {
    /// Opens what `host` may see under `name`; what is exported and not there on this core is left out.
    fn open_units(&mut self, host: &str, name: &str) -> Result<Vec<(u32, VolumeKey)>, ConnectRefusal> {
        self.units.clear();
        let table = self.begin.node.exports.table();
        let mut known = false;
        let mut volumes = Vec::new();
        for export in table.of_name(Protocol::Nvme, name) {
            known = true;
            if !export.access.allows(host) {
                continue;
            }
            volumes.push((export.unit, export.volume.clone()));
            match self.begin.devices.open(&export.volume) {
                Some(device) => self.units.push((export.unit, device)),
                None => log::warn!("{name}: namespace {} is exported and its volume is not there", export.unit),
            }
        }
        match (known, volumes.is_empty()) {
            (false, _) => Err(ConnectRefusal::UnknownSubsystem),
            (true, true) => Err(ConnectRefusal::HostNotAllowed),
            (true, false) => Ok(volumes),
        }
    }

    fn namespaces(&self) -> Vec<Namespace> {
        let namespace = |(nsid, device): &(u32, Rc<DynDevice>)| Namespace { nsid: *nsid, geometry: device.geometry() };
        self.units.iter().map(namespace).collect()
    }

    /// Runs `act` with what the controller may know of the world now.
    fn with_subsystem<R>(&self, act: impl FnOnce(&Subsystem<'_>) -> R) -> R {
        let namespaces = self.namespaces();
        let table = self.begin.node.exports.table();
        let entries = if self.discovery { self.discovery_entries() } else { Vec::new() };
        act(&Subsystem { namespaces: &namespaces, entries: &entries, generation: table.generation() })
    }

    /// Every subsystem that the host may see, at every address of the node.
    fn discovery_entries(&self) -> Vec<DiscoveryEntry> {
        let table = self.begin.node.exports.table();
        let mut names: Vec<&str> =
            table.seen_by(Protocol::Nvme, &self.host).map(|export| export.name.as_str()).collect();
        names.dedup();
        let portals = lock(&self.begin.node.state).portals.clone();
        let entry = |name: &str, portal: &SocketAddr| {
            // A node that listens on all addresses is known by the one that this host found it at.
            let ip: IpAddr = if portal.ip().is_unspecified() { self.begin.portal.ip() } else { portal.ip() };
            DiscoveryEntry {
                subsystem_nqn: name.to_owned(),
                address: ip.to_canonical().to_string(),
                ipv6: ip.to_canonical().is_ipv6(),
                port: portal.port(),
                port_id: PORT_ID,
                discovery: false,
            }
        };
        names.iter().flat_map(|name| portals.iter().map(|portal| entry(name, portal))).collect()
    }

    /// Runs the admin commands that wait.
    fn run_admin(&mut self, queue: &mut Queue, now: Duration) {
        if let Some(controller) = self.controller.clone() {
            self.with_subsystem(|subsystem| queue.run_admin(now, &mut lock(&controller), subsystem));
        }
    }

    /// Decides on a Connect; its association's predecessors have settled.
    fn connect(&mut self, queue: &mut Queue, now: Duration, request: &ConnectRequest) {
        let outcome = if !self.begin.place.give_to(&request.host_nqn) {
            Err(ConnectRefusal::Busy)
        } else if request.queue_id == 0 {
            self.connect_admin(queue, now, request)
        } else {
            self.connect_io(queue, now, request)
        };
        if let Err(refusal) = outcome {
            self.begin.place.take_back();
            log::info!(
                "{}: {} may not connect to {}: {refusal:?}",
                self.begin.peer,
                request.host_nqn,
                request.subsystem_nqn
            );
            queue.refuse(now, refusal);
        }
    }

    fn connect_admin(
        &mut self,
        queue: &mut Queue,
        now: Duration,
        request: &ConnectRequest,
    ) -> Result<(), ConnectRefusal> {
        let discovery = request.subsystem_nqn == DISCOVERY_NQN;
        self.host = request.host_nqn.clone();
        self.discovery = discovery;
        let (volumes, serial) = if discovery {
            (Vec::new(), DISCOVERY_SERIAL.to_owned())
        } else {
            let volumes = self.open_units(&request.host_nqn, &request.subsystem_nqn)?;
            let table = self.begin.node.exports.table();
            let first = table.of_name(Protocol::Nvme, &request.subsystem_nqn).next();
            (volumes, first.map(|export| export.serial.clone()).unwrap_or_default())
        };
        let state = &mut *lock(&self.begin.node.state);
        let controller_id = state.free_id().ok_or(ConnectRefusal::Busy)?;
        let identity = Identity {
            controller_id,
            serial,
            subsystem_nqn: request.subsystem_nqn.clone(),
            discovery,
            queue_depth_max: self.begin.limits.queue_depth_max,
        };
        let namespaces = self.namespaces();
        let subsystem = Subsystem { namespaces: &namespaces, entries: &[], generation: 0 };
        let (controller, acceptance) = Controller::new(identity, request, &subsystem)?;
        let controller = Arc::new(Mutex::new(controller));
        self.controller = Some(Arc::clone(&controller));
        let entry = ControllerEntry {
            controller,
            host: request.host_nqn.clone(),
            subsystem: request.subsystem_nqn.clone(),
            discovery,
            volumes,
            queues: vec![self.queue_entry(0)],
        };
        state.controllers.insert(controller_id, entry);
        state.last_id = controller_id;
        queue.accept(now, acceptance);
        Ok(())
    }

    fn connect_io(&mut self, queue: &mut Queue, now: Duration, request: &ConnectRequest) -> Result<(), ConnectRefusal> {
        let entry_of = self.queue_entry(request.queue_id);
        self.host = request.host_nqn.clone();
        let volumes = self.open_units(&request.host_nqn, &request.subsystem_nqn)?;
        let state = &mut *lock(&self.begin.node.state);
        let entry = state.controllers.get_mut(&request.controller_id).ok_or(ConnectRefusal::UnknownController)?;
        if entry.volumes != volumes {
            // The exports changed between the two connects; the admin queue is about to be closed.
            return Err(ConnectRefusal::UnknownController);
        }
        let namespaces = self.namespaces();
        let subsystem = Subsystem { namespaces: &namespaces, entries: &[], generation: 0 };
        let acceptance = lock(&entry.controller).connect_io(request, &subsystem)?;
        self.controller = Some(Arc::clone(&entry.controller));
        entry.queues.push(entry_of);
        queue.accept(now, acceptance);
        Ok(())
    }

    fn queue_entry(&self, queue_id: u16) -> QueueEntry {
        QueueEntry { queue_id, remote: self.begin.me.clone(), executing: self.begin.executing.clone() }
    }

    /// Waits for the host's lost requests, then decides.
    fn connect_when_settled(&self, request: Box<ConnectRequest>) {
        let node = Arc::clone(&self.begin.node);
        // Within an association the admin queue's Connect has done this already.
        let others = if request.queue_id == 0 {
            node.connections_of(&request.host_nqn, &request.subsystem_nqn)
        } else {
            Vec::new()
        };
        let (me, clock, wait_ms) = (self.begin.me.clone(), self.begin.local.clock(), self.begin.limits.lost_writes_ms);
        let read = read_up_to_now(&others);
        self.begin.local.spawner().spawn(async move {
            let lost = || node.lost(&request.host_nqn, &request.subsystem_nqn);
            let settled = settled(clock, read, lost, wait_ms).await;
            me.tell(move |glue, queue, now| {
                if settled {
                    glue.connect(queue, now, &request);
                } else {
                    log::warn!("{}: its lost connection's writes do not end", request.host_nqn);
                    queue.refuse(now, ConnectRefusal::Busy);
                }
            });
        });
    }

    fn must_wait(&self, request: &ConnectRequest) -> bool {
        let (host, name) = (&request.host_nqn, &request.subsystem_nqn);
        let node = &self.begin.node;
        name != DISCOVERY_NQN
            && (node.lost(host, name) > 0 || request.queue_id == 0 && !node.connections_of(host, name).is_empty())
    }

    /// The host has let go of its I/O queues: what devices have of them counts as lost from now on.
    fn close_io_queues(&self, controller_id: u16) {
        let state = &mut *lock(&self.begin.node.state);
        let Some(entry) = state.controllers.get(&controller_id) else { return };
        for queue in entry.queues.iter().filter(|queue| queue.queue_id != 0) {
            state.lost.add(&entry.host, &entry.subsystem, &queue.executing);
            queue.remote.tell(|_, queue, _| queue.close());
        }
    }
}

impl Glue for NvmeGlue {
    type Machine = Queue;
    type Node = NvmeNode;

    fn begin(begin: Begin<Self>) -> (Self, Queue) {
        let limits = QueueLimits {
            queue_depth_max: begin.limits.queue_depth_max,
            bytes_in_flight_max: begin.limits.connection_bytes_max,
            connect_ms: begin.limits.login_ms,
            stall_ms: begin.limits.stall_ms,
        };
        let queue = Queue::new(limits, begin.local.turn_now());
        (Self { begin, units: Vec::new(), controller: None, host: String::new(), discovery: false }, queue)
    }

    fn handle_event(&mut self, queue: &mut Queue, now: Duration, event: Event) {
        match event {
            Event::Connect(_) if self.begin.refuse => queue.refuse(now, ConnectRefusal::Busy),
            Event::Connect(request) if self.must_wait(&request) => self.connect_when_settled(request),
            Event::Connect(request) => self.connect(queue, now, &request),
            Event::Admin => self.run_admin(queue, now),
            Event::QueuesDeleted { .. } => {
                if let Some(peer) = queue.peer() {
                    self.close_io_queues(peer.controller_id);
                }
            }
            Event::Refused(refused) => {
                if let Some(controller) = &self.controller {
                    lock(controller).note_refused(&refused);
                }
            }
        }
    }

    fn device(&self, unit: Unit) -> Option<&Rc<DynDevice>> {
        self.units.iter().find(|(nsid, _)| *nsid == unit.0).map(|(_, device)| device)
    }

    fn handle_end(&mut self, queue: &Queue) {
        let Some(peer) = queue.peer() else { return };
        let state = &mut *lock(&self.begin.node.state);
        state.lost.add(&peer.host_nqn, &peer.subsystem_nqn, &self.begin.executing);
        if peer.queue_id == 0 {
            let Some(entry) = state.controllers.remove(&peer.controller_id) else { return };
            for queue in entry.queues.iter().filter(|queue| queue.queue_id != 0) {
                state.lost.add(&entry.host, &entry.subsystem, &queue.executing);
                queue.remote.tell(|_, queue, _| queue.close());
            }
        } else if let Some(entry) = state.controllers.get_mut(&peer.controller_id) {
            // An admin queue that came and went may have given the id to another.
            let mine = self.begin.me.id();
            if entry.queues.iter().any(|queue| queue.remote.id() == mine) {
                entry.queues.retain(|queue| queue.remote.id() != mine);
                lock(&entry.controller).disconnect_io(peer.queue_id);
            }
        }
    }

    fn session(&self, queue: &Queue) -> Option<SessionInfo> {
        queue.peer().map(|peer| SessionInfo {
            protocol: Protocol::Nvme,
            host: peer.host_nqn.clone(),
            name: peer.subsystem_nqn.clone(),
            peer: self.begin.peer,
            queue: peer.queue_id,
            header_digest: peer.header_digest,
            data_digest: peer.data_digest,
            core: self.begin.local.index(),
            executing: self.begin.executing.count(),
        })
    }
}
