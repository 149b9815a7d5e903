//! Whether a row of the MetaStore is what its key says, for who looks at rows without a pool.

use super::catalog::decode_catalog;
use super::claim::{CLAIMS, CLAIMS_PREFIX, page_of_claims_key};
use super::codec::DecodeError;
use super::rows::{
    CATALOG_KEY, CHECKPOINT_KEY, PAGE, PAGE_PREFIX, PAGE_SET_PREFIX, PageSet, RECORD_PREFIX, RecordRow, SEGMENT_PREFIX,
    decode_checkpoint, decode_segment, page_of_set_key, segment_of_key,
};

/// Bytes of a page row's key: prefix, tree, page, layer.
const PAGE_KEY_BYTES: usize = 1 + 4 + 8 + 4;

/// Decodes a row by its key. Claims, which only an import leaves, are not looked into: their form depends on the pool's
/// extent size, and the next import makes them anew.
///
/// # Errors
/// The field that is wrong; a key that no row has.
pub fn verify_row(key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
    let strange = DecodeError::Value {
        format: "row",
        field: "key's first byte or length",
        value: u64::from(key.first().copied().unwrap_or_default()) << 32 | key.len() as u64,
    };
    let known = |is_key: bool| if is_key { Ok(()) } else { Err(strange) };
    match key.get(..1).unwrap_or_default() {
        CATALOG_KEY => known(key == CATALOG_KEY).and_then(|()| decode_catalog(value).map(drop)),
        CHECKPOINT_KEY => known(key == CHECKPOINT_KEY).and_then(|()| decode_checkpoint(value).map(drop)),
        PAGE_SET_PREFIX => known(page_of_set_key(key).is_some()).and_then(|()| PageSet::decode(value).map(drop)),
        PAGE_PREFIX => known(key.len() == PAGE_KEY_BYTES).and_then(|()| PAGE.open_whole(value, &[]).map(drop)),
        RECORD_PREFIX => {
            let row = key[1..].try_into().map(u64::from_be_bytes).map_err(|_| strange)?;
            RecordRow::decode(value, row).map(drop)
        }
        SEGMENT_PREFIX => known(segment_of_key(key).is_some()).and_then(|()| decode_segment(value).map(drop)),
        CLAIMS_PREFIX => {
            known(page_of_claims_key(key).is_some()).and_then(|()| CLAIMS.open_whole(value, &[]).map(drop))
        }
        _ => Err(strange),
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalog::encode_catalog;
    use super::super::claim::claims_key;
    use super::super::rows::{
        SEGMENT_WORDS, encode_checkpoint, encode_segment, page_key, page_set_key, record_key, segment_key,
    };
    use super::*;
    use crate::catalog::Catalog;
    use crate::place::{DiskNo, Generation, LayerId, Lsn, PageKey, PageNo, RECORDS_PER_ROW, TreeId};
    use crate::record::RowSlot;

    const PAGE: PageKey = PageKey { tree: TreeId(2), page: PageNo(3) };

    fn rows() -> Vec<(Vec<u8>, Vec<u8>)> {
        let slots = vec![RowSlot::Empty(Generation(1)); RECORDS_PER_ROW as usize];
        vec![
            (CATALOG_KEY.to_vec(), encode_catalog(&Catalog::default())),
            (CHECKPOINT_KEY.to_vec(), encode_checkpoint(Lsn(7))),
            (page_set_key(PAGE), PageSet { lsn: Lsn(7), rows: vec![4], layers: vec![LayerId(1)] }.encode()),
            (page_key(PAGE, LayerId(1)), super::super::rows::PAGE.seal(super::super::rows::PAGE.begin(), &[])),
            (record_key(4), RecordRow { lsn: Lsn(7), page: PAGE, slots }.encode(4)),
            (segment_key(DiskNo(0), 1), encode_segment(Lsn(7), &[0; SEGMENT_WORDS])),
            (claims_key(PAGE, 0), CLAIMS.seal(CLAIMS.begin(), &[])),
        ]
    }

    #[test]
    fn each_row_is_what_its_key_says_and_no_other() {
        let rows = rows();
        for (at, (key, value)) in rows.iter().enumerate() {
            assert_eq!(verify_row(key, value), Ok(()), "{key:?}");
            for (_, other) in rows.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, row)| row) {
                assert!(verify_row(key, other).is_err(), "{key:?} with {other:?}");
            }
        }
    }

    #[test]
    fn a_changed_bit_or_a_cut_key_is_found() {
        for (key, value) in rows() {
            for bit in 0..value.len() * 8 {
                let mut changed = value.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(verify_row(&key, &changed).is_err(), "{key:?}, bit {bit}");
            }
            for strange in [&key[..key.len() - 1], &[&key[..], &[0]].concat()] {
                assert!(verify_row(strange, &value).is_err(), "{strange:?}");
            }
        }
        assert!(verify_row(b"X", b"").is_err());
    }
}
