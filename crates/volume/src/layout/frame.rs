//! Journal frames and the journal's header.
//!
//! Layout of a frame: envelope (`SDSF`), pool uuid, epoch, first and last LSN, how many deltas, the CRC of the frame
//! before, whole groups of deltas. It is padded with zeros to 4 KiB. Seed of its CRC: salt of the journal and number of
//! the lap.
//!
//! Considerations: what a lap leaves behind is intact and wears the right pool, so its CRC is seeded with the lap.
//! After a crash the last append may be torn while a part of it further on is whole; the next append could then be
//! followed by that part, so each frame also names the CRC of the one before: a chain holds only what was written as
//! one.

use super::codec::{DecodeError, ENVELOPE_BYTES, Envelope, Reader, sealed_crc};
use super::delta::group_head;
use crate::place::Lsn;

/// Frames and headers are padded to this; it is what a disk writes at once, or a multiple of that.
pub const FRAME_ALIGNMENT_BYTES: u64 = 4096;
/// The largest frame: one transfer.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Bytes of a frame before its groups.
pub const FRAME_HEADER_BYTES: usize = ENVELOPE_BYTES + 48;

/// How a frame begins.
pub const FRAME: Envelope = Envelope { format: "journal frame", magic: *b"SDSF", version: 1 };
/// How a journal's header begins.
pub const HEADER: Envelope = Envelope { format: "journal header", magic: *b"SDSJ", version: 1 };

/// What ties a frame's CRC to its journal and its lap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt {
    /// The journal's own, from its header.
    pub journal: u64,
    /// The lap.
    pub lap: u64,
}

impl Salt {
    fn seed(self) -> [u8; 16] {
        let mut seed = [0; 16];
        seed[..8].copy_from_slice(&self.journal.to_le_bytes());
        seed[8..].copy_from_slice(&self.lap.to_le_bytes());
        seed
    }
}

/// What a frame says before its groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// The pool's uuid.
    pub pool_uuid: [u8; 16],
    /// The pool's epoch when it was written.
    pub epoch: u32,
    /// The first group's LSN.
    pub first: Lsn,
    /// The last group's LSN; every one between is in the frame.
    pub last: Lsn,
    /// How many deltas its groups have.
    pub records: u32,
    /// The CRC of the frame before it.
    pub before: u32,
}

/// A frame's bytes, padded; and its CRC.
#[must_use]
pub fn encode_frame(head: &FrameHead, groups: &[&[u8]], salt: Salt) -> (Vec<u8>, u32) {
    let mut out = FRAME.begin();
    out.bytes(&head.pool_uuid);
    out.u32(head.epoch);
    out.u64(head.first.0);
    out.u64(head.last.0);
    out.u32(head.records);
    out.u32(head.before);
    out.u32(0);
    debug_assert_eq!(out.0.len(), FRAME_HEADER_BYTES);
    groups.iter().for_each(|group| out.bytes(group));
    let mut bytes = FRAME.seal(out, &salt.seed());
    let crc = sealed_crc(&bytes);
    bytes.resize(bytes.len().next_multiple_of(FRAME_ALIGNMENT_BYTES as usize), 0);
    (bytes, crc)
}

/// A frame that is intact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it says.
    pub head: FrameHead,
    /// Its groups, one after the other.
    pub groups: &'a [u8],
    /// Its CRC.
    pub crc: u32,
    /// Its bytes on the disk, padding included.
    pub padded_bytes: usize,
}

/// The frame that `bytes` begin with.
///
/// # Errors
/// The field that is wrong; with `ignore_crc`, a planted defect, a wrong CRC is none. That its groups can be read is
/// not checked here.
pub fn decode_frame(bytes: &[u8], salt: Salt, ignore_crc: bool) -> Result<Frame<'_>, DecodeError> {
    let opened = if ignore_crc { FRAME.open_unchecked(bytes) } else { FRAME.open(bytes, &salt.seed()) };
    let (mut reader, length) = opened?;
    let head = FrameHead {
        pool_uuid: reader.array("pool uuid")?,
        epoch: reader.u32("epoch")?,
        first: Lsn(reader.u64("first lsn")?),
        last: Lsn(reader.u64("last lsn")?),
        records: reader.u32("records")?,
        before: reader.u32("crc before")?,
    };
    zero(&mut reader, "frame zero")?;
    // The LSN after the last is needed as well.
    if head.last < head.first || head.last.0 == u64::MAX {
        return Err(reader.value("last lsn", head.last.0));
    }
    let padded_bytes = length.next_multiple_of(FRAME_ALIGNMENT_BYTES as usize);
    Ok(Frame { head, groups: reader.rest(), crc: sealed_crc(bytes), padded_bytes })
}

/// How long the frame is that seems to be here, padded: for reading it as a whole before its CRC can be checked.
#[must_use]
pub fn frame_bytes_hint(bytes: &[u8]) -> Option<usize> {
    let (length, _) = FRAME.peek(bytes).ok()?;
    (length <= FRAME_BYTES_MAX).then(|| length.next_multiple_of(FRAME_ALIGNMENT_BYTES as usize))
}

/// A group as a frame holds it: its LSN, how many deltas it has, its bytes.
pub type EncodedGroup<'a> = (Lsn, usize, &'a [u8]);

/// The groups of a frame one by one: LSN, deltas in it, bytes.
///
/// # Errors
/// The field that is wrong.
pub fn split_groups(mut groups: &[u8]) -> Result<Vec<EncodedGroup<'_>>, DecodeError> {
    let mut split = Vec::new();
    while !groups.is_empty() {
        let (lsn, records, length) = group_head(groups)?;
        let (group, rest) = groups.split_at(length);
        split.push((lsn, records, group));
        groups = rest;
    }
    Ok(split)
}

/// The journal's header: where its chain starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalHeader {
    /// The pool's uuid.
    pub pool_uuid: [u8; 16],
    /// The pool's epoch.
    pub epoch: u32,
    /// How many members the journal has.
    pub members: u8,
    /// Which of two headers is newer.
    pub sequence: u64,
    /// Bytes of the log behind the headers.
    pub log_bytes: u64,
    /// The salt of all its frames.
    pub salt: u64,
    /// The LSN that the chain starts with; all before it are elsewhere.
    pub start: Lsn,
    /// The lap and the offset in the log of the first frame, also if there is none yet.
    pub start_lap: u64,
    /// See there.
    pub start_offset: u64,
    /// The CRC of the frame before the first.
    pub before: u32,
}

impl JournalHeader {
    /// Its bytes: one block.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = HEADER.begin();
        out.bytes(&self.pool_uuid);
        out.u32(self.epoch);
        out.u32(u32::from(self.members));
        out.u64(self.sequence);
        out.u64(self.log_bytes);
        out.u64(self.salt);
        out.u64(self.start.0);
        out.u64(self.start_lap);
        out.u64(self.start_offset);
        out.u32(self.before);
        out.0.resize(FRAME_ALIGNMENT_BYTES as usize, 0);
        HEADER.seal(out, &[])
    }

    /// The header in `bytes`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut reader, length) = HEADER.open(bytes, &[])?;
        if length as u64 != FRAME_ALIGNMENT_BYTES {
            return Err(reader.value("length", length as u64));
        }
        let pool_uuid = reader.array("pool uuid")?;
        let epoch = reader.u32("epoch")?;
        let members = reader.u32("members")?;
        if !(1..=2).contains(&members) {
            return Err(reader.value("members", u64::from(members)));
        }
        let header = Self {
            pool_uuid,
            epoch,
            members: members as u8,
            sequence: reader.u64("sequence")?,
            log_bytes: reader.u64("log bytes")?,
            salt: reader.u64("salt")?,
            start: Lsn(reader.u64("start lsn")?),
            start_lap: reader.u64("start lap")?,
            start_offset: reader.u64("start offset")?,
            before: reader.u32("crc before")?,
        };
        let aligned = |bytes: u64| bytes % FRAME_ALIGNMENT_BYTES == 0;
        if !aligned(header.log_bytes) || header.log_bytes == 0 || header.log_bytes > 1 << 40 {
            return Err(reader.value("log bytes", header.log_bytes));
        }
        if !aligned(header.start_offset) || header.start_offset >= header.log_bytes {
            return Err(reader.value("start offset", header.start_offset));
        }
        // Laps count from one; neither laps nor headers can become this many.
        if header.start_lap == 0 || header.start_lap > 1 << 60 {
            return Err(reader.value("start lap", header.start_lap));
        }
        if header.sequence > 1 << 60 {
            return Err(reader.value("sequence", header.sequence));
        }
        Ok(header)
    }
}

fn zero(reader: &mut Reader<'_>, field: &'static str) -> Result<(), DecodeError> {
    match reader.u32(field)? {
        0 => Ok(()),
        value => Err(reader.value(field, u64::from(value))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec::crc32c;
    use super::super::delta::encode_group;
    use super::*;
    use proptest::prelude::*;

    const HEAD: FrameHead = FrameHead {
        pool_uuid: *b"0123456789abcdef",
        epoch: 3,
        first: Lsn(0x10),
        last: Lsn(0x11),
        records: 0,
        before: 0xddcc_bbaa,
    };
    const SALT: Salt = Salt { journal: 0x99, lap: 7 };

    fn frame() -> Vec<u8> {
        let (one, two) = (encode_group(Lsn(0x10), &[]), encode_group(Lsn(0x11), &[]));
        encode_frame(&HEAD, &[&one, &two], SALT).0
    }

    #[test]
    fn a_frame_byte_by_byte() {
        let mut bytes = b"SDSF\x01\0\0\0\x58\0\0\0".to_vec(); // magic, version 1, zero, length 64 + 2 * 12
        let mut body = b"0123456789abcdef".to_vec(); // pool uuid
        body.extend([3, 0, 0, 0]); // epoch
        body.extend([0x10, 0, 0, 0, 0, 0, 0, 0]); // first LSN
        body.extend([0x11, 0, 0, 0, 0, 0, 0, 0]); // last LSN
        body.extend([0, 0, 0, 0]); // deltas
        body.extend([0xaa, 0xbb, 0xcc, 0xdd]); // CRC of the frame before
        body.extend([0, 0, 0, 0]); // zero
        body.extend(encode_group(Lsn(0x10), &[])); // groups
        body.extend(encode_group(Lsn(0x11), &[]));
        let seed = [0x99, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]; // salt, lap
        let crc = crc32c(&[&seed, &bytes, &body]);
        bytes.extend(crc.to_le_bytes());
        bytes.extend(body);
        bytes.resize(4096, 0); // padding
        assert_eq!(frame(), bytes);
        let frame = decode_frame(&bytes, SALT, false).expect("intact");
        assert_eq!((frame.head, frame.crc, frame.padded_bytes), (HEAD, crc, 4096));
        assert_eq!(split_groups(frame.groups).expect("two groups").len(), 2);
        let other_lap = decode_frame(&bytes, Salt { lap: 8, ..SALT }, false);
        assert!(matches!(other_lap, Err(DecodeError::Checksum { .. })));
    }

    #[test]
    fn a_journal_header_byte_by_byte() {
        let header = JournalHeader {
            pool_uuid: *b"0123456789abcdef",
            epoch: 3,
            members: 2,
            sequence: 4,
            log_bytes: 0x10_0000,
            salt: 0x99,
            start: Lsn(0x77),
            start_lap: 5,
            start_offset: 0x3000,
            before: 0xddcc_bbaa,
        };
        let mut bytes = b"SDSJ\x01\0\0\0\0\x10\0\0".to_vec(); // magic, version 1, zero, length 4096
        let mut body = b"0123456789abcdef".to_vec(); // pool uuid
        body.extend([3, 0, 0, 0]); // epoch
        body.extend([2, 0, 0, 0]); // members
        body.extend([4, 0, 0, 0, 0, 0, 0, 0]); // sequence
        body.extend([0, 0, 0x10, 0, 0, 0, 0, 0]); // log bytes
        body.extend([0x99, 0, 0, 0, 0, 0, 0, 0]); // salt
        body.extend([0x77, 0, 0, 0, 0, 0, 0, 0]); // start LSN
        body.extend([5, 0, 0, 0, 0, 0, 0, 0]); // start lap
        body.extend([0, 0x30, 0, 0, 0, 0, 0, 0]); // start offset
        body.extend([0xaa, 0xbb, 0xcc, 0xdd]); // CRC of the frame before the first
        body.resize(4096 - 16, 0);
        bytes.extend(crc32c(&[&bytes, &body]).to_le_bytes());
        bytes.extend(body);
        assert_eq!(header.encode(), bytes);
        assert_eq!(JournalHeader::decode(&bytes), Ok(header));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_seen(bit in 0_usize..88 * 8) {
            let mut bytes = frame();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode_frame(&bytes, SALT, false).is_err());
        }

        #[test]
        fn no_bytes_make_the_decoders_panic(body: Vec<u8>, sealed: bool) {
            let (mut frame, mut header) = (body.clone(), body.clone());
            if sealed {
                let with = |envelope: &Envelope, seed: &[u8]| {
                    let mut out = envelope.begin();
                    out.bytes(&body);
                    envelope.seal(out, seed)
                };
                (frame, header) = (with(&FRAME, &SALT.seed()), with(&HEADER, &[]));
            }
            if let Ok(frame) = decode_frame(&frame, SALT, false) {
                let _ = split_groups(frame.groups);
            }
            let _ = JournalHeader::decode(&header);
        }
    }
}
