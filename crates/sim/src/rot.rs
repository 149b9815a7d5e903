//! Blocks that a pool can do without, found on its disks between two lives.
//!
//! A copy may be spoiled only while the other one is as good: after a crash in the middle of a change it is not, and a
//! pool that then loses the newer one has lost more than it promises to bear. Of the two places of an owner block
//! either is expendable at any time: what one alone has is still in the journal.

use sds_io::DiskId;
use sds_volume::layout::catalog::{decode_slot, slot_bytes};
use sds_volume::layout::disk::{DiskLayout, LABEL_A_OFFSET, LABEL_B_OFFSET, LABEL_BYTES};
use sds_volume::layout::frame::{FRAME_ALIGNMENT_BYTES, JournalHeader};
use sds_volume::layout::label::Label;
use sds_volume::layout::owner::{OWNER_BLOCK_BYTES, OwnerBlock, OwnerGeometry};

use crate::engine::{Covered, Expendable, Spoiled};
use crate::random::Random;
use crate::world::World;

/// Blocks of an owner table that are looked at for one that is in use.
const OWNER_BLOCKS_TRIED_MAX: usize = 64;

/// See [`crate::engine::Engine::expendable`].
pub fn expendable(world: &World, disks: &[DiskId], random: &mut Random) -> Option<Expendable> {
    let disk = disks[random.index(disks.len())];
    let labels = [LABEL_A_OFFSET, LABEL_B_OFFSET]
        .map(|offset| Label::decode(&world.durable(disk, offset, LABEL_BYTES as usize)?).ok());
    let [Some(a), Some(b)] = labels else { return None };
    if a != b {
        return None;
    }
    let either = random.index(2) as u64;
    let what = match random.index(5) {
        0 => Spoiled::Label,
        1 => Spoiled::Catalog,
        2 => Spoiled::JournalHeader,
        3 => Spoiled::OwnerBlock,
        _ => Spoiled::JournalFrame,
    };
    let offset = match what {
        Spoiled::Label => [LABEL_A_OFFSET, LABEL_B_OFFSET][either as usize],
        Spoiled::Catalog => catalog_slot(world, disks, disk, &a.layout, either)?,
        Spoiled::JournalHeader => journal_header(world, disk, &a, either)?,
        Spoiled::OwnerBlock => owner_place(world, disk, &a, random)?,
        Spoiled::JournalFrame => journal_frame(world, disks, disk, &a, random)?,
    };
    Some(Expendable { what, disk, offset })
}

/// One of `disk`'s slots, if another disk has the same newest catalog.
fn catalog_slot(world: &World, disks: &[DiskId], disk: DiskId, layout: &DiskLayout, slot: u64) -> Option<u64> {
    let newest = |disk: DiskId, layout: &DiskLayout| {
        let sequence = |slot| {
            let offset = layout.catalog_slot_offset(slot);
            let head = world.durable(disk, offset, FRAME_ALIGNMENT_BYTES as usize)?;
            let bytes = world.durable(disk, offset, slot_bytes(&head).ok()?)?;
            Some(decode_slot(&bytes).ok()?.0)
        };
        (0..2).filter_map(sequence).max()
    };
    let here = newest(disk, layout)?;
    let others = disks.iter().filter(|other| **other != disk).map(|other| {
        let label = Label::decode(&world.durable(*other, LABEL_A_OFFSET, LABEL_BYTES as usize)?).ok()?;
        newest(*other, &label.layout)
    });
    others.flatten().any(|other| other == here).then(|| layout.catalog_slot_offset(slot))
}

fn journal_header(world: &World, disk: DiskId, label: &Label, slot: u64) -> Option<u64> {
    if !label.journal {
        return None;
    }
    let offset = |slot| label.layout.journal_offset + slot * FRAME_ALIGNMENT_BYTES;
    let header = |slot| JournalHeader::decode(&world.durable(disk, offset(slot), FRAME_ALIGNMENT_BYTES as usize)?).ok();
    (header(0)? == header(1)?).then(|| offset(slot))
}

/// A block of `disk`'s log that a frame begins in, if another disk's journal is the same, byte for byte.
fn journal_frame(world: &World, disks: &[DiskId], disk: DiskId, label: &Label, random: &mut Random) -> Option<u64> {
    let log = |disk: DiskId, label: &Label| {
        let len = label.layout.journal_bytes as usize;
        if label.journal { world.durable(disk, label.layout.journal_offset, len) } else { None }
    };
    let ours = log(disk, label)?;
    let same = |other: &DiskId| {
        let bytes = world.durable(*other, LABEL_A_OFFSET, LABEL_BYTES as usize)?;
        let other_label = Label::decode(&bytes).ok().filter(|other| other.pool_epoch == label.pool_epoch)?;
        (log(*other, &other_label)? == ours).then_some(())
    };
    disks.iter().filter(|other| **other != disk).find_map(same)?;
    let block = FRAME_ALIGNMENT_BYTES as usize;
    let frames: Vec<usize> = (2..ours.len() / block).filter(|at| ours[at * block..].starts_with(b"SDSF")).collect();
    let chosen = frames.get(random.index(frames.len().max(1)))?;
    Some(label.layout.journal_offset + *chosen as u64 * FRAME_ALIGNMENT_BYTES)
}

/// See [`crate::engine::Engine::covered`]. Labels are there twice, the catalog is on each disk, the journal may
/// be; what owner tables say is in the metadata store.
pub fn covered(world: &World, disks: &[DiskId], rebuilds: bool, random: &mut Random) -> Option<Covered> {
    let label = |disk: DiskId| Label::decode(&world.durable(disk, LABEL_A_OFFSET, LABEL_BYTES as usize)?).ok();
    let disk = disks[random.index(disks.len())];
    let ours = label(disk)?;
    let is_current = |label: &Label| label.journal && label.pool_epoch == ours.pool_epoch;
    let layout = &ours.layout;
    let mut regions: Vec<_> =
        [LABEL_A_OFFSET, LABEL_B_OFFSET].into_iter().map(|offset| offset..offset + LABEL_BYTES).collect();
    let slots = layout.catalog_slot_offset(0);
    regions.push(slots..slots + 2 * layout.catalog_slot_bytes);
    if ours.journal && disks.iter().any(|other| *other != disk && label(*other).as_ref().is_some_and(is_current)) {
        regions.push(layout.journal_offset..layout.journal_offset + layout.journal_bytes);
    }
    if !rebuilds {
        let blocks = OwnerGeometry::new(layout.extent_bytes).blocks(layout.chunks);
        regions.push(layout.owner_offset..layout.owner_offset + blocks * 2 * OWNER_BLOCK_BYTES);
    }
    Some(Covered { disk, regions })
}

fn owner_place(world: &World, disk: DiskId, label: &Label, random: &mut Random) -> Option<u64> {
    let geometry = OwnerGeometry::new(label.layout.extent_bytes);
    let blocks = geometry.blocks(label.layout.chunks);
    let offset = |block, place| label.layout.owner_offset + (block * 2 + place) * OWNER_BLOCK_BYTES;
    (0..OWNER_BLOCKS_TRIED_MAX).find_map(|_| {
        let block = random.below(blocks);
        let sequence = |place| {
            let bytes = world.durable(disk, offset(block, place), OWNER_BLOCK_BYTES as usize)?;
            Some(OwnerBlock::decode(&bytes, &geometry, &label.disk_uuid, block as u32).ok()?.sequence)
        };
        (sequence(0).is_some() && sequence(1).is_some()).then(|| offset(block, random.index(2) as u64))
    })
}
