//! What one connection still has to send.
//!
//! Layout: a queue of parts that point into an arena of control bytes, at shared slices that a device gave, or at
//! zeros; the first part may be sent in part. Control bytes that follow each other are one part, so a turn's worth of
//! small answers is one part.
//!
//! Considerations: everything goes out with as few `sendmsg` calls as the socket takes. The arena is emptied when the
//! queue is, or when half of a large one is behind us; the downside is that copy, of at most a few kilobytes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use sds_io::{ReadBytes, Segment, Slice};
use sds_proto::crc32c::Crc32c;
use sds_uring::net::{Moved, Socket};
use smallvec::SmallVec;

/// Parts that go out with one call: 128 answers of two parts, and room for holes in them.
const PARTS_PER_SEND_MAX: usize = 320;
/// The arena is compacted when this much of it has been sent.
const ARENA_SENT_BYTES_MAX: usize = 64 * 1024;
/// Zeros are sent from here.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

enum Part {
    /// Bytes of the arena; places count from the arena's beginning, ever.
    Control {
        start: u64,
        len: usize,
    },
    Bytes(Slice),
    Zeros(usize),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Control { len, .. } | Self::Zeros(len) => *len,
            Self::Bytes(slice) => slice.len(),
        }
    }

    /// Forgets its first `sent` bytes.
    fn advance(&mut self, sent: usize) {
        match self {
            Self::Control { start, len } => {
                *start += sent as u64;
                *len -= sent;
            }
            Self::Bytes(slice) => *slice = slice.slice(sent, slice.len() - sent),
            Self::Zeros(len) => *len -= sent,
        }
    }
}

#[derive(Default)]
pub(crate) struct Outgoing {
    parts: VecDeque<Part>,
    arena: Vec<u8>,
    /// The place of the arena's first byte.
    arena_start: u64,
    bytes: usize,
}

impl Outgoing {
    /// Bytes that wait.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// True if one call can't take more parts.
    pub(crate) fn is_full(&self) -> bool {
        self.parts.len() >= PARTS_PER_SEND_MAX
    }

    /// Appends a copy of `bytes`.
    pub(crate) fn push_control(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = self.arena_start + self.arena.len() as u64;
        self.arena.extend_from_slice(bytes);
        self.bytes += bytes.len();
        if let Some(Part::Control { len, .. }) = self.parts.back_mut() {
            *len += bytes.len();
            return;
        }
        self.parts.push_back(Part::Control { start, len: bytes.len() });
    }

    /// Appends `bytes` of `answer` from `offset`, then `pad` zeros, then (if asked) their CRC32C.
    ///
    /// # Panics
    /// If the answer is shorter: the machine asks for no more than it was told of.
    pub(crate) fn push_payload(&mut self, answer: &ReadBytes, offset: usize, bytes: usize, pad: usize, digest: bool) {
        let mut crc = digest.then(Crc32c::default);
        let (mut skip, mut rest) = (offset, bytes);
        for segment in &answer.segments {
            if rest == 0 {
                break;
            }
            if skip >= segment.len() {
                skip -= segment.len();
                continue;
            }
            let len = (segment.len() - skip).min(rest);
            match segment {
                Segment::Bytes(slice) => self.push_slice(slice.slice(skip, len), crc.as_mut()),
                Segment::Zeros(_) => self.push_zeros(len, crc.as_mut()),
            }
            skip = 0;
            rest -= len;
        }
        assert_eq!(rest, 0, "the answer has the bytes that the machine sends");
        if pad > 0 {
            self.push_zeros(pad, crc.as_mut());
        }
        if let Some(crc) = crc {
            self.push_control(&crc.finish().to_le_bytes());
        }
    }

    fn push_slice(&mut self, slice: Slice, crc: Option<&mut Crc32c>) {
        if let Some(crc) = crc {
            crc.update(slice.as_ref());
        }
        self.bytes += slice.len();
        self.parts.push_back(Part::Bytes(slice));
    }

    fn push_zeros(&mut self, len: usize, crc: Option<&mut Crc32c>) {
        if let Some(crc) = crc {
            let mut rest = len;
            while rest > 0 {
                let part = rest.min(ZEROS.len());
                crc.update(&ZEROS[..part]);
                rest -= part;
            }
        }
        self.bytes += len;
        self.parts.push_back(Part::Zeros(len));
    }

    /// Sends what one call takes. `Bytes(n)` with `n` below what was offered means that the socket is full.
    pub(crate) fn send(&mut self, socket: &Socket) -> io::Result<Sent> {
        let mut slices: SmallVec<[IoSlice<'_>; 64]> = SmallVec::new();
        let mut offered = 0;
        'parts: for part in &self.parts {
            match part {
                Part::Control { start, len } => {
                    let start = (start - self.arena_start) as usize;
                    slices.push(IoSlice::new(&self.arena[start..start + len]));
                }
                Part::Bytes(slice) => slices.push(IoSlice::new(slice.as_ref())),
                Part::Zeros(len) => {
                    let mut rest = *len;
                    while rest > 0 {
                        let some = rest.min(ZEROS.len());
                        slices.push(IoSlice::new(&ZEROS[..some]));
                        offered += some;
                        rest -= some;
                        if slices.len() >= PARTS_PER_SEND_MAX {
                            break 'parts;
                        }
                    }
                    continue;
                }
            }
            offered += part.len();
            if slices.len() >= PARTS_PER_SEND_MAX {
                break;
            }
        }
        match socket.send(&slices)? {
            Moved::Bytes(sent) => {
                drop(slices);
                self.advance(sent);
                Ok(Sent { socket_full: sent < offered })
            }
            Moved::WouldBlock | Moved::End => Ok(Sent { socket_full: true }),
        }
    }

    fn advance(&mut self, sent: usize) {
        self.bytes -= sent;
        let mut rest = sent;
        while rest > 0 {
            let first = self.parts.front_mut().expect("what was sent was queued");
            if first.len() > rest {
                first.advance(rest);
                break;
            }
            rest -= first.len();
            self.parts.pop_front();
        }
        if self.parts.is_empty() {
            self.arena_start += self.arena.len() as u64;
            self.arena.clear();
            return;
        }
        let first_control = self.parts.iter().find_map(|part| match part {
            Part::Control { start, .. } => Some(*start),
            Part::Bytes(_) | Part::Zeros(_) => None,
        });
        let behind = first_control.map_or(self.arena.len(), |start| (start - self.arena_start) as usize);
        if behind > ARENA_SENT_BYTES_MAX {
            self.arena.drain(..behind);
            self.arena_start += behind as u64;
        }
    }
}

/// What came of a call.
pub(crate) struct Sent {
    /// The socket takes no more until it says so.
    pub(crate) socket_full: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use sds_io::Buffer;
    use sds_proto::crc32c::crc32c;
    use sds_uring::net::Listener;
    use std::io::Read;
    use std::net::{SocketAddr, TcpStream};

    #[test]
    fn parts_leave_in_order_with_padding_and_digest_however_little_the_socket_takes() {
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("listens");
        let mut client = TcpStream::connect(listener.address()).expect("connects");
        let socket = listener.accept().expect("accepts").expect("one waits");
        let mut answer = ReadBytes::default();
        let pattern: Vec<u8> = (0..100_000_u32).map(|at| (at % 249) as u8).collect();
        answer.push(Segment::Bytes(Buffer::copy_of(&pattern).share()));
        answer.push(Segment::Zeros(200_000));
        answer.push(Segment::Bytes(Buffer::copy_of(&pattern[..7]).share()));
        let whole = answer.to_vec();
        let mut expected = Vec::new();
        let mut out = Outgoing::default();
        let turns = 60;
        for turn in 0..turns {
            out.push_control(&[turn, 1]);
            out.push_control(&[2, 3]);
            out.push_payload(&answer, 50, 300_000 - 50 + 7, 3, true);
            expected.extend_from_slice(&[turn, 1, 2, 3]);
            let mut data = whole[50..].to_vec();
            data.extend_from_slice(&[0; 3]);
            expected.extend_from_slice(&data);
            expected.extend_from_slice(&crc32c(&data).to_le_bytes());
        }
        assert_eq!(out.bytes(), expected.len());
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; expected.len()];
            client.read_exact(&mut got).expect("receives");
            assert!(got == expected, "the stream is what was queued");
        });
        let mut full = 0;
        while !out.is_empty() {
            if out.send(&socket).expect("sends").socket_full {
                full += 1;
                std::thread::yield_now();
            }
        }
        assert!(full > 0, "18 MB do not fit into a socket at once");
        assert_eq!((out.bytes(), out.arena.len()), (0, 0));
        reader.join().expect("the reader's thread");
    }
}
