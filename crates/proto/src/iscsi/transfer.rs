//! SCSI commands and their data (RFC 7143 11.3, 11.7, 11.8): parse, take the data, execute.
//!
//! Data comes in order (DataPDUInOrder, DataSequenceInOrder) and one R2T is open at a time, so a task's data is one
//! stream with one offset. A task that fails early still takes the sequence that is under way, and answers at its end.

use sds_block::{BlockError, Command, LbaRange};

use super::connection::{Phase, TargetConnection};
use super::pdu::{self, BHS_BYTES, FINAL, IMMEDIATE, READ, RejectReason, TAG_NONE, WRITE};
use super::receive::{Plan, Sink, Then};
use super::session::Arrival;
use super::task::{Job, State};
use super::transmit::{After, Out};
use crate::connection::{Submit, Tag};
use crate::scsi::commands::{self, Action, Finished};
use crate::scsi::sense::{Failure, Intent, Sense, SenseKey, Status, failure_of};

impl TargetConnection {
    /// Counts a request's CmdSN: `false` if it is to be dropped.
    pub(super) fn admit(&mut self, bhs: &[u8; BHS_BYTES]) -> bool {
        let header = pdu::view::<pdu::Bhs>(bhs);
        if header.opcode & IMMEDIATE != 0 {
            return true;
        }
        match self.sequence.arrival(header.sn.get()) {
            Arrival::Next => {
                self.sequence.exp_cmd_sn = self.sequence.exp_cmd_sn.wrapping_add(1);
                true
            }
            Arrival::Outside => false,
            Arrival::Gap => {
                self.terminate("CmdSN is in the window and one before it is missing", header.sn.get().into());
                false
            }
        }
    }

    /// The header of a SCSI command.
    pub(super) fn start_command(&mut self, bhs: &[u8; BHS_BYTES]) -> Plan {
        let header = pdu::view::<pdu::ScsiCommand>(bhs);
        let (itt, immediate) = (header.itt.get(), header.opcode & IMMEDIATE != 0);
        if self.phase != (Phase::Full { discovery: false }) || itt == TAG_NONE {
            self.reject(bhs, RejectReason::Protocol);
            return Plan::IGNORE;
        }
        if self.tasks.find(itt).is_some() {
            self.reject(bhs, RejectReason::TaskInProgress);
            return Plan::IGNORE;
        }
        if !self.admit(bhs) {
            return Plan::IGNORE;
        }
        let Some(tag) = self.tasks.start(itt, immediate) else {
            self.reject(bhs, if immediate { RejectReason::TooManyImmediate } else { RejectReason::OutOfResources });
            return Plan::IGNORE;
        };
        if !immediate {
            // The window's right end stays: one more has come, one less may.
            self.sequence.room -= 1;
        }
        let task = self.tasks.get(tag);
        task.lun = header.lun;
        task.expected_bytes = header.expected_bytes.get();
        if let Err(failure) = self.decode(tag, header) {
            let task = self.tasks.get(tag);
            task.failure = Some(failure);
            task.moved_nothing = true;
            (task.take, task.send, task.job) = (0, 0, Job::None);
        }
        self.plan_immediate(tag, header)
    }

    fn decode(&mut self, tag: u16, header: &pdu::ScsiCommand) -> Result<(), Failure> {
        let (reads, writes) = (header.flags & READ != 0, header.flags & WRITE != 0);
        let expected = header.expected_bytes.get();
        let code = header.cdb[0];
        let task = self.tasks.get(tag);
        // LUN 0 by peripheral device or flat addressing (SAM-5 4.7.7).
        let unit = self.unit.as_ref().filter(|_| matches!(header.lun, [0 | 0x40, 0, 0, 0, 0, 0, 0, 0]));
        let action = match unit {
            None => commands::decode_absent(&header.cdb, self.unit.is_some(), &mut task.bytes)?,
            Some(unit) => {
                if !self.attentions.is_empty() && !commands::ignores_attention(code) {
                    return Err(self.attentions.take().map_or(Failure::Check(Sense::NONE), Failure::Check));
                }
                let waiting = if code == 0x03 { self.attentions.take() } else { None };
                commands::decode(&header.cdb, unit, waiting, &mut task.bytes)?
            }
        };
        let block_bytes = unit.map_or(512, crate::scsi::unit::LogicalUnit::block_bytes);
        let (offered_in, offered_out) = (if reads { expected } else { 0 }, if writes { expected } else { 0 });
        match action {
            Action::Good => {}
            Action::Answer => {
                task.cdb_bytes = task.bytes.len() as u32;
                task.send = task.cdb_bytes.min(offered_in);
            }
            Action::Read(range) => {
                task.cdb_bytes = range.count.0 as u32 * block_bytes;
                task.send = task.cdb_bytes.min(offered_in);
                let blocks = task.send.div_ceil(block_bytes);
                if blocks > 0 {
                    task.job = Job::Read(LbaRange::new(range.start.0, blocks.into()));
                }
            }
            Action::Check(range) => task.job = Job::Check(range),
            Action::NoPayload(command) => {
                task.writes = true;
                task.job = Job::Device(command);
            }
            Action::Payload { command, payload_bytes, exact } => {
                if exact && offered_out != payload_bytes {
                    return Err(Sense::INVALID_FIELD_IN_CDB.into());
                }
                task.writes = !matches!(command, Command::Compare(_));
                task.cdb_bytes = payload_bytes;
                task.take = payload_bytes.min(offered_out) / block_bytes * block_bytes;
                if task.take > 0 {
                    task.job = Job::Device(shortened(command, task.take, payload_bytes, block_bytes));
                }
            }
            Action::Parameters { parameters, bytes } => {
                if parameters.exact() && offered_out != bytes {
                    return Err(Sense::INVALID_FIELD_IN_CDB.into());
                }
                task.writes = true;
                task.cdb_bytes = bytes;
                task.take = bytes.min(offered_out);
                task.job = Job::Parameters(parameters);
            }
        }
        Ok(())
    }

    /// Immediate data, and whether Data-Out follow unasked.
    fn plan_immediate(&mut self, tag: u16, header: &pdu::ScsiCommand) -> Plan {
        let bytes = header.data_bytes.get();
        let agreed = self.parameters;
        let writes = header.flags & WRITE != 0;
        let task = self.tasks.get(tag);
        let last = header.flags & FINAL != 0 || !writes;
        task.open = !last;
        task.sequence_end = agreed.first_burst_bytes.min(task.expected_bytes);
        if (bytes > 0 && (!writes || !agreed.immediate_data)) || (!last && agreed.initial_r2t) {
            task.failure.get_or_insert(Sense::UNEXPECTED_DATA.into());
        } else if bytes > task.sequence_end {
            task.failure.get_or_insert(Sense::INCORRECT_AMOUNT.into());
        }
        self.plan_data(tag, bytes, last)
    }

    /// The header of a Data-Out.
    pub(super) fn start_data_out(&mut self, bhs: &[u8; BHS_BYTES]) -> Plan {
        let header = pdu::view::<pdu::DataOut>(bhs);
        let (itt, ttt, bytes) = (header.itt.get(), header.ttt.get(), header.data_bytes.get());
        let Some(tag) = self.tasks.find(itt) else {
            // Of a task that was aborted or has failed, or of a command that was dropped: nothing to say.
            return Plan::IGNORE;
        };
        let task = self.tasks.get(tag);
        if task.state != State::Receiving || !task.open || task.ttt != ttt {
            return Plan::IGNORE;
        }
        let fits = u64::from(task.received) + u64::from(bytes) <= u64::from(task.sequence_end);
        if header.data_sn.get() != task.data_sn || header.offset.get() != task.received || !fits {
            task.failure.get_or_insert(Sense::INCORRECT_AMOUNT.into());
        }
        task.data_sn = task.data_sn.wrapping_add(1);
        self.plan_data(tag, bytes, header.flags & FINAL != 0)
    }

    fn plan_data(&mut self, tag: u16, bytes: u32, last: bool) -> Plan {
        let task = self.tasks.get(tag);
        let then = Then::Data { tag, last };
        let wanted = bytes.min(task.take.saturating_sub(task.received)) as usize;
        // Data that nothing asked for takes a buffer at once. While the node is short only a session's first may.
        let begins = wanted > 0 && task.held == 0 && !matches!(task.job, Job::Parameters(_));
        if begins && self.in_flight > 0 && task.take as usize > self.settings.bytes_in_flight_max {
            task.failure.get_or_insert(Failure::Status(Status::TaskSetFull));
        }
        if task.failure.is_some() || wanted == 0 {
            return Plan { sink: None, wanted: 0, then };
        }
        let sink = if matches!(task.job, Job::Parameters(_)) {
            Sink::Parameters(tag)
        } else {
            if task.held == 0 {
                task.held = task.take as usize;
                self.in_flight += task.held;
            }
            Sink::Payload(tag, task.received)
        };
        Plan { sink: Some(sink), wanted, then }
    }

    /// A PDU with a task's data is whole.
    pub(super) fn data_whole(&mut self, tag: u16, last: bool, bytes: usize, digest_ok: bool) {
        let task = self.tasks.get(tag);
        if !digest_ok {
            task.failure.get_or_insert(Sense::DATA_DIGEST.into());
        }
        task.received = task.received.saturating_add(bytes as u32);
        if task.aborted {
            self.leave(tag);
            return;
        }
        if !last {
            return;
        }
        if task.open && task.ttt != TAG_NONE && task.received != task.sequence_end {
            task.failure.get_or_insert(Sense::INCORRECT_AMOUNT.into());
        }
        task.open = false;
        self.advance(tag);
    }

    /// No sequence is under way: fail, ask for more data, or execute.
    pub(super) fn advance(&mut self, tag: u16) {
        let task = self.tasks.get(tag);
        if task.failure.is_some() {
            self.answer(tag);
            return;
        }
        let bytes = self.buffer_bytes(tag);
        let task = self.tasks.peek(tag);
        if bytes > 0 && task.held == 0 {
            if !self.waiting.is_empty() || !self.fits(bytes) {
                self.tasks.get(tag).state = State::Waiting;
                self.waiting.push_back(tag);
                return;
            }
            self.hold(tag, bytes);
        }
        self.proceed(tag);
    }

    /// What the task's buffers take, besides its parameter list.
    fn buffer_bytes(&self, tag: u16) -> usize {
        let task = self.tasks.peek(tag);
        let bytes = match &task.job {
            Job::Read(_) => task.send,
            Job::Device(_) => task.take,
            Job::Check(_) | Job::Fill(_) => self.settings.transfer_bytes_max,
            Job::Parameters(_) | Job::None => 0,
        };
        bytes as usize
    }

    fn fits(&self, bytes: usize) -> bool {
        self.in_flight == 0 || self.in_flight + bytes <= self.settings.bytes_in_flight_max
    }

    fn hold(&mut self, tag: u16, bytes: usize) {
        self.tasks.get(tag).held = bytes;
        self.in_flight += bytes;
    }

    /// Lets in what waited for bytes in flight, in order.
    pub(super) fn let_in(&mut self) {
        if self.is_ending() {
            return;
        }
        while let Some(&tag) = self.waiting.front() {
            let bytes = self.buffer_bytes(tag);
            if !self.fits(bytes) {
                return;
            }
            self.waiting.pop_front();
            self.hold(tag, bytes);
            self.proceed(tag);
        }
    }

    fn proceed(&mut self, tag: u16) {
        let max_burst = self.parameters.max_burst_bytes;
        let task = self.tasks.get(tag);
        if task.received < task.take {
            task.state = State::Receiving;
            task.open = true;
            task.data_sn = 0;
            task.sequence_end = task.take.min(task.received.saturating_add(max_burst));
            // Any value but FFFFFFFFh: the tag, and which R2T of the task it is.
            task.ttt = u32::from(tag) | (task.r2t_sn & 0x7fff) << 16;
            self.tx.queue.push_back(Out::R2t(tag));
            return;
        }
        if let Job::Parameters(parameters) = task.job {
            let list = core::mem::take(&mut task.bytes);
            let Some(unit) = &self.unit else {
                task.failure = Some(Sense::NO_SUCH_UNIT.into());
                return self.answer(tag);
            };
            match parameters.finish(&list, unit) {
                Ok(Finished::Good) => task.job = Job::None,
                Ok(Finished::NoPayload(command)) => task.job = Job::Device(command),
                Ok(Finished::Repeat(range)) => {
                    (task.job, task.bytes) = (Job::Fill(range), list);
                    return self.advance(tag);
                }
                Err(failure) => task.failure = Some(failure),
            }
        }
        let task = self.tasks.get(tag);
        if task.failure.is_some() || task.job == Job::None {
            return self.answer(tag);
        }
        task.state = State::Submitted;
        self.submit.push_back(tag);
    }

    /// The next request for the device.
    pub(super) fn next_submit(&mut self) -> Option<Submit> {
        while let Some(tag) = self.submit.pop_front() {
            let Some(unit) = &self.unit else {
                self.fail_unsubmitted(tag);
                continue;
            };
            let (block_bytes, unit) = (unit.block_bytes(), unit.facts.unit);
            let part_blocks_max = u64::from(self.settings.transfer_bytes_max / block_bytes);
            let part = |range: &LbaRange| LbaRange::new(range.start.0, range.count.0.min(part_blocks_max));
            let task = self.tasks.get(tag);
            let mut fill = None;
            let command = match &mut task.job {
                Job::Read(range) => Command::Read(*range),
                Job::Check(range) => Command::Read(part(range)),
                Job::Fill(range) => {
                    fill = Some(task.bytes.clone());
                    Command::Write { range: part(range), fua: false }
                }
                job => match core::mem::take(job) {
                    Job::Device(command) => command,
                    Job::None | Job::Read(_) | Job::Check(_) | Job::Fill(_) | Job::Parameters(_) => {
                        self.fail_unsubmitted(tag);
                        continue;
                    }
                },
            };
            return Some(Submit { tag: Tag(tag), unit, command, fill });
        }
        None
    }

    fn fail_unsubmitted(&mut self, tag: u16) {
        let task = self.tasks.get(tag);
        task.failure = Some(Sense::NO_SUCH_UNIT.into());
        task.moved_nothing = true;
        if task.aborted { self.leave(tag) } else { self.answer(tag) }
    }

    /// The device has answered.
    pub(super) fn outcome(&mut self, tag: u16, outcome: Result<usize, &BlockError>) {
        if !self.tasks.contains(tag) || self.tasks.peek(tag).state != State::Submitted {
            return;
        }
        let block_bytes = self.unit.as_ref().map_or(512, crate::scsi::unit::LogicalUnit::block_bytes);
        let part = u64::from(self.settings.transfer_bytes_max / block_bytes);
        let task = self.tasks.get(tag);
        if let Err(error) = outcome {
            task.failure = Some(failure_of(error, if task.writes { Intent::Write } else { Intent::Read }));
            task.moved_nothing |= matches!(task.job, Job::Read(_));
        }
        // What the device has read is let go with the task, if it does not go to the initiator.
        task.answered = matches!(outcome, Ok(1..));
        if task.aborted {
            return self.leave(tag);
        }
        match (&mut task.job, outcome) {
            (Job::Read(_), Ok(bytes)) if bytes < task.send as usize => {
                // INTERNAL TARGET FAILURE: the device broke its contract.
                task.failure = Some(Sense::new(SenseKey::AbortedCommand, 0x44, 0x00).into());
                task.moved_nothing = true;
            }
            (Job::Read(_), Ok(_)) => {
                task.answered = false;
                return self.answer(tag);
            }
            (Job::Check(range), Ok(_)) if range.count.0 > part => {
                *range = LbaRange::new(range.start.0 + part, range.count.0 - part);
                self.tx.queue.push_back(Out::Release(tag, After::Check));
                return;
            }
            (Job::Fill(range), Ok(_)) if range.count.0 > part => {
                *range = LbaRange::new(range.start.0 + part, range.count.0 - part);
                self.submit.push_back(tag);
                return;
            }
            _ => {}
        }
        self.answer(tag);
    }

    /// The task is done, well or not: its data or its response goes out.
    pub(super) fn answer(&mut self, tag: u16) {
        let task = self.tasks.get(tag);
        task.state = State::Answering;
        if task.answered {
            self.tx.queue.push_back(Out::Release(tag, After::Nothing));
        }
        let with_data = task.failure.is_none() && task.send > 0;
        self.tx.queue.push_back(if with_data { Out::DataIn(tag) } else { Out::Response(tag) });
    }
}

/// `command` over the blocks that the initiator's `bytes` fill.
fn shortened(command: Command, bytes: u32, payload_bytes: u32, block_bytes: u32) -> Command {
    match command {
        Command::Write { range, fua } if bytes < payload_bytes => {
            Command::Write { range: LbaRange::new(range.start.0, (bytes / block_bytes).into()), fua }
        }
        command => command,
    }
}
