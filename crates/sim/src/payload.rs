//! Payloads that say what they are: each 512-byte sector names its volume, its address and the write that made it, so
//! that a wrong read can be named: another volume's, another address's, an older write's, or nobody's.
//!
//! Layout of a sector: magic (8), volume (4), write (4), sector address (8), filler (488), little-endian. The filler
//! follows from the three, so a torn or mixed sector shows.

/// The unit of the oracle and of payloads.
pub const SECTOR_BYTES: usize = 512;
const MAGIC: u64 = 0x5EC7_0B5E_ED00_51D5;
const GARBAGE_MAGIC: u64 = 0xDEAD_D15C_A2DE_D000;
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a sector's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// All zero.
    Zeros,
    /// A whole payload.
    Written {
        /// The volume's number in this run.
        volume: u32,
        /// The write's number in this run.
        write: u32,
        /// The sector's address in its volume.
        sector: u64,
    },
    /// What a disk made up for a discarded block.
    Discarded,
    /// Nothing that was ever written.
    Unknown,
}

fn filler(volume: u32, write: u32, sector: u64) -> u64 {
    crate::random::mix(u64::from(volume) << 32 ^ u64::from(write) ^ sector.rotate_left(40))
}

/// Fills `out`, one sector.
pub fn fill(out: &mut [u8], volume: u32, write: u32, sector: u64) {
    out[..8].copy_from_slice(&MAGIC.to_le_bytes());
    out[8..12].copy_from_slice(&volume.to_le_bytes());
    out[12..16].copy_from_slice(&write.to_le_bytes());
    out[16..24].copy_from_slice(&sector.to_le_bytes());
    let mut word = filler(volume, write, sector);
    for bytes in out[24..SECTOR_BYTES].chunks_exact_mut(8) {
        word = word.wrapping_add(STEP);
        bytes.copy_from_slice(&word.to_le_bytes());
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// The volume and address that a sector's header names, without looking at the rest.
#[must_use]
pub fn header(bytes: &[u8]) -> Option<(u32, u64)> {
    (word(bytes, 0) == MAGIC).then(|| (word(bytes, 8) as u32, word(bytes, 16)))
}

/// What `bytes`, one sector, are.
#[must_use]
pub fn parse(bytes: &[u8]) -> Content {
    let first = word(bytes, 0);
    if first == 0 {
        let zeros = bytes[..SECTOR_BYTES].iter().all(|byte| *byte == 0);
        return if zeros { Content::Zeros } else { Content::Unknown };
    }
    if first & !0xfff == GARBAGE_MAGIC & !0xfff {
        return Content::Discarded;
    }
    if first != MAGIC {
        return Content::Unknown;
    }
    let numbers = word(bytes, 8);
    let (volume, write, sector) = (numbers as u32, (numbers >> 32) as u32, word(bytes, 16));
    let mut expected = filler(volume, write, sector);
    for at in (24..SECTOR_BYTES).step_by(8) {
        expected = expected.wrapping_add(STEP);
        if word(bytes, at) != expected {
            return Content::Unknown;
        }
    }
    Content::Written { volume, write, sector }
}

/// Fills `out` with what a disk makes up for discarded space.
pub fn fill_garbage(out: &mut [u8], noise: u64) {
    for (at, bytes) in out.chunks_exact_mut(8).enumerate() {
        let value = if at % 64 == 0 { GARBAGE_MAGIC } else { noise.wrapping_mul(STEP | 1).wrapping_add(at as u64) };
        bytes.copy_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_recognised_and_a_torn_one_is_not() {
        let mut sector = [0; SECTOR_BYTES];
        assert_eq!(parse(&sector), Content::Zeros);
        fill(&mut sector, 3, 77, 1 << 33);
        assert_eq!(parse(&sector), Content::Written { volume: 3, write: 77, sector: 1 << 33 });
        assert_eq!(header(&sector), Some((3, 1 << 33)));
        for at in [0, 9, 13, 20, 24, 300, 511] {
            let mut torn = sector;
            torn[at] ^= 1;
            assert_eq!(parse(&torn), Content::Unknown, "byte {at}");
        }
        fill_garbage(&mut sector, 9);
        assert_eq!(parse(&sector), Content::Discarded);
    }
}
