//! The pools' MetaStore: RocksDB, which Python has.
//!
//! A request of a core becomes a piece of work in a queue; a thread of Python's takes it, does it and answers by its
//! number. The core waits for a one-shot answer, which may come from any thread. What a pool has open is bounded by its
//! checkpoints (one batch at a time) and by its hosts' requests (one page each), and all together by [`WORK_MAX`].

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sds_io::meta::MetaFuture;
use sds_io::sync::{OneshotSender, oneshot};
use sds_io::{MetaBatch, MetaError, MetaStore};

use crate::uuid::Uuid;

/// Work that is open at once, of all pools: with pages of up to 60 KiB that is 240 MiB of answers at the worst.
const WORK_MAX: usize = 4096;

/// A row: key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// What RocksDB is to do.
pub enum Operation {
    /// Read rows by key.
    Get(Vec<Vec<u8>>),
    /// Read up to so many rows of a prefix, after a key.
    Scan(Vec<u8>, Vec<u8>, usize),
    /// Apply a batch as a whole, durably.
    Put(MetaBatch),
}

type Sender<T> = OneshotSender<Result<T, MetaError>>;

/// Who waits for it.
pub enum Answer {
    /// Of [`Operation::Get`].
    Get(Sender<Vec<Option<Vec<u8>>>>),
    /// Of [`Operation::Scan`].
    Scan(Sender<Vec<Row>>),
    /// Of [`Operation::Put`].
    Put(Sender<()>),
}

impl Answer {
    /// Answers with a failure.
    pub fn fail(self, why: String) {
        let error = MetaError(why);
        match self {
            Self::Get(sender) => sender.send(Err(error)),
            Self::Scan(sender) => sender.send(Err(error)),
            Self::Put(sender) => sender.send(Err(error)),
        }
    }
}

#[derive(Default)]
struct State {
    /// The last number that was given.
    last: u64,
    waiting: VecDeque<(u64, Uuid, Operation)>,
    /// Work that was not answered yet, whether it was taken or not.
    open: HashMap<u64, (Uuid, Answer)>,
    stopped: bool,
}

/// The work of all pools.
#[derive(Default)]
pub struct MetaQueue {
    state: Mutex<State>,
    filled: Condvar,
}

impl MetaQueue {
    // A panic elsewhere leaves the queue whole: each change is one step.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, pool: Uuid, operation: Operation, answer: Answer) {
        let mut state = self.state();
        if state.stopped || state.open.len() >= WORK_MAX {
            let why = if state.stopped { "the node has stopped" } else { "too much metadata work is open" };
            drop(state);
            return answer.fail(why.to_owned());
        }
        state.last += 1;
        let number = state.last;
        state.waiting.push_back((number, pool, operation));
        state.open.insert(number, (pool, answer));
        drop(state);
        self.filled.notify_one();
    }

    /// The next work, with its number and pool; `None` when the time is over or the node has stopped.
    pub fn next(&self, wait: Duration) -> Option<(u64, Uuid, Operation)> {
        let deadline = Instant::now() + wait;
        let mut state = self.state();
        loop {
            if let Some(work) = state.waiting.pop_front() {
                return Some(work);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.stopped || left.is_zero() {
                return None;
            }
            state = self.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Who waits for the work; `None` if it was answered already, or its pool closed meanwhile.
    pub fn take(&self, number: u64) -> Option<Answer> {
        self.state().open.remove(&number).map(|(_, answer)| answer)
    }

    fn fail_all(&self, why: &str, of: impl Fn(Uuid) -> bool) {
        let mut state = self.state();
        state.waiting.retain(|(_, pool, _)| !of(*pool));
        let numbers: Vec<u64> = state.open.iter().filter(|(_, (pool, _))| of(*pool)).map(|(at, _)| *at).collect();
        let open: Vec<_> = numbers.iter().filter_map(|number| state.open.remove(number)).collect();
        drop(state);
        for (_, answer) in open {
            answer.fail(why.to_owned());
        }
    }

    /// Answers what a pool still has open with an error.
    pub fn close_pool(&self, pool: Uuid) {
        self.fail_all("the pool was closed", |of| of == pool);
    }

    /// No more work.
    pub fn stop(&self) {
        self.state().stopped = true;
        self.filled.notify_all();
        self.fail_all("the node has stopped", |_| true);
    }
}

/// One pool's MetaStore.
pub struct PoolMeta {
    queue: Arc<MetaQueue>,
    pool: Uuid,
}

impl PoolMeta {
    /// That of the pool `pool`.
    pub const fn new(queue: Arc<MetaQueue>, pool: Uuid) -> Self {
        Self { queue, pool }
    }

    fn ask<T: Send + 'static>(&self, operation: Operation, answer: impl FnOnce(Sender<T>) -> Answer) -> MetaFuture<T> {
        let (sender, receiver) = oneshot();
        self.queue.push(self.pool, operation, answer(sender));
        Box::pin(async move { receiver.await.unwrap_or_else(|| Err(MetaError("nobody answered".to_owned()))) })
    }
}

impl MetaStore for PoolMeta {
    fn get(&self, keys: Vec<Vec<u8>>) -> MetaFuture<Vec<Option<Vec<u8>>>> {
        self.ask(Operation::Get(keys), Answer::Get)
    }

    fn scan(&self, prefix: Vec<u8>, after: Vec<u8>, rows_max: usize) -> MetaFuture<Vec<Row>> {
        self.ask(Operation::Scan(prefix, after, rows_max), Answer::Scan)
    }

    fn put(&self, batch: MetaBatch) -> MetaFuture<()> {
        self.ask(Operation::Put(batch), Answer::Put)
    }
}
