//! Worlds in which a planted defect shows: a seed's own, with what the defect needs turned on.

use sds_volume::{Defect, Planted};

use crate::knobs::Knobs;
use crate::workload::{KINDS, Kind};

/// What `seed` decides, with `defect` in and what it takes to see it.
#[must_use]
pub fn leaning(seed: u64, operations: u32, defect: Defect) -> Knobs {
    let mut knobs = Knobs { planted: Planted::only(defect), ..Knobs::new(seed, operations) };
    match defect {
        // What comes with a write must be lost while its data is safe, or the other way round.
        Defect::FuaIgnoresPending => {
            weigh(&mut knobs, &[(Kind::WriteFua, 100), (Kind::Flush, 1), (Kind::Document, 0), (Kind::Volume, 0)]);
            (knobs.power_cut_per_mille, knobs.churn_per_mille, knobs.lives) = (1000, 0, 14);
        }
        Defect::CountsEarly | Defect::LateSeal | Defect::FlushIgnoresOverwrites | Defect::FreeEarly => {
            weigh(&mut knobs, &[(Kind::Flush, 40)]);
            (knobs.power_cut_per_mille, knobs.lives) = (1000, 14);
            knobs.disks.iter_mut().for_each(|disk| disk.volatile_cache = true);
        }
        Defect::UnsealLate | Defect::UnsealUnverified | Defect::SealUnchecked | Defect::SealUnlocked => {
            weigh(&mut knobs, &[(Kind::Flush, 20), (Kind::Discard, 2)]);
            knobs.seal_after_ms = 8;
            (knobs.power_cut_per_mille, knobs.rot_sealed_per_mille, knobs.drop_per_mille) = (1000, 20, 0);
            (knobs.weights.sizes, knobs.depth) = ([20, 30, 15, 4, 2], 16);
            knobs.disks.iter_mut().for_each(|disk| disk.volatile_cache = true);
        }
        Defect::ReuseUnderRead => {
            weigh(&mut knobs, &[(Kind::Read, 60), (Kind::Discard, 60)]);
            knobs.depth = 48;
            knobs.disks.iter_mut().for_each(|disk| (disk.size_bytes, disk.stall_per_mille) = (5 << 20, 20));
        }
        Defect::DiscardShowsOld | Defect::ChainForgotten => {
            weigh(&mut knobs, &[(Kind::Discard, 30)]);
            (knobs.layers_per_mille, knobs.rot_sealed_per_mille, knobs.weights.sizes) = (120, 0, [10, 30, 15, 10, 10]);
        }
        // Writes that are answered one after the other, on several cores, as a snapshot is taken.
        Defect::SnapshotUnheld | Defect::SnapshotEarly => {
            (knobs.layers_per_mille, knobs.rot_sealed_per_mille) = (200, 0);
            (knobs.cores, knobs.depth, knobs.verify_per_mille) = (3, 48, 1000);
            knobs.core_stall_per_100k = 5_000;
            knobs.disks.iter_mut().for_each(|disk| disk.stall_per_mille = 30);
        }
        Defect::OwnersAfterMeta | Defect::OwnersNotCleared => {
            (knobs.meta_lost_per_mille, knobs.meta_aged_per_mille, knobs.lives) = (700, 0, 14);
            knobs.weights.sizes = [1, 1, 1, 10, 10];
        }
        Defect::IgnoreCrc => (knobs.ambush_per_mille, knobs.lives) = (800, 14),
        Defect::OlderEpoch => {
            // One disk leaves the journal, and later the other one can't be read.
            knobs.disks.truncate(2);
            let [first, second] = &mut knobs.disks[..] else { unreachable!("a pool begins with two") };
            (first.rotational, second.rotational) = (false, false);
            (first.write_fault_per_100k, second.read_fault_per_100k) = (500, 10_000);
            knobs.lives = 14;
        }
        // The ring of the node that the pool left is there when it comes back.
        Defect::ForeignRing => {
            knobs = knobs.gentle();
            (knobs.move_per_mille, knobs.power_cut_per_mille, knobs.lives) = (600, 0, 14);
        }
        // One of two copies is cut short.
        Defect::ShortestJournal => {
            knobs = knobs.gentle();
            (knobs.rot_per_mille, knobs.lives) = (1000, 14);
            knobs.disks.iter_mut().for_each(|disk| disk.rotational = false);
        }
        // Many small changes between two flushes.
        Defect::RecordsUncounted => {
            weigh(&mut knobs, &[(Kind::Flush, 1), (Kind::WriteFua, 1)]);
            (knobs.journal_records_max, knobs.journal_bytes, knobs.carry_over_bytes) = (600, None, 1 << 20);
        }
        Defect::SyncRetried => {
            weigh(&mut knobs, &[(Kind::Flush, 40)]);
            knobs.disks.iter_mut().for_each(|disk| (disk.volatile_cache, disk.sync_fault_per_100k) = (true, 1000));
        }
        Defect::SkipRing
        | Defect::StaleFrame
        | Defect::StaleCatalog
        | Defect::PartialUnlocked
        | Defect::MapBeforeData
        | Defect::DiscardKeepsData
        | Defect::SkipSync
        | Defect::CatalogUnsynced
        | Defect::TrimEarly
        | Defect::ReplaySkipsGroup => {}
    }
    knobs
}

fn weigh(knobs: &mut Knobs, weights: &[(Kind, u32)]) {
    for (kind, weight) in weights {
        let at = KINDS.iter().position(|other| other == kind).expect("one of all kinds");
        knobs.weights.operations[at] = *weight;
    }
}
