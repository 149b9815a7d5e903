//! What an administrator should know of, on its way to Python.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

/// Events that wait for Python, which asks several times a second; what comes on top replaces the oldest.
const EVENTS_MAX: usize = 256;

/// One event.
#[derive(Clone, IntoPyObject)]
pub struct Event {
    level: &'static str,
    kind: &'static str,
    message: String,
    subject: String,
}

/// How much an event matters.
#[derive(Clone, Copy)]
pub enum Level {
    /// Good to know.
    Info,
    /// Somebody should look at it some time.
    Warning,
    /// Somebody must look at it.
    Error,
}

impl Event {
    /// An event about the pool of that name; `kind` is a stable slug.
    pub fn of_pool(level: Level, kind: &'static str, pool: &str, message: String) -> Self {
        let level = match level {
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        Self { level, kind, message, subject: format!("pool/{pool}") }
    }
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Event>,
    stopped: bool,
}

/// The events that Python has not fetched yet.
#[derive(Default)]
pub struct Events {
    state: Mutex<State>,
    filled: Condvar,
}

impl Events {
    // A panic elsewhere leaves the queue whole: each change is one step.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one.
    pub fn push(&self, event: Event) {
        let mut state = self.state();
        if state.waiting.len() >= EVENTS_MAX {
            state.waiting.pop_front();
        }
        state.waiting.push_back(event);
        drop(state);
        self.filled.notify_one();
    }

    /// All that wait; `None` when the time is over or the node has stopped.
    pub fn next(&self, wait: Duration) -> Option<Vec<Event>> {
        let deadline = Instant::now() + wait;
        let mut state = self.state();
        loop {
            if !state.waiting.is_empty() {
                return Some(state.waiting.drain(..).collect());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.stopped || left.is_zero() {
                return None;
            }
            state = self.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Nobody has to wait any more.
    pub fn stop(&self) {
        self.state().stopped = true;
        self.filled.notify_all();
    }
}
