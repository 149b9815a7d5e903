//! Damaged bytes from a host: a connection may die, the target never does.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::thread::{JoinHandle, spawn};

use sds_bench::host::{HostQueue, Target, bring_up};
use sds_proto::nvme::pdu::Digests;
use sds_proto::nvme::status::Status;
use sds_target::devices::NamedDevices;
use sds_target::{Access, DynDevice, Export, Limits, MemoryDevice, Protocol, Targets, TargetsOptions, VolumeKey};
use sds_uring::Disks;

const NQN: &str = "nqn.2026-11.io.sds:pool.volume";
/// Rounds of damage; each is two connections.
const ROUNDS: u64 = 300;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Damages some of what goes by: one byte of `one_in`; rarely, the stream just ends.
fn damage(random: &mut Random, bytes: &mut [u8], one_in: u64) -> bool {
    for byte in bytes.iter_mut() {
        if random.below(one_in) == 0 {
            // Small and large changes: lengths that are a little off, and nonsense.
            *byte = if random.below(2) == 0 { byte.wrapping_add(1) } else { random.below(256) as u8 };
        }
    }
    random.below(200) != 0
}

/// Passes bytes on, from `from` to `to`, until either ends.
fn relay(mut from: TcpStream, mut to: TcpStream, mut change: impl FnMut(&mut [u8]) -> bool + Send + 'static) {
    spawn(move || {
        let mut space = [0; 65536];
        while let Ok(count) = from.read(&mut space) {
            if count == 0 || !change(&mut space[..count]) || to.write_all(&space[..count]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    });
}

/// A way to the target that damages what hosts send. It ends with its last connection.
fn damaging_proxy(target: SocketAddr, seed: u64, connections: usize) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("listens");
    let address = listener.local_addr().expect("an address");
    let accepting = spawn(move || {
        for number in 0..connections as u64 {
            let Ok((host, _)) = listener.accept() else { return };
            let node = TcpStream::connect(target).expect("the target lives");
            let (host_too, node_too) = (host.try_clone().expect("a handle"), node.try_clone().expect("a handle"));
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number) | 1);
            // From almost none to some in each header.
            let one_in = [100, 1000, 10_000][random.below(3) as usize];
            relay(host, node, move |bytes| damage(&mut random, bytes, one_in));
            relay(node_too, host_too, |_| true);
        }
    });
    (address, accepting)
}

/// What a host does; it ends early when its connection does.
fn use_volume(target: &Target) -> std::io::Result<()> {
    let admin = bring_up(target)?;
    let mut queue = HostQueue::connect(target, 1, admin.controller_id(), 16)?;
    for number in 0..40_u64 {
        let blocks = [1, 8, 64, 300][(number % 4) as usize];
        let tag = if number % 2 == 0 {
            queue.write(number, blocks, &vec![number as u8; blocks as usize * 512])
        } else {
            queue.read(number, blocks, blocks as usize * 512)
        };
        // None: the connection has ended.
        tag.ok_or(std::io::ErrorKind::BrokenPipe)?;
        queue.completion()?;
    }
    Ok(())
}

#[test]
fn damaged_bytes_end_connections_and_never_the_target() {
    let seed = std::env::var("SEED").map_or(1, |text| text.parse().expect("SEED is a number"));
    println!("seed {seed}");
    let limits = Limits { login_ms: 200, stall_ms: 200, linger_ms: 100, ..Limits::default() };
    let targets = Targets::start(&TargetsOptions { limits, ..TargetsOptions::default() }, &Disks::new());
    let targets = targets.expect("a core");
    targets
        .set_devices(|_| {
            let memory: Rc<DynDevice> = Rc::new(MemoryDevice::new(16 << 20, [9; 16]));
            Rc::new(NamedDevices::default().with("pool/volume", memory))
        })
        .expect("the core runs");
    targets.set_exports(vec![Export {
        protocol: Protocol::Nvme,
        name: NQN.to_owned(),
        unit: 1,
        volume: VolumeKey("pool/volume".to_owned()),
        access: Access::AnyHost,
        serial: "1".to_owned(),
    }]);
    let address = targets.listen(Protocol::Nvme, SocketAddr::from(([127, 0, 0, 1], 0))).expect("listens");
    let mut early = 0;
    let workers: Vec<_> = (0..8_u64)
        .map(|worker| {
            spawn(move || {
                let mut early = 0;
                for round in (0..ROUNDS).filter(|round| round % 8 == worker) {
                    let (proxy, accepting) = damaging_proxy(address, seed + round, 2);
                    let digests = round % 3 == 0;
                    let target = Target {
                        address: proxy,
                        subsystem: NQN.to_owned(),
                        host: format!("nqn.2026-11.io.sds:host-{worker}"),
                        host_id: [worker as u8 + 1; 16],
                        digests: Digests { header: digests, data: digests },
                    };
                    // A damaged command may ask for anything that a host may ask for, also to wait: the target's
                    // limits end that.
                    early += u32::from(use_volume(&target).is_err());
                    // Let the proxy go if the host gave up before its second connection.
                    while !accepting.is_finished() {
                        drop(TcpStream::connect(proxy));
                    }
                }
                early
            })
        })
        .collect();
    for worker in workers {
        early += worker.join().expect("the host's thread");
    }
    assert!(early > 30, "damage ended {early} of {ROUNDS} rounds");
    let whole = Target {
        address,
        subsystem: NQN.to_owned(),
        host: "nqn.2026-11.io.sds:whole".to_owned(),
        host_id: [0x77; 16],
        digests: Digests { header: true, data: true },
    };
    use_volume(&whole).expect("the target serves a host that keeps to the protocol");
    let admin = bring_up(&whole).expect("still");
    let mut queue = HostQueue::connect(&whole, 1, admin.controller_id(), 2).expect("still");
    queue.write(0, 8, &[0x42; 4096]).expect("room");
    assert_eq!(queue.completion().expect("an answer").status, Status::SUCCESS);
}
