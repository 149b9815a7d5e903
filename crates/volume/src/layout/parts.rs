//! What several formats share: ids, addresses, homes, entries of the catalog.

use super::codec::{DecodeError, Reader, Writer};
use crate::catalog::{DiskEntry, LayerEntry, VolumeEntry};
use crate::place::{
    CHUNKS_PER_EXTENT, ChunkAddr, ChunkRun, DiskNo, ExtentId, ExtentIndex, Generation, LayerId, PageKey, PageNo, TreeId,
};
use crate::record::{BlockState, Home};

/// The last chunk number at which a run of 16 can start.
const RUN_START_MAX: u32 = u32::MAX - (CHUNKS_PER_EXTENT as u32 - 1);

/// Generation, then index: both varints, so a hole is two zero bytes.
pub(crate) fn put_id(out: &mut Writer, id: ExtentId) {
    out.varint(u64::from(id.generation().0));
    out.varint(id.index());
}

pub(crate) fn get_id(reader: &mut Reader<'_>, field: &'static str) -> Result<ExtentId, DecodeError> {
    let generation = reader.varint_max(field, u64::from(ExtentId::GENERATION_MAX))? as u32;
    let index = reader.varint_max(field, (1 << ExtentId::INDEX_BITS) - 1)?;
    if generation == 0 && index == 0 {
        return Ok(ExtentId::HOLE);
    }
    Ok(ExtentId::new(index, Generation(generation)))
}

pub(crate) fn put_addr(out: &mut Writer, addr: ChunkAddr) {
    out.varint(u64::from(addr.disk.0));
    out.varint(u64::from(addr.chunk));
}

pub(crate) fn get_addr(reader: &mut Reader<'_>, field: &'static str) -> Result<ChunkAddr, DecodeError> {
    let disk = DiskNo(reader.varint_max(field, u64::from(u16::MAX))? as u16);
    Ok(ChunkAddr { disk, chunk: reader.varint_u32(field)? })
}

pub(crate) fn put_run(out: &mut Writer, run: ChunkRun) {
    put_addr(out, run.start);
    out.varint(u64::from(run.count));
}

/// A run whose last chunk has a number, too.
pub(crate) fn get_run(reader: &mut Reader<'_>, field: &'static str) -> Result<ChunkRun, DecodeError> {
    let start = get_addr(reader, field)?;
    let count = reader.varint_u32(field)?;
    if count == 0 || start.chunk.checked_add(count - 1).is_none() {
        return Err(reader.value(field, u64::from(count)));
    }
    Ok(ChunkRun { start, count })
}

/// 0: nowhere. 1: a run, its first chunk's address. 2: a mask of slots (u16), an address for each.
pub(crate) fn put_home(out: &mut Writer, home: &Home) {
    match home {
        Home::Nowhere => out.u8(0),
        Home::Run(start) => {
            out.u8(1);
            put_addr(out, *start);
        }
        Home::One(..) | Home::Scattered(_) => {
            out.u8(2);
            out.u16(home.mask());
            home.chunks().for_each(|(_, addr)| put_addr(out, addr));
        }
    }
}

pub(crate) fn get_home(reader: &mut Reader<'_>) -> Result<Home, DecodeError> {
    match reader.u8("home kind")? {
        0 => Ok(Home::Nowhere),
        1 => {
            let start = get_addr(reader, "home run")?;
            if start.chunk > RUN_START_MAX {
                return Err(reader.value("home run", u64::from(start.chunk)));
            }
            Ok(Home::Run(start))
        }
        2 => {
            let mask = reader.u16("home slots")?;
            let mut chunks = [None; CHUNKS_PER_EXTENT];
            for (slot, chunk) in chunks.iter_mut().enumerate() {
                if mask >> slot & 1 == 1 {
                    *chunk = Some(get_addr(reader, "home chunk")?);
                }
            }
            Ok(Home::from_chunks(chunks))
        }
        kind => Err(reader.value("home kind", u64::from(kind))),
    }
}

/// 0 absent, 1 data, 2 zero.
pub(crate) const fn state_code(state: BlockState) -> u8 {
    match state {
        BlockState::Absent => 0,
        BlockState::Data => 1,
        BlockState::Zero => 2,
        BlockState::Sealed => 3,
    }
}

pub(crate) const fn state_of(code: u8) -> Option<BlockState> {
    match code {
        0 => Some(BlockState::Absent),
        1 => Some(BlockState::Data),
        2 => Some(BlockState::Zero),
        3 => Some(BlockState::Sealed),
        _ => None,
    }
}

pub(crate) fn put_page(out: &mut Writer, page: PageKey) {
    out.varint(u64::from(page.tree.0));
    out.varint(page.page.0);
}

pub(crate) fn get_page(reader: &mut Reader<'_>) -> Result<PageKey, DecodeError> {
    Ok(PageKey { tree: TreeId(reader.varint_u32("tree")?), page: PageNo(reader.varint("page")?) })
}

pub(crate) fn get_layer_id(reader: &mut Reader<'_>, field: &'static str) -> Result<LayerId, DecodeError> {
    Ok(LayerId(reader.varint_u32(field)?))
}

pub(crate) fn get_index(reader: &mut Reader<'_>) -> Result<ExtentIndex, DecodeError> {
    Ok(ExtentIndex(reader.varint("extent index")?))
}

const LAYER_NAMED: u8 = 1;
const LAYER_FROZEN: u8 = 2;
const LAYER_DELETING: u8 = 4;

pub(crate) fn put_layer(out: &mut Writer, layer: &LayerEntry) {
    out.varint(u64::from(layer.id.0));
    out.varint(u64::from(layer.tree.0));
    out.varint(u64::from(layer.parent.0));
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    out.u8(flag(layer.named, LAYER_NAMED) | flag(layer.frozen, LAYER_FROZEN) | flag(layer.deleting, LAYER_DELETING));
    out.varint(layer.inherit_limit_bytes);
}

pub(crate) fn get_layer(reader: &mut Reader<'_>) -> Result<LayerEntry, DecodeError> {
    let id = get_layer_id(reader, "layer id")?;
    if id.0 == u32::MAX {
        // The next id would not fit any more.
        return Err(reader.value("layer id", u64::from(id.0)));
    }
    let tree = TreeId(reader.varint_max("layer tree", u64::from(u32::MAX - 1))? as u32);
    let parent = get_layer_id(reader, "layer parent")?;
    if parent >= id {
        return Err(reader.value("layer parent", u64::from(parent.0)));
    }
    let flags = reader.u8("layer flags")?;
    if flags & !(LAYER_NAMED | LAYER_FROZEN | LAYER_DELETING) != 0 {
        return Err(reader.value("layer flags", u64::from(flags)));
    }
    Ok(LayerEntry {
        id,
        tree,
        parent,
        named: flags & LAYER_NAMED != 0,
        frozen: flags & LAYER_FROZEN != 0,
        deleting: flags & LAYER_DELETING != 0,
        inherit_limit_bytes: reader.varint("layer inherit limit")?,
    })
}

pub(crate) fn put_volume(out: &mut Writer, volume: &VolumeEntry) {
    out.bytes(&volume.uuid);
    out.varint(u64::from(volume.layer.0));
    out.varint(volume.size_bytes);
    out.varint(u64::from(volume.logical_block_bytes));
}

pub(crate) fn get_volume(reader: &mut Reader<'_>) -> Result<VolumeEntry, DecodeError> {
    let uuid = reader.array("volume uuid")?;
    let layer = get_layer_id(reader, "volume layer")?;
    let size_bytes = reader.varint("volume size")?;
    let logical_block_bytes = reader.varint_u32("volume logical block")?;
    if !matches!(logical_block_bytes, 512 | 4096) {
        return Err(reader.value("volume logical block", u64::from(logical_block_bytes)));
    }
    Ok(VolumeEntry { uuid, layer, size_bytes, logical_block_bytes })
}

pub(crate) fn put_disk(out: &mut Writer, disk: &DiskEntry) {
    out.varint(u64::from(disk.no.0));
    out.bytes(&disk.uuid);
    out.blob(disk.tier.as_bytes());
    out.u8(disk.rank);
    out.varint(u64::from(disk.chunks));
}

pub(crate) fn get_disk(reader: &mut Reader<'_>) -> Result<DiskEntry, DecodeError> {
    Ok(DiskEntry {
        no: DiskNo(reader.varint_max("disk no", u64::from(u16::MAX))? as u16),
        uuid: reader.array("disk uuid")?,
        tier: reader.text("disk tier")?,
        rank: reader.u8("disk rank")?,
        chunks: reader.varint_u32("disk chunks")?,
    })
}
