//! Disks: what can be asked of one, and what one is.

use std::fmt;
use std::future::Future;

use crate::buffer::{Buffer, Slice};

/// Names an open disk within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskId(pub u16);

/// What an open disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskInfo {
    /// Where it was found: a path, for messages.
    pub path: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The smallest unit it transfers: offsets, lengths and buffers are multiples of it.
    pub logical_block_bytes: u32,
    /// The unit that it writes as a whole; a power cut may tear anything larger.
    pub physical_block_bytes: u32,
    /// It seeks.
    pub rotational: bool,
    /// It may lose writes until the next sync.
    pub volatile_cache: bool,
    /// It can give space back.
    pub discard: bool,
}

/// Why a disk did not do as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoErrorKind {
    /// It can't read or write there.
    Media,
    /// It is not there any more.
    Gone,
    /// It takes no writes.
    ReadOnly,
    /// The file system below it is full.
    NoSpace,
    /// It did not answer in time.
    TimedOut,
    /// The request was wrong (misaligned, past the end): a defect of the caller.
    Invalid,
}

/// A failed request to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoError {
    /// What kind of failure.
    pub kind: IoErrorKind,
    /// The operating system's number, 0 where there is none.
    pub os_code: i32,
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} (os error {})", self.kind, self.os_code)
    }
}

impl std::error::Error for IoError {}

/// One core's way to the disks. Handles are cheap to clone and stay on their core; the disks are the same on all.
///
/// Offsets, lengths and buffers must be multiples of the disk's logical block. A future that is dropped does not stop
/// the request: the implementation keeps the buffer until the disk has let go of it.
pub trait Io: Clone + 'static {
    /// What the disk is.
    ///
    /// # Panics
    /// If there is no such disk: ids come from opening one.
    fn disk(&self, disk: DiskId) -> DiskInfo;

    /// Fills `buffer` from `offset` (bytes) and gives it back.
    fn read(
        &self,
        disk: DiskId,
        offset: u64,
        buffer: Buffer,
    ) -> impl Future<Output = Result<Buffer, IoError>> + 'static;

    /// Writes `data` at `offset` (bytes). Answered when the disk has taken it; it may be lost by a power cut until a
    /// sync submitted after that has ended, unless `durable`.
    fn write(
        &self,
        disk: DiskId,
        offset: u64,
        data: Slice,
        durable: bool,
    ) -> impl Future<Output = Result<(), IoError>> + 'static;

    /// All writes that were answered before this was submitted become durable. After a failure their fate is unknown:
    /// a later success says nothing of them.
    fn sync(&self, disk: DiskId) -> impl Future<Output = Result<(), IoError>> + 'static;

    /// Gives the space of `[offset, offset + len)` (bytes) back; its content is undefined after that.
    fn discard(&self, disk: DiskId, offset: u64, len: u64) -> impl Future<Output = Result<(), IoError>> + 'static;
}
