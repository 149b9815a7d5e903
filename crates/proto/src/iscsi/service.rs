//! Everything but SCSI: login, text, ping, reject.

use alloc::vec::Vec;

use super::connection::{Phase, TargetConnection};
use super::event::{Event, SessionStarted, TargetListing, Targets};
use super::login::{self, Step};
use super::pdu::{self, Answer, BHS_BYTES, CONTINUE, FINAL, RejectReason, TAG_NONE, U24};
use super::receive::{Plan, Sink, Then};
use super::text;
use super::transmit::Prepared;

/// Ping data that is sent back.
const PING_BYTES_MAX: usize = 8192;

/// A text negotiation: one at a time.
#[derive(Debug, Default)]
pub struct TextExchange {
    request: Vec<u8>,
    itt: u32,
    /// The glue is asked for targets.
    asked: bool,
    reply: Vec<u8>,
    /// How much of the reply was sent.
    sent: usize,
}

impl TargetConnection {
    /// Plans the data of a header.
    pub(super) fn plan(&mut self, bhs: &[u8; BHS_BYTES]) -> Plan {
        let header = pdu::view::<pdu::Bhs>(bhs);
        let bytes = header.data_bytes.get();
        let collect = |wanted| Plan { sink: Some(Sink::Collect), wanted, then: Then::Header };
        let opcode = header.opcode & pdu::OPCODE;
        if self.phase == Phase::Login {
            let login = opcode == pdu::request::LOGIN && bytes as usize <= text::TEXT_BYTES_MAX;
            if !login || self.login.is_waiting() {
                self.terminate("before login is complete only login requests may come", opcode.into());
                return Plan::IGNORE;
            }
            return collect(text::TEXT_BYTES_MAX);
        }
        if bytes > self.settings.receive_segment_bytes {
            self.reject(bhs, RejectReason::Protocol);
            self.terminate("DataSegmentLength is above MaxRecvDataSegmentLength", bytes.into());
            return Plan::IGNORE;
        }
        match opcode {
            pdu::request::SCSI_COMMAND => self.start_command(bhs),
            pdu::request::DATA_OUT => self.start_data_out(bhs),
            pdu::request::NOP_OUT => collect(PING_BYTES_MAX),
            pdu::request::TEXT if bytes as usize <= text::TEXT_BYTES_MAX => collect(text::TEXT_BYTES_MAX),
            pdu::request::TASK_MANAGEMENT | pdu::request::LOGOUT => collect(0),
            pdu::request::SNACK => {
                self.reject(bhs, RejectReason::Snack);
                Plan::IGNORE
            }
            pdu::request::LOGIN => {
                self.reject(bhs, RejectReason::Protocol);
                self.terminate("login in the full feature phase", 0);
                Plan::IGNORE
            }
            pdu::request::TEXT => {
                self.reject(bhs, RejectReason::OutOfResources);
                Plan::IGNORE
            }
            _ => {
                self.reject(bhs, RejectReason::NotSupported);
                Plan::IGNORE
            }
        }
    }

    /// A PDU that is not SCSI's is whole.
    pub(super) fn header_whole(&mut self, bhs: &[u8; BHS_BYTES], data: Vec<u8>) {
        let opcode = pdu::view::<pdu::Bhs>(bhs).opcode & pdu::OPCODE;
        match opcode {
            pdu::request::LOGIN => {
                let request = pdu::view::<pdu::LoginRequest>(bhs);
                self.sequence.exp_cmd_sn = request.cmd_sn.get();
                match self.login.handle(request, &data, &self.settings) {
                    Step::Ask(request) => self.events.push_back(Event::Login(request)),
                    Step::Answer(answer) => self.login_answer(answer),
                }
            }
            pdu::request::NOP_OUT => self.ping(bhs, data),
            pdu::request::TEXT => self.text(bhs, &data),
            pdu::request::TASK_MANAGEMENT if self.phase != (Phase::Full { discovery: false }) => {
                self.reject(bhs, RejectReason::Protocol);
            }
            pdu::request::TASK_MANAGEMENT => self.task_management(bhs),
            pdu::request::LOGOUT => self.logout(bhs),
            _ => {}
        }
    }

    pub(super) fn login_answer(&mut self, answer: login::Answer) {
        let completes_login = answer.complete;
        self.prepare(Prepared { bhs: answer.bhs, data: answer.data, advance: true, completes_login });
        if let Some(refused) = answer.refused {
            self.terminate(refused.reason, refused.status.into());
        }
        if completes_login {
            self.parameters = self.login.parameters;
            self.phase = Phase::Full { discovery: self.unit.is_none() && self.discovery };
            self.rx.header_digest = self.parameters.header_digest;
            self.rx.data_digest = self.parameters.data_digest;
            self.events.push_back(Event::SessionStarted(SessionStarted {
                header_digest: self.parameters.header_digest,
                data_digest: self.parameters.data_digest,
                initiator_data_segment_bytes: self.parameters.send_segment_bytes,
            }));
        }
    }

    fn ping(&mut self, bhs: &[u8; BHS_BYTES], mut data: Vec<u8>) {
        let header = pdu::view::<pdu::Bhs>(bhs);
        if header.itt.get() == TAG_NONE {
            // The answer to our own ping: that it came is all.
            return;
        }
        if !self.admit(bhs) {
            return;
        }
        data.truncate(self.parameters.send_segment_bytes as usize);
        let answer = Answer {
            opcode: pdu::response::NOP_IN,
            flags: FINAL,
            data_bytes: U24::new(data.len() as u32),
            lun: header.lun,
            itt: header.itt,
            ttt: TAG_NONE.into(),
            ..Answer::default()
        };
        self.prepare(Prepared { bhs: pdu::bytes(&answer), data, advance: true, completes_login: false });
    }

    /// Asks the initiator whether it lives.
    pub(super) fn send_ping(&mut self) {
        let answer = Answer {
            opcode: pdu::response::NOP_IN,
            flags: FINAL,
            itt: TAG_NONE.into(),
            ttt: 1.into(),
            ..Answer::default()
        };
        let bhs = pdu::bytes(&answer);
        self.prepare(Prepared { bhs, data: Vec::new(), advance: false, completes_login: false });
    }

    fn text(&mut self, bhs: &[u8; BHS_BYTES], data: &[u8]) {
        if !self.admit(bhs) {
            return;
        }
        let header = pdu::view::<pdu::Bhs>(bhs);
        let exchange = &mut self.text;
        if exchange.asked {
            return self.reject(bhs, RejectReason::Protocol);
        }
        let ttt = header.specific_20.get();
        if ttt == TAG_NONE {
            exchange.request.clear();
            exchange.reply.clear();
            exchange.sent = 0;
        }
        exchange.itt = header.itt.get();
        if exchange.request.len() + data.len() > text::TEXT_BYTES_MAX {
            return self.reject(bhs, RejectReason::OutOfResources);
        }
        exchange.request.extend_from_slice(data);
        if header.flags & CONTINUE != 0 || (ttt != TAG_NONE && exchange.sent < exchange.reply.len()) {
            return self.send_text();
        }
        let request = core::mem::take(&mut self.text.request);
        let Ok(pairs) = text::parse(&request) else {
            return self.reject(bhs, RejectReason::Protocol);
        };
        for (key, value) in pairs {
            match key {
                "SendTargets" => {
                    let targets = match value {
                        "All" => Targets::All,
                        "" => Targets::Own,
                        name => Targets::Named(name.to_ascii_lowercase()),
                    };
                    let normal = !self.discovery;
                    let allowed = match &targets {
                        Targets::All => !normal,
                        Targets::Named(_) => true,
                        Targets::Own => normal,
                    };
                    if !allowed || self.text.asked {
                        text::put(&mut self.text.reply, key, "Reject");
                        continue;
                    }
                    self.text.asked = true;
                    self.events.push_back(Event::SendTargets(targets));
                }
                "MaxRecvDataSegmentLength" => match text::number(value) {
                    Some(bytes @ 512..=0x00ff_ffff) => self.parameters.send_segment_bytes = bytes,
                    _ => text::put(&mut self.text.reply, key, "Reject"),
                },
                _ => text::put(&mut self.text.reply, key, "NotUnderstood"),
            }
        }
        if !self.text.asked {
            self.send_text();
        }
    }

    pub(super) fn targets_answered(&mut self, targets: &[TargetListing]) {
        if !core::mem::take(&mut self.text.asked) {
            return;
        }
        for target in targets {
            text::put(&mut self.text.reply, "TargetName", &target.name);
            for address in &target.addresses {
                text::put(&mut self.text.reply, "TargetAddress", address);
            }
        }
        self.send_text();
    }

    /// The next part of the reply; the initiator asks for further ones with the TTT (11.11.4).
    fn send_text(&mut self) {
        let exchange = &mut self.text;
        let left = exchange.reply.len() - exchange.sent;
        let bytes = left.min(self.parameters.send_segment_bytes as usize);
        let data = exchange.reply[exchange.sent..exchange.sent + bytes].to_vec();
        exchange.sent += bytes;
        let more_in = !exchange.request.is_empty();
        let more_out = bytes < left;
        let answer = Answer {
            opcode: pdu::response::TEXT,
            flags: if more_out {
                CONTINUE
            } else if more_in {
                0
            } else {
                FINAL
            },
            data_bytes: U24::new(bytes as u32),
            itt: exchange.itt.into(),
            ttt: if more_out || more_in { 2 } else { TAG_NONE }.into(),
            ..Answer::default()
        };
        self.prepare(Prepared { bhs: pdu::bytes(&answer), data, advance: true, completes_login: false });
    }

    /// Sends a header back with the reason (11.17).
    pub(super) fn reject(&mut self, rejected: &[u8; BHS_BYTES], reason: RejectReason) {
        let header = pdu::Reject {
            opcode: pdu::response::REJECT,
            flags: FINAL,
            reason: reason as u8,
            data_bytes: U24::new(BHS_BYTES as u32),
            itt: TAG_NONE.into(),
            ..pdu::Reject::default()
        };
        let (bhs, data) = (pdu::bytes(&header), rejected.to_vec());
        self.prepare(Prepared { bhs, data, advance: true, completes_login: false });
    }
}
