//! The end of a world: everything is given back.

use std::rc::Rc;
use std::time::Duration;

use super::Run;
use crate::engine::Engine;
use crate::host::{Ask, Known};
use crate::schedule::Scheduler;

/// Within this time all that was discarded is free again.
const GIVE_BACK_S_MAX: u32 = 120;

impl<E: Engine> Run<E> {
    // Discards everything: then nothing may stay allocated, whatever was refused, given up or killed before.
    pub(super) fn give_all_back(&mut self, scheduler: &mut Scheduler, engine: &Rc<E>) -> Result<bool, String> {
        let (snapshots, volumes): (Vec<Known>, Vec<Known>) =
            self.hosts.borrow().live().cloned().partition(|volume| volume.snapshot.is_some());
        for snapshot in &snapshots {
            self.delete(scheduler, engine, snapshot.no);
            if !self.settle_to(scheduler, 1)? {
                return Ok(false);
            }
        }
        if !self.rest_until(scheduler, || engine.health().deletions == 0)? {
            return Ok(false);
        }
        // Where somebody else needed what was under it, a discard takes a chunk; the next one gives it back.
        for _ in 0..if self.knobs.layers_per_mille > 0 { 2 } else { 1 } {
            for volume in &volumes {
                let whole = smallvec::smallvec![(0, volume.sectors())];
                self.ask_patiently(scheduler, engine, volume.no, Ask::Discard(whole));
                if !self.settle_to(scheduler, 1)? {
                    return Ok(false);
                }
            }
        }
        if !self.rest_until(scheduler, || engine.health().allocated_bytes == 0)? {
            return Ok(false);
        }
        if engine.health().allocated_bytes > 0 && self.knobs.layers_per_mille > 0 {
            // A full pool had no chunk to hide with what clones share: then none of them could let go of it.
            for volume in &volumes {
                self.delete(scheduler, engine, volume.no);
            }
            if !self.settle_to(scheduler, 1)? || !self.rest_until(scheduler, || engine.health().allocated_bytes == 0)? {
                return Ok(false);
            }
        }
        if engine.health().allocated_bytes == 0 {
            return Ok(true);
        }
        Err(format!("{} bytes stay allocated when everything was discarded", engine.health().allocated_bytes))
    }

    // Lets time pass until it is so, but not for ever; false if the process died.
    fn rest_until(&mut self, scheduler: &mut Scheduler, is_so: impl Fn() -> bool) -> Result<bool, String> {
        for _ in 0..GIVE_BACK_S_MAX {
            if is_so() {
                break;
            }
            self.quiet_until_ns = (self.world.now() + Duration::from_secs(1)).as_nanos() as u64;
            if !self.settle_to(scheduler, 1)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
