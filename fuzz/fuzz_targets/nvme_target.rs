//! A host's end of an NVMe/TCP queue: Discovery, admin or I/O, with any bytes in any portions after a Connect that is
//! the machine's own, or from the first byte on.
#![no_main]

use std::collections::BTreeMap;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use sds_fuzz::shell::{BLOCK_BYTES, Shell, geometry};
use sds_fuzz::words::{Words, portions};
use sds_proto::Receive;
use sds_proto::crc32c::crc32c;
use sds_proto::nvme::controller::Controller;
use sds_proto::nvme::event::{
    ConnectRefusal, DISCOVERY_NQN, DiscoveryEntry, Event, Identity, Namespace, QueueLimits, Subsystem,
};
use sds_proto::nvme::initiator::{Config, Data, Initiator, Progress};
use sds_proto::nvme::pdu::Digests;
use sds_proto::nvme::queue::Queue;
use sds_proto::nvme::spec::command::{FABRICS, Sqe, fctype, property};

const SUBSYSTEM: &str = "nqn.2026-11.io.sds:archive.pacs";

/// What the queues of an association share.
struct World {
    controllers: BTreeMap<u16, Controller>,
    entries: Vec<DiscoveryEntry>,
}

impl World {
    fn new() -> Self {
        let entry = DiscoveryEntry {
            subsystem_nqn: SUBSYSTEM.to_owned(),
            address: "192.0.2.1".to_owned(),
            ipv6: false,
            port: 4420,
            port_id: 1,
            discovery: false,
        };
        Self { controllers: BTreeMap::new(), entries: vec![entry] }
    }

    fn with<R>(&mut self, id: u16, act: impl FnOnce(&mut Controller, &Subsystem<'_>) -> R) -> R {
        let controller = self.controllers.get_mut(&id).expect("a connected queue has a controller");
        let namespaces = [Namespace { nsid: 1, geometry: geometry() }];
        let namespaces = if controller.is_discovery() { &[][..] } else { &namespaces[..] };
        act(controller, &Subsystem { namespaces, entries: &self.entries, generation: 1 })
    }

    fn decide(&mut self, queue: &mut Queue, now: Duration, event: Event) {
        match event {
            Event::Connect(request) => {
                let discovery = request.subsystem_nqn == DISCOVERY_NQN;
                if !discovery && request.subsystem_nqn != SUBSYSTEM {
                    return queue.refuse(now, ConnectRefusal::UnknownSubsystem);
                }
                if request.queue_id != 0 {
                    if !self.controllers.contains_key(&request.controller_id) {
                        return queue.refuse(now, ConnectRefusal::UnknownController);
                    }
                    let granted = self.with(request.controller_id, |c, subsystem| c.connect_io(&request, subsystem));
                    return match granted {
                        Ok(acceptance) => queue.accept(now, acceptance),
                        Err(refusal) => queue.refuse(now, refusal),
                    };
                }
                let identity = Identity {
                    controller_id: self.controllers.len() as u16 + 1,
                    serial: "0123456789".to_owned(),
                    subsystem_nqn: request.subsystem_nqn.clone(),
                    discovery,
                    queue_depth_max: QueueLimits::default().queue_depth_max,
                };
                let namespaces = [Namespace { nsid: 1, geometry: geometry() }];
                let namespaces = if discovery { &[][..] } else { &namespaces[..] };
                let subsystem = Subsystem { namespaces, entries: &self.entries, generation: 1 };
                match Controller::new(identity, &request, &subsystem) {
                    Ok((controller, acceptance)) => {
                        self.controllers.insert(controller.id(), controller);
                        queue.accept(now, acceptance);
                    }
                    Err(refusal) => queue.refuse(now, refusal),
                }
            }
            Event::Admin => {
                let id = queue.peer().expect("only a connected queue has commands").controller_id;
                self.with(id, |controller, subsystem| queue.run_admin(now, controller, subsystem));
            }
            Event::Refused(refused) => {
                let id = queue.peer().expect("only a connected queue has commands").controller_id;
                self.with(id, |controller, _| controller.note_refused(&refused));
            }
            Event::QueuesDeleted { .. } => queue.close(),
        }
    }

    fn new_queue(&self, in_flight_max: usize) -> Shell<Queue> {
        let limits = QueueLimits { bytes_in_flight_max: in_flight_max, ..QueueLimits::default() };
        Shell::new(Queue::new(limits, Duration::ZERO), Duration::ZERO)
    }

    /// Passes bytes between an own host and the target until both are silent.
    fn settle(&mut self, host: &mut Initiator, target: &mut Shell<Queue>) {
        loop {
            let mut out = Vec::new();
            while let Some(sds_proto::Piece::Control(bytes)) = host.poll_transmit() {
                out.extend_from_slice(bytes);
            }
            target.feed(&out, 0, |queue, now, event| self.decide(queue, now, event));
            let mut answer = &std::mem::take(&mut target.sent)[..];
            if out.is_empty() && answer.is_empty() {
                return;
            }
            while let Receive::Control { bytes } = host.poll_receive() {
                let Some((control, rest)) = answer.split_at_checked(bytes) else { break };
                host.handle_control(control);
                answer = rest;
            }
        }
    }

    /// A connected queue; the controller's own is enabled.
    fn connected(&mut self, queue_id: u16, subsystem: &str, digests: Digests, in_flight_max: usize) -> Shell<Queue> {
        let mut target = self.new_queue(in_flight_max);
        let mut host = Initiator::new(Config {
            host_nqn: "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555".to_owned(),
            host_id: [0x5a; 16],
            subsystem_nqn: subsystem.to_owned(),
            queue_id,
            controller_id: if queue_id == 0 { 0xffff } else { 1 },
            queue_depth: 15,
            keep_alive_ms: 5000,
            digests,
            disable_flow_control: queue_id % 2 == 1,
            in_capsule_bytes: 8192,
        });
        self.settle(&mut host, &mut target);
        assert!(matches!(host.progress(), Progress::Connected(_)), "{:?}", host.progress());
        if queue_id == 0 {
            let enable = Sqe {
                opcode: FABRICS,
                nsid: u32::from(fctype::PROPERTY_SET).into(),
                cdw11: property::CC.into(),
                cdw12: 0x0046_0001.into(),
                ..Sqe::default()
            };
            host.submit(enable, Data::None).expect("a new queue has room");
            self.settle(&mut host, &mut target);
        }
        target
    }
}

/// A PDU of a host: what follows its common header, then its data, with the right lengths and digests.
fn pdu(kind: u8, flags: u8, header: &[u8], data: &[u8], digests: Digests) -> Vec<u8> {
    let with_data_digest = digests.data && !data.is_empty();
    let flags = flags | u8::from(digests.header) | u8::from(with_data_digest) << 1;
    let header_bytes = 8 + header.len();
    let data_at = header_bytes + if digests.header { 4 } else { 0 };
    let plen = data_at + data.len() + if with_data_digest { 4 } else { 0 };
    let mut pdu = vec![kind, flags, header_bytes as u8, if data.is_empty() { 0 } else { data_at as u8 }];
    pdu.extend((plen as u32).to_le_bytes());
    pdu.extend(header);
    if digests.header {
        pdu.extend(crc32c(&pdu).to_le_bytes());
    }
    pdu.extend(data);
    if with_data_digest {
        pdu.extend(crc32c(data).to_le_bytes());
    }
    pdu
}

/// A command that is right but for what the input spoils; its data in the capsule, or asked for later.
fn command(words: &mut Words<'_>) -> ([u8; 64], usize) {
    // I/O: Flush, Write, Read, Compare, Write Zeroes, DSM. Admin: Get Log Page, Identify, Abort, Set and Get Features,
    // Event Request, Keep Alive. Fabrics.
    const OPCODES: [u8; 14] = [0x00, 0x01, 0x02, 0x05, 0x08, 0x09, 0x02, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x18, 0x7f];
    let (choice, cid, nsid) = (words.u8(), words.u8() & 0x0f, words.u8() & 1 ^ 1);
    let opcode = OPCODES[usize::from(choice) % OPCODES.len()];
    let (lba, blocks) = (words.u8(), words.u8() & 0x1f);
    let data_bytes = match opcode {
        0x09 => 16 * (usize::from(lba & 3) + 1),
        _ => BLOCK_BYTES * (usize::from(blocks) + 1),
    };
    let in_capsule = choice & 0x80 != 0 && matches!(opcode, 0x01 | 0x05 | 0x09) && data_bytes <= 8192;
    let mut sqe = [0; 64];
    (sqe[0], sqe[1], sqe[2], sqe[4]) = (opcode, 0x40, cid, nsid);
    sqe[32..36].copy_from_slice(&(data_bytes as u32).to_le_bytes());
    sqe[39] = if in_capsule { 0x01 } else { 0x5a };
    (sqe[40], sqe[48]) = (lba, blocks);
    if choice & 0x40 != 0 {
        let (place, value) = (words.u8(), words.u8());
        sqe[usize::from(place & 0x3f)] = value;
    }
    (sqe, if in_capsule { data_bytes } else { 0 })
}

/// CCCID, TTAG, R2TO and R2TL of the R2Ts in what the target has sent.
fn r2ts(mut sent: &[u8]) -> Vec<[u8; 12]> {
    let mut found = Vec::new();
    while let Some(plen) = sent.get(4..8).map(|plen| u32::from_le_bytes(plen.try_into().expect("four bytes"))) {
        if sent[0] == 0x09 {
            found.push(sent[8..20].try_into().expect("twelve bytes"));
        }
        sent = sent.get(plen as usize..).expect("whole PDUs are sent");
    }
    found
}

/// The next PDU: a command, all data of an R2T, or either of any content.
fn framed(words: &mut Words<'_>, digests: Digests, r2ts: &mut Vec<[u8; 12]>) -> Vec<u8> {
    let selector = words.u8();
    match selector & 3 {
        0 => {
            let (sqe, data_bytes) = command(words);
            pdu(4, 0, &sqe, &vec![selector; data_bytes], digests)
        }
        1 if !r2ts.is_empty() => {
            let r2t = r2ts.swap_remove(usize::from(selector >> 2) % r2ts.len());
            let bytes = u32::from_le_bytes(r2t[8..].try_into().expect("four bytes"));
            pdu(6, 0x04, &[&r2t[..], &[0; 4]].concat(), &vec![selector; bytes as usize], digests)
        }
        1 | 2 => pdu(4, 0, &words.array::<64>(), &vec![0; usize::from(selector >> 2) * 16], digests),
        _ => pdu(6, selector & 0x04, &words.array::<16>(), &vec![0; usize::from(selector >> 3) * 128], digests),
    }
}

fuzz_target!(|input: &[u8]| {
    let mut words = Words(input);
    let (options, lengths, ms, held) = (words.u8(), words.array(), words.u8(), words.u8());
    let digests = Digests { header: options & 1 != 0, data: options & 2 != 0 };
    let in_flight_max = if options & 4 == 0 { 8192 } else { 1 << 20 };
    let mut world = World::new();
    let mut target = match options >> 3 & 3 {
        0 => world.new_queue(in_flight_max),
        1 => world.connected(0, SUBSYSTEM, digests, in_flight_max),
        2 => world.connected(0, DISCOVERY_NQN, digests, in_flight_max),
        _ => {
            world.connected(0, SUBSYSTEM, digests, in_flight_max);
            world.connected(1 + u16::from(options >> 7), SUBSYSTEM, digests, in_flight_max)
        }
    };
    target.held_max = usize::from(held & 7);
    let ms = ms & 0x1f;
    if options & 0x20 == 0 {
        let feed = |bytes: &[u8]| target.feed(bytes, ms, |queue, now, event| world.decide(queue, now, event));
        portions(words.rest(), lengths).for_each(feed);
    } else {
        let mut asked = Vec::new();
        while !words.is_empty() {
            let pdu = framed(&mut words, digests, &mut asked);
            let feed = |bytes: &[u8]| target.feed(bytes, ms, |queue, now, event| world.decide(queue, now, event));
            portions(&pdu, lengths).for_each(feed);
            asked.extend(r2ts(&std::mem::take(&mut target.sent)));
        }
    }
    target.finish(|queue, now, event| world.decide(queue, now, event));
});
