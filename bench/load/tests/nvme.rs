//! The NVMe/TCP target and our own host, end to end over loopback.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sds_bench::host::{HostQueue, Target, bring_up};
use sds_block::{Device, DeviceFuture, Geometry, Request};
use sds_io::{Clock, ReadBytes, Slice};
use sds_proto::nvme::DISCOVERY_NQN;
use sds_proto::nvme::initiator::Data;
use sds_proto::nvme::pdu::Digests;
use sds_proto::nvme::spec::command::{Sqe, admin};
use sds_proto::nvme::status::Status;
use sds_target::devices::NamedDevices;
use sds_target::{Access, DynDevice, Export, MemoryDevice, NullDevice, Protocol, Targets, TargetsOptions, VolumeKey};
use sds_uring::{CoreClock, Disks};

const NQN: &str = "nqn.2026-11.io.sds:pool.volume";
const HOST: &str = "nqn.2026-11.io.sds:host-1";
const BYTES: u64 = 16 << 20;

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn export(access: Access) -> Export {
    Export {
        protocol: Protocol::Nvme,
        name: NQN.to_owned(),
        unit: 1,
        volume: VolumeKey("pool/volume".to_owned()),
        access,
        serial: "serial-1".to_owned(),
    }
}

/// Writes that begin with "slow" take their time.
struct SlowWrites {
    below: Rc<MemoryDevice>,
    clock: CoreClock,
    delay: Duration,
}

impl Device for SlowWrites {
    type Write = Slice;
    type Read = ReadBytes;

    fn geometry(&self) -> Geometry {
        self.below.geometry()
    }

    fn execute(&self, request: Request<Slice>) -> DeviceFuture<ReadBytes> {
        let slow = request.payload.as_ref().is_some_and(|payload| payload.as_ref().starts_with(b"slow"));
        if !slow {
            return self.below.execute(request);
        }
        let (sleep, below) = (self.clock.sleep(self.delay), Rc::clone(&self.below));
        Box::pin(async move {
            sleep.await;
            below.execute(request).await
        })
    }
}

/// A node of one core with one volume; each core has its own, so one core it is.
fn node(delay: Duration, access: Access) -> (Targets, SocketAddr) {
    let targets = Targets::start(&TargetsOptions::default(), &Disks::new()).expect("a core");
    targets
        .set_devices(move |local| {
            let memory = Rc::new(MemoryDevice::new(BYTES, [9; 16]));
            local.put(Rc::clone(&memory));
            let device: Rc<DynDevice> = Rc::new(SlowWrites { below: memory, clock: local.clock(), delay });
            Rc::new(NamedDevices::default().with("pool/volume", device))
        })
        .expect("the core runs");
    targets.set_exports(vec![export(access)]);
    let address = targets.listen(Protocol::Nvme, loopback()).expect("listens");
    (targets, address)
}

fn target(address: SocketAddr, digests: bool) -> Target {
    Target {
        address,
        subsystem: NQN.to_owned(),
        host: HOST.to_owned(),
        host_id: [3; 16],
        digests: Digests { header: digests, data: digests },
    }
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| ((at + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn done(queue: &mut HostQueue, tag: Option<sds_proto::Tag>) -> io::Result<Vec<u8>> {
    let tag = tag.expect("the queue has room");
    let completion = queue.completion()?;
    assert_eq!((completion.tag, completion.status), (tag, Status::SUCCESS));
    Ok(queue.bytes(tag).to_vec())
}

#[test]
fn what_a_host_writes_it_reads_with_and_without_digests() -> io::Result<()> {
    let (targets, address) = node(Duration::ZERO, Access::AnyHost);
    for digests in [false, true] {
        let target = target(address, digests);
        let admin = bring_up(&target)?;
        let mut queue = HostQueue::connect(&target, 1, admin.controller_id(), 64)?;
        let sessions = targets.sessions();
        assert_eq!(sessions.iter().map(|session| session.queue).max(), Some(1));
        assert!(sessions.iter().all(|session| session.host == HOST && session.name == NQN));
        assert!(sessions.iter().all(|s| s.header_digest == digests && s.data_digest == digests), "{sessions:?}");
        // In the capsule, by one and by several R2Ts, in one and in several data PDUs.
        for (number, blocks) in [1_u32, 8, 16, 17, 256, 2048].into_iter().enumerate() {
            let bytes = pattern(number as u64, blocks as usize * 512);
            let lba = 4096 * number as u64;
            let tag = queue.write(lba, blocks, &bytes);
            done(&mut queue, tag)?;
            let tag = queue.read(lba, blocks, bytes.len());
            assert!(done(&mut queue, tag)? == bytes, "{blocks} blocks");
        }
        let tags: Vec<_> = (0..64_u64).map(|at| queue.write(at * 8, 8, &pattern(at, 4096))).collect();
        assert!(tags.iter().all(Option::is_some) && queue.read(0, 1, 512).is_none(), "the queue is full");
        for _ in 0..64 {
            assert_eq!(queue.completion()?.status, Status::SUCCESS);
        }
        let tag = queue.machine().flush(1);
        done(&mut queue, tag)?;
        for at in 0..64_u64 {
            let tag = queue.read(at * 8, 8, 4096);
            assert!(done(&mut queue, tag)? == pattern(at, 4096));
        }
        let past = queue.read(BYTES / 512, 1, 512).expect("room");
        let completion = queue.completion()?;
        assert_eq!(completion.tag, past);
        assert_eq!(completion.status, Status::LBA_OUT_OF_RANGE);
    }
    Ok(())
}

#[test]
fn a_host_that_is_not_named_is_refused_and_discovers_nothing() -> io::Result<()> {
    let named = Access::Hosts([HOST.to_owned()].into());
    let (targets, address) = node(Duration::ZERO, named);
    let me = target(address, false);
    let other = Target { host: "nqn.2026-11.io.sds:host-2".to_owned(), ..me.clone() };
    let unknown = Target { subsystem: "nqn.2026-11.io.sds:pool.nothing".to_owned(), ..me.clone() };
    bring_up(&me)?;
    for wrong in [&other, &unknown] {
        let refused = bring_up(wrong).err().expect("refused");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{refused}");
    }
    let records = |who: &Target| -> io::Result<u64> {
        let discovery = Target { subsystem: DISCOVERY_NQN.to_owned(), ..who.clone() };
        let mut admin = bring_up(&discovery)?;
        // Get Log Page 0x70 (discovery), 1,024 bytes: NUMREC is the second quadword.
        let page = Sqe { opcode: admin::GET_LOG_PAGE, cdw10: (255 << 16 | 0x70).into(), ..Sqe::default() };
        let completion = admin.run(page, Data::ReadControl(1024))?;
        assert_eq!(completion.status, Status::SUCCESS);
        Ok(u64::from_le_bytes(completion.data[8..16].try_into().expect("eight bytes")))
    };
    assert_eq!((records(&me)?, records(&other)?), (1, 0));
    // Losing the right ends the connection.
    let mut admin = bring_up(&me)?;
    targets.set_exports(vec![export(Access::Hosts([other.host.clone()].into()))]);
    let ended = admin.wait().err().or_else(|| admin.wait().err()).expect("the connection ends");
    assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    bring_up(&other)?;
    assert_eq!((records(&me)?, records(&other)?), (0, 1));
    Ok(())
}

#[test]
fn a_hosts_new_association_waits_for_its_lost_ones_writes() -> io::Result<()> {
    let delay = Duration::from_millis(400);
    let (targets, address) = node(delay, Access::AnyHost);
    let target = target(address, false);
    let admin = bring_up(&target)?;
    let mut queue = HostQueue::connect(&target, 1, admin.controller_id(), 8)?;
    let mut old = vec![1; 4096];
    old[..4].copy_from_slice(b"slow");
    queue.write(0, 8, &old).expect("room");
    queue.send()?;
    while targets.sessions().iter().all(|session| session.executing == 0) {}
    let lost = Instant::now();
    drop((queue, admin));
    let admin = bring_up(&target)?;
    assert!(lost.elapsed() > delay / 2, "let in after {:?}", lost.elapsed());
    let mut queue = HostQueue::connect(&target, 1, admin.controller_id(), 8)?;
    let new = vec![2; 4096];
    let tag = queue.write(0, 8, &new);
    done(&mut queue, tag)?;
    std::thread::sleep(delay);
    let tag = queue.read(0, 8, 4096);
    assert!(done(&mut queue, tag)? == new, "the lost write did not land after the new one");
    Ok(())
}

#[test]
fn a_resize_is_told_to_the_host_that_asked_for_events() -> io::Result<()> {
    let (targets, address) = node(Duration::ZERO, Access::AnyHost);
    let mut admin = bring_up(&target(address, false))?;
    // Set Features 0x0b: namespace attribute notices; then an event request.
    let set = Sqe { opcode: admin::SET_FEATURES, cdw10: 0x0b.into(), cdw11: (1 << 8).into(), ..Sqe::default() };
    assert_eq!(admin.run(set, Data::None)?.status, Status::SUCCESS);
    let request = Sqe { opcode: admin::ASYNC_EVENT, ..Sqe::default() };
    let tag = admin.machine().submit(request, Data::None).expect("room");
    let (resized, told) = mpsc::channel();
    let growing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        targets.cores()[0]
            .call(|local| local.get::<MemoryDevice>().expect("the volume").resize(2 * BYTES))
            .expect("the core runs");
        resized.send(Instant::now()).expect("the test waits");
        targets.notify_change(&VolumeKey("pool/volume".to_owned()));
        targets
    });
    let event = admin.completion()?;
    told.recv().expect("the event came after the resize");
    // A notice (2) of changed namespaces (0), log page 4.
    assert_eq!((event.tag, event.result & 0xff_ffff), (tag, 0x04_0002));
    let targets = growing.join().expect("the other thread");
    // Identify Namespace: NSZE is the first quadword.
    let identify = Sqe { opcode: admin::IDENTIFY, nsid: 1.into(), ..Sqe::default() };
    let data = admin.run(identify, Data::ReadControl(4096))?.data;
    assert_eq!(u64::from_le_bytes(data[..8].try_into().expect("eight bytes")), 2 * BYTES / 512);
    assert_eq!(targets.close(1_000), 0);
    assert_eq!(targets.connections(), 0);
    Ok(())
}

#[test]
fn queues_are_dealt_to_all_cores_and_go_with_their_controller() -> io::Result<()> {
    let options = TargetsOptions { cores: 2, ..TargetsOptions::default() };
    let targets = Targets::start(&options, &Disks::new())?;
    let volume = |_: &sds_uring::Local| -> Rc<dyn sds_target::Devices> {
        Rc::new(NamedDevices::default().with("pool/volume", Rc::new(NullDevice::new(BYTES, [9; 16]))))
    };
    targets.set_devices(volume).expect("the cores run");
    targets.set_exports(vec![export(Access::AnyHost)]);
    let target = target(targets.listen(Protocol::Nvme, loopback())?, false);
    let admin = bring_up(&target)?;
    let connect = |number| HostQueue::connect(&target, number, admin.controller_id(), 8);
    let mut queues = (1..=6).map(connect).collect::<io::Result<Vec<_>>>()?;
    let twice = connect(3).err().expect("the queue is connected already");
    assert_eq!(twice.kind(), io::ErrorKind::ConnectionRefused);
    let sessions = targets.sessions();
    for core in 0..2 {
        assert!(sessions.iter().filter(|session| session.core == core).count() >= 3, "{sessions:?}");
    }
    for queue in &mut queues {
        let tag = queue.read(0, 8, 4096);
        done(queue, tag)?;
    }
    // One queue's end is its own; the admin queue's is everybody's.
    drop(queues.pop());
    while targets.sessions().len() > 6 {}
    queues.push(HostQueue::connect(&target, 6, admin.controller_id(), 8)?);
    drop(admin);
    for queue in &mut queues {
        let ended = queue.wait().err().or_else(|| queue.wait().err()).expect("the connection ends");
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    }
    let orphan = HostQueue::connect(&target, 1, 1, 8).err().expect("no such controller");
    assert_eq!(orphan.kind(), io::ErrorKind::ConnectionRefused);
    Ok(())
}
