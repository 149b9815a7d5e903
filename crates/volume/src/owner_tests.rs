use super::*;
use crate::layout::memory::{MemoryIo, lcg, run};
use crate::layout::owner::tests::entry;
use std::collections::BTreeMap;

const DISK: DiskId = DiskId(0);
const UUID: [u8; 16] = *b"fedcba9876543210";

fn layout() -> DiskLayout {
    DiskLayout::plan(32 << 20, 256 << 10, 1 << 20).expect("room")
}

fn table(io: &MemoryIo) -> OwnerTable<MemoryIo> {
    OwnerTable::new(io.clone(), DISK, layout(), UUID)
}

fn owned(lsn: u64) -> Option<OwnerEntry> {
    Some(entry(&OwnerGeometry::new(256 << 10), lsn))
}

async fn all(table: &OwnerTable<MemoryIo>) -> BTreeMap<u32, (Lsn, Option<OwnerEntry>)> {
    let mut found = BTreeMap::new();
    let report = table.scan(|chunk, lsn, entry| drop(found.insert(chunk, (lsn, entry)))).await.expect("a disk");
    assert_eq!(report.damaged, [0_u32; 0]);
    found
}

#[test]
fn many_entries_of_a_block_cost_one_write_and_one_after_the_sync() {
    run(async {
        let io = MemoryIo::new(&[32 << 20]);
        let mut table = table(&io);
        assert!(all(&table).await.is_empty());
        let report = table.update((0..63).map(|chunk| (chunk, owned(5), Lsn(5))).collect()).await.expect("a disk");
        assert_eq!((report.blocks, io.writes(DISK), io.syncs(DISK)), (1, 1, 0));
        let report = table.update(vec![(62, None, Lsn(6)), (63, None, Lsn(6))]).await.expect("a disk");
        assert_eq!(
            (report.blocks, io.writes(DISK), io.syncs(DISK)),
            (2, 4, 2),
            "in both places and synced before a block is written again"
        );
        let found = all(&table).await;
        assert_eq!((found.len(), &found[&0], &found[&63]), (64, &(Lsn(5), owned(5)), &(Lsn(6), None)));
        let again = table.update(vec![(62, None, Lsn(6))]).await.expect("a disk");
        assert_eq!((again.blocks, io.writes(DISK)), (0, 6), "nothing new, only what was owed is written");
        table.sync().await.expect("a disk");
        assert_eq!((io.writes(DISK), io.syncs(DISK)), (6, 4), "nothing is owed");
    });
}

#[test]
fn an_older_update_changes_nothing() {
    run(async {
        let io = MemoryIo::new(&[32 << 20]);
        let mut table = table(&io);
        let _ =
            table.update(vec![(7, owned(5), Lsn(5)), (7, None, Lsn(9)), (7, owned(8), Lsn(8))]).await.expect("a disk");
        assert_eq!(all(&table).await, BTreeMap::from([(7, (Lsn(9), None))]));
    });
}

#[test]
fn a_torn_or_lost_write_leaves_the_entries_before_it() {
    for bytes in [0, 512, 2048, 4095] {
        run(async move {
            let io = MemoryIo::new(&[32 << 20]);
            let mut table = table(&io);
            let _ = table.update(vec![(7, owned(5), Lsn(5))]).await.expect("a disk");
            table.sync().await.expect("a disk");
            io.tear_next_write(DISK, bytes);
            // The last entry of the block: its bytes are in the last sector.
            assert!(table.update(vec![(62, owned(6), Lsn(6))]).await.is_err());
            io.set_dead(DISK, false);
            assert_eq!(all(&table).await[&7], (Lsn(5), owned(5)));
            let _ = table.update(vec![(62, owned(6), Lsn(6))]).await.expect("a disk");
            io.power_cut();
            assert_eq!(all(&table).await[&7], (Lsn(5), owned(5)));
        });
    }
}

#[test]
fn damage_is_told_and_an_unreadable_place_is_no_harm_alone() {
    run(async {
        let io = MemoryIo::new(&[32 << 20]);
        let mut table = table(&io);
        let _ = table.update(vec![(70, owned(5), Lsn(5))]).await.expect("a disk");
        let _ = table.update(vec![(70, owned(6), Lsn(6))]).await.expect("a disk");
        let at = layout().owner_offset + 8192;
        // The second update is in place 0; without it the first one is still there.
        io.set_unreadable(DISK, at);
        assert_eq!(all(&table).await[&70], (Lsn(5), owned(5)));
        io.flip(DISK, at + 4096 + 50);
        let error = table.scan(|_, _, _| {}).await.expect_err("one can't be read, one is damaged");
        assert_eq!(error.chunk, 63);
        let mut table = OwnerTable::new(io.clone(), DISK, layout(), UUID);
        assert_eq!(table.update(vec![(70, None, Lsn(7))]).await, Err(error));
    });
    run(async {
        let io = MemoryIo::new(&[32 << 20]);
        let mut table = table(&io);
        let _ = table.update(vec![(70, owned(5), Lsn(5)), (0, owned(5), Lsn(5))]).await.expect("a disk");
        io.flip(DISK, layout().owner_offset + 8192 + 50);
        let mut chunks = Vec::new();
        let report = table.scan(|chunk, _, _| chunks.push(chunk)).await.expect("a disk");
        assert_eq!((report.damaged, chunks), (vec![63], vec![0]));
        let mut table = OwnerTable::new(io.clone(), DISK, layout(), UUID);
        let report = table.update(vec![(71, owned(6), Lsn(6))]).await.expect("a disk");
        assert_eq!(report, OwnerReport { blocks: 1, damaged: vec![63], half: Vec::new() });
        assert_eq!(all(&table).await.into_keys().collect::<Vec<_>>(), [0, 71]);
    });
}

#[test]
fn after_a_sync_either_place_may_rot() {
    for place in [0, 4096] {
        run(async move {
            let io = MemoryIo::new(&[32 << 20]);
            let mut table = table(&io);
            for lsn in 5..8 {
                let _ = table.update(vec![(70, owned(lsn), Lsn(lsn))]).await.expect("a disk");
                table.sync().await.expect("a disk");
            }
            io.flip(DISK, layout().owner_offset + 8192 + place + 50);
            assert_eq!(all(&table).await[&70], (Lsn(7), owned(7)));
        });
    }
}

#[test]
fn an_update_that_was_cut_off_is_completed_by_the_same_one_again() {
    run(async {
        let io = MemoryIo::new(&[32 << 20]);
        let mut table = table(&io);
        let at = layout().owner_offset + 8192;
        let _ = table.update(vec![(70, owned(5), Lsn(5))]).await.expect("a disk");
        // Killed here, so only one place has it; replay says it again.
        let mut table = OwnerTable::new(io.clone(), DISK, layout(), UUID);
        let again = table.update(vec![(70, owned(5), Lsn(5))]).await.expect("a disk");
        assert_eq!(again.blocks, 0);
        table.sync().await.expect("a disk");
        io.power_cut();
        io.flip(DISK, at + 50);
        assert_eq!(all(&table).await[&70], (Lsn(5), owned(5)));
    });
}

/// Random batches with power cuts after random ones: what was synced is there, and nothing that was never written.
#[test]
fn what_was_synced_survives_power_cuts() {
    for seed in 0..4 {
        run(async move {
            let io = MemoryIo::new(&[32 << 20]);
            let mut draw = lcg(seed);
            let mut table = table(&io);
            let (mut synced, mut latest) = (BTreeMap::new(), BTreeMap::new());
            for lsn in 1..150 {
                let updates: Vec<_> = (0..1 + draw(20))
                    .map(|_| (draw(200) as u32, if draw(4) == 0 { None } else { owned(lsn) }, Lsn(lsn)))
                    .collect();
                for (chunk, entry, lsn) in &updates {
                    latest.insert(*chunk, (*lsn, entry.clone()));
                }
                let _ = table.update(updates).await.expect("a disk");
                if draw(5) == 0 {
                    table.sync().await.expect("a disk");
                    synced = latest.clone();
                }
                assert_eq!(all(&table).await, latest, "seed {seed}");
                if draw(10) == 0 {
                    io.power_cut();
                    table = OwnerTable::new(io.clone(), DISK, layout(), UUID);
                    let found = all(&table).await;
                    for (chunk, (lsn, _)) in &synced {
                        assert!(found[chunk].0 >= *lsn, "seed {seed}: chunk {chunk}");
                    }
                    assert!(found.iter().all(|(chunk, slot)| latest[chunk].0 >= slot.0), "seed {seed}");
                    (synced, latest) = (found.clone(), found);
                }
            }
        });
    }
}

#[test]
fn a_damaged_place_is_mended_from_the_other_one_whatever_byte_it_is() {
    run(async {
        let io = MemoryIo::new(&[32 << 20]);
        let mut table = table(&io);
        // Chunk 70 is in the second block.
        let _ = table.update(vec![(7, owned(5), Lsn(5)), (70, owned(6), Lsn(6))]).await.expect("a disk");
        table.sync().await.expect("a disk");
        let clean = table.mend_from(0).await.expect("a disk");
        assert_eq!((clean.verified, clean.mended.len(), clean.lost.len()), (4, 0, 0));
        let before = all(&table).await;
        for byte in (0..OWNER_BLOCK_BYTES).step_by(97).chain(0..16) {
            for place in 0..2 {
                io.flip(DISK, layout().owner_offset + place * OWNER_BLOCK_BYTES + byte);
                let look = table.mend_from(0).await.expect("a disk");
                assert_eq!((look.verified, look.mended), (3, vec![(0, place as u8)]), "byte {byte}");
                assert_eq!(all(&table).await, before);
            }
        }
        io.power_cut();
        let clean = table.mend_from(0).await.expect("a disk");
        assert_eq!((clean.verified, clean.mended.len()), (4, 0), "durable");
    });
}

#[test]
fn what_neither_place_says_is_left_alone_until_it_is_renewed() {
    run(async {
        let io = MemoryIo::new(&[32 << 20]);
        let mut table = table(&io);
        let _ = table.update(vec![(7, owned(5), Lsn(5)), (70, owned(6), Lsn(6))]).await.expect("a disk");
        table.sync().await.expect("a disk");
        for place in 0..2 {
            io.flip(DISK, layout().owner_offset + place * OWNER_BLOCK_BYTES + 50);
        }
        let writes = io.writes(DISK);
        let look = table.mend_from(0).await.expect("a disk");
        assert_eq!((look.verified, look.mended.len(), look.lost), (2, 0, vec![0]));
        assert_eq!(io.writes(DISK), writes);
        // One that is intact stays.
        assert_eq!(table.renew(&[0, 1]).await, Ok(1));
        let look = table.mend_from(0).await.expect("a disk");
        assert_eq!((look.verified, look.lost.len()), (4, 0));
        assert_eq!(all(&table).await.into_keys().collect::<Vec<_>>(), [70]);
    });
}
