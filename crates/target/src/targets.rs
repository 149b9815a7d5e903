//! The front end as a whole: what the engine starts, feeds with exports, and stops.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use sds_uring::{CoreGone, CoreHandle, CoreOptions, Disks, Local};

use crate::admission::Admission;
use crate::connections::{Connections, Front, FrontCounters};
use crate::devices::Devices;
use crate::exports::{Export, ExportTable, Exports, Protocol, VolumeKey};
use crate::glue::{Glue, SessionInfo};
use crate::iscsi::{IscsiGlue, IscsiNode};
use crate::limits::Limits;
use crate::listener::{self, Listeners};
use crate::nvme::{NvmeGlue, NvmeNode};
use crate::payload::{PayloadPool, PayloadShare};
use crate::shell::receive_space;
use crate::terms::{GovernedDevices, TermsSpec, TermsTable};

/// How often a stop looks whether requests have ended.
const STOP_POLL_MS: u64 = 5;

/// How to start.
#[derive(Clone, Debug)]
pub struct TargetsOptions {
    /// How many cores, at least one.
    pub cores: usize,
    /// Keep each core's thread on the processor of its number.
    pub pin: bool,
    /// How long a core looks for work before it sleeps; see [`CoreOptions::spin_us`].
    pub spin_us: u32,
    /// What hosts may take.
    pub limits: Limits,
}

impl Default for TargetsOptions {
    fn default() -> Self {
        Self { cores: 1, pin: false, spin_us: 0, limits: Limits::default() }
    }
}

/// Cores, listeners, exports and sessions. Its methods block and are for threads that are no core's.
pub struct Targets {
    cores: Arc<Vec<CoreHandle>>,
    exports: Arc<Exports>,
    nvme: Arc<NvmeNode>,
    iscsi: Arc<IscsiNode>,
    admission: Arc<Admission>,
    terms: Arc<TermsTable>,
    limits: Limits,
}

impl Targets {
    /// Starts the cores. Nothing listens yet, and no core has devices.
    ///
    /// # Errors
    /// The system's: no thread, no io_uring.
    pub fn start(options: &TargetsOptions, disks: &Arc<Disks>) -> io::Result<Self> {
        let mut cores = Vec::new();
        for index in 0..options.cores.max(1) {
            let processor = options.pin.then_some(index);
            cores.push(CoreHandle::start(
                CoreOptions { index, processor, spin_us: options.spin_us },
                Arc::clone(disks),
            )?);
        }
        let exports: Arc<Exports> = Arc::default();
        let targets = Self {
            cores: Arc::new(cores),
            nvme: NvmeNode::new(Arc::clone(&exports)),
            iscsi: IscsiNode::new(Arc::clone(&exports)),
            exports,
            admission: Arc::default(),
            terms: Arc::default(),
            limits: options.limits,
        };
        let payload = PayloadPool::new(options.limits.payload_bytes_max, targets.cores.len());
        for core in targets.cores.iter() {
            let payload = Arc::clone(&payload);
            let (handles, admission) = (Arc::clone(&targets.cores), Arc::clone(&targets.admission));
            let limits = options.limits;
            core.call(move |local| {
                local.put(Rc::new(Front {
                    handles,
                    limits,
                    admission,
                    devices: RefCell::new(None),
                    receive: RefCell::new(receive_space()),
                    payload: PayloadShare::new(payload),
                    counters: RefCell::default(),
                    fault_lines: RefCell::default(),
                }));
            })
            .map_err(io::Error::other)?;
        }
        Ok(targets)
    }

    /// The cores, by index.
    #[must_use]
    pub fn cores(&self) -> &[CoreHandle] {
        &self.cores
    }

    /// What hosts may take.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Gives each core its devices, made there by `make`.
    ///
    /// # Errors
    /// [`CoreGone`] if a core has stopped.
    pub fn set_devices(
        &self,
        make: impl Fn(&Local) -> Rc<dyn Devices> + Clone + Send + 'static,
    ) -> Result<(), CoreGone> {
        for core in self.cores.iter() {
            let (make, table) = (make.clone(), Arc::clone(&self.terms));
            core.call(move |local| {
                let devices = Rc::new(GovernedDevices { inner: make(local), table, clock: local.clock() });
                if let Some(front) = local.get::<Front>() {
                    front.devices.replace(Some(devices));
                }
            })?;
        }
        Ok(())
    }

    /// Listens on `address` (port 0: a free one) and tells hosts of it in discovery; the bound address.
    ///
    /// # Errors
    /// The system's: the address is taken or not ours.
    pub fn listen(&self, protocol: Protocol, address: SocketAddr) -> io::Result<SocketAddr> {
        match protocol {
            Protocol::Nvme => {
                let bound = self.listen_as::<NvmeGlue>(Arc::clone(&self.nvme), address)?;
                self.nvme.add_portal(bound);
                Ok(bound)
            }
            Protocol::Iscsi => {
                let bound = self.listen_as::<IscsiGlue>(Arc::clone(&self.iscsi), address)?;
                self.iscsi.add_portal(bound);
                Ok(bound)
            }
        }
    }

    /// Replaces all exports. Hosts that may not see any more what they are connected to lose their connections; the
    /// others are told.
    pub fn set_exports(&self, exports: Vec<Export>) {
        self.exports.set(exports);
        self.nvme.exports_changed();
        self.iscsi.exports_changed();
    }

    /// What a volume looks like has changed on all cores: its hosts are told.
    pub fn notify_change(&self, volume: &VolumeKey) {
        self.nvme.volume_changed(volume);
        self.iscsi.volume_changed(volume);
    }

    /// A volume is served on these terms from now on, also to those who are connected; they are not told by this.
    pub fn set_terms(&self, volume: &VolumeKey, terms: &TermsSpec) {
        self.terms.set(volume, terms);
    }

    /// Volumes are gone, and their terms with them.
    pub fn remove_terms(&self, is_gone: impl Fn(&VolumeKey) -> bool) {
        self.terms.remove(is_gone);
    }

    /// Requests to a volume that had to wait for its rates, since the node's start.
    #[must_use]
    pub fn delayed_requests(&self, volume: &VolumeKey) -> u64 {
        self.terms.delayed_requests(volume)
    }

    /// Everybody who is connected.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let mut sessions = self.sessions_of::<NvmeGlue>();
        sessions.extend(self.sessions_of::<IscsiGlue>());
        sessions
    }

    /// Ends the front end's part in good order: stops listening, closes all connections, and waits, `wait_ms` at the
    /// most, until devices have answered what they have. How many requests are left: 0 if all ended. The cores run on.
    pub fn close(&self, wait_ms: u64) -> usize {
        self.stop_listening();
        self.close_connections_of::<NvmeGlue>(wait_ms) + self.close_connections_of::<IscsiGlue>(wait_ms)
    }

    /// Listens on `address` for a protocol given by its glue; the bound address.
    ///
    /// # Errors
    /// The system's: the address is taken or not ours.
    pub fn listen_as<G: Glue>(&self, node: Arc<G::Node>, address: SocketAddr) -> io::Result<SocketAddr> {
        self.cores[0].call(move |local| listener::listen::<G>(local, node, address)).map_err(io::Error::other)?
    }

    /// The present exports.
    #[must_use]
    pub fn exports(&self) -> Arc<ExportTable> {
        self.exports.table()
    }

    /// The sessions of one protocol, by its glue.
    #[must_use]
    pub fn sessions_of<G: Glue>(&self) -> Vec<SessionInfo> {
        let of_core = |core: &CoreHandle| core.call(|local| Connections::<G>::of(local).sessions());
        self.cores.iter().filter_map(|core| of_core(core).ok()).flatten().collect()
    }

    /// Connections of all protocols.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.admission.open()
    }

    /// Connections that were refused so far because there were too many: of the node, of an address, of a host.
    #[must_use]
    pub fn refused_connections(&self) -> u64 {
        self.admission.refused()
    }

    /// What the front end of each core has done so far.
    #[must_use]
    pub fn counters(&self) -> Vec<FrontCounters> {
        let of_core = |core: &CoreHandle| core.call(|local| local.get::<Front>().map(|front| front.counters()));
        self.cores.iter().filter_map(|core| of_core(core).ok().flatten()).collect()
    }

    /// Stops listening.
    pub fn stop_listening(&self) {
        let _ = self.cores[0].call(Listeners::stop);
    }

    /// Closes all connections of one protocol and waits, `wait_ms` at the most, until no device has a request of them.
    /// How many requests are left: 0 when all ended.
    pub fn close_connections_of<G: Glue>(&self, wait_ms: u64) -> usize {
        let mut executing = Vec::new();
        for core in self.cores.iter() {
            let closed = core.call(|local| {
                let all = Connections::<G>::of(local).all();
                all.iter().for_each(|connection| connection.drop_now());
                all.iter().map(|connection| connection.executing()).collect::<Vec<_>>()
            });
            executing.extend(closed.unwrap_or_default());
        }
        let deadline = Instant::now() + Duration::from_millis(wait_ms);
        loop {
            let left = executing.iter().map(|executing| executing.count()).sum();
            if left == 0 || Instant::now() >= deadline {
                return left;
            }
            sleep(Duration::from_millis(STOP_POLL_MS));
        }
    }

    /// Stops the cores. To be called last: connections closed, pools stopped.
    pub fn stop(&self) {
        for core in self.cores.iter() {
            core.stop();
        }
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        self.stop();
    }
}
