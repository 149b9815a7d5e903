//! Rows of the MetaStore.
//!
//! | key | row |
//! |---|---|
//! | `S` tree page | [`PageSet`]: what else to read of a page |
//! | `P` tree page layer | of engines without snapshots; deleted when the page is stored again |
//! | `R` row | [`RecordRow`]: 64 records of the extent table |
//! | `F` disk segment | 32,768 chunks of free space, [`encode_segment`] |
//! | `C` | the catalog, [`super::catalog::encode_catalog`] |
//! | `K` | up to where all this is complete, [`encode_checkpoint`] |
//!
//! Numbers in keys are big-endian, so that a scan goes in their order. Considerations: blocks of an extent are mostly
//! alike, so records hold runs: that of a full extent in one run takes about 8 bytes.

use super::codec::{DecodeError, Envelope, Reader, Writer};
use super::delta::ROW_MAX;
use super::parts;
use crate::place::{
    DiskNo, EXTENTS_PER_PAGE, ExtentId, ExtentIndex, Generation, LayerId, Lsn, PageKey, PageNo, RECORDS_PER_ROW, TreeId,
};
use crate::record::{BlockState, Record, RowSlot, States};

/// How a page set row begins.
pub const SET: Envelope = Envelope { format: "page set row", magic: *b"SDSS", version: 1 };
/// How rows of pages begin, which engines without snapshots wrote for each layer. Records say all that they said.
pub const PAGE: Envelope = Envelope { format: "page row", magic: *b"SDSP", version: 1 };
/// How a record row begins.
pub const RECORDS: Envelope = Envelope { format: "record row", magic: *b"SDSR", version: 1 };
/// How a bitmap row begins.
pub const SEGMENT: Envelope = Envelope { format: "bitmap row", magic: *b"SDSB", version: 1 };
/// How a checkpoint row begins. Version 1 is read as well; who writes that takes what has no rows of pages for empty,
/// and refuses version 2.
pub const CHECKPOINT: Envelope = Envelope { format: "checkpoint row", magic: *b"SDSM", version: 2 };
const CHECKPOINT_1: Envelope = Envelope { version: 1, ..CHECKPOINT };

/// The key of the catalog.
pub const CATALOG_KEY: &[u8] = b"C";
/// The key of the checkpoint's LSN.
pub const CHECKPOINT_KEY: &[u8] = b"K";
/// What keys of page sets start with.
pub const PAGE_SET_PREFIX: &[u8] = b"S";
/// What keys of rows of pages start with.
pub const PAGE_PREFIX: &[u8] = b"P";
/// What keys of record rows start with.
pub const RECORD_PREFIX: &[u8] = b"R";
/// What keys of bitmap segments start with.
pub const SEGMENT_PREFIX: &[u8] = b"F";
/// 64-bit words of a bitmap segment: 4 KiB.
pub const SEGMENT_WORDS: usize = 512;
/// Words of an extent's states, at the most: 4,096 blocks.
const STATES_WORDS_MAX: u64 = 64;

/// The key of a page's set.
#[must_use]
pub fn page_set_key(page: PageKey) -> Vec<u8> {
    [PAGE_SET_PREFIX, &page.tree.0.to_be_bytes(), &page.page.0.to_be_bytes()].concat()
}

/// The page of a key that starts with [`PAGE_SET_PREFIX`].
#[must_use]
pub fn page_of_set_key(key: &[u8]) -> Option<PageKey> {
    let rest: &[u8; 12] = key.strip_prefix(PAGE_SET_PREFIX)?.try_into().ok()?;
    let (tree, page) = rest.split_at(4);
    let (tree, page) = (u32::from_be_bytes(tree.try_into().ok()?), u64::from_be_bytes(page.try_into().ok()?));
    Some(PageKey { tree: TreeId(tree), page: PageNo(page) })
}

/// The key of a layer's row of a page.
#[must_use]
pub fn page_key(page: PageKey, layer: LayerId) -> Vec<u8> {
    [PAGE_PREFIX, &page.tree.0.to_be_bytes(), &page.page.0.to_be_bytes(), &layer.0.to_be_bytes()].concat()
}

/// The key of a row of the extent table.
#[must_use]
pub fn record_key(row: u64) -> Vec<u8> {
    [RECORD_PREFIX, &row.to_be_bytes()].concat()
}

/// The key of a segment of a disk's free space.
#[must_use]
pub fn segment_key(disk: DiskNo, segment: u32) -> Vec<u8> {
    [SEGMENT_PREFIX, &disk.0.to_be_bytes(), &segment.to_be_bytes()].concat()
}

/// Disk and segment of a key that starts with [`SEGMENT_PREFIX`].
#[must_use]
pub fn segment_of_key(key: &[u8]) -> Option<(DiskNo, u32)> {
    let rest: &[u8; 6] = key.strip_prefix(SEGMENT_PREFIX)?.try_into().ok()?;
    let [a, b, segment @ ..] = *rest;
    Some((DiskNo(u16::from_be_bytes([a, b])), u32::from_be_bytes(segment)))
}

/// What there is of a page: read first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSet {
    /// The last group that is in it.
    pub lsn: Lsn,
    /// Rows of the extent table that were granted to it.
    pub rows: Vec<u64>,
    /// Layers that have a row of the page: none, once the page is stored again.
    pub layers: Vec<LayerId>,
}

impl PageSet {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = SET.begin();
        out.varint(self.lsn.0);
        out.varint(self.rows.len() as u64);
        let mut before = 0;
        for row in &self.rows {
            out.signed(*row as i64 - before);
            before = *row as i64;
        }
        out.varint(self.layers.len() as u64);
        self.layers.iter().for_each(|layer| out.varint(u64::from(layer.0)));
        SET.seal(out, &[])
    }

    /// The set in `bytes`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = SET.open_whole(bytes, &[])?;
        let lsn = Lsn(reader.varint("lsn")?);
        let count = reader.count("row count")?;
        let mut rows = Vec::with_capacity(count);
        let mut before = 0_i64;
        for _ in 0..count {
            before = before.wrapping_add(reader.signed("row")?);
            if !(0..=ROW_MAX as i64).contains(&before) {
                return Err(reader.value("row", before as u64));
            }
            rows.push(before as u64);
        }
        let count = reader.count("layer count")?;
        let layers = (0..count).map(|_| parts::get_layer_id(&mut reader, "layer")).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self { lsn, rows, layers })
    }
}

/// A row of the extent table: 64 records, all of one page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRow {
    /// The last group that is in it.
    pub lsn: Lsn,
    /// The page that the row was granted to.
    pub page: PageKey,
    /// What the row's ids are.
    pub slots: Vec<RowSlot>,
}

const TAKEN: u8 = 1;
const ALL_DATA: u8 = 2;
const HAS_BASE: u8 = 4;
const SAME_BIRTH: u8 = 8;
const RAW_STATES: u8 = 16;
const ALL_SEALED: u8 = 32;

impl RecordRow {
    /// Its bytes; `row` is the number in its key. A slot is a byte of flags, the generation and, if taken: birth layer
    /// (unless the same as before), place in the page, base (if any), home, states (unless all are data or all sealed).
    ///
    /// # Panics
    /// If there are not 64 slots, or a record's id or index is of another row or page.
    #[must_use]
    pub fn encode(&self, row: u64) -> Vec<u8> {
        assert_eq!(self.slots.len() as u64, RECORDS_PER_ROW, "a row has 64 slots");
        let mut out = RECORDS.begin();
        out.varint(self.lsn.0);
        parts::put_page(&mut out, self.page);
        let mut birth = LayerId(0);
        for (slot, index) in self.slots.iter().zip(row * RECORDS_PER_ROW..) {
            match slot {
                RowSlot::Empty(generation) => {
                    out.u8(0);
                    out.varint(u64::from(generation.0));
                }
                RowSlot::Taken(record) => {
                    assert!(record.id.index() == index, "{:?} in row {row}", record.id);
                    put_record(&mut out, record, self.page, &mut birth);
                }
            }
        }
        RECORDS.seal(out, &row.to_le_bytes())
    }

    /// The row `row` in `bytes`.
    ///
    /// # Errors
    /// The field that is wrong; another row's bytes are some with a wrong CRC.
    pub fn decode(bytes: &[u8], row: u64) -> Result<Self, DecodeError> {
        let mut reader = RECORDS.open_whole(bytes, &row.to_le_bytes())?;
        if row > ROW_MAX {
            return Err(reader.value("row", row));
        }
        let lsn = Lsn(reader.varint("lsn")?);
        let page = parts::get_page(&mut reader)?;
        if page.page.0 > u64::MAX / EXTENTS_PER_PAGE - 1 {
            return Err(reader.value("page", page.page.0));
        }
        let mut slots = Vec::with_capacity(RECORDS_PER_ROW as usize);
        let mut birth = LayerId(0);
        for index in row * RECORDS_PER_ROW..(row + 1) * RECORDS_PER_ROW {
            let flags = reader.u8("slot flags")?;
            let generation = reader.varint_max("slot generation", u64::from(ExtentId::GENERATION_MAX))? as u32;
            let known = TAKEN | ALL_DATA | HAS_BASE | SAME_BIRTH | RAW_STATES | ALL_SEALED;
            if flags & !known != 0
                || flags & (ALL_DATA | ALL_SEALED) == ALL_DATA | ALL_SEALED
                || (flags & TAKEN == 0 && flags != 0)
                || (flags & TAKEN, index, generation) == (1, 0, 0)
            {
                return Err(reader.value("slot flags", u64::from(flags)));
            }
            slots.push(if flags == 0 {
                RowSlot::Empty(Generation(generation))
            } else {
                let id = ExtentId::new(index, Generation(generation));
                RowSlot::Taken(get_record(&mut reader, flags, id, page, &mut birth)?)
            });
        }
        reader.end()?;
        Ok(Self { lsn, page, slots })
    }
}

fn put_record(out: &mut Writer, record: &Record, page: PageKey, birth: &mut LayerId) {
    assert!(record.index.page() == page.page, "extent {:?} in a row of {page:?}", record.index);
    let (flags_at, same_birth, has_base) = (out.0.len(), record.birth == *birth, !record.base.is_hole());
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    out.u8(TAKEN | flag(same_birth, SAME_BIRTH) | flag(has_base, HAS_BASE));
    out.varint(u64::from(record.id.generation().0));
    if !same_birth {
        out.varint(u64::from(record.birth.0));
        *birth = record.birth;
    }
    out.varint(record.index.slot() as u64);
    if has_base {
        parts::put_id(out, record.base);
    }
    parts::put_home(out, &record.home);
    match &record.states {
        States::AllData => out.0[flags_at] |= ALL_DATA,
        States::AllSealed => out.0[flags_at] |= ALL_SEALED,
        States::Few { .. } | States::Mixed(_) => {
            let words = record.states.words();
            out.varint(words as u64);
            let start = out.0.len();
            put_runs(out, &record.states, words as u32 * 64);
            if out.0.len() - start > words * 16 {
                out.0.truncate(start);
                out.0[flags_at] |= RAW_STATES;
                record.states.bits().for_each(|word| out.u64(word));
            }
        }
    }
}

/// Runs of blocks in one state: a varint of `(count - 1) * 4 + state`.
fn put_runs(out: &mut Writer, states: &States, blocks: u32) {
    let mut start = 0;
    while start < blocks {
        let state = states.get(start);
        let end = (start..blocks).find(|block| states.get(*block) != state).unwrap_or(blocks);
        out.varint(u64::from(end - start - 1) << 2 | u64::from(parts::state_code(state)));
        start = end;
    }
}

fn get_record(
    reader: &mut Reader<'_>,
    flags: u8,
    id: ExtentId,
    page: PageKey,
    birth: &mut LayerId,
) -> Result<Record, DecodeError> {
    if flags & SAME_BIRTH == 0 {
        *birth = parts::get_layer_id(reader, "birth layer")?;
    }
    let slot = reader.varint_max("place in page", EXTENTS_PER_PAGE - 1)?;
    let index = ExtentIndex(page.page.0 * EXTENTS_PER_PAGE + slot);
    let base = if flags & HAS_BASE == 0 { ExtentId::HOLE } else { parts::get_id(reader, "base")? };
    let home = parts::get_home(reader)?;
    let states = match flags & (ALL_DATA | ALL_SEALED) {
        ALL_DATA => States::AllData,
        ALL_SEALED => States::AllSealed,
        _ => get_states(reader, flags & RAW_STATES != 0)?,
    };
    Ok(Record { id, birth: *birth, index, base, home, states })
}

fn get_states(reader: &mut Reader<'_>, raw: bool) -> Result<States, DecodeError> {
    let words = reader.varint("state words")?;
    if words == 0 || words > STATES_WORDS_MAX {
        return Err(reader.value("state words", words));
    }
    let words = words as usize;
    if raw {
        let mut read = || (0..words).map(|_| reader.u64("states")).collect::<Result<Box<[u64]>, _>>();
        let (data, zero) = (read()?, read()?);
        return Ok(States::mixed(data, zero));
    }
    let (mut data, mut zero) = (vec![0_u64; words].into_boxed_slice(), vec![0_u64; words].into_boxed_slice());
    let (blocks, mut start) = (words as u64 * 64, 0_u64);
    while start < blocks {
        let token = reader.varint("states")?;
        let (count, state) = ((token >> 2) + 1, parts::state_of(token as u8 & 3));
        let Some(state) = state.filter(|_| count <= blocks - start) else { return Err(reader.value("states", token)) };
        let mark = |words: &mut [u64]| {
            (start..start + count).for_each(|block| words[(block / 64) as usize] |= 1 << (block % 64));
        };
        if state.is_data() {
            mark(&mut data);
        }
        if matches!(state, BlockState::Zero | BlockState::Sealed) {
            mark(&mut zero);
        }
        start += count;
    }
    Ok(States::mixed(data, zero))
}

/// A segment of a disk's free space: the last group that is in it, and a bit for each allocated chunk.
///
/// # Panics
/// If there are not [`SEGMENT_WORDS`] words.
#[must_use]
pub fn encode_segment(lsn: Lsn, bits: &[u64]) -> Vec<u8> {
    assert_eq!(bits.len(), SEGMENT_WORDS, "a segment has 4 KiB");
    let mut out = SEGMENT.begin();
    out.u64(lsn.0);
    bits.iter().for_each(|word| out.u64(*word));
    SEGMENT.seal(out, &[])
}

/// The segment in `bytes`.
///
/// # Errors
/// The field that is wrong.
pub fn decode_segment(bytes: &[u8]) -> Result<(Lsn, Vec<u64>), DecodeError> {
    let mut reader = SEGMENT.open_whole(bytes, &[])?;
    let lsn = Lsn(reader.u64("lsn")?);
    let bits = (0..SEGMENT_WORDS).map(|_| reader.u64("bits")).collect::<Result<_, _>>()?;
    reader.end()?;
    Ok((lsn, bits))
}

/// Up to where the MetaStore has everything.
#[must_use]
pub fn encode_checkpoint(lsn: Lsn) -> Vec<u8> {
    let mut out = CHECKPOINT.begin();
    out.u64(lsn.0);
    CHECKPOINT.seal(out, &[])
}

/// The checkpoint in `bytes`.
///
/// # Errors
/// The field that is wrong.
pub fn decode_checkpoint(bytes: &[u8]) -> Result<Lsn, DecodeError> {
    let mut reader = CHECKPOINT.open_whole(bytes, &[]).or_else(|_| CHECKPOINT_1.open_whole(bytes, &[]))?;
    let lsn = Lsn(reader.u64("lsn")?);
    reader.end()?;
    Ok(lsn)
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
