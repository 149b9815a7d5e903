//! Buffers that a disk can read from and write to directly.
//!
//! Layout: a [`Buffer`] is a run of 4 KiB blocks, each aligned to 4 KiB, so any slice at a multiple of 512 suits
//! `O_DIRECT`. Dropped buffers go to a per-thread pool by size class (powers of two), because allocating and zeroing a
//! fresh megabyte for every request costs more than the request.
//!
//! Considerations: a write's payload may go to several extents at once, so it is shared ([`Slice`], one reference
//! count); a read's answer may come from several extents, so it is a list ([`ReadBytes`]) and nothing is copied to join
//! them. The downside: a read of many small extents answers with many segments, each a buffer of at least 4 KiB.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The unit of alignment and of allocation.
pub const ALIGNMENT_BYTES: usize = 4096;
/// The largest buffer that is kept for reuse; the largest transfer a host may ask for.
const POOLED_BUFFER_BYTES_MAX: usize = 1 << 20;
/// Bytes a thread keeps for reuse in each size class: enough for 1,024 transfers of 4 KiB in flight.
const POOLED_CLASS_BYTES_MAX: usize = 8 << 20;
const CLASSES: usize = (POOLED_BUFFER_BYTES_MAX / ALIGNMENT_BYTES).ilog2() as usize + 1;

#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Block([u8; ALIGNMENT_BYTES]);

thread_local! {
    static POOL: RefCell<[Vec<Vec<Block>>; CLASSES]> = const { RefCell::new([const { Vec::new() }; CLASSES]) };
}

/// An owned buffer, aligned to 4 KiB. Its content is not cleared unless made by [`Buffer::zeroed`].
pub struct Buffer {
    blocks: Vec<Block>,
    len: usize,
}

fn class_of(blocks: usize) -> usize {
    blocks.next_power_of_two().ilog2() as usize
}

impl Buffer {
    /// A buffer of `len` bytes whose content is whatever an earlier user left: for reads and for payloads that will be
    /// filled. Never hand its bytes out before they are written.
    #[must_use]
    pub fn uninit(len: usize) -> Self {
        let count = len.div_ceil(ALIGNMENT_BYTES).max(1);
        let class = class_of(count);
        let pooled = (class < CLASSES).then(|| POOL.try_with(|pool| pool.borrow_mut()[class].pop()).ok().flatten());
        let blocks = pooled.flatten().unwrap_or_else(|| {
            let count = if class < CLASSES { 1 << class } else { count };
            Block::new_vec_zeroed(count).expect("memory for a buffer")
        });
        Self { blocks, len }
    }

    /// A buffer of `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let mut buffer = Self::uninit(len);
        buffer.as_mut().fill(0);
        buffer
    }

    /// A buffer with a copy of `bytes`.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = Self::uninit(bytes.len());
        buffer.as_mut().copy_from_slice(bytes);
        buffer
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True if it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Shortens it to `len` bytes.
    ///
    /// # Panics
    /// If `len` is larger than it is.
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.len, "truncate grows nothing");
        self.len = len;
    }

    /// Shares it: what was written is not changed any more.
    #[must_use]
    pub fn share(self) -> Slice {
        let len = self.len;
        Slice { buffer: Arc::new(self), start: 0, len }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.blocks.as_slice().as_bytes()[..self.len]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.blocks.as_mut_slice().as_mut_bytes()[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let class = class_of(self.blocks.len().max(1));
        if self.blocks.len() != 1 << class || class >= CLASSES {
            return;
        }
        let kept_max = POOLED_CLASS_BYTES_MAX / (ALIGNMENT_BYTES << class);
        let blocks = std::mem::take(&mut self.blocks);
        // A thread that is ending has no pool any more; its buffers are simply freed.
        let _ = POOL.try_with(|pool| {
            let kept = &mut pool.borrow_mut()[class];
            if kept.len() < kept_max {
                kept.push(blocks);
            }
        });
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

/// A part of a shared buffer: the payload of a write, or a piece of it. Cloning copies no bytes.
#[derive(Clone, Debug)]
pub struct Slice {
    buffer: Arc<Buffer>,
    start: usize,
    len: usize,
}

impl Slice {
    /// Its size in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True if it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `len` bytes of it from `start`.
    ///
    /// # Panics
    /// If they do not lie within it.
    #[must_use]
    pub fn slice(&self, start: usize, len: usize) -> Self {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "slice lies within its parent");
        Self { buffer: Arc::clone(&self.buffer), start: self.start + start, len }
    }

    /// The bytes' place within the aligned buffer: a direct write needs a multiple of the disk's logical block.
    #[must_use]
    pub const fn offset_in_buffer(&self) -> usize {
        self.start
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &(*self.buffer).as_ref()[self.start..self.start + self.len]
    }
}

/// A piece of a read's answer.
#[derive(Debug)]
pub enum Segment {
    /// These bytes.
    Bytes(Slice),
    /// This many zero bytes: nothing is stored there.
    Zeros(usize),
}

impl Segment {
    /// Its size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(slice) => slice.len(),
            Self::Zeros(len) => *len,
        }
    }

    /// True if it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a read answers with: its bytes, in order.
#[derive(Debug, Default)]
pub struct ReadBytes {
    /// The pieces, in order of address.
    pub segments: SmallVec<[Segment; 1]>,
}

impl ReadBytes {
    /// How many bytes all pieces have.
    #[must_use]
    pub fn len(&self) -> usize {
        self.segments.iter().map(Segment::len).sum()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a piece; zeros after zeros become one.
    pub fn push(&mut self, segment: Segment) {
        if let (Some(Segment::Zeros(last)), Segment::Zeros(more)) = (self.segments.last_mut(), &segment) {
            *last += more;
        } else if !segment.is_empty() {
            self.segments.push(segment);
        }
    }

    /// One copy of all bytes, for checks and small control transfers; the data path sends the pieces as they are.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len());
        for segment in &self.segments {
            match segment {
                Segment::Bytes(slice) => out.extend_from_slice(slice.as_ref()),
                Segment::Zeros(len) => out.resize(out.len() + len, 0),
            }
        }
        out
    }
}

impl From<Slice> for ReadBytes {
    fn from(slice: Slice) -> Self {
        Self { segments: SmallVec::from_buf([Segment::Bytes(slice)]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back_from_the_pool() {
        for len in [1, 512, 4096, 5000, 1 << 20, (1 << 20) + 1] {
            let buffer = Buffer::uninit(len);
            assert_eq!((buffer.as_ref().as_ptr() as usize % ALIGNMENT_BYTES, buffer.len()), (0, len));
        }
        let place = Buffer::copy_of(&[7; 8192]).as_ref().as_ptr() as usize;
        let again = Buffer::zeroed(5000);
        assert_eq!(again.as_ref().as_ptr() as usize, place, "same class, same memory");
        assert!(again.as_ref().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_read_joins_zeros_and_keeps_order() {
        let mut read = ReadBytes::default();
        let bytes = Buffer::copy_of(&[1, 2, 3, 4]).share();
        read.push(Segment::Zeros(2));
        read.push(Segment::Zeros(1));
        read.push(Segment::Bytes(bytes.slice(1, 2)));
        assert_eq!((read.segments.len(), read.to_vec()), (2, vec![0, 0, 0, 2, 3]));
    }
}
