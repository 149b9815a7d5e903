//! Whether the members still hold what was written to them.
//!
//! Headers are looked at between two appends, by whoever appends. Frames do not change until they are trimmed, so
//! anybody may read them meanwhile, from a [`Chain`]: what looks bad is bad only if it was not trimmed before it was
//! read.

use sds_io::{Buffer, Io};

use super::{Journal, JournalError, JournalMember, Mark, Outcome, Position};
use crate::layout::frame::{FRAME_ALIGNMENT_BYTES, FRAME_BYTES_MAX, FrameHead, Salt, decode_frame, frame_bytes_hint};
use crate::place::Lsn;

/// The journal's frames as they were at one moment.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// The members that had them.
    pub(crate) members: Vec<JournalMember>,
    pool_uuid: [u8; 16],
    salt: u64,
    log_bytes: u64,
    tail: Option<Position>,
    frames: Vec<Mark>,
}

/// A frame of a member that was read.
pub(crate) struct FrameLook {
    /// Its first and its last group.
    pub(crate) first: Lsn,
    pub(crate) last: Lsn,
    /// Bytes that were read.
    pub(crate) bytes: u64,
    /// What is wrong with it.
    pub(crate) why: Option<String>,
}

impl<E: Io> Journal<E> {
    /// What is wrong with each member's headers: the member's place, the header, why. Nothing: all are as written.
    pub(crate) async fn bad_headers(&self) -> Vec<(usize, u8, String)> {
        let before = self.frames.front().map_or(self.before, |frame| frame.before);
        let written = self.header(self.start, self.start_lsn, before).encode();
        let mut bad = Vec::new();
        for (number, member) in self.members.iter().enumerate() {
            for header in 0..2 {
                let offset = member.offset + u64::from(header) * FRAME_ALIGNMENT_BYTES;
                match self.io.read(member.disk, offset, Buffer::uninit(FRAME_ALIGNMENT_BYTES as usize)).await {
                    Ok(bytes) if bytes.as_ref().starts_with(&written) => {}
                    Ok(bytes) => {
                        let why = super::JournalHeader::decode(bytes.as_ref()).map_or_else(
                            |error| error.to_string(),
                            |found| format!("its sequence is {}, {} was written", found.sequence, self.sequence),
                        );
                        bad.push((number, header, why));
                    }
                    Err(error) => bad.push((number, header, error.to_string())),
                }
            }
        }
        bad
    }

    /// Writes all headers anew.
    ///
    /// # Errors
    /// If no member is left.
    pub(crate) async fn rewrite_headers(&mut self) -> Result<Outcome, JournalError> {
        let before = self.frames.front().map_or(self.before, |frame| frame.before);
        self.write_headers(self.start, self.start_lsn, before).await
    }

    /// The frames from the journal's start to its end.
    pub(crate) fn chain(&self) -> Chain {
        Chain {
            members: self.members.clone(),
            pool_uuid: self.pool_uuid,
            salt: self.salt,
            log_bytes: self.log_bytes,
            tail: Some(self.tail),
            frames: self.frames.iter().copied().collect(),
        }
    }
}

impl Chain {
    /// How many frames there are.
    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Reads the frame `number` of `member`.
    pub(crate) async fn look<E: Io>(&self, io: &E, member: &JournalMember, number: usize) -> FrameLook {
        let mark = self.frames[number];
        let next = self.frames.get(number + 1).map(|next| next.at).or(self.tail);
        let end = next.filter(|next| next.lap == mark.at.lap).map_or(self.log_bytes, |next| next.offset);
        let mut look = FrameLook { first: mark.first, last: mark.last, bytes: 0, why: None };
        let len = (end - mark.at.offset).min(FRAME_BYTES_MAX as u64);
        let read = io.read(member.disk, member.log_offset(mark.at), Buffer::uninit(len as usize)).await;
        look.bytes = len;
        look.why = match read {
            Ok(bytes) => self.wrong(&mark, bytes.as_ref()),
            Err(error) => Some(error.to_string()),
        };
        look
    }

    fn wrong(&self, mark: &Mark, bytes: &[u8]) -> Option<String> {
        if frame_bytes_hint(bytes).is_none_or(|len| len > bytes.len()) {
            return Some("no frame begins there".to_owned());
        }
        let salt = Salt { journal: self.salt, lap: mark.at.lap };
        match decode_frame(bytes, salt, false) {
            Err(error) => Some(error.to_string()),
            Ok(frame) => {
                let FrameHead { pool_uuid, first, last, before, .. } = frame.head;
                let is_written = (pool_uuid, first, last, before, u64::from(frame.head.records))
                    == (self.pool_uuid, mark.first, mark.last, mark.before, mark.records);
                (!is_written).then(|| format!("it is the frame of changes {} to {}", first.0, last.0))
            }
        }
    }
}
