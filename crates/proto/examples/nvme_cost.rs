//! What the NVMe/TCP target's machine costs per command, without sockets and devices: 4 KiB reads and writes, 32 open.
//!
//!     cargo run --release -p sds-proto --example nvme_cost

use std::time::{Duration, Instant};

use sds_proto::nvme::controller::Controller;
use sds_proto::nvme::event::{Event, Identity, Namespace, QueueLimits, Subsystem};
use sds_proto::nvme::initiator::{Config, Initiator, Progress};
use sds_proto::nvme::pdu::Digests;
use sds_proto::nvme::queue::Queue;
use sds_proto::{Connection, Piece, Receive};

const BATCH: usize = 32;
const ROUNDS: u32 = 100_000;

/// Feeds `bytes`, runs what comes of them, and counts the bytes that would be sent.
fn turn(queue: &mut Queue, bytes: &[u8]) -> usize {
    let now = Duration::from_secs(1);
    let mut at = 0;
    while at < bytes.len() {
        match queue.poll_receive() {
            Receive::Control { bytes: wanted } => {
                queue.handle_control(now, &bytes[at..at + wanted]);
                at += wanted;
            }
            Receive::Payload { bytes: wanted, .. } => {
                queue.handle_payload(now, &bytes[at..at + wanted]);
                at += wanted;
            }
            Receive::Nothing => panic!("the connection ended: {:?}", queue.termination()),
        }
    }
    while let Some(submit) = queue.poll_submit() {
        queue.handle_outcome(now, submit.tag, Ok(4096));
    }
    let mut sent = 0;
    while let Some(piece) = queue.poll_transmit() {
        sent += match piece {
            Piece::Control(bytes) => bytes.len(),
            Piece::Payload { bytes, .. } => bytes,
        };
    }
    sent
}

fn drain(host: &mut Initiator) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(piece) = host.poll_transmit() {
        match piece {
            Piece::Control(bytes) => out.extend_from_slice(bytes),
            Piece::Payload { bytes, .. } => out.resize(out.len() + bytes, 0),
        }
    }
    out
}

/// An I/O queue's two ends, connected; the controller is enabled by the admin queue's property, laid out by hand.
fn connect() -> (Queue, Initiator) {
    let geometry = sds_block::Geometry {
        logical_block_bytes: 512,
        physical_block_bytes: 4096,
        blocks: sds_block::LbaCount(1 << 30),
        write_cache: true,
        read_only: false,
        discard_granularity_bytes: 4096,
        optimal_transfer_bytes: 4096,
        uuid: [1; 16],
    };
    let namespaces = [Namespace { nsid: 1, geometry }];
    let subsystem = Subsystem { namespaces: &namespaces, entries: &[], generation: 0 };
    let mut controller = None;
    let mut ends = Vec::new();
    for queue_id in [0, 1] {
        let config = Config {
            host_nqn: "nqn.2014-08.org.example:host".into(),
            host_id: [1; 16],
            subsystem_nqn: "nqn.2014-08.org.example:disk".into(),
            queue_id,
            controller_id: if queue_id == 0 { 0xffff } else { 1 },
            queue_depth: 127,
            keep_alive_ms: 0,
            digests: Digests::default(),
            disable_flow_control: true,
            in_capsule_bytes: 8192,
        };
        let (mut queue, mut host) = (Queue::new(QueueLimits::default(), Duration::ZERO), Initiator::new(config));
        while host.progress() == Progress::Connecting {
            let bytes = drain(&mut host);
            let mut at = 0;
            while at < bytes.len() {
                let Receive::Control { bytes: wanted } = queue.poll_receive() else { panic!("control data only") };
                queue.handle_control(Duration::ZERO, &bytes[at..at + wanted]);
                at += wanted;
            }
            answer_events(&mut queue, &mut controller, &subsystem);
            feed_host(&mut queue, &mut host);
        }
        if queue_id == 0 {
            // Property Set of CC (0x14) to "enabled, 64-byte commands, 16-byte completions".
            let enable = sds_proto::nvme::spec::command::Sqe {
                opcode: 0x7f,
                cdw11: 0x14.into(),
                cdw12: 0x0046_0001.into(),
                ..Default::default()
            };
            host.submit(enable, sds_proto::nvme::initiator::Data::None).expect("room");
            turn(&mut queue, &drain(&mut host));
            answer_events(&mut queue, &mut controller, &subsystem);
        }
        ends.push((queue, host));
    }
    ends.pop().expect("two queues")
}

fn answer_events(queue: &mut Queue, controller: &mut Option<Controller>, subsystem: &Subsystem<'_>) {
    let now = Duration::ZERO;
    while let Some(event) = queue.poll_event() {
        match (event, controller.as_mut()) {
            (Event::Connect(request), None) => {
                let identity = Identity {
                    controller_id: 1,
                    serial: "1".into(),
                    subsystem_nqn: request.subsystem_nqn.clone(),
                    discovery: false,
                    queue_depth_max: 1024,
                };
                let (made, acceptance) = Controller::new(identity, &request, subsystem).expect("granted");
                *controller = Some(made);
                queue.accept(now, acceptance);
            }
            (Event::Connect(request), Some(controller)) => {
                queue.accept(now, controller.connect_io(&request, subsystem).expect("granted"));
            }
            (Event::Admin, Some(controller)) => queue.run_admin(now, controller, subsystem),
            (event, _) => panic!("unexpected {event:?}"),
        }
    }
}

fn feed_host(queue: &mut Queue, host: &mut Initiator) {
    while let Some(piece) = queue.poll_transmit() {
        let Piece::Control(mut bytes) = piece else { panic!("control data only") };
        while let (false, Receive::Control { bytes: wanted }) = (bytes.is_empty(), host.poll_receive()) {
            host.handle_control(&bytes[..wanted]);
            bytes = &bytes[wanted..];
        }
    }
}

fn main() {
    for write in [false, true] {
        let (mut queue, mut host) = connect();
        for at in 0..BATCH as u64 {
            let tag = if write { host.write(1, at * 8, 8, 4096, false) } else { host.read(1, at * 8, 8, 4096) };
            tag.expect("room");
        }
        let batch = drain(&mut host);
        let mut sent = turn(&mut queue, &batch);
        let started = Instant::now();
        for _ in 0..ROUNDS {
            sent += turn(&mut queue, &batch);
        }
        let per_command = started.elapsed() / (ROUNDS * BATCH as u32);
        println!("{}: {per_command:?} a command, {sent} bytes sent", if write { "write" } else { "read" });
    }
}
