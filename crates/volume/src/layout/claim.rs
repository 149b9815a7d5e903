//! Claims: what owner tables say, sorted by page in the MetaStore while an import goes on.
//!
//! Layout: a row holds claims of one page, one after the other: the first chunk's address, its slot, how many chunks in
//! a row there are, then the owner entry as the disk has it. The key names the page and then the row, so that a scan
//! meets all rows of a page one after the other.

use super::codec::{DecodeError, Envelope, Writer};
use super::owner::{OwnerEntry, OwnerGeometry, get_entry, put_entry};
use super::parts;
use crate::place::{CHUNKS_PER_EXTENT, ChunkAddr, PageKey, PageNo, TreeId};

/// How a row of claims begins.
pub const CLAIMS: Envelope = Envelope { format: "row of claims", magic: *b"SDST", version: 1 };
/// What keys of claims start with.
pub const CLAIMS_PREFIX: &[u8] = b"T";

/// Whose some chunks in a row are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The first of them.
    pub addr: ChunkAddr,
    /// Which chunk of the extent that is.
    pub slot: u8,
    /// How many.
    pub count: u8,
    /// The owner entry that says so.
    pub entry: OwnerEntry,
}

/// The key of the row `row` of claims, which are of `page`.
#[must_use]
pub fn claims_key(page: PageKey, row: u64) -> Vec<u8> {
    [CLAIMS_PREFIX, &page.tree.0.to_be_bytes(), &page.page.0.to_be_bytes(), &row.to_be_bytes()].concat()
}

/// The page of a key that starts with [`CLAIMS_PREFIX`].
#[must_use]
pub fn page_of_claims_key(key: &[u8]) -> Option<PageKey> {
    let rest: &[u8; 20] = key.strip_prefix(CLAIMS_PREFIX)?.try_into().ok()?;
    let tree = u32::from_be_bytes(rest[..4].try_into().ok()?);
    let page = u64::from_be_bytes(rest[4..12].try_into().ok()?);
    Some(PageKey { tree: TreeId(tree), page: PageNo(page) })
}

/// Appends a claim to a row that [`Envelope::begin`] began and [`Envelope::seal`] ends.
pub fn put_claim(out: &mut Writer, geometry: &OwnerGeometry, claim: &Claim) {
    parts::put_addr(out, claim.addr);
    out.u8(claim.slot);
    out.u8(claim.count);
    put_entry(out, geometry, Some(&(claim.entry.lsn, Some(claim.entry.clone()))));
}

/// The claims in a row.
///
/// # Errors
/// The field that is wrong.
pub fn decode_claims(bytes: &[u8], geometry: &OwnerGeometry) -> Result<Vec<Claim>, DecodeError> {
    let mut reader = CLAIMS.open_whole(bytes, &[])?;
    let mut claims = Vec::new();
    while !reader.rest().is_empty() {
        let addr = parts::get_addr(&mut reader, "claim chunk")?;
        let (slot, count) = (reader.u8("claim slot")?, reader.u8("claim count")?);
        let is_past_end = usize::from(slot) + usize::from(count) > CHUNKS_PER_EXTENT;
        if count == 0 || is_past_end || addr.chunk.checked_add(u32::from(count) - 1).is_none() {
            return Err(reader.value("claim count", u64::from(count)));
        }
        let Some((_, Some(entry))) = get_entry(&mut reader, geometry)? else {
            return Err(reader.value("claim kind", 0));
        };
        // The entry of a whole run is that of its first chunk; any other speaks of its own chunk alone.
        if entry.whole_run.is_none() && (slot, count) != (entry.slot, 1) {
            return Err(reader.value("claim slot", u64::from(slot)));
        }
        claims.push(Claim { addr, slot, count, entry });
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::super::codec::{ENVELOPE_BYTES, crc32c};
    use super::*;
    use crate::place::{DiskNo, ExtentId, ExtentIndex, Generation, LayerId, Lsn};
    use crate::record::BlockState;

    fn geometry() -> OwnerGeometry {
        OwnerGeometry::new(1 << 20)
    }

    fn chunk_of(index: u64, slot: u8) -> Claim {
        let states = (0..geometry().blocks_per_chunk).map(|block| match block % 3 {
            0 => BlockState::Data,
            1 => BlockState::Zero,
            _ => BlockState::Absent,
        });
        let entry = OwnerEntry {
            id: ExtentId::new(index, Generation(3)),
            tree: TreeId(2),
            birth: LayerId(4),
            index: ExtentIndex(index),
            base: ExtentId::HOLE,
            slot,
            whole_run: None,
            states: states.collect(),
            lsn: Lsn(900),
        };
        Claim { addr: ChunkAddr { disk: DiskNo(1), chunk: 300 + u32::from(slot) }, slot, count: 1, entry }
    }

    fn rest_of_run() -> Claim {
        let run = OwnerEntry { whole_run: Some(BlockState::Sealed), states: Vec::new(), ..chunk_of(7, 0).entry };
        Claim { addr: ChunkAddr { disk: DiskNo(0), chunk: 18 }, slot: 2, count: 14, entry: run }
    }

    fn row(claims: &[Claim]) -> Vec<u8> {
        let mut out = CLAIMS.begin();
        claims.iter().for_each(|claim| put_claim(&mut out, &geometry(), claim));
        CLAIMS.seal(out, &[])
    }

    #[test]
    fn a_row_of_claims_is_read_as_it_was_written() {
        let claims = [rest_of_run(), chunk_of(5, 4), chunk_of(5, 15)];
        assert_eq!(decode_claims(&row(&claims), &geometry()), Ok(claims.to_vec()));
        assert_eq!(decode_claims(&row(&[]), &geometry()), Ok(Vec::new()));
    }

    #[test]
    fn every_change_of_every_byte_is_refused_and_so_is_every_cut() {
        let intact = row(&[rest_of_run(), chunk_of(5, 4)]);
        for at in 0..intact.len() {
            for change in 1..=u8::MAX {
                let mut bytes = intact.clone();
                bytes[at] ^= change;
                let refused = decode_claims(&bytes, &geometry()).expect_err("a byte is another one");
                let by_crc = matches!(refused, DecodeError::Checksum { format: "row of claims", .. });
                assert!(at < ENVELOPE_BYTES || by_crc, "byte {at} of the body: {refused}");
            }
        }
        for len in 0..intact.len() {
            let refused = decode_claims(&intact[..len], &geometry()).expect_err("the end is missing");
            assert!(matches!(refused, DecodeError::Short { format: "row of claims", .. }), "{len} bytes: {refused}");
        }
        let longer = [&intact[..], &[0]].concat();
        assert!(matches!(decode_claims(&longer, &geometry()), Err(DecodeError::Value { field: "length", .. })));
    }

    /// Behind a CRC that is right, so that the fields themselves are looked at.
    #[test]
    fn damaged_fields_end_in_an_error_or_in_claims_that_can_be_written() {
        let intact = row(&[rest_of_run(), chunk_of(5, 4)]);
        let sealed = |mut bytes: Vec<u8>| {
            let length = bytes.len() as u32;
            bytes[8..12].copy_from_slice(&length.to_le_bytes());
            let crc = crc32c(&[&bytes[..12], &bytes[ENVELOPE_BYTES..]]);
            bytes[12..ENVELOPE_BYTES].copy_from_slice(&crc.to_le_bytes());
            bytes
        };
        let mut refused = 0;
        let mut check = |bytes: Vec<u8>| match decode_claims(&sealed(bytes), &geometry()) {
            Ok(claims) => {
                assert_eq!(decode_claims(&row(&claims), &geometry()).as_ref(), Ok(&claims));
                for claim in claims {
                    let last = u64::from(claim.addr.chunk) + u64::from(claim.count) - 1;
                    let in_extent = usize::from(claim.slot) + usize::from(claim.count) <= CHUNKS_PER_EXTENT;
                    assert!(claim.count > 0 && in_extent && last <= u64::from(u32::MAX), "{claim:?}");
                }
            }
            Err(_) => refused += 1,
        };
        for at in ENVELOPE_BYTES..intact.len() {
            for change in 1..=u8::MAX {
                let mut bytes = intact.clone();
                bytes[at] ^= change;
                check(bytes);
            }
        }
        for len in ENVELOPE_BYTES..intact.len() {
            check(intact[..len].to_vec());
        }
        assert!(refused > 1_000, "{refused} were refused");
    }

    #[test]
    fn claims_that_contradict_their_entry_or_end_nowhere_are_refused() {
        let refused = |claim: Claim| decode_claims(&row(&[claim]), &geometry()).expect_err("no such claim is written");
        let is = |error: DecodeError, wanted| matches!(error, DecodeError::Value { field, .. } if field == wanted);
        assert!(is(refused(Claim { slot: 5, ..chunk_of(5, 4) }), "claim slot"));
        assert!(is(refused(Claim { count: 2, ..chunk_of(5, 4) }), "claim slot"));
        assert!(is(refused(Claim { count: 0, ..rest_of_run() }), "claim count"));
        assert!(is(refused(Claim { count: 15, ..rest_of_run() }), "claim count"));
        let last = ChunkAddr { chunk: u32::MAX - 12, ..rest_of_run().addr };
        assert!(is(refused(Claim { addr: last, ..rest_of_run() }), "claim count"));
    }
}
