//! A group of deltas: what the carry-over ring stores before an acknowledgement, and what journal frames are made of.
//!
//! Layout: magic (u8 0x47), version (u8 1), length (u32, all of it), CRC-32C (u32, of all bytes but its own), LSN
//! (varint), how many deltas (varint), the deltas. A delta is a tag byte and its fields in the order of
//! [`Delta`](crate::delta::Delta); bit 7 of the tag says that tree, index and extent id are those of the delta before.
//!
//! Considerations: a first write makes three deltas of one extent and there may be 200,000 such writes a second, so a
//! group is about 45 bytes. The downside: a delta can't be read without those before it.

use super::codec::{DecodeError, Reader, Writer, crc32c};
use super::parts;
use crate::delta::{Delta, Place};
use crate::place::{BlockNo, CHUNKS_PER_EXTENT, ChunkAddr, ExtentId, Lsn, TreeId};

const MAGIC: u8 = 0x47;
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 10;
const CRC_AT: usize = 6;
const FORMAT: &str = "delta group";
/// Bit of the tag: tree, index and extent id are those of the delta before.
const SAME: u8 = 0x80;

const EXTENT: u8 = 1;
const CHUNKS: u8 = 2;
const STATES: u8 = 3;
const UNCHUNK: u8 = 4;
const ENTRY: u8 = 5;
const GONE: u8 = 6;
const FLIP: u8 = 7;
const FREE: u8 = 8;
const ROW: u8 = 9;
const PAGE_GONE: u8 = 10;
const LAYER: u8 = 11;
const LAYER_GONE: u8 = 12;
const VOLUME: u8 = 13;
const VOLUME_GONE: u8 = 14;
const DISK: u8 = 15;
const DOCUMENT: u8 = 16;
const FOLD: u8 = 17;

/// The bytes of the group `lsn`.
///
/// # Panics
/// If a delta is impossible: chunks outside slots 0..16, or 4 GiB of it.
#[must_use]
pub fn encode_group(lsn: Lsn, deltas: &[Delta]) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(64));
    out.bytes(&[MAGIC, VERSION, 0, 0, 0, 0, 0, 0, 0, 0]);
    out.varint(lsn.0);
    out.varint(deltas.len() as u64);
    let mut before = Before::default();
    for delta in deltas {
        put_delta(&mut out, &mut before, delta);
    }
    let mut bytes = out.0;
    let length = u32::try_from(bytes.len()).expect("a group is smaller than 4 GiB");
    bytes[2..CRC_AT].copy_from_slice(&length.to_le_bytes());
    let crc = crc32c(&[&bytes[..CRC_AT], &bytes[HEADER_BYTES..]]);
    bytes[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The group that `bytes` begin with, and its length.
///
/// # Errors
/// The field that is wrong.
pub fn decode_group(bytes: &[u8]) -> Result<(Lsn, Vec<Delta>, usize), DecodeError> {
    let (lsn, count, mut reader, length) = open_group(bytes)?;
    let mut deltas = Vec::with_capacity(count);
    let mut before = Before::default();
    for _ in 0..count {
        deltas.push(get_delta(&mut reader, &mut before)?);
    }
    reader.end()?;
    Ok((lsn, deltas, length))
}

/// LSN, number of deltas and length of the group that `bytes` begin with; its CRC is checked, its deltas are not read.
///
/// # Errors
/// The field that is wrong.
pub fn group_head(bytes: &[u8]) -> Result<(Lsn, usize, usize), DecodeError> {
    open_group(bytes).map(|(lsn, count, _, length)| (lsn, count, length))
}

fn open_group(bytes: &[u8]) -> Result<(Lsn, usize, Reader<'_>, usize), DecodeError> {
    let mut reader = Reader::new(FORMAT, bytes);
    let magic = reader.u8("magic")?;
    if magic != MAGIC {
        return Err(reader.value("magic", u64::from(magic)));
    }
    let version = reader.u8("version")?;
    if version != VERSION {
        return Err(reader.value("version", u64::from(version)));
    }
    let length = reader.u32("length")? as usize;
    let stored = reader.u32("crc")?;
    if length < HEADER_BYTES {
        return Err(reader.value("length", length as u64));
    }
    let Some(body) = bytes.get(HEADER_BYTES..length) else {
        return Err(DecodeError::Short { format: FORMAT, field: "deltas", needs: length, has: bytes.len() });
    };
    let computed = crc32c(&[&bytes[..CRC_AT], body]);
    if stored != computed {
        return Err(DecodeError::Checksum { format: FORMAT, stored, computed });
    }
    let mut reader = Reader::new(FORMAT, body);
    let lsn = Lsn(reader.varint("lsn")?);
    let count = reader.count("delta count")?;
    Ok((lsn, count, reader, length))
}

/// What the deltas before were about.
#[derive(Default)]
struct Before {
    place: Option<Place>,
    id: Option<ExtentId>,
}

impl Before {
    /// Writes the tag, and place and id where they are new. A delta without an id has `None`.
    fn put(&mut self, out: &mut Writer, tag: u8, place: Place, id: Option<ExtentId>) {
        if self.place == Some(place) && (id.is_none() || self.id == id) {
            out.u8(tag | SAME);
            return;
        }
        out.u8(tag);
        out.varint(u64::from(place.tree.0));
        out.varint(place.index.0);
        self.place = Some(place);
        if let Some(id) = id {
            parts::put_id(out, id);
            self.id = Some(id);
        }
    }

    fn place(&mut self, reader: &mut Reader<'_>, same: bool) -> Result<Place, DecodeError> {
        if same {
            return self.place.ok_or_else(|| reader.value("tag", u64::from(SAME)));
        }
        let place = Place { tree: TreeId(reader.varint_u32("tree")?), index: parts::get_index(reader)? };
        self.place = Some(place);
        Ok(place)
    }

    fn place_and_id(&mut self, reader: &mut Reader<'_>, same: bool) -> Result<(Place, ExtentId), DecodeError> {
        let place = self.place(reader, same)?;
        if !same {
            self.id = Some(parts::get_id(reader, "extent id")?);
        }
        Ok((place, self.id.ok_or_else(|| reader.value("tag", u64::from(SAME)))?))
    }
}

fn put_delta(out: &mut Writer, before: &mut Before, delta: &Delta) {
    match delta {
        Delta::Extent { place, layer, id, base } => {
            before.put(out, EXTENT, *place, Some(*id));
            out.varint(u64::from(layer.0));
            parts::put_id(out, *base);
        }
        Delta::Chunks { place, id, first, addrs } => {
            before.put(out, CHUNKS, *place, Some(*id));
            put_chunks(out, *first, addrs);
        }
        Delta::States { place, id, start, count, state } => {
            before.put(out, STATES, *place, Some(*id));
            out.u8(parts::state_code(*state));
            out.varint(u64::from(start.0));
            out.varint(u64::from(*count));
        }
        Delta::Unchunk { place, id, first, count } => {
            before.put(out, UNCHUNK, *place, Some(*id));
            out.u8(slots_byte(*first, usize::from(*count)));
        }
        Delta::Entry { place, layer, entry } => {
            before.put(out, ENTRY, *place, None);
            out.varint(u64::from(layer.0));
            parts::put_id(out, *entry);
        }
        Delta::Gone { place, id } => before.put(out, GONE, *place, Some(*id)),
        Delta::Flip { place, id, home } => {
            before.put(out, FLIP, *place, Some(*id));
            parts::put_home(out, home);
        }
        Delta::Free { tree, runs } => {
            out.u8(FREE);
            out.varint(u64::from(tree.0));
            out.varint(runs.len() as u64);
            runs.iter().for_each(|run| parts::put_run(out, *run));
        }
        Delta::Row { page, row } => {
            out.u8(ROW);
            parts::put_page(out, *page);
            out.varint(*row);
        }
        Delta::PageGone { page } => {
            out.u8(PAGE_GONE);
            parts::put_page(out, *page);
        }
        Delta::Layer(layer) => {
            out.u8(LAYER);
            parts::put_layer(out, layer);
        }
        Delta::LayerGone(layer) => {
            out.u8(LAYER_GONE);
            out.varint(u64::from(layer.0));
        }
        Delta::Fold { from, into } => {
            out.u8(FOLD);
            out.varint(u64::from(from.0));
            out.varint(u64::from(into.0));
        }
        Delta::Volume(volume) => {
            out.u8(VOLUME);
            parts::put_volume(out, volume);
        }
        Delta::VolumeGone { uuid } => {
            out.u8(VOLUME_GONE);
            out.bytes(uuid);
        }
        Delta::Disk(disk) => {
            out.u8(DISK);
            parts::put_disk(out, disk);
        }
        Delta::Document { key, value } => {
            out.u8(DOCUMENT);
            out.blob(key.as_bytes());
            out.u8(u8::from(value.is_some()));
            if let Some(value) = value {
                out.blob(value);
            }
        }
    }
}

fn get_delta(reader: &mut Reader<'_>, before: &mut Before) -> Result<Delta, DecodeError> {
    let tag = reader.u8("tag")?;
    let same = tag & SAME != 0;
    Ok(match tag & !SAME {
        EXTENT => {
            let (place, id) = before.place_and_id(reader, same)?;
            let layer = parts::get_layer_id(reader, "layer")?;
            Delta::Extent { place, layer, id, base: parts::get_id(reader, "base")? }
        }
        CHUNKS => {
            let (place, id) = before.place_and_id(reader, same)?;
            let (first, addrs) = get_chunks(reader)?;
            Delta::Chunks { place, id, first, addrs }
        }
        STATES => {
            let (place, id) = before.place_and_id(reader, same)?;
            let code = reader.u8("state")?;
            let state = parts::state_of(code).ok_or_else(|| reader.value("state", u64::from(code)))?;
            let start = BlockNo(reader.varint_u32("start block")?);
            let count = reader.varint_max("block count", u64::from(u32::MAX - start.0))? as u32;
            Delta::States { place, id, start, count, state }
        }
        UNCHUNK => {
            let (place, id) = before.place_and_id(reader, same)?;
            let (first, count) = get_slots(reader)?;
            Delta::Unchunk { place, id, first, count: count as u8 }
        }
        ENTRY => {
            let place = before.place(reader, same)?;
            let layer = parts::get_layer_id(reader, "layer")?;
            Delta::Entry { place, layer, entry: parts::get_id(reader, "page entry")? }
        }
        GONE => {
            let (place, id) = before.place_and_id(reader, same)?;
            Delta::Gone { place, id }
        }
        FLIP => {
            let (place, id) = before.place_and_id(reader, same)?;
            Delta::Flip { place, id, home: parts::get_home(reader)? }
        }
        _ if same => return Err(reader.value("tag", u64::from(tag))),
        FREE => {
            let tree = TreeId(reader.varint_u32("tree")?);
            let count = reader.count("run count")?;
            let runs = (0..count).map(|_| parts::get_run(reader, "freed run")).collect::<Result<_, _>>()?;
            Delta::Free { tree, runs }
        }
        // The next row's number and the last id in it must fit, too.
        ROW => Delta::Row { page: parts::get_page(reader)?, row: reader.varint_max("row", ROW_MAX)? },
        PAGE_GONE => Delta::PageGone { page: parts::get_page(reader)? },
        LAYER => Delta::Layer(parts::get_layer(reader)?),
        LAYER_GONE => Delta::LayerGone(parts::get_layer_id(reader, "layer")?),
        FOLD => {
            let from = parts::get_layer_id(reader, "folded layer")?;
            let into = parts::get_layer_id(reader, "fold target")?;
            // Births of a path are in order; a layer that folds into an older one would never be found again.
            if into <= from {
                return Err(reader.value("fold target", u64::from(into.0)));
            }
            Delta::Fold { from, into }
        }
        VOLUME => Delta::Volume(parts::get_volume(reader)?),
        VOLUME_GONE => Delta::VolumeGone { uuid: reader.array("volume uuid")? },
        DISK => Delta::Disk(parts::get_disk(reader)?),
        DOCUMENT => {
            let key = reader.text("document key")?;
            let value = match reader.u8("document kind")? {
                0 => None,
                1 => Some(reader.blob("document")?.to_vec()),
                kind => return Err(reader.value("document kind", u64::from(kind))),
            };
            Delta::Document { key, value }
        }
        _ => return Err(reader.value("tag", u64::from(tag))),
    })
}

/// The last row of extent ids: 2^40 ids in rows of 64.
pub(crate) const ROW_MAX: u64 = (1 << ExtentId::INDEX_BITS) / crate::place::RECORDS_PER_ROW - 1;

/// First slot in the high four bits, count - 1 in the low ones.
fn slots_byte(first: u8, count: usize) -> u8 {
    assert!(count >= 1 && usize::from(first) + count <= CHUNKS_PER_EXTENT, "slots {first} + {count} of an extent");
    first << 4 | (count - 1) as u8
}

fn get_slots(reader: &mut Reader<'_>) -> Result<(u8, usize), DecodeError> {
    let byte = reader.u8("slots")?;
    let (first, count) = (byte >> 4, usize::from(byte & 15) + 1);
    if usize::from(first) + count > CHUNKS_PER_EXTENT {
        return Err(reader.value("slots", u64::from(byte)));
    }
    Ok((first, count))
}

/// The slots, then runs of neighbours until all slots have an address: disk, first chunk, count.
fn put_chunks(out: &mut Writer, first: u8, addrs: &[ChunkAddr]) {
    out.u8(slots_byte(first, addrs.len()));
    let follows = |a: &ChunkAddr, b: &ChunkAddr| a.disk == b.disk && a.chunk.checked_add(1) == Some(b.chunk);
    for run in addrs.chunk_by(follows) {
        parts::put_addr(out, run[0]);
        out.u8(run.len() as u8);
    }
}

fn get_chunks(reader: &mut Reader<'_>) -> Result<(u8, Vec<ChunkAddr>), DecodeError> {
    let (first, count) = get_slots(reader)?;
    let mut addrs = Vec::with_capacity(count);
    while addrs.len() < count {
        let run = parts::get_run(reader, "chunks")?;
        if addrs.len() + run.count as usize > count {
            return Err(reader.value("chunks", u64::from(run.count)));
        }
        addrs.extend((0..run.count).map(|i| ChunkAddr { disk: run.start.disk, chunk: run.start.chunk + i }));
    }
    Ok((first, addrs))
}

#[cfg(test)]
#[path = "delta_tests.rs"]
mod tests;
