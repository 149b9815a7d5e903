//! One core's share of a pool: the pages that it owns, what it has in flight, the chunks it waits to reuse.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustc_hash::FxHashMap;
use sds_block::{BlockError, ErrorKind};
use sds_io::sync::Event;
use sds_io::{Clock, Io};

use crate::check_space::CheckCache;
use crate::env::CoreEnv;
use crate::error::PoolError;
use crate::forest::View;
use crate::image::load_page;
use crate::lock::RangeLocks;
use crate::page::{Page, PageState};
use crate::place::{ChunkRun, LayerId, PageKey, TreeId};
use crate::planted::Defect;
use crate::quarantine::{InFlight, Quarantined};
use crate::request::{Part, PartAnswer, PartOp};
use crate::shared::{PoolDisk, PoolShared, VolumeCounters, lock};

/// How often changes that are under way to a layer that takes none any more are looked for.
const CHANGES_POLL_MS: u64 = 1;

/// A volume as one core knows it.
pub struct VolumeCore {
    /// Its name for ever.
    pub uuid: [u8; 16],
    /// The layers' tree.
    pub tree: TreeId,
    /// The layer that its requests are for.
    live: RefCell<Rc<Live>>,
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

/// A layer as one core knows it.
#[derive(Debug)]
pub struct Live {
    /// What its requests see.
    pub view: View,
    /// It is a snapshot.
    frozen: bool,
    /// Changes that are under way to it.
    changes: Cell<usize>,
}

impl VolumeCore {
    /// What its requests see now.
    pub(crate) fn live(&self) -> Rc<Live> {
        Rc::clone(&self.live.borrow())
    }

    /// True if it is a snapshot.
    pub(crate) fn is_frozen(&self) -> bool {
        self.live.borrow().frozen
    }
}

/// A change of a layer that is under way: whatever becomes of the volume, it goes to that layer.
pub(crate) struct Change(Rc<Live>);

impl Change {
    /// What it sees.
    pub(crate) fn view(&self) -> &View {
        &self.0.view
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        self.0.changes.set(self.0.changes.get() - 1);
    }
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
    /// Layers that take no requests any more, as long as changes are under way to them.
    retired: RefCell<Vec<Rc<Live>>>,
    /// A snapshot is being taken: no change of a volume begins.
    held: Cell<bool>,
    released: Event,
    /// One snapshot at a time.
    pub(crate) snapshots: RangeLocks,
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
            retired: RefCell::default(),
            held: Cell::default(),
            released: Event::default(),
            snapshots: RangeLocks::default(),
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
        let (entry, tree, live) = {
            let ledger = self.shared.ledger();
            let entry = ledger.catalog.volumes.get(&uuid)?.clone();
            let layer = ledger.catalog.layers.get(&entry.layer)?;
            let view = ledger.catalog.view(layer.id);
            (entry, layer.tree, Live { view, frozen: layer.frozen, changes: Cell::default() })
        };
        let volume = Rc::new(VolumeCore {
            uuid,
            tree,
            live: RefCell::new(Rc::new(live)),
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
                self.retire(volume.live());
                self.release_run(&volume);
                self.volumes.borrow_mut().remove(&uuid);
                self.shared.ledger().notify_space();
            }
        }
    }

    /// Lets no change of a volume begin, or all that wait.
    pub(crate) fn hold(&self, on: bool) {
        self.held.set(on);
        self.released.notify();
    }

    /// Volumes that have new layers go on in these.
    pub(crate) fn switch_layers(&self) {
        let ledger = self.shared.ledger();
        for volume in self.volumes.borrow().values() {
            let Some(layer) = ledger.catalog.volumes.get(&volume.uuid).map(|entry| entry.layer) else { continue };
            let frozen = ledger.catalog.layers.get(&layer).is_some_and(|layer| layer.frozen);
            if volume.live().view.layer() != layer {
                let live = Live { view: ledger.catalog.view(layer), frozen, changes: Cell::default() };
                self.retire(volume.live.replace(Rc::new(live)));
            }
        }
    }

    /// Ends when no change is under way to the layer, which takes none any more.
    pub(crate) async fn settle(&self, layer: LayerId) {
        while self.changes_of(layer) > 0 {
            self.env.io.sleep(Duration::from_millis(CHANGES_POLL_MS)).await;
        }
    }

    /// The layer takes no requests any more; changes may be under way to it.
    fn retire(&self, live: Rc<Live>) {
        let mut retired = self.retired.borrow_mut();
        retired.retain(|live| live.changes.get() > 0);
        retired.push(live);
    }

    /// Changes that are under way to a layer that takes no requests any more.
    fn changes_of(&self, layer: LayerId) -> usize {
        let retired = self.retired.borrow();
        retired.iter().filter(|live| live.view.layer() == layer).map(|live| live.changes.get()).sum()
    }

    /// The layers to which changes may be under way.
    pub(crate) fn open_layers(&self) -> Vec<LayerId> {
        let retired = self.retired.borrow();
        let changing = retired.iter().filter(|live| live.changes.get() > 0).map(|live| live.view.layer());
        self.volumes.borrow().values().map(|volume| volume.live().view.layer()).chain(changing).collect()
    }

    /// Gives back the space that the volume took in advance.
    pub(crate) fn release_run(&self, volume: &VolumeCore) {
        if let Some(run) = volume.run.take() {
            self.shared.ledger().release_grants(&[run]);
        }
    }

    /// A change of the volume begins, by one who holds the range that it is to change.
    ///
    /// # Errors
    /// The volume was deleted, or is a snapshot.
    pub(crate) async fn begin_change(&self, volume: &VolumeCore) -> Result<Change, BlockError> {
        while self.held.get() {
            self.released.wait().await;
        }
        if volume.closed.get() {
            return Err(BlockError::new(ErrorKind::DeviceGone, "the volume was deleted"));
        }
        let live = volume.live();
        if live.frozen {
            return Err(BlockError::new(ErrorKind::ReadOnly, "a snapshot takes no writes"));
        }
        live.changes.set(live.changes.get() + 1);
        Ok(Change(live))
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
                let bytes = self.read(&volume.live().view, &page, part.start, part.len).await?;
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
