//! Parts: what a request asks of one page of the map, and so of one core.

use sds_block::{BlockError, ErrorKind};
use sds_io::{IoError, IoErrorKind, ReadBytes, Slice};

use crate::place::{EXTENTS_PER_PAGE, PageNo};

/// What a part asks.
#[derive(Clone, Debug)]
pub enum PartOp {
    /// Read the range.
    Read,
    /// Write these bytes, as long as the range.
    Write {
        /// The bytes.
        data: Slice,
        /// Durable at once where no map change is needed for it; else the answer says that a commit is.
        fua: bool,
    },
    /// Make the range read zeros.
    Zero {
        /// Give whole chunks back.
        unmap: bool,
    },
    /// If the range's content is the first half of the bytes, write the second half.
    CompareAndWrite {
        /// Twice the range's bytes.
        data: Slice,
    },
}

/// A part of a request: a byte range of one page of a volume's map.
#[derive(Clone, Debug)]
pub struct Part {
    /// The volume.
    pub volume: [u8; 16],
    /// The page.
    pub page: PageNo,
    /// The range's first byte within the page.
    pub start: u64,
    /// How many bytes.
    pub len: u64,
    /// What to do.
    pub op: PartOp,
}

/// What a part answers.
#[derive(Debug, Default)]
pub struct PartAnswer {
    /// A read's bytes.
    pub bytes: ReadBytes,
    /// A FUA request is durable only after a commit.
    pub undurable: bool,
}

/// The byte range of a part within one extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The extent's entry in its page.
    pub slot: usize,
    /// The first byte within the extent.
    pub start: u64,
    /// How many bytes.
    pub len: u64,
    /// Where they are in the part.
    pub offset: u64,
}

/// Splits the byte range `[start, start + len)` of a page into spans, one an extent.
pub fn spans(start: u64, len: u64, extent_bytes: u64) -> impl Iterator<Item = Span> {
    let end = start + len;
    let mut at = start;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let slot = at / extent_bytes;
        let stop = end.min((slot + 1) * extent_bytes);
        let span = Span { slot: slot as usize, start: at % extent_bytes, len: stop - at, offset: at - start };
        at = stop;
        Some(span)
    })
}

/// Splits the byte range `[start, start + len)` of a volume into `(page, start in it, len, offset)`.
pub fn pages(start: u64, len: u64, extent_bytes: u64) -> impl Iterator<Item = (PageNo, u64, u64, u64)> {
    let page_bytes = extent_bytes * EXTENTS_PER_PAGE;
    let end = start + len;
    let mut at = start;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let page = at / page_bytes;
        let stop = end.min((page + 1) * page_bytes);
        let out = (PageNo(page), at % page_bytes, stop - at, at - start);
        at = stop;
        Some(out)
    })
}

/// What a disk's failure is to those who asked for blocks.
#[must_use]
pub fn disk_error(error: IoError) -> BlockError {
    let (kind, what) = match error.kind {
        IoErrorKind::Media => (ErrorKind::MediaError, "the disk can't read or write there"),
        IoErrorKind::Gone => (ErrorKind::MediaError, "the disk is gone"),
        IoErrorKind::ReadOnly => (ErrorKind::MediaError, "the disk takes no writes"),
        IoErrorKind::NoSpace => (ErrorKind::NoSpace, "the file system below the disk is full"),
        IoErrorKind::TimedOut => (ErrorKind::TimedOut, "the disk did not answer in time"),
        IoErrorKind::Invalid => (ErrorKind::MediaError, "the disk refused the request"),
    };
    BlockError::new(kind, what).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_split_at_extents_and_at_pages() {
        let mib = 1 << 20;
        let got: Vec<Span> = spans(mib - 512, 1024, mib).collect();
        assert_eq!(
            got,
            [
                Span { slot: 0, start: mib - 512, len: 512, offset: 0 },
                Span { slot: 1, start: 0, len: 512, offset: 512 }
            ]
        );
        let got: Vec<_> = pages(512 * mib - 4096, 8192, mib).collect();
        assert_eq!(got, [(PageNo(0), 512 * mib - 4096, 4096, 0), (PageNo(1), 0, 4096, 4096)]);
    }
}
