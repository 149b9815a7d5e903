use super::*;
use crate::delta::Delta;
use crate::layout::delta::encode_group;
use crate::layout::memory::{MemoryIo, lcg, run};

const POOL: [u8; 16] = *b"0123456789abcdef";
const A: DiskId = DiskId(0);
const B: DiskId = DiskId(1);
const OFFSET: u64 = 8192;

fn members(bytes: u64) -> Vec<JournalMember> {
    vec![JournalMember { disk: A, offset: OFFSET, bytes }, JournalMember { disk: B, offset: OFFSET, bytes }]
}

/// A group whose content depends on its LSN and on `salt`, of at least `bytes` bytes.
fn group(lsn: u64, bytes: usize, salt: u8) -> (Lsn, Vec<u8>) {
    let value = Some(vec![salt; bytes]);
    (Lsn(lsn), encode_group(Lsn(lsn), &[Delta::Document { key: lsn.to_string(), value }]))
}

fn groups(replay: &Replay) -> Vec<(u64, usize)> {
    let document = |delta: &Delta| match delta {
        Delta::Document { key, value: Some(value) } => (key.parse().expect("an LSN"), value.len()),
        _ => panic!("only documents were appended"),
    };
    replay
        .groups()
        .map(|group| {
            let (lsn, deltas) = group.expect("intact");
            let (key, len) = document(&deltas[0]);
            assert_eq!(lsn.0, key);
            (key, len)
        })
        .collect()
}

fn lsns(replay: &Replay) -> Vec<u64> {
    groups(replay).into_iter().map(|(lsn, _)| lsn).collect()
}

async fn append(journal: &mut Journal<MemoryIo>, lsns: std::ops::Range<u64>, bytes: usize) {
    for lsn in lsns {
        assert_eq!(journal.append(&[group(lsn, bytes, 0)]).await, Ok(Outcome::default()));
    }
}

async fn open(io: &MemoryIo, members: Vec<JournalMember>) -> (Journal<MemoryIo>, Replay) {
    Journal::open(io.clone(), members, POOL, 1).await.expect("a journal")
}

#[test]
fn what_was_appended_is_there_after_a_power_cut() {
    run(async {
        let io = MemoryIo::new(&[1 << 20, 1 << 20]);
        let mut journal = Journal::format(io.clone(), members(1 << 18), POOL, 1, Lsn(100)).await.expect("room");
        let several: Vec<_> = (100..110).map(|lsn| group(lsn, 1000, 1)).collect();
        assert_eq!(journal.append(&several).await, Ok(Outcome::default()));
        append(&mut journal, 110..120, 6000).await;
        io.power_cut();
        let (journal, replay) = open(&io, members(1 << 18)).await;
        let expected: Vec<_> = (100..110).map(|l| (l, 1000)).chain((110..120).map(|l| (l, 6000))).collect();
        assert_eq!((groups(&replay), replay.start, replay.members_before), (expected, Lsn(100), 2));
        assert_eq!(replay.notes, [(A, MemberNote::Current), (B, MemberNote::Current)]);
        assert_eq!((journal.next(), journal.records(), replay.records), (Lsn(120), 20, 20));
        assert!(replay.header_errors.is_empty() && replay.unreadable.is_none());
    });
}

/// Random appends and trims over many laps; a restart after each step finds exactly what was not trimmed.
#[test]
fn many_laps_with_trims_and_restarts() {
    for seed in 0..6 {
        run(async move {
            let io = MemoryIo::new(&[1 << 18, 1 << 18]);
            let bytes = JOURNAL_BYTES_MIN + seed * 4096;
            let mut journal = Journal::format(io.clone(), members(bytes), POOL, 1, Lsn(1)).await.expect("room");
            let mut draw = lcg(seed);
            let (mut next, mut trimmed, mut full, mut laps) = (1, 0, 0, 0);
            for _ in 0..400 {
                let count = 1 + draw(5);
                let several: Vec<_> =
                    (next..next + count).map(|lsn| group(lsn, draw(9000) as usize, lsn as u8)).collect();
                match journal.append(&several).await {
                    Ok(outcome) => {
                        assert!(outcome.lost.is_empty());
                        next += count;
                    }
                    Err(JournalError::Full(why)) => {
                        assert!(why.needs_bytes > why.free_bytes);
                        full += 1;
                        trimmed += draw(next - trimmed);
                        let _ = journal.trim(Lsn(trimmed)).await.expect("members");
                    }
                    Err(error) => panic!("seed {seed}: {error}"),
                }
                laps = laps.max(journal.tail.lap);
                let (again, replay) = open(&io, members(bytes)).await;
                assert!(replay.start.0 <= trimmed + 1, "seed {seed}: {:?} {trimmed}", replay.start);
                assert_eq!(lsns(&replay), (replay.start.0..next).collect::<Vec<_>>(), "seed {seed}");
                assert_eq!((again.used_bytes(), again.records()), (journal.used_bytes(), journal.records()));
                assert!(again.room().used_fraction() <= 1.0);
                if draw(3) == 0 {
                    journal = again;
                } else {
                    journal.sequence = again.sequence;
                }
            }
            assert!(full > 10 && laps > 10, "seed {seed}: {full} times full, {laps} laps");
        });
    }
}

/// The last frame is torn at each 512-byte boundary, over what an earlier lap left; it is there whole, or not at all.
#[test]
fn a_frame_torn_at_any_sector_ends_the_chain() {
    for sectors in 0..=16 {
        run(async move {
            let io = MemoryIo::new(&[1 << 18, 1 << 18]);
            let mut one = members(JOURNAL_BYTES_MIN);
            one.truncate(1);
            let mut journal = Journal::format(io.clone(), one.clone(), POOL, 1, Lsn(1)).await.expect("room");
            // Two laps of frames of two blocks each.
            for lsn in 1..=15 {
                append(&mut journal, lsn..lsn + 1, 8000).await;
                let _ = journal.trim(Lsn(lsn - 1)).await.expect("members");
            }
            assert_eq!(journal.tail.lap, 3, "a lap holds 7");
            io.tear_next_write(A, sectors * 512);
            let torn = journal.append(&[group(16, 8000, 9)]).await;
            assert!(matches!(torn, Err(JournalError::NoMember(LostMember { disk: A, .. }))));
            assert!(matches!(journal.append(&[group(16, 1, 9)]).await, Err(JournalError::NoMember(_))));
            io.set_dead(A, false);
            let (mut journal, replay) = open(&io, one.clone()).await;
            let whole = sectors * 512 >= FRAME_HEADER_BYTES + group(16, 8000, 9).1.len();
            assert_eq!(lsns(&replay), if whole { vec![15, 16] } else { vec![15] }, "{sectors} sectors");
            let next = journal.next().0;
            append(&mut journal, next..next + 1, 10).await;
            assert_eq!(lsns(&open(&io, one).await.1), (15..=next).collect::<Vec<_>>());
        });
    }
}

/// Frames 2 and 3 of one append; 2 is lost, 3 is on the disk. The next start writes another 2 of the same size.
#[test]
fn what_a_torn_append_left_further_on_is_not_taken_for_more() {
    run(async {
        let io = MemoryIo::new(&[1 << 18, 1 << 18]);
        let one = vec![members(1 << 17)[0]];
        let mut journal = Journal::format(io.clone(), one.clone(), POOL, 1, Lsn(1)).await.expect("room");
        append(&mut journal, 1..2, 10).await;
        assert_eq!(journal.append(&[group(2, 10, 1)]).await, Ok(Outcome::default()));
        assert_eq!(journal.append(&[group(3, 10, 1)]).await, Ok(Outcome::default()));
        io.flip(A, OFFSET + HEADERS_BYTES + 4096 + 70);
        let (mut journal, replay) = open(&io, one.clone()).await;
        assert_eq!(lsns(&replay), [1]);
        assert_eq!(journal.append(&[group(2, 10, 2)]).await, Ok(Outcome::default()));
        assert_eq!(lsns(&open(&io, one).await.1), [1, 2], "frame 3 followed another frame 2");
    });
}

#[test]
fn the_longer_member_is_copied_to_the_shorter() {
    for (shorter, longer, at) in [(A, B, 0), (B, A, 1)] {
        run(async move {
            let io = MemoryIo::new(&[1 << 18, 1 << 18]);
            let mut journal = Journal::format(io.clone(), members(1 << 17), POOL, 1, Lsn(1)).await.expect("room");
            append(&mut journal, 1..5, 100).await;
            io.set_dead(shorter, true);
            let outcome = journal.append(&[group(5, 100, 0)]).await.expect("a member is left");
            assert_eq!(outcome.lost.iter().map(|lost| lost.disk).collect::<Vec<_>>(), [shorter]);
            assert_eq!(journal.members().iter().map(|member| member.disk).collect::<Vec<_>>(), [longer]);
            append(&mut journal, 6..8, 5000).await;
            io.set_dead(shorter, false);
            // The machine went down before the epoch was raised: both are current, one is longer.
            let (_, replay) = open(&io, members(1 << 17)).await;
            assert_eq!(lsns(&replay), (1..8).collect::<Vec<_>>());
            assert_eq!(replay.notes[at], (shorter, MemberNote::Copied { had: Lsn(4), epoch: 1 }));
            assert_eq!(replay.notes[1 - at], (longer, MemberNote::Current));
            io.power_cut();
            let alone = vec![members(1 << 17)[at]];
            assert_eq!(lsns(&open(&io, alone).await.1), (1..8).collect::<Vec<_>>(), "the copy was synced");
        });
    }
}

#[test]
fn a_member_of_an_older_epoch_never_wins_however_long() {
    run(async {
        let io = MemoryIo::new(&[1 << 18, 1 << 18]);
        let mut journal = Journal::format(io.clone(), members(1 << 17), POOL, 1, Lsn(1)).await.expect("room");
        append(&mut journal, 1..10, 100).await;
        let before = io.peek(B, 0, 1 << 18);
        let _ = journal.trim(Lsn(9)).await.expect("members");
        io.set_dead(B, true);
        let outcome = journal.append(&[group(10, 100, 0)]).await.expect("a member is left");
        assert_eq!(outcome.lost.len(), 1);
        assert_eq!(journal.set_epoch(2).await, Ok(Outcome::default()));
        io.set_dead(B, false);
        io.poke(B, 0, &before);
        let refused = Journal::open(io.clone(), members(1 << 17), POOL, 1).await.map(|_| ());
        assert_eq!(refused, Err(JournalError::Epoch { disk: A, journal: 2, pool: 1 }));
        let (_, replay) = Journal::open(io.clone(), members(1 << 17), POOL, 2).await.expect("a journal");
        assert_eq!((lsns(&replay), replay.members_before), (vec![10], 1));
        assert_eq!(replay.notes[1], (B, MemberNote::Copied { had: Lsn(9), epoch: 1 }));
    });
}

#[test]
fn a_blank_corrupt_or_foreign_member_is_made_anew() {
    run(async {
        let io = MemoryIo::new(&[1 << 18, 1 << 18]);
        let mut journal = Journal::format(io.clone(), members(1 << 17), POOL, 1, Lsn(1)).await.expect("room");
        append(&mut journal, 1..10, 100).await;
        for damage in 0..3 {
            match damage {
                0 => io.poke(B, 0, &[0xee; 1 << 18]),
                1 => [0, 4096].into_iter().for_each(|slot| io.flip(B, OFFSET + slot + 60)),
                _ => drop(Journal::format(io.clone(), vec![members(1 << 17)[1]], [7; 16], 1, Lsn(1)).await),
            }
            let (_, replay) = open(&io, members(1 << 17)).await;
            assert_eq!(lsns(&replay), (1..10).collect::<Vec<_>>());
            let problem = match &replay.notes[1].1 {
                MemberNote::New(problem) => problem.to_string(),
                other => panic!("{other:?}"),
            };
            let said =
                ["journal header: magic is 0xeeeeeeee", "journal header: CRC is ", "it belongs to the pool 0707"];
            assert!(problem.starts_with(said[damage]), "{problem}");
            let (_, replay) = open(&io, vec![members(1 << 17)[1]]).await;
            assert_eq!(lsns(&replay), (1..10).collect::<Vec<_>>());
        }
        for disk in [A, B] {
            io.poke(disk, OFFSET, &[0; 8192]);
        }
        let none = Journal::open(io.clone(), members(1 << 17), POOL, 1).await.map(|_| ()).expect_err("no header");
        let JournalError::NoJournal(problems) = none else { panic!("{none}") };
        assert_eq!(problems.len(), 2);
    });
}

#[test]
fn either_header_is_enough_and_a_bad_one_is_reported() {
    for slot in 0..2 {
        run(async move {
            let io = MemoryIo::new(&[1 << 18]);
            let one = vec![members(1 << 17)[0]];
            let mut journal = Journal::format(io.clone(), one.clone(), POOL, 1, Lsn(1)).await.expect("room");
            append(&mut journal, 1..10, 100).await;
            let _ = journal.trim(Lsn(4)).await.expect("members");
            io.flip(A, OFFSET + slot * 4096 + 4000);
            let (_, replay) = open(&io, one.clone()).await;
            assert_eq!((lsns(&replay), replay.header_errors.len()), ((5..10).collect(), 1));
            assert!(open(&io, one.clone()).await.1.header_errors.is_empty(), "it was written again");
            io.set_unreadable(A, OFFSET + slot * 4096);
            let (_, replay) = open(&io, one).await;
            assert_eq!((lsns(&replay), replay.header_errors.len()), ((5..10).collect(), 1));
        });
    }
}

/// The trim's header is torn: the old start holds, and the old frames are still there.
#[test]
fn a_trim_cut_short_loses_nothing() {
    for bytes in [0, 512, 2048, 4096] {
        run(async move {
            let io = MemoryIo::new(&[1 << 18]);
            let one = vec![members(1 << 17)[0]];
            let mut journal = Journal::format(io.clone(), one.clone(), POOL, 1, Lsn(1)).await.expect("room");
            append(&mut journal, 1..10, 100).await;
            io.tear_next_write(A, bytes);
            assert!(journal.trim(Lsn(4)).await.is_err());
            io.set_dead(A, false);
            let (_, replay) = open(&io, one).await;
            // The header's last fields are in its first sector.
            let torn_bytes_matter = bytes < 512;
            assert_eq!(lsns(&replay), if torn_bytes_matter { 1..10 } else { 5..10 }.collect::<Vec<_>>());
        });
    }
}

#[test]
fn a_journal_formatted_again_has_nothing_of_the_old_one() {
    run(async {
        let io = MemoryIo::new(&[1 << 18]);
        let one = vec![members(1 << 17)[0]];
        let mut journal = Journal::format(io.clone(), one.clone(), POOL, 1, Lsn(1)).await.expect("room");
        append(&mut journal, 1..10, 100).await;
        let mut journal = Journal::format(io.clone(), one.clone(), POOL, 1, Lsn(1)).await.expect("room");
        assert!(lsns(&open(&io, one.clone()).await.1).is_empty());
        journal.sequence += 1;
        append(&mut journal, 1..2, 100).await;
        assert_eq!(lsns(&open(&io, one).await.1), [1]);
    });
}

#[test]
fn a_block_that_cannot_be_read_ends_the_chain_and_is_told() {
    run(async {
        let io = MemoryIo::new(&[1 << 18, 1 << 18]);
        let mut journal = Journal::format(io.clone(), members(1 << 17), POOL, 1, Lsn(1)).await.expect("room");
        append(&mut journal, 1..10, 100).await;
        let at = OFFSET + HEADERS_BYTES + 4 * 4096;
        io.set_unreadable(A, at);
        let (_, replay) = open(&io, vec![members(1 << 17)[0]]).await;
        assert_eq!(
            (lsns(&replay), replay.unreadable.map(|(disk, at, _)| (disk, at))),
            ((1..5).collect(), Some((A, at)))
        );
        let (_, replay) = open(&io, members(1 << 17)).await;
        assert_eq!((lsns(&replay), replay.unreadable), ((1..10).collect(), None));
    });
}

#[test]
fn too_large_too_full_and_too_small_are_refused_before_anything_is_written() {
    run(async {
        let io = MemoryIo::new(&[1 << 18]);
        let one = |bytes| vec![JournalMember { disk: A, offset: 0, bytes }];
        let small = Journal::format(io.clone(), one(JOURNAL_BYTES_MIN - 4096), POOL, 1, Lsn(1)).await.map(|_| ());
        assert_eq!(small, Err(JournalError::TooSmall { disk: A, bytes: JOURNAL_BYTES_MIN - 4096 }));
        let mut journal = Journal::format(io.clone(), one(JOURNAL_BYTES_MIN), POOL, 1, Lsn(1)).await.expect("room");
        let writes = io.writes(A);
        let large = group(1, journal.group_bytes_max(), 0);
        assert!(matches!(journal.append(&[large]).await, Err(JournalError::GroupTooLarge { lsn: Lsn(1), .. })));
        let much: Vec<_> = (1..100).map(|lsn| group(lsn, 1000, 0)).collect();
        assert!(matches!(journal.append(&much).await, Err(JournalError::Full(_))));
        assert_eq!((io.writes(A), journal.next(), journal.used_bytes()), (writes, Lsn(1), 0));
    });
}
