//! Framing (RFC 7143 11.2): header, additional headers, digest, data, padding, digest.

use alloc::vec::Vec;

use super::pdu::{self, BHS_BYTES, Bhs};
use crate::connection::{CONTROL_BYTES_MAX, Receive, Tag};
use crate::crc32c::{Crc32c, crc32c};

/// Where a PDU's data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Into the payload buffer of a task, from this offset.
    Payload(u16, u32),
    /// Into the parameter list of a task.
    Parameters(u16),
    /// Into the receiver: text, ping data.
    Collect,
}

/// What was decided about a PDU's data when its header was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// For the first `wanted` bytes; the others are dropped.
    pub sink: Option<Sink>,
    /// How many.
    pub wanted: usize,
    /// What the PDU is, once it is whole.
    pub then: Then,
}

/// What a whole PDU means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Ignore,
    /// Data of this task, immediate or in a Data-Out; `last` of its sequence.
    Data {
        /// Whose.
        tag: u16,
        /// The F bit.
        last: bool,
    },
    /// The header says.
    Header,
}

impl Plan {
    /// Drop the data, do nothing.
    pub const IGNORE: Self = Self { sink: None, wanted: 0, then: Then::Ignore };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    More(usize),
    Data,
    Trailer(usize),
}

/// What a step of the receiver leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More is needed.
    Partial,
    /// The header is whole: plan its data.
    Header,
    /// The header's digest is wrong: nothing after it can be trusted.
    BadHeader(u32),
    /// The PDU is whole.
    Whole,
    /// The PDU is whole and its data's digest is wrong.
    BadData,
}

/// The receiving half's state.
#[derive(Debug)]
pub struct Receiver {
    stage: Stage,
    header: Vec<u8>,
    sink: Option<Sink>,
    /// Bytes for the sink, still to come.
    wanted: usize,
    /// Bytes after those, to drop.
    dropped: usize,
    /// The data's length.
    data_bytes: usize,
    digest: Crc32c,
    /// What the PDU is.
    pub then: Then,
    /// What [`Sink::Collect`] collected.
    pub collected: Vec<u8>,
    /// Digests are in use.
    pub header_digest: bool,
    /// Digests are in use.
    pub data_digest: bool,
}

impl Receiver {
    /// Before the first byte.
    pub fn new() -> Self {
        Self {
            stage: Stage::Header,
            header: Vec::with_capacity(BHS_BYTES + 4),
            sink: None,
            wanted: 0,
            dropped: 0,
            data_bytes: 0,
            digest: Crc32c::default(),
            then: Then::Ignore,
            collected: Vec::new(),
            header_digest: false,
            data_digest: false,
        }
    }

    /// The present PDU's header.
    pub fn bhs(&self) -> [u8; BHS_BYTES] {
        self.header[..BHS_BYTES].try_into().expect("a header is read before it is asked for")
    }

    /// Its data's length.
    pub fn data_bytes(&self) -> usize {
        self.data_bytes
    }

    /// Between PDUs.
    pub fn is_idle(&self) -> bool {
        self.stage == Stage::Header
    }

    /// Whether data of `tag` is being received now.
    pub fn concerns(&self, tag: u16) -> bool {
        !self.is_idle() && matches!(self.then, Then::Data { tag: now, .. } if now == tag)
    }

    /// Where the next bytes go; `total`: the payload's size.
    pub fn poll(&self, total: impl Fn(u16) -> usize) -> Receive {
        let digest = if self.header_digest { 4 } else { 0 };
        match self.stage {
            Stage::Header => Receive::Control { bytes: BHS_BYTES + digest },
            Stage::More(bytes) | Stage::Trailer(bytes) => Receive::Control { bytes },
            Stage::Data if self.wanted == 0 => Receive::Control { bytes: self.dropped.min(CONTROL_BYTES_MAX) },
            Stage::Data => match self.sink {
                Some(Sink::Payload(tag, offset)) => {
                    Receive::Payload { tag: Tag(tag), offset: offset as usize, bytes: self.wanted, total: total(tag) }
                }
                Some(Sink::Parameters(_) | Sink::Collect) | None => {
                    Receive::Control { bytes: self.wanted.min(CONTROL_BYTES_MAX) }
                }
            },
        }
    }

    /// Takes the control bytes that were asked for; parameters go to `parameters`.
    pub fn control(&mut self, bytes: &[u8], mut parameters: impl FnMut(u16, &[u8])) -> Progress {
        match self.stage {
            Stage::Header => {
                self.header.clear();
                self.header.extend_from_slice(bytes);
                let more = usize::from(pdu::view::<Bhs>(&self.bhs()).ahs_words) * 4;
                if more > 0 {
                    self.stage = Stage::More(more);
                    return Progress::Partial;
                }
                self.header_done()
            }
            Stage::More(_) => {
                self.header.extend_from_slice(bytes);
                self.header_done()
            }
            Stage::Data => {
                if self.data_digest {
                    self.digest.update(bytes);
                }
                if self.wanted == 0 {
                    self.dropped -= bytes.len();
                } else {
                    self.wanted -= bytes.len();
                    match self.sink {
                        Some(Sink::Parameters(tag)) => parameters(tag, bytes),
                        Some(Sink::Collect) => self.collected.extend_from_slice(bytes),
                        Some(Sink::Payload(..)) | None => {}
                    }
                }
                self.data_progress()
            }
            Stage::Trailer(_) => {
                let pad = pdu::padding(self.data_bytes);
                let mut bad = false;
                if self.data_digest {
                    self.digest.update(&bytes[..pad]);
                    bad = self.digest.finish().to_le_bytes() != bytes[pad..];
                }
                self.stage = Stage::Header;
                if bad { Progress::BadData } else { Progress::Whole }
            }
        }
    }

    /// Takes note of payload bytes that the shell has put in their place.
    pub fn payload(&mut self, bytes: &[u8]) -> Progress {
        if self.data_digest {
            self.digest.update(bytes);
        }
        self.wanted -= bytes.len();
        if let Some(Sink::Payload(_, offset)) = &mut self.sink {
            *offset += bytes.len() as u32;
        }
        self.data_progress()
    }

    fn header_done(&mut self) -> Progress {
        if self.header_digest {
            let (covered, digest) = self.header.split_at(self.header.len() - 4);
            let computed = crc32c(covered);
            if computed.to_le_bytes() != digest {
                return Progress::BadHeader(computed);
            }
        }
        self.data_bytes = pdu::view::<Bhs>(&self.bhs()).data_bytes.get() as usize;
        self.stage = Stage::Data;
        Progress::Header
    }

    /// The plan for the data of the header that was just read.
    pub fn plan(&mut self, plan: Plan) -> Progress {
        self.wanted = if plan.sink.is_some() { plan.wanted.min(self.data_bytes) } else { 0 };
        self.dropped = self.data_bytes - self.wanted;
        self.sink = plan.sink;
        self.then = plan.then;
        self.collected.clear();
        self.digest = Crc32c::default();
        self.data_progress()
    }

    fn data_progress(&mut self) -> Progress {
        if self.wanted + self.dropped > 0 {
            return Progress::Partial;
        }
        let digest = if self.data_digest && self.data_bytes > 0 { 4 } else { 0 };
        let trailer = pdu::padding(self.data_bytes) + digest;
        if trailer > 0 {
            self.stage = Stage::Trailer(trailer);
            return Progress::Partial;
        }
        self.stage = Stage::Header;
        Progress::Whole
    }
}
