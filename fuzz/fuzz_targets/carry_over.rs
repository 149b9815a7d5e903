//! Carry-over rings: of any memory a row of groups is taken, and after damage nothing but what was pushed.
#![no_main]

use std::sync::{Arc, Mutex};

use libfuzzer_sys::fuzz_target;
use sds_fuzz::sealed;
use sds_fuzz::words::Words;
use sds_io::CarryOver;
use sds_volume::place::Lsn;
use sds_volume::ring::{self, Ring};

const POOL: [u8; 16] = *b"0123456789abcdef";
const OPENING: u64 = 1;
const HEADER_BYTES: usize = 64;
const RING_BYTES: usize = 4096;
/// Pushes of one run: several laps.
const PUSHES_MAX: u64 = 64;

struct Memory(Mutex<Vec<u8>>);

impl CarryOver for Memory {
    fn capacity_bytes(&self) -> usize {
        self.load().len()
    }

    fn load(&self) -> Vec<u8> {
        self.0.lock().expect("one thread").clone()
    }

    fn store(&self, offset: usize, bytes: &[u8]) {
        self.0.lock().expect("one thread")[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

fn recover(memory: &Arc<dyn CarryOver>, after: u64) -> Vec<(Lsn, Vec<u8>)> {
    let groups = Ring::recover(memory, POOL, OPENING, Lsn(after));
    for ((lsn, _), expected) in groups.iter().zip(after..) {
        assert_eq!(lsn.0 - 1, expected, "no number is missing");
    }
    groups
}

/// Entries of any content behind a header that is right.
fn try_any(words: &mut Words<'_>) {
    let after = u64::from(words.u8());
    let mut bytes = vec![0; HEADER_BYTES];
    let seed = [&POOL[..], &OPENING.to_le_bytes()].concat();
    let header = [&[1][..], &POOL, &OPENING.to_le_bytes(), &4032_u64.to_le_bytes()].concat();
    bytes.copy_from_slice(&sealed::bytes_of(&header, &ring::HEADER, &[], HEADER_BYTES));
    while !words.is_empty() && bytes.len() < RING_BYTES {
        let length = usize::from(words.u8());
        bytes.extend(sealed::bytes_of(words.part(length), &ring::ENTRY, &seed, 0));
        bytes.resize(bytes.len().next_multiple_of(16), 0);
    }
    recover(&(Arc::new(Memory(Mutex::new(bytes))) as Arc<dyn CarryOver>), after);
}

/// Groups that are pushed and released, then a few bytes in a row that are spoilt: a CRC finds these for certain.
fn try_damaged(words: &mut Words<'_>) {
    let (place, damage) = (usize::from(words.u16()), words.array::<4>());
    let memory: Arc<dyn CarryOver> = Arc::new(Memory(Mutex::new(vec![0; RING_BYTES])));
    let mut ring = Ring::new(Arc::clone(&memory), POOL, OPENING);
    let (mut pushed, mut released) = (0, 0);
    while !words.is_empty() && pushed < PUSHES_MAX {
        let group = vec![pushed as u8; usize::from(words.u16() & 0x7ff)];
        if ring.push(Lsn(pushed + 1), &group).is_ok() {
            pushed += 1;
        } else {
            released = pushed;
            ring.release(Lsn(released));
        }
    }
    let found = recover(&memory, released);
    assert_eq!(found.len() as u64, pushed - released, "all that was not released is there");
    let place = place % (RING_BYTES - damage.len());
    let spoilt: Vec<u8> = memory.load()[place..].iter().zip(damage).map(|(byte, damage)| byte ^ damage).collect();
    memory.store(place, &spoilt);
    for (lsn, group) in recover(&memory, released) {
        assert!(lsn.0 <= pushed && group.iter().all(|byte| u64::from(*byte) == lsn.0 - 1), "{lsn:?}: {group:?}");
    }
}

fuzz_target!(|input: &[u8]| {
    let mut words = Words(input);
    if words.u8() & 1 == 0 { try_any(&mut words) } else { try_damaged(&mut words) }
});
