//! The engine's process, as the world sees it: alive until a chosen effect.
//!
//! A kill comes between any two effects (a disk request, a carry-over store, a metadata request, an answer to a host),
//! also within one turn of a task: from that effect on nothing the process does reaches the world.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One life of the process. All its handles to the world share it.
#[derive(Debug)]
pub struct Process {
    alive: AtomicBool,
    effects_left: AtomicU64,
}

/// What becomes of an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It happens.
    Whole,
    /// The kill comes within it.
    Cut,
    /// The process is dead: it does not happen.
    Never,
}

impl Default for Process {
    fn default() -> Self {
        Self { alive: AtomicBool::new(true), effects_left: AtomicU64::new(u64::MAX) }
    }
}

impl Process {
    /// Kills it at its `effects`th effect from now.
    pub fn kill_after(&self, effects: u64) {
        self.effects_left.store(effects, Ordering::Relaxed);
    }

    /// Kills it now.
    pub fn kill(&self) {
        self.alive.store(false, Ordering::Relaxed);
    }

    /// True until it is killed.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// It is about to do something.
    pub fn effect(&self) -> Effect {
        if !self.alive() {
            return Effect::Never;
        }
        let left = self.effects_left.load(Ordering::Relaxed);
        if left == u64::MAX {
            return Effect::Whole;
        }
        if left == 0 {
            self.kill();
            return Effect::Cut;
        }
        self.effects_left.store(left - 1, Ordering::Relaxed);
        Effect::Whole
    }
}
