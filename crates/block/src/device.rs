//! The contract between those who ask for blocks and those who have them.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::future::Future;
use core::pin::Pin;

use crate::error::{BlockError, ErrorKind};
use crate::place::{Lba, LbaCount};

/// What a device looks like to its hosts. Read it again when a resize was announced: `blocks` may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of a logical block: 512 or 4096 bytes.
    pub logical_block_bytes: u32,
    /// Size of the unit that a write never tears and that needs no read first: 4096 bytes.
    pub physical_block_bytes: u32,
    /// How many logical blocks the device has.
    pub blocks: LbaCount,
    /// A write may be lost by a power cut until the next flush (NVMe VWC, SCSI WCE).
    pub write_cache: bool,
    /// The device takes no writes.
    pub read_only: bool,
    /// Discards of this many bytes, aligned to it, give space back.
    pub discard_granularity_bytes: u32,
    /// The preferred unit of large I/O: one extent.
    pub optimal_transfer_bytes: u32,
    /// Names the volume for ever: NVMe NGUID/UUID, SCSI designator.
    pub uuid: [u8; 16],
}

/// A range of logical blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LbaRange {
    /// The first block.
    pub start: Lba,
    /// How many.
    pub count: LbaCount,
}

impl LbaRange {
    /// `count` blocks from `start`.
    #[must_use]
    pub const fn new(start: u64, count: u64) -> Self {
        Self { start: Lba(start), count: LbaCount(count) }
    }

    /// Refuses a range that does not lie on a device of `blocks` blocks, without overflow.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`] with the range's first block past the end.
    pub fn check(&self, blocks: LbaCount) -> Result<(), BlockError> {
        match self.start.0.checked_add(self.count.0) {
            Some(end) if end <= blocks.0 => Ok(()),
            _ => Err(BlockError::new(ErrorKind::OutOfRange, "range ends past the device")
                .with_value(self.start.0.max(blocks.0))),
        }
    }
}

/// What is asked of a device. Ranges are in its logical blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read the range; answered with as many bytes.
    Read(LbaRange),
    /// Write the payload over the range; `fua`: durable before the answer.
    Write {
        /// Where.
        range: LbaRange,
        /// Durable before the answer, with every map change that it depends on.
        fua: bool,
    },
    /// All that was answered before this was asked becomes durable.
    Flush,
    /// Make the range read zeros; `unmap`: and give its space back where possible.
    WriteZeroes {
        /// Where.
        range: LbaRange,
        /// Give the space back where possible.
        unmap: bool,
        /// Durable before the answer.
        fua: bool,
    },
    /// The ranges' content is not needed any more; they read zeros after this.
    Discard(Vec<LbaRange>),
    /// Compare the payload with the range's content.
    Compare(LbaRange),
    /// If the payload's first half is the range's content, write its second half; atomic against all other requests.
    CompareAndWrite {
        /// Where.
        range: LbaRange,
        /// Durable before the answer.
        fua: bool,
    },
}

/// A command with its payload. `B` is the buffer type that the target and the storage share.
#[derive(Debug)]
pub struct Request<B> {
    /// What to do.
    pub command: Command,
    /// The bytes to write or to compare: as long as the range (twice that for [`Command::CompareAndWrite`]).
    pub payload: Option<B>,
}

/// What a device answers with, later: the bytes of a [`Command::Read`] and `None` for everything else.
pub type DeviceFuture<R> = Pin<Box<dyn Future<Output = Result<Option<R>, BlockError>>>>;

/// Anything with blocks.
///
/// # What the caller must do
/// - Give a payload exactly as long as the command says. It need not check ranges: the size may change before the
///   request runs, so it can't.
/// - Poll the future to its end, also when nobody waits for the answer any more (a task of its own does that). A
///   dropped
///   future would let go of the range that its write, still under way, is about to change.
/// - Keep its own limits on how many requests it has open.
///
/// # What the device must do
/// - Never panic, whatever the range; refuse with the kind that fits and the value at fault.
/// - Answer a write only when its bytes (and every map change needed to find them) survive a crash of the process.
/// - Answer a flush or FUA only when what it covers survives a power cut.
/// - Order overlapping writes: each block ends as one of them, as a whole.
/// - Answer a read with bytes that some answered or open write put there, or zeros where none did: never with bytes
///   that were another volume's.
pub trait Device {
    /// The buffer that carries a payload down.
    type Write;
    /// What carries a read's bytes up.
    type Read;

    /// The device's present shape.
    fn geometry(&self) -> Geometry;

    /// Runs `request`.
    fn execute(&self, request: Request<Self::Write>) -> DeviceFuture<Self::Read>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_overflows_is_refused_with_the_first_block_past_the_end() {
        assert!(LbaRange::new(0, 8).check(LbaCount(8)).is_ok());
        let past = LbaRange::new(4, 5).check(LbaCount(8)).unwrap_err();
        assert_eq!((past.kind(), past.context().value), (ErrorKind::OutOfRange, Some(8)));
        let wrapped = LbaRange::new(u64::MAX, 2).check(LbaCount(8)).unwrap_err();
        assert_eq!(wrapped.context().value, Some(u64::MAX));
    }
}
