//! Owner tables: what each chunk of a disk holds, on that disk, so that a pool can be rebuilt from its disks alone.
//!
//! Layout: a block of 4 KiB describes some chunks in a row and has two places side by side, of which the one with the
//! higher sequence holds. Block: envelope (`SDSO`, CRC seeded with the disk's uuid), sequence (u64), first chunk (u32),
//! entry bytes (u16), zero (u16), entries. Entry: kind, slot, 6 zeros, extent id, index, base, LSN, tree, birth layer,
//! two bits a block of the chunk.
//!
//! Considerations: an entry is 64 bytes up to extents of 4 MiB, 80 at 8 MiB and 112 at 16 MiB, whose chunks have more
//! blocks. A whole extent of data in one run has one entry, that of its first chunk: 16 times fewer writes for streams.
//! Its other chunks' entries are then what an earlier owner left, and say so by their LSN.

use super::codec::{DecodeError, ENVELOPE_BYTES, Envelope, Reader, Writer};
use super::parts::{state_code, state_of};
use crate::place::{BLOCK_BYTES, CHUNKS_PER_EXTENT, ExtentId, ExtentIndex, LayerId, Lsn, TreeId};
use crate::record::BlockState;

/// Bytes of a block of the table: what is written at once.
pub const OWNER_BLOCK_BYTES: u64 = 4096;
/// How an owner block begins.
pub const BLOCK: Envelope = Envelope { format: "owner block", magic: *b"SDSO", version: 1 };
const BLOCK_HEADER_BYTES: usize = ENVELOPE_BYTES + 16;
const ENTRY_FIXED_BYTES: usize = 48;
const STATES_BYTES_MIN: usize = 16;
const BLOCKS_PER_STATES_BYTE: usize = 4;

const NEVER: u8 = 0;
const FREE: u8 = 1;
const CHUNK: u8 = 2;
const WHOLE_RUN: u8 = 3;
const SEALED_RUN: u8 = 4;

/// Whose a chunk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerEntry {
    /// The extent.
    pub id: ExtentId,
    /// Its tree.
    pub tree: TreeId,
    /// The layer that bore it.
    pub birth: LayerId,
    /// Its place in the tree.
    pub index: ExtentIndex,
    /// What its absent blocks read from.
    pub base: ExtentId,
    /// Which chunk of the extent this is.
    pub slot: u8,
    /// This chunk and the 15 after it are the extent, and all its blocks are so: data or sealed.
    pub whole_run: Option<BlockState>,
    /// What the chunk's blocks are; empty for a whole run.
    pub states: Vec<BlockState>,
    /// The last change of the extent that is in here.
    pub lsn: Lsn,
}

/// What is known of a chunk: since when, and whose it is; `None` is nobody's.
pub type OwnerSlot = (Lsn, Option<OwnerEntry>);

/// How owner blocks look for extents of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerGeometry {
    /// 4 KiB blocks of a chunk.
    pub blocks_per_chunk: usize,
    /// Bytes of an entry.
    pub entry_bytes: usize,
    /// Chunks that a block of the table describes.
    pub entries_per_block: usize,
}

impl OwnerGeometry {
    /// The geometry for extents of `extent_bytes`.
    #[must_use]
    pub const fn new(extent_bytes: u64) -> Self {
        let blocks_per_chunk = (extent_bytes / CHUNKS_PER_EXTENT as u64 / BLOCK_BYTES) as usize;
        let states_bytes = blocks_per_chunk.div_ceil(BLOCKS_PER_STATES_BYTE);
        let states_bytes = if states_bytes < STATES_BYTES_MIN { STATES_BYTES_MIN } else { states_bytes };
        let entry_bytes = ENTRY_FIXED_BYTES + states_bytes;
        let entries_per_block = (OWNER_BLOCK_BYTES as usize - BLOCK_HEADER_BYTES) / entry_bytes;
        Self { blocks_per_chunk, entry_bytes, entries_per_block }
    }

    /// Blocks that a disk of `chunks` chunks needs, each of which has two places.
    #[must_use]
    pub const fn blocks(&self, chunks: u32) -> u64 {
        (chunks as u64).div_ceil(self.entries_per_block as u64)
    }

    /// The block that describes a chunk, and the chunk's entry in it.
    #[must_use]
    pub const fn block_of(&self, chunk: u32) -> (u32, usize) {
        let per_block = self.entries_per_block as u32;
        (chunk / per_block, (chunk % per_block) as usize)
    }

    /// The first chunk that a block describes.
    #[must_use]
    pub const fn first_chunk(&self, block: u32) -> u32 {
        block * self.entries_per_block as u32
    }
}

/// A block of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerBlock {
    /// Which of its two places is newer.
    pub sequence: u64,
    /// Its number.
    pub block: u32,
    /// An entry for each chunk; `None`: nobody ever had it.
    pub entries: Vec<Option<OwnerSlot>>,
}

impl OwnerBlock {
    /// The block `block` in which nobody has anything.
    #[must_use]
    pub fn empty(geometry: &OwnerGeometry, block: u32) -> Self {
        Self { sequence: 0, block, entries: vec![None; geometry.entries_per_block] }
    }

    /// Its bytes.
    ///
    /// # Panics
    /// If an entry has states for another number of blocks.
    #[must_use]
    pub fn encode(&self, geometry: &OwnerGeometry, disk_uuid: &[u8; 16]) -> Vec<u8> {
        let mut out = BLOCK.begin();
        out.u64(self.sequence);
        out.u32(geometry.first_chunk(self.block));
        out.u16(geometry.entry_bytes as u16);
        out.u16(0);
        for slot in &self.entries {
            put_entry(&mut out, geometry, slot.as_ref());
        }
        out.0.resize(OWNER_BLOCK_BYTES as usize, 0);
        BLOCK.seal(out, disk_uuid)
    }

    /// The block `block` in `bytes`.
    ///
    /// # Errors
    /// The field that is wrong; another disk's or pool's block is one with a wrong CRC.
    pub fn decode(
        bytes: &[u8],
        geometry: &OwnerGeometry,
        disk_uuid: &[u8; 16],
        block: u32,
    ) -> Result<Self, DecodeError> {
        let (mut reader, length) = BLOCK.open(bytes, disk_uuid)?;
        if length as u64 != OWNER_BLOCK_BYTES {
            return Err(reader.value("length", length as u64));
        }
        let sequence = reader.u64("sequence")?;
        if sequence == u64::MAX {
            return Err(reader.value("sequence", sequence));
        }
        let first = reader.u32("first chunk")?;
        if first != geometry.first_chunk(block) {
            return Err(reader.value("first chunk", u64::from(first)));
        }
        let entry_bytes = reader.u16("entry bytes")?;
        if usize::from(entry_bytes) != geometry.entry_bytes {
            return Err(reader.value("entry bytes", u64::from(entry_bytes)));
        }
        let zero = reader.u16("block zero")?;
        if zero != 0 {
            return Err(reader.value("block zero", u64::from(zero)));
        }
        let entries =
            (0..geometry.entries_per_block).map(|_| get_entry(&mut reader, geometry)).collect::<Result<_, _>>()?;
        Ok(Self { sequence, block, entries })
    }
}

pub(super) fn put_entry(out: &mut Writer, geometry: &OwnerGeometry, slot: Option<&OwnerSlot>) {
    let end = out.0.len() + geometry.entry_bytes;
    let kind = match slot {
        None => NEVER,
        Some((_, None)) => FREE,
        Some((_, Some(entry))) => match entry.whole_run {
            None => CHUNK,
            Some(BlockState::Data) => WHOLE_RUN,
            Some(BlockState::Sealed) => SEALED_RUN,
            Some(BlockState::Absent | BlockState::Zero) => unreachable!("a whole run is of data"),
        },
    };
    out.u8(kind);
    let entry = slot.and_then(|(_, entry)| entry.as_ref());
    out.u8(entry.map_or(0, |entry| entry.slot));
    out.bytes(&[0; 6]);
    out.u64(entry.map_or(0, |entry| entry.id.0));
    out.u64(entry.map_or(0, |entry| entry.index.0));
    out.u64(entry.map_or(0, |entry| entry.base.0));
    out.u64(slot.map_or(0, |(lsn, _)| lsn.0));
    out.u32(entry.map_or(0, |entry| entry.tree.0));
    out.u32(entry.map_or(0, |entry| entry.birth.0));
    if let Some(entry) = entry.filter(|entry| entry.whole_run.is_none()) {
        assert_eq!(entry.states.len(), geometry.blocks_per_chunk, "a state for each block of a chunk");
        for states in entry.states.chunks(BLOCKS_PER_STATES_BYTE) {
            out.u8(states.iter().enumerate().fold(0, |byte, (i, state)| byte | state_code(*state) << (2 * i)));
        }
    }
    out.0.resize(end, 0);
}

pub(super) fn get_entry(reader: &mut Reader<'_>, geometry: &OwnerGeometry) -> Result<Option<OwnerSlot>, DecodeError> {
    let kind = reader.u8("entry kind")?;
    let slot = reader.u8("entry slot")?;
    reader.take("entry zero", 6)?;
    let id = ExtentId(reader.u64("entry extent id")?);
    let index = ExtentIndex(reader.u64("entry index")?);
    let base = ExtentId(reader.u64("entry base")?);
    let lsn = Lsn(reader.u64("entry lsn")?);
    let tree = TreeId(reader.u32("entry tree")?);
    let birth = LayerId(reader.u32("entry birth")?);
    let bits = reader.take("entry states", geometry.entry_bytes - ENTRY_FIXED_BYTES)?;
    let whole_run = match kind {
        NEVER => return Ok(None),
        FREE => return Ok(Some((lsn, None))),
        CHUNK => None,
        WHOLE_RUN => Some(BlockState::Data),
        SEALED_RUN => Some(BlockState::Sealed),
        _ => return Err(reader.value("entry kind", u64::from(kind))),
    };
    if usize::from(slot) >= CHUNKS_PER_EXTENT || (whole_run.is_some() && slot != 0) {
        return Err(reader.value("entry slot", u64::from(slot)));
    }
    if id.is_hole() {
        return Err(reader.value("entry extent id", 0));
    }
    let mut states = Vec::new();
    for block in 0..if whole_run.is_some() { 0 } else { geometry.blocks_per_chunk } {
        let code = bits[block / BLOCKS_PER_STATES_BYTE] >> (2 * (block % BLOCKS_PER_STATES_BYTE)) & 3;
        states.push(state_of(code).ok_or_else(|| reader.value("entry states", u64::from(code)))?);
    }
    Ok(Some((lsn, Some(OwnerEntry { id, tree, birth, index, base, slot, whole_run, states, lsn }))))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::codec::crc32c;
    use super::*;
    use crate::place::Generation;
    use proptest::prelude::*;

    const DISK: [u8; 16] = *b"fedcba9876543210";

    pub(crate) fn entry(geometry: &OwnerGeometry, lsn: u64) -> OwnerEntry {
        let state = |block| [BlockState::Data, BlockState::Zero, BlockState::Absent, BlockState::Sealed][block % 4];
        OwnerEntry {
            id: ExtentId::new(0x10, Generation(2)),
            tree: TreeId(3),
            birth: LayerId(4),
            index: ExtentIndex(0x500),
            base: crate::record::BELOW,
            slot: 6,
            whole_run: None,
            states: (0..geometry.blocks_per_chunk).map(state).collect(),
            lsn: Lsn(lsn),
        }
    }

    #[test]
    fn entries_grow_with_the_blocks_of_a_chunk() {
        let geometry = |shift: u32| {
            let geometry = OwnerGeometry::new((256 << 10) << shift);
            (geometry.blocks_per_chunk, geometry.entry_bytes, geometry.entries_per_block)
        };
        assert_eq!(
            (0..7).map(geometry).collect::<Vec<_>>(),
            [(4, 64, 63), (8, 64, 63), (16, 64, 63), (32, 64, 63), (64, 64, 63), (128, 80, 50), (256, 112, 36)]
        );
    }

    #[test]
    fn a_block_byte_by_byte() {
        let geometry = OwnerGeometry::new(1 << 20);
        let mut block = OwnerBlock::empty(&geometry, 2);
        block.sequence = 5;
        block.entries[0] = Some((Lsn(0x77), Some(entry(&geometry, 0x77))));
        block.entries[1] = Some((Lsn(0x78), None));
        let run =
            OwnerEntry { slot: 0, whole_run: Some(BlockState::Sealed), states: Vec::new(), ..entry(&geometry, 0x79) };
        block.entries[2] = Some((Lsn(0x79), Some(run)));
        let mut bytes = b"SDSO\x01\0\0\0\0\x10\0\0".to_vec(); // magic, version 1, zero, length 4096
        let mut body = vec![5, 0, 0, 0, 0, 0, 0, 0]; // sequence
        body.extend([126, 0, 0, 0]); // first chunk
        body.extend([64, 0, 0, 0]); // entry bytes, zero
        body.extend([2, 6, 0, 0, 0, 0, 0, 0]); // a chunk, slot 6, zeros
        body.extend([0x10, 0, 0, 0, 0, 2, 0, 0]); // extent id: index 0x10, generation 2
        body.extend([0, 5, 0, 0, 0, 0, 0, 0]); // index
        body.extend([1, 0, 0, 0, 0, 0, 0, 0]); // base: what lies under it
        body.extend([0x77, 0, 0, 0, 0, 0, 0, 0]); // LSN
        body.extend([3, 0, 0, 0, 4, 0, 0, 0]); // tree, birth layer
        // States, block 0 in the low bits: data, zero, absent, sealed, and again.
        body.extend([0b11_00_10_01; 4]);
        body.extend([0; 12]);
        body.extend([1, 0, 0, 0, 0, 0, 0, 0]); // free
        body.extend([0; 24]);
        body.extend([0x78, 0, 0, 0, 0, 0, 0, 0]); // LSN
        body.extend([0; 24]);
        body.extend([4, 0, 0, 0, 0, 0, 0, 0]); // the first chunk of a whole run, sealed
        body.extend([0x10, 0, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        body.extend([0x79, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0]);
        body.resize(4096 - 16, 0); // never owned
        bytes.extend(crc32c(&[&DISK, &bytes, &body]).to_le_bytes());
        bytes.extend(body);
        assert_eq!(block.encode(&geometry, &DISK), bytes);
        assert_eq!(OwnerBlock::decode(&bytes, &geometry, &DISK, 2), Ok(block));
        assert!(matches!(OwnerBlock::decode(&bytes, &geometry, &[0; 16], 2), Err(DecodeError::Checksum { .. })));
        let elsewhere = OwnerBlock::decode(&bytes, &geometry, &DISK, 3);
        assert_eq!(elsewhere, Err(DecodeError::Value { format: "owner block", field: "first chunk", value: 126 }));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_seen(bit in 0_usize..4096 * 8) {
            let geometry = OwnerGeometry::new(16 << 20);
            let mut block = OwnerBlock::empty(&geometry, 0);
            block.entries[35] = Some((Lsn(9), Some(entry(&geometry, 9))));
            let mut bytes = block.encode(&geometry, &DISK);
            prop_assert_eq!(OwnerBlock::decode(&bytes, &geometry, &DISK, 0), Ok(block));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(OwnerBlock::decode(&bytes, &geometry, &DISK, 0).is_err());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let geometry = OwnerGeometry::new(1 << 20);
            let _ = OwnerBlock::decode(&body, &geometry, &DISK, 0);
            let mut out = BLOCK.begin();
            out.bytes(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0]);
            out.bytes(&body);
            out.0.resize(4096, 0);
            let _ = OwnerBlock::decode(&BLOCK.seal(out, &DISK), &geometry, &DISK, 0);
        }
    }
}
