//! Layers as trees: what a layer sees, what it may write in place, and what nobody needs any more.
//!
//! Everything that a layer changed lies in extents that it *bore*, at most one at each index. A layer sees its own, and
//! under them those of its ancestors: at an index the newest birth comes first, and what that has not (an absent
//! block) is the next one's, down to the first that says all or inherits nothing: the layer's *chain* there. So a
//! snapshot changes the catalog alone, and a change after it bears an extent over what lies there, whatever that is.
//!
//! A deleted layer stays, unnamed, while two children or more need it. With one left it *folds* into that: what it bore
//! counts as borne by the child, which sees it as before. Ids of layers rise, so births of one path are in order.
//!
//! An extent is needed while the chain of a named layer holds it. Considerations: only what a layer without a name
//! bore, or the layer that changes just now, can cease to be needed; so most changes look at nothing but the index.
//! The downside: a layer with much that is partial under it has a long chain, and a read of a block looks through it.

use crate::catalog::{Catalog, LayerEntry};
use crate::delta::Delta;
use crate::place::{ExtentId, LayerId, TreeId};

/// What a layer sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    layer: LayerId,
    /// Births that it sees, in order of their ids: those of its ancestors and of what was folded into them, and its
    /// own.
    seen: Vec<LayerId>,
    /// Those that count as its own.
    owned: Vec<LayerId>,
}

impl View {
    /// A layer without ancestors.
    #[must_use]
    pub fn alone(layer: LayerId) -> Self {
        Self { layer, seen: vec![layer], owned: vec![layer] }
    }

    /// The layer.
    #[must_use]
    pub const fn layer(&self) -> LayerId {
        self.layer
    }

    /// True if it sees what `birth` bore.
    #[must_use]
    pub fn sees(&self, birth: LayerId) -> bool {
        birth == self.layer || (self.seen.len() > 1 && self.seen.binary_search(&birth).is_ok())
    }

    /// True if it may write what `birth` bore in place.
    #[must_use]
    pub fn owns(&self, birth: LayerId) -> bool {
        birth == self.layer || (self.owned.len() > 1 && self.owned.contains(&birth))
    }

    /// True if something may lie under what it bears.
    #[must_use]
    pub fn inherits(&self) -> bool {
        self.seen.len() > 1
    }
}

/// An extent at an index, as layers find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The extent.
    pub id: ExtentId,
    /// Who bore it.
    pub birth: LayerId,
    /// Nothing under it is seen through it: it has every block, or inherits none.
    pub ends: bool,
    /// It has no data: all that it may do is to hide what is under it.
    pub blank: bool,
}

impl Catalog {
    /// The layer that what `layer` bore counts for.
    #[must_use]
    pub fn resolve(&self, mut layer: LayerId) -> LayerId {
        while let Some(into) = self.folds.get(&layer) {
            layer = *into;
        }
        layer
    }

    /// What `layer` sees.
    #[must_use]
    pub fn view(&self, layer: LayerId) -> View {
        let mut seen = vec![layer];
        let mut at = layer;
        while let Some(entry) = self.layers.get(&at).filter(|entry| entry.parent != LayerId(0)) {
            at = entry.parent;
            seen.push(at);
        }
        let mut owned = vec![layer];
        for from in self.folds.keys() {
            let into = self.resolve(*from);
            if seen.contains(&into) && !seen.contains(from) {
                if into == layer {
                    owned.push(*from);
                }
                seen.push(*from);
            }
        }
        seen.sort_unstable();
        View { layer, seen, owned }
    }

    /// What becomes of layers of `tree` that have no name and are swept, as `swept` is now: without a child they go,
    /// with one they fold into it.
    #[must_use]
    pub fn collapse(&self, tree: TreeId, swept: LayerId) -> Vec<Delta> {
        let mut layers: Vec<LayerEntry> = self.layers.values().filter(|layer| layer.tree == tree).cloned().collect();
        let mut deltas = Vec::new();
        loop {
            let children = |of: LayerId| layers.iter().filter(move |layer| layer.parent == of);
            let idle = |layer: &&LayerEntry| !layer.named && (!layer.deleting || layer.id == swept);
            let next = layers.iter().filter(idle).find(|layer| children(layer.id).count() < 2).cloned();
            let Some(gone) = next else { return deltas };
            let heir = children(gone.id).next().map(|layer| layer.id);
            deltas.push(match heir {
                None => Delta::LayerGone(gone.id),
                Some(into) => Delta::Fold { from: gone.id, into },
            });
            layers.retain(|layer| layer.id != gone.id);
            if let Some(heir) = heir.and_then(|heir| layers.iter_mut().find(|layer| layer.id == heir)) {
                heir.parent = gone.parent;
            }
        }
    }
}

/// Which layers need what they see, on one core: those with a name, and those to which changes may be under way there.
/// Such a one is swept when they have ended, so nothing of it is forgotten.
#[derive(Clone, Copy)]
pub struct Needs<'a> {
    /// The layers.
    pub catalog: &'a Catalog,
    /// Those to which changes may be under way.
    pub open: &'a [LayerId],
}

impl Needs<'_> {
    fn counts(&self, layer: &LayerEntry) -> bool {
        layer.named || self.open.contains(&layer.id)
    }

    /// What the layers of `tree` see, but for `without`.
    #[must_use]
    pub fn views(&self, tree: TreeId, without: Option<LayerId>) -> Vec<View> {
        let layers = self.catalog.layers.values().filter(|layer| layer.tree == tree && Some(layer.id) != without);
        layers.filter(|layer| self.counts(layer)).map(|layer| self.catalog.view(layer.id)).collect()
    }

    /// True if nobody needs anything of `tree`.
    #[must_use]
    pub fn is_forsaken(&self, tree: TreeId) -> bool {
        !self.catalog.layers.values().any(|layer| layer.tree == tree && self.counts(layer))
    }

    /// True if what `birth` bore may have ceased to be needed, when `changing` changes.
    #[must_use]
    pub fn may_be_free(&self, birth: LayerId, changing: LayerId) -> bool {
        let layer = self.catalog.resolve(birth);
        layer == changing || !self.catalog.layers.get(&layer).is_some_and(|layer| self.counts(layer))
    }
}

/// What may go of the extents at one index, of which no view needs any of these; `placed` has the newest birth first.
#[must_use]
pub fn free(mut placed: Vec<Placed>, views: &[View], may_be_free: impl Fn(&Placed) -> bool) -> Vec<ExtentId> {
    let mut free = Vec::new();
    // What is hidden may go, and then what hides it.
    loop {
        let unneeded: Vec<ExtentId> =
            unneeded(&placed, views).filter(|extent| may_be_free(extent)).map(|extent| extent.id).collect();
        if unneeded.is_empty() {
            return free;
        }
        placed.retain(|extent| !unneeded.contains(&extent.id));
        free.extend(unneeded);
    }
}

/// Which of the extents at one index no view needs; `placed` has the newest birth first. A chain needs none of those at
/// its end that have no data, if there is nothing that they hide.
fn unneeded<'a>(placed: &'a [Placed], views: &[View]) -> impl Iterator<Item = &'a Placed> {
    let mut needed = vec![false; placed.len()];
    for view in views {
        let seen: Vec<usize> = (0..placed.len()).filter(|at| view.sees(placed[*at].birth)).collect();
        let chain = seen.iter().position(|at| placed[*at].ends).map_or(seen.len(), |end| end + 1);
        let blank = match chain == seen.len() {
            true => seen.iter().rev().take_while(|at| placed[**at].blank).count(),
            false => 0,
        };
        seen[..chain - blank].iter().for_each(|at| needed[*at] = true);
    }
    placed.iter().zip(needed).filter(|(_, needed)| !needed).map(|(extent, _)| extent)
}

#[cfg(test)]
#[path = "forest_tests.rs"]
mod tests;
