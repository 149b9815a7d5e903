//! What a page of the map costs in memory, and how long it takes to make one of its rows: `sds-page-cost [PAGES]`.
//!
//! Pages of 512 extents of 1 MiB with one chunk each of which 16 KiB are data, in no order: what small random writes
//! leave. The line of JSON has the bytes that a cached page takes by the engine's own count and by the process's
//! resident memory, and the time from encoded rows to the page, without RocksDB.

use std::process::ExitCode;
use std::time::Instant;

use sds_bench::places::Random;
use sds_bench::report::resident_bytes;
use sds_volume::layout::rows::RecordRow;
use sds_volume::page::PageState;
use sds_volume::place::{
    ChunkAddr, DiskNo, EXTENTS_PER_PAGE, ExtentId, ExtentIndex, Generation, LayerId, Lsn, PageKey, PageNo,
    RECORDS_PER_ROW, TreeId,
};
use sds_volume::record::{BlockState, Home, Record, RowSlot, States};

const BLOCKS: u32 = 256;
const CHUNK_BLOCKS: u32 = 16;
const LAYER: LayerId = LayerId(1);
const KEY: PageKey = PageKey { tree: TreeId(1), page: PageNo(0) };

/// The page's rows of records as the MetaStore has them.
fn rows() -> Vec<Vec<u8>> {
    let mut random = Random::new(1);
    let mut order: Vec<u64> = (0..EXTENTS_PER_PAGE).collect();
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at as u64 + 1) as usize);
    }
    let mut records = Vec::new();
    for (at, slot) in order.into_iter().enumerate() {
        let id = ExtentId::new(RECORDS_PER_ROW + at as u64, Generation(1));
        let chunk = random.below(u64::from(BLOCKS / CHUNK_BLOCKS));
        let mut home = Home::Nowhere;
        home.set(chunk as usize, Some(ChunkAddr { disk: DiskNo(0), chunk: random.below(1 << 28) as u32 }));
        let mut states = States::absent(BLOCKS);
        states.set(chunk as u32 * CHUNK_BLOCKS + random.below(12) as u32, 4, BlockState::Data, BLOCKS);
        let (index, base) = (ExtentIndex(slot), ExtentId::HOLE);
        records.push(RowSlot::Taken(Record { id, birth: LAYER, index, base, home, states }));
    }
    let row = |(at, slots): (usize, &[RowSlot])| {
        RecordRow { lsn: Lsn(9), page: KEY, slots: slots.to_vec() }.encode(at as u64 + 1)
    };
    records.chunks(RECORDS_PER_ROW as usize).enumerate().map(row).collect()
}

fn load(records: &[Vec<u8>]) -> Option<PageState> {
    let mut state = PageState::empty(BLOCKS);
    for (at, bytes) in records.iter().enumerate() {
        let row = RecordRow::decode(bytes, at as u64 + 1).ok()?;
        state.load_row(at as u64 + 1, row.lsn, row.slots);
    }
    Some(state)
}

fn main() -> ExitCode {
    let pages: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(4096);
    let records = rows();
    let me = std::process::id();
    let mut cache = Vec::with_capacity(pages);
    let before = resident_bytes(me).unwrap_or(0);
    let began = Instant::now();
    cache.extend((0..pages).filter_map(|_| load(&records)));
    let load_us = began.elapsed().as_secs_f64() * 1e6 / pages as f64;
    let resident = (resident_bytes(me).unwrap_or(0) - before) / pages as u64;
    let counted = cache.first().map_or(0, PageState::bytes);
    println!(
        "{{\"pages\": {}, \"bytes\": {counted}, \"resident_bytes\": {resident}, \"load_us\": {load_us:.1}}}",
        cache.len()
    );
    ExitCode::SUCCESS
}
