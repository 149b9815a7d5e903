//! Group commit: what was pushed and written becomes durable, for everybody who asked, in one round.
//!
//! A round seals the groups pushed so far, then syncs every disk that has completed writes since its last sync, then
//! appends the sealed groups to the journal. Each group was pushed after its data writes ended, so each disk that it
//! names finishes a sync submitted after them: that is what makes a delta eligible. Who asks while a round runs waits
//! for the next one, because this one's syncs may have been submitted before its writes ended.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sds_io::sync::{OneshotSender, Receiver, join_all};
use sds_io::{Clock, Io};

use crate::env::CoreEnv;
use crate::error::{PoolError, PoolErrorKind};
use crate::journal::Journal;
use crate::place::Lsn;
use crate::shared::{CommitRequest, PoolDisk, PoolShared};

/// The task on core 0 that makes things durable.
pub(crate) struct Committer<E: Io + Clock> {
    pub shared: Arc<PoolShared>,
    pub env: CoreEnv<E>,
    pub journal: Journal<E>,
    pub requests: Receiver<CommitRequest>,
}

type Done = OneshotSender<Result<(), PoolError>>;

impl<E: Io + Clock> Committer<E> {
    pub(crate) async fn run(mut self) {
        while let Some(request) = self.requests.next().await {
            let mut waiting: Vec<Done> = Vec::new();
            let mut trims: Vec<(Lsn, Done)> = Vec::new();
            let mut stop = None;
            let mut next = Some(request);
            while let Some(request) = next {
                match request {
                    CommitRequest::Durable(done) => waiting.push(done),
                    CommitRequest::Trim(lsn, done) => trims.push((lsn, done)),
                    CommitRequest::Stop(done) => stop = Some(done),
                }
                next = if stop.is_some() { None } else { self.requests.try_next() };
            }
            if !waiting.is_empty() {
                let outcome = self.round().await;
                if let Err(error) = &outcome {
                    log::error!("pool {}: nothing can be made durable: {error}", self.shared.name);
                }
                for done in waiting {
                    done.send(outcome.as_ref().map(|()| ()).map_err(copy_of));
                }
            }
            for (lsn, done) in trims {
                done.send(self.trim(lsn).await);
            }
            if let Some(done) = stop {
                done.send(());
                return;
            }
        }
    }

    async fn round(&mut self) -> Result<(), PoolError> {
        let (last, groups) = self.shared.ledger().seal();
        let synced = if self.shared.planted.skip_sync { Ok(()) } else { self.sync_disks().await };
        if let Err(error) = synced {
            self.shared.ledger().unseal(groups);
            return Err(error);
        }
        if !groups.is_empty() {
            if let Err(error) = self.journal.append(&groups).await {
                self.shared.ledger().unseal(groups);
                return Err(PoolError::new(PoolErrorKind::Io, "the journal can't be written").with_source(error));
            }
        }
        let used = self.journal.used_bytes();
        self.shared.ledger().set_durable(last, used);
        if used * 100 >= self.journal.capacity_bytes() * u64::from(self.shared.tuning.checkpoint_journal_percent) {
            self.shared.want_checkpoint();
        }
        Ok(())
    }

    /// Syncs every disk that has something to sync.
    async fn sync_disks(&self) -> Result<(), PoolError> {
        let disks = self.shared.disks();
        let dirty: Vec<Arc<PoolDisk>> = disks.iter().filter(|disk| is_dirty(disk)).map(Arc::clone).collect();
        match &dirty[..] {
            [] => Ok(()),
            [disk] => self.sync_disk(Arc::clone(disk)).await,
            _ => join_all(dirty.into_iter().map(|disk| self.sync_disk(disk)).collect()).await.into_iter().collect(),
        }
    }

    async fn sync_disk(&self, disk: Arc<PoolDisk>) -> Result<(), PoolError> {
        if disk.sync_failed.load(Ordering::Acquire) {
            return Err(PoolError::new(PoolErrorKind::Io, "a disk failed a sync; what it holds is not certain"));
        }
        let completed = disk.completed.load(Ordering::Acquire);
        match self.env.io.sync(disk.disk).await {
            Ok(()) => {
                disk.synced.fetch_max(completed, Ordering::AcqRel);
                Ok(())
            }
            Err(error) => {
                // A second try would succeed and say nothing of the data: the failure stays.
                disk.sync_failed.store(true, Ordering::Release);
                log::error!("{}: sync failed: {error}", disk.info.path);
                Err(PoolError::new(PoolErrorKind::Io, "a disk failed a sync").with_source(error))
            }
        }
    }

    async fn trim(&mut self, lsn: Lsn) -> Result<(), PoolError> {
        let failed = |error| PoolError::new(PoolErrorKind::Io, "the journal can't be trimmed").with_source(error);
        self.journal.trim(lsn).await.map_err(failed)?;
        let mut ledger = self.shared.ledger();
        ledger.journal_used_bytes = self.journal.used_bytes();
        ledger.checkpointed = ledger.checkpointed.max(lsn);
        ledger.notify();
        Ok(())
    }
}

fn is_dirty(disk: &PoolDisk) -> bool {
    disk.completed.load(Ordering::Acquire) > disk.synced.load(Ordering::Acquire)
        || disk.sync_failed.load(Ordering::Acquire)
}

/// The same words for every waiter; the cause went to the log.
fn copy_of(error: &PoolError) -> PoolError {
    PoolError { kind: error.kind, what: error.what, value: error.value, source: None }
}

/// The task on core 0 that commits by itself, so that a power cut takes little.
pub(crate) async fn commit_regularly<E: Io + Clock>(core: Rc<crate::core::PoolCore<E>>) {
    loop {
        core.env.io.sleep(core.shared.tuning.commit_interval()).await;
        if core.shared.stopping.load(Ordering::Acquire) {
            return;
        }
        let dirty = core.shared.ledger().has_pending() || core.disks().iter().any(|disk| is_dirty(disk));
        if dirty && core.shared.commit().await.is_err() {
            // The committer has logged it; trying again each interval is all there is to do.
            log::debug!("pool {}: regular commit failed", core.shared.name);
        }
    }
}
