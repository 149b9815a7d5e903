//! The shell's part of the contract (`sds_proto::connection`), with an assertion for all that the machine owes it, and
//! a device that remembers nothing.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sds_block::{BlockError, Command, ErrorKind, Geometry, LbaCount, LbaRange};
use sds_proto::connection::CONTROL_BYTES_MAX;
use sds_proto::{Connection, Piece, Receive, Submit, Tag};

/// Blocks of the device.
pub const BLOCKS: u64 = 4096;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 512;
/// The largest payload that a machine may ask for: MDTS and the Block Limits page are 1 MiB.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// The steps of a pump; more is a loop without end.
const STEPS_MAX: usize = 100_000;

/// The device's shape.
#[must_use]
pub fn geometry() -> Geometry {
    Geometry {
        logical_block_bytes: BLOCK_BYTES as u32,
        physical_block_bytes: 4096,
        blocks: LbaCount(BLOCKS),
        write_cache: true,
        read_only: false,
        discard_granularity_bytes: 4096,
        optimal_transfer_bytes: 1 << 20,
        uuid: [7; 16],
    }
}

/// A machine with its buffers.
pub struct Shell<M: Connection> {
    /// The machine.
    pub machine: M,
    /// The clock.
    pub now: Duration,
    /// What it sent and nobody took.
    pub sent: Vec<u8>,
    /// So many requests stay with the device; the newest is answered first.
    pub held_max: usize,
    received: Vec<u8>,
    payloads: BTreeMap<u16, Vec<u8>>,
    answers: BTreeMap<u16, Vec<u8>>,
    held: VecDeque<Submit>,
}

impl<M: Connection> Shell<M> {
    /// A shell around a new machine.
    pub fn new(machine: M, now: Duration) -> Self {
        let (received, held) = (Vec::new(), VecDeque::new());
        let (payloads, answers) = (BTreeMap::new(), BTreeMap::new());
        Self { machine, now, sent: Vec::new(), held_max: 0, received, payloads, answers, held }
    }

    /// These bytes have come, `ms` after the last ones.
    pub fn feed(&mut self, bytes: &[u8], ms: u8, mut decide: impl FnMut(&mut M, Duration, M::Event)) {
        self.now += Duration::from_millis(ms.into());
        if self.machine.poll_timeout().is_some_and(|due| due <= self.now) {
            self.machine.handle_timeout(self.now);
        }
        self.received.extend_from_slice(bytes);
        while self.step() {}
        // As early as a shell may let go of what is not needed.
        let awaited = self.machine.awaited_payloads();
        self.payloads.retain(|tag, _| awaited.contains(&Tag(*tag)));
        self.pump(&mut decide);
    }

    /// Gives the machine what it asks for, if that is there.
    fn step(&mut self) -> bool {
        let wanted = self.machine.poll_receive();
        assert_eq!(wanted, self.machine.poll_receive(), "asking changes nothing");
        match wanted {
            Receive::Control { bytes } => {
                assert!((1..=CONTROL_BYTES_MAX).contains(&bytes), "{bytes} control bytes");
                if self.received.len() < bytes {
                    return false;
                }
                let control: Vec<u8> = self.received.drain(..bytes).collect();
                self.machine.handle_control(self.now, &control);
            }
            Receive::Payload { tag, offset, bytes, total } => {
                assert!(bytes > 0 && offset + bytes <= total && total <= PAYLOAD_BYTES_MAX, "{wanted:?}");
                if self.received.is_empty() {
                    return false;
                }
                let portion: Vec<u8> = self.received.drain(..bytes.min(self.received.len())).collect();
                let payload = self.payloads.entry(tag.0).or_default();
                payload.resize(total, 0);
                payload[offset..offset + portion.len()].copy_from_slice(&portion);
                self.machine.handle_payload(self.now, &portion);
            }
            Receive::Nothing => {
                self.received.clear();
                return false;
            }
        }
        true
    }

    fn pump(&mut self, decide: &mut impl FnMut(&mut M, Duration, M::Event)) {
        for _ in 0..STEPS_MAX {
            let mut idle = true;
            while let Some(event) = self.machine.poll_event() {
                decide(&mut self.machine, self.now, event);
                idle = false;
            }
            while let Some(submit) = self.machine.poll_submit() {
                self.check(&submit);
                self.held.push_back(submit);
                idle = false;
            }
            while self.held.len() > self.held_max {
                let Some(submit) = self.held.pop_back() else { break };
                self.run(&submit);
                idle = false;
            }
            while self.transmit() {
                idle = false;
            }
            if idle {
                return;
            }
        }
        panic!("the machine is never idle");
    }

    /// What a submitted request must have.
    fn check(&mut self, submit: &Submit) {
        let wanted = match &submit.command {
            Command::Write { range, .. } | Command::Compare(range) => range.count.0,
            Command::CompareAndWrite { range, .. } => 2 * range.count.0,
            Command::Read(range) => {
                assert!(range.count.0 as usize * BLOCK_BYTES <= PAYLOAD_BYTES_MAX, "{submit:?}");
                return;
            }
            Command::Flush | Command::WriteZeroes { .. } | Command::Discard(_) => return,
        };
        let wanted_bytes = wanted as usize * BLOCK_BYTES;
        if let Some(block) = &submit.fill {
            assert!(matches!(submit.command, Command::Write { .. }) && block.len() == BLOCK_BYTES, "{submit:?}");
            assert!(wanted_bytes <= PAYLOAD_BYTES_MAX, "{submit:?}");
            return;
        }
        let payload = self.payloads.remove(&submit.tag.0).expect("a payload was received");
        assert_eq!(payload.len(), wanted_bytes, "{submit:?}");
    }

    fn run(&mut self, submit: &Submit) {
        let tag = submit.tag;
        match answer(&submit.command) {
            Ok(0) => self.machine.handle_outcome(self.now, tag, Ok(0)),
            Ok(bytes) => {
                let before = self.answers.insert(tag.0, vec![0xa5; bytes]);
                assert!(before.is_none(), "an answer is let go before its tag is used again");
                self.machine.handle_outcome(self.now, tag, Ok(bytes));
            }
            Err(error) => self.machine.handle_outcome(self.now, tag, Err(&error)),
        }
    }

    fn transmit(&mut self) -> bool {
        match self.machine.poll_transmit() {
            None => return false,
            Some(Piece::Control(bytes)) => {
                assert!(!bytes.is_empty(), "a piece of nothing");
                self.sent.extend_from_slice(bytes);
            }
            Some(Piece::Payload { tag: Tag(tag), offset, bytes, pad, digest, last }) => {
                let answer = self.answers.get(&tag).expect("only what a device answered is sent");
                self.sent.extend_from_slice(&answer[offset..offset + bytes]);
                self.sent.resize(self.sent.len() + pad + if digest { 4 } else { 0 }, 0);
                if last {
                    self.answers.remove(&tag);
                }
            }
        }
        true
    }

    /// The device answers all, and much time passes: the end of a run.
    pub fn finish(&mut self, mut decide: impl FnMut(&mut M, Duration, M::Event)) {
        self.held_max = 0;
        self.pump(&mut decide);
        let ends = self.machine.termination().is_some() || self.machine.is_closed();
        assert!(ends || self.answers.is_empty(), "an answer is neither sent nor let go");
        for _ in 0..4 {
            if let Some(due) = self.machine.poll_timeout() {
                self.now = self.now.max(due);
                self.machine.handle_timeout(self.now);
                self.pump(&mut decide);
            }
        }
        if self.machine.termination().is_some() {
            assert_eq!(self.machine.poll_receive(), Receive::Nothing, "what is terminated receives nothing");
            assert!(self.machine.is_closed(), "what is terminated and has sent all is closed");
        }
    }
}

/// Ranges past the end fail, and some others: every block whose number ends in binary 1111 can't be read.
fn answer(command: &Command) -> Result<usize, BlockError> {
    let check = |range: &LbaRange| {
        range.check(LbaCount(BLOCKS))?;
        if range.start.0 % 16 == 15 { Err(BlockError::new(ErrorKind::MediaError, "as the run asks")) } else { Ok(()) }
    };
    match command {
        Command::Read(range) => check(range).map(|()| range.count.0 as usize * BLOCK_BYTES),
        Command::Write { range, .. } | Command::WriteZeroes { range, .. } => check(range).map(|()| 0),
        Command::Compare(range) | Command::CompareAndWrite { range, .. } => {
            check(range)?;
            let differs = BlockError::new(ErrorKind::Miscompare, "the bytes differ").with_value(3);
            if range.start.0 % 2 == 0 { Ok(0) } else { Err(differs) }
        }
        Command::Discard(ranges) => ranges.iter().try_for_each(check).map(|()| 0),
        Command::Flush => Ok(0),
    }
}
