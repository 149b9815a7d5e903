//! The real pool in the simulated world: some seeds pass, as do those that failed once, and a seed replays to the bit.

use sds_sim::knobs::Knobs;
use sds_sim::panics;
use sds_sim::pool::PoolEngine;
use sds_sim::report::Counters;
use sds_sim::run::{Outcome, run};

const OPERATIONS: u32 = 2000;

fn one(seed: u64) -> Outcome {
    panics::catch_here();
    run::<PoolEngine>(Knobs::new(seed, OPERATIONS))
}

#[test]
fn seeds_without_a_defect_pass_and_meet_much() {
    let mut all = Counters::default();
    for seed in 1..=12 {
        let outcome = one(seed);
        if let Some(failure) = outcome.failure {
            panic!("{failure}");
        }
        all.add(&outcome.counters);
    }
    println!("{all}");
    assert!(all.process_crashes > 10 && all.power_cuts > 10 && all.torn_writes > 50, "{all}");
    assert!(all.seeds_lapped > 2 && all.seeds_full > 1 && all.imports > 0, "{all}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 4] {
        let (first, second) = (one(seed), one(seed));
        assert_eq!((first.trace, first.counters), (second.trace, second.counters), "seed {seed}");
    }
}

fn assert_passes(seed: u64) {
    if let Some(failure) = one(seed).failure {
        panic!("{failure}");
    }
}

// Each failed once; the names say how. A change of the worlds gives a seed another history: then it is one more seed.

#[test]
fn writes_that_wait_for_the_journal_of_a_pool_whose_sync_failed_do_not_spin() {
    [16_366_140_101_036, 10_067_173_403_127, 23_995_179_515_323, 4_518_277_033_715, 31_617_254_354_926]
        .into_iter()
        .for_each(assert_passes);
}

#[test]
fn a_full_pool_whose_deletion_waits_for_a_permit_goes_on() {
    [50, 65, 405].into_iter().for_each(assert_passes);
}

#[test]
fn a_discard_within_two_blocks_takes_no_chunk() {
    assert_passes(263);
}

#[test]
fn a_disk_that_fails_at_an_opening_is_told_as_such() {
    assert_passes(287);
}

#[test]
fn a_pool_whose_map_is_over_its_limit_and_can_not_be_stored_does_not_spin() {
    assert_passes(72);
}

#[test]
fn a_flushed_write_is_there_after_the_metadata_store_was_lost() {
    assert_passes(33_619_894_661_420);
}

#[test]
fn a_write_to_a_deleted_volume_keeps_its_extent_when_a_clone_makes_it_unneeded() {
    [42, 85, 121, 130].into_iter().for_each(assert_passes);
}

#[test]
fn what_clones_share_goes_with_the_last_that_hides_it() {
    [14, 54, 117, 157].into_iter().for_each(assert_passes);
}

#[test]
fn a_snapshot_that_failed_for_a_full_journal_does_not_keep_its_space() {
    [256, 741].into_iter().for_each(assert_passes);
}

#[test]
fn an_overwrite_that_healed_a_block_and_was_not_flushed_may_be_lost_on_the_way_to_another_node() {
    assert_passes(272);
}

#[test]
fn a_disk_that_left_the_journal_and_is_back_is_not_said_to_have_lost_writes() {
    assert_passes(698_535_219_812);
}
