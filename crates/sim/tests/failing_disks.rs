//! Worlds in which one write of thirty fails: what was answered stays so, and the pool opens again.
//!
//! Two defects were found here: a label that can't be written as the journal loses a disk (seed 11), and one that can't
//! be written as the journal gets one (seed 590).

use sds_sim::knobs::Knobs;
use sds_sim::panics;
use sds_sim::pool::PoolEngine;
use sds_sim::run::run;

#[test]
fn writes_that_fail_at_any_moment_lose_nothing_that_was_answered() {
    panics::catch_here();
    let mut failed_writes = 0;
    for seed in (1..=60).chain([590]) {
        let mut knobs = Knobs::new(seed, 600).gentle();
        knobs.lives = 6;
        for disk in &mut knobs.disks {
            (disk.rotational, disk.write_fault_per_100k) = (false, 3_000);
        }
        let outcome = run::<PoolEngine>(knobs);
        failed_writes += outcome.counters.write_faults;
        if let Some(failure) = outcome.failure {
            panic!("{failure}");
        }
    }
    assert!(failed_writes > 500, "{failed_writes} writes failed");
}
