//! A target's end of an NVMe/TCP queue, as our host sees it: any bytes in any portions, with all commands open.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use sds_fuzz::words::{Words, portions};
use sds_proto::connection::CONTROL_BYTES_MAX;
use sds_proto::nvme::initiator::{Config, Data, Initiator, Progress};
use sds_proto::nvme::pdu::Digests;
use sds_proto::nvme::spec::command::{Sqe, admin};
use sds_proto::{Piece, Receive};

const DEPTH: u16 = 6;
/// ICResp: PFV 0, CPDA 0, no digests, MAXH2CDATA 4096.
const IC_RESP: [u8; 16] = [1, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0];
/// Connect's answer: controller 1, CID 0, success.
const CONNECTED: [u8; 24] = [5, 0, 24, 0, 24, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

struct Host {
    machine: Initiator,
    received: Vec<u8>,
    /// How many bytes each open tag moves, and whether it may be sent from.
    open: BTreeMap<u16, (usize, bool)>,
    commands: u8,
}

impl Host {
    fn feed(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
        loop {
            match self.machine.poll_receive() {
                Receive::Control { bytes } if self.received.len() >= bytes => {
                    assert!((1..=CONTROL_BYTES_MAX).contains(&bytes), "{bytes} control bytes");
                    let control: Vec<u8> = self.received.drain(..bytes).collect();
                    self.machine.handle_control(&control);
                }
                Receive::Payload { tag, offset, bytes, total } if !self.received.is_empty() => {
                    let (wanted, sends) = self.open[&tag.0];
                    assert!(bytes > 0 && offset + bytes <= total && total == wanted && !sends, "tag {tag:?}");
                    let portion: Vec<u8> = self.received.drain(..bytes.min(self.received.len())).collect();
                    self.machine.handle_payload(&portion);
                }
                Receive::Control { .. } | Receive::Payload { .. } | Receive::Nothing => break,
            }
        }
        self.turn();
    }

    /// Completions make room for further commands; all that is to be sent is looked at.
    fn turn(&mut self) {
        while let Some(completion) = self.machine.poll_completion() {
            assert!(self.open.remove(&completion.tag.0).is_some(), "a command ends once");
        }
        while self.machine.room() > 0 && matches!(self.machine.progress(), Progress::Connected(_)) {
            let machine = &mut self.machine;
            self.commands = self.commands.wrapping_add(1);
            let identify = Sqe { opcode: admin::IDENTIFY, ..Sqe::default() };
            let (tag, bytes, sends) = match self.commands % 6 {
                0 => (machine.read(1, 0, 4, 2048), 2048, false),
                1 => (machine.write(1, 0, 2, 1024, true), 1024, true),
                2 => (machine.write(1, 8, 40, 20_480, false), 20_480, true),
                3 => (machine.submit(identify, Data::ReadControl(4096)), 0, false),
                4 => (machine.submit(identify, Data::WriteControl(vec![1; 16])), 0, false),
                _ => (machine.flush(1), 0, false),
            };
            let before = self.open.insert(tag.expect("there is room").0, (bytes, sends));
            assert!(before.is_none(), "a tag names one command");
        }
        while let Some(piece) = self.machine.poll_transmit() {
            if let Piece::Payload { tag, offset, bytes, .. } = piece {
                let (total, sends) = self.open[&tag.0];
                assert!(sends && bytes > 0 && offset + bytes <= total, "tag {tag:?}: {offset} + {bytes}");
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut words = Words(input);
    let (options, lengths) = (words.u8(), words.array());
    let machine = Initiator::new(Config {
        host_nqn: "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555".to_owned(),
        host_id: [0x5a; 16],
        subsystem_nqn: "nqn.2026-11.io.sds:archive.pacs".to_owned(),
        queue_id: u16::from(options & 1),
        controller_id: 1,
        queue_depth: DEPTH,
        keep_alive_ms: 5000,
        digests: Digests::default(),
        disable_flow_control: options & 2 != 0,
        in_capsule_bytes: 8192,
    });
    let mut host = Host { machine, received: Vec::new(), open: BTreeMap::new(), commands: 0 };
    host.turn();
    if options & 4 == 0 {
        let mut ic_resp = [0; 128];
        ic_resp[..16].copy_from_slice(&IC_RESP);
        host.feed(&ic_resp);
        host.feed(&CONNECTED);
        assert!(matches!(host.machine.progress(), Progress::Connected(1)), "{:?}", host.machine.termination());
    }
    portions(words.rest(), lengths).for_each(|portion| host.feed(portion));
    if host.machine.termination().is_some() {
        assert!(host.machine.is_closed() && host.machine.poll_receive() == Receive::Nothing, "an end is an end");
    }
});
