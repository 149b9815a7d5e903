//! The test of the test: each defect that can be planted in the engine is found, by what hosts read or by a pool that
//! does not open. An assertion of the engine is no proof of the oracle and does not count.

use sds_sim::lean::leaning;
use sds_sim::panics;
use sds_sim::pool::PoolEngine;
use sds_sim::run::run;
use sds_volume::Defect;

const OPERATIONS: u32 = 2000;
/// Within so many seeds each must be found; of seeds 1 to 100 at least 4 find any of them (see docs/ARCHITECTURE.md).
const SEEDS_TO_FIND_MAX: u64 = 120;

fn assert_found(defect: Defect) {
    panics::catch_here();
    let finds = |seed: &u64| {
        let Some(failure) = run::<PoolEngine>(leaning(*seed, OPERATIONS, defect)).failure else { return false };
        println!("seed {seed}: {}", failure.what);
        !failure.is_panic()
    };
    assert!((1..=SEEDS_TO_FIND_MAX).any(|seed| finds(&seed)), "{} is not found", defect.name());
}

macro_rules! found {
    ($($name:ident: $defect:ident,)*) => {
        $(#[test]
        fn $name() {
            assert_found(Defect::$defect);
        })*

        #[test]
        fn every_defect_has_its_test() {
            assert_eq!(Defect::ALL, [$(Defect::$defect,)*]);
        }
    };
}

found! {
    an_answer_before_its_ring_entry: SkipRing,
    a_ring_of_a_former_opening: ForeignRing,
    frames_without_their_crc: IgnoreCrc,
    a_frame_of_an_earlier_lap: StaleFrame,
    the_shortest_of_two_journals: ShortestJournal,
    a_journal_of_an_older_epoch: OlderEpoch,
    a_stale_catalog_slot: StaleCatalog,
    a_partial_block_without_a_lock: PartialUnlocked,
    a_map_ahead_of_its_data: MapBeforeData,
    a_write_that_counts_before_it_ends: CountsEarly,
    a_fua_that_ignores_a_pending_delta: FuaIgnoresPending,
    a_flush_that_ignores_overwrites: FlushIgnoresOverwrites,
    a_write_before_its_unsealing_is_durable: UnsealLate,
    neighbours_that_are_unsealed_unverified: UnsealUnverified,
    a_seal_without_its_crcs: SealUnchecked,
    a_seal_while_a_write_is_under_way: SealUnlocked,
    a_discard_that_shows_what_a_snapshot_has: DiscardShowsOld,
    a_chain_of_which_the_newest_extent_alone_counts: ChainForgotten,
    a_snapshot_without_a_hold: SnapshotUnheld,
    a_snapshot_before_its_writes_have_ended: SnapshotEarly,
    a_discard_that_keeps_its_blocks_data: DiscardKeepsData,
    a_chunk_freed_before_that_is_durable: FreeEarly,
    a_chunk_given_out_under_a_read: ReuseUnderRead,
    deltas_that_are_not_counted: RecordsUncounted,
    a_commit_without_syncs: SkipSync,
    a_delta_journaled_before_its_data_is_synced: LateSeal,
    a_failed_sync_tried_again: SyncRetried,
    a_catalog_change_answered_too_early: CatalogUnsynced,
    owner_tables_after_the_metadata_store: OwnersAfterMeta,
    owner_tables_that_keep_freed_chunks: OwnersNotCleared,
    a_journal_trimmed_too_early: TrimEarly,
    a_replay_that_skips_a_group: ReplaySkipsGroup,
}
