//! Limits against hosts that are hostile or broken: others go on, and what they held is free again.

mod hosts;
mod slow;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Mutex;
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use hosts::{CONNECT_BUSY, NvmeQueue, Said, capsule, dial, h2c_header, ic_req, is_closed, write};
use hosts::{iscsi_data_out, iscsi_login, iscsi_session, iscsi_write};
use sds_target::connections::FrontCounters;
use sds_target::devices::NamedDevices;
use sds_target::{Access, DynDevice, Export, Limits, NullDevice, Protocol, Targets, TargetsOptions, VolumeKey};
use sds_uring::Disks;
use slow::slow;

const NQN: &str = "nqn.2026-11.io.sds:pool.volume";
const IQN: &str = "iqn.2026-11.io.sds:pool.volume";
const MIB: u32 = 1 << 20;

/// What was logged as a warning, by all tests of this file.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            LINES.lock().expect("no panic while logging").push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// The warnings so far that have `text`.
fn lines_with(text: &str) -> Vec<String> {
    let lines = LINES.lock().expect("no panic while logging");
    lines.iter().filter(|line| line.contains(text)).cloned().collect()
}

struct World {
    targets: Targets,
    nvme: SocketAddr,
    nvme_v6: SocketAddr,
    iscsi: SocketAddr,
}

fn world(limits: Limits, cores: usize, delay_ms: u64) -> World {
    if log::set_logger(&Lines).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
    let options = TargetsOptions { cores, limits, ..TargetsOptions::default() };
    let targets = Targets::start(&options, &Disks::new()).expect("cores");
    targets
        .set_devices(move |local| {
            let null: Rc<DynDevice> = Rc::new(NullDevice::new(1 << 40, [7; 16]));
            let device = if delay_ms == 0 { null } else { slow(local, null, delay_ms) };
            Rc::new(NamedDevices::default().with("volume", device))
        })
        .expect("the cores run");
    let export = |protocol, name: &str, unit| Export {
        protocol,
        name: name.to_owned(),
        unit,
        volume: VolumeKey("volume".to_owned()),
        access: Access::AnyHost,
        serial: "1".to_owned(),
    };
    targets.set_exports(vec![export(Protocol::Nvme, NQN, 1), export(Protocol::Iscsi, IQN, 0)]);
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let nvme = targets.listen(Protocol::Nvme, v4).expect("listens");
    let nvme_v6 = targets.listen(Protocol::Nvme, v6).expect("listens");
    let iscsi = targets.listen(Protocol::Iscsi, v4).expect("listens");
    World { targets, nvme, nvme_v6, iscsi }
}

impl World {
    fn counters(&self) -> FrontCounters {
        let mut sum = FrontCounters::default();
        for core in self.targets.counters() {
            sum.requests += core.requests;
            sum.failed_requests += core.failed_requests;
            sum.payload_bytes += core.payload_bytes;
            sum.payload_bytes_peak += core.payload_bytes_peak;
            sum.payload_waits += core.payload_waits;
        }
        sum
    }

    fn wait_until(&self, what: &str, is: impl Fn(&Targets) -> bool) {
        let began = Instant::now();
        while !is(&self.targets) {
            assert!(began.elapsed() < Duration::from_secs(20), "{what}");
            sleep(Duration::from_millis(5));
        }
    }

    /// No connection is left, and nothing of one.
    fn wait_until_empty(&self) {
        self.wait_until("connections leave", |targets| targets.connections() == 0);
        self.wait_until("payload is freed", |_| self.counters().payload_bytes == 0);
    }
}

#[test]
fn a_thousand_connections_of_one_name_are_refused_beyond_its_limit_and_another_host_goes_on() {
    let limits = Limits { host_connections_max: 100, nameless_connections_max: 150, ..Limits::default() };
    let world = world(limits, 2, 0);
    let (greedy, modest) = ("nqn.2026-11.io.sds:greedy", "nqn.2026-11.io.sds:modest");
    let began = Instant::now();
    let connections: Vec<_> = (0..1000).map(|_| NvmeQueue::connect(world.nvme, greedy, NQN, 0, 0xffff)).collect();
    let said = |wanted: Option<u16>| {
        connections.iter().filter(|one| one.as_ref().map(|(_, _, status)| *status) == wanted).count()
    };
    // Those that are told stay without a name until their time for a login is over; beyond these all are closed.
    assert_eq!((said(Some(0)), said(Some(CONNECT_BUSY)), said(None)), (100, 150, 750));
    assert_eq!(world.targets.refused_connections(), 900);
    assert_eq!(world.targets.connections(), 250);
    let lines = lines_with(greedy);
    assert!(lines[0].contains("127.0.0.1: refused, nqn.2026-11.io.sds:greedy has 100 connections"), "{}", lines[0]);
    assert!(lines.len() as u64 <= 1 + began.elapsed().as_secs(), "one line a second: {lines:?}");
    let [_admin, mut queue] = NvmeQueue::pair(world.nvme_v6, modest, NQN);
    queue.write_many(8, 65536);
    drop((connections, _admin, queue));
    world.wait_until_empty();
    let [_admin, mut queue] = NvmeQueue::pair(world.nvme, greedy, NQN);
    queue.write_many(8, 65536);
}

#[test]
fn an_iqn_has_its_limit_too() {
    let world = world(Limits { host_connections_max: 2, ..Limits::default() }, 1, 0);
    let sessions: Vec<_> = (1..=3).map(|isid| iscsi_session(world.iscsi, "iqn.2026-11.a:greedy", IQN, isid)).collect();
    let said: Vec<_> = sessions.iter().map(|(_, status)| *status).collect();
    // Class 3, detail 2: out of resources, the initiator may come again.
    assert_eq!(said, [[0, 0], [0, 0], [3, 2]]);
    assert_eq!(iscsi_session(world.iscsi, "iqn.2026-11.a:modest", IQN, 1).1, [0, 0]);
    assert_eq!(world.targets.refused_connections(), 1);
}

#[test]
fn a_thousand_silent_connections_of_one_address_are_closed_beyond_its_limit_and_another_address_goes_on() {
    let limits = Limits { nameless_connections_max: 50, login_ms: 3000, ..Limits::default() };
    let world = world(limits, 2, 0);
    let began = Instant::now();
    let mut silent: Vec<TcpStream> = (0..1000).map(|_| dial(world.nvme)).collect();
    world.wait_until("all are accepted", |targets| targets.refused_connections() == 950);
    assert!(world.targets.connections() <= 50);
    let lines = lines_with("127.0.0.1: closed, 50 of its connections have not logged in");
    assert!((1..=1 + began.elapsed().as_secs()).contains(&(lines.len() as u64)), "one line a second: {lines:?}");
    let [_admin, mut queue] = NvmeQueue::pair(world.nvme_v6, "nqn.2026-11.io.sds:modest", NQN);
    queue.write_many(8, 65536);
    drop((_admin, queue));
    // The fifty run out of time for their login.
    world.wait_until_empty();
    assert!(silent.iter_mut().all(is_closed));
    NvmeQueue::pair(world.nvme, "nqn.2026-11.io.sds:late", NQN);
}

#[test]
fn a_full_node_makes_room_by_the_oldest_connection_without_a_name_and_those_with_names_stay() {
    let limits = Limits { connections_max: 20, login_ms: 120_000, ..Limits::default() };
    let world = world(limits, 2, 0);
    let [_admin, mut queue] = NvmeQueue::pair(world.nvme_v6, "nqn.2026-11.io.sds:early", NQN);
    let mut silent: Vec<TcpStream> = (0..60).map(|_| dial(world.nvme)).collect();
    world.wait_until("42 gave way", |targets| targets.refused_connections() == 42);
    assert_eq!(world.targets.connections(), 20);
    let [_late, mut late_queue] = NvmeQueue::pair(world.nvme_v6, "nqn.2026-11.io.sds:late", NQN);
    let (_session, status) = iscsi_session(world.iscsi, "iqn.2026-11.a:late", IQN, 1);
    assert_eq!(status, [0, 0]);
    silent.extend((0..60).map(|_| dial(world.iscsi)));
    world.wait_until("all but the places of the hosts", |targets| targets.refused_connections() == 42 + 3 + 60);
    queue.write_many(8, 65536);
    late_queue.write_many(8, 65536);
    assert!(world.targets.connections() <= 20);
    // Long before their time for a login is over.
    assert!(silent[..60].iter_mut().all(is_closed));
    assert!(!lines_with("closed without a login, the node is full").is_empty());
}

/// A host that stalls: its socket, and what else must stay open with it.
type Stalled = (TcpStream, Option<NvmeQueue>);

fn nvme_stalls(address: SocketAddr) -> Vec<(&'static str, Stalled)> {
    let early = |bytes: &[u8]| {
        let mut stream = dial(address);
        stream.write_all(bytes).expect("sends");
        (stream, None)
    };
    let host = |number: usize| format!("nqn.2026-11.io.sds:stalls-{number}");
    let late = |number: usize, bytes: &[u8]| {
        let [admin, mut queue] = NvmeQueue::pair(address, &host(number), NQN);
        queue.send(bytes);
        (queue.stream, Some(admin))
    };
    let asked = |number: usize, sent: Option<usize>| {
        let [admin, mut queue] = NvmeQueue::pair(address, &host(number), NQN);
        queue.send(&capsule(&write(1, MIB, false), &[]));
        let Said::ReadyToTransfer(asked) = queue.hear() else { panic!("an R2T") };
        if let Some(bytes) = sent {
            queue.send(&h2c_header(asked, 0, 65536));
            queue.send(&vec![1; bytes]);
        }
        (queue.stream, Some(admin))
    };
    let whole = capsule(&write(1, 8192, true), &[1; 8192]);
    vec![
        ("nothing", early(&[])),
        ("half of ICReq's common header", early(&ic_req()[..5])),
        ("half of ICReq", early(&ic_req()[..60])),
        ("ICReq and no Connect", early(&ic_req())),
        ("half of a common header", late(1, &whole[..5])),
        ("half of a command", late(2, &whole[..40])),
        ("half of a capsule's data", late(3, &whole[..5000])),
        ("no data after R2T", asked(4, None)),
        ("half of an H2CData PDU", asked(5, Some(30_000))),
        ("one of several H2CData PDUs", asked(6, Some(65536))),
    ]
}

fn iscsi_stalls(address: SocketAddr) -> Vec<(&'static str, Stalled)> {
    let initiator = |number: usize| format!("iqn.2026-11.a:stalls-{number}");
    let early = |bytes: &[u8]| {
        let mut stream = dial(address);
        stream.write_all(bytes).expect("sends");
        (stream, None)
    };
    let late = |number: usize, bytes: &[u8]| {
        let (mut stream, status) = iscsi_session(address, &initiator(number), IQN, 1);
        assert_eq!(status, [0, 0]);
        stream.write_all(bytes).expect("sends");
        (stream, None)
    };
    let asked = |number: usize, bytes: Option<usize>| {
        let (mut stream, _) = late(number, &iscsi_write());
        // The first command of a session is answered by a unit attention; the next is run.
        let mut pdu = [0; 48];
        stream.read_exact(&mut pdu).expect("an answer");
        if pdu[0] == 0x21 {
            stream.read_exact(&mut [0; 20]).expect("its sense data");
            let mut again = iscsi_write();
            again[27] = 1;
            stream.write_all(&again).expect("sends");
            stream.read_exact(&mut pdu).expect("an answer");
        }
        assert_eq!(pdu[0], 0x31, "an R2T");
        if let Some(bytes) = bytes {
            stream.write_all(&[&iscsi_data_out(&pdu)[..], &vec![1; bytes]].concat()).expect("sends");
        }
        (stream, None)
    };
    let login = iscsi_login(&initiator(9), IQN, 1);
    vec![
        ("nothing", early(&[])),
        ("half of a login's header", early(&login[..20])),
        ("half of a login's text", early(&login[..60])),
        ("half of a header", late(1, &iscsi_write()[..20])),
        ("no data after R2T", asked(2, None)),
        ("half of a Data-Out", asked(3, Some(2000))),
    ]
}

#[test]
fn a_host_that_stalls_anywhere_loses_its_connection_and_what_it_held() {
    let limits = Limits { login_ms: 700, stall_ms: 600, linger_ms: 100, ..Limits::default() };
    let world = world(limits, 2, 0);
    let began = Instant::now();
    let mut stalled = nvme_stalls(world.nvme);
    stalled.extend(iscsi_stalls(world.iscsi));
    for (where_it_stalls, (stream, _)) in &mut stalled {
        assert!(is_closed(stream), "{where_it_stalls}: it is not closed");
    }
    assert!(began.elapsed() >= Duration::from_millis(600), "closed after {:?}", began.elapsed());
    drop(stalled);
    world.wait_until_empty();
    let [_admin, mut queue] = NvmeQueue::pair(world.nvme, "nqn.2026-11.io.sds:whole", NQN);
    queue.write_many(8, MIB);
}

#[test]
fn payload_stays_below_the_node_s_limit_and_every_write_ends() {
    let limits = Limits { payload_bytes_max: 8 << 20, ..Limits::default() };
    let world = world(limits, 2, 5);
    let hosts = 12;
    let writers: Vec<_> = (0..hosts)
        .map(|number| {
            let address = world.nvme;
            spawn(move || {
                let [_admin, mut queue] = NvmeQueue::pair(address, &format!("nqn.2026-11.io.sds:writer-{number}"), NQN);
                queue.write_many(24, MIB);
            })
        })
        .collect();
    for writer in writers {
        writer.join().expect("the writer's thread");
    }
    world.wait_until_empty();
    let counters = world.counters();
    assert_eq!((counters.requests, counters.failed_requests), (hosts * 24, 0));
    // Above the limit: a command of each connection, and what one of each core asked for at once.
    let most = (8 << 20) + hosts * u64::from(MIB) + 2 * 24 * u64::from(MIB);
    assert!((8 << 20..=most).contains(&counters.payload_bytes_peak), "{counters:?}");
}

#[test]
fn hosts_that_never_send_what_was_asked_for_take_no_other_host_s_turn() {
    let limits = Limits { payload_bytes_max: 16 << 20, stall_ms: 3000, linger_ms: 100, ..Limits::default() };
    let world = world(limits, 1, 0);
    let mut hoarders: Vec<[NvmeQueue; 2]> = (0..4)
        .map(|number| {
            let mut pair = NvmeQueue::pair(world.nvme, &format!("nqn.2026-11.io.sds:hoarder-{number}"), NQN);
            for cid in 0..30 {
                pair[1].send(&capsule(&write(cid, MIB, false), &[]));
            }
            pair
        })
        .collect();
    world.wait_until("the node is full", |targets| targets.counters()[0].payload_bytes >= 16 << 20);
    let [_admin, mut queue] = NvmeQueue::pair(world.nvme, "nqn.2026-11.io.sds:modest", NQN);
    queue.write_many(30, MIB);
    assert!(world.counters().payload_bytes >= 16 << 20, "it did not wait for the others' end: they still have it all");
    for [_, queue] in &mut hoarders {
        assert!(is_closed(&mut queue.stream));
    }
    drop((hoarders, _admin, queue));
    world.wait_until_empty();
}
