//! Who may have how many connections.
//!
//! A connection counts for its peer's address until a host's name is accepted on it, and for that name from then on:
//! before, nothing else is known of it; after, hosts may share an address, as virtual machines do. So a host that opens
//! connections and says nothing, or one that logs in again and again, leaves room for the others.
//!
//! The downside: a name is what the host claims. Who may claim any (an export for any host) is bounded by the node's
//! limit alone.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::limits::Limits;
use crate::throttle::Throttle;

#[derive(Debug, Default)]
struct Counts {
    open: usize,
    refused: u64,
    /// Connections on which no name was accepted, by address.
    nameless: HashMap<IpAddr, usize>,
    hosts: HashMap<String, usize>,
    node_lines: Throttle,
    address_lines: Throttle,
    host_lines: Throttle,
}

/// The node's connections, of all protocols.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    next_id: AtomicU64,
    /// Taken when connections begin, log in and end.
    counts: Mutex<Counts>,
}

impl Admission {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // A panic on a core ends the process, so nobody sees a half-made change.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from `address`; `None`: it is to be closed at once, and the log says why.
    pub(crate) fn enter(self: &Arc<Self>, limits: &Limits, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        let counts = &mut *self.counts();
        let refused = counts.open >= limits.connections_max;
        if refused {
            counts.refused += 1;
            if let Some(more) = counts.node_lines.pass(Instant::now()) {
                log::warn!("{address}: refused, the node has {} connections{more}", counts.open);
            }
            if counts.open >= limits.connections_max + limits.refusals_max {
                return None;
            }
        }
        let nameless = counts.nameless.get(&address).copied().unwrap_or_default();
        if nameless >= limits.nameless_connections_max {
            counts.refused += u64::from(!refused);
            if let Some(more) = counts.address_lines.pass(Instant::now()) {
                log::warn!("{address}: closed, {nameless} of its connections have not logged in{more}");
            }
            return None;
        }
        counts.nameless.insert(address, nameless + 1);
        counts.open += 1;
        let (admission, host_connections_max) = (Arc::clone(self), limits.host_connections_max);
        Some(Place { admission, host_connections_max, address, refused, holder: RefCell::new(Holder::Address) })
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.counts().open
    }

    /// Connections that were closed at once or refused in their protocol's words, because there were too many.
    pub(crate) fn refused(&self) -> u64 {
        self.counts().refused
    }

    pub(crate) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

/// For whom a connection counts, beside the node.
#[derive(Debug)]
enum Holder {
    Address,
    Host(String),
    /// It has ended.
    Nobody,
}

/// A connection's place among the node's, until it is left or dropped.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    host_connections_max: usize,
    address: IpAddr,
    refused: bool,
    holder: RefCell<Holder>,
}

impl Place {
    /// The node has too many connections: this one was let in only to be told so.
    pub(crate) const fn is_refused(&self) -> bool {
        self.refused
    }

    /// The connection is `host`'s from now on; false, and nothing changes, if that host has too many.
    #[must_use]
    pub fn give_to(&self, host: &str) -> bool {
        let counts = &mut *self.admission.counts();
        let holder = &mut *self.holder.borrow_mut();
        if matches!(holder, Holder::Host(name) if name == host) {
            return true;
        }
        let connections = counts.hosts.get(host).copied().unwrap_or_default();
        if connections >= self.host_connections_max {
            counts.refused += 1;
            if let Some(more) = counts.host_lines.pass(Instant::now()) {
                let address = self.address;
                log::warn!("{address}: refused, {host} has {connections} connections{more}");
            }
            return false;
        }
        holder.take_from(counts, self.address);
        counts.hosts.insert(host.to_owned(), connections + 1);
        *holder = Holder::Host(host.to_owned());
        true
    }

    /// The host was refused after all: the connection is its address's again.
    pub fn take_back(&self) {
        let counts = &mut *self.admission.counts();
        let holder = &mut *self.holder.borrow_mut();
        if let Holder::Host(_) = holder {
            holder.take_from(counts, self.address);
            *counts.nameless.entry(self.address).or_default() += 1;
            *holder = Holder::Address;
        }
    }

    /// The connection has ended.
    pub(crate) fn leave(&self) {
        let counts = &mut *self.admission.counts();
        let holder = self.holder.replace(Holder::Nobody);
        holder.take_from(counts, self.address);
        counts.open -= usize::from(!matches!(holder, Holder::Nobody));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Holder {
    fn take_from(&self, counts: &mut Counts, address: IpAddr) {
        match self {
            Self::Address => take_one(&mut counts.nameless, &address),
            Self::Host(name) => take_one(&mut counts.hosts, name),
            Self::Nobody => {}
        }
    }
}

fn take_one<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    let count = counts.get_mut(key).expect("what leaves was counted");
    *count -= 1;
    // Names and addresses are the hosts' choice: none is kept for which nothing is open.
    if *count == 0 {
        counts.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_counts_for_its_address_until_its_host_has_a_name_and_leaves_once() {
        let limits = Limits {
            connections_max: 5,
            refusals_max: 1,
            nameless_connections_max: 2,
            host_connections_max: 1,
            ..Limits::default()
        };
        let admission = Arc::new(Admission::default());
        let (here, mapped): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), "::ffff:10.0.0.1".parse().expect("an address"));
        let first = admission.enter(&limits, here).expect("room");
        let second = admission.enter(&limits, mapped).expect("room");
        assert!(admission.enter(&limits, here).is_none(), "two of this address have no name");
        assert!(first.give_to("a") && first.give_to("a"));
        assert!(!second.give_to("a"), "one of that name is there");
        let third = admission.enter(&limits, here).expect("one of the two has a name");
        assert!(admission.enter(&limits, here).is_none());
        first.take_back();
        assert!(second.give_to("a") && third.give_to("b"));
        assert_eq!((admission.open(), admission.refused()), (3, 3));
        let others: Vec<_> = (2..5).map(|last| admission.enter(&limits, [10, 0, 0, last].into())).collect();
        let told: Vec<_> = others.iter().map(|place| place.as_ref().expect("room").is_refused()).collect();
        assert_eq!(told, [false, false, true]);
        assert!(admission.enter(&limits, [10, 0, 0, 9].into()).is_none(), "one is let in to be told, no more");
        second.leave();
        drop((first, second, third, others));
        let counts = admission.counts();
        assert_eq!((counts.open, counts.nameless.len(), counts.hosts.len()), (0, 0, 0));
    }
}
