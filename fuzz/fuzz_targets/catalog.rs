//! Catalog slots and catalogs: what is read can be written again, and says the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sds_fuzz::sealed;
use sds_volume::layout::catalog::{self, decode_catalog, decode_slot, encode_catalog, encode_slot, slot_bytes};

fuzz_target!(|input: &[u8]| {
    let catalog = sealed::bytes_of(input, &catalog::CATALOG, &[], 0);
    let slot = encode_slot(7, &catalog);
    assert!(slot_bytes(&slot).is_ok_and(|bytes| bytes <= slot.len()), "a slot knows its length");
    assert_eq!(decode_slot(&slot), Ok((7, &catalog[..])));
    if let Ok(catalog) = decode_catalog(&catalog) {
        let again = decode_catalog(&encode_catalog(&catalog)).expect("what was written is read");
        assert_eq!(format!("{again:?}"), format!("{catalog:?}"));
    }
    let _ = slot_bytes(input);
    let _ = decode_slot(&sealed::bytes_of(input, &catalog::SLOT, &[], 0));
});
