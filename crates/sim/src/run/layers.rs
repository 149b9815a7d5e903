//! Snapshots and clones: taken, read and deleted in any order.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::Run;
use crate::engine::Engine;
use crate::host::{Ask, Known, Phase, SnapshotOf};
use crate::oracle::VolumeNo;
use crate::schedule::Scheduler;
use crate::workload;

/// Snapshots that live at once.
const SNAPSHOTS_MAX: usize = 6;
/// Volumes that live at once, clones among them.
const WRITABLE_MAX: usize = 6;
/// Volumes of which snapshots are taken together, at the most.
const GROUP_MAX: usize = 3;

impl<E: Engine> Run<E> {
    pub(super) fn layer_operation(&mut self, scheduler: &Scheduler, engine: &Rc<E>) {
        let (snapshots, writable): (Vec<Known>, Vec<Known>) =
            self.hosts.borrow().live().cloned().partition(|known| known.snapshot.is_some());
        let dice = self.random.below(100);
        match dice {
            0..45 if !writable.is_empty() && snapshots.len() < SNAPSHOTS_MAX => {
                self.take_snapshots(scheduler, engine, writable);
            }
            45..65 if !snapshots.is_empty() && writable.len() < WRITABLE_MAX => {
                let at = self.random.index(snapshots.len());
                self.clone_snapshot(scheduler, engine, &snapshots[at]);
            }
            65..95 if !snapshots.is_empty() => {
                self.world.counters.borrow_mut().snapshot_deletes += 1;
                let at = self.random.index(snapshots.len());
                self.delete(scheduler, engine, snapshots[at].no);
            }
            95..100 if writable.len() > 2 => {
                self.world.counters.borrow_mut().deletes += 1;
                let at = self.random.index(writable.len());
                self.delete(scheduler, engine, writable[at].no);
            }
            _ => {}
        }
    }

    fn take_snapshots(&mut self, scheduler: &Scheduler, engine: &Rc<E>, mut volumes: Vec<Known>) {
        let several = self.random.chance(400);
        let count = if several { self.random.between(1, GROUP_MAX.min(volumes.len()) as u64) as usize } else { 1 };
        while volumes.len() > count {
            volumes.swap_remove(self.random.index(volumes.len()));
        }
        let submitted = self.world.next_order();
        let moment = Arc::new(AtomicU64::new(submitted));
        let mut pairs = Vec::new();
        let mut taken: Vec<(VolumeNo, [u8; 16])> = Vec::new();
        for volume in &volumes {
            let before = self.hosts.borrow().volumes.len();
            let (no, uuid) = (VolumeNo(before as u32 + 1), self.new_uuid(before));
            let snapshot = Some(SnapshotOf { volume: volume.no, submitted, moment: Arc::clone(&moment), taken: false });
            let mut hosts = self.hosts.borrow_mut();
            hosts.oracle.read_begins(submitted);
            hosts.volumes.push(Known {
                no,
                uuid,
                phase: Phase::Creating,
                growing_to: None,
                snapshot,
                ..volume.clone()
            });
            pairs.push((volume.uuid, uuid));
            taken.push((no, uuid));
        }
        let mut counters = self.world.counters.borrow_mut();
        counters.snapshots += count as u64;
        counters.group_snapshots += if count > 1 { count as u64 } else { 0 };
        drop(counters);
        let what = volumes.iter().zip(&taken).map(|(volume, (no, _))| format!("{} of volume {}", no.0, volume.no.0));
        let what = format!("snapshot {}", what.collect::<Vec<_>>().join(", "));
        let (pool, listing) = (Rc::clone(engine), Rc::clone(engine));
        let taking = async move { pool.snapshot(pairs).await };
        self.control(scheduler, what, taking, move |hosts, done| {
            let sizes = listing.volumes();
            for (no, uuid) in taken {
                hosts.freeze(no);
                let size = sizes.iter().find(|listed| listed.uuid == uuid).map(|listed| listed.size_bytes);
                let known = hosts.known(no);
                known.phase = if done { Phase::Live } else { Phase::Gone };
                match size.filter(|_| done) {
                    Some(size) => {
                        known.size_bytes = size;
                        hosts.oracle.grow(no, size);
                    }
                    None if done => hosts.fail(format!("snapshot {} was taken and is not there", no.0)),
                    None => hosts.oracle.remove_volume(no),
                }
            }
        });
    }

    fn clone_snapshot(&mut self, scheduler: &Scheduler, engine: &Rc<E>, snapshot: &Known) {
        let before = self.hosts.borrow().volumes.len();
        let (no, uuid) = (VolumeNo(before as u32 + 1), self.new_uuid(before));
        {
            let mut hosts = self.hosts.borrow_mut();
            let (size, block) = (snapshot.size_bytes, snapshot.logical_block_bytes);
            hosts.oracle.add_clone(no, snapshot.no, size, block);
            let phase = Phase::Creating;
            hosts.volumes.push(Known { no, uuid, phase, growing_to: None, snapshot: None, ..snapshot.clone() });
        }
        self.world.counters.borrow_mut().clones += 1;
        let (pool, of) = (Rc::clone(engine), snapshot.uuid);
        let cloning = async move { pool.clone_snapshot(of, uuid).await };
        self.control(
            scheduler,
            format!("clone snapshot {} as volume {}", snapshot.no.0, no.0),
            cloning,
            move |hosts, done| {
                hosts.known(no).phase = if done { Phase::Live } else { Phase::Gone };
                if !done {
                    hosts.oracle.remove_volume(no);
                }
            },
        );
    }

    /// Reads of a snapshot, if there is one.
    pub(super) fn read_snapshot(&mut self, scheduler: &Scheduler, engine: &Rc<E>) {
        let snapshots: Vec<Known> =
            self.hosts.borrow().live().filter(|known| known.snapshot.is_some()).cloned().collect();
        if snapshots.is_empty() {
            return;
        }
        let snapshot = &snapshots[self.random.index(snapshots.len())];
        let (sectors, block) = (snapshot.sectors(), snapshot.block_sectors());
        let range = workload::range(&mut self.random, &self.knobs, sectors, block, false);
        self.ask(scheduler, engine, snapshot.no, Ask::Read(range));
    }
}
