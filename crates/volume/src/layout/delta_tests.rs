use super::*;
use crate::catalog::{DiskEntry, LayerEntry, VolumeEntry};
use crate::layout::memory::{deltas_of, lcg};
use crate::place::{ChunkRun, DiskNo, ExtentIndex, Generation, LayerId, PageKey, PageNo};
use crate::record::{BlockState, Home};
use proptest::prelude::*;

fn place() -> Place {
    Place { tree: TreeId(1), index: ExtentIndex(300) }
}

fn first_write() -> Vec<Delta> {
    let id = ExtentId::new(1000, Generation(2));
    let addr = |chunk| ChunkAddr { disk: DiskNo(3), chunk };
    vec![
        Delta::Extent { place: place(), layer: LayerId(5), id, base: ExtentId::HOLE },
        Delta::Chunks { place: place(), id, first: 2, addrs: vec![addr(700), addr(701), addr(9)] },
        Delta::States { place: place(), id, start: BlockNo(32), count: 40, state: BlockState::Data },
    ]
}

#[test]
fn the_group_of_a_first_write_byte_by_byte() {
    let body = [
        0x96, 0x01, // LSN 150
        0x03, // three deltas
        0x01, // Extent
        0x01, // tree 1
        0xac, 0x02, // index 300
        0x02, // id: generation 2,
        0xe8, 0x07, // index 1000
        0x05, // layer 5
        0x00, 0x00, // base: none
        0x82, // Chunks of the same extent
        0x22, // slot 2, three slots
        0x03, 0xbc, 0x05, 0x02, // disk 3, chunk 700, two of them
        0x03, 0x09, 0x01, // disk 3, chunk 9, one
        0x83, // States of the same extent
        0x01, // data
        0x20, // from block 32
        0x28, // 40 blocks
    ];
    let mut bytes = vec![
        0x47, // magic
        0x01, // version
        0x24, 0x00, 0x00, 0x00, // length 36
    ];
    let crc = crc32c(&[&bytes, &body]);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&body);
    assert_eq!(encode_group(Lsn(150), &first_write()), bytes);
    assert_eq!(decode_group(&bytes), Ok((Lsn(150), first_write(), 36)));
    assert_eq!(group_head(&bytes), Ok((Lsn(150), 3, 36)));
}

#[test]
fn every_other_delta_byte_by_byte() {
    let id = ExtentId::new(1, Generation(1));
    let page = PageKey { tree: TreeId(1), page: PageNo(200) };
    let start = ChunkAddr { disk: DiskNo(1), chunk: 16 };
    let mut scattered = [None; 16];
    scattered[0] = Some(start);
    scattered[15] = Some(ChunkAddr { disk: DiskNo(2), chunk: 5 });
    let uuid: [u8; 16] = *b"0123456789abcdef";
    let with = |head: &[u8], tail: &[u8]| [head, &uuid, tail].concat();
    let cases: Vec<(Delta, Vec<u8>)> = vec![
        // Tag, tree, index, generation, id index; first slot and count - 1.
        (Delta::Unchunk { place: place(), id, first: 1, count: 15 }, vec![4, 1, 0xac, 2, 1, 1, 0x1e]),
        // Tag, tree, index; layer; generation and index of what the entry names.
        (Delta::Entry { place: place(), layer: LayerId(9), entry: ExtentId::HOLE }, vec![5, 1, 0xac, 2, 9, 0, 0]),
        (Delta::Gone { place: place(), id }, vec![6, 1, 0xac, 2, 1, 1]),
        // ...; kind of home; disk, chunk.
        (Delta::Flip { place: place(), id, home: Home::Nowhere }, vec![7, 1, 0xac, 2, 1, 1, 0]),
        (Delta::Flip { place: place(), id, home: Home::Run(start) }, vec![7, 1, 0xac, 2, 1, 1, 1, 1, 16]),
        // ...; mask of slots 0 and 15; an address each.
        (
            Delta::Flip { place: place(), id, home: Home::from_chunks(scattered) },
            vec![7, 1, 0xac, 2, 1, 1, 2, 0x01, 0x80, 1, 16, 2, 5],
        ),
        // Tag, tree, one run: disk, chunk, count.
        (Delta::Free { tree: TreeId(9), runs: vec![ChunkRun { start, count: 300 }] }, vec![8, 9, 1, 1, 16, 0xac, 2]),
        // Tag, tree, page, row.
        (Delta::Row { page, row: 7 }, vec![9, 1, 0xc8, 1, 7]),
        (Delta::PageGone { page }, vec![10, 1, 0xc8, 1]),
        // Tag, id, tree, parent, flags (named, deleting), inherit limit.
        (
            Delta::Layer(LayerEntry {
                id: LayerId(4),
                tree: TreeId(1),
                parent: LayerId(2),
                named: true,
                frozen: false,
                inherit_limit_bytes: 1 << 14,
                deleting: true,
            }),
            vec![11, 4, 1, 2, 5, 0x80, 0x80, 1],
        ),
        (Delta::LayerGone(LayerId(4)), vec![12, 4]),
        // Tag, the layer that goes, the one that it becomes.
        (Delta::Fold { from: LayerId(4), into: LayerId(300) }, vec![17, 4, 0xac, 2]),
        // Tag, uuid, layer, size, logical block.
        (
            Delta::Volume(VolumeEntry { uuid, layer: LayerId(4), size_bytes: 128, logical_block_bytes: 512 }),
            with(&[13], &[4, 0x80, 1, 0x80, 4]),
        ),
        (Delta::VolumeGone { uuid }, with(&[14], &[])),
        // Tag, number, uuid, tier with its length, rank, chunks.
        (
            Delta::Disk(DiskEntry { no: DiskNo(2), uuid, tier: "hdd".into(), rank: 1, chunks: 128 }),
            with(&[15, 2], &[3, b'h', b'd', b'd', 1, 0x80, 1]),
        ),
        // Tag, key with its length, kind, bytes with their length.
        (Delta::Document { key: "k".into(), value: Some(vec![1, 2]) }, vec![16, 1, b'k', 1, 2, 1, 2]),
        (Delta::Document { key: "k".into(), value: None }, vec![16, 1, b'k', 0]),
    ];
    for (delta, bytes) in cases {
        let group = encode_group(Lsn(1), std::slice::from_ref(&delta));
        assert_eq!(group[HEADER_BYTES + 2..], bytes, "{delta:?}");
        assert_eq!(decode_group(&group).expect("intact").1, [delta]);
    }
}

#[test]
fn a_first_write_far_out_in_a_large_pool_still_fits_60_bytes() {
    let place = Place { tree: TreeId(2000), index: ExtentIndex(60_000_000) };
    let id = ExtentId::new(100_000_000, Generation(3));
    let addrs = (0..16).map(|i| ChunkAddr { disk: DiskNo(200), chunk: 1_000_000_000 + i }).collect();
    let deltas = [
        Delta::Extent { place, layer: LayerId(3000), id, base: crate::record::BELOW },
        Delta::Chunks { place, id, first: 0, addrs },
        Delta::States { place, id, start: BlockNo(0), count: 256, state: BlockState::Data },
    ];
    let bytes = encode_group(Lsn(1 << 40), &deltas);
    assert!(bytes.len() <= 60, "{} bytes", bytes.len());
    assert_eq!(decode_group(&bytes).expect("intact").1, deltas);
}

#[test]
fn a_delta_after_nothing_has_nothing_to_be_the_same_as() {
    let mut group = encode_group(Lsn(1), &[Delta::Gone { place: place(), id: ExtentId::new(1, Generation(1)) }]);
    group[HEADER_BYTES + 2] |= SAME;
    let crc = crc32c(&[&group[..CRC_AT], &group[HEADER_BYTES..]]);
    group[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(decode_group(&group), Err(DecodeError::Value { format: FORMAT, field: "tag", value: 0x80 }));
}

proptest! {
    #[test]
    fn any_deltas_come_back(seed: u64, count in 0_usize..30) {
        let deltas = deltas_of(&mut lcg(seed), count);
        let bytes = encode_group(Lsn(seed), &deltas);
        prop_assert_eq!(decode_group(&bytes), Ok((Lsn(seed), deltas, bytes.len())));
    }

    #[test]
    fn any_flipped_bit_is_seen(seed: u64, at: prop::sample::Index) {
        let mut bytes = encode_group(Lsn(seed), &deltas_of(&mut lcg(seed), 4));
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decode_group(&bytes).is_err());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(body: Vec<u8>, sealed: bool) {
        let mut bytes = body;
        if sealed {
            // A right envelope around them, so that the fields are reached.
            let body = std::mem::take(&mut bytes);
            bytes.extend([MAGIC, VERSION]);
            bytes.extend((HEADER_BYTES as u32 + body.len() as u32).to_le_bytes());
            let crc = crc32c(&[&bytes, &body]);
            bytes.extend(crc.to_le_bytes());
            bytes.extend(body);
        }
        let _ = decode_group(&bytes);
    }
}
