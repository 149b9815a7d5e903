//! Rows of the MetaStore: what is read can be written again, and says the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sds_fuzz::sealed;
use sds_fuzz::words::Words;
use sds_volume::layout::claim::{CLAIMS, decode_claims, page_of_claims_key, put_claim};
use sds_volume::layout::owner::OwnerGeometry;
use sds_volume::layout::rows::{
    self, PageSet, RecordRow, decode_checkpoint, decode_segment, encode_checkpoint, encode_segment,
    segment_of_key,
};

fuzz_target!(|input: &[u8]| {
    let mut words = Words(input);
    let kind = words.u8() % 5;
    match kind {
        0 => {
            if let Ok(set) = PageSet::decode(&sealed::bytes_of(words.rest(), &rows::SET, &[], 0)) {
                assert_eq!(PageSet::decode(&set.encode()), Ok(set));
            }
        }
        1 => {
            let row = u64::from_le_bytes(words.array());
            if let Ok(records) =
                RecordRow::decode(&sealed::bytes_of(words.rest(), &rows::RECORDS, &row.to_le_bytes(), 0), row)
            {
                assert_eq!(RecordRow::decode(&records.encode(row), row), Ok(records));
            }
        }
        2 => {
            if let Ok((lsn, bits)) = decode_segment(&sealed::bytes_of(words.rest(), &rows::SEGMENT, &[], 16 + 8 + 4096))
            {
                assert_eq!(decode_segment(&encode_segment(lsn, &bits)), Ok((lsn, bits)));
            }
        }
        3 => {
            if let Ok(lsn) = decode_checkpoint(&sealed::bytes_of(words.rest(), &rows::CHECKPOINT, &[], 0)) {
                assert_eq!(decode_checkpoint(&encode_checkpoint(lsn)), Ok(lsn));
            }
        }
        _ => {
            let geometry = OwnerGeometry::new((256 << 10) << (words.u8() % 7));
            if let Ok(claims) = decode_claims(&sealed::bytes_of(words.rest(), &CLAIMS, &[], 0), &geometry) {
                let mut out = CLAIMS.begin();
                claims.iter().for_each(|claim| put_claim(&mut out, &geometry, claim));
                assert_eq!(decode_claims(&CLAIMS.seal(out, &[]), &geometry), Ok(claims));
            }
        }
    }
    let _ = (segment_of_key(input), page_of_claims_key(input));
});
