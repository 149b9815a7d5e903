//! How much the journal may still take, so that whoever is let through finds room later.

use crate::layout::frame::{FRAME_ALIGNMENT_BYTES, FRAME_HEADER_BYTES};

/// What groups take of the journal: their bytes, and their deltas, which a start has to replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes.
    pub bytes: u64,
    /// Deltas.
    pub records: u64,
}

impl Load {
    /// Both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, records: self.records + other.records }
    }

    /// So many of these.
    #[must_use]
    pub const fn times(self, count: u64) -> Self {
        Self { bytes: self.bytes * count, records: self.records * count }
    }
}

/// How full a journal is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// What is in it; bytes are those of frames.
    pub used: Load,
    /// What it can have at the most.
    pub capacity: Load,
    /// Bytes of the largest frame.
    pub frame_bytes_max: u64,
}

impl Room {
    /// How full it is, 0 to 1: by bytes or by deltas, whichever is more.
    #[must_use]
    pub fn used_fraction(&self) -> f64 {
        let part = |used: u64, capacity: u64| used as f64 / capacity as f64;
        part(self.used.bytes, self.capacity.bytes).max(part(self.used.records, self.capacity.records))
    }

    /// True if groups of `owed` leave it below `percent`, and fit however their frames come to lie.
    #[must_use]
    pub const fn takes(&self, owed: Load, percent: u32) -> bool {
        let percent = percent as u64;
        let all = self.used.plus(owed);
        all.bytes <= self.capacity.bytes / 100 * percent
            && all.records <= self.capacity.records * percent / 100
            && self.used.bytes + self.framed(owed.bytes) <= self.capacity.bytes
    }

    /// The most bytes of the log that groups of `bytes` take. Two frames in a row have more than one could hold. Each
    /// frame ends in a part of a block. Two commits begin a frame of their own: the one under way, and the next. And
    /// what is left at the end of a lap may be too short for a frame.
    const fn framed(&self, bytes: u64) -> u64 {
        let frames = 2 * bytes / self.frame_bytes_max + 2;
        bytes + frames * (FRAME_ALIGNMENT_BYTES + FRAME_HEADER_BYTES as u64) + self.frame_bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_in_bytes_may_not_in_frames_or_records() {
        let capacity = Load { bytes: 116 << 10, records: 1000 };
        let room = Room { used: Load::default(), capacity, frame_bytes_max: 28 << 10 };
        let takes = |bytes, records| room.takes(Load { bytes, records }, 75);
        assert!(takes(40 << 10, 750));
        assert!(!takes(40 << 10, 751), "a start would replay too many");
        assert!(!takes(86 << 10, 0), "frames of half a block, and a gap at the end of the lap");
        assert!(
            !Room { used: Load { bytes: 50 << 10, records: 0 }, ..room }
                .takes(Load { bytes: 40 << 10, records: 0 }, 75)
        );
    }
}
