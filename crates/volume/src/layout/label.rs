//! A disk's label: whose it is, and where everything else on it lies.
//!
//! Layout: one block of 4 KiB, twice on the disk; the one with the higher sequence holds. Numbers first, then the
//! texts.

use super::codec::{DecodeError, Envelope};
use super::disk::{DiskLayout, LABEL_BYTES};
use crate::place::{DiskNo, Lsn};

/// How a label begins. 2: the head of each zone is check space; a pool of version 1 has data there.
pub const LABEL: Envelope = Envelope { format: "label", magic: *b"SDSL", version: 2 };
/// The longest name of a pool or a tier, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 255;
/// The longest description of who opened a disk; a longer one is cut.
pub const OPENER_BYTES_MAX: usize = 512;
const FLAG_JOURNAL: u8 = 1;
const FLAG_CLEAN: u8 = 2;

/// What a disk says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The pool's uuid.
    pub pool_uuid: [u8; 16],
    /// The pool's name.
    pub pool_name: String,
    /// The disk's own uuid, new whenever it joins a pool.
    pub disk_uuid: [u8; 16],
    /// Its number in the pool.
    pub disk_no: DiskNo,
    /// Its tier's name.
    pub tier: String,
    /// The tier's rank: 0 is the fastest.
    pub rank: u8,
    /// It is a member of the pool's journal.
    pub journal: bool,
    /// The pool was closed in order since it was opened last.
    pub clean: bool,
    /// The pool's epoch: raised whenever a disk is lost, so that one with an older one is known to have missed
    /// something.
    pub pool_epoch: u32,
    /// Which of two labels is newer.
    pub sequence: u64,
    /// The last checkpoint that the disk was told of before its last sync: a disk that comes back with an older one
    /// lost what it said was durable.
    pub checkpoint_mark: Lsn,
    /// How often the pool was opened, on whatever node: a carry-over ring of another opening is void.
    pub openings: u64,
    /// Where its regions lie.
    pub layout: DiskLayout,
    /// Who opened it last, for messages: host, boot and process.
    pub opener: String,
}

impl Label {
    /// Its bytes: one block.
    ///
    /// # Panics
    /// If the pool's or the tier's name is longer than [`NAME_BYTES_MAX`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = LABEL.begin();
        out.bytes(&self.pool_uuid);
        out.bytes(&self.disk_uuid);
        out.u64(self.sequence);
        out.u64(self.checkpoint_mark.0);
        out.u64(self.openings);
        out.u32(self.pool_epoch);
        out.u16(self.disk_no.0);
        out.u8(self.rank);
        out.u8(if self.journal { FLAG_JOURNAL } else { 0 } | if self.clean { FLAG_CLEAN } else { 0 });
        self.layout.put(&mut out);
        for name in [&self.pool_name, &self.tier] {
            assert!(name.len() <= NAME_BYTES_MAX, "a name of {} bytes in a label", name.len());
            out.blob(name.as_bytes());
        }
        let mut cut = self.opener.len().min(OPENER_BYTES_MAX);
        while !self.opener.is_char_boundary(cut) {
            cut -= 1;
        }
        out.blob(&self.opener.as_bytes()[..cut]);
        out.0.resize(LABEL_BYTES as usize, 0);
        LABEL.seal(out, &[])
    }

    /// The label in `bytes`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut reader, length) = LABEL.open(bytes, &[])?;
        if length as u64 != LABEL_BYTES {
            return Err(reader.value("length", length as u64));
        }
        let pool_uuid = reader.array("pool uuid")?;
        let disk_uuid = reader.array("disk uuid")?;
        let sequence = reader.u64("sequence")?;
        if sequence == u64::MAX {
            return Err(reader.value("sequence", sequence));
        }
        let checkpoint_mark = Lsn(reader.u64("checkpoint mark")?);
        let openings = reader.u64("openings")?;
        if openings == u64::MAX {
            // There is no next one.
            return Err(reader.value("openings", openings));
        }
        let pool_epoch = reader.u32("pool epoch")?;
        let disk_no = DiskNo(reader.u16("disk no")?);
        let rank = reader.u8("rank")?;
        let flags = reader.u8("flags")?;
        if flags & !(FLAG_JOURNAL | FLAG_CLEAN) != 0 {
            return Err(reader.value("flags", u64::from(flags)));
        }
        let layout = DiskLayout::get(&mut reader)?;
        Ok(Self {
            pool_uuid,
            pool_name: reader.text_max("pool name", NAME_BYTES_MAX)?,
            disk_uuid,
            disk_no,
            tier: reader.text_max("tier", NAME_BYTES_MAX)?,
            rank,
            journal: flags & FLAG_JOURNAL != 0,
            clean: flags & FLAG_CLEAN != 0,
            pool_epoch,
            sequence,
            checkpoint_mark,
            openings,
            layout,
            opener: reader.text_max("opener", OPENER_BYTES_MAX)?,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::codec::crc32c;
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn label() -> Label {
        Label {
            pool_uuid: *b"0123456789abcdef",
            pool_name: "archive".into(),
            disk_uuid: *b"fedcba9876543210",
            disk_no: DiskNo(3),
            tier: "hdd".into(),
            rank: 1,
            journal: true,
            clean: false,
            pool_epoch: 7,
            sequence: 9,
            checkpoint_mark: Lsn(0x55),
            openings: 4,
            layout: DiskLayout::plan(64 << 20, 1 << 20, 128 << 20).expect("room"),
            opener: "host, process 12".into(),
        }
    }

    #[test]
    fn a_label_byte_by_byte() {
        let mut bytes = b"SDSL\x02\0\0\0\0\x10\0\0".to_vec(); // magic, version 2, zero, length 4096
        let mut body = b"0123456789abcdef".to_vec(); // pool uuid
        body.extend(b"fedcba9876543210"); // disk uuid
        body.extend([9, 0, 0, 0, 0, 0, 0, 0]); // sequence
        body.extend([0x55, 0, 0, 0, 0, 0, 0, 0]); // checkpoint mark
        body.extend([4, 0, 0, 0, 0, 0, 0, 0]); // openings
        body.extend([7, 0, 0, 0]); // pool epoch
        body.extend([3, 0]); // disk number
        body.extend([1]); // rank
        body.extend([1]); // flags: journal
        body.extend([0, 0, 0x10, 0, 0, 0, 0, 0]); // extent bytes: 1 MiB
        body.extend([0, 0, 0x10, 0, 0, 0, 0, 0]); // catalog offset: 1 MiB
        body.extend([0, 0, 0x10, 0, 0, 0, 0, 0]); // catalog slot bytes: 1 MiB
        body.extend([0, 0, 0x30, 0, 0, 0, 0, 0]); // journal offset: 3 MiB
        body.extend([0, 0, 0x40, 0, 0, 0, 0, 0]); // journal bytes: 4 MiB
        body.extend([0, 0, 0x70, 0, 0, 0, 0, 0]); // owner table offset: 7 MiB
        body.extend([0, 0xe0, 0x01, 0, 0, 0, 0, 0]); // owner table bytes: 15 * 2 * 4 KiB
        body.extend([0, 0, 0x80, 0, 0, 0, 0, 0]); // data offset: 8 MiB
        body.extend([0x80, 3, 0, 0]); // chunks: 56 * 16
        body.extend(b"\x07archive\x03hdd\x10host, process 12"); // pool name, tier, opener
        body.resize(4096 - 16, 0);
        bytes.extend(crc32c(&[&bytes, &body]).to_le_bytes());
        bytes.extend(body);
        assert_eq!(label().encode(), bytes);
        assert_eq!(Label::decode(&bytes), Ok(label()));
    }

    #[test]
    fn a_long_opener_is_cut_between_characters() {
        let long = Label { opener: "ä".repeat(300), ..label() };
        assert_eq!(Label::decode(&long.encode()).expect("intact").opener, "ä".repeat(256));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_seen(bit in 0_usize..4096 * 8) {
            let mut bytes = label().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Label::decode(&bytes).is_err());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..400), at in 0_usize..200) {
            let _ = Label::decode(&body);
            // A label with some bytes replaced, sealed again, so that the fields are reached.
            let mut out = LABEL.begin();
            out.bytes(&label().encode()[16..]);
            for (byte, new) in out.0[16 + at..].iter_mut().zip(&body) {
                *byte = *new;
            }
            let _ = Label::decode(&LABEL.seal(out, &[]));
        }
    }
}
