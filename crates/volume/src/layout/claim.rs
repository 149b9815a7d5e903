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
        if count == 0 || usize::from(slot) + usize::from(count) > CHUNKS_PER_EXTENT {
            return Err(reader.value("claim count", u64::from(count)));
        }
        let Some((_, Some(entry))) = get_entry(&mut reader, geometry)? else {
            return Err(reader.value("claim kind", 0));
        };
        claims.push(Claim { addr, slot, count, entry });
    }
    Ok(claims)
}
