//! A small initiator and a memory device around the machine, and scenarios of both.

mod pdus;
mod scenarios;
mod streams;

use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use sds_block::{BlockError, Command, ErrorKind, Geometry, LbaCount};

use super::*;
use crate::connection::{Connection, Piece, Receive, Tag, Unit};
use crate::crc32c::crc32c;
use crate::scsi::unit::UnitFacts;

pub const BLOCKS: u64 = 4096;
pub const TARGET: &str = "iqn.2026-11.io.sds:pool.volume";
/// What open-iscsi 2.1 sends, in the order in which it does.
pub const OPEN_ISCSI: &[u8] =
    b"HeaderDigest=None\0DataDigest=None\0DefaultTime2Wait=2\0DefaultTime2Retain=0\0IFMarker=No\0\
OFMarker=No\0ErrorRecoveryLevel=0\0InitialR2T=No\0ImmediateData=Yes\0MaxBurstLength=16776192\0FirstBurstLength=262144\0\
MaxOutstandingR2T=1\0MaxConnections=1\0DataPDUInOrder=Yes\0DataSequenceInOrder=Yes\0MaxRecvDataSegmentLength=262144\0";

pub fn facts(blocks: u64) -> UnitFacts {
    UnitFacts {
        unit: Unit(0),
        geometry: Geometry {
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            blocks: LbaCount(blocks),
            write_cache: true,
            read_only: false,
            discard_granularity_bytes: 4096,
            optimal_transfer_bytes: 1 << 20,
            uuid: [7; 16],
        },
        vendor: "SDS".to_string(),
        product: "VOLUME".to_string(),
        revision: "1".to_string(),
        serial: "S1".to_string(),
    }
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub bhs: [u8; 48],
    pub data: Vec<u8>,
}

impl Got {
    pub fn opcode(&self) -> u8 {
        self.bhs[0]
    }
    pub fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.bhs[at..at + 4].try_into().unwrap())
    }
    /// Sense key, ASC, ASCQ.
    pub fn sense(&self) -> (u8, u8, u8) {
        (self.data[2 + 2], self.data[2 + 12], self.data[2 + 13])
    }
}

/// The machine, its shell and its device.
pub struct World {
    pub machine: TargetConnection,
    pub now: Duration,
    pub disk: Vec<u8>,
    payloads: BTreeMap<u16, Vec<u8>>,
    answers: BTreeMap<u16, Vec<u8>>,
    /// Requests are answered at once, or kept in `held`.
    pub hold: bool,
    pub held: Vec<(Tag, Command)>,
    pub fail: Option<ErrorKind>,
    pub events: Vec<Event>,
    /// Resets are answered at once.
    pub answer_resets: bool,
    stream: Vec<u8>,
    pub sent: Vec<u8>,
    pub digests: (bool, bool),
    pub cmd_sn: u32,
    pub portions: usize,
}

impl World {
    pub fn new(settings: Settings) -> Self {
        Self {
            machine: TargetConnection::new(settings, Duration::ZERO),
            now: Duration::ZERO,
            disk: vec![0; BLOCKS as usize * 512],
            payloads: BTreeMap::new(),
            answers: BTreeMap::new(),
            hold: false,
            held: Vec::new(),
            fail: None,
            events: Vec::new(),
            answer_resets: true,
            stream: Vec::new(),
            sent: Vec::new(),
            digests: (false, false),
            cmd_sn: 100,
            portions: usize::MAX,
        }
    }

    /// A session after login and the first unit attention.
    pub fn logged_in(settings: Settings, keys: &[u8]) -> Self {
        let mut world = Self::new(settings);
        let got = world.log_in(keys);
        assert_eq!((got.opcode(), got.bhs[36]), (0x23, 0), "{:?}", world.machine.termination());
        let attention = world.command(&[0, 0, 0, 0, 0, 0], 0, 0x80);
        assert_eq!(attention[0].sense(), (6, 0x29, 0x00));
        world
    }

    pub fn log_in(&mut self, keys: &[u8]) -> Got {
        let mut text = b"InitiatorName=iqn.1993-08.org.debian:01:abc\0SessionType=Normal\0TargetName=".to_vec();
        text.extend_from_slice(TARGET.as_bytes());
        text.extend_from_slice(b"\0AuthMethod=None\0");
        let first = self.send(&login_pdu(0x81, &text, self.cmd_sn));
        assert_eq!(first[0].bhs[1], 0x81);
        assert_eq!(first[0].data, b"AuthMethod=None\0TargetPortalGroupTag=1\0");
        let got = self.send(&login_pdu(0x87, keys, self.cmd_sn)).remove(0);
        let said = |wanted: &[u8]| got.data.split(|&byte| byte == 0).any(|pair| pair == wanted);
        self.digests = (said(b"HeaderDigest=CRC32C"), said(b"DataDigest=CRC32C"));
        got
    }

    /// A whole PDU with the digests that were agreed.
    pub fn frame(&self, pdu: &[u8]) -> Vec<u8> {
        let mut out = pdu[..48].to_vec();
        if self.digests.0 {
            out.extend_from_slice(&crc32c(&pdu[..48]).to_le_bytes());
        }
        out.extend_from_slice(&pdu[48..]);
        if self.digests.1 && pdu.len() > 48 {
            out.extend_from_slice(&crc32c(&pdu[48..]).to_le_bytes());
        }
        out
    }

    pub fn send(&mut self, pdu: &[u8]) -> Vec<Got> {
        let bytes = self.frame(pdu);
        self.raw(&bytes)
    }

    /// A SCSI command with the next CmdSN; `flags` F, R, W.
    pub fn command(&mut self, cdb: &[u8], expected: u32, flags: u8) -> Vec<Got> {
        self.command_with(cdb, expected, flags, &[])
    }

    pub fn command_with(&mut self, cdb: &[u8], expected: u32, flags: u8, data: &[u8]) -> Vec<Got> {
        let pdu = command_pdu(self.cmd_sn, cdb, expected, flags, data, self.cmd_sn);
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.send(&pdu)
    }

    /// Bytes as they come; what the target sends.
    pub fn raw(&mut self, bytes: &[u8]) -> Vec<Got> {
        for portion in bytes.chunks(self.portions) {
            self.stream.extend_from_slice(portion);
            self.feed();
            self.pump();
        }
        self.parse()
    }

    fn feed(&mut self) {
        let mut at = 0;
        loop {
            match self.machine.poll_receive() {
                Receive::Control { bytes } => {
                    assert!(bytes > 0 && bytes <= crate::connection::CONTROL_BYTES_MAX);
                    let Some(part) = self.stream.get(at..at + bytes) else { break };
                    self.machine.handle_control(self.now, part);
                    at += bytes;
                }
                Receive::Payload { tag, offset, bytes, total } => {
                    let part = &self.stream[at..self.stream.len().min(at + bytes)];
                    if part.is_empty() {
                        break;
                    }
                    let buffer = self.payloads.entry(tag.0).or_default();
                    buffer.resize(total, 0xee);
                    buffer[offset..offset + part.len()].copy_from_slice(part);
                    self.machine.handle_payload(self.now, part);
                    at += part.len();
                }
                Receive::Nothing => {
                    at = self.stream.len();
                    break;
                }
            }
            // As a shell does between two PDUs when it likes; here always.
            self.decide();
        }
        self.stream.drain(..at);
        // As early as a shell may let go of what is not needed; what is held is with the device.
        let awaited = self.machine.awaited_payloads();
        let is_held = |tag: u16| self.held.iter().any(|(held, _)| held.0 == tag);
        self.payloads.retain(|tag, _| awaited.contains(&Tag(*tag)) || is_held(*tag));
    }

    fn decide(&mut self) {
        while let Some(event) = self.machine.poll_event() {
            self.events.push(event.clone());
            match event {
                Event::Login(request) => {
                    let answer = match request.kind {
                        SessionKind::Discovery => {
                            LoginAnswer::Accept(LoginAccept { tsih: 9, portal_group: 1, unit: None })
                        }
                        SessionKind::Normal { target } if target == TARGET => {
                            LoginAnswer::Accept(LoginAccept { tsih: 9, portal_group: 1, unit: Some(facts(BLOCKS)) })
                        }
                        SessionKind::Normal { .. } => LoginAnswer::Refuse(LoginRefusal::TargetNotFound),
                    };
                    self.machine.answer_login(self.now, answer);
                }
                Event::SessionStarted(_) => {}
                Event::SendTargets(_) => {
                    let listing =
                        TargetListing { name: TARGET.to_string(), addresses: vec!["192.0.2.1:3260,1".to_string()] };
                    self.machine.answer_send_targets(self.now, &[listing]);
                }
                Event::Reset(_) if self.answer_resets => self.machine.answer_reset(self.now),
                Event::Reset(_) => {}
            }
        }
    }

    pub fn pump(&mut self) {
        loop {
            self.decide();
            let mut idle = true;
            while let Some(submit) = self.machine.poll_submit() {
                idle = false;
                assert_eq!(submit.unit, Unit(0));
                if let (Command::Write { range, .. }, Some(block)) = (&submit.command, &submit.fill) {
                    self.payloads.insert(submit.tag.0, block.repeat(range.count.0 as usize));
                }
                if self.hold {
                    self.held.push((submit.tag, submit.command));
                } else {
                    self.run(submit.tag, submit.command);
                }
            }
            while let Some(piece) = self.machine.poll_transmit() {
                idle = false;
                match piece {
                    Piece::Control(bytes) => self.sent.extend_from_slice(bytes),
                    Piece::Payload { tag, offset, bytes, pad, digest, last } => {
                        let answer = self.answers.get(&tag.0).expect("only what a device answered is sent");
                        let start = self.sent.len();
                        self.sent.extend_from_slice(&answer[offset..offset + bytes]);
                        self.sent.resize(self.sent.len() + pad, 0);
                        if digest {
                            let digest = crc32c(&self.sent[start..]);
                            self.sent.extend_from_slice(&digest.to_le_bytes());
                        }
                        if last {
                            self.answers.remove(&tag.0);
                        }
                    }
                }
            }
            if idle {
                return;
            }
        }
    }

    /// The device's part.
    pub fn run(&mut self, tag: Tag, command: Command) {
        let outcome = match self.fail {
            Some(kind) => Err(BlockError::new(kind, "a test says so")),
            None => self.execute(tag, &command),
        };
        match outcome {
            Ok(Some(bytes)) => {
                let count = bytes.len();
                assert!(
                    self.answers.insert(tag.0, bytes).is_none(),
                    "an answer is let go before its tag is used again"
                );
                self.machine.handle_outcome(self.now, tag, Ok(count));
            }
            Ok(None) => self.machine.handle_outcome(self.now, tag, Ok(0)),
            Err(error) => self.machine.handle_outcome(self.now, tag, Err(&error)),
        }
    }

    fn execute(&mut self, tag: Tag, command: &Command) -> Result<Option<Vec<u8>>, BlockError> {
        let place = |range: &sds_block::LbaRange| {
            let start = range.start.0 as usize * 512;
            start..start + range.count.0 as usize * 512
        };
        match command {
            Command::Read(range) => return Ok(Some(self.disk[place(range)].to_vec())),
            Command::Write { range, .. } => {
                let payload = self.payloads.remove(&tag.0).expect("a write has its payload");
                self.disk[place(range)].copy_from_slice(&payload);
            }
            Command::Compare(range) => {
                let payload = self.payloads.remove(&tag.0).expect("a compare has its payload");
                if let Some(at) = self.disk[place(range)].iter().zip(&payload).position(|(a, b)| a != b) {
                    return Err(BlockError::new(ErrorKind::Miscompare, "differs").with_value(at as u64));
                }
            }
            Command::CompareAndWrite { range, .. } => {
                let payload = self.payloads.remove(&tag.0).expect("has its payload");
                let (expected, new) = payload.split_at(payload.len() / 2);
                if self.disk[place(range)] != *expected {
                    return Err(BlockError::new(ErrorKind::Miscompare, "differs").with_value(0));
                }
                self.disk[place(range)].copy_from_slice(new);
            }
            Command::Flush => {}
            Command::WriteZeroes { range, .. } => self.disk[place(range)].fill(0),
            Command::Discard(ranges) => ranges.iter().for_each(|range| self.disk[place(range)].fill(0)),
        }
        Ok(None)
    }

    fn parse(&mut self) -> Vec<Got> {
        let mut got = Vec::new();
        let mut at = 0;
        while self.sent.len() - at >= 48 {
            // The answer that completes login, and those before it, have no digests: `digests` is set after them.
            let (header, data) = self.digests;
            let bhs: [u8; 48] = self.sent[at..at + 48].try_into().unwrap();
            at += 48;
            if header {
                assert_eq!(self.sent[at..at + 4], crc32c(&bhs).to_le_bytes());
                at += 4;
            }
            let bytes = u32::from_be_bytes([0, bhs[5], bhs[6], bhs[7]]) as usize;
            let padded = bytes.next_multiple_of(4);
            let body = self.sent[at..at + padded].to_vec();
            at += padded;
            if data && bytes > 0 {
                assert_eq!(self.sent[at..at + 4], crc32c(&body).to_le_bytes());
                at += 4;
            }
            got.push(Got { bhs, data: body[..bytes].to_vec() });
        }
        assert_eq!(at, self.sent.len(), "whole PDUs are sent");
        self.sent.clear();
        got
    }

    /// What was sent since, after the device or the glue did something.
    pub fn sent(&mut self) -> Vec<Got> {
        self.pump();
        self.parse()
    }
}

fn with_data(mut bhs: Vec<u8>, data: &[u8]) -> Vec<u8> {
    bhs[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
    bhs.extend_from_slice(data);
    bhs.resize(bhs.len().next_multiple_of(4), 0);
    bhs
}

pub fn login_pdu(flags: u8, text: &[u8], cmd_sn: u32) -> Vec<u8> {
    let mut bhs = vec![0; 48];
    bhs[0] = 0x43;
    bhs[1] = flags;
    bhs[8..14].copy_from_slice(&[0x00, 0x02, 0x3d, 0, 0, 1]);
    bhs[24..28].copy_from_slice(&cmd_sn.to_be_bytes());
    with_data(bhs, text)
}

pub fn command_pdu(itt: u32, cdb: &[u8], expected: u32, flags: u8, data: &[u8], cmd_sn: u32) -> Vec<u8> {
    let mut bhs = vec![0; 48];
    bhs[0] = 0x01;
    bhs[1] = flags;
    bhs[16..20].copy_from_slice(&itt.to_be_bytes());
    bhs[20..24].copy_from_slice(&expected.to_be_bytes());
    bhs[24..28].copy_from_slice(&cmd_sn.to_be_bytes());
    bhs[32..32 + cdb.len()].copy_from_slice(cdb);
    with_data(bhs, data)
}

pub fn data_out_pdu(itt: u32, ttt: u32, sn: u32, offset: u32, last: bool, data: &[u8]) -> Vec<u8> {
    let mut bhs = vec![0; 48];
    bhs[0] = 0x05;
    bhs[1] = u8::from(last) << 7;
    bhs[16..20].copy_from_slice(&itt.to_be_bytes());
    bhs[20..24].copy_from_slice(&ttt.to_be_bytes());
    bhs[36..40].copy_from_slice(&sn.to_be_bytes());
    bhs[40..44].copy_from_slice(&offset.to_be_bytes());
    with_data(bhs, data)
}

/// Any other request: opcode, flags, ITT, the word at 20, CmdSN.
pub fn request_pdu(opcode: u8, flags: u8, itt: u32, word_20: u32, cmd_sn: u32, data: &[u8]) -> Vec<u8> {
    let mut bhs = vec![0; 48];
    (bhs[0], bhs[1]) = (opcode, flags);
    bhs[16..20].copy_from_slice(&itt.to_be_bytes());
    bhs[20..24].copy_from_slice(&word_20.to_be_bytes());
    bhs[24..28].copy_from_slice(&cmd_sn.to_be_bytes());
    with_data(bhs, data)
}

pub fn write_10(lba: u32, blocks: u16) -> [u8; 10] {
    rw_10(0x2a, lba, blocks)
}

pub fn read_10(lba: u32, blocks: u16) -> [u8; 10] {
    rw_10(0x28, lba, blocks)
}

fn rw_10(code: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let mut cdb = [0; 10];
    cdb[0] = code;
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}
