//! The cache of the map: how much memory a core's pages take, and which of them go.

use std::rc::Rc;

use sds_io::{Clock, Io};

use crate::core::PoolCore;
use crate::page::Page;
use crate::place::PageKey;

impl<E: Io + Clock> PoolCore<E> {
    /// Takes account of what a page takes now.
    pub(crate) fn count(&self, page: &Page) {
        let bytes = page.state.borrow().bytes();
        let before = page.counted.replace(bytes);
        self.map_bytes.set(self.map_bytes.get() + bytes - before);
    }

    /// Forgets a page.
    pub(crate) fn let_go(&self, key: &PageKey) {
        if let Some(page) = self.pages.borrow_mut().remove(key) {
            self.map_bytes.set(self.map_bytes.get() - page.counted.take());
        }
    }

    /// Lets go of the clean pages that were used least recently, when all together take more than the cache may: of a
    /// sixteenth of it, so that pages are put in order only now and then.
    pub(crate) fn evict(&self) {
        let bytes_max = self.shared.tuning.map_cache_bytes_max / self.shared.cores;
        if self.map_bytes.get() <= bytes_max.max(self.evict_above.get()) {
            return;
        }
        let mut candidates: Vec<(u64, PageKey)> =
            self.pages.borrow().values().map(|page| (page.used.get(), page.key)).collect();
        candidates.sort_unstable_by_key(|(used, _)| *used);
        for (_, key) in candidates {
            if self.map_bytes.get() <= bytes_max / 16 * 15 {
                break;
            }
            let idle = self.pages.borrow().get(&key).is_some_and(is_idle);
            if idle {
                self.let_go(&key);
            }
        }
        let left = self.map_bytes.get();
        self.evict_above.set(if left > bytes_max { left + bytes_max / 16 } else { 0 });
        if left > bytes_max {
            // Dirty pages stay until they are stored.
            self.shared.want_checkpoint();
        }
    }
}

/// True if nobody uses the page and it can be loaded again.
fn is_idle(page: &Rc<Page>) -> bool {
    Rc::strong_count(page) == 1 && page.locks.is_idle() && page.state.borrow().is_clean()
}
