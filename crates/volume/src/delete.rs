//! Deletion of a layer's space, page by page, in the background.
//!
//! The catalog notes that the layer is being deleted before the command is answered, so a start goes on with what is
//! left. A page is swept by one group: the extents are gone that nobody needs any more, whoever bore them, and their
//! chunks are free. When all pages are swept the layer goes, or folds into its only child, or stays for its children;
//! and so may an ancestor that stayed for it ([`crate::forest`]).
//!
//! Considerations: the layer takes no requests any more, but one may be under way to it as its page is swept; so that
//! is waited for, and not for the page's locks: whoever holds one may wait for this very space.

use std::rc::Rc;

use sds_io::sync::{join_all, oneshot};
use sds_io::{Clock, Io};

use crate::catalog::{Catalog, LayerEntry};
use crate::core::PoolCore;
use crate::delta::Delta;
use crate::error::{PoolError, PoolErrorKind};
use crate::forest::{Needs, Placed, free};
use crate::page::PageState;
use crate::place::{ChunkAddr, EXTENTS_PER_PAGE, LayerId, PageKey, PageNo};
use crate::planted::Defect;
use crate::shared::Message;
use crate::write::{push_gone, push_with_free};

/// Pages that are swept at a time: each may free 8,192 chunks, and its group takes some 40 KB of the journal.
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
            let keys = (page..end).map(|page| PageKey { tree: layer.tree, page: PageNo(page) });
            let sweeps = keys.map(|key| self.ask_to_sweep(key, layer.id)).collect();
            match join_all(sweeps).await.into_iter().collect::<Result<(), PoolError>>() {
                Ok(()) => page = end,
                Err(error) => {
                    log::warn!("pool {}: a deleted layer's space can't be freed yet: {error}", self.shared.name);
                    self.env.io.sleep(std::time::Duration::from_millis(RETRY_MS)).await;
                }
            }
        }
        while page >= pages && !self.shared.is_stopping() {
            match self.end_sweeps(&layer).await {
                Ok(()) => break,
                Err(error) => {
                    log::debug!("pool {}: the end of a deletion can't be noted yet: {error}", self.shared.name);
                    self.env.io.sleep(std::time::Duration::from_millis(RETRY_MS)).await;
                }
            }
        }
        self.shared.ledger().end_deletion();
    }

    /// All pages of the layer are swept.
    async fn end_sweeps(&self, layer: &LayerEntry) -> Result<(), PoolError> {
        loop {
            let pushed = {
                let mut ledger = self.shared.ledger();
                let deltas = end_of(&ledger.catalog, layer);
                ledger.push(&deltas)
            };
            match pushed {
                Ok(_) => return Ok(()),
                Err(_) => self.shared.commit().await?,
            }
        }
    }

    async fn ask_to_sweep(&self, key: PageKey, layer: LayerId) -> Result<(), PoolError> {
        let (sender, receiver) = oneshot();
        self.shared.inboxes[self.shared.owner(key)].send(Message::SweepPage(key, layer, sender));
        receiver.await.unwrap_or_else(|| Err(PoolError::new(PoolErrorKind::Closed, "the pool is being closed")))
    }

    /// Sweeps a page of this core's, of which `layer` takes no requests any more.
    pub(crate) async fn sweep_page(&self, key: PageKey, layer: LayerId) -> Result<(), PoolError> {
        self.settle(layer).await;
        let failed = |error| PoolError::new(PoolErrorKind::Meta, "a page can't be loaded").with_source(error);
        let page = self.page(key).await.map_err(failed)?;
        if page.state.borrow().rows.is_empty() {
            return Ok(());
        }
        let _permit = self.shared.admit().await?;
        loop {
            let pushed = {
                let mut state = page.state.borrow_mut();
                let mut ledger = self.shared.ledger();
                let forgets = self.shared.planted.has(Defect::ChainForgotten);
                let open = self.open_layers();
                let swept = sweep_deltas(&state, Needs { catalog: &ledger.catalog, open: &open }, key, forgets);
                let Some((mut deltas, freed)) = swept else { return Ok(()) };
                let pushed = push_with_free(&mut ledger, key, &mut deltas, &freed);
                drop(ledger);
                if let Ok(lsn) = pushed {
                    self.applied(&mut state, lsn, &deltas, freed);
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

/// What of a page nobody needs any more, and the chunks that this frees. `None`: nothing. `forgets_chains` is a planted
/// defect.
pub(crate) fn sweep_deltas(
    state: &PageState,
    needs: Needs<'_>,
    key: PageKey,
    forgets_chains: bool,
) -> Option<(Vec<Delta>, Vec<ChunkAddr>)> {
    if state.gone {
        return None;
    }
    let (mut deltas, mut freed) = (Vec::new(), Vec::new());
    if needs.is_forsaken(key.tree) {
        let chunks = state.extents.iter().flat_map(|extent| extent.record.home.chunks());
        freed.extend(chunks.map(|(_, addr)| addr));
        return Some((vec![Delta::PageGone { page: key }], freed));
    }
    let views = needs.views(key.tree, None);
    for slot in state.slots() {
        let mut placed = state.placed(slot, &[]);
        placed.iter_mut().for_each(|extent| extent.ends |= forgets_chains);
        let may_be_free = |extent: &Placed| needs.may_be_free(extent.birth, LayerId(0));
        if placed.iter().any(may_be_free) {
            push_gone(&mut deltas, &mut freed, key, state, &free(placed, &views, may_be_free));
        }
    }
    if deltas.is_empty() { None } else { Some((deltas, freed)) }
}

/// What becomes of a layer whose pages are swept, and of its ancestors.
pub(crate) fn end_of(catalog: &Catalog, layer: &LayerEntry) -> Vec<Delta> {
    let mut deltas = catalog.collapse(layer.tree, layer.id);
    let goes = |delta: &Delta| match delta {
        Delta::LayerGone(gone) | Delta::Fold { from: gone, .. } => *gone == layer.id,
        _ => false,
    };
    if !deltas.iter().any(goes) {
        // It stays for its children, and is not swept again.
        if let Some(layer) = catalog.layers.get(&layer.id) {
            deltas.insert(0, Delta::Layer(LayerEntry { deleting: false, ..layer.clone() }));
        }
    }
    deltas
}
