//! The CRCs of sealed blocks.
//!
//! Layout: a disk's chunks are divided in zones of 16,384; a zone's first 16 chunks are its *check space*, which is
//! never allocated: a CRC-32C (u32) for each block of the zone, in the order of the blocks. So the place of a CRC
//! follows from the block's place ([`super::disk::DiskLayout::check_offset`]), and nothing has to be read to find it.
//! A CRC means something only while the map says that its block is sealed.
//!
//! Considerations: a seed of extent id and block number ties the data to where the map has it: a block that is stale,
//! or was written elsewhere, or is another extent's, has another CRC though it is intact. 4 bytes for 4 KiB are 1/1024
//! of a disk, taken whether anything is sealed or not; for that a CRC costs no allocation, and on a disk that seeks it
//! is never further away than a zone of 1,024 extents.

use super::codec::crc32c;
use crate::place::{BLOCK_BYTES, ExtentId};

/// Bytes of a CRC.
pub const CRC_BYTES: u64 = 4;
/// Check space is read and written in blocks of this size: the CRCs of 1,024 data blocks.
pub const CHECK_BLOCK_BYTES: u64 = BLOCK_BYTES;

/// The CRC of `bytes` as block `block` of the extent `id`.
#[must_use]
pub fn block_crc(id: ExtentId, block: u32, bytes: &[u8]) -> u32 {
    crc32c(&[&id.0.to_le_bytes(), &block.to_le_bytes(), bytes])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Generation;

    #[test]
    fn a_crc_knows_its_extent_its_generation_and_its_block() {
        let id = |index, generation| ExtentId::new(index, Generation(generation));
        let bytes = [0x5a; 4096];
        let mut seeded = vec![131, 0, 0, 0, 0, 1, 0, 0]; // index 131 in 40 bits, generation 1 in 24
        seeded.extend([7, 0, 0, 0]); // block 7
        seeded.extend(bytes);
        let crc = block_crc(id(131, 1), 7, &bytes);
        assert_eq!(crc, crc32c(&[&seeded]));
        let mut flipped = bytes;
        flipped[4095] ^= 1;
        let others = [
            block_crc(id(132, 1), 7, &bytes),
            block_crc(id(131, 2), 7, &bytes),
            block_crc(id(131, 1), 8, &bytes),
            block_crc(id(131, 1), 7, &flipped),
        ];
        assert!(!others.contains(&crc));
    }
}
