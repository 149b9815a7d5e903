//! A host's new association waits for its lost one's writes.
//!
//! A host that lost its connection sends its open writes again on a new one and goes on. If an old copy of such a write
//! landed after that, it would undo newer data. So before a host's new association is let in, (1) its other connections
//! to the same name read their sockets up to now, which finds those that the host has closed, and (2) all requests of
//! connections that have ended must be answered by their devices.
//!
//! The downside: a disk that takes seconds delays the reconnect by as much. That is what the host would see anyway.

use std::time::Duration;

use sds_io::Clock;
use sds_io::sync::{OneshotReceiver, join_all, oneshot};
use sds_uring::CoreClock;

use crate::connections::Remote;
use crate::glue::{Executing, Glue};

/// How often the devices are looked at.
const SETTLE_POLL_MS: u64 = 2;

/// Requests that outlived their connection, by host and name of subsystem or target.
#[derive(Debug, Default)]
pub(crate) struct LostRequests(Vec<(String, String, Executing)>);

impl LostRequests {
    /// A connection has ended.
    pub(crate) fn add(&mut self, host: &str, name: &str, executing: &Executing) {
        self.0.retain(|(_, _, executing)| executing.count() > 0);
        if executing.count() > 0 {
            self.0.push((host.to_owned(), name.to_owned(), executing.clone()));
        }
    }

    /// How many requests of lost connections devices still have.
    pub(crate) fn count(&self, host: &str, name: &str) -> usize {
        let of_host = |entry: &&(String, String, Executing)| entry.0 == host && entry.1 == name;
        self.0.iter().filter(of_host).map(|(_, _, executing)| executing.count()).sum()
    }
}

/// Makes each connection read its socket up to now; the answer comes when it has, or when it is gone.
pub(crate) fn read_up_to_now<G: Glue>(connections: &[Remote<G>]) -> Vec<OneshotReceiver<()>> {
    let ask = |remote: &Remote<G>| {
        let (sender, receiver) = oneshot();
        remote.tell(move |_, _, _| sender.send(()));
        receiver
    };
    connections.iter().map(ask).collect()
}

/// Ends when all `read` and no request is `lost`; false if that takes longer than `wait_ms`.
pub(crate) async fn settled(
    clock: CoreClock,
    read: Vec<OneshotReceiver<()>>,
    lost: impl Fn() -> usize,
    wait_ms: u32,
) -> bool {
    join_all(read).await;
    let deadline = clock.now() + Duration::from_millis(u64::from(wait_ms));
    while lost() > 0 {
        if clock.now() >= deadline {
            return false;
        }
        clock.sleep(Duration::from_millis(SETTLE_POLL_MS)).await;
    }
    true
}
