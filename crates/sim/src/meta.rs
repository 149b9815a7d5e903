//! The checkpoint store: batches become durable as wholes, in order, some time after they were put. A crash keeps those
//! that were answered and a prefix of the others; knobs lose the whole store, or put back what it was some time before.
//! In an outage it takes no batch (its disk is full), fails altogether, or stands still.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sds_io::sync::{OneshotReceiver, OneshotSender, oneshot};
use sds_io::{MetaBatch, MetaError, MetaStore, meta::MetaFuture};

use crate::process::{Effect, Process};
use crate::random::Random;

/// What a store holds.
pub type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
type Answer<T> = OneshotSender<Result<T, MetaError>>;

enum Request {
    Get(Vec<Vec<u8>>, Answer<Vec<Option<Vec<u8>>>>),
    Scan { prefix: Vec<u8>, after: Vec<u8>, rows_max: usize, answer: Answer<Vec<(Vec<u8>, Vec<u8>)>> },
    Put(MetaBatch, Answer<()>),
}

/// What the store does not do for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// Batches are refused.
    Full,
    /// Everything is refused.
    Failing,
    /// Nothing is answered before it ends.
    Still,
}

/// How long after an outage it may still be why a request is refused: the engine has to make a checkpoint before.
const AFTERMATH_NS: u64 = 100_000_000_000;

struct State {
    rows: Rows,
    /// What they were some time before.
    earlier: Rows,
    outage: Option<Outage>,
    outage_ended_ns: Option<u64>,
    refused: u64,
    /// Requests with the time at which they end, in order.
    open: VecDeque<(u64, Request)>,
    random: Random,
    latency_ns: u64,
    batches: u64,
}

/// The store of one machine.
pub struct Store {
    now_ns: Arc<AtomicU64>,
    state: Mutex<State>,
}

fn apply(rows: &mut Rows, batch: MetaBatch) {
    for (key, value) in batch {
        match value {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
    }
}

impl Store {
    /// An empty store whose requests take about `latency_ns`.
    #[must_use]
    pub fn new(now_ns: &Arc<AtomicU64>, random: Random, latency_ns: u64) -> Self {
        let state = State {
            rows: Rows::new(),
            earlier: Rows::new(),
            outage: None,
            outage_ended_ns: None,
            refused: 0,
            open: VecDeque::new(),
            random,
            latency_ns,
            batches: 0,
        };
        Self { now_ns: Arc::clone(now_ns), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the next request ends.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        let state = self.state();
        if state.outage == Some(Outage::Still) {
            return None;
        }
        state.open.front().map(|(due, _)| *due)
    }

    /// Ends the first open request.
    pub fn fire(&self) {
        let mut state = self.state();
        let Some((_, request)) = state.open.pop_front() else { return };
        let refuses = match &request {
            Request::Put(..) => state.outage.is_some(),
            Request::Get(..) | Request::Scan { .. } => state.outage == Some(Outage::Failing),
        };
        if refuses {
            state.refused += 1;
            drop(state);
            let error = || MetaError("an outage".into());
            match request {
                Request::Get(_, answer) => answer.send(Err(error())),
                Request::Scan { answer, .. } => answer.send(Err(error())),
                Request::Put(_, answer) => answer.send(Err(error())),
            }
            return;
        }
        match request {
            Request::Get(keys, answer) => {
                let found = keys.iter().map(|key| state.rows.get(key).cloned()).collect();
                drop(state);
                answer.send(Ok(found));
            }
            Request::Scan { prefix, after, rows_max, answer } => {
                let start = if after < prefix { prefix.clone() } else { after.clone() };
                let found = state.rows.range(start..);
                let found = found.filter(|(key, _)| **key > after || after.is_empty());
                let found = found.take_while(|(key, _)| key.starts_with(&prefix)).take(rows_max);
                let found = found.map(|(key, value)| (key.clone(), value.clone())).collect();
                drop(state);
                answer.send(Ok(found));
            }
            Request::Put(batch, answer) => {
                apply(&mut state.rows, batch);
                state.batches += 1;
                drop(state);
                answer.send(Ok(()));
            }
        }
    }

    /// The process died: a prefix of the open batches is there. Returns how many are not.
    pub fn crash(&self) -> u64 {
        let mut state = self.state();
        let open = std::mem::take(&mut state.open);
        let batches: Vec<MetaBatch> = open
            .into_iter()
            .filter_map(|(_, request)| if let Request::Put(batch, _) = request { Some(batch) } else { None })
            .collect();
        let kept = state.random.index(batches.len() + 1);
        let lost = batches.len() - kept;
        for batch in batches.into_iter().take(kept) {
            apply(&mut state.rows, batch);
        }
        lost as u64
    }

    /// The data folder is gone.
    pub fn lose(&self) {
        self.state().rows.clear();
    }

    /// An outage begins; one that there is ends before.
    pub fn begin_outage(&self, outage: Outage) {
        self.state().outage = Some(outage);
    }

    /// The outage ends, if there is one.
    pub fn end_outage(&self) {
        let mut state = self.state();
        if state.outage.take().is_some() {
            let now = self.now_ns.load(Ordering::Relaxed);
            state.outage_ended_ns = Some(now);
            // What waited is answered from now on.
            state.open.iter_mut().for_each(|(due, _)| *due = now.max(*due));
        }
    }

    /// Until when a refusal may be an outage's doing.
    #[must_use]
    pub fn excused_until_ns(&self) -> u64 {
        let state = self.state();
        match state.outage {
            Some(_) => u64::MAX,
            None => state.outage_ended_ns.map_or(0, |ended| ended + AFTERMATH_NS),
        }
    }

    /// True if a refusal may be an outage's doing.
    #[must_use]
    pub fn excuses(&self) -> bool {
        self.now_ns.load(Ordering::Relaxed) < self.excused_until_ns()
    }

    /// Remembers what it holds.
    pub fn remember(&self) {
        let mut state = self.state();
        state.earlier = state.rows.clone();
    }

    /// What was remembered is there again, as from a copy that somebody made.
    pub fn go_back(&self) {
        let mut state = self.state();
        state.rows = state.earlier.clone();
    }

    /// Another machine's store comes in place of this one, which has no open requests.
    pub fn swap(&self, other: &mut Rows) {
        let mut state = self.state();
        assert!(state.open.is_empty(), "a pool moves when it is closed");
        std::mem::swap(&mut state.rows, other);
        state.earlier.clear();
    }

    /// Requests refused since the last call.
    pub fn take_refused(&self) -> u64 {
        std::mem::take(&mut self.state().refused)
    }

    /// Batches taken since the last call.
    pub fn take_batches(&self) -> u64 {
        std::mem::take(&mut self.state().batches)
    }

    fn submit(&self, request: Request) {
        let mut state = self.state();
        let latency = state.latency_ns / 2 + 1;
        let latency = latency + state.random.below(2 * latency);
        let now = self.now_ns.load(Ordering::Relaxed);
        let due = state.open.back().map_or(now, |(due, _)| now.max(*due)) + latency;
        state.open.push_back((due, request));
    }
}

/// One process's way to the store.
pub struct Handle {
    /// The store.
    pub store: Arc<Store>,
    /// Who asks.
    pub process: Arc<Process>,
}

impl Handle {
    fn ask<T: Send + 'static>(&self, request: impl FnOnce(Answer<T>) -> Request) -> MetaFuture<T> {
        let (sender, receiver): (_, OneshotReceiver<Result<T, MetaError>>) = oneshot();
        if self.process.effect() == Effect::Whole {
            self.store.submit(request(sender));
        }
        Box::pin(async move { receiver.await.unwrap_or_else(|| Err(MetaError("the process is dead".into()))) })
    }
}

impl MetaStore for Handle {
    fn get(&self, keys: Vec<Vec<u8>>) -> MetaFuture<Vec<Option<Vec<u8>>>> {
        self.ask(|answer| Request::Get(keys, answer))
    }

    fn scan(&self, prefix: Vec<u8>, after: Vec<u8>, rows_max: usize) -> MetaFuture<Vec<(Vec<u8>, Vec<u8>)>> {
        self.ask(|answer| Request::Scan { prefix, after, rows_max, answer })
    }

    fn put(&self, batch: MetaBatch) -> MetaFuture<()> {
        self.ask(|answer| Request::Put(batch, answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_refuses_or_delays_and_excuses_for_a_while_after() {
        let now = Arc::new(AtomicU64::new(0));
        let store = Arc::new(Store::new(&now, Random::new(1), 1000));
        let handle = Handle { store: Arc::clone(&store), process: Arc::default() };
        let put = || drop(handle.put(vec![(vec![1], Some(vec![1]))]));
        assert!(!store.excuses());
        store.begin_outage(Outage::Full);
        put();
        store.fire();
        assert_eq!((store.take_refused(), store.take_batches(), store.excuses()), (1, 0, true));
        store.begin_outage(Outage::Still);
        put();
        assert_eq!(store.next_due(), None);
        now.store(5_000_000, Ordering::Relaxed);
        store.end_outage();
        assert_eq!(store.next_due(), Some(5_000_000));
        store.fire();
        assert_eq!((store.take_refused(), store.take_batches(), store.excuses()), (0, 1, true));
        now.store(5_000_000 + AFTERMATH_NS, Ordering::Relaxed);
        assert!(!store.excuses());
    }

    #[test]
    fn a_crash_keeps_answered_batches_and_a_prefix_of_the_others() {
        let mut prefixes = [0; 3];
        for seed in 0..64 {
            let store = Arc::new(Store::new(&Arc::default(), Random::new(seed), 1000));
            let handle = Handle { store: Arc::clone(&store), process: Arc::default() };
            let row = |key: u8| vec![(vec![key], Some(vec![key]))];
            drop(handle.put(row(1)));
            store.fire();
            let _open = (handle.put(row(2)), handle.put(row(3)));
            let lost = store.crash();
            let rows: Vec<u8> = store.state().rows.keys().map(|key| key[0]).collect();
            assert_eq!(rows, [1, 2, 3][..3 - lost as usize]);
            prefixes[lost as usize] += 1;
        }
        assert!(prefixes.iter().all(|seeds| *seeds > 0), "{prefixes:?}");
    }
}
