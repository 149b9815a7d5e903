//! Who runs next: ready tasks of all cores in random order; time passes only when no core has any.
//!
//! A core may stand still for a while (its thread lost the processor) as the others and the disks go on: otherwise no
//! task would ever be late.

use std::rc::Rc;
use std::sync::Arc;

use sds_io::{Executor, Spawner};

use crate::process::{Effect, Process};
use crate::random::Random;
use crate::world::{SimIo, World};

/// A core stands still this long at the most.
const CORE_STALL_NS_MAX: u64 = 30_000_000;
/// Steps without time passing before a run counts as spinning.
const STEPS_PER_INSTANT_MAX: u64 = 2_000_000;

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A task ran, or time passed.
    Went,
    /// The process is dead.
    Dead,
    /// Nothing is ready and nothing will ever happen.
    Stuck,
}

/// One life of the process: its cores.
pub struct Scheduler {
    /// The world that it lives in.
    pub world: Rc<World>,
    /// Itself.
    pub process: Arc<Process>,
    executors: Vec<Executor>,
    stalled_until_ns: Vec<u64>,
    random: Random,
    core_stall_per_100k: u32,
    steps_now: u64,
}

impl Scheduler {
    /// A new process of `cores` cores.
    #[must_use]
    pub fn new(world: &Rc<World>, cores: usize, random: Random, core_stall_per_100k: u32) -> Self {
        Self {
            world: Rc::clone(world),
            process: Arc::default(),
            executors: (0..cores).map(|_| Executor::new(Arc::new(|| ()))).collect(),
            stalled_until_ns: vec![0; cores],
            random,
            core_stall_per_100k,
            steps_now: 0,
        }
    }

    /// Each core's way to the world.
    #[must_use]
    pub fn io(&self) -> SimIo {
        SimIo { world: Rc::clone(&self.world), process: Arc::clone(&self.process) }
    }

    /// Each core's spawner.
    #[must_use]
    pub fn spawners(&self) -> Vec<Spawner> {
        self.executors.iter().map(Executor::spawner).collect()
    }

    /// Runs one task, or lets time pass until `until` at the most.
    ///
    /// # Panics
    /// If tasks go on waking each other and time never passes.
    pub fn step(&mut self, until: Option<u64>) -> Step {
        if !self.process.alive() {
            return Step::Dead;
        }
        let now = self.world.now().as_nanos() as u64;
        let has_ready = |core: &usize| self.executors[*core].ready_tasks() > 0;
        let (mut ready, mut stalled) = ([0_usize; 8], None);
        let mut count = 0;
        for core in (0..self.executors.len()).filter(has_ready) {
            if self.stalled_until_ns[core] <= now {
                ready[count] = core;
                count += 1;
            } else {
                stalled = Some(stalled.unwrap_or(u64::MAX).min(self.stalled_until_ns[core]));
            }
        }
        if count == 0 {
            self.steps_now = 0;
            let until = [until, stalled].into_iter().flatten().min();
            return if self.world.advance(until) { Step::Went } else { Step::Stuck };
        }
        self.steps_now += 1;
        assert!(self.steps_now < STEPS_PER_INSTANT_MAX, "tasks spin: time does not pass");
        let core = ready[self.random.index(count)];
        if self.core_stall_per_100k > 0 && self.random.below(100_000) < u64::from(self.core_stall_per_100k) {
            self.stalled_until_ns[core] = now + self.random.between(1, CORE_STALL_NS_MAX);
            self.world.counters.borrow_mut().core_stalls += 1;
            return Step::Went;
        }
        if self.process.effect() != Effect::Whole {
            return Step::Dead;
        }
        let random = &mut self.random;
        let mut chosen = 0;
        self.executors[core].step(|ready| {
            chosen = random.index(ready);
            chosen
        });
        let mut trace = self.world.trace.get();
        trace.mix([6, core as u64, chosen as u64, now]);
        self.world.trace.set(trace);
        if self.process.alive() { Step::Went } else { Step::Dead }
    }

    /// Ends the process: its tasks are dropped, and nothing that this does reaches the world.
    pub fn kill(&self) {
        self.process.kill();
        for executor in &self.executors {
            executor.clear();
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knobs::Knobs;
    use sds_io::Clock;
    use std::cell::RefCell;
    use std::time::Duration;

    fn order_of(seed: u64) -> Vec<u32> {
        let mut random = Random::new(seed);
        let world = World::new(&Knobs::new(seed, 1), &mut random);
        let mut scheduler = Scheduler::new(&world, 2, random.fork(), 0);
        let seen = Rc::new(RefCell::new(Vec::new()));
        for task in 0..6 {
            let (io, seen) = (scheduler.io(), Rc::clone(&seen));
            scheduler.spawners()[task as usize % 2].spawn(async move {
                seen.borrow_mut().push(task);
                io.sleep(Duration::from_secs(u64::from(6 - task))).await;
                seen.borrow_mut().push(task);
            });
        }
        while scheduler.step(None) == Step::Went {}
        assert_eq!(world.now(), Duration::from_secs(6));
        seen.take()
    }

    #[test]
    fn ready_tasks_run_in_an_order_that_the_seed_decides_and_sleepers_in_that_of_time() {
        let first = order_of(1);
        assert_eq!(first[6..], [5, 4, 3, 2, 1, 0]);
        assert_eq!(order_of(1), first);
        assert!((2..20).any(|seed| order_of(seed)[..6] != first[..6]));
    }
}
