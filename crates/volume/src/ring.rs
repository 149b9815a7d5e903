//! The carry-over ring: deltas that were acknowledged and are not yet durable in the journal.
//!
//! Layout: a header (64 bytes: envelope `SDSC`, pool uuid, opening, capacity), then entries at multiples of 16:
//! envelope (`SDSE`; its CRC is seeded with pool uuid and opening), LSN, the group. An entry never wraps; what is
//! left at the end is skipped.
//!
//! Considerations: memory that outlives the process needs no pointers kept in it: who recovers looks at every multiple
//! of 16 and takes what is intact, so an entry costs one copy and nothing else before its acknowledgement. A ring is of
//! one opening of the pool, whose number is in the labels: entries of an earlier one are void, whatever their LSN, and
//! so is all of it if another node opened the pool meanwhile. The downside: recovery reads all of it, about 10 ms for
//! 64 MiB.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use sds_io::CarryOver;

use crate::layout::codec::{DecodeError, ENVELOPE_BYTES, Envelope};
use crate::place::Lsn;
use crate::planted::{Defect, Planted};

/// How the ring's first block begins.
pub const HEADER: Envelope = Envelope { format: "carry-over ring", magic: *b"SDSC", version: 1 };
/// How an entry of the ring begins.
pub const ENTRY: Envelope = Envelope { format: "ring entry", magic: *b"SDSE", version: 1 };
const HEADER_BYTES: usize = 64;
const ENTRY_ALIGNMENT_BYTES: usize = 16;
const ENTRY_HEADER_BYTES: usize = ENVELOPE_BYTES + 8;

/// The ring has no room until deltas are journaled and released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingFull {
    /// Bytes that the entry needs.
    pub needs_bytes: usize,
    /// Bytes that are free; those at the ring's end may be too few in a row.
    pub free_bytes: usize,
}

impl fmt::Display for RingFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the carry-over ring is full: {} bytes needed, {} free", self.needs_bytes, self.free_bytes)
    }
}

impl std::error::Error for RingFull {}

/// The writing end: one for a pool.
pub struct Ring {
    memory: Arc<dyn CarryOver>,
    seed: [u8; 24],
    capacity: usize,
    /// Where the next entry goes, and where the oldest unreleased one is: they count on and on, modulo the capacity.
    head: u64,
    tail: u64,
    /// The unreleased entries: LSN, and where they end.
    open: VecDeque<(Lsn, u64)>,
    last: Lsn,
}

impl Ring {
    /// An empty ring of the opening `opening`, a number that the pool never had before. What an earlier one left is
    /// void from now on: recover it, and make it durable, before.
    ///
    /// # Panics
    /// If the memory has less than 4 KiB.
    #[must_use]
    pub fn new(memory: Arc<dyn CarryOver>, pool_uuid: [u8; 16], opening: u64) -> Self {
        assert!(memory.capacity_bytes() >= 4096, "a carry-over ring has at least 4 KiB");
        let capacity = (memory.capacity_bytes() - HEADER_BYTES) / ENTRY_ALIGNMENT_BYTES * ENTRY_ALIGNMENT_BYTES;
        let mut out = HEADER.begin();
        out.bytes(&pool_uuid);
        out.u64(opening);
        out.u64(capacity as u64);
        out.0.resize(HEADER_BYTES, 0);
        memory.store(0, &HEADER.seal(out, &[]));
        let seed = seed_of(pool_uuid, opening);
        Self { memory, seed, capacity, head: 0, tail: 0, open: VecDeque::new(), last: Lsn(0) }
    }

    /// Stores the group `lsn`: it is there for the next engine as soon as this returns.
    ///
    /// # Errors
    /// If there is no room; nothing is changed then.
    ///
    /// # Panics
    /// If `lsn` is not above that of the push before.
    pub fn push(&mut self, lsn: Lsn, group: &[u8]) -> Result<(), RingFull> {
        assert!(lsn > self.last, "groups are pushed in order of LSN: {lsn:?} after {:?}", self.last);
        let bytes = (ENTRY_HEADER_BYTES + group.len()).next_multiple_of(ENTRY_ALIGNMENT_BYTES);
        let capacity = self.capacity as u64;
        let at = self.head % capacity;
        let skipped = if at + bytes as u64 > capacity { capacity - at } else { 0 };
        let free = capacity - (self.head - self.tail);
        if skipped + bytes as u64 > free {
            return Err(RingFull { needs_bytes: bytes, free_bytes: free as usize });
        }
        let mut out = ENTRY.begin();
        out.u64(lsn.0);
        out.bytes(group);
        let entry = ENTRY.seal(out, &self.seed);
        self.memory.store(HEADER_BYTES + ((self.head + skipped) % capacity) as usize, &entry);
        self.head += skipped + bytes as u64;
        self.open.push_back((lsn, self.head));
        self.last = lsn;
        Ok(())
    }

    /// All groups up to `up_to` are durable in the journal: their space is free.
    pub fn release(&mut self, up_to: Lsn) {
        while let Some((lsn, end)) = self.open.front().copied() {
            if lsn > up_to {
                break;
            }
            self.tail = end;
            self.open.pop_front();
        }
    }

    /// Bytes that unreleased entries hold.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        (self.head - self.tail) as usize
    }

    /// Bytes for entries.
    #[must_use]
    pub const fn capacity_bytes(&self) -> usize {
        self.capacity
    }

    /// What the predecessor of this boot left, if it was the pool's last opening: groups `after + 1`, `after + 2` and
    /// so on, until one is missing. Older, torn and foreign entries are passed over.
    #[must_use]
    pub fn recover(memory: &Arc<dyn CarryOver>, pool_uuid: [u8; 16], opening: u64, after: Lsn) -> Vec<(Lsn, Vec<u8>)> {
        Self::recover_planted(memory, pool_uuid, opening, after, Planted::default())
    }

    pub(crate) fn recover_planted(
        memory: &Arc<dyn CarryOver>,
        pool_uuid: [u8; 16],
        opening: u64,
        after: Lsn,
        planted: Planted,
    ) -> Vec<(Lsn, Vec<u8>)> {
        let bytes = memory.load();
        let opening = match decode_header(&bytes) {
            Ok((pool, of)) if pool == pool_uuid && (of == opening || planted.has(Defect::ForeignRing)) => of,
            Ok(_) => return Vec::new(),
            Err(error) => {
                if !error.is_foreign() {
                    log::info!("nothing is taken from the carry-over ring: {error}");
                }
                return Vec::new();
            }
        };
        let seed = seed_of(pool_uuid, opening);
        let mut found = BTreeMap::new();
        let mut at = HEADER_BYTES;
        while at + ENTRY_HEADER_BYTES <= bytes.len() {
            let step = match ENTRY.open(&bytes[at..], &seed) {
                Ok((mut reader, length)) => {
                    if let Ok(lsn) = reader.u64("lsn") {
                        found.insert(Lsn(lsn), reader.rest());
                    }
                    length
                }
                Err(_) => ENTRY_ALIGNMENT_BYTES,
            };
            at += step.next_multiple_of(ENTRY_ALIGNMENT_BYTES);
        }
        let mut next = after;
        let mut groups = Vec::new();
        for (lsn, group) in found.split_off(&Lsn(after.0.saturating_add(1))) {
            if lsn.0 - next.0 != 1 {
                break;
            }
            groups.push((lsn, group.to_vec()));
            next = lsn;
        }
        groups
    }
}

fn seed_of(pool_uuid: [u8; 16], opening: u64) -> [u8; 24] {
    let mut seed = [0; 24];
    seed[..16].copy_from_slice(&pool_uuid);
    seed[16..].copy_from_slice(&opening.to_le_bytes());
    seed
}

fn decode_header(bytes: &[u8]) -> Result<([u8; 16], u64), DecodeError> {
    let (mut reader, _) = HEADER.open(bytes, &[])?;
    Ok((reader.array("pool uuid")?, reader.u64("opening")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::codec::crc32c;
    use crate::layout::memory::{MemoryCarryOver, lcg};

    const POOL: [u8; 16] = *b"0123456789abcdef";

    fn memory(bytes: usize) -> Arc<dyn CarryOver> {
        Arc::new(MemoryCarryOver::new(bytes))
    }

    fn lsns(memory: &Arc<dyn CarryOver>, after: u64) -> Vec<u64> {
        Ring::recover(memory, POOL, 1, Lsn(after)).into_iter().map(|(lsn, _)| lsn.0).collect()
    }

    #[test]
    fn header_and_entry_byte_by_byte() {
        let memory = memory(4096);
        let mut ring = Ring::new(Arc::clone(&memory), POOL, 1);
        ring.push(Lsn(5), b"group").expect("room");
        let bytes = memory.load();
        let mut header = b"SDSC\x01\0\0\0\x40\0\0\0".to_vec(); // magic, version 1, zero, length 64
        let mut body = POOL.to_vec(); // pool uuid
        body.extend([1, 0, 0, 0, 0, 0, 0, 0]); // opening
        body.extend([0xc0, 0x0f, 0, 0, 0, 0, 0, 0]); // capacity 4032
        body.resize(48, 0);
        header.extend(crc32c(&[&header, &body]).to_le_bytes());
        header.extend(body);
        assert_eq!(bytes[..64], header);
        let mut entry = b"SDSE\x01\0\0\0\x1d\0\0\0".to_vec(); // magic, version 1, zero, length 29
        let body = b"\x05\0\0\0\0\0\0\0group"; // LSN, group
        let seed = [&POOL[..], &[1, 0, 0, 0, 0, 0, 0, 0]].concat(); // pool uuid, opening
        entry.extend(crc32c(&[&seed, &entry, body]).to_le_bytes());
        entry.extend(body);
        assert_eq!(bytes[64..64 + 29], entry);
        assert_eq!(ring.used_bytes(), 32);
        assert_eq!(Ring::recover(&memory, POOL, 1, Lsn(4)), [(Lsn(5), b"group".to_vec())]);
    }

    #[test]
    fn laps_leave_only_what_is_contiguous() {
        let memory = memory(4096);
        let mut ring = Ring::new(Arc::clone(&memory), POOL, 1);
        let (seed, mut released) = (7, 0);
        let mut draw = lcg(seed);
        for lsn in 1..500_u64 {
            let group = vec![lsn as u8; draw(200) as usize];
            while ring.push(Lsn(lsn), &group).is_err() {
                released += 1 + draw(lsn - 1 - released);
                ring.release(Lsn(released));
            }
            assert!(ring.used_bytes() <= ring.capacity_bytes());
            assert_eq!(lsns(&memory, released), (released + 1..=lsn).collect::<Vec<_>>(), "seed {seed}");
        }
        let groups = Ring::recover(&memory, POOL, 1, Lsn(released));
        assert!(groups.iter().all(|(lsn, group)| group.iter().all(|byte| *byte == lsn.0 as u8)));
    }

    #[test]
    fn a_gap_a_torn_entry_another_pool_or_an_earlier_ring_end_it() {
        let memory = memory(4096);
        let mut ring = Ring::new(Arc::clone(&memory), POOL, 1);
        for lsn in 1..=5 {
            ring.push(Lsn(lsn), &[lsn as u8; 8]).expect("room");
        }
        assert_eq!(lsns(&memory, 2), [3, 4, 5]);
        assert_eq!(lsns(&memory, 5), []);
        assert_eq!(lsns(&memory, 7), []);
        assert_eq!(lsns(&memory, u64::MAX), []);
        assert!(Ring::recover(&memory, [0; 16], 1, Lsn(0)).is_empty());
        memory.store(64 + 3 * 32 + 24, &[0xff]);
        assert_eq!(lsns(&memory, 0), [1, 2, 3], "entry 4 is torn");
        let _next = Ring::new(Arc::clone(&memory), POOL, 2);
        assert!(Ring::recover(&memory, POOL, 2, Lsn(0)).is_empty());
    }

    #[test]
    fn nothing_is_taken_after_another_node_opened_the_pool() {
        let memory = memory(4096);
        let mut ring = Ring::new(Arc::clone(&memory), POOL, 1);
        (1..=5).for_each(|lsn| ring.push(Lsn(lsn), &[lsn as u8; 8]).expect("room"));
        // Opening 2 was elsewhere, and its journal went on to change 3.
        assert!(Ring::recover(&memory, POOL, 2, Lsn(3)).is_empty());
        assert_eq!(lsns(&memory, 3), [4, 5], "it is the opening alone that voids them");
    }

    #[test]
    fn a_full_ring_says_so_and_stays_as_it_was() {
        let memory = memory(4096);
        let mut ring = Ring::new(Arc::clone(&memory), POOL, 1);
        ring.push(Lsn(1), &[1; 3000]).expect("room");
        let full = RingFull { needs_bytes: 1024, free_bytes: 4032 - 3024 };
        assert_eq!(ring.push(Lsn(2), &[2; 1000]), Err(full));
        assert_eq!(lsns(&memory, 0), [1]);
        ring.release(Lsn(1));
        ring.push(Lsn(2), &[2; 1000]).expect("room again");
        assert_eq!((lsns(&memory, 1), ring.used_bytes()), (vec![2], 4032 - 3024 + 1024));
    }
}
