//! How much payload the node holds, and when connections have to wait.
//!
//! Each machine counts the bytes of its connection: payload that was asked for or is coming, that devices have, and
//! answers; the shell adds what waits to be sent. A core sums up its connections, and draws from the node's bytes in
//! grants, so that no command touches what other cores touch.
//!
//! When the node has no grant left the core is short: its connections may have one command's payload each, and are read
//! no further while a device or the socket still has some of theirs. That ends without their hosts' doing, so nobody
//! waits for ever. The downside: the node may hold more than its limit, by one command of each connection and by what
//! one connection of each core asked for just before.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a core draws at once, if the node has much.
const GRANT_BYTES_MAX: usize = 4 << 20;
/// A core draws at most such a part of its fair share at once.
const GRANTS_PER_SHARE: usize = 8;

/// The node's payload bytes.
#[derive(Debug)]
pub(crate) struct PayloadPool {
    free: AtomicUsize,
    grant_bytes: usize,
}

impl PayloadPool {
    pub(crate) fn new(bytes_max: usize, cores: usize) -> Arc<Self> {
        let grant_bytes = (bytes_max / cores / GRANTS_PER_SHARE).clamp(1, GRANT_BYTES_MAX);
        Arc::new(Self { free: AtomicUsize::new(bytes_max), grant_bytes })
    }

    /// All of `bytes`, or nothing.
    fn draw(&self, bytes: usize) -> bool {
        self.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, |free| free.checked_sub(bytes)).is_ok()
    }
}

/// One core's part of the node's payload bytes.
#[derive(Debug)]
pub(crate) struct PayloadShare {
    pool: Arc<PayloadPool>,
    granted: Cell<usize>,
    used: Cell<usize>,
    peak: Cell<usize>,
}

impl PayloadShare {
    pub(crate) const fn new(pool: Arc<PayloadPool>) -> Self {
        Self { pool, granted: Cell::new(0), used: Cell::new(0), peak: Cell::new(0) }
    }

    /// A connection has `after` bytes, and no more `before`.
    pub(crate) fn change(&self, before: usize, after: usize) {
        let used = self.used.get() + after - before;
        self.used.set(used);
        self.peak.set(self.peak.get().max(used));
        let (granted, grant) = (self.granted.get(), self.pool.grant_bytes);
        if used > granted {
            let missing = (used - granted).next_multiple_of(grant);
            if self.pool.draw(missing) {
                self.granted.set(granted + missing);
            }
        } else if granted - used > 2 * grant {
            let kept = used.next_multiple_of(grant) + grant;
            self.pool.free.fetch_add(granted - kept, Ordering::AcqRel);
            self.granted.set(kept);
        }
    }

    /// The core's connections have more than the core was granted.
    pub(crate) fn is_short(&self) -> bool {
        self.used.get() > self.granted.get()
    }

    /// Bytes that the core's connections have now, and the most that they had.
    pub(crate) fn used_and_peak(&self) -> (usize, usize) {
        (self.used.get(), self.peak.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_short_when_the_node_is_and_another_one_s_bytes_help_it() {
        let pool = PayloadPool::new(1600, 2);
        let (one, other) = (PayloadShare::new(Arc::clone(&pool)), PayloadShare::new(Arc::clone(&pool)));
        one.change(0, 1550);
        other.change(0, 10);
        assert!(!one.is_short() && other.is_short(), "grants are of 100 bytes and all are drawn");
        one.change(1550, 1000);
        other.change(10, 20);
        assert!(!other.is_short());
        one.change(1000, 0);
        other.change(20, 0);
        let kept = one.granted.get() + other.granted.get();
        assert_eq!(kept + pool.free.load(Ordering::Acquire), 1600);
        assert!(kept <= 400, "a core keeps two grants at the most: {kept}");
        assert_eq!((one.used_and_peak(), other.used_and_peak()), ((0, 1550), (0, 20)));
    }
}
