//! The worked examples of docs/on-disk.md are byte for byte what this crate writes, and it reads them back.
//!
//! An example is a block fenced as `hex` under a heading that starts with "Example". All speak of one small pool, so
//! that a reader can follow a write through every format.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use sds_io::CarryOver;
use sds_volume::catalog::{Catalog, DiskEntry, LayerEntry, VolumeEntry};
use sds_volume::delta::{Delta, Place};
use sds_volume::layout::catalog::{decode_catalog, decode_slot, encode_catalog, encode_slot};
use sds_volume::layout::check::block_crc;
use sds_volume::layout::claim::{CLAIMS, Claim, claims_key, decode_claims, put_claim};
use sds_volume::layout::codec::crc32c;
use sds_volume::layout::delta::{decode_group, encode_group};
use sds_volume::layout::disk::{DEFAULT_JOURNAL_BYTES, DiskLayout};
use sds_volume::layout::frame::{FrameHead, JournalHeader, Salt, decode_frame, encode_frame, split_groups};
use sds_volume::layout::label::Label;
use sds_volume::layout::owner::{OwnerBlock, OwnerEntry, OwnerGeometry};
use sds_volume::layout::rows::{
    CATALOG_KEY, CHECKPOINT_KEY, PageSet, RecordRow, SEGMENT_WORDS, decode_checkpoint, decode_segment,
    encode_checkpoint, encode_segment, page_set_key, record_key, segment_key,
};
use sds_volume::place::{
    BlockNo, ChunkAddr, ChunkRun, DiskNo, ExtentId, ExtentIndex, Generation, LayerId, Lsn, PageKey, PageNo, TreeId,
};
use sds_volume::record::{BlockState, Home, Record, RowSlot, States};
use sds_volume::ring::Ring;

const DOCUMENT: &str = include_str!("../../../docs/on-disk.md");

const POOL: [u8; 16] = *b"0123456789abcdef";
const DISK: [u8; 16] = *b"fedcba9876543210";
const VOLUME: [u8; 16] = *b"a volume's  uuid";
const DISK_BYTES: u64 = 64 << 20;
const EXTENT_BYTES: u64 = 1 << 20;
const EXTENT_BLOCKS: u32 = 256;
const TREE: TreeId = TreeId(1);
const LAYER: LayerId = LayerId(2);
const PAGE: PageKey = PageKey { tree: TREE, page: PageNo(0) };
const ROW: u64 = 2;
const SALT: Salt = Salt { journal: 0x99, lap: 1 };
const LSN: Lsn = Lsn(7);

/// The extent that the first write makes, and one that is a whole run.
const PART: (ExtentId, ExtentIndex) = (ExtentId::new(130, Generation(1)), ExtentIndex(5));
const WHOLE: (ExtentId, ExtentIndex) = (ExtentId::new(131, Generation(1)), ExtentIndex(6));

const fn chunk(chunk: u32) -> ChunkAddr {
    ChunkAddr { disk: DiskNo(0), chunk }
}

/// Byte by byte what stands in the document, by heading.
fn examples() -> BTreeMap<&'static str, Vec<u8>> {
    let (mut heading, mut fence) = ("", None);
    let mut examples: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for line in DOCUMENT.lines() {
        match (line.strip_prefix("```"), fence) {
            (Some(language), None) => {
                fence = Some(language);
                let taken = language == "hex" && examples.insert(heading, Vec::new()).is_some();
                assert!(!taken, "{heading}: one example a heading");
            }
            (Some(_), Some(_)) => fence = None,
            (None, Some("hex")) => add_hex(line, examples.get_mut(heading).expect("made by the fence")),
            (None, None) if line.starts_with('#') => heading = line.trim_start_matches('#').trim(),
            (None, _) => {}
        }
    }
    examples
}

/// Two digits are a byte, `xN` makes N of the byte before, `#` starts a remark.
fn add_hex(line: &str, bytes: &mut Vec<u8>) {
    for word in line.split('#').next().expect("a first part").split_whitespace() {
        match word.strip_prefix('x') {
            Some(count) => {
                let last = *bytes.last().expect("a byte before its count");
                bytes.resize(bytes.len() - 1 + count.parse::<usize>().expect("a count"), last);
            }
            None => bytes.push(u8::from_str_radix(word, 16).expect("two hexadecimal digits")),
        }
    }
}

fn label() -> Label {
    Label {
        pool_uuid: POOL,
        pool_name: "archive".into(),
        disk_uuid: DISK,
        disk_no: DiskNo(0),
        tier: "hdd".into(),
        rank: 1,
        journal: true,
        clean: false,
        pool_epoch: 1,
        sequence: 3,
        checkpoint_mark: Lsn(6),
        openings: 1,
        layout: DiskLayout::plan(DISK_BYTES, EXTENT_BYTES, DEFAULT_JOURNAL_BYTES).expect("room"),
        opener: "host, process 12".into(),
    }
}

fn layer() -> LayerEntry {
    LayerEntry {
        id: LAYER,
        tree: TREE,
        parent: LayerId(0),
        named: true,
        frozen: false,
        inherit_limit_bytes: 32 << 20,
        deleting: false,
    }
}

fn volume() -> VolumeEntry {
    VolumeEntry { uuid: VOLUME, layer: LAYER, size_bytes: 32 << 20, logical_block_bytes: 4096 }
}

fn disk() -> DiskEntry {
    DiskEntry { no: DiskNo(0), uuid: DISK, tier: "hdd".into(), rank: 1, chunks: 896 }
}

fn catalog() -> Catalog {
    Catalog {
        lsn: Lsn(8),
        layers: BTreeMap::from([(LAYER, layer())]),
        folds: BTreeMap::from([(LayerId(1), LAYER)]),
        volumes: BTreeMap::from([(VOLUME, volume())]),
        disks: BTreeMap::from([(DiskNo(0), disk())]),
        documents: BTreeMap::from([("host/a".into(), b"{}".to_vec())]),
        chunks: BTreeMap::from([(TREE, 19)]),
        next_row: 3,
        next_layer: 4,
    }
}

fn journal_header() -> JournalHeader {
    JournalHeader {
        pool_uuid: POOL,
        epoch: 1,
        members: 1,
        sequence: 4,
        log_bytes: (4 << 20) - 8192,
        salt: SALT.journal,
        start: LSN,
        start_lap: SALT.lap,
        start_offset: 0x3000,
        before: 0xddcc_bbaa,
    }
}

fn first_write() -> Vec<Delta> {
    let (place, id) = (Place { tree: TREE, index: PART.1 }, PART.0);
    vec![
        Delta::Extent { place, layer: LAYER, id, base: ExtentId::HOLE },
        Delta::Chunks { place, id, first: 2, addrs: vec![chunk(700), chunk(701), chunk(41)] },
        Delta::States { place, id, start: BlockNo(32), count: 40, state: BlockState::Data },
    ]
}

fn document() -> Vec<Delta> {
    vec![Delta::Document { key: "host/a".into(), value: Some(b"{}".to_vec()) }]
}

/// Every kind once, in the order of their tags.
fn one_of_each() -> Vec<Delta> {
    let (place, id) = (Place { tree: TREE, index: PART.1 }, PART.0);
    let mut scattered = [None; 16];
    (scattered[0], scattered[15]) = (Some(chunk(33)), Some(chunk(200)));
    let freed = vec![ChunkRun { start: chunk(700), count: 2 }, ChunkRun { start: chunk(41), count: 1 }];
    let [extent, chunks, states] = first_write().try_into().expect("three deltas");
    vec![
        extent,
        chunks,
        states,
        Delta::Unchunk { place, id, first: 2, count: 3 },
        Delta::Entry { place, layer: LAYER, entry: ExtentId::HOLE },
        Delta::Gone { place, id },
        Delta::Flip { place: Place { tree: TREE, index: WHOLE.1 }, id: WHOLE.0, home: Home::from_chunks(scattered) },
        Delta::Free { tree: TREE, runs: freed },
        Delta::Row { page: PAGE, row: ROW },
        Delta::PageGone { page: PAGE },
        Delta::Layer(layer()),
        Delta::LayerGone(LAYER),
        Delta::Volume(volume()),
        Delta::VolumeGone { uuid: VOLUME },
        Delta::Disk(disk()),
        Delta::Document { key: "host/a".into(), value: None },
        Delta::Fold { from: LayerId(1), into: LAYER },
    ]
}

fn frame() -> Vec<u8> {
    let (one, two) = (encode_group(LSN, &first_write()), encode_group(Lsn(8), &document()));
    let head = FrameHead { pool_uuid: POOL, epoch: 1, first: LSN, last: Lsn(8), records: 4, before: 0xddcc_bbaa };
    encode_frame(&head, &[&one, &two], SALT).0
}

fn owner_block() -> OwnerBlock {
    let mut block = OwnerBlock::empty(&OwnerGeometry::new(EXTENT_BYTES), 0);
    let entry = |(id, index), slot, whole_run, states, lsn| {
        let base = ExtentId::HOLE;
        Some((lsn, Some(OwnerEntry { id, tree: TREE, birth: LAYER, index, base, slot, whole_run, states, lsn })))
    };
    let states = (64..80).map(|block| if block < 72 { BlockState::Data } else { BlockState::Absent }).collect();
    block.sequence = 5;
    block.entries[16] = entry(WHOLE, 0, Some(BlockState::Sealed), Vec::new(), Lsn(6));
    block.entries[40] = Some((Lsn(5), None));
    block.entries[41] = entry(PART, 4, None, states, LSN);
    block
}

fn page_set() -> PageSet {
    PageSet { lsn: LSN, rows: vec![ROW], layers: Vec::new() }
}

fn record_row() -> RecordRow {
    let mut home = Home::Nowhere;
    [(2, 700), (3, 701), (4, 41)].into_iter().for_each(|(slot, at)| home.set(slot, Some(chunk(at))));
    let mut states = States::absent(EXTENT_BLOCKS);
    states.set(32, 40, BlockState::Data, EXTENT_BLOCKS);
    let record = |(id, index), home, states| {
        RowSlot::Taken(Record { id, birth: LAYER, index, base: ExtentId::HOLE, home, states })
    };
    let mut slots = vec![RowSlot::Empty(Generation(0)); 64];
    slots[2] = record(PART, home, states);
    slots[3] = record(WHOLE, Home::Run(chunk(16)), States::AllSealed);
    slots[4] = RowSlot::Empty(Generation(9));
    RecordRow { lsn: LSN, page: PAGE, slots }
}

fn segment() -> Vec<u64> {
    let mut bits = vec![0_u64; SEGMENT_WORDS];
    [41, 700, 701].into_iter().chain(16..32).for_each(|chunk: usize| bits[chunk / 64] |= 1 << (chunk % 64));
    bits
}

/// Memory of a process, as the ring takes it.
struct Memory(Mutex<Vec<u8>>);

impl CarryOver for Memory {
    fn capacity_bytes(&self) -> usize {
        self.load().len()
    }

    fn load(&self) -> Vec<u8> {
        self.0.lock().expect("nobody panics with it").clone()
    }

    fn store(&self, offset: usize, bytes: &[u8]) {
        self.0.lock().expect("nobody panics with it")[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

fn ring() -> Vec<u8> {
    let memory: Arc<dyn CarryOver> = Arc::new(Memory(Mutex::new(vec![0; 4096])));
    Ring::new(Arc::clone(&memory), POOL, 1).push(Lsn(8), &encode_group(Lsn(8), &document())).expect("room");
    memory.load()
}

fn keys() -> Vec<u8> {
    let checkpoint = [CATALOG_KEY, CHECKPOINT_KEY].concat();
    let rows = [page_set_key(PAGE), record_key(ROW), segment_key(DiskNo(0), 0)].concat();
    [rows, checkpoint, claims_key(PAGE, 3)].concat()
}

/// Of the whole run all but its first two chunks.
fn claim() -> Claim {
    let Some((_, Some(entry))) = owner_block().entries[16].clone() else { unreachable!("the whole run") };
    Claim { addr: chunk(18), slot: 2, count: 14, entry }
}

fn claims() -> Vec<u8> {
    let mut out = CLAIMS.begin();
    put_claim(&mut out, &OwnerGeometry::new(EXTENT_BYTES), &claim());
    CLAIMS.seal(out, &[])
}

/// The CRCs of the whole run's first chunk.
fn crcs() -> Vec<u8> {
    (0..16).flat_map(|block| block_crc(WHOLE.0, block, &[0x5a; 4096]).to_le_bytes()).collect()
}

#[test]
fn the_crcs_of_a_chunk_lie_where_the_document_says() {
    let layout = label().layout;
    assert_eq!(layout.check_offset(16, 0), (8 << 20) + 1024);
    assert_eq!(layout.check_offset(17, 3), (8 << 20) + 1024 + 64 + 12);
}

#[test]
fn every_example_is_what_is_written() {
    let written: BTreeMap<&str, Vec<u8>> = BTreeMap::from([
        ("Example: label", label().encode()),
        ("Example: catalog", encode_catalog(&catalog())),
        ("Example: catalog slot", encode_slot(8, &encode_catalog(&catalog()))),
        ("Example: journal header", journal_header().encode()),
        ("Example: journal frame", frame()),
        ("Example: group of a first write", encode_group(LSN, &first_write())),
        ("Example: one delta of each kind", encode_group(LSN, &one_of_each())),
        ("Example: owner block", owner_block().encode(&OwnerGeometry::new(EXTENT_BYTES), &DISK)),
        ("Example: ring", ring()),
        ("Example: keys", keys()),
        ("Example: page set row", page_set().encode()),
        ("Example: record row", record_row().encode(ROW)),
        ("Example: bitmap row", encode_segment(LSN, &segment())),
        ("Example: checkpoint row", encode_checkpoint(LSN)),
        ("Example: row of claims", claims()),
        ("Example: CRCs of a chunk", crcs()),
    ]);
    let shown = examples();
    assert_eq!(shown.keys().collect::<Vec<_>>(), written.keys().collect::<Vec<_>>());
    for (heading, shown) in shown {
        let written = &written[heading];
        let places = 0..shown.len().max(written.len());
        let differ: Vec<usize> = places.filter(|at| shown.get(*at) != written.get(*at)).collect();
        let used = written.len() - written.iter().rev().take_while(|byte| **byte == 0).count();
        assert!(differ.is_empty(), "{heading}: bytes {differ:x?} differ; written is {:02x?}", &written[..used]);
    }
}

#[test]
fn every_example_is_read_back() {
    let shown = examples();
    let bytes = |heading: &str| &shown[heading][..];
    let geometry = OwnerGeometry::new(EXTENT_BYTES);
    assert_eq!(Label::decode(bytes("Example: label")), Ok(label()));
    assert_eq!(decode_catalog(bytes("Example: catalog")), Ok(catalog()));
    assert_eq!(decode_slot(bytes("Example: catalog slot")), Ok((8, bytes("Example: catalog"))));
    assert_eq!(JournalHeader::decode(bytes("Example: journal header")), Ok(journal_header()));
    let frame = decode_frame(bytes("Example: journal frame"), SALT, false).expect("intact");
    let groups = split_groups(frame.groups).expect("two groups");
    assert_eq!(groups[0], (LSN, 3, bytes("Example: group of a first write")));
    assert_eq!(decode_group(groups[1].2).map(|(lsn, deltas, _)| (lsn, deltas)), Ok((Lsn(8), document())));
    let each = decode_group(bytes("Example: one delta of each kind")).map(|(lsn, deltas, _)| (lsn, deltas));
    assert_eq!(each, Ok((LSN, one_of_each())));
    assert_eq!(OwnerBlock::decode(bytes("Example: owner block"), &geometry, &DISK, 0), Ok(owner_block()));
    let memory: Arc<dyn CarryOver> = Arc::new(Memory(Mutex::new(bytes("Example: ring").to_vec())));
    assert_eq!(Ring::recover(&memory, POOL, 1, LSN), [(Lsn(8), encode_group(Lsn(8), &document()))]);
    assert_eq!(PageSet::decode(bytes("Example: page set row")), Ok(page_set()));
    assert_eq!(RecordRow::decode(bytes("Example: record row"), ROW), Ok(record_row()));
    assert_eq!(decode_segment(bytes("Example: bitmap row")), Ok((LSN, segment())));
    assert_eq!(decode_checkpoint(bytes("Example: checkpoint row")), Ok(LSN));
    assert_eq!(decode_claims(bytes("Example: row of claims"), &geometry), Ok(vec![claim()]));
}

#[test]
fn the_documents_check_value_is_that_of_the_crc() {
    assert_eq!(crc32c(&[b"12345", b"6789"]), 0xe306_9283);
    assert!(DOCUMENT.contains("`e3069283`"));
}
