//! The open SCSI tasks of a session: a table as long as the command window, indexed by [`crate::Tag`].

use alloc::vec::Vec;

use sds_block::{Command, LbaRange};

use super::pdu::TAG_NONE;
use crate::scsi::commands::Parameters;
use crate::scsi::sense::Failure;

/// Immediate commands may come beside the window (RFC 7143 4.2.2.1): this many.
pub const IMMEDIATE_MAX: u16 = 4;

/// Where a task is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// The slot holds none.
    #[default]
    Free,
    /// Data from the initiator is still to come.
    Receiving,
    /// It waits for bytes in flight to become fewer.
    Waiting,
    /// The device has it, or will at the next `poll_submit`.
    Submitted,
    /// Its answer is queued.
    Answering,
    /// It was aborted; its buffer is still to be let go.
    Leaving,
}

/// What is done when the initiator's data is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Job {
    /// Nothing: the answer.
    #[default]
    None,
    /// A device's command; its payload, if any, is in the tag's buffer.
    Device(Command),
    /// A read, whose bytes go to the initiator.
    Read(LbaRange),
    /// Reads whose bytes go nowhere, one transfer at a time.
    Check(LbaRange),
    /// Writes of the block in `bytes`, one transfer at a time.
    Fill(LbaRange),
    /// A command whose parameter list is collected.
    Parameters(Parameters),
}

/// One SCSI task.
#[derive(Debug, Default)]
pub struct Task {
    /// Where it is.
    pub state: State,
    /// Its LUN field, as it came.
    pub lun: [u8; 8],
    /// It does not take room in the command window.
    pub immediate: bool,
    /// Expected Data Transfer Length.
    pub expected_bytes: u32,
    /// How many bytes the CDB moves: the rest is residual.
    pub cdb_bytes: u32,
    /// What to do.
    pub job: Job,
    /// It changes blocks.
    pub writes: bool,
    /// Bytes wanted of the initiator.
    pub take: u32,
    /// Bytes that came, those not wanted included.
    pub received: u32,
    /// A sequence of Data-Out is under way, or about to be.
    pub open: bool,
    /// It was asked for with this TTT; [`TAG_NONE`] if it is unsolicited.
    pub ttt: u32,
    /// Where it ends.
    pub sequence_end: u32,
    /// The next Data-Out's DataSN.
    pub data_sn: u32,
    /// How many R2Ts were sent.
    pub r2t_sn: u32,
    /// A device has answered with bytes that are not sent.
    pub answered: bool,
    /// The parameter list; the block to write; or the answer's bytes.
    pub bytes: Vec<u8>,
    /// Bytes to send.
    pub send: u32,
    /// Bytes sent.
    pub sent: u32,
    /// How many Data-In PDUs were sent.
    pub data_in_sn: u32,
    /// It failed.
    pub failure: Option<Failure>,
    /// Its failure comes before any data was moved.
    pub moved_nothing: bool,
    /// It was aborted while something of it was under way.
    pub aborted: bool,
    /// Bytes in flight that count for it.
    pub held: usize,
}

/// All tasks.
#[derive(Debug)]
pub struct Tasks {
    slots: Vec<Task>,
    /// The slots' ITTs, close together for searching; [`TAG_NONE`] if free.
    itts: Vec<u32>,
    free: Vec<u16>,
    immediate: u16,
    /// Tasks that were aborted and have not ended.
    pub aborting: u16,
}

impl Tasks {
    /// A table for a window of `commands_max`.
    #[must_use]
    pub fn new(commands_max: u16) -> Self {
        let slots = commands_max.saturating_add(IMMEDIATE_MAX);
        Self {
            slots: (0..slots).map(|_| Task::default()).collect(),
            itts: alloc::vec![TAG_NONE; slots.into()],
            free: (0..slots).rev().collect(),
            immediate: 0,
            aborting: 0,
        }
    }

    /// A slot for a new task of tag `itt`.
    pub fn start(&mut self, itt: u32, immediate: bool) -> Option<u16> {
        if immediate && self.immediate == IMMEDIATE_MAX {
            return None;
        }
        let tag = self.free.pop()?;
        self.immediate += u16::from(immediate);
        self.itts[usize::from(tag)] = itt;
        let task = &mut self.slots[usize::from(tag)];
        let mut bytes = core::mem::take(&mut task.bytes);
        bytes.clear();
        *task = Task { state: State::Receiving, immediate, ttt: TAG_NONE, bytes, ..Task::default() };
        Some(tag)
    }

    /// The slot is free again.
    pub fn end(&mut self, tag: u16) {
        let task = &mut self.slots[usize::from(tag)];
        assert!(task.state != State::Free && task.held == 0, "a task ends once, with nothing in flight");
        self.immediate -= u16::from(task.immediate);
        self.aborting -= u16::from(task.aborted);
        task.state = State::Free;
        self.itts[usize::from(tag)] = TAG_NONE;
        self.free.push(tag);
    }

    /// The task at `tag`, which is in use.
    pub fn get(&mut self, tag: u16) -> &mut Task {
        &mut self.slots[usize::from(tag)]
    }

    /// The task at `tag`.
    #[must_use]
    pub fn peek(&self, tag: u16) -> &Task {
        &self.slots[usize::from(tag)]
    }

    /// Its Initiator Task Tag.
    #[must_use]
    pub fn itt(&self, tag: u16) -> u32 {
        self.itts[usize::from(tag)]
    }

    /// Whether there is such a slot.
    #[must_use]
    pub fn contains(&self, tag: u16) -> bool {
        usize::from(tag) < self.slots.len()
    }

    /// The task of `itt`.
    #[must_use]
    pub fn find(&self, itt: u32) -> Option<u16> {
        if itt == TAG_NONE {
            return None;
        }
        self.itts.iter().position(|&known| known == itt).map(|index| index as u16)
    }

    /// The tags of tasks whose data comes.
    pub fn receiving(&self) -> impl Iterator<Item = u16> {
        (0..).zip(&self.slots).filter(|(_, task)| task.state == State::Receiving).map(|(tag, _)| tag)
    }

    /// The tags of all tasks that can still be aborted.
    #[must_use]
    pub fn abortable(&self) -> Vec<u16> {
        let is = |tag: &u16| {
            let task = self.peek(*tag);
            matches!(task.state, State::Receiving | State::Waiting | State::Submitted) && !task.aborted
        };
        (0..self.slots.len() as u16).filter(is).collect()
    }
}
