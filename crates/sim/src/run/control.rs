//! Commands to the pool: volumes, documents, disks.

use std::future::Future;
use std::rc::Rc;

use sds_io::DiskId;

use super::Run;
use crate::engine::{Engine, Refusal, Refused};
use crate::host::{Hosts, Known, Phase};
use crate::oracle::VolumeNo;
use crate::schedule::Scheduler;

/// Volumes that live at once.
const VOLUMES_MAX: usize = 4;
/// Volumes grow to about this.
const VOLUME_BYTES_MAX: u64 = 256 << 20;

impl<E: Engine> Run<E> {
    pub(super) fn volume_operation(&mut self, scheduler: &Scheduler, engine: &Rc<E>, live: &[Known]) {
        if live.len() < 2 || (live.len() < VOLUMES_MAX && self.random.chance(500)) {
            return self.create_volume(scheduler, engine);
        }
        let no = live[self.random.index(live.len())].no;
        self.world.counters.borrow_mut().deletes += 1;
        self.delete(scheduler, engine, no);
    }

    /// Deletes a volume or a snapshot.
    pub(super) fn delete(&mut self, scheduler: &Scheduler, engine: &Rc<E>, no: VolumeNo) {
        let uuid = {
            let mut hosts = self.hosts.borrow_mut();
            let known = hosts.known(no);
            known.phase = Phase::Deleting;
            known.uuid
        };
        let pool = Rc::clone(engine);
        let deletion = async move { pool.delete_volume(uuid).await };
        self.control(scheduler, format!("delete volume {}", no.0), deletion, move |hosts, done| {
            hosts.known(no).phase = if done { Phase::Gone } else { Phase::Live };
            if done {
                hosts.oracle.remove_volume(no);
            }
        });
    }

    pub(super) fn create_volume(&mut self, scheduler: &Scheduler, engine: &Rc<E>) {
        let count = self.hosts.borrow().volumes.len();
        let bytes = &self.knobs.volume_bytes;
        let size_bytes = bytes[count % bytes.len()];
        let logical_block_bytes = self.knobs.logical_block_bytes;
        let uuid = self.new_uuid(count);
        let no = VolumeNo(count as u32 + 1);
        let phase = Phase::Creating;
        let known = Known { no, uuid, size_bytes, logical_block_bytes, phase, growing_to: None, snapshot: None };
        {
            let mut hosts = self.hosts.borrow_mut();
            hosts.volumes.push(known);
            hosts.oracle.add_volume(no, size_bytes, logical_block_bytes);
        }
        self.world.counters.borrow_mut().creates += 1;
        let pool = Rc::clone(engine);
        let creation = async move { pool.create_volume(uuid, size_bytes, logical_block_bytes).await };
        self.control(
            scheduler,
            format!("create volume {} of {size_bytes} bytes", no.0),
            creation,
            move |hosts, done| {
                hosts.known(no).phase = if done { Phase::Live } else { Phase::Gone };
            },
        );
    }

    /// A name for the volume or snapshot before which there were `count`.
    pub(super) fn new_uuid(&mut self, count: usize) -> [u8; 16] {
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&self.random.bits().to_le_bytes());
        uuid[8..].copy_from_slice(&(count as u64).to_le_bytes());
        uuid
    }

    pub(super) fn grow(&mut self, scheduler: &Scheduler, engine: &Rc<E>, live: &[Known]) {
        let volume = &live[self.random.index(live.len())];
        let (no, uuid) = (volume.no, volume.uuid);
        if volume.growing_to.is_some() || volume.size_bytes > VOLUME_BYTES_MAX {
            return;
        }
        let size_bytes = volume.size_bytes + self.random.between(1, 512) * 4096;
        self.hosts.borrow_mut().known(no).growing_to = Some(size_bytes);
        self.world.counters.borrow_mut().resizes += 1;
        let pool = Rc::clone(engine);
        let resize = async move { pool.resize_volume(uuid, size_bytes).await };
        self.control(scheduler, format!("grow volume {} to {size_bytes} bytes", no.0), resize, move |hosts, done| {
            let known = hosts.known(no);
            // Deleted meanwhile: nothing to grow.
            if known.phase == Phase::Gone {
                return;
            }
            known.growing_to = None;
            if done {
                known.size_bytes = size_bytes;
                hosts.oracle.grow(no, size_bytes);
            }
        });
    }

    pub(super) fn put_document(&mut self, scheduler: &Scheduler, engine: &Rc<E>) {
        let key = format!("document/{}", self.random.index(6));
        let len = self.random.index(300);
        let value = self.random.chance(700).then(|| vec![self.random.bits() as u8; len]);
        {
            let mut hosts = self.hosts.borrow_mut();
            let allowed = hosts.documents.entry(key.clone()).or_insert_with(|| vec![None]);
            // One open put a key: the order of two is not the hosts' to know.
            if allowed.len() > 1 {
                return;
            }
            allowed.push(value.clone());
        }
        self.world.counters.borrow_mut().documents += 1;
        let (pool, name, put) = (Rc::clone(engine), key.clone(), value.clone());
        let change = async move { pool.put_document(name, put).await };
        self.control(scheduler, format!("put {key}"), change, move |hosts, done| {
            if done {
                hosts.documents.insert(key, vec![value]);
            }
        });
    }

    // False if there is none to add.
    pub(super) fn add_disk(&mut self, scheduler: &Scheduler, engine: &Rc<E>) -> bool {
        let disk = {
            let mut hosts = self.hosts.borrow_mut();
            let spare = (0..self.knobs.disks.len() as u16).map(DiskId).find(|disk| !hosts.disks.contains(disk));
            let Some(disk) = spare.filter(|_| hosts.joining.is_none()) else { return false };
            hosts.joining = Some(disk);
            disk
        };
        let (pool, world) = (Rc::clone(engine), Rc::clone(&self.world));
        let addition = async move { pool.add_disk(disk).await };
        self.control(scheduler, format!("add disk {}", disk.0), addition, move |hosts, done| {
            hosts.joining = None;
            if done {
                hosts.disks.push(disk);
                world.counters.borrow_mut().disks_added += 1;
            }
        });
        true
    }

    pub(super) fn control(
        &mut self,
        scheduler: &Scheduler,
        what: String,
        future: impl Future<Output = Result<(), Refusal>> + 'static,
        then: impl FnOnce(&mut Hosts, bool) + 'static,
    ) {
        self.touch();
        self.record(format!("{what}: submitted"));
        self.hosts.borrow_mut().open += 1;
        let context = self.context(scheduler);
        scheduler.spawners()[0].spawn(async move {
            let result = future.await;
            if context.process.effect() != crate::process::Effect::Whole {
                return;
            }
            let mut hosts = context.hosts.borrow_mut();
            hosts.open -= 1;
            hosts.last_answer = context.world.now();
            let order = context.world.next_order();
            let outcome = result.as_ref().map_or_else(|(_, words)| words.clone(), |()| "done".into());
            hosts.record(&context.world, order, None, format!("{what}: {outcome}"));
            match &result {
                Err((Refused::Defect, words)) => hosts.fail(format!("{what}: {words}")),
                Err((Refused::Failed, words)) if !context.faulty => hosts.fail(format!("{what}: {words}")),
                Err((Refused::Busy, words)) if !context.faulty && !context.world.store.excuses() => {
                    hosts.fail(format!("{what}: {words}"))
                }
                Ok(()) | Err(_) => {}
            }
            // A change that could not be made durable may be there or not: the next opening tells.
            if !matches!(result, Err((Refused::Failed, _))) {
                then(&mut hosts, result.is_ok());
            }
        });
    }
}
