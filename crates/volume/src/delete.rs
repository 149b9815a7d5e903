//! Deletion of a volume's space, page by page, in the background.
//!
//! The catalog notes that the layer is being deleted before the command is answered, so a start goes on with what is
//! left. A page is dropped by one group: it and all its extents are gone, its chunks are free.

use std::rc::Rc;

use sds_io::sync::{join_all, oneshot};
use sds_io::{Clock, Io};

use crate::catalog::LayerEntry;
use crate::core::PoolCore;
use crate::delta::Delta;
use crate::error::{PoolError, PoolErrorKind};
use crate::place::{EXTENTS_PER_PAGE, PageKey, PageNo};
use crate::quarantine::{Quarantined, runs_of};
use crate::shared::Message;

/// Pages that are dropped at a time: each may free 8,192 chunks, and its group takes some 40 KB of the journal.
const PAGES_IN_FLIGHT_MAX: usize = 4;
/// How long a deletion waits after a failure before it goes on.
const RETRY_MS: u64 = 1_000;

impl<E: Io + Clock> PoolCore<E> {
    /// The task that frees what a layer has, then the layer; ends when it is done or the pool is closed.
    pub(crate) async fn delete_layer(self: Rc<Self>, layer: LayerEntry) {
        let pages = layer.inherit_limit_bytes.div_ceil(self.shared.extent_bytes * EXTENTS_PER_PAGE);
        let mut page = 0;
        while page < pages && !self.shared.is_stopping() {
            let end = pages.min(page + PAGES_IN_FLIGHT_MAX as u64);
            let drops = (page..end).map(|page| self.ask_to_drop(PageKey { tree: layer.tree, page: PageNo(page) }));
            match join_all(drops.collect()).await.into_iter().collect::<Result<(), PoolError>>() {
                Ok(()) => page = end,
                Err(error) => {
                    log::warn!("pool {}: a deleted volume's space can't be freed yet: {error}", self.shared.name);
                    self.env.io.sleep(std::time::Duration::from_millis(RETRY_MS)).await;
                }
            }
        }
        if page >= pages {
            if let Err(error) = self.shared.push(&[Delta::LayerGone(layer.id)]).await {
                // The next start finds the layer without pages.
                log::warn!("pool {}: the end of a deletion was not noted: {error}", self.shared.name);
            }
        }
        self.shared.ledger().end_deletion();
    }

    async fn ask_to_drop(&self, key: PageKey) -> Result<(), PoolError> {
        let (sender, receiver) = oneshot();
        self.shared.inboxes[self.shared.owner(key)].send(Message::DropPage(key, sender));
        receiver.await.unwrap_or_else(|| Err(PoolError::new(PoolErrorKind::Closed, "the pool is being closed")))
    }

    /// Drops a page of this core's, whose volume takes no requests any more.
    pub(crate) async fn drop_page(&self, key: PageKey) -> Result<(), PoolError> {
        let failed = |error| PoolError::new(PoolErrorKind::Meta, "a page can't be loaded").with_source(error);
        let page = self.page(key).await.map_err(failed)?;
        let blocks = u64::from(self.shared.blocks_per_extent()) * EXTENTS_PER_PAGE;
        let _range = page.locks.lock(0..blocks).await;
        if page.state.borrow().rows.is_empty() {
            return Ok(());
        }
        let _permit = self.shared.admit().await?;
        loop {
            let pushed = {
                let mut state = page.state.borrow_mut();
                if state.gone {
                    return Ok(());
                }
                let chunks = state.extents.iter().flat_map(|extent| extent.record.home.chunks());
                let runs = runs_of(chunks.map(|(_, addr)| addr).collect());
                let gone = Delta::PageGone { page: key };
                let deltas = vec![gone.clone(), Delta::Free { tree: key.tree, runs: runs.clone() }];
                let pushed = self.shared.ledger().push(&deltas);
                if let Ok(lsn) = pushed {
                    state.apply(lsn, &gone);
                    self.quarantine(Quarantined { runs, lsn, epoch: self.inflight.close() });
                }
                pushed
            };
            match pushed {
                Ok(_) => return Ok(()),
                Err(_) => self.shared.commit().await?,
            }
        }
    }
}
