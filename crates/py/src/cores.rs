//! The pools as one core has them, and the devices that hosts of this core reach.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use sds_target::{Devices, DynDevice, VolumeKey};
use sds_uring::{Local, UringIo};
use sds_volume::{CoreEnv, Pool, PoolShared};

use crate::uuid::{Uuid, parse_volume_key};

/// A pool on disks of this machine.
pub type UringPool = Pool<UringIo>;

/// One core's share of each open pool.
#[derive(Default)]
pub struct CorePools(RefCell<HashMap<Uuid, Rc<UringPool>>>);

impl CorePools {
    /// Those of this core.
    pub fn of(local: &Local) -> Rc<Self> {
        local.get::<Self>().unwrap_or_else(|| {
            let new = Rc::<Self>::default();
            local.put(Rc::clone(&new));
            new
        })
    }

    /// The pool of that uuid, if it is open.
    pub fn get(&self, uuid: Uuid) -> Option<Rc<UringPool>> {
        self.0.borrow().get(&uuid).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Rc<UringPool>> {
        self.0.borrow().values().cloned().collect()
    }

    /// Adds the core's share of a pool.
    pub fn insert(&self, uuid: Uuid, pool: UringPool) -> Rc<UringPool> {
        let pool = Rc::new(pool);
        self.0.borrow_mut().insert(uuid, Rc::clone(&pool));
        pool
    }

    /// Forgets it.
    pub fn remove(&self, uuid: Uuid) {
        let removed = self.0.borrow_mut().remove(&uuid);
        drop(removed);
    }
}

/// The core's world, as a pool gets it.
pub fn core_env(local: &Local) -> CoreEnv<UringIo> {
    CoreEnv { core: local.index(), io: local.io(), spawner: local.spawner() }
}

/// The core takes its part of a pool that core 0 has opened.
pub fn join(local: &Local, uuid: Uuid, shared: Arc<PoolShared>) {
    CorePools::of(local).insert(uuid, Pool::join(shared, core_env(local)));
}

/// The volumes of all pools, as the front end finds them.
pub struct Volumes(pub Rc<CorePools>);

impl Devices for Volumes {
    fn open(&self, volume: &VolumeKey) -> Option<Rc<DynDevice>> {
        let (pool, volume) = parse_volume_key(volume)?;
        let device = self.0.get(pool)?.device(volume.0)?;
        Some(Rc::new(device))
    }
}
