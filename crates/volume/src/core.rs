//! One core's share of a pool: the pages that it owns, what it has in flight, the chunks it waits to reuse.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustc_hash::FxHashMap;
use sds_block::{BlockError, ErrorKind};
use sds_io::sync::Event;
use sds_io::{Clock, Io};

use crate::check_space::CheckCache;
use crate::env::CoreEnv;
use crate::error::PoolError;
use crate::image::load_page;
use crate::page::{Page, PageState};
use crate::place::{ChunkRun, LayerId, PageKey, TreeId};
use crate::planted::Defect;
use crate::quarantine::{InFlight, Quarantined};
use crate::request::{Part, PartAnswer, PartOp};
use crate::shared::{PoolDisk, PoolShared, VolumeCounters, lock};

/// A volume as one core knows it.
pub struct VolumeCore {
    /// Its name for ever.
    pub uuid: [u8; 16],
    /// The layer that its writes go to.
    pub layer: LayerId,
    /// The layer's tree.
    pub tree: TreeId,
    /// Its size; grows.
    pub size_bytes: Cell<u64>,
    /// 512 or 4096.
    pub logical_block_bytes: u32,
    /// It was deleted.
    pub closed: Cell<bool>,
    /// Free space taken in advance, so that the volume's stream stays sequential.
    pub run: Cell<Option<ChunkRun>>,
    /// What hosts asked of it on this core.
    pub counters: Arc<VolumeCounters>,
}

/// One core's share of a pool.
pub struct PoolCore<E: Io + Clock> {
    /// What all cores share.
    pub shared: Arc<PoolShared>,
    /// This core's world.
    pub env: CoreEnv<E>,
    pub(crate) pages: RefCell<FxHashMap<PageKey, Rc<Page>>>,
    loading: RefCell<FxHashMap<PageKey, Event>>,
    uses: Cell<u64>,
    pub(crate) volumes: RefCell<FxHashMap<[u8; 16], Rc<VolumeCore>>>,
    pub(crate) inflight: InFlight,
    pub(crate) quarantine: RefCell<Vec<Quarantined>>,
    pub(crate) reclaim: Event,
    disks: RefCell<(u64, Arc<Vec<Arc<PoolDisk>>>)>,
    /// Map pages that were read from the MetaStore, for the metrics.
    pub page_loads: AtomicU64,
    pub(crate) open_requests: Cell<usize>,
    /// Memory that the pages take: as of each one's loading or last checkpoint.
    pub(crate) map_bytes: Cell<usize>,
    /// The cache is looked through only above this: what is dirty can't go, so looking again soon is of no use.
    pub(crate) evict_above: Cell<usize>,
    pub(crate) checks: RefCell<CheckCache>,
}

impl<E: Io + Clock> PoolCore<E> {
    /// The share of the core `env` in `shared`.
    #[must_use]
    pub fn new(shared: Arc<PoolShared>, env: CoreEnv<E>) -> Rc<Self> {
        let disks = shared.disks();
        let checks = RefCell::new(CheckCache::new(shared.tuning.check_cache_blocks_max));
        Rc::new(Self {
            shared,
            env,
            pages: RefCell::default(),
            loading: RefCell::default(),
            uses: Cell::new(0),
            volumes: RefCell::default(),
            inflight: InFlight::default(),
            quarantine: RefCell::default(),
            reclaim: Event::default(),
            disks: RefCell::new((0, disks)),
            page_loads: AtomicU64::new(0),
            open_requests: Cell::new(0),
            map_bytes: Cell::default(),
            evict_above: Cell::default(),
            checks,
        })
    }

    /// The pool's disks by number.
    pub(crate) fn disks(&self) -> Arc<Vec<Arc<PoolDisk>>> {
        let version = self.shared.disks_version.load(Ordering::Acquire);
        let mut cached = self.disks.borrow_mut();
        if cached.0 != version {
            *cached = (version, self.shared.disks());
        }
        Arc::clone(&cached.1)
    }

    /// The volume `uuid`; `None` if there is none.
    pub(crate) fn volume(&self, uuid: [u8; 16]) -> Option<Rc<VolumeCore>> {
        if let Some(volume) = self.volumes.borrow().get(&uuid) {
            return Some(Rc::clone(volume));
        }
        let (entry, tree) = {
            let ledger = self.shared.ledger();
            let entry = ledger.catalog.volumes.get(&uuid)?.clone();
            let tree = ledger.catalog.layers.get(&entry.layer)?.tree;
            (entry, tree)
        };
        let volume = Rc::new(VolumeCore {
            uuid,
            layer: entry.layer,
            tree,
            size_bytes: Cell::new(entry.size_bytes),
            logical_block_bytes: entry.logical_block_bytes,
            closed: Cell::new(false),
            run: Cell::new(None),
            counters: Arc::default(),
        });
        lock(&self.shared.counters).entry(uuid).or_default().push(Arc::clone(&volume.counters));
        self.volumes.borrow_mut().insert(uuid, Rc::clone(&volume));
        Some(volume)
    }

    /// The volume `uuid` changed in the catalog: takes its new size, or closes it.
    pub(crate) fn volume_changed(&self, uuid: [u8; 16]) {
        let Some(volume) = self.volumes.borrow().get(&uuid).map(Rc::clone) else { return };
        let size = self.shared.ledger().catalog.volumes.get(&uuid).map(|entry| entry.size_bytes);
        match size {
            Some(size) => volume.size_bytes.set(size),
            None => {
                volume.closed.set(true);
                self.release_run(&volume);
                self.volumes.borrow_mut().remove(&uuid);
                self.shared.ledger().notify_space();
            }
        }
    }

    /// Gives back the space that the volume took in advance.
    pub(crate) fn release_run(&self, volume: &VolumeCore) {
        if let Some(run) = volume.run.take() {
            self.shared.ledger().release_grants(&[run]);
        }
    }

    /// Runs a part on a page of this core's.
    pub(crate) async fn run(self: &Rc<Self>, volume: &VolumeCore, part: &Part) -> Result<PartAnswer, BlockError> {
        let key = PageKey { tree: volume.tree, page: part.page };
        debug_assert_eq!(self.shared.owner(key), self.env.core, "a page is touched by its owner alone");
        let page = match self.resident(key) {
            Some(page) => page,
            None => self.page(key).await?,
        };
        match &part.op {
            PartOp::Read => {
                let bytes = self.read(volume, &page, part.start, part.len).await?;
                Ok(PartAnswer { bytes, undurable: false })
            }
            PartOp::Write { data, fua } => {
                let undurable = self.write(volume, &page, part.start, data.clone(), *fua).await?;
                Ok(PartAnswer { undurable, ..PartAnswer::default() })
            }
            PartOp::Zero { unmap } => {
                let undurable = self.zero(volume, &page, part.start, part.len, *unmap).await?;
                Ok(PartAnswer { undurable, ..PartAnswer::default() })
            }
            PartOp::CompareAndWrite { data } => {
                self.compare_and_write(volume, &page, part.start, data.clone()).await?;
                Ok(PartAnswer { undurable: true, ..PartAnswer::default() })
            }
        }
    }

    /// The page if it is in memory.
    pub(crate) fn resident(&self, key: PageKey) -> Option<Rc<Page>> {
        let page = self.pages.borrow().get(&key).map(Rc::clone)?;
        self.uses.set(self.uses.get() + 1);
        page.used.set(self.uses.get());
        Some(page)
    }

    /// The page, from the MetaStore if need be. Requests for a page that is being loaded wait for it.
    pub(crate) async fn page(&self, key: PageKey) -> Result<Rc<Page>, BlockError> {
        loop {
            if let Some(page) = self.resident(key) {
                return Ok(page);
            }
            let other = self.loading.borrow().get(&key).map(Event::wait);
            if let Some(other) = other {
                other.await;
                continue;
            }
            self.loading.borrow_mut().insert(key, Event::default());
            let loaded = self.load(key).await.map(|state| Rc::new(Page::new(key, state)));
            if let Ok(page) = &loaded {
                self.pages.borrow_mut().insert(key, Rc::clone(page));
                self.count(page);
            }
            if let Some(event) = self.loading.borrow_mut().remove(&key) {
                event.notify();
            }
            return match loaded {
                Ok(page) => {
                    // The caller has it already, so it is not the one that goes.
                    self.evict();
                    Ok(page)
                }
                Err(error) => {
                    log::error!("page {} of tree {} can't be loaded: {error}", key.page.0, key.tree.0);
                    Err(BlockError::new(ErrorKind::Busy, "the map's page can't be read").with_source(error))
                }
            };
        }
    }

    async fn load(&self, key: PageKey) -> Result<PageState, PoolError> {
        let mut state = load_page(&*self.shared.meta, key, self.shared.blocks_per_extent()).await?;
        self.page_loads.fetch_add(1, Ordering::Relaxed);
        let deltas = lock(&self.shared.replay).remove(&key).unwrap_or_default();
        let saved = state.lsn;
        let skipped = u64::from(self.shared.planted.has(Defect::ReplaySkipsGroup));
        for (lsn, delta) in deltas.iter().filter(|(lsn, _)| lsn.0 > saved.0 + skipped) {
            state.apply(*lsn, delta);
        }
        Ok(state)
    }
}
