//! The envelope that everything on a disk wears, and little-endian fields.
//!
//! Layout: magic (4 bytes), version (u16), zero (u16), length (u32, the envelope included), CRC-32C (u32), body. The
//! CRC covers a seed, which is not stored, and every byte but its own: a seed ties bytes to their pool, disk or lap, so
//! that intact bytes of another one don't pass.
//!
//! Considerations: a reader trusts nothing, because the bytes may be a stranger's; it says which field was wrong and
//! what it held. Numbers that are mostly small are varints (LEB128). Groups of deltas have a shorter envelope of their
//! own ([`super::delta`]), because there is one for every first write.

use std::fmt;

use crc_fast::{CrcAlgorithm, Digest};

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// They end too early.
    Short {
        /// What was read.
        format: &'static str,
        /// The field that is cut.
        field: &'static str,
        /// Bytes that it needs from its start.
        needs: usize,
        /// Bytes that are there.
        has: usize,
    },
    /// A field can't have this value.
    Value {
        /// What was read.
        format: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The bytes were changed, or belong to another pool, disk or lap.
    Checksum {
        /// What was read.
        format: &'static str,
        /// The CRC that is stored.
        stored: u32,
        /// The CRC of the bytes.
        computed: u32,
    },
    /// A text is not UTF-8.
    Text {
        /// What was read.
        format: &'static str,
        /// The field.
        field: &'static str,
    },
}

impl DecodeError {
    /// True if the bytes do not even begin as they should: nothing of ours was ever written there, or all of it is
    /// lost.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        matches!(self, Self::Value { field: "magic", .. } | Self::Short { field: "magic", .. })
    }

    /// True if the bytes begin with zeros: nothing was written there since it was cleared.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        matches!(self, Self::Value { field: "magic", value: 0, .. })
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { format, field, needs, has } => {
                write!(f, "{format}: {field} needs {needs} bytes, {has} are there")
            }
            Self::Value { format, field, value } => write!(f, "{format}: {field} is {value:#x}"),
            Self::Checksum { format, stored, computed } => {
                write!(f, "{format}: CRC is {stored:#010x}, the bytes have {computed:#010x}")
            }
            Self::Text { format, field } => write!(f, "{format}: {field} is not UTF-8"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// The CRC-32C (RFC 3720 appendix B.4) of `parts`, one after the other.
#[must_use]
pub fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    digest.finalize() as u32
}

/// Bytes of an envelope before its body.
pub const ENVELOPE_BYTES: usize = 16;
const CRC_AT: usize = 12;

/// What kind of bytes these are.
#[derive(Clone, Copy, Debug)]
pub struct Envelope {
    /// Its name in messages.
    pub format: &'static str,
    /// Its first four bytes.
    pub magic: [u8; 4],
    /// The version that is written, and the only one that is read.
    pub version: u16,
}

impl Envelope {
    /// A writer for the body.
    #[must_use]
    pub fn begin(&self) -> Writer {
        let mut out = Writer(Vec::with_capacity(256));
        out.bytes(&self.magic);
        out.u16(self.version);
        out.u16(0);
        out.u64(0); // Length and CRC, filled in by `seal`.
        out
    }

    /// Fills in length and CRC.
    ///
    /// # Panics
    /// If the body has 4 GiB or more.
    #[must_use]
    pub fn seal(&self, body: Writer, seed: &[u8]) -> Vec<u8> {
        let mut bytes = body.0;
        let length = u32::try_from(bytes.len()).expect("an envelope is smaller than 4 GiB");
        bytes[8..CRC_AT].copy_from_slice(&length.to_le_bytes());
        let crc = crc32c(&[seed, &bytes[..CRC_AT], &bytes[ENVELOPE_BYTES..]]);
        bytes[CRC_AT..ENVELOPE_BYTES].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// What the first 16 bytes say: length (at least 16) and CRC. The body is not looked at.
    ///
    /// # Errors
    /// If this is no such envelope.
    pub fn peek(&self, bytes: &[u8]) -> Result<(usize, u32), DecodeError> {
        let mut reader = Reader::new(self.format, bytes);
        let magic: [u8; 4] = reader.array("magic")?;
        if magic != self.magic {
            return Err(reader.value("magic", u64::from(u32::from_le_bytes(magic))));
        }
        let version = reader.u16("version")?;
        if version != self.version {
            return Err(reader.value("version", u64::from(version)));
        }
        let zero = reader.u16("zero")?;
        if zero != 0 {
            return Err(reader.value("zero", u64::from(zero)));
        }
        let length = reader.u32("length")?;
        let crc = reader.u32("crc")?;
        if (length as usize) < ENVELOPE_BYTES {
            return Err(reader.value("length", u64::from(length)));
        }
        Ok((length as usize, crc))
    }

    /// The body of the envelope that `bytes` begin with, and the envelope's whole length.
    ///
    /// # Errors
    /// If this is no such envelope, is cut, or has another CRC.
    pub fn open<'a>(&self, bytes: &'a [u8], seed: &[u8]) -> Result<(Reader<'a>, usize), DecodeError> {
        let (length, stored) = self.peek(bytes)?;
        if length > bytes.len() {
            return Err(DecodeError::Short { format: self.format, field: "body", needs: length, has: bytes.len() });
        }
        let computed = crc32c(&[seed, &bytes[..CRC_AT], &bytes[ENVELOPE_BYTES..length]]);
        if stored != computed {
            return Err(DecodeError::Checksum { format: self.format, stored, computed });
        }
        Ok((Reader::new(self.format, &bytes[ENVELOPE_BYTES..length]), length))
    }
}

impl Envelope {
    /// As [`Envelope::open`] without a look at the CRC: only for a defect that the simulator plants.
    ///
    /// # Errors
    /// If this is no such envelope, or is cut.
    pub fn open_unchecked<'a>(&self, bytes: &'a [u8]) -> Result<(Reader<'a>, usize), DecodeError> {
        let (length, _) = self.peek(bytes)?;
        if length > bytes.len() {
            return Err(DecodeError::Short { format: self.format, field: "body", needs: length, has: bytes.len() });
        }
        Ok((Reader::new(self.format, &bytes[ENVELOPE_BYTES..length]), length))
    }

    /// True if nothing is wrong with `bytes` but their magic: damage, where other bytes are a stranger's.
    #[must_use]
    pub fn is_but_for_magic(&self, bytes: &[u8], seed: &[u8]) -> bool {
        let magic_bytes = self.magic.len();
        if bytes.len() < ENVELOPE_BYTES || bytes[magic_bytes..magic_bytes + 2] != self.version.to_le_bytes() {
            return false;
        }
        let mut whole = bytes.to_vec();
        whole[..magic_bytes].copy_from_slice(&self.magic);
        self.open(&whole, seed).is_ok()
    }

    /// The body of the envelope that `bytes` are, all of them.
    ///
    /// # Errors
    /// As [`Envelope::open`], or if bytes follow.
    pub fn open_whole<'a>(&self, bytes: &'a [u8], seed: &[u8]) -> Result<Reader<'a>, DecodeError> {
        let (reader, length) = self.open(bytes, seed)?;
        if length < bytes.len() {
            return Err(reader.value("length", length as u64));
        }
        Ok(reader)
    }
}

/// The CRC of a sealed envelope.
#[must_use]
pub fn sealed_crc(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[CRC_AT..ENVELOPE_BYTES].try_into().expect("four bytes"))
}

/// Appends fields.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// These bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// One to ten bytes: seven bits each, the lowest first, the top bit set in all but the last (LEB128).
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A signed varint: 0, -1, 1, -2, ... are 0, 1, 2, 3, ...
    pub fn signed(&mut self, value: i64) {
        self.varint(((value << 1) ^ (value >> 63)) as u64);
    }

    /// Length as a varint, then the bytes.
    pub fn blob(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.bytes(bytes);
    }
}

/// Takes fields off bytes that nobody vouches for.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    format: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, which are called `format` in errors.
    #[must_use]
    pub const fn new(format: &'static str, bytes: &'a [u8]) -> Self {
        Self { format, rest: bytes }
    }

    /// Bytes not yet read.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The error that says: `field` can't be `value`.
    #[must_use]
    pub const fn value(&self, field: &'static str, value: u64) -> DecodeError {
        DecodeError::Value { format: self.format, field, value }
    }

    /// `len` bytes.
    ///
    /// # Errors
    /// If there are fewer, as every method here.
    pub fn take(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], DecodeError> {
        if len > self.rest.len() {
            return Err(DecodeError::Short { format: self.format, field, needs: len, has: self.rest.len() });
        }
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(taken)
    }

    /// `N` bytes.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        Ok(self.take(field, N)?.try_into().expect("as many as were asked for"))
    }

    /// One byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        Ok(self.take(field, 1)?[0])
    }

    /// Two bytes.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    /// Four bytes.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    /// Eight bytes.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A varint; more than 64 bits are refused.
    pub fn varint(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(field)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(self.value(field, u64::from(byte)));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.value(field, value))
    }

    /// A varint of at most `max`.
    pub fn varint_max(&mut self, field: &'static str, max: u64) -> Result<u64, DecodeError> {
        let value = self.varint(field)?;
        if value > max { Err(self.value(field, value)) } else { Ok(value) }
    }

    /// A varint of at most 32 bits.
    pub fn varint_u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        Ok(self.varint_max(field, u64::from(u32::MAX))? as u32)
    }

    /// A signed varint.
    pub fn signed(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        let value = self.varint(field)?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Bytes with their length before them.
    pub fn blob(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.varint(field)?;
        let has = self.rest.len();
        let needs = usize::try_from(len).unwrap_or(usize::MAX);
        if needs > has {
            return Err(DecodeError::Short { format: self.format, field, needs, has });
        }
        self.take(field, needs)
    }

    /// A text with its length before it.
    pub fn text(&mut self, field: &'static str) -> Result<String, DecodeError> {
        let bytes = self.blob(field)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Text { format: self.format, field })
    }

    /// A text of at most `bytes_max` bytes with its length before it.
    pub fn text_max(&mut self, field: &'static str, bytes_max: usize) -> Result<String, DecodeError> {
        let text = self.text(field)?;
        if text.len() > bytes_max { Err(self.value(field, text.len() as u64)) } else { Ok(text) }
    }

    /// How many of something follow: never more than there are bytes left, so that memory for them may be reserved.
    pub fn count(&mut self, field: &'static str) -> Result<usize, DecodeError> {
        Ok(self.varint_max(field, self.rest.len() as u64)? as usize)
    }

    /// Refuses bytes that nobody read.
    pub fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.value("end", self.rest.len() as u64)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THING: Envelope = Envelope { format: "thing", magic: *b"THNG", version: 3 };

    #[test]
    fn an_envelope_byte_by_byte() {
        let mut body = THING.begin();
        body.u8(0xab);
        let bytes = THING.seal(body, b"seed");
        let crc = crc32c(&[b"seed", b"THNG\x03\0\0\0\x11\0\0\0", &[0xab]]).to_le_bytes();
        assert_eq!(bytes[..4], *b"THNG"); // magic
        assert_eq!(bytes[4..6], [3, 0]); // version
        assert_eq!(bytes[6..8], [0, 0]); // zero
        assert_eq!(bytes[8..12], [17, 0, 0, 0]); // length
        assert_eq!(bytes[12..16], crc); // CRC of seed, 0..12, 16..17
        assert_eq!(bytes[16..], [0xab]); // body
        let (mut reader, length) = THING.open(&bytes, b"seed").expect("intact");
        assert_eq!((reader.u8("b"), length, reader.end()), (Ok(0xab), 17, Ok(())));
    }

    #[test]
    fn errors_name_the_field_and_its_value() {
        let bytes = THING.seal(THING.begin(), b"");
        let with = |at: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            THING.open(&bytes, b"").map(|_| ()).expect_err("changed").to_string()
        };
        assert_eq!(with(4, 4), "thing: version is 0x4");
        assert_eq!(with(6, 1), "thing: zero is 0x1");
        assert_eq!(with(8, 15), "thing: length is 0xf");
        assert_eq!(with(8, 17), "thing: body needs 17 bytes, 16 are there");
        assert!(with(0, 0).starts_with("thing: magic is") && with(12, 7).starts_with("thing: CRC is"));
        assert!(matches!(THING.open(&bytes, b"x"), Err(DecodeError::Checksum { .. })), "another seed");
    }

    #[test]
    fn varints_hold_64_bits_and_no_more() {
        for (value, bytes) in [
            (0, vec![0]),
            (127, vec![0x7f]),
            (128, vec![0x80, 1]),
            (300, vec![0xac, 2]),
            (u64::MAX, vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ] {
            let mut out = Writer::default();
            out.varint(value);
            assert_eq!(out.0, bytes);
            assert_eq!(Reader::new("", &bytes).varint("v"), Ok(value));
        }
        let much = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2];
        assert!(Reader::new("", &much).varint("v").is_err());
        for value in [0, 1, -1, i64::MAX, i64::MIN] {
            let mut out = Writer::default();
            out.signed(value);
            assert_eq!(Reader::new("", &out.0).signed("v"), Ok(value));
        }
    }
}
