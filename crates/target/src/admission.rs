//! Who may have how many connections.
//!
//! A connection counts for its peer's address until a host's name is accepted on it, and for that name from then on:
//! before, nothing else is known of it; after, hosts may share an address, as virtual machines do. So a host that opens
//! connections and says nothing, or one that logs in again and again, leaves room for the others.
//!
//! Where the node is full, the connection that has been without a name longest gives way to a new one, so that a flood
//! from many addresses pushes out its own. Only where all have names is a new one told to come later.
//!
//! The downsides: a name is what the host claims. Who may claim any (an export for any host) is bounded by the node's
//! limit alone. And in a flood a host has only as long for its login as the flood takes to fill the places that are
//! left.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sds_uring::Local;

use crate::limits::Limits;
use crate::throttle::Throttle;

#[derive(Debug, Default)]
struct Counts {
    /// All that are open, and how many of them are there to be told that the node is full.
    open: usize,
    told: usize,
    refused: u64,
    /// Connections on which no name was accepted, by address.
    nameless: HashMap<IpAddr, usize>,
    /// Those of them that may give way, the oldest first, by id.
    waiting: BTreeMap<u64, (IpAddr, Door)>,
    hosts: HashMap<String, usize>,
    node_lines: Throttle,
    address_lines: Throttle,
    host_lines: Throttle,
}

/// Where a connection lives, and how it is closed from there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Door {
    pub(crate) core: usize,
    pub(crate) close: fn(&Local, u64),
}

/// A connection that was let in, and the one that gives way to it: its door and its id.
pub(crate) type Entered = (Place, Option<(Door, u64)>);

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
    pub(crate) fn enter(self: &Arc<Self>, limits: &Limits, address: IpAddr, door: Door) -> Option<Entered> {
        let address = address.to_canonical();
        let counts = &mut *self.counts();
        let full = counts.open - counts.told >= limits.connections_max;
        let refused = full && counts.waiting.is_empty();
        if refused {
            counts.refused += 1;
            if let Some(more) = counts.node_lines.pass(Instant::now()) {
                log::warn!("{address}: refused, the node has {} connections{more}", counts.open);
            }
            if counts.told >= limits.refusals_max {
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
        let gone = if full { counts.give_way(address) } else { None };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if refused {
            counts.told += 1;
        } else {
            counts.waiting.insert(id, (address, door));
        }
        let (admission, host_connections_max) = (Arc::clone(self), limits.host_connections_max);
        let holder = RefCell::new(Holder::Address);
        Some((Place { admission, host_connections_max, id, address, door, refused, holder }, gone))
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.counts().open
    }

    /// Connections that were closed at once, gave way or were refused in their protocol's words: there were too many.
    pub(crate) fn refused(&self) -> u64 {
        self.counts().refused
    }
}

impl Counts {
    /// The oldest connection without a name leaves, for one from `newcomer`; its socket is to be closed.
    fn give_way(&mut self, newcomer: IpAddr) -> Option<(Door, u64)> {
        let (id, (address, door)) = self.waiting.pop_first()?;
        take_one(&mut self.nameless, &address);
        self.open -= 1;
        self.refused += 1;
        if let Some(more) = self.node_lines.pass(Instant::now()) {
            log::warn!("{address}: closed without a login, the node is full and {newcomer} came{more}");
        }
        Some((door, id))
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
    id: u64,
    address: IpAddr,
    door: Door,
    refused: bool,
    holder: RefCell<Holder>,
}

impl Place {
    /// Names the connection on this node, for ever; a later one has a greater id.
    pub(crate) const fn id(&self) -> u64 {
        self.id
    }

    /// The node has too many connections: this one was let in only to be told so.
    pub(crate) const fn is_refused(&self) -> bool {
        self.refused
    }

    /// The connection is `host`'s from now on; false, and nothing changes, if that host has too many, or if the
    /// connection had to give way.
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
        if matches!(holder, Holder::Address) && counts.waiting.remove(&self.id).is_none() {
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
            counts.waiting.insert(self.id, (self.address, self.door));
            *holder = Holder::Address;
        }
    }

    /// The connection has ended.
    pub(crate) fn leave(&self) {
        let counts = &mut *self.admission.counts();
        let holder = self.holder.replace(Holder::Nobody);
        let gave_way = !self.refused && counts.waiting.remove(&self.id).is_none() && matches!(holder, Holder::Address);
        if gave_way || matches!(holder, Holder::Nobody) {
            return;
        }
        holder.take_from(counts, self.address);
        counts.open -= 1;
        counts.told -= usize::from(self.refused);
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
        let door = Door { core: 0, close: |_, _| {} };
        let enter =
            |address| admission.enter(&limits, address, door).map(|(place, gone)| (place, gone.map(|(_, id)| id)));
        let alone = |address| {
            let (place, gone) = enter(address)?;
            assert_eq!(gone, None, "the node is not full");
            Some(place)
        };
        let (here, mapped): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), "::ffff:10.0.0.1".parse().expect("an address"));
        let first = alone(here).expect("room");
        let second = alone(mapped).expect("room");
        assert!(alone(here).is_none(), "two of this address have no name");
        assert!(first.give_to("a") && first.give_to("a"));
        assert!(!second.give_to("a"), "one of that name is there");
        let third = alone(here).expect("one of the two has a name");
        assert!(alone(here).is_none());
        first.take_back();
        assert!(second.give_to("a") && third.give_to("b"));
        assert_eq!((admission.open(), admission.refused()), (3, 3));
        // Two more fill the node. Then the first, which is without a name again and the oldest, gives way, and so on.
        let other = |last| enter([10, 0, 0, last].into()).expect("room");
        let (fourth, fifth) = (other(3), other(4));
        let (sixth, seventh) = (other(5), other(6));
        let gone: Vec<_> = [&fourth, &fifth, &sixth, &seventh].iter().map(|(_, gone)| *gone).collect();
        assert_eq!(gone, [None, None, Some(first.id()), Some(fourth.0.id())]);
        assert!(!first.give_to("c"), "it has given way");
        // All five have names: one is let in to be told so, no more.
        assert!(fifth.0.give_to("c") && sixth.0.give_to("d") && seventh.0.give_to("e"));
        let (eighth, gone) = other(7);
        assert_eq!((eighth.is_refused(), gone), (true, None));
        assert!(enter([10, 0, 0, 9].into()).is_none());
        assert_eq!((admission.open(), admission.refused()), (6, 7));
        // One that is told keeps no other out once there is room.
        drop(third);
        let (ninth, gone) = other(8);
        assert_eq!((ninth.is_refused(), gone), (false, None));
        second.leave();
        drop((first, second, fourth, fifth, sixth, seventh, eighth, ninth));
        let counts = admission.counts();
        assert_eq!((counts.open, counts.told, counts.waiting.len()), (0, 0, 0));
        assert_eq!((counts.nameless.len(), counts.hosts.len()), (0, 0));
    }
}
