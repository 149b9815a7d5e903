//! The shell over loopback, with a protocol small enough to send it anything in any portions.

mod slow;
mod toy;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use sds_proto::crc32c::crc32c;
use sds_target::devices::NamedDevices;
use sds_target::{DynDevice, Limits, MemoryDevice, Targets, TargetsOptions};
use sds_uring::Disks;
use slow::slow;
use toy::{BLOCK_BYTES, HEADER_BYTES, ToyGlue, request};

const DEVICE_BYTES: u64 = 16 << 20;

struct World {
    targets: Targets,
    address: SocketAddr,
}

/// One core (the device is one core's), a slow device if `delay_ms` is not zero.
fn world(limits: Limits, delay_ms: u64) -> World {
    let options = TargetsOptions { limits, ..TargetsOptions::default() };
    let targets = Targets::start(&options, &Disks::new()).expect("a core");
    targets
        .set_devices(move |local| {
            let memory: Rc<DynDevice> = Rc::new(MemoryDevice::new(DEVICE_BYTES, [7; 16]));
            let device = if delay_ms == 0 { memory } else { slow(local, memory, delay_ms) };
            Rc::new(NamedDevices::default().with("toy", device))
        })
        .expect("the core runs");
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let address = targets.listen_as::<ToyGlue>(toy::node(), loopback).expect("listens");
    World { targets, address }
}

impl World {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
        stream.set_nodelay(true).expect("no delay");
        stream
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn read_answer(stream: &mut TcpStream) -> (u16, u16, usize) {
    let mut header = [0; 8];
    stream.read_exact(&mut header).expect("an answer");
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    (half(0), half(2), u32::from_le_bytes(header[4..].try_into().expect("four bytes")) as usize)
}

/// Writes and reads of all sizes, sent in portions of all sizes, many open at once: what is read is what was written.
fn random_traffic(seed: u64, delay_ms: u64) {
    println!("seed {seed}");
    let world = world(Limits::default(), delay_ms);
    let mut random = Random(seed | 1);
    let mut model = vec![0_u8; DEVICE_BYTES as usize];
    let mut stream = world.connect();
    for round in 0..40_u64 {
        // Ranges of one round do not overlap: what is open at once has no order.
        let slots = 1 + random.below(16);
        let slot_blocks = DEVICE_BYTES / BLOCK_BYTES as u64 / slots;
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for tag in 0..slots {
            let blocks = 1 + random.below(slot_blocks.min(2048));
            let first = tag * slot_blocks + random.below(slot_blocks - blocks + 1);
            let place = first as usize * BLOCK_BYTES..(first + blocks) as usize * BLOCK_BYTES;
            let writes = random.below(2) == 0;
            let digest = random.below(2) == 0;
            let op = if writes { b'W' } else { b'R' };
            bytes.extend_from_slice(&request(op, digest, tag as u16, first as u32, blocks as u32));
            if writes {
                model[place.clone()].iter_mut().for_each(|byte| *byte = (random.below(256) ^ round) as u8);
                bytes.extend_from_slice(&model[place]);
                expected.push(None);
            } else {
                expected.push(Some((place, digest)));
            }
        }
        let mut sender = stream.try_clone().expect("a second handle");
        let mut portions = Random(random.below(u64::MAX) | 1);
        let sending = std::thread::spawn(move || {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let scale = [3, HEADER_BYTES as u64 * 2, 5000, 1 << 19][portions.below(4) as usize];
                let (now, later) = rest.split_at(rest.len().min(1 + portions.below(scale) as usize));
                sender.write_all(now).expect("sends");
                rest = later;
                // Tiny portions of a large write would take all day.
                if rest.len() > 100_000 {
                    let (now, later) = rest.split_at(rest.len() - 100_000);
                    sender.write_all(now).expect("sends");
                    rest = later;
                }
            }
        });
        for _ in 0..slots {
            let (tag, status, len) = read_answer(&mut stream);
            assert_eq!(status, 0, "round {round} tag {tag}");
            let answer = expected[usize::from(tag)].take();
            let Some((place, digest)) = answer else {
                assert_eq!(len, 0);
                continue;
            };
            let mut got = vec![0; len];
            stream.read_exact(&mut got).expect("the bytes");
            assert!(got == model[place], "round {round} tag {tag}: other bytes");
            if digest {
                let mut crc = [0; 4];
                stream.read_exact(&mut crc).expect("the digest");
                assert_eq!(u32::from_le_bytes(crc), crc32c(&got));
            }
        }
        sending.join().expect("the sender's thread");
    }
}

fn seed() -> u64 {
    std::env::var("SEED").map_or(0x5eed, |text| text.parse().expect("SEED is a number"))
}

#[test]
fn what_is_read_is_what_was_written_when_the_device_answers_at_once() {
    random_traffic(seed(), 0);
}

#[test]
fn what_is_read_is_what_was_written_when_the_device_takes_its_time() {
    random_traffic(seed() + 1, 1);
}

#[test]
fn many_small_answers_leave_with_few_calls() {
    let world = world(Limits::default(), 0);
    let mut stream = world.connect();
    let requests: Vec<u8> = (0..128).flat_map(|tag| request(b'R', false, tag, u32::from(tag) * 8, 8)).collect();
    let rounds = 100;
    for _ in 0..rounds {
        stream.write_all(&requests).expect("sends");
        let mut answers = vec![0; 128 * (8 + 4096)];
        stream.read_exact(&mut answers).expect("answers");
    }
    let counters = world.targets.counters()[0];
    assert_eq!((counters.requests, counters.failed_requests), (128 * rounds, 0));
    assert!(counters.sends < counters.requests / 16, "answers of a turn leave together: {counters:?}");
    assert!(counters.receives < counters.requests / 16, "requests arrive together: {counters:?}");
}

#[test]
fn a_host_that_does_not_read_is_held_back_and_starves_nobody() {
    let limits = Limits { outgoing_bytes_max: 1 << 20, ..Limits::default() };
    let world = world(limits, 0);
    let mut greedy = world.connect();
    let asked = 400_u32;
    let requests: Vec<u8> = (0..asked).flat_map(|tag| request(b'R', false, tag as u16, 0, 2048)).collect();
    let mut sender = greedy.try_clone().expect("a second handle");
    // 400 MiB of answers that nobody reads yet.
    let sending = std::thread::spawn(move || sender.write_all(&requests).expect("sends"));
    sending.join().expect("6 KB of requests fit into the socket");
    let mut modest = world.connect();
    let began = Instant::now();
    for _ in 0..100 {
        modest.write_all(&request(b'R', false, 1, 0, 8)).expect("sends");
        assert_eq!(read_answer(&mut modest), (1, 0, 4096));
        modest.read_exact(&mut [0; 4096]).expect("the bytes");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "the modest host waited {:?}", began.elapsed());
    let mut total = 0;
    let mut space = vec![0; 1 << 20];
    while total < asked as usize * ((1 << 20) + 8) {
        total += greedy.read(&mut space).expect("the rest arrives once it is read");
    }
}

#[test]
fn payload_that_comes_unasked_waits_in_its_socket_while_the_node_has_too_much() {
    let payload_bytes_max = 4 << 20;
    // A host's bytes that wait for the node are not late, however long they do.
    let limits = Limits { payload_bytes_max, stall_ms: 500, ..Limits::default() };
    let world = world(limits, 100);
    let (hosts, writes) = (10_u64, 12_u16);
    let writers: Vec<_> = (0..hosts)
        .map(|_| {
            let mut stream = world.connect();
            std::thread::spawn(move || {
                let mut sender = stream.try_clone().expect("a second handle");
                let sending = std::thread::spawn(move || {
                    for tag in 0..writes {
                        sender.write_all(&request(b'W', false, tag, u32::from(tag) * 2048, 2048)).expect("sends");
                        sender.write_all(&vec![tag as u8; 1 << 20]).expect("sends");
                    }
                });
                for _ in 0..writes {
                    let (_, status, bytes) = read_answer(&mut stream);
                    assert_eq!((status, bytes), (0, 0));
                }
                sending.join().expect("the sender's thread");
            })
        })
        .collect();
    for writer in writers {
        writer.join().expect("the writer's thread");
    }
    let counters = world.targets.counters()[0];
    assert_eq!((counters.requests, counters.payload_bytes), (hosts * u64::from(writes), 0));
    assert!(counters.payload_waits > 0, "{counters:?}");
    // Each connection may have a write with the device, and the next one's beginning came with its end.
    let most = payload_bytes_max as u64 + hosts * (2 << 20);
    assert!(counters.payload_bytes_peak <= most, "{counters:?}");
}

#[test]
fn a_header_that_stalls_ends_the_connection() {
    let world = world(Limits { stall_ms: 300, ..Limits::default() }, 0);
    let mut stream = world.connect();
    stream.write_all(&request(b'F', false, 1, 0, 0)).expect("sends");
    assert_eq!(read_answer(&mut stream), (1, 0, 0));
    stream.write_all(&request(b'R', false, 1, 0, 1)[..5]).expect("sends");
    let began = Instant::now();
    assert_eq!(stream.read(&mut [0; 16]).expect("the end"), 0);
    assert!((250..5000).contains(&began.elapsed().as_millis()), "closed after {:?}", began.elapsed());
}

#[test]
fn a_host_that_breaks_the_protocol_reads_why_before_the_end() {
    let world = world(Limits::default(), 0);
    let mut stream = world.connect();
    let mut bytes = request(b'?', false, 1, 0, 0).to_vec();
    // More than the shell has read when it ends: closing at once would reset the connection.
    bytes.resize(300_000, 0);
    stream.write_all(&bytes).expect("sends");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).expect("an end without a reset");
    assert_eq!(said, b"farewell");
    drop(stream);
    let silent = world.connect();
    let mut said = Vec::new();
    let mut reader = &silent;
    reader.read_to_end(&mut said).expect("the machine's own time limit");
    assert_eq!(said, b"farewell", "nothing was asked in time");
}

#[test]
fn connections_above_the_limit_are_told_and_above_that_closed() {
    let limits = Limits {
        connections_max: 1000,
        refusals_max: 5,
        nameless_connections_max: 2000,
        host_connections_max: 2000,
        linger_ms: 60_000,
        ..Limits::default()
    };
    let world = world(limits, 0);
    let mut served: Vec<TcpStream> = (0..1000).map(|_| world.connect()).collect();
    for stream in &mut served {
        stream.write_all(&request(b'R', false, 3, 0, 1)).expect("sends");
    }
    for stream in &mut served {
        assert_eq!(read_answer(stream), (3, 0, 512));
    }
    assert_eq!(world.targets.sessions_of::<ToyGlue>().len(), 1000);
    let said = |stream: &mut TcpStream| {
        let mut said = Vec::new();
        match stream.read_to_end(&mut said) {
            Ok(_) => said,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => said,
            Err(error) => panic!("{error}"),
        }
    };
    let mut refused: Vec<TcpStream> = (0..5).map(|_| world.connect()).collect();
    for stream in &mut refused {
        assert_eq!(said(stream), b"farewell");
    }
    assert_eq!(said(&mut world.connect()), b"", "closed without a word");
    drop((served, refused));
    let began = Instant::now();
    while world.targets.connections() > 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "connections leave");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut again = world.connect();
    again.write_all(&request(b'R', false, 3, 0, 1)).expect("sends");
    assert_eq!(read_answer(&mut again), (3, 0, 512));
}

#[test]
fn requests_outlive_their_connection_and_a_stop_waits_for_them() {
    let world = world(Limits::default(), 300);
    let mut stream = world.connect();
    for tag in 0..8 {
        stream.write_all(&request(b'W', false, tag, 0, 1)).expect("sends");
        stream.write_all(&[9; BLOCK_BYTES]).expect("sends");
    }
    let began = Instant::now();
    while world.targets.sessions_of::<ToyGlue>().first().is_none_or(|session| session.executing < 8) {
        assert!(began.elapsed() < Duration::from_millis(290), "the device has them");
    }
    assert!(world.targets.close_connections_of::<ToyGlue>(1) > 0, "they are still with the device");
    drop(stream);
    let mut other = world.connect();
    std::thread::sleep(Duration::from_millis(400));
    other.write_all(&request(b'R', false, 1, 0, 1)).expect("sends");
    assert_eq!(read_answer(&mut other), (1, 0, 512));
    let mut got = [0; BLOCK_BYTES];
    other.read_exact(&mut got).expect("the bytes");
    assert_eq!(got, [9; BLOCK_BYTES], "the lost connection's writes have landed");
    other.write_all(&request(b'R', false, 1, 0, 1)).expect("sends");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(world.targets.close_connections_of::<ToyGlue>(5_000), 0);
    assert_eq!(world.targets.connections(), 0);
}
