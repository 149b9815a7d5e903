//! Blocks of owner tables, for extents of every size: what is read can be written again, and says the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sds_fuzz::sealed;
use sds_fuzz::words::Words;
use sds_volume::layout::owner::{self, OwnerBlock, OwnerGeometry};

const DISK: [u8; 16] = [9; 16];

fuzz_target!(|input: &[u8]| {
    let mut words = Words(input);
    let (size, block) = (words.u8() % 7, u32::from(words.u8()));
    let geometry = OwnerGeometry::new((256 << 10) << size);
    let mut input = words.rest().to_vec();
    // The first chunk and the entries' size are what the block's place says, or nothing past them is looked at.
    if let Some(place) = input.get_mut(9..15) {
        place[..4].copy_from_slice(&geometry.first_chunk(block).to_le_bytes());
        place[4..].copy_from_slice(&(geometry.entry_bytes as u16).to_le_bytes());
    }
    let bytes = sealed::bytes_of(&input, &owner::BLOCK, &DISK, 4096);
    if let Ok(table) = OwnerBlock::decode(&bytes, &geometry, &DISK, block) {
        let again = OwnerBlock::decode(&table.encode(&geometry, &DISK), &geometry, &DISK, block);
        assert_eq!(again, Ok(table));
    }
});
