use std::collections::BTreeSet;

use super::*;
use crate::catalog::DiskEntry;
use crate::delta::Place;
use crate::layout::memory::lcg;
use crate::place::{ExtentId, ExtentIndex, Generation, TreeId};
use crate::record::Home;

const A: DiskNo = DiskNo(0);
const B: DiskNo = DiskNo(1);

/// A disk's first run is check space: `chunks` are those after it, and runs are counted from there.
const FIRST: u32 = CHUNKS_PER_EXTENT as u32;

fn disk(no: DiskNo, rank: u8, chunks: u32) -> SpaceDisk {
    SpaceDisk { no, rank, chunks: FIRST + chunks }
}

fn run(disk: DiskNo, chunk: u32, count: u32) -> ChunkRun {
    ChunkRun { start: ChunkAddr { disk, chunk: FIRST + chunk }, count }
}

fn chunks(run: ChunkRun) -> Delta {
    let place = Place { tree: TreeId(1), index: ExtentIndex(0) };
    let addrs = (0..run.count).map(|i| ChunkAddr { disk: run.start.disk, chunk: run.start.chunk + i }).collect();
    Delta::Chunks { place, id: ExtentId::new(1, Generation(1)), first: 0, addrs }
}

fn free(run: ChunkRun) -> Delta {
    Delta::Free { tree: TreeId(1), runs: vec![run] }
}

#[test]
fn a_chunk_goes_round() {
    let mut space = Space::new(&[disk(A, 0, 1024)]);
    let granted = space.allocate_run(16, 16).expect("room");
    assert_eq!((granted, space.free_chunks(A), space.allocated_chunks(A)), (run(A, 0, 16), 1008, 0));
    space.apply(&chunks(run(A, 0, 10)), Lsn(1));
    space.release_grant(run(A, 10, 6));
    assert_eq!((space.free_chunks(A), space.allocated_chunks(A)), (1014, 10));
    space.apply(&free(run(A, 2, 3)), Lsn(2));
    assert_eq!((space.free_chunks(A), space.allocated_chunks(A)), (1014, 7), "in quarantine");
    assert!(space.is_allocated(run(A, 1, 1).start) && !space.is_allocated(run(A, 2, 1).start));
    space.unquarantine(run(A, 2, 3));
    assert_eq!(space.free_chunks(A), 1017);
}

#[test]
#[should_panic(expected = "is in use")]
fn a_chunk_in_use_is_not_let_go() {
    let mut space = Space::new(&[disk(A, 0, 1024)]);
    space.apply(&chunks(run(A, 0, 1)), Lsn(1));
    space.unquarantine(run(A, 0, 1));
}

#[test]
#[should_panic(expected = "was free already")]
fn a_free_chunk_is_not_let_go() {
    Space::new(&[disk(A, 0, 1024)]).release_grant(run(A, 0, 1));
}

#[test]
fn tiers_are_asked_in_order_and_the_reserve_is_kept() {
    let mut space = Space::new(&[disk(A, 1, 1280), disk(B, 0, 1280)]);
    let all = |rank, reserve| Wish { rank, chunks: 5000, chunks_min: 1, extents: false, reserve };
    assert_eq!(space.reserve_chunks(A), 10);
    assert_eq!(space.allocate_run(5000, 1), Some(run(B, 0, 1270)), "the faster one");
    assert_eq!(space.allocate_run(1, 1), Some(run(A, 0, 1)), "the slower one when that is full");
    assert_eq!(space.allocate(&all(1, false)), Some(run(A, 1, 1269)));
    assert_eq!(space.allocate_run(1, 1), None);
    assert_eq!(space.allocate(&all(1, true)), Some(run(A, 1270, 10)));
    assert_eq!(space.allocate(&all(1, true)), Some(run(B, 1270, 10)));
    assert_eq!(space.allocate(&all(0, true)), None);
}

#[test]
fn the_emptier_disk_of_a_tier_is_asked_first() {
    let mut space = Space::new(&[disk(A, 0, 1280), disk(B, 0, 2560)]);
    assert_eq!(space.allocate_run(1600, 1600), Some(run(B, 0, 1600)));
    assert_eq!(space.allocate_run(16, 1), Some(run(A, 0, 16)));
}

#[test]
fn extents_are_aligned_and_whole() {
    let mut space = Space::new(&[disk(A, 0, 12_800)]);
    let wish = |chunks, chunks_min| Wish { rank: 0, chunks, chunks_min, extents: true, reserve: false };
    assert_eq!(space.allocate_run(3, 3), Some(run(A, 0, 3)));
    assert_eq!(space.allocate(&wish(40, 16)), Some(run(A, 16, 32)));
    assert_eq!(space.allocate(&wish(16, 16)), Some(run(A, 48, 16)));
    // A disk in pieces: a chunk in each extent is in use but for one.
    for extent in 0..800 {
        if extent != 700 {
            space.apply(&chunks(run(A, extent * 16 + 5, 1)), Lsn(1));
        }
    }
    assert_eq!(space.allocate(&wish(64, 16)), Some(run(A, 700 * 16, 16)));
    assert_eq!(space.allocate(&wish(64, 16)), None);
    assert_eq!(space.allocate_run(64, 16), None, "the longest free run has 15");
    assert_eq!(space.allocate_run(64, 15).map(|run| run.count), Some(15));
}

#[test]
fn flips_allocate_and_disks_join() {
    let mut space = Space::new(&[]);
    let entry = DiskEntry { no: B, uuid: [0; 16], tier: "hdd".into(), rank: 1, chunks: FIRST + 640 };
    space.apply(&Delta::Disk(entry.clone()), Lsn(1));
    let place = Place { tree: TreeId(1), index: ExtentIndex(0) };
    let home = Home::Run(run(B, 32, 1).start);
    space.apply(&Delta::Flip { place, id: ExtentId::new(1, Generation(1)), home }, Lsn(2));
    space.apply(&Delta::Disk(entry), Lsn(3));
    assert_eq!((space.allocated_chunks(B), space.free_chunks(B)), (16, 624));
    // What can't be is told in the log and changes nothing.
    space.apply(&free(run(A, 0, 1)), Lsn(4));
    space.apply(&free(run(B, 639, 2)), Lsn(5));
    assert_eq!(space.allocated_chunks(B), 16);
}

#[test]
fn check_space_is_nobodys() {
    let mut space = Space::new(&[disk(A, 0, 2 * ZONE_CHUNKS - FIRST)]);
    assert_eq!(space.free_chunks(A), 2 * ZONE_CHUNKS - 2 * FIRST);
    let first = space.allocate_run(2 * ZONE_CHUNKS, 1).expect("room");
    assert_eq!(first, run(A, 0, ZONE_CHUNKS - FIRST), "up to the next zone");
    assert_eq!(space.allocate_run(1, 1).expect("room"), run(A, ZONE_CHUNKS, 1));
    space.release_grant(first);
    space.release_grant(run(A, ZONE_CHUNKS, 1));
    space.settle();
    assert_eq!(space.free_chunks(A), 2 * ZONE_CHUNKS - 2 * FIRST);
    // What can't be is told in the log and changes nothing.
    space.apply(&chunks(run(A, ZONE_CHUNKS - FIRST, 1)), Lsn(1));
    space.apply(&chunks(run(A, ZONE_CHUNKS - 1, 1)), Lsn(1));
    assert_eq!(space.allocated_chunks(A), 0);
}

#[test]
fn a_segment_that_is_newer_than_a_delta_stays() {
    let disks = [disk(A, 0, 2 * SEGMENT_CHUNKS)];
    let mut space = Space::new(&disks);
    // A segment begins with check space, so no run lies in two.
    let (before, behind) = (run(A, SEGMENT_CHUNKS - FIRST - 8, 8), run(A, SEGMENT_CHUNKS, 8));
    space.apply(&chunks(before), Lsn(5));
    space.apply(&chunks(behind), Lsn(5));
    let mut images = space.take_dirty_segments();
    assert_eq!(images.iter().map(|i| (i.segment, i.lsn)).collect::<Vec<_>>(), [(0, Lsn(5)), (1, Lsn(5))]);
    assert!(space.take_dirty_segments().is_empty());
    space.mark_dirty(A, 1);
    assert_eq!(space.take_dirty_segments(), images[1..]);
    // The second segment is stored, the first is lost: replay brings only that one back.
    let second = images.pop().expect("two");
    let stray = SegmentImage { segment: 3, ..second.clone() };
    let (mut again, unknown) = Space::load(&disks, vec![second, stray.clone()]);
    assert_eq!((again.allocated_chunks(A), unknown), (8, vec![stray]));
    again.apply(&free(behind), Lsn(4));
    again.apply(&chunks(before), Lsn(5));
    again.apply(&chunks(behind), Lsn(5));
    again.apply(&free(run(A, SEGMENT_CHUNKS - FIRST - 8, 2)), Lsn(6));
    again.settle();
    let data_chunks = 2 * SEGMENT_CHUNKS - 4 * FIRST;
    assert_eq!((again.allocated_chunks(A), again.free_chunks(A)), (14, data_chunks - 14));
    let images = again.take_dirty_segments();
    assert_eq!(images.iter().map(|i| (i.segment, i.lsn)).collect::<Vec<_>>(), [(0, Lsn(6))]);
}

/// Random grants, allocations and frees beside a plain set; nothing is granted twice, and a reload gives the same.
#[test]
fn nothing_is_granted_twice() {
    for seed in 0..4 {
        let mut draw = lcg(seed);
        let disks = [disk(A, 0, 40_000), disk(B, 0, 3_000)];
        let mut space = Space::new(&disks);
        let (mut granted, mut used): (Vec<ChunkRun>, Vec<ChunkRun>) = (Vec::new(), Vec::new());
        let mut owned: BTreeSet<(u16, u32)> = BTreeSet::new();
        let each = |run: &ChunkRun| {
            let run = *run;
            (0..run.count).map(move |i| (run.start.disk.0, run.start.chunk + i))
        };
        let mut stored: std::collections::BTreeMap<(DiskNo, u32), SegmentImage> = Default::default();
        for lsn in 1..3000 {
            match draw(4) {
                0 | 1 => {
                    let wanted = 1 + draw(300) as u32;
                    let extents = draw(2) == 0;
                    let wish = Wish { rank: 0, chunks: wanted.max(16), chunks_min: 1, extents, reserve: true };
                    if let Some(run) = space.allocate(&wish) {
                        assert!(!extents || (run.start.chunk % 16, run.count % 16) == (0, 0), "seed {seed}");
                        assert!(each(&run).all(|chunk| owned.insert(chunk)), "seed {seed}: {run:?} twice");
                        granted.push(run);
                    }
                }
                2 if !granted.is_empty() => {
                    let run = granted.swap_remove(draw(granted.len() as u64) as usize);
                    space.apply(&chunks(run), Lsn(lsn));
                    used.push(run);
                }
                _ if !used.is_empty() => {
                    let run = used.swap_remove(draw(used.len() as u64) as usize);
                    space.apply(&free(run), Lsn(lsn));
                    space.unquarantine(run);
                    each(&run).for_each(|chunk| assert!(owned.remove(&chunk)));
                }
                _ => {}
            }
            if draw(50) == 0 {
                for image in space.take_dirty_segments() {
                    stored.insert((image.disk, image.segment), image);
                }
            }
            let free: u32 = disks.iter().map(|disk| space.free_chunks(disk.no)).sum();
            assert_eq!(free as usize + owned.len(), 43_000 - 2 * 16, "seed {seed}");
        }
        for image in space.take_dirty_segments() {
            stored.insert((image.disk, image.segment), image);
        }
        let (mut again, unknown) = Space::load(&disks, stored.into_values().collect());
        again.settle();
        assert!(unknown.is_empty());
        for disk in disks {
            assert_eq!(again.allocated_chunks(disk.no), space.allocated_chunks(disk.no), "seed {seed}");
        }
        assert!(
            used.iter().flat_map(each).all(|(no, chunk)| again.is_allocated(ChunkAddr { disk: DiskNo(no), chunk }))
        );
    }
}
