//! The journal: what a host was told is durable.
//!
//! Layout of a member's region: header, header again, log. The log is a ring of frames ([`crate::layout::frame`]); a
//! frame that does not fit before the end goes to the start of the next lap. Both members have the same bytes at the
//! same places, written in parallel, one durable write for each frame.
//!
//! Considerations: who is newest after a crash is decided by epoch, then by length of chain, so an append need not wait
//! for any order between the members. Both headers of a member say the same but while one is being written, so that
//! neither a torn nor a rotten one loses the journal. Where the chain starts is durable before the space before it is
//! written again. The downside: a header write costs two waits; it happens once for a checkpoint.
//!
//! The caller appends, trims and changes the epoch one after the other.

mod error;
mod room;
mod scan;
mod verify;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use sds_io::sync::join_all;
use sds_io::{Buffer, DiskId, Io, IoError, Slice};

use crate::delta::Delta;
use crate::layout::codec::DecodeError;
use crate::layout::delta::{decode_group, group_head};
use crate::layout::frame::{
    FRAME_ALIGNMENT_BYTES, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHead, JournalHeader, Salt, encode_frame,
};
use crate::place::Lsn;
use crate::planted::{Defect, Planted};

pub use error::{JournalError, JournalFull, MemberProblem};
pub use room::{Load, Room};
use scan::{Scanned, ScannedFrame, read_headers};
pub use verify::Chain;

/// Bytes of a region before its log: two headers.
const HEADERS_BYTES: u64 = 2 * FRAME_ALIGNMENT_BYTES;
/// The smallest region: room for a few frames.
pub const JOURNAL_BYTES_MIN: u64 = 64 << 10;
/// Deltas that a start has to replay at the most, unless told otherwise: about a second.
pub const JOURNAL_RECORDS_MAX: u64 = 2_000_000;
/// Disks that have a copy of the journal.
pub const JOURNAL_MEMBERS_MAX: usize = 2;
/// What is copied at a time to a new member.
const COPY_BYTES: u64 = 1 << 20;
/// A frame is at most this part of the log, so that what is skipped at a lap's end stays small.
const FRAME_DIVISOR: u64 = 4;

/// A disk's region for the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalMember {
    /// The disk.
    pub disk: DiskId,
    /// Where the region starts, in bytes; a multiple of 4 KiB.
    pub offset: u64,
    /// Its size in bytes; a multiple of 4 KiB.
    pub bytes: u64,
}

impl JournalMember {
    const fn log_bytes(&self) -> u64 {
        self.bytes - HEADERS_BYTES
    }

    const fn log_offset(&self, at: Position) -> u64 {
        self.offset + HEADERS_BYTES + at.offset
    }
}

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    lap: u64,
    offset: u64,
}

impl Position {
    /// Bytes from `start` to here.
    const fn since(self, start: Self, log_bytes: u64) -> u64 {
        (self.lap - start.lap) * log_bytes + self.offset - start.offset
    }

    /// Where a frame of `bytes` goes that is appended here.
    const fn fit(self, bytes: u64, log_bytes: u64) -> Self {
        if self.offset + bytes > log_bytes { Self { lap: self.lap + 1, offset: 0 } } else { self }
    }

    const fn after(self, bytes: u64) -> Self {
        Self { lap: self.lap, offset: self.offset + bytes }
    }
}

/// A frame of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    at: Position,
    first: Lsn,
    last: Lsn,
    records: u64,
    /// The CRC of the frame before it.
    before: u32,
}

/// A member that failed and is not written any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostMember {
    /// Its disk.
    pub disk: DiskId,
    /// Why.
    pub error: IoError,
}

/// What a write to the journal came to. It is durable on the members that are left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "before an acknowledgement the pool's epoch is raised for each lost member"]
pub struct Outcome {
    /// Members that were dropped meanwhile.
    pub lost: Vec<LostMember>,
}

/// What became of a member at a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberNote {
    /// It has the whole chain.
    Current,
    /// Its chain was another one: the whole chain was copied to it.
    Copied {
        /// The last LSN that it had.
        had: Lsn,
        /// Its header's epoch.
        epoch: u32,
    },
    /// It had no journal of this pool: the whole chain was copied to it.
    New(MemberProblem),
}

/// What a start found.
#[derive(Debug)]
pub struct Replay {
    frames: Vec<ScannedFrame>,
    /// The first LSN of the chain: everything before must be elsewhere, or it is lost.
    pub start: Lsn,
    /// How many deltas there are.
    pub records: u64,
    /// How many members the journal had when its header was written last.
    pub members_before: usize,
    /// What became of each member, in the order given.
    pub notes: Vec<(DiskId, MemberNote)>,
    /// A header that was not intact while the other one was; for messages.
    pub header_errors: Vec<(DiskId, DecodeError)>,
    /// The chain may have gone on where this disk can't be read.
    pub unreadable: Option<(DiskId, u64, IoError)>,
}

impl Replay {
    /// The groups in order of LSN, without a gap.
    pub fn groups(&self) -> impl Iterator<Item = Result<(Lsn, Vec<Delta>), DecodeError>> + '_ {
        self.frames.iter().flat_map(|frame| {
            let mut rest = frame.groups();
            std::iter::from_fn(move || {
                if rest.is_empty() {
                    return None;
                }
                Some(decode_group(rest).map(|(lsn, deltas, length)| {
                    rest = &rest[length..];
                    (lsn, deltas)
                }))
            })
        })
    }
}

/// The journal of a pool, open for appending.
pub struct Journal<E> {
    io: E,
    members: Vec<JournalMember>,
    pool_uuid: [u8; 16],
    epoch: u32,
    salt: u64,
    sequence: u64,
    log_bytes: u64,
    start: Position,
    start_lsn: Lsn,
    tail: Position,
    next: Lsn,
    /// The CRC of the last frame.
    before: u32,
    frames: VecDeque<Mark>,
    records: u64,
    records_max: u64,
    last_error: Option<LostMember>,
}

impl<E: Io> Journal<E> {
    /// Makes an empty journal on one or two disks whose next LSN is `start`. Whatever was there is void.
    ///
    /// # Errors
    /// If a member is too small or fails.
    pub async fn format(
        io: E,
        members: Vec<JournalMember>,
        pool_uuid: [u8; 16],
        epoch: u32,
        start: Lsn,
    ) -> Result<Self, JournalError> {
        check_members(&members)?;
        let mut salt = u64::from(epoch).rotate_left(32) ^ start.0;
        let mut sequence = 0;
        for member in &members {
            // Another salt and a higher sequence than whatever was there: not a frame of it is valid any more.
            for header in read_headers(&io, member).await.into_iter().flatten() {
                salt = salt.rotate_left(7).wrapping_add(header.salt);
                sequence = sequence.max(header.sequence);
            }
        }
        let first = Position { lap: 1, offset: 0 };
        let mut journal = Self {
            io,
            log_bytes: members.iter().map(JournalMember::log_bytes).min().expect("one member or two"),
            members,
            pool_uuid,
            epoch,
            salt: salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5d5,
            sequence,
            start: first,
            start_lsn: start,
            tail: first,
            next: start,
            before: 0,
            frames: VecDeque::new(),
            records: 0,
            records_max: JOURNAL_RECORDS_MAX,
            last_error: None,
        };
        let outcome = journal.write_headers(first, start, 0).await?;
        match outcome.lost.first() {
            Some(lost) => Err(JournalError::NoMember(*lost)),
            None => Ok(journal),
        }
    }

    /// Opens the journal that is on `members`: only those whose labels have the pool's highest epoch, `epoch`. The
    /// chain with the highest epoch, then the longest, is copied to the others and durable there when this returns.
    ///
    /// # Errors
    /// If no member has a journal of this pool, or one fails.
    pub async fn open(
        io: E,
        members: Vec<JournalMember>,
        pool_uuid: [u8; 16],
        epoch: u32,
    ) -> Result<(Self, Replay), JournalError> {
        Self::open_planted(io, members, pool_uuid, epoch, Planted::default()).await
    }

    pub(crate) async fn open_planted(
        io: E,
        members: Vec<JournalMember>,
        pool_uuid: [u8; 16],
        epoch: u32,
        planted: Planted,
    ) -> Result<(Self, Replay), JournalError> {
        check_members(&members)?;
        let scan = |member: &JournalMember| scan::scan(&io, *member, pool_uuid, planted);
        let scans = join_all(members.iter().map(scan).collect()).await;
        let key = |scan: &Scanned| (scan.header.epoch, scan.next, scan.header.sequence);
        let best = scans.iter().enumerate().filter_map(|(i, scan)| scan.as_ref().ok().map(|scan| (key(scan), i)));
        let best = if planted.has(Defect::ShortestJournal) { best.min() } else { best.max() };
        let Some((_, best)) = best else {
            let problems = members.iter().zip(scans).filter_map(|(m, scan)| Some((m.disk, scan.err()?))).collect();
            return Err(JournalError::NoJournal(problems));
        };
        let mut scans: Vec<_> = scans.into_iter().map(Some).collect();
        let Some(Ok(chosen)) = scans[best].take() else { unreachable!("the best is one that was read") };
        if chosen.header.epoch > epoch {
            return Err(JournalError::Epoch { disk: members[best].disk, journal: chosen.header.epoch, pool: epoch });
        }
        let mut notes = Vec::new();
        let mut header_errors: Vec<_> =
            chosen.header_error.map(|error| (members[best].disk, error)).into_iter().collect();
        let mut sequence = chosen.header.sequence;
        for (member, scan) in members.iter().zip(scans) {
            let note = match scan {
                None => MemberNote::Current,
                Some(Ok(scan)) => {
                    sequence = sequence.max(scan.header.sequence);
                    header_errors.extend(scan.header_error.map(|error| (member.disk, error)));
                    if scan.has_same_end(&chosen) {
                        MemberNote::Current
                    } else {
                        MemberNote::Copied { had: Lsn(scan.next.0.saturating_sub(1)), epoch: scan.header.epoch }
                    }
                }
                Some(Err(problem)) => MemberNote::New(problem),
            };
            if note != MemberNote::Current {
                copy(&io, *member, &chosen).await?;
            }
            notes.push((member.disk, note));
        }
        let (header, start) = (chosen.header, chosen.start());
        let mut journal = Self {
            io,
            members,
            pool_uuid,
            epoch,
            salt: header.salt,
            sequence,
            log_bytes: header.log_bytes,
            start,
            start_lsn: header.start,
            tail: chosen.tail,
            next: chosen.next,
            before: chosen.before,
            frames: chosen.frames.iter().map(|frame| frame.mark).collect(),
            records: chosen.frames.iter().map(|frame| frame.mark.records).sum(),
            records_max: JOURNAL_RECORDS_MAX,
            last_error: None,
        };
        let outcome = journal.write_headers(start, header.start, header.before).await?;
        if let Some(lost) = outcome.lost.first() {
            return Err(JournalError::NoMember(*lost));
        }
        let unreadable = chosen.unreadable.map(|(offset, error)| (journal.members[best].disk, offset, error));
        let replay = Replay {
            start: header.start,
            records: journal.records,
            members_before: usize::from(header.members),
            frames: chosen.frames,
            notes,
            header_errors,
            unreadable,
        };
        Ok((journal, replay))
    }

    /// The same, which takes no more than `records_max` deltas.
    #[must_use]
    pub fn limited_to(self, records_max: u64) -> Self {
        Self { records_max, ..self }
    }

    /// Makes `groups` durable: [`crate::layout::delta::encode_group`]'s bytes, LSN by LSN from [`Journal::next`] on.
    /// When it fails with [`JournalError::Full`] or [`JournalError::GroupTooLarge`] nothing was written.
    ///
    /// # Errors
    /// If there is no room, or no member is left.
    ///
    /// # Panics
    /// If the LSNs do not go on where the last append ended, or a group's bytes are none.
    pub async fn append(&mut self, groups: &[(Lsn, Vec<u8>)]) -> Result<Outcome, JournalError> {
        let plan = self.plan(groups)?;
        let mut outcome = Outcome::default();
        for Planned { range, mark, .. } in plan {
            let head = FrameHead {
                pool_uuid: self.pool_uuid,
                epoch: self.epoch,
                first: mark.first,
                last: mark.last,
                records: mark.records as u32,
                before: self.before,
            };
            let bodies: Vec<&[u8]> = groups[range].iter().map(|(_, bytes)| bytes.as_slice()).collect();
            let salt = Salt { journal: self.salt, lap: mark.at.lap };
            let (bytes, crc) = encode_frame(&head, &bodies, salt);
            let data = Buffer::copy_of(&bytes).share();
            outcome.lost.extend(self.write_all(|member| member.log_offset(mark.at), &data).await?);
            self.frames.push_back(Mark { before: self.before, ..mark });
            self.before = crc;
            self.tail = mark.at.after(bytes.len() as u64);
            self.next = Lsn(mark.last.0 + 1);
            self.records += mark.records;
        }
        Ok(outcome)
    }

    /// Everything up to `up_to` is durable elsewhere. The chain's new start is durable when this returns, and only then
    /// is the space before it free. Frames that reach beyond `up_to` stay.
    ///
    /// # Errors
    /// If no member is left.
    pub async fn trim(&mut self, up_to: Lsn) -> Result<Outcome, JournalError> {
        let gone = self.frames.iter().take_while(|frame| frame.last <= up_to).count();
        if gone == 0 {
            return Ok(Outcome::default());
        }
        let (at, lsn, before) = match self.frames.get(gone) {
            Some(frame) => (frame.at, frame.first, frame.before),
            None => (self.wrapped_tail(), self.next, self.before),
        };
        let outcome = self.write_headers(at, lsn, before).await?;
        self.records -= self.frames.drain(..gone).map(|frame| frame.records).sum::<u64>();
        (self.start, self.start_lsn) = (at, lsn);
        if self.frames.is_empty() {
            self.tail = at;
        }
        Ok(outcome)
    }

    /// The pool's epoch is `epoch` from now on; durable in the members that are left when this returns.
    ///
    /// # Errors
    /// If no member is left.
    ///
    /// # Panics
    /// If it is lower than before.
    pub async fn set_epoch(&mut self, epoch: u32) -> Result<Outcome, JournalError> {
        assert!(epoch >= self.epoch, "an epoch only rises: {} after {}", epoch, self.epoch);
        self.epoch = epoch;
        let before = self.frames.front().map_or(self.before, |frame| frame.before);
        self.write_headers(self.start, self.start_lsn, before).await
    }

    /// Makes one more disk a member: it gets the whole chain, then all headers say that there are so many.
    ///
    /// # Errors
    /// Its region is too small, or it failed, or the chain can't be read: then it is no member.
    ///
    /// # Panics
    /// If there are two members already.
    pub async fn admit(&mut self, member: JournalMember) -> Result<Outcome, JournalError> {
        assert!(self.members.len() < JOURNAL_MEMBERS_MAX, "a journal has two members at the most");
        check_members(&[member])?;
        if member.log_bytes() < self.log_bytes {
            return Err(JournalError::TooSmall { disk: member.disk, bytes: member.bytes });
        }
        let from = self.members[0];
        let (start, tail) = (self.start, self.tail);
        let parts = if start.lap == tail.lap {
            [start.offset..tail.offset, 0..0]
        } else {
            [start.offset..self.log_bytes, 0..tail.offset]
        };
        for mut part in parts {
            while part.start < part.end {
                let len = (part.end - part.start).min(COPY_BYTES);
                let at = Position { lap: 0, offset: part.start };
                let of = |disk| move |error| JournalError::NoMember(LostMember { disk, error });
                let read = self.io.read(from.disk, from.log_offset(at), Buffer::uninit(len as usize)).await;
                let bytes = read.map_err(of(from.disk))?.share();
                let written = self.io.write(member.disk, member.log_offset(at), bytes, false).await;
                written.map_err(of(member.disk))?;
                part.start += len;
            }
        }
        let failed = |error| JournalError::NoMember(LostMember { disk: member.disk, error });
        self.io.sync(member.disk).await.map_err(failed)?;
        self.members.push(member);
        let before = self.frames.front().map_or(self.before, |frame| frame.before);
        self.write_headers(start, self.start_lsn, before).await
    }

    /// A disk is no member any more, because of `error`: it counts as lost, for the caller to settle.
    ///
    /// # Errors
    /// It was the last one: nothing can be appended any more.
    pub fn expel(&mut self, disk: DiskId, error: IoError) -> Result<LostMember, JournalError> {
        let lost = LostMember { disk, error };
        self.members.retain(|member| member.disk != disk);
        self.last_error = Some(lost);
        if self.members.is_empty() { Err(JournalError::NoMember(lost)) } else { Ok(lost) }
    }

    /// The LSN that is appended next.
    #[must_use]
    pub const fn next(&self) -> Lsn {
        self.next
    }

    /// The first LSN that a start would replay.
    #[must_use]
    pub const fn start(&self) -> Lsn {
        self.start_lsn
    }

    /// Its members that have not failed.
    #[must_use]
    pub fn members(&self) -> &[JournalMember] {
        &self.members
    }

    /// Deltas that a start would replay.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Times that it began again at the start of its region since it was formatted.
    #[must_use]
    pub const fn laps(&self) -> u64 {
        self.tail.lap - 1
    }

    /// How full it is, and how full it may be.
    #[must_use]
    pub const fn room(&self) -> Room {
        Room {
            used: Load { bytes: self.used_bytes(), records: self.records },
            capacity: Load { bytes: self.usable_bytes(), records: self.records_max },
            frame_bytes_max: self.frame_bytes_max() as u64,
        }
    }

    /// Bytes from the chain's start to its end.
    #[must_use]
    pub const fn used_bytes(&self) -> u64 {
        self.tail.since(self.start, self.log_bytes)
    }

    /// Bytes that the chain can have at the most.
    #[must_use]
    pub const fn capacity_bytes(&self) -> u64 {
        self.usable_bytes()
    }

    /// The largest group that can be appended, in bytes.
    #[must_use]
    pub const fn group_bytes_max(&self) -> usize {
        self.frame_bytes_max() - FRAME_HEADER_BYTES
    }

    const fn frame_bytes_max(&self) -> usize {
        let part = self.log_bytes / FRAME_DIVISOR / FRAME_ALIGNMENT_BYTES * FRAME_ALIGNMENT_BYTES;
        if part < FRAME_BYTES_MAX as u64 { part as usize } else { FRAME_BYTES_MAX }
    }

    /// One block stays free, so that a full log and an empty one differ.
    const fn usable_bytes(&self) -> u64 {
        self.log_bytes - FRAME_ALIGNMENT_BYTES
    }

    /// The tail; at the very end of a lap it is the start of the next.
    const fn wrapped_tail(&self) -> Position {
        self.tail.fit(FRAME_ALIGNMENT_BYTES, self.log_bytes)
    }

    /// Which groups go to which frame, and where.
    fn plan(&self, groups: &[(Lsn, Vec<u8>)]) -> Result<Vec<Planned>, JournalError> {
        let (mut plan, mut tail, mut records): (Vec<Planned>, _, _) = (Vec::new(), self.tail, self.records);
        let mut next = self.next;
        for (index, (lsn, bytes)) in groups.iter().enumerate() {
            assert_eq!(*lsn, next, "groups are appended LSN by LSN");
            next = Lsn(lsn.0 + 1);
            if bytes.len() > self.group_bytes_max() {
                let (bytes, bytes_max) = (bytes.len(), self.group_bytes_max());
                return Err(JournalError::GroupTooLarge { lsn: *lsn, bytes, bytes_max });
            }
            let (group_lsn, count, length) = group_head(bytes).expect("the bytes of a group");
            assert!(group_lsn == *lsn && length == bytes.len(), "the bytes of group {lsn:?}");
            records += count as u64;
            match plan.last_mut() {
                Some(last) if last.bytes + bytes.len() <= self.frame_bytes_max() => {
                    last.range.end += 1;
                    last.bytes += bytes.len();
                    last.mark.last = *lsn;
                    last.mark.records += count as u64;
                }
                _ => {
                    let mark = Mark { at: tail, first: *lsn, last: *lsn, records: count as u64, before: 0 };
                    plan.push(Planned { range: index..index + 1, bytes: FRAME_HEADER_BYTES + bytes.len(), mark });
                }
            }
        }
        for frame in &mut plan {
            let bytes = (frame.bytes as u64).next_multiple_of(FRAME_ALIGNMENT_BYTES);
            frame.mark.at = tail.fit(bytes, self.log_bytes);
            tail = frame.mark.at.after(bytes);
        }
        let needs_bytes = tail.since(self.tail, self.log_bytes);
        let free_bytes = self.usable_bytes() - self.used_bytes().min(self.usable_bytes());
        let records_max = self.records_max;
        if needs_bytes > free_bytes || records > records_max {
            return Err(JournalError::Full(JournalFull { needs_bytes, free_bytes, records, records_max }));
        }
        Ok(plan)
    }

    /// Writes both headers of every member, one after the other.
    async fn write_headers(&mut self, start: Position, lsn: Lsn, before: u32) -> Result<Outcome, JournalError> {
        self.sequence += 1;
        let data = Buffer::copy_of(&self.header(start, lsn, before).encode()).share();
        let mut lost = self.write_all(|member| member.offset, &data).await?;
        lost.extend(self.write_all(|member| member.offset + FRAME_ALIGNMENT_BYTES, &data).await?);
        Ok(Outcome { lost })
    }

    fn header(&self, start: Position, lsn: Lsn, before: u32) -> JournalHeader {
        JournalHeader {
            pool_uuid: self.pool_uuid,
            epoch: self.epoch,
            members: self.members.len().max(1) as u8,
            sequence: self.sequence,
            log_bytes: self.log_bytes,
            salt: self.salt,
            start: lsn,
            start_lap: start.lap,
            start_offset: start.offset,
            before,
        }
    }

    /// Writes `data` to all members at once, durably, and drops those that fail.
    async fn write_all(
        &mut self,
        offset: impl Fn(&JournalMember) -> u64,
        data: &Slice,
    ) -> Result<Vec<LostMember>, JournalError> {
        let writes = self.members.iter().map(|m| self.io.write(m.disk, offset(m), data.clone(), true)).collect();
        let answers = join_all(writes).await;
        let mut lost = Vec::new();
        for (member, answer) in std::mem::take(&mut self.members).into_iter().zip(answers) {
            match answer {
                Ok(()) => self.members.push(member),
                Err(error) => lost.push(LostMember { disk: member.disk, error }),
            }
        }
        self.last_error = lost.last().copied().or(self.last_error);
        match self.last_error {
            Some(last) if self.members.is_empty() => Err(JournalError::NoMember(last)),
            _ => Ok(lost),
        }
    }
}

struct Planned {
    range: std::ops::Range<usize>,
    bytes: usize,
    mark: Mark,
}

fn check_members(members: &[JournalMember]) -> Result<(), JournalError> {
    assert!(matches!(members.len(), 1 | 2), "a journal has one member or two");
    for member in members {
        assert!(member.offset % FRAME_ALIGNMENT_BYTES == 0 && member.bytes % FRAME_ALIGNMENT_BYTES == 0);
        if member.bytes < JOURNAL_BYTES_MIN {
            return Err(JournalError::TooSmall { disk: member.disk, bytes: member.bytes });
        }
    }
    Ok(())
}

/// Writes the chosen chain to a member; its headers follow when all members have the chain.
async fn copy<E: Io>(io: &E, member: JournalMember, chosen: &Scanned) -> Result<(), JournalError> {
    if member.log_bytes() < chosen.header.log_bytes {
        return Err(JournalError::TooSmall { disk: member.disk, bytes: member.bytes });
    }
    let failed = |error| JournalError::NoMember(LostMember { disk: member.disk, error });
    for frame in &chosen.frames {
        io.write(member.disk, member.log_offset(frame.mark.at), frame.bytes.clone(), false).await.map_err(failed)?;
    }
    io.sync(member.disk).await.map_err(failed)
}
