//! Reads a member's chain: from where its header says, frame by frame, until one does not continue it.

use sds_io::{Buffer, Io, IoError, Slice};

use super::{HEADERS_BYTES, JournalMember, Mark, MemberProblem, Position};
use crate::layout::codec::DecodeError;
use crate::layout::frame::{
    FRAME_ALIGNMENT_BYTES, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, Frame, JournalHeader, Salt, decode_frame,
    frame_bytes_hint, split_groups,
};
use crate::place::Lsn;
use crate::planted::{Defect, Planted};

/// A frame and its bytes, padded.
#[derive(Debug)]
pub(super) struct ScannedFrame {
    pub(super) mark: Mark,
    pub(super) bytes: Slice,
    groups_bytes: usize,
}

impl ScannedFrame {
    pub(super) fn groups(&self) -> &[u8] {
        &self.bytes.as_ref()[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + self.groups_bytes]
    }
}

/// What a member has.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) header: JournalHeader,
    /// What was wrong with the other header.
    pub(super) header_error: Option<DecodeError>,
    pub(super) frames: Vec<ScannedFrame>,
    pub(super) tail: Position,
    pub(super) next: Lsn,
    /// The CRC of the last frame.
    pub(super) before: u32,
    /// Where the chain ended because the disk could not be read.
    pub(super) unreadable: Option<(u64, IoError)>,
}

impl Scanned {
    pub(super) fn start(&self) -> Position {
        Position { lap: self.header.start_lap, offset: self.header.start_offset }
    }

    /// True if it has all of `chosen`'s chain: the same last frame, which names those before it, and no later start.
    pub(super) fn has_same_end(&self, chosen: &Self) -> bool {
        self.header.salt == chosen.header.salt
            && self.header.log_bytes == chosen.header.log_bytes
            && (self.next, self.before, self.tail) == (chosen.next, chosen.before, chosen.tail)
            && self.header.start <= chosen.header.start
    }
}

/// Both headers of a member, as they are.
pub(super) async fn read_headers<E: Io>(io: &E, member: &JournalMember) -> Result<Vec<JournalHeader>, MemberProblem> {
    let slots = read_slots(io, member).await?;
    Ok(slots.into_iter().filter_map(Result::ok).collect())
}

async fn read_slots<E: Io>(
    io: &E,
    member: &JournalMember,
) -> Result<[Result<JournalHeader, DecodeError>; 2], MemberProblem> {
    let block = FRAME_ALIGNMENT_BYTES as usize;
    let mut first_error = None;
    let mut slots = Vec::new();
    for slot in 0..2 {
        // One by one, because one that can't be read must not hide the other.
        let offset = member.offset + slot * FRAME_ALIGNMENT_BYTES;
        match io.read(member.disk, offset, Buffer::uninit(block)).await {
            Ok(bytes) => slots.push(JournalHeader::decode(bytes.as_ref())),
            Err(error) => {
                first_error.get_or_insert(error);
                let short = DecodeError::Short { format: "journal header", field: "block", needs: block, has: 0 };
                slots.push(Err(short));
            }
        }
    }
    match (first_error, slots.iter().any(Result::is_ok)) {
        (Some(error), false) => Err(MemberProblem::Io(error)),
        _ => Ok(slots.try_into().expect("two slots")),
    }
}

/// Reads what `member` has.
pub(super) async fn scan<E: Io>(
    io: &E,
    member: JournalMember,
    pool_uuid: [u8; 16],
    planted: Planted,
) -> Result<Scanned, MemberProblem> {
    let (header, header_error) = match read_slots(io, &member).await? {
        [Ok(a), Ok(b)] => (if a.sequence >= b.sequence { a } else { b }, None),
        [Ok(header), Err(error)] | [Err(error), Ok(header)] => (header, Some(error)),
        [Err(error), Err(_)] => return Err(MemberProblem::Header(error)),
    };
    if header.pool_uuid != pool_uuid {
        return Err(MemberProblem::OtherPool(header.pool_uuid));
    }
    if header.log_bytes > member.bytes - HEADERS_BYTES {
        return Err(MemberProblem::LogBytes(header.log_bytes));
    }
    let start = Position { lap: header.start_lap, offset: header.start_offset };
    let mut scanned = Scanned {
        header,
        header_error,
        frames: Vec::new(),
        tail: start,
        next: header.start,
        before: header.before,
        unreadable: None,
    };
    let mut window = Window { member, log_bytes: header.log_bytes, offset: 0, bytes: None };
    loop {
        let tail = scanned.tail;
        let wrapped = Position { lap: tail.lap + 1, offset: 0 };
        let mut found = None;
        for at in [tail, wrapped] {
            if at.offset == header.log_bytes {
                continue;
            }
            match window.frame(io, at.offset).await {
                Ok(Some(bytes)) => found = continues(&scanned, at, bytes, planted)?,
                Ok(None) => {}
                Err(error) => {
                    scanned.unreadable = Some((member.log_offset(at), error));
                }
            }
            if found.is_some() {
                break;
            }
        }
        let Some((frame, crc)) = found else { break };
        scanned.unreadable = None;
        scanned.tail = frame.mark.at.after(frame.bytes.len() as u64);
        scanned.next = Lsn(frame.mark.last.0 + 1);
        scanned.before = crc;
        scanned.frames.push(frame);
    }
    Ok(scanned)
}

/// The frame in `bytes`, if it continues the chain.
fn continues(
    chain: &Scanned,
    at: Position,
    bytes: Slice,
    planted: Planted,
) -> Result<Option<(ScannedFrame, u32)>, MemberProblem> {
    let header = &chain.header;
    let stale = planted.has(Defect::StaleFrame);
    let decode = |lap| {
        let salt = Salt { journal: header.salt, lap };
        decode_frame(bytes.as_ref(), salt, planted.has(Defect::IgnoreCrc)).ok()
    };
    let first_lap = if stale { header.start_lap } else { at.lap };
    let Some(Frame { head, groups, crc, padded_bytes }) = (first_lap..=at.lap).rev().find_map(decode) else {
        return Ok(None);
    };
    let used = at.after(padded_bytes as u64).since(chain.start(), header.log_bytes);
    let fits = used <= header.log_bytes - FRAME_ALIGNMENT_BYTES && padded_bytes <= bytes.len();
    let is_next = head.first == chain.next && head.before == chain.before;
    let follows = head.pool_uuid == header.pool_uuid && (is_next || stale);
    if !fits || !follows {
        return Ok(None);
    }
    let split = split_groups(groups).map_err(MemberProblem::Frame)?;
    let wrong = |field, value| Err(MemberProblem::Frame(DecodeError::Value { format: "journal frame", field, value }));
    let lsns = (head.first.0..=head.last.0).zip(&split).all(|(lsn, group)| group.0.0 == lsn);
    if !lsns || split.len() as u64 != head.last.0 - head.first.0 + 1 {
        return wrong("last lsn", head.last.0);
    }
    let records = split.iter().map(|group| group.1 as u64).sum();
    if records != u64::from(head.records) {
        return wrong("records", records);
    }
    let mark = Mark { at, first: head.first, last: head.last, records, before: head.before };
    let groups_bytes = groups.len();
    Ok(Some((ScannedFrame { mark, bytes: bytes.slice(0, padded_bytes), groups_bytes }, crc)))
}

/// A part of the log that was read at once: frames are often one block, and reading each on its own would take a trip
/// to the disk for every 4 KiB.
struct Window {
    member: JournalMember,
    log_bytes: u64,
    offset: u64,
    bytes: Option<Slice>,
}

impl Window {
    /// The bytes of the frame that seems to be at `offset`; `None` if none is there.
    async fn frame<E: Io>(&mut self, io: &E, offset: u64) -> Result<Option<Slice>, IoError> {
        let block = FRAME_ALIGNMENT_BYTES as usize;
        if self.inside(offset, block).is_none() {
            self.fill(io, offset).await?;
        }
        let head = self.inside(offset, block).expect("a window that was filled from here");
        let Some(len) = frame_bytes_hint(head.as_ref()) else { return Ok(None) };
        if offset + len as u64 > self.log_bytes {
            return Ok(None);
        }
        if self.inside(offset, len).is_none() {
            self.fill(io, offset).await?;
        }
        match self.inside(offset, len) {
            Some(bytes) => Ok(Some(bytes)),
            // The window is short because something in it can't be read.
            None => {
                let at = Position { lap: 0, offset };
                let bytes = io.read(self.member.disk, self.member.log_offset(at), Buffer::uninit(len)).await?;
                Ok(Some(bytes.share()))
            }
        }
    }

    fn inside(&self, offset: u64, len: usize) -> Option<Slice> {
        let bytes = self.bytes.as_ref()?;
        let start = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        (start + len <= bytes.len()).then(|| bytes.slice(start, len))
    }

    /// Reads on from `offset`: as much as a frame can have, or one block if that fails.
    async fn fill<E: Io>(&mut self, io: &E, offset: u64) -> Result<(), IoError> {
        let len = (self.log_bytes - offset).min(FRAME_BYTES_MAX as u64) as usize;
        let at = self.member.log_offset(Position { lap: 0, offset });
        let read = match io.read(self.member.disk, at, Buffer::uninit(len)).await {
            Ok(bytes) => bytes,
            Err(_) => io.read(self.member.disk, at, Buffer::uninit(FRAME_ALIGNMENT_BYTES as usize)).await?,
        };
        (self.offset, self.bytes) = (offset, Some(read.share()));
        Ok(())
    }
}
