//! A pool as its cores have it: opened on core 0, joined by the others, commanded from any.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sds_io::sync::{channel, join_all, oneshot};
use sds_io::{Clock, DiskId, DiskInfo, Io};

use crate::catalog::{LayerEntry, VolumeEntry};
use crate::check_space::CheckLocks;
use crate::checkpoint::{Checkpointer, checkpoint_regularly};
use crate::commit::{Committer, commit_regularly, relabel_disk};
use crate::core::PoolCore;
use crate::damage::Damage;
use crate::delta::Delta;
use crate::env::{CoreEnv, NewDisk, PoolEnv, PoolSpec, VOLUME_BYTES_MAX, VolumeSpec};
use crate::error::{PhysicalBlock, PoolError, PoolErrorKind};
use crate::format::{check_disk, entry, format, new_label, plan};
use crate::label_io::{catalog_bytes_max, clear_catalog, write_label};
use crate::layout::catalog::encode_catalog;
use crate::layout::disk::DiskLayout;
use crate::layout::label::Label;
use crate::ledger::Ledger;
use crate::place::{BLOCK_BYTES, DiskNo, LayerId, TreeId};
use crate::planted::Defect;
use crate::recover::{Member, Opened, Recovered, recover};
use crate::shared::{CheckpointRequest, CommitRequest, Message, PoolDisk, PoolShared, SealCounters, lock};
use crate::snapshot::forsake_orphans;
use crate::volume::Volume;

/// The longest key of a document, in bytes.
pub const DOCUMENT_KEY_BYTES_MAX: usize = 255;
/// The largest document, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 64 << 10;
/// What a catalog entry takes beside its texts, rounded up.
pub(crate) const CATALOG_ENTRY_BYTES: usize = 256;

/// A pool on one core. Cheap to clone.
pub struct Pool<E: Io + Clock>(Rc<PoolCore<E>>);

impl<E: Io + Clock> Clone for Pool<E> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

/// A disk of a pool as an administrator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskStatus {
    /// The open disk.
    pub disk: DiskId,
    /// Its label's uuid.
    pub uuid: [u8; 16],
    /// Its tier's name.
    pub tier: String,
    /// Bytes that volumes may have of it.
    pub capacity_bytes: u64,
    /// Those of them that volumes have.
    pub allocated_bytes: u64,
    /// What it writes as a whole.
    pub physical_block_bytes: u32,
    /// False once a sync failed, or it left the journal: what it holds is not certain any more.
    pub healthy: bool,
    /// It had a copy of the journal and failed: its copy counts for nothing. True until the pool is opened anew.
    pub left_journal: bool,
}

/// A pool as an administrator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// Bytes of an extent.
    pub extent_bytes: u64,
    /// Its disks, by number.
    pub disks: Vec<DiskStatus>,
    /// Times that the journal began again at its start.
    pub journal_laps: u64,
    /// The part of the journal in use, in bytes, and its size.
    pub journal_bytes: (u64, u64),
    /// Disks that have a current copy of the journal.
    pub journal_disks: usize,
    /// Deleted volumes whose space is still being freed.
    pub deletions: usize,
    /// The last checkpoint failed: the journal fills up until one succeeds.
    pub checkpoint_failed: bool,
    /// The journal can't be written: nothing is durable any more until the pool is opened anew.
    pub journal_failed: bool,
    /// Blocks that were sealed since the pool was opened.
    pub sealed_blocks: u64,
    /// Blocks whose seal a write took off.
    pub unsealed_blocks: u64,
    /// Times that a sealed block was not what was sealed.
    pub corrupt_blocks: u64,
    /// One of them; `None` if there was none.
    pub corrupt: Option<Corrupt>,
    /// Times that a copy of metadata was found to be damaged.
    pub damaged_copies: u64,
    /// Copies that are whole again after that, or that nothing needs any more.
    pub mended_copies: u64,
}

/// A block that is not what was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// The path of its disk.
    pub disk: String,
    /// Its byte there.
    pub disk_offset: u64,
    /// Its volume; `None` if that is gone.
    pub volume: Option<[u8; 16]>,
    /// Its byte in the volume.
    pub volume_offset: u64,
}

/// A volume as an administrator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeStatus {
    /// Its name for ever.
    pub uuid: [u8; 16],
    /// Its size.
    pub size_bytes: u64,
    /// 512 or 4096.
    pub logical_block_bytes: u32,
    /// It takes no writes.
    pub is_snapshot: bool,
    /// Bytes of the pool that it has, together with its snapshots, their clones, and what these are of.
    pub allocated_bytes: u64,
    /// Reads since the pool was opened.
    pub reads: u64,
    /// Writes since the pool was opened.
    pub writes: u64,
}

impl<E: Io + Clock> Pool<E> {
    /// Makes a pool of `disks` and opens it, on core 0. What the disks and the MetaStore held is lost.
    ///
    /// # Errors
    /// What is wrong with `spec` or a disk; or a disk or the MetaStore failed.
    pub async fn create(
        env: CoreEnv<E>,
        world: PoolEnv,
        spec: &PoolSpec,
        disks: &[NewDisk],
    ) -> Result<Self, PoolError> {
        format(&env, &world, spec, disks).await?;
        let disks: Vec<DiskId> = disks.iter().map(|disk| disk.disk).collect();
        Self::open(env, world, spec.uuid, &disks).await.map(|(pool, _)| pool)
    }

    /// Opens a pool from its disks, on core 0. When this returns, everything that was ever acknowledged is there, and
    /// all that is readable is durable.
    ///
    /// # Errors
    /// A disk is missing, of another pool or damaged beyond repair; or a disk or the MetaStore failed.
    pub async fn open(
        env: CoreEnv<E>,
        world: PoolEnv,
        uuid: [u8; 16],
        disks: &[DiskId],
    ) -> Result<(Self, Recovered), PoolError> {
        assert_eq!(env.core, 0, "a pool is opened on core 0");
        let opened = recover(&env, &world, uuid, disks).await?;
        let recovered = opened.recovered.clone();
        Ok((Self::start(env, world, opened), recovered))
    }

    fn start(env: CoreEnv<E>, world: PoolEnv, opened: Opened<E>) -> Self {
        let label = opened.members[0].label.clone();
        let (commits, commit_requests) = channel();
        let (checkpoints, checkpoint_requests) = channel();
        let (inboxes, receivers) = (0..world.cores).map(|_| channel()).map(|(s, r)| (s, Some(r))).unzip();
        let disks = opened.members.into_iter().map(|member| Arc::new(pool_disk(&env.io, member))).collect();
        let mut catalog = opened.catalog;
        forsake_orphans(&mut catalog);
        let deleting: Vec<LayerEntry> = catalog.layers.values().filter(|layer| layer.deleting).cloned().collect();
        let mut ledger = Ledger::new(opened.checkpointed, opened.ring, opened.space, catalog, world.planted);
        ledger.deletions = deleting.len();
        ledger.set_room(opened.journal.room());
        let shared = Arc::new(PoolShared {
            uuid: label.pool_uuid,
            name: label.pool_name,
            extent_bytes: label.layout.extent_bytes,
            cores: world.cores,
            tuning: world.tuning,
            planted: world.planted,
            opener: world.opener,
            meta: world.meta,
            ledger: Mutex::new(ledger),
            disks: Mutex::new(Arc::new(disks)),
            disks_version: AtomicU64::new(0),
            inboxes,
            receivers: Mutex::new(receivers),
            commits,
            replay: Mutex::new(opened.replay),
            checkpoints,
            checkpoint_wanted: AtomicBool::new(false),
            checkpoint_failed: AtomicBool::new(false),
            journal_failed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            check_locks: CheckLocks::default(),
            seals: SealCounters::default(),
            scrub: Mutex::default(),
            damages: Mutex::default(),
            counters: Mutex::default(),
        });
        let spawner = env.spawner.clone();
        let pool = Self::join(Arc::clone(&shared), env.clone());
        let (journal, failed) = (opened.journal, None);
        spawner.spawn(Committer { shared, env, journal, requests: commit_requests, failed }.run());
        let core = Rc::clone(&pool.0);
        spawner.spawn(Checkpointer::new(core, checkpoint_requests, opened.bad_slots).run());
        spawner.spawn(commit_regularly(Rc::clone(&pool.0)));
        spawner.spawn(checkpoint_regularly(Rc::clone(&pool.0)));
        for layer in deleting {
            spawner.spawn(Rc::clone(&pool.0).delete_layer(layer));
        }
        pool
    }

    /// The pool on another core, from [`Pool::shared`].
    ///
    /// # Panics
    /// If the core has joined already, or is not one of those that the pool was opened for.
    #[must_use]
    pub fn join(shared: Arc<PoolShared>, env: CoreEnv<E>) -> Self {
        let inbox = lock(&shared.receivers)[env.core].take().expect("a core joins once");
        let core = PoolCore::new(shared, env);
        core.env.spawner.spawn(Rc::clone(&core).inbox_task(inbox));
        core.env.spawner.spawn(Rc::clone(&core).reclaim_task());
        core.env.spawner.spawn(Rc::clone(&core).seal_task());
        Self(core)
    }

    /// What is durably sealed in the pages that this core has in memory, with the uuid of the volume: for the
    /// simulator, which spoils it.
    #[cfg(feature = "planted")]
    #[must_use]
    pub fn sealed_blocks(&self) -> Vec<([u8; 16], crate::seal::SealedBlock)> {
        let ledger = self.0.shared.ledger();
        let of_volume = |block: crate::seal::SealedBlock| Some((ledger.catalog.volume_of(block.tree)?, block));
        self.0.sealed_blocks(ledger.durable).into_iter().filter_map(of_volume).collect()
    }

    pub(crate) const fn core(&self) -> &Rc<PoolCore<E>> {
        &self.0
    }

    /// What the other cores join.
    #[must_use]
    pub fn shared(&self) -> Arc<PoolShared> {
        Arc::clone(&self.0.shared)
    }

    /// A volume on this core; `None` if there is none.
    #[must_use]
    pub fn device(&self, uuid: [u8; 16]) -> Option<Volume<E>> {
        self.0.volume(uuid).map(|volume| Volume::new(Rc::clone(&self.0), volume))
    }

    /// Makes a thin volume; durable when this returns.
    ///
    /// # Errors
    /// What is wrong with `spec`; the catalog is full; or a disk failed.
    pub async fn create_volume(&self, spec: VolumeSpec) -> Result<(), PoolError> {
        check_size(spec.size_bytes)?;
        if ![512, 4096].contains(&spec.logical_block_bytes) {
            let what = "logical block size: 512 and 4096 bytes are accepted";
            let value = u64::from(spec.logical_block_bytes);
            return Err(PoolError::new(PoolErrorKind::InvalidField, what).with_value(value));
        }
        self.change_catalog(CATALOG_ENTRY_BYTES, |ledger| {
            check_whole_blocks(spec.logical_block_bytes, self.0.shared.disks().iter().map(|disk| &disk.info))?;
            if ledger.catalog.volumes.contains_key(&spec.uuid) {
                return Err(PoolError::new(PoolErrorKind::Exists, "there is a volume of this uuid"));
            }
            let id = ledger.catalog.next_layer.max(1);
            let layer = LayerEntry {
                id: LayerId(id),
                tree: TreeId(id),
                parent: LayerId(0),
                named: true,
                frozen: false,
                inherit_limit_bytes: spec.size_bytes,
                deleting: false,
            };
            let volume = VolumeEntry {
                uuid: spec.uuid,
                layer: layer.id,
                size_bytes: spec.size_bytes,
                logical_block_bytes: spec.logical_block_bytes,
            };
            Ok(vec![Delta::Layer(layer), Delta::Volume(volume)])
        })
        .await
    }

    /// Grows a volume; durable, and seen on all cores, when this returns.
    ///
    /// # Errors
    /// There is no such volume, or it would shrink; or a disk failed.
    pub async fn resize_volume(&self, uuid: [u8; 16], size_bytes: u64) -> Result<(), PoolError> {
        check_size(size_bytes)?;
        self.change_catalog(0, |ledger| {
            let volume = ledger.catalog.volumes.get(&uuid).ok_or_else(no_volume)?;
            if ledger.catalog.layers.get(&volume.layer).is_some_and(|layer| layer.frozen) {
                return Err(PoolError::new(PoolErrorKind::InvalidField, "size: a snapshot keeps its own"));
            }
            if size_bytes < volume.size_bytes {
                let what = "size: a volume only grows, at least so many bytes are accepted";
                return Err(PoolError::new(PoolErrorKind::InvalidField, what).with_value(volume.size_bytes));
            }
            Ok(vec![Delta::Volume(VolumeEntry { size_bytes, ..volume.clone() })])
        })
        .await?;
        self.tell_all(|answer| Message::VolumeChanged(uuid, answer)).await;
        Ok(())
    }

    /// Deletes a volume; durable, and seen on all cores, when this returns. Its space is freed in the background.
    ///
    /// # Errors
    /// There is no such volume; or a disk failed.
    pub async fn delete_volume(&self, uuid: [u8; 16]) -> Result<(), PoolError> {
        let mut deleting = None;
        self.change_catalog(0, |ledger| {
            let volume = ledger.catalog.volumes.get(&uuid).ok_or_else(no_volume)?;
            let layer = ledger.catalog.layers.get(&volume.layer).expect("a volume has a layer");
            let size = volume.size_bytes;
            let layer = LayerEntry { named: false, deleting: true, inherit_limit_bytes: size, ..layer.clone() };
            deleting = Some(layer.clone());
            Ok(vec![Delta::Layer(layer), Delta::VolumeGone { uuid }])
        })
        .await?;
        self.tell_all(|answer| Message::VolumeChanged(uuid, answer)).await;
        lock(&self.0.shared.counters).remove(&uuid);
        if let Some(layer) = deleting {
            self.begin_deletion(layer);
        }
        Ok(())
    }

    pub(crate) fn begin_deletion(&self, layer: LayerEntry) {
        self.0.shared.ledger().deletions += 1;
        self.0.env.spawner.spawn(Rc::clone(&self.0).delete_layer(layer));
    }

    /// Stores (`None`: removes) a document of the control plane; durable when this returns.
    ///
    /// # Errors
    /// Key or value are too long, the catalog is full, or a disk failed.
    pub async fn put_document(&self, key: String, value: Option<Vec<u8>>) -> Result<(), PoolError> {
        let bytes = value.as_ref().map_or(0, Vec::len);
        let invalid = |what, value| Err(PoolError::new(PoolErrorKind::InvalidField, what).with_value(value));
        if key.is_empty() || key.len() > DOCUMENT_KEY_BYTES_MAX {
            return invalid("document key: 1 to 255 bytes are accepted", key.len() as u64);
        }
        if bytes > DOCUMENT_BYTES_MAX {
            return invalid("document: up to 65,536 bytes are accepted", bytes as u64);
        }
        let more = bytes + key.len() + CATALOG_ENTRY_BYTES;
        let more = if value.is_some() { more } else { 0 };
        self.change_catalog(more, |_| Ok(vec![Delta::Document { key: key.clone(), value: value.clone() }])).await
    }

    /// The control plane's documents, by key.
    #[must_use]
    pub fn documents(&self) -> Vec<(String, Vec<u8>)> {
        self.0.shared.ledger().catalog.documents.clone().into_iter().collect()
    }

    /// Adds a disk, on core 0; durable when this returns. What it held is lost. A pool whose journal has one disk, not
    /// faster than this one, has it on both from then on.
    ///
    /// # Errors
    /// It is too small, or in the pool already, or a disk failed.
    pub async fn add_disk(&self, disk: &NewDisk) -> Result<(), PoolError> {
        assert_eq!(self.0.env.core, 0, "labels are core 0's");
        check_disk(disk)?;
        let shared = &self.0.shared;
        let disks = shared.disks();
        if disks.iter().any(|other| other.disk == disk.disk || other.uuid == disk.uuid) {
            return Err(PoolError::new(PoolErrorKind::Exists, "the disk is in the pool already"));
        }
        let no = u16::try_from(disks.len()).map(DiskNo).map_err(|_| {
            PoolError::new(PoolErrorKind::InvalidField, "disks: a pool has 1 to 65,535").with_value(disks.len() as u64)
        })?;
        let info = self.0.env.io.disk(disk.disk);
        check_whole_blocks(shared.ledger().catalog.largest_block(), [&info])?;
        let layout = self.plan_added(disk)?;
        let of_label = |of: fn(&Label) -> u64| disks.iter().map(|disk| of(&lock(&disk.label))).max().unwrap_or(0);
        let (epoch, openings) =
            (of_label(|label| u64::from(label.pool_epoch)) as u32, of_label(|label| label.openings));
        let pool = (shared.uuid, shared.name.clone());
        let mut label = new_label(pool, epoch, no, disk, layout, false, &shared.opener);
        label.clean = false;
        label.openings = openings;
        let failed = |error| PoolError::new(PoolErrorKind::Io, "the new disk failed").with_source(error);
        clear_catalog(&self.0.env.io, disk.disk, &label.layout).await.map_err(failed)?;
        write_label(&self.0.env.io, disk.disk, &label).await.map_err(failed)?;
        let added = entry(&label);
        let member = Member { disk: disk.disk, label };
        let new = Arc::new(pool_disk(&self.0.env.io, member));
        let deltas = self.change_catalog(CATALOG_ENTRY_BYTES, |ledger| {
            if ledger.catalog.disks.contains_key(&no) {
                return Err(PoolError::new(PoolErrorKind::Busy, "another disk is being added"));
            }
            check_whole_blocks(ledger.catalog.largest_block(), [&info])?;
            // Known to all cores before the first chunk of it can be given out.
            let mut all = disks.to_vec();
            all.push(Arc::clone(&new));
            *lock(&shared.disks) = Arc::new(all);
            shared.disks_version.fetch_add(1, Ordering::AcqRel);
            Ok(vec![Delta::Disk(added.clone())])
        });
        deltas.await?;
        if new.layout.journal_bytes > 0 {
            if let Err(error) = self.admit_to_journal(&new).await {
                log::warn!("{}: it takes no part in the journal: {error}", new.info.path);
            }
        }
        Ok(())
    }

    /// Where an added disk's regions lie: with one for the journal, if that has one disk which is not faster.
    fn plan_added(&self, disk: &NewDisk) -> Result<DiskLayout, PoolError> {
        let shared = &self.0.shared;
        let plan = |journal_bytes| plan(&self.0.env.io, disk.disk, shared.extent_bytes, journal_bytes);
        let members = shared.journal_disks();
        let [member] = &members[..] else { return plan(0) };
        if lock(&member.label).rank < disk.rank {
            return plan(0);
        }
        let layout = plan(member.layout.journal_bytes)?;
        if layout.journal_bytes < member.layout.journal_bytes { plan(0) } else { Ok(layout) }
    }

    async fn admit_to_journal(&self, disk: &Arc<PoolDisk>) -> Result<(), PoolError> {
        // Commits wait while the journal is copied, so it is made short; if that fails, it is as long as it is.
        if let Err(error) = self.checkpoint().await {
            log::info!("pool {}: no checkpoint before the journal is copied: {error}", self.0.shared.name);
        }
        let (sender, receiver) = oneshot();
        self.0.shared.commits.send(CommitRequest::Admit(Arc::clone(disk), sender));
        receiver.await.unwrap_or(Ok(()))
    }

    /// Capacity and use.
    #[must_use]
    pub fn status(&self) -> PoolStatus {
        let shared = &self.0.shared;
        let disks = shared.disks();
        let (damaged_copies, mended_copies) = {
            let damages = lock(&shared.damages);
            (damages.found, damages.mended)
        };
        let ledger = shared.ledger();
        let room = ledger.room;
        let status = |disk: &Arc<PoolDisk>| DiskStatus {
            disk: disk.disk,
            uuid: disk.uuid,
            tier: lock(&disk.label).tier.clone(),
            capacity_bytes: u64::from(disk.layout.data_chunks()) * shared.chunk_bytes(),
            allocated_bytes: u64::from(ledger.space.allocated_chunks(disk.no)) * shared.chunk_bytes(),
            physical_block_bytes: disk.info.physical_block_bytes,
            healthy: !disk.sync_failed.load(Ordering::Acquire) && !disk.lost.load(Ordering::Acquire),
            left_journal: disk.lost.load(Ordering::Acquire),
        };
        PoolStatus {
            name: shared.name.clone(),
            extent_bytes: shared.extent_bytes,
            disks: disks.iter().map(status).collect(),
            journal_laps: ledger.journal_laps,
            // A journal that is full of small records counts as full.
            journal_bytes: ((room.used_fraction() * room.capacity.bytes as f64) as u64, room.capacity.bytes),
            journal_disks: shared.journal_disks().len(),
            deletions: ledger.deletions,
            checkpoint_failed: shared.checkpoint_failed.load(Ordering::Acquire),
            journal_failed: shared.journal_failed.load(Ordering::Acquire),
            sealed_blocks: shared.seals.sealed.load(Ordering::Relaxed),
            unsealed_blocks: shared.seals.unsealed.load(Ordering::Relaxed),
            corrupt_blocks: shared.seals.corrupt.load(Ordering::Relaxed),
            damaged_copies,
            mended_copies,
            corrupt: lock(&shared.seals.last_corrupt).map(|(found, _)| Corrupt {
                disk: disks[usize::from(found.disk.0)].info.path.clone(),
                disk_offset: found.disk_offset,
                volume: ledger.catalog.volume_of(found.tree),
                volume_offset: found.volume_offset,
            }),
        }
    }

    /// Damaged copies of metadata that were found since this was asked last.
    #[must_use]
    pub fn take_damages(&self) -> Vec<Damage> {
        lock(&self.0.shared.damages).take()
    }

    /// All volumes, by uuid.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeStatus> {
        let uuids: Vec<[u8; 16]> = self.0.shared.ledger().catalog.volumes.keys().copied().collect();
        uuids.into_iter().filter_map(|uuid| self.volume_status(uuid)).collect()
    }

    /// One volume; `None` if there is none.
    #[must_use]
    pub fn volume_status(&self, uuid: [u8; 16]) -> Option<VolumeStatus> {
        let shared = &self.0.shared;
        let counters = lock(&shared.counters).get(&uuid).cloned().unwrap_or_default();
        let ledger = shared.ledger();
        let volume = ledger.catalog.volumes.get(&uuid)?;
        let layer = ledger.catalog.layers.get(&volume.layer)?;
        let chunks = ledger.catalog.chunks.get(&layer.tree).copied().unwrap_or(0);
        Some(VolumeStatus {
            uuid,
            size_bytes: volume.size_bytes,
            logical_block_bytes: volume.logical_block_bytes,
            is_snapshot: layer.frozen,
            allocated_bytes: chunks * shared.chunk_bytes(),
            reads: counters.iter().map(|counters| counters.reads.load(Ordering::Relaxed)).sum(),
            writes: counters.iter().map(|counters| counters.writes.load(Ordering::Relaxed)).sum(),
        })
    }

    /// Everything pushed before this is in the MetaStore and the owner tables when it ends.
    ///
    /// # Errors
    /// A disk or the MetaStore failed.
    pub async fn checkpoint(&self) -> Result<(), PoolError> {
        let (sender, receiver) = oneshot();
        self.0.shared.checkpoints.send(CheckpointRequest::Now(sender));
        receiver.await.unwrap_or_else(|| Err(PoolError::new(PoolErrorKind::Closed, "the pool is being closed")))
    }

    /// Closes the pool on all cores, from core 0: no request is taken any more, the open ones end, and everything is
    /// durable, checkpointed and marked as closed in the labels when this returns.
    ///
    /// # Errors
    /// The pool is closed all the same; the next opening replays what was not stored.
    pub async fn stop(&self) -> Result<(), PoolError> {
        assert_eq!(self.0.env.core, 0, "labels are core 0's");
        let shared = &self.0.shared;
        shared.stopping.store(true, Ordering::Release);
        shared.ledger().notify();
        let left: usize = self.tell_all(Message::Drain).await.into_iter().flatten().sum();
        if left > 0 {
            log::error!("pool {}: {left} requests did not end", shared.name);
        }
        let stored = match shared.commit().await {
            Ok(()) => self.checkpoint().await,
            Err(error) => Err(error),
        };
        let closed = match stored {
            Ok(()) if left == 0 => self.mark_closed().await,
            stored => stored,
        };
        let (sender, receiver) = oneshot();
        shared.checkpoints.send(CheckpointRequest::Stop(sender));
        receiver.await;
        let (sender, receiver) = oneshot();
        shared.commits.send(CommitRequest::Stop(sender));
        receiver.await;
        shared.inboxes.iter().for_each(|inbox| inbox.send(Message::Stop));
        shared.ledger().close();
        closed
    }

    async fn mark_closed(&self) -> Result<(), PoolError> {
        let mark = self.0.shared.ledger().durable;
        let disks = self.0.shared.disks();
        let relabel = |disk: &Arc<PoolDisk>| {
            let disk = Arc::clone(disk);
            let (io, planted) = (self.0.env.io.clone(), self.0.shared.planted);
            async move {
                relabel_disk(&io, &disk, planted, |label| {
                    label.clean = true;
                    label.checkpoint_mark = mark;
                })
                .await
            }
        };
        let left = disks.iter().filter(|disk| !disk.lost.load(Ordering::Acquire));
        join_all(left.map(relabel).collect()).await.into_iter().collect()
    }

    /// Pushes what `change` says of the catalog, durably; it is called under the ledger's lock, again while the ring is
    /// full, and refuses what is not to be.
    pub(crate) async fn change_catalog(
        &self,
        more_bytes: usize,
        mut change: impl FnMut(&mut Ledger) -> Result<Vec<Delta>, PoolError>,
    ) -> Result<(), PoolError> {
        let shared = &self.0.shared;
        let _permit = shared.admit().await?;
        loop {
            self.catalog_has_room(more_bytes)?;
            let pushed = {
                let mut ledger = shared.ledger();
                let deltas = change(&mut ledger)?;
                ledger.push(&deltas)
            };
            match pushed {
                Ok(_) if shared.planted.has(Defect::CatalogUnsynced) => return Ok(()),
                Ok(_) => return shared.commit().await,
                Err(_) => shared.commit().await?,
            }
        }
    }

    /// Refuses `more_bytes` of catalog that the smallest disk's slot has no room for.
    pub(crate) fn catalog_has_room(&self, more_bytes: usize) -> Result<(), PoolError> {
        let shared = &self.0.shared;
        let bytes_max = shared.disks().iter().map(|disk| catalog_bytes_max(&disk.layout)).min().unwrap_or(0);
        if more_bytes > 0 && encode_catalog(&shared.ledger().catalog).len() + more_bytes > bytes_max {
            let what = "the pool's catalog is full, its bytes at the most";
            return Err(PoolError::new(PoolErrorKind::NoSpace, what).with_value(bytes_max as u64));
        }
        Ok(())
    }

    /// Sends a message to each core and waits for all answers.
    pub(crate) async fn tell_all<T>(
        &self,
        message: impl Fn(sds_io::sync::OneshotSender<T>) -> Message,
    ) -> Vec<Option<T>> {
        let mut answers = Vec::new();
        for inbox in &self.0.shared.inboxes {
            let (sender, receiver) = oneshot();
            inbox.send(message(sender));
            answers.push(receiver);
        }
        join_all(answers).await
    }
}

/// A volume promises its hosts that a power cut leaves each of its blocks old or new (NVMe AWUPF 0), so its disks must.
fn check_whole_blocks<'a>(block_bytes: u32, disks: impl IntoIterator<Item = &'a DiskInfo>) -> Result<(), PoolError> {
    let Some(disk) = disks.into_iter().find(|disk| disk.physical_block_bytes < block_bytes) else { return Ok(()) };
    let what = "a volume's blocks must be written as a whole by each disk of its pool, they have bytes";
    let source = PhysicalBlock { path: disk.path.clone(), bytes: disk.physical_block_bytes };
    Err(PoolError::new(PoolErrorKind::PhysicalBlock, what).with_value(block_bytes.into()).with_source(source))
}

pub(crate) fn no_volume() -> PoolError {
    PoolError::new(PoolErrorKind::NotFound, "there is no volume of this uuid")
}

fn check_size(size_bytes: u64) -> Result<(), PoolError> {
    if size_bytes == 0 || size_bytes > VOLUME_BYTES_MAX || size_bytes % BLOCK_BYTES != 0 {
        let what = "size: a multiple of 4 KiB up to 64 TiB is accepted";
        return Err(PoolError::new(PoolErrorKind::InvalidField, what).with_value(size_bytes));
    }
    Ok(())
}

fn pool_disk<E: Io>(io: &E, member: Member) -> PoolDisk {
    PoolDisk {
        no: member.label.disk_no,
        disk: member.disk,
        uuid: member.label.disk_uuid,
        info: io.disk(member.disk),
        layout: member.label.layout.clone(),
        label: Mutex::new(member.label),
        completed: AtomicU64::new(0),
        synced: AtomicU64::new(0),
        sync_failed: AtomicBool::new(false),
        lost: AtomicBool::new(false),
    }
}
