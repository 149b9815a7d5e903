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
use sds_io::{Clock, Io, IoError};

use crate::core::PoolCore;
use crate::damage::Structure;
use crate::env::CoreEnv;
use crate::error::{PoolError, PoolErrorKind};
use crate::format::member;
use crate::journal::{Chain, Journal, JournalError, LostMember, Outcome};
use crate::label_io::{label_slots, write_label};
use crate::layout::label::Label;
use crate::place::Lsn;
use crate::planted::{Defect, Planted};
use crate::shared::{CommitRequest, PoolDisk, PoolShared, lock};

/// The task on core 0 that makes things durable.
pub(crate) struct Committer<E: Io + Clock> {
    pub shared: Arc<PoolShared>,
    pub env: CoreEnv<E>,
    pub journal: Journal<E>,
    pub requests: Receiver<CommitRequest>,
    /// The journal failed: nothing is durable any more until the pool is opened anew.
    pub failed: Option<PoolError>,
}

type Done = OneshotSender<Result<(), PoolError>>;

impl<E: Io + Clock> Committer<E> {
    pub(crate) async fn run(mut self) {
        while let Some(request) = self.requests.next().await {
            let mut waiting: Vec<Done> = Vec::new();
            let mut trims: Vec<(Lsn, Done)> = Vec::new();
            let mut admits: Vec<(Arc<PoolDisk>, Done)> = Vec::new();
            let mut looks: Vec<OneshotSender<Result<Chain, PoolError>>> = Vec::new();
            let mut stop = None;
            let mut next = Some(request);
            while let Some(request) = next {
                match request {
                    CommitRequest::Durable(done) => waiting.push(done),
                    CommitRequest::Admit(disk, done) => admits.push((disk, done)),
                    CommitRequest::Trim(lsn, done) => trims.push((lsn, done)),
                    CommitRequest::Verify(done) => looks.push(done),
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
                    done.send(outcome.as_ref().copied().map_err(PoolError::again));
                }
            }
            for (lsn, done) in trims {
                done.send(self.trim(lsn).await);
            }
            for (disk, done) in admits {
                done.send(self.admit(&disk).await);
            }
            for done in looks {
                done.send(self.verify().await);
            }
            if let Some(done) = stop {
                done.send(());
                return;
            }
        }
    }

    /// Looks at all labels and at the journal's headers, tells of those that are not what was written and writes them
    /// anew. Returns the journal's frames as of now, which others may read.
    async fn verify(&mut self) -> Result<Chain, PoolError> {
        if self.shared.is_stopping() {
            // Labels are another's from here on.
            return Err(PoolError::new(PoolErrorKind::Closed, "the pool is being closed"));
        }
        self.require_journal()?;
        for disk in self.shared.disks().iter().filter(|disk| !disk.lost.load(Ordering::Acquire)) {
            self.verify_label(disk).await;
        }
        let bad = self.journal.bad_headers().await;
        let disks: Vec<Option<Arc<PoolDisk>>> =
            self.journal.members().iter().map(|member| self.shared.disk_of(member.disk)).collect();
        for (number, disk) in disks.iter().enumerate().filter_map(|(number, disk)| Some((number, disk.as_ref()?))) {
            let of_disk = bad.iter().filter(|(member, ..)| *member == number);
            let mut found = 0;
            for (_, header, why) in of_disk {
                self.shared.tell_damage(disk, Structure::JournalHeader(*header), why);
                found += 1;
            }
            self.shared.count_verified(disk.no, 2 - found);
        }
        if !bad.is_empty() {
            let outcome = self.journal.rewrite_headers().await.map_err(|error| self.journal_error(error))?;
            self.settle(outcome).await?;
            for (number, ..) in bad {
                disks[number].iter().for_each(|disk| self.shared.tell_mended(disk.no, 1));
            }
        }
        Ok(self.journal.chain())
    }

    async fn verify_label(&self, disk: &Arc<PoolDisk>) {
        let slots = label_slots(&self.env.io, disk.disk).await;
        let newest = slots.iter().flatten().map(|label| label.sequence).max().unwrap_or(0);
        let ours = lock(&disk.label).clone();
        let written = Label { sequence: newest, ..ours.clone() }.encode();
        let mut bad = 0;
        for (slot, read) in (0..).zip(&slots) {
            let why = match read {
                Ok(label) if label.encode() == written => continue,
                Ok(_) => "it is not what was written there last".to_owned(),
                Err(error) => error.to_string(),
            };
            self.shared.tell_damage(disk, Structure::Label(slot), why);
            bad += 1;
        }
        self.shared.count_verified(disk.no, 2 - bad);
        let is_newer = |label: &Label| (label.pool_epoch, label.openings) > (ours.pool_epoch, ours.openings);
        // One that another engine wrote, or that rose as a later one failed, is not taken back.
        if bad == 0 || slots.iter().flatten().any(is_newer) {
            return;
        }
        match relabel_disk(&self.env.io, disk, self.shared.planted, |_| {}).await {
            Ok(()) => self.shared.tell_mended(disk.no, bad),
            Err(error) => log::error!("{}: its labels can't be written anew: {error}", disk.info.path),
        }
    }

    async fn round(&mut self) -> Result<(), PoolError> {
        self.require_journal()?;
        let planted = self.shared.planted;
        let sealed = (!planted.has(Defect::LateSeal)).then(|| self.shared.ledger().seal());
        let synced = if planted.has(Defect::SkipSync) { Ok(()) } else { self.sync_disks().await };
        let (last, groups) = sealed.unwrap_or_else(|| self.shared.ledger().seal());
        if let Err(error) = synced {
            self.shared.ledger().unseal(groups);
            return Err(error);
        }
        if !groups.is_empty() {
            let appended = match self.journal.append(&groups).await {
                Ok(outcome) => self.settle(outcome).await,
                Err(error) => Err(self.journal_error(error)),
            };
            if let Err(error) = appended {
                self.shared.ledger().unseal(groups);
                return Err(error);
            }
        }
        self.publish_use(|ledger| ledger.set_durable(last));
        let percent = self.journal.room().used_fraction() * 100.0;
        if percent >= f64::from(self.shared.tuning.checkpoint_journal_percent) {
            self.shared.want_checkpoint();
        }
        Ok(())
    }

    /// A member that failed misses what the others have: before anybody hears of it, the pool's epoch rises in all
    /// labels that are left, so that the failed one is never taken for current. If that can't be, the journal has what
    /// nobody was told of, and takes nothing more.
    async fn settle(&mut self, mut outcome: Outcome) -> Result<(), PoolError> {
        while !outcome.lost.is_empty() {
            outcome = match self.raise_epoch(&outcome.lost).await {
                Ok(outcome) => outcome,
                Err(error) => return Err(self.fail(error)),
            };
        }
        Ok(())
    }

    async fn raise_epoch(&mut self, lost: &[LostMember]) -> Result<Outcome, PoolError> {
        let disks = self.shared.disks();
        let epoch = disks.iter().map(|disk| lock(&disk.label).pool_epoch).max().unwrap_or(0) + 1;
        for LostMember { disk, error } in lost {
            log::error!("pool {}: disk {} left the journal, epoch {epoch}: {error}", self.shared.name, disk.0);
        }
        for disk in disks.iter().filter(|disk| lost.iter().any(|lost| lost.disk == disk.disk)) {
            disk.lost.store(true, Ordering::Release);
        }
        let left = disks.iter().filter(|disk| !disk.lost.load(Ordering::Acquire));
        // Those with the journal first: an epoch that no journal has would leave the pool without one.
        let (members, others): (Vec<_>, Vec<_>) = left.partition(|disk| lock(&disk.label).journal);
        for disks in [members, others] {
            let relabel = |label: &mut Label| label.pool_epoch = epoch;
            let labels = disks.into_iter().map(|disk| relabel_disk(&self.env.io, disk, self.shared.planted, relabel));
            join_all(labels.collect()).await.into_iter().collect::<Result<(), PoolError>>()?;
        }
        self.journal.set_epoch(epoch).await.map_err(|error| self.journal_error(error))
    }

    /// Only a full journal gets better.
    fn journal_error(&mut self, error: JournalError) -> PoolError {
        if matches!(error, JournalError::Full(_)) {
            self.shared.want_checkpoint();
            return PoolError::new(PoolErrorKind::Busy, "the journal has no room").with_source(error);
        }
        self.fail(PoolError::new(PoolErrorKind::Io, "the journal can't be written").with_source(error))
    }

    /// Nothing becomes durable any more until the pool is opened anew.
    fn fail(&mut self, error: PoolError) -> PoolError {
        self.failed = Some(error.again());
        self.shared.journal_failed.store(true, Ordering::Release);
        error
    }

    fn require_journal(&self) -> Result<(), PoolError> {
        self.failed.as_ref().map_or(Ok(()), |failed| Err(failed.again()))
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
        let completed = disk.completed.load(Ordering::Acquire);
        let synced = disk.careful(&self.env.io, self.shared.planted).sync(disk.disk).await;
        let what = "a disk failed a sync; what it holds is not certain";
        synced.map_err(|error| PoolError::new(PoolErrorKind::Io, what).with_source(error))?;
        disk.synced.fetch_max(completed, Ordering::AcqRel);
        Ok(())
    }

    /// The disk's label says that it has a copy only when it has it: until then what it has counts for nothing.
    async fn admit(&mut self, disk: &Arc<PoolDisk>) -> Result<(), PoolError> {
        self.require_journal()?;
        let failed = |error| PoolError::new(PoolErrorKind::Io, "the journal can't be copied").with_source(error);
        let member = member(disk.disk, &lock(&disk.label));
        let mut outcome = self.journal.admit(member).await.map_err(failed)?;
        let mut refused = outcome.lost.iter().find(|lost| lost.disk == disk.disk).map(|lost| lost.error);
        if refused.is_none() {
            // Before an epoch rises for another one: the journal must not be left on disks alone whose labels deny it.
            let relabelled = change_label(&self.env.io, disk, self.shared.planted, |label| label.journal = true).await;
            if let Err(error) = relabelled {
                let expelled = self.journal.expel(disk.disk, error).map_err(|error| self.journal_error(error))?;
                outcome.lost.push(expelled);
                refused = Some(error);
            }
        }
        self.settle(outcome).await?;
        refused.map_or(Ok(()), |error| {
            let what = "the disk can't have a copy of the journal";
            Err(PoolError::new(PoolErrorKind::Io, what).with_source(error))
        })
    }

    async fn trim(&mut self, lsn: Lsn) -> Result<(), PoolError> {
        self.require_journal()?;
        let outcome = self.journal.trim(lsn).await.map_err(|error| self.journal_error(error))?;
        self.settle(outcome).await?;
        self.publish_use(|ledger| {
            ledger.checkpointed = ledger.checkpointed.max(lsn);
            ledger.notify();
        });
        Ok(())
    }

    /// Tells the ledger how full the journal is, then runs `more` under the same lock.
    fn publish_use(&self, more: impl FnOnce(&mut crate::ledger::Ledger)) {
        let mut ledger = self.shared.ledger();
        ledger.set_room(self.journal.room());
        ledger.journal_laps = self.journal.laps();
        more(&mut ledger);
    }
}

/// Changes a disk's label, in memory once it is durable on the disk. Only core 0 calls this.
pub(crate) async fn relabel_disk<E: Io>(
    io: &E,
    disk: &Arc<PoolDisk>,
    planted: Planted,
    change: impl FnOnce(&mut Label),
) -> Result<(), PoolError> {
    let failed = |error| PoolError::new(PoolErrorKind::Io, "a label can't be written").with_source(error);
    change_label(io, disk, planted, change).await.map_err(failed)
}

async fn change_label<E: Io>(
    io: &E,
    disk: &Arc<PoolDisk>,
    planted: Planted,
    change: impl FnOnce(&mut Label),
) -> Result<(), IoError> {
    let mut label = lock(&disk.label).clone();
    change(&mut label);
    write_label(&disk.careful(io, planted), disk.disk, &label).await?;
    *lock(&disk.label) = label;
    Ok(())
}

fn is_dirty(disk: &PoolDisk) -> bool {
    disk.completed.load(Ordering::Acquire) > disk.synced.load(Ordering::Acquire)
        || disk.sync_failed.load(Ordering::Acquire)
}

/// The task on core 0 that commits by itself, so that a power cut takes little.
pub(crate) async fn commit_regularly<E: Io + Clock>(core: Rc<PoolCore<E>>) {
    loop {
        core.env.io.sleep(core.shared.tuning.commit_interval()).await;
        if core.shared.is_stopping() {
            return;
        }
        let dirty = core.shared.ledger().has_pending() || core.disks().iter().any(|disk| is_dirty(disk));
        if dirty && core.shared.commit().await.is_err() {
            // The committer has logged it; trying again each interval is all there is to do.
            log::debug!("pool {}: regular commit failed", core.shared.name);
        }
    }
}
