//! Why the journal did not do as asked.

use std::fmt;

use sds_io::{DiskId, IoError};

use super::{JOURNAL_BYTES_MIN, LostMember};
use crate::layout::codec::DecodeError;
use crate::place::Lsn;

/// There is no room until a checkpoint trims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalFull {
    /// Bytes that the append needs, those that are skipped at a lap's end included.
    pub needs_bytes: u64,
    /// Bytes that are free.
    pub free_bytes: u64,
    /// Deltas that there would be.
    pub records: u64,
    /// Deltas that there may be.
    pub records_max: u64,
}

/// Why a member has no journal of this pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberProblem {
    /// Neither header is intact; the first one's error.
    Header(DecodeError),
    /// Its header is another pool's.
    OtherPool([u8; 16]),
    /// Its header tells of a log larger than its region.
    LogBytes(u64),
    /// A frame is intact, but what it holds is not what this version writes.
    Frame(DecodeError),
    /// A header could not be read.
    Io(IoError),
}

impl fmt::Display for MemberProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(error) | Self::Frame(error) => error.fmt(f),
            Self::OtherPool(uuid) => write!(f, "it belongs to the pool {:032x}", u128::from_be_bytes(*uuid)),
            Self::LogBytes(bytes) => write!(f, "its log has {bytes} bytes, more than its region"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

/// Why the journal did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalError {
    /// There is no room.
    Full(JournalFull),
    /// A group does not fit in a frame.
    GroupTooLarge {
        /// The group.
        lsn: Lsn,
        /// Its size.
        bytes: usize,
        /// The largest.
        bytes_max: usize,
    },
    /// A member's region is too small.
    TooSmall {
        /// The member's disk.
        disk: DiskId,
        /// The region's size.
        bytes: u64,
    },
    /// No member is left, or at a start one that must be written failed; the last failure.
    NoMember(LostMember),
    /// No member has a journal of this pool.
    NoJournal(Vec<(DiskId, MemberProblem)>),
    /// A member is of a later epoch than every label seen: disks are missing.
    Epoch {
        /// The member's disk.
        disk: DiskId,
        /// Its epoch.
        journal: u32,
        /// The highest epoch of the labels.
        pool: u32,
    },
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(JournalFull { needs_bytes, free_bytes, records, records_max }) => write!(
                f,
                "the journal is full: {needs_bytes} bytes needed, {free_bytes} free, {records} of at most \
                 {records_max} records"
            ),
            Self::GroupTooLarge { lsn, bytes, bytes_max } => {
                write!(f, "change {} has {bytes} bytes, the journal takes {bytes_max}", lsn.0)
            }
            Self::TooSmall { disk, bytes } => write!(
                f,
                "the journal's region on disk {} has {bytes} bytes, it needs {JOURNAL_BYTES_MIN}, and as many as the \
                 other member's log",
                disk.0
            ),
            Self::NoMember(lost) => write!(f, "the journal can't be written, disk {}: {}", lost.disk.0, lost.error),
            Self::NoJournal(problems) => {
                f.write_str("no journal was found")?;
                problems.iter().try_for_each(|(disk, problem)| write!(f, "; disk {}: {problem}", disk.0))
            }
            Self::Epoch { disk, journal, pool } => {
                write!(f, "the journal on disk {} is of epoch {journal}, the labels only of {pool}", disk.0)
            }
        }
    }
}

impl std::error::Error for JournalError {}
