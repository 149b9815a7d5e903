//! The catalog as bytes: in the MetaStore, and in a slot on every disk.
//!
//! Layout of the catalog: envelope (`SDSK`), LSN, next row, next layer, then six lists, each with its count: layers,
//! folds, volumes, disks, documents, chunks of trees. All numbers are varints. Layout of a slot: envelope (`SDSX`),
//! sequence (u64), the catalog, zeros.

use std::collections::BTreeMap;

use super::codec::{DecodeError, Envelope, Reader, Writer};
use super::delta::ROW_MAX;
use super::parts;
use crate::catalog::Catalog;
use crate::place::{Lsn, TreeId};

/// How a catalog begins.
pub const CATALOG: Envelope = Envelope { format: "catalog", magic: *b"SDSK", version: 1 };
/// How a catalog slot begins.
pub const SLOT: Envelope = Envelope { format: "catalog slot", magic: *b"SDSX", version: 1 };
/// Bytes of a slot before the catalog.
pub const SLOT_HEADER_BYTES: usize = super::codec::ENVELOPE_BYTES + 8;

/// The catalog's bytes.
#[must_use]
pub fn encode_catalog(catalog: &Catalog) -> Vec<u8> {
    let mut out = CATALOG.begin();
    out.varint(catalog.lsn.0);
    out.varint(catalog.next_row);
    out.varint(u64::from(catalog.next_layer));
    out.varint(catalog.layers.len() as u64);
    catalog.layers.values().for_each(|layer| parts::put_layer(&mut out, layer));
    out.varint(catalog.folds.len() as u64);
    for (from, to) in &catalog.folds {
        out.varint(u64::from(from.0));
        out.varint(u64::from(to.0));
    }
    out.varint(catalog.volumes.len() as u64);
    catalog.volumes.values().for_each(|volume| parts::put_volume(&mut out, volume));
    out.varint(catalog.disks.len() as u64);
    catalog.disks.values().for_each(|disk| parts::put_disk(&mut out, disk));
    out.varint(catalog.documents.len() as u64);
    for (key, value) in &catalog.documents {
        out.blob(key.as_bytes());
        out.blob(value);
    }
    out.varint(catalog.chunks.len() as u64);
    for (tree, chunks) in &catalog.chunks {
        out.varint(u64::from(tree.0));
        out.varint(*chunks);
    }
    CATALOG.seal(out, &[])
}

/// The catalog in `bytes`.
///
/// # Errors
/// The field that is wrong.
pub fn decode_catalog(bytes: &[u8]) -> Result<Catalog, DecodeError> {
    let mut reader = CATALOG.open_whole(bytes, &[])?;
    let reader = &mut reader;
    let catalog = Catalog {
        lsn: Lsn(reader.varint("lsn")?),
        next_row: reader.varint_max("next row", ROW_MAX + 1)?,
        next_layer: reader.varint_u32("next layer")?,
        layers: list(reader, "layer count", |reader| parts::get_layer(reader).map(|layer| (layer.id, layer)))?,
        folds: list(reader, "fold count", |reader| {
            let fold = (parts::get_layer_id(reader, "folded layer")?, parts::get_layer_id(reader, "fold target")?);
            if fold.1 > fold.0 { Ok(fold) } else { Err(reader.value("fold target", u64::from(fold.1.0))) }
        })?,
        volumes: list(reader, "volume count", |reader| parts::get_volume(reader).map(|volume| (volume.uuid, volume)))?,
        disks: list(reader, "disk count", |reader| parts::get_disk(reader).map(|disk| (disk.no, disk)))?,
        documents: list(reader, "document count", |reader| {
            Ok((reader.text("document key")?, reader.blob("document")?.to_vec()))
        })?,
        chunks: list(reader, "tree count", |reader| {
            Ok((TreeId(reader.varint_u32("tree")?), reader.varint("chunks of tree")?))
        })?,
    };
    reader.end()?;
    Ok(catalog)
}

/// A list of keys that differ.
fn list<K: Ord, V>(
    reader: &mut Reader<'_>,
    field: &'static str,
    get: impl Fn(&mut Reader<'_>) -> Result<(K, V), DecodeError>,
) -> Result<BTreeMap<K, V>, DecodeError> {
    let count = reader.count(field)?;
    let map = (0..count).map(|_| get(reader)).collect::<Result<BTreeMap<K, V>, _>>()?;
    if map.len() == count { Ok(map) } else { Err(reader.value(field, count as u64)) }
}

/// A slot's bytes, padded to 4 KiB.
#[must_use]
pub fn encode_slot(sequence: u64, catalog: &[u8]) -> Vec<u8> {
    let mut out: Writer = SLOT.begin();
    out.u64(sequence);
    out.bytes(catalog);
    let mut bytes = SLOT.seal(out, &[]);
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    bytes
}

/// How long a slot is that seems to begin here.
///
/// # Errors
/// If none does.
pub fn slot_bytes(bytes: &[u8]) -> Result<usize, DecodeError> {
    SLOT.peek(bytes).map(|(length, _)| length)
}

/// Sequence and catalog of a slot.
///
/// # Errors
/// The field that is wrong.
pub fn decode_slot(bytes: &[u8]) -> Result<(u64, &[u8]), DecodeError> {
    let (mut reader, _) = SLOT.open(bytes, &[])?;
    let sequence = reader.u64("sequence")?;
    Ok((sequence, reader.rest()))
}

#[cfg(test)]
mod tests {
    use super::super::codec::crc32c;
    use super::*;
    use crate::catalog::{DiskEntry, LayerEntry, VolumeEntry};
    use crate::place::{DiskNo, LayerId};
    use proptest::prelude::*;

    fn catalog() -> Catalog {
        let uuid = *b"0123456789abcdef";
        let layer = LayerEntry {
            id: LayerId(4),
            tree: TreeId(2),
            parent: LayerId(1),
            named: true,
            frozen: true,
            inherit_limit_bytes: 128,
            deleting: false,
        };
        let volume = VolumeEntry { uuid, layer: LayerId(4), size_bytes: 4096, logical_block_bytes: 4096 };
        Catalog {
            lsn: Lsn(300),
            layers: BTreeMap::from([(layer.id, layer)]),
            folds: BTreeMap::from([(LayerId(3), LayerId(4))]),
            volumes: BTreeMap::from([(uuid, volume)]),
            disks: BTreeMap::from([(
                DiskNo(1),
                DiskEntry { no: DiskNo(1), uuid, tier: "ssd".into(), rank: 0, chunks: 128 },
            )]),
            documents: BTreeMap::from([("k".into(), vec![9, 8])]),
            chunks: BTreeMap::from([(TreeId(2), 200)]),
            next_row: 6,
            next_layer: 5,
        }
    }

    #[test]
    fn a_catalog_byte_by_byte() {
        let mut body = vec![0xac, 0x02, 6, 5]; // LSN 300, next row 6, next layer 5
        body.extend([1, 4, 2, 1, 3, 0x80, 1]); // 1 layer: id, tree, parent, flags (named, frozen), inherit limit
        body.extend([1, 3, 4]); // 1 fold: layer 3 is layer 4
        body.extend(b"\x010123456789abcdef"); // 1 volume: uuid,
        body.extend([4, 0x80, 0x20, 0x80, 0x20]); // layer, size, logical block
        body.extend(b"\x01\x010123456789abcdef\x03ssd\0\x80\x01"); // 1 disk: number, uuid, tier, rank, chunks
        body.extend([1, 1, b'k', 2, 9, 8]); // 1 document: key, bytes
        body.extend([1, 2, 0xc8, 1]); // 1 tree: id, chunks
        let mut bytes = b"SDSK\x01\0\0\0".to_vec(); // magic, version 1, zero
        bytes.extend((16 + body.len() as u32).to_le_bytes()); // length
        bytes.extend(crc32c(&[&bytes, &body]).to_le_bytes());
        bytes.extend(body);
        assert_eq!(encode_catalog(&catalog()), bytes);
        assert_eq!(decode_catalog(&bytes), Ok(catalog()));
    }

    #[test]
    fn a_slot_byte_by_byte() {
        let mut bytes = b"SDSX\x01\0\0\0\x1b\0\0\0".to_vec(); // magic, version 1, zero, length 27
        let body = b"\x05\0\0\0\0\0\0\0abc"; // sequence, catalog
        bytes.extend(crc32c(&[&bytes, body]).to_le_bytes());
        bytes.extend(body);
        bytes.resize(4096, 0);
        assert_eq!(encode_slot(5, b"abc"), bytes);
        assert_eq!((slot_bytes(&bytes), decode_slot(&bytes)), (Ok(27), Ok((5, &b"abc"[..]))));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_seen(at: prop::sample::Index) {
            let mut bytes = encode_catalog(&catalog());
            let bit = at.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode_catalog(&bytes).is_err());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(body: Vec<u8>, keep in 0_usize..60) {
            let _ = (decode_catalog(&body), decode_slot(&body));
            let mut out = CATALOG.begin();
            out.bytes(&encode_catalog(&catalog())[16..16 + keep]);
            out.bytes(&body);
            let _ = decode_catalog(&CATALOG.seal(out, &[]));
        }
    }
}
