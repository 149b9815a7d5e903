use super::super::codec::crc32c;
use super::*;
use crate::layout::memory::{home_of, lcg};
use crate::place::{ChunkAddr, PageNo, TreeId};
use crate::record::Home;
use proptest::prelude::*;

const KEY: PageKey = PageKey { tree: TreeId(2), page: PageNo(3) };

/// `magic`, version, zero, length, CRC with `seed`, `body`.
fn sealed(magic: &[u8; 4], version: u8, seed: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = [&magic[..], &[version, 0, 0, 0]].concat();
    bytes.extend((16 + body.len() as u32).to_le_bytes());
    bytes.extend(crc32c(&[seed, &bytes, body]).to_le_bytes());
    bytes.extend(body);
    bytes
}

#[test]
fn keys_sort_by_their_numbers() {
    assert_eq!(page_set_key(KEY), b"S\0\0\0\x02\0\0\0\0\0\0\0\x03");
    assert_eq!(page_key(KEY, LayerId(0x104)), b"P\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\x01\x04");
    assert_eq!(record_key(0x102), b"R\0\0\0\0\0\0\x01\x02");
    assert_eq!(segment_key(DiskNo(5), 6), b"F\0\x05\0\0\0\x06");
    assert_eq!(segment_of_key(b"F\0\x05\0\0\0\x06"), Some((DiskNo(5), 6)));
    assert_eq!((segment_of_key(b"F\0\x05"), segment_of_key(b"P\0\x05\0\0\0\x06")), (None, None));
}

#[test]
fn a_page_set_byte_by_byte() {
    let set = PageSet { lsn: Lsn(300), rows: vec![10, 9, 200], layers: vec![LayerId(1), LayerId(130)] };
    let body = [
        0xac, 0x02, // LSN 300
        3, 20, 1, 0xfe, 0x02, // 3 rows: +10, -1, +191
        2, 1, 0x82, 1, // 2 layers: 1, 130
    ];
    assert_eq!(set.encode(), sealed(b"SDSS", 1, &[], &body));
    assert_eq!(PageSet::decode(&set.encode()), Ok(set));
}

fn full(index: u64, slot: u64) -> Record {
    Record {
        id: ExtentId::new(index, Generation(1)),
        birth: LayerId(4),
        index: ExtentIndex(3 * 512 + slot),
        base: ExtentId::HOLE,
        home: Home::Run(ChunkAddr { disk: DiskNo(1), chunk: 32 }),
        states: States::AllData,
    }
}

#[test]
fn a_record_row_byte_by_byte() {
    let mut slots = vec![RowSlot::Empty(Generation(0)); 64];
    slots[1] = RowSlot::Taken(full(129, 5));
    let mut partial = Record { base: crate::record::BELOW, home: Home::Nowhere, ..full(130, 6) };
    partial.states = States::absent(256);
    partial.states.set(8, 4, BlockState::Data, 256);
    partial.states.set(12, 1, BlockState::Zero, 256);
    slots[2] = RowSlot::Taken(partial);
    slots[3] = RowSlot::Empty(Generation(9));
    let row = RecordRow { lsn: Lsn(1), page: KEY, slots };
    let mut body = vec![
        1, // LSN
        2, 3, // page: tree, number
        0, 0, // slot 0: empty, never used
        3, 1, 4, 5, // slot 1: taken, all data; generation, birth layer, place in page
        1, 1, 32, // home: a run, disk, chunk
        13, 1, 6, // slot 2: taken, base, birth as before; generation, place in page
        0, 1, // base: what lies under it
        0, // home: nowhere
        4, // words of states
        0x1c, 0x0d, 0x02, 0xc8, 0x07, // 8 absent, 4 data, 1 zero, 243 absent
        0, 9, // slot 3: empty, its last generation
    ];
    body.resize(body.len() + 60 * 2, 0);
    assert_eq!(row.encode(2), sealed(b"SDSR", 1, &[2, 0, 0, 0, 0, 0, 0, 0], &body));
    assert_eq!(RecordRow::decode(&row.encode(2), 2), Ok(row.clone()));
    assert!(matches!(RecordRow::decode(&row.encode(2), 3), Err(DecodeError::Checksum { .. })));
}

#[test]
fn a_full_record_takes_at_most_24_bytes_in_any_pool() {
    let first = (1 << 40) - 64;
    let record = |slot: u64| Record {
        id: ExtentId::new(first + slot, Generation(ExtentId::GENERATION_MAX)),
        birth: LayerId(u32::MAX - slot as u32 % 2),
        home: Home::Run(ChunkAddr { disk: DiskNo(u16::MAX), chunk: u32::MAX - 15 }),
        index: ExtentIndex(3 * 512 + 511),
        ..full(0, 0)
    };
    let slots = (0..64).map(|slot| RowSlot::Taken(record(slot))).collect();
    let bytes = RecordRow { lsn: Lsn(u64::MAX), page: KEY, slots }.encode(first / 64).len();
    assert!(bytes <= 64 * 24, "{bytes}");
    let slots = (0..64).map(|slot| RowSlot::Taken(full(128 + slot, slot))).collect();
    let bytes = RecordRow { lsn: Lsn(1 << 40), page: KEY, slots }.encode(2).len();
    assert!(bytes <= 64 * 8, "{bytes}");
}

#[test]
fn a_segment_and_a_checkpoint_byte_by_byte() {
    let mut bits = vec![0; SEGMENT_WORDS];
    bits[0] = 0x8000_0000_0000_0001;
    let mut body = vec![9, 0, 0, 0, 0, 0, 0, 0]; // LSN
    body.extend([1, 0, 0, 0, 0, 0, 0, 0x80]); // chunks 0 and 63
    body.resize(8 + 4096, 0);
    assert_eq!(encode_segment(Lsn(9), &bits), sealed(b"SDSB", 1, &[], &body));
    assert_eq!(decode_segment(&encode_segment(Lsn(9), &bits)), Ok((Lsn(9), bits)));
    assert_eq!(encode_checkpoint(Lsn(9)), sealed(b"SDSM", 2, &[], &[9, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(decode_checkpoint(&encode_checkpoint(Lsn(9))), Ok(Lsn(9)));
    assert_eq!(decode_checkpoint(&sealed(b"SDSM", 1, &[], &[9, 0, 0, 0, 0, 0, 0, 0])), Ok(Lsn(9)));
}

fn row_of(seed: u64) -> RecordRow {
    let mut draw = lcg(seed);
    let slots = (0..64)
        .map(|slot| match draw(4) {
            0 => RowSlot::Empty(Generation(draw(5) as u32)),
            _ => {
                let words = 1 << draw(6);
                let mut states = States::absent(words * 64);
                for _ in 0..draw(200) {
                    let (state, start) = ([BlockState::Data, BlockState::Zero][draw(2) as usize], draw(64 * 3) as u32);
                    states.set(start.min(words * 64 - 1), 1, state, words * 64);
                }
                RowSlot::Taken(Record {
                    id: ExtentId::new(128 + slot, Generation(draw(3) as u32)),
                    birth: LayerId(draw(2) as u32),
                    index: ExtentIndex(3 * 512 + draw(512)),
                    base: [ExtentId::HOLE, crate::record::BELOW][draw(2) as usize],
                    home: home_of(&mut draw),
                    states,
                })
            }
        })
        .collect();
    RecordRow { lsn: Lsn(draw(u64::MAX)), page: KEY, slots }
}

proptest! {
    #[test]
    fn any_rows_come_back(seed: u64) {
        let row = row_of(seed);
        prop_assert_eq!(RecordRow::decode(&row.encode(2), 2), Ok(row));
        let mut draw = lcg(seed);
        let rows = (0..draw(20)).map(|_| draw(ROW_MAX)).collect();
        let set = PageSet { lsn: Lsn(seed), rows, layers: vec![LayerId(draw(1 << 31) as u32)] };
        prop_assert_eq!(PageSet::decode(&set.encode()), Ok(set));
    }

    #[test]
    fn any_flipped_bit_is_seen(seed: u64, at: prop::sample::Index) {
        let mut bytes = row_of(seed).encode(2);
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(RecordRow::decode(&bytes, 2).is_err());
    }

    #[test]
    fn no_bytes_make_the_decoders_panic(body in prop::collection::vec(any::<u8>(), 0..600)) {
        let with = |envelope: &Envelope, head: &[u8], seed: &[u8]| {
            let mut out = envelope.begin();
            out.bytes(head);
            out.bytes(&body);
            envelope.seal(out, seed)
        };
        let _ = (PageSet::decode(&body), RecordRow::decode(&body, 0));
        let _ = (decode_segment(&body), decode_checkpoint(&body));
        let _ = PageSet::decode(&with(&SET, &[], &[]));
        for head in [&[][..], &[1, 2, 3], &[1, 2, 3, 0, 0, 1, 1, 4, 5, 2], &[1, 2, 3, 17, 1, 4, 5, 0, 1]] {
            let _ = RecordRow::decode(&with(&RECORDS, head, &[0; 8]), 0);
        }
    }
}
