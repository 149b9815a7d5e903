//! Random histories of layers over one page, with what each layer contains beside it: the rules of bearing, hiding,
//! freeing and folding, without I/O.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::delete::{end_of, sweep_deltas};
use crate::delta::Place;
use crate::extents::Extent;
use crate::layout::memory::lcg;
use crate::page::{PageState, Piece};
use crate::place::{BLOCK_BYTES, BlockNo, ChunkAddr, DiskNo, ExtentIndex, Lsn, PageKey, PageNo};
use crate::record::{BELOW, BlockState};
use crate::request::Span;
use crate::write::push_gone;
use crate::zero::{Over, hide_deltas, zero_deltas};

/// A chunk is a block.
const BLOCKS: u32 = 16;
const SLOTS: usize = 3;
const TREE: TreeId = TreeId(1);
const KEY: PageKey = PageKey { tree: TREE, page: PageNo(0) };
const LAYERS_MAX: usize = 12;

type Contents = Vec<u32>;

struct World {
    page: PageState,
    catalog: Catalog,
    lsn: Lsn,
    /// What each allocated chunk holds.
    disk: BTreeMap<u32, u32>,
    next_chunk: u32,
    live: Vec<LayerId>,
    frozen: Vec<LayerId>,
    contents: BTreeMap<LayerId, Contents>,
}

const fn layer(id: LayerId, parent: LayerId) -> LayerEntry {
    let (named, frozen, deleting, inherit_limit_bytes) = (true, false, false, 1 << 20);
    LayerEntry { id, tree: TREE, parent, named, frozen, deleting, inherit_limit_bytes }
}

impl World {
    fn new() -> Self {
        let root = LayerId(1);
        let mut world = Self {
            page: PageState::empty(BLOCKS),
            catalog: Catalog::default(),
            lsn: Lsn(0),
            disk: BTreeMap::new(),
            next_chunk: 16,
            live: vec![root],
            frozen: Vec::new(),
            contents: BTreeMap::from([(root, vec![0; SLOTS * BLOCKS as usize])]),
        };
        world.push(&[Delta::Layer(layer(root, LayerId(0)))], &[]);
        (0..4).for_each(|row| world.push(&[Delta::Row { page: KEY, row }], &[]));
        world
    }

    const fn needs(&self) -> Needs<'_> {
        Needs { catalog: &self.catalog, open: &[] }
    }

    fn push(&mut self, deltas: &[Delta], freed: &[ChunkAddr]) {
        self.lsn.0 += 1;
        for delta in deltas {
            self.catalog.apply(delta);
            if delta.page().is_some() {
                self.page.apply(self.lsn, delta);
            }
        }
        for addr in freed {
            assert!(self.disk.remove(&addr.chunk).is_some(), "{addr:?} is freed twice");
        }
    }

    /// As the engine changes blocks: a layer's own extent, a chunk, a state, and what nobody needs any more goes.
    fn put(&mut self, view: &View, slot: usize, block: u32, base: ExtentId, to: Option<BlockState>, value: u32) {
        let index = ExtentIndex(slot as u64);
        let own = self.page.own(view, slot).map(|extent| extent.record.id);
        let id = own.unwrap_or_else(|| self.page.bear(view.layer(), index, base).expect("an id"));
        let record = self.page.extent(id).expect("borne").record.clone();
        let place = Place { tree: TREE, index };
        let mut deltas = vec![Delta::Extent { place, layer: record.birth, id, base: record.base }];
        let addr = record.home.chunk(block as usize).unwrap_or(ChunkAddr { disk: DiskNo(0), chunk: self.next_chunk });
        if addr.chunk == self.next_chunk {
            self.next_chunk += 1;
            deltas.push(Delta::Chunks { place, id, first: block as u8, addrs: vec![addr] });
        }
        self.disk.insert(addr.chunk, value);
        let mut after = record;
        if let Some(state) = to {
            deltas.push(Delta::States { place, id, start: BlockNo(block), count: 1, state });
            after.states.set(block, 1, state, BLOCKS);
        }
        let mut freed = Vec::new();
        if after.ends_chain(BLOCKS) {
            let unneeded = self.page.unneeded(self.needs(), (TREE, view.layer()), slot, &[id]);
            push_gone(&mut deltas, &mut freed, KEY, &self.page, &unneeded);
        }
        self.push(&deltas, &freed);
    }

    fn write(&mut self, layer: LayerId, slot: usize, block: u32, value: u32) {
        let view = self.catalog.view(layer);
        let base = if view.inherits() { BELOW } else { ExtentId::HOLE };
        self.put(&view, slot, block, base, Some(BlockState::Data), value);
        self.contents.get_mut(&layer).expect("live")[slot * BLOCKS as usize + block as usize] = value;
    }

    fn zero(&mut self, layer: LayerId, slot: usize, first: u32, count: u32) {
        let view = self.catalog.view(layer);
        let span = Span { slot, start: u64::from(first) * BLOCK_BYTES, len: u64::from(count) * BLOCK_BYTES, offset: 0 };
        let at = slot * BLOCKS as usize + first as usize;
        self.contents.get_mut(&layer).expect("live")[at..at + count as usize].fill(0);
        let deltas = match Over::of(&self.page, &view, span) {
            None => return,
            Some(Over::Nothing) => zero_deltas(&self.page, &view, KEY, span, true),
            Some(Over::Part) => {
                let base = if view.inherits() { BELOW } else { ExtentId::HOLE };
                return (first..first + count)
                    .for_each(|block| self.put(&view, slot, block, base, Some(BlockState::Zero), 0));
            }
            Some(Over::Whole { blank }) => match hide_deltas(&self.page, self.needs(), &view, KEY, span, true) {
                None if blank => return,
                None => return self.put(&view, slot, 0, ExtentId::HOLE, None, 0),
                deltas => deltas,
            },
        };
        if let Some((deltas, freed)) = deltas {
            self.push(&deltas, &freed);
        }
    }

    fn open(&mut self, parent: LayerId) -> LayerId {
        let id = LayerId(self.catalog.next_layer);
        let frozen = LayerEntry { frozen: true, ..self.catalog.layers[&parent].clone() };
        self.push(&[Delta::Layer(frozen), Delta::Layer(layer(id, parent))], &[]);
        self.contents.insert(id, self.contents[&parent].clone());
        id
    }

    fn delete(&mut self, gone: LayerId) {
        self.contents.remove(&gone);
        let entry = LayerEntry { named: false, deleting: true, ..self.catalog.layers[&gone].clone() };
        self.push(&[Delta::Layer(entry.clone())], &[]);
        if let Some((deltas, freed)) = sweep_deltas(&self.page, self.needs(), KEY, false) {
            self.push(&deltas, &freed);
        }
        self.push(&end_of(&self.catalog, &entry), &[]);
    }

    fn step(&mut self, draw: &mut impl FnMut(u64) -> u64) {
        let live = self.live[draw(self.live.len() as u64) as usize];
        let (slot, block, value) = (draw(SLOTS as u64) as usize, draw(16) as u32, 1 + draw(1 << 30) as u32);
        let at = draw(self.frozen.len().max(1) as u64) as usize;
        match draw(100) {
            0..35 => self.write(live, slot, block, value),
            35..40 => (0..BLOCKS).for_each(|block| self.write(live, slot, block, value + block)),
            40..50 => self.zero(live, slot, block, 1 + draw(u64::from(BLOCKS - block)) as u32),
            50..60 => self.zero(live, slot, 0, BLOCKS),
            60..75 if self.catalog.layers.len() < LAYERS_MAX => {
                let child = self.open(live);
                self.live.retain(|other| *other != live);
                self.live.push(child);
                self.frozen.push(live);
            }
            75..82 if !self.frozen.is_empty() && self.live.len() < 5 => {
                let clone = self.open(self.frozen[at]);
                self.live.push(clone);
            }
            82..94 if !self.frozen.is_empty() => {
                let gone = self.frozen.swap_remove(at);
                self.delete(gone);
            }
            94..100 if self.live.len() > 1 => {
                self.live.retain(|other| *other != live);
                self.delete(live);
            }
            _ => {}
        }
    }

    fn read(&self, page: &PageState, view: &View, slot: usize, block: u32) -> u32 {
        let mut pieces = Vec::new();
        page.plan_read(view, slot, u64::from(block) * BLOCK_BYTES, BLOCK_BYTES, &mut pieces);
        match pieces[..] {
            [Piece::Zeros { .. }] => 0,
            [Piece::Disk { addr, .. }] => self.disk[&addr.chunk],
            _ => unreachable!("one block"),
        }
    }

    /// Each layer has its contents, also in a page that is made of its extents alone; and nothing else is allocated.
    fn check(&self) {
        let mut imported = PageState::empty(BLOCKS);
        for extent in self.page.extents.iter().filter(|extent| extent.pushed) {
            assert!(extent.record.home.mask() != 0, "no chunk tells an import of {:?}", extent.record.id);
            imported.add(Extent::stored(extent.record.clone(), extent.lsn));
        }
        for (layer, contents) in &self.contents {
            let view = self.catalog.view(*layer);
            for (at, expected) in contents.iter().enumerate() {
                let (slot, block) = (at / BLOCKS as usize, (at % BLOCKS as usize) as u32);
                for page in [&self.page, &imported] {
                    assert_eq!(self.read(page, &view, slot, block), *expected, "{layer:?} slot {slot} block {block}");
                }
            }
        }
        let needs = self.needs();
        let views = needs.views(TREE, None);
        for slot in 0..SLOTS {
            let may_be_free = |extent: &Placed| needs.may_be_free(extent.birth, LayerId(0));
            assert_eq!(free(self.page.placed(slot, &[]), &views, may_be_free), [], "slot {slot}");
        }
        let chunks = self.page.extents.iter().flat_map(|extent| extent.record.home.chunks());
        let held: BTreeSet<u32> = chunks.map(|(_, addr)| addr.chunk).collect();
        assert_eq!(held, self.disk.keys().copied().collect(), "chunks that are allocated");
        for layer in self.catalog.layers.values().filter(|layer| !layer.named) {
            let children = self.catalog.layers.values().filter(|other| other.parent == layer.id).count();
            assert!(children >= 2, "{layer:?} stays for {children}");
        }
    }
}

fn history(seed: u64, steps: u32) {
    let mut draw = lcg(seed);
    let mut world = World::new();
    for _ in 0..steps {
        world.step(&mut draw);
        world.check();
    }
    // Everything is given back, in any order.
    while let Some(gone) = (!world.frozen.is_empty()).then(|| draw(world.frozen.len() as u64) as usize) {
        let gone = world.frozen.swap_remove(gone);
        world.delete(gone);
        world.check();
    }
    while let Some(gone) = world.live.pop() {
        world.delete(gone);
    }
    assert!(world.disk.is_empty() && world.catalog.layers.is_empty() && world.catalog.folds.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn every_layer_has_its_contents_and_nobody_else_has_space(seed: u64) {
        history(seed, 120);
    }
}

#[test]
fn a_fold_is_resolved_in_one_step_and_goes_with_its_layer() {
    let mut catalog = Catalog::default();
    for id in 1..=4 {
        catalog.apply(&Delta::Layer(layer(LayerId(id), LayerId(id - 1))));
    }
    catalog.apply(&Delta::Fold { from: LayerId(1), into: LayerId(2) });
    catalog.apply(&Delta::Fold { from: LayerId(2), into: LayerId(3) });
    assert_eq!(catalog.folds, BTreeMap::from([(LayerId(1), LayerId(3)), (LayerId(2), LayerId(3))]));
    assert_eq!(catalog.layers[&LayerId(3)].parent, LayerId(0));
    let view = catalog.view(LayerId(4));
    assert!(
        (1..=4).all(|id| view.sees(LayerId(id)))
            && (1..=4).map(|id| view.owns(LayerId(id))).eq([false, false, false, true])
    );
    assert!((1..=3).all(|id| catalog.view(LayerId(3)).owns(LayerId(id))));
    catalog.apply(&Delta::LayerGone(LayerId(3)));
    assert!(catalog.folds.is_empty());
}
