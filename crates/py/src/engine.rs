//! Pools on cores: opened, commanded, closed. No Python here; every method blocks, and is for threads that are no
//! core's.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use sds_block::{Command, Device, Request};
use sds_io::DiskId;
use sds_target::terms::TermsSpec;
use sds_target::{Protocol, Targets, TargetsOptions};
use sds_uring::{CoreHandle, Disks, Local, MappedCarryOver, OpenOptions};
use sds_volume::error::{PoolError, PoolErrorKind};
use sds_volume::label_io::{LabelReport, read_label};
use sds_volume::{NewDisk, Planted, Pool, PoolEnv, PoolShared, PoolSpec, Recovered};

use crate::cores::{CorePools, UringPool, Volumes, core_env, join};
use crate::events::{Event, Events, Level};
use crate::meta::{MetaQueue, PoolMeta};
use crate::options::Options;
use crate::refusal::Refusal;
use crate::uuid::{Uuid, parse_volume_key, volume_key};
use crate::watch::watch;

/// How long an opening waits for a predecessor's carry-over memory: the tasks of a pool that was closed end within
/// their intervals, and a process that was killed keeps its lock until its last disk request has ended.
const CARRY_OVER_WAIT_MS: u64 = 10_000;
const CARRY_OVER_POLL_MS: u64 = 20;

/// A pool that is open, or is being opened or closed: then other commands do not find it.
struct OpenPool {
    disks: Vec<DiskId>,
    ready: bool,
}

/// Everything of this process that Python commands.
pub struct Engine {
    pub disks: Arc<Disks>,
    pub targets: Targets,
    pub meta: Arc<MetaQueue>,
    pub events: Arc<Events>,
    data: PathBuf,
    options: Options,
    opener: String,
    pools: Mutex<HashMap<Uuid, OpenPool>>,
}

impl Engine {
    /// Starts the cores. Nothing listens yet and no pool is open.
    pub fn start(cores: usize, data: PathBuf, options: Options) -> Result<Self, Refusal> {
        let disks = Disks::new();
        let of_targets = TargetsOptions { cores, limits: options.limits, ..TargetsOptions::default() };
        let targets =
            Targets::start(&of_targets, &disks).map_err(|error| Refusal::about("the cores can't start", &error))?;
        targets.set_devices(|local| Rc::new(Volumes(CorePools::of(local))))?;
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let opener = format!("pid {} on {}", std::process::id(), host.trim());
        let (meta, events, pools) = Default::default();
        Ok(Self { disks, targets, meta, events, data, options, opener, pools })
    }

    // A panic elsewhere leaves the table whole: each change is one step.
    fn pools(&self) -> MutexGuard<'_, HashMap<Uuid, OpenPool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn first_core(&self) -> &CoreHandle {
        &self.targets.cores()[0]
    }

    /// Listens on `address`, `HOST:PORT`; the address that it got.
    pub fn listen(&self, protocol: Protocol, address: &str) -> Result<SocketAddr, Refusal> {
        let refused = |error| Refusal::about(address, &error);
        let mut resolved = address.to_socket_addrs().map_err(refused)?;
        let first = resolved.next().ok_or_else(|| refused(io::ErrorKind::AddrNotAvailable.into()))?;
        self.targets.listen(protocol, first).map_err(refused)
    }

    /// Opens and locks a disk.
    pub fn open_disk(&self, path: &str, options: &OpenOptions) -> Result<DiskId, Refusal> {
        Ok(self.disks.open(path, options)?)
    }

    /// The labels of an open disk.
    pub fn read_label(&self, disk: DiskId) -> Result<LabelReport, Refusal> {
        self.check_open(disk)?;
        Ok(self.first_core().block_on(move |local| {
            let io = local.io();
            async move { read_label(&io, disk).await }
        })?)
    }

    /// Closes a disk that no open pool has.
    pub fn close_disk(&self, disk: DiskId) -> Result<(), Refusal> {
        // Under the table's lock, so that no pool takes the disk meanwhile.
        let pools = self.pools();
        check_free(&pools, disk)?;
        self.disks.close(disk);
        Ok(())
    }

    fn check_open(&self, disk: DiskId) -> Result<(), Refusal> {
        let gone = || Refusal::new("device_gone", format!("disk {} is not open", disk.0));
        self.disks.info(disk).map(drop).ok_or_else(gone)
    }

    /// Notes the pool as being opened, with its disks and its carry-over memory.
    fn admit(&self, uuid: Uuid, disks: &[DiskId], rename: Option<String>) -> Result<PoolEnv, Refusal> {
        {
            let mut pools = self.pools();
            if pools.contains_key(&uuid) {
                return Err(Refusal::new("exists", format!("pool {uuid} is open already")));
            }
            for disk in disks {
                self.check_open(*disk)?;
                check_free(&pools, *disk)?;
            }
            pools.insert(uuid, OpenPool { disks: disks.to_vec(), ready: false });
        }
        let path = self.data.join("pools").join(uuid.to_string()).join("carry-over");
        let carry_over = open_carry_over(&path, self.options.carry_over_bytes).map_err(|error| {
            self.pools().remove(&uuid);
            Refusal::about(&path.display().to_string(), &error)
        })?;
        Ok(PoolEnv {
            cores: self.targets.cores().len(),
            meta: Arc::new(PoolMeta::new(Arc::clone(&self.meta), uuid)),
            carry_over: Arc::new(carry_over),
            opener: self.opener.clone(),
            rename,
            tuning: self.options.tuning,
            planted: Planted::default(),
        })
    }

    /// Makes a pool of `disks` and opens it.
    pub fn create_pool(&self, spec: PoolSpec, disks: Vec<NewDisk>) -> Result<(), Refusal> {
        let uuid = Uuid(spec.uuid);
        let ids: Vec<DiskId> = disks.iter().map(|disk| disk.disk).collect();
        let world = self.admit(uuid, &ids, None)?;
        let outcome =
            self.first_core().block_on(move |local| {
                let local = local.clone();
                async move {
                    Pool::create(core_env(&local), world, &spec, &disks).await.map(|pool| keep(&local, uuid, pool))
                }
            });
        self.settle(uuid, outcome.map_err(Refusal::from).and_then(|opened| Ok(opened?)))
    }

    /// Opens a pool from its disks, which is called `rename` from now on if that is given; disks that are not part of
    /// it are closed.
    pub fn open_pool(&self, uuid: Uuid, disks: Vec<DiskId>, rename: Option<String>) -> Result<Recovered, Refusal> {
        let world = self.admit(uuid, &disks, rename)?;
        let outcome = self.first_core().block_on(move |local| {
            let local = local.clone();
            async move {
                let opened = Pool::open(core_env(&local), world, uuid.0, &disks).await;
                opened.map(|(pool, recovered)| (keep(&local, uuid, pool), recovered))
            }
        });
        let (shared, recovered) = match outcome.map_err(Refusal::from).and_then(|opened| Ok(opened?)) {
            Ok((shared, recovered)) => (Ok(shared), recovered),
            Err(refusal) => (Err(refusal), Recovered::default()),
        };
        let name = shared.as_ref().map(|shared| shared.name.clone()).unwrap_or_default();
        self.settle(uuid, shared)?;
        if let Some(pool) = self.pools().get_mut(&uuid) {
            pool.disks.retain(|disk| !recovered.unused.contains(disk));
        }
        recovered.unused.iter().for_each(|disk| self.disks.close(*disk));
        for what in &recovered.damage {
            self.events.push(Event::of_pool(Level::Warning, "metadata-damaged", &name, what.clone()));
        }
        if recovered.imported {
            let message = format!("the metadata of pool {name} was rebuilt from its disks");
            self.events.push(Event::of_pool(Level::Warning, "pool-imported", &name, message));
        }
        for disk in &recovered.lost_writes {
            let message = format!("disk {} of pool {name} lost what it said was durable, maybe data as well", disk.0);
            self.events.push(Event::of_pool(Level::Error, "disk-lost-writes", &name, message));
        }
        for disk in &recovered.left_journal {
            let message = format!("disk {} of pool {name} left its journal before the pool was opened", disk.0);
            self.events.push(Event::of_pool(Level::Error, "journal-disk-lost", &name, message));
        }
        if recovered.unclean {
            let message = format!("pool {name} was not closed before: what was open was replayed");
            self.events.push(Event::of_pool(Level::Info, "pool-unclean", &name, message));
        }
        Ok(recovered)
    }

    /// The other cores join what core 0 has opened, and it is watched; or the failed pool is forgotten, and its disks
    /// are free.
    fn settle(&self, uuid: Uuid, opened: Result<Arc<PoolShared>, Refusal>) -> Result<(), Refusal> {
        let joined = opened.and_then(|shared| {
            for core in &self.targets.cores()[1..] {
                let shared = Arc::clone(&shared);
                core.call(move |local| join(local, uuid, shared))?;
            }
            let events = Arc::clone(&self.events);
            self.first_core().post(move |local| {
                if let Some(pool) = CorePools::of(local).get(uuid) {
                    local.spawner().spawn(watch(Rc::downgrade(&pool), local.clock(), events));
                }
            })?;
            Ok(())
        });
        match &joined {
            Ok(()) => {
                if let Some(pool) = self.pools().get_mut(&uuid) {
                    pool.ready = true;
                }
            }
            Err(_) => {
                self.meta.close_pool(uuid);
                self.pools().remove(&uuid);
            }
        }
        joined
    }

    /// Runs a command on the pool, on core 0.
    pub fn command<T, F>(&self, uuid: Uuid, run: impl FnOnce(UringPool) -> F + Send + 'static) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, PoolError>> + 'static,
    {
        if !self.pools().get(&uuid).is_some_and(|pool| pool.ready) {
            return Err(Refusal::new("not_found", format!("pool {uuid} is not open")));
        }
        let outcome = self.first_core().block_on(move |local| {
            let pool = CorePools::of(local).get(uuid);
            async move {
                match pool {
                    Some(pool) => run(UringPool::clone(&pool)).await,
                    None => Err(PoolError::new(PoolErrorKind::Closed, "the pool is being closed")),
                }
            }
        });
        Ok(outcome??)
    }

    /// Serves a volume on these terms from now on, and tells its hosts if it looks different.
    pub fn set_terms(&self, pool: Uuid, volume: Uuid, terms: &TermsSpec) -> Result<(), Refusal> {
        let key = volume_key(pool, volume);
        // Before the flush: what comes after it is durable by itself, and hosts that see no cache don't flush.
        self.targets.set_terms(&key, terms);
        if terms.write_through {
            self.command(pool, move |pool| async move {
                let missing = || PoolError::new(PoolErrorKind::NotFound, "there is no volume of this uuid");
                let device = pool.device(volume.0).ok_or_else(missing)?;
                let flush = device.execute(Request { command: Command::Flush, payload: None }).await;
                let failed = |error| {
                    PoolError::new(PoolErrorKind::Io, "what was written can't be made durable").with_source(error)
                };
                flush.map(drop).map_err(failed)
            })?;
        }
        self.targets.notify_change(&key);
        Ok(())
    }

    /// Adds an open disk to an open pool. The disk stays free if the pool has nothing of it when this fails.
    pub fn add_disk(&self, uuid: Uuid, disk: NewDisk) -> Result<(), Refusal> {
        let id = disk.disk;
        {
            let mut pools = self.pools();
            self.check_open(id)?;
            check_free(&pools, id)?;
            if let Some(pool) = pools.get_mut(&uuid) {
                pool.disks.push(id);
            }
        }
        let added = self.command(uuid, |pool| async move { pool.add_disk(&disk).await });
        if added.is_err() {
            // Closed, it has no disks; a pool that could not note the disk durably may use it all the same.
            let has = self.command(uuid, |pool| async move { Ok(pool.status()) });
            let taken = has.is_ok_and(|status| status.disks.iter().any(|disk| disk.disk == id));
            if let Some(pool) = self.pools().get_mut(&uuid).filter(|_| !taken) {
                pool.disks.retain(|disk| *disk != id);
            }
        }
        added
    }

    /// Stops a pool, and closes its disks. It is closed all the same when this fails: the next opening replays what
    /// was not stored.
    pub fn close_pool(&self, uuid: Uuid) -> Result<(), Refusal> {
        match self.pools().get_mut(&uuid) {
            Some(pool) if pool.ready => pool.ready = false,
            _ => return Err(Refusal::new("not_found", format!("pool {uuid} is not open"))),
        }
        let outcome = self.first_core().block_on(move |local| {
            let pool = CorePools::of(local).get(uuid);
            async move {
                match pool {
                    Some(pool) => pool.stop().await,
                    None => Ok(()),
                }
            }
        });
        for core in self.targets.cores() {
            // A core that has stopped holds nothing.
            let _ = core.call(move |local| CorePools::of(local).remove(uuid));
        }
        self.meta.close_pool(uuid);
        self.targets.remove_terms(|volume| parse_volume_key(volume).is_some_and(|(pool, _)| pool == uuid));
        let Some(pool) = self.pools().remove(&uuid) else { return Ok(()) };
        pool.disks.iter().for_each(|disk| self.disks.close(*disk));
        Ok(outcome??)
    }

    /// Ends everything in good order: hosts, pools, cores.
    pub fn stop(&self) -> Result<(), Refusal> {
        let left = self.targets.close(self.options.stop_wait.as_millis() as u64);
        if left > 0 {
            log::error!("{left} requests of hosts did not end before the stop");
        }
        let open: Vec<Uuid> = self.pools().iter().filter(|(_, pool)| pool.ready).map(|(uuid, _)| *uuid).collect();
        let outcomes: Vec<Result<(), Refusal>> = open.into_iter().map(|uuid| self.close_pool(uuid)).collect();
        self.meta.stop();
        self.targets.stop();
        self.events.stop();
        outcomes.into_iter().collect()
    }
}

/// Core 0 keeps its share of a pool that it opened.
fn keep(local: &Local, uuid: Uuid, pool: UringPool) -> Arc<PoolShared> {
    CorePools::of(local).insert(uuid, pool).shared()
}

fn check_free(pools: &HashMap<Uuid, OpenPool>, disk: DiskId) -> Result<(), Refusal> {
    match pools.iter().find(|(_, pool)| pool.disks.contains(&disk)) {
        Some((uuid, _)) => Err(Refusal::new("in_use", format!("disk {} is in pool {uuid}", disk.0))),
        None => Ok(()),
    }
}

fn open_carry_over(path: &Path, bytes: usize) -> io::Result<MappedCarryOver> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    // Made here, so that it is its owner's alone from the first moment.
    fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let deadline = Instant::now() + Duration::from_millis(CARRY_OVER_WAIT_MS);
    loop {
        match MappedCarryOver::open(path, bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                sleep(Duration::from_millis(CARRY_OVER_POLL_MS));
            }
            opened => return opened,
        }
    }
}
