//! Cores, disks and sockets against the real kernel.

use std::cell::{Cell, RefCell};
use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sds_io::sync::{Event, channel, join_all};
use sds_io::{Buffer, Clock, DiskId, Io, IoErrorKind, Slice};
use sds_uring::net::{Listener, Moved, Socket};
use sds_uring::{CoreGone, CoreHandle, CoreOptions, Disks, Local, OpenOptions, Readiness, Source, UringIo};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }

    fn disk(&self, disks: &Disks, bytes: u64) -> DiskId {
        let path = self.0.join("disk.img");
        let options = OpenOptions { create_bytes: Some(bytes), ..OpenOptions::default() };
        disks.open(path.to_str().expect("UTF-8"), &options).expect("a disk")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn start(disks: &Arc<Disks>) -> CoreHandle {
    CoreHandle::start(CoreOptions::default(), Arc::clone(disks)).expect("a core")
}

fn block(seed: u64, bytes: usize) -> Slice {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut buffer = Buffer::uninit(bytes);
    for word in buffer.as_mut().chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
    buffer.share()
}

async fn read(io: &UringIo, disk: DiskId, offset: u64, bytes: usize) -> Vec<u8> {
    io.read(disk, offset, Buffer::uninit(bytes)).await.expect("a read").as_ref().to_vec()
}

/// What every disk must do, whatever is behind it.
fn exercise(disks: &Arc<Disks>, disk: DiskId) {
    let core = start(disks);
    core.block_on(move |local| {
        let io = local.io();
        async move {
            let (one, two) = (block(1, 4096), block(2, 1 << 20));
            io.write(disk, 8192, one.clone(), false).await.expect("a write");
            io.write(disk, 1 << 20, two.clone(), true).await.expect("a durable write");
            io.sync(disk).await.expect("a sync");
            assert_eq!(read(&io, disk, 8192, 4096).await, one.as_ref());
            assert_eq!(read(&io, disk, 1 << 20, 1 << 20).await, two.as_ref());
            io.write(disk, 512, one.slice(512, 512), false).await.expect("a write of one block");
            assert_eq!(read(&io, disk, 512, 512).await, &one.as_ref()[512..1024]);
            io.discard(disk, 1 << 20, 1 << 20).await.expect("a discard");
            assert_eq!(read(&io, disk, 1 << 20, 1 << 20).await, vec![0; 1 << 20], "punched holes read zeros here");
            let size = io.disk(disk).size_bytes;
            for (offset, bytes) in [(100, 512), (0, 100), (size, 512), (size - 512, 1024), (u64::MAX - 511, 512)] {
                let error = io.read(disk, offset, Buffer::uninit(bytes)).await.expect_err("refused");
                assert_eq!(error.kind, IoErrorKind::Invalid, "{offset} {bytes}");
                let data = Buffer::zeroed(bytes).share();
                assert_eq!(io.write(disk, offset, data, false).await.expect_err("refused").kind, IoErrorKind::Invalid);
            }
        }
    })
    .expect("the core runs");
    disks.close(disk);
    let gone = core.block_on(move |local| {
        let io = local.io();
        async move { io.read(disk, 0, Buffer::uninit(512)).await }
    });
    assert_eq!(gone.expect("the core runs").expect_err("closed").kind, IoErrorKind::Gone);
    core.stop();
    assert_eq!(core.call(|_| ()), Err(CoreGone));
}

#[test]
fn a_file_is_a_disk() {
    let (folder, disks) = (Folder::new("file"), Disks::new());
    let disk = folder.disk(&disks, 4 << 20);
    exercise(&disks, disk);
}

#[test]
fn memory_is_a_disk_that_keeps_its_bytes_when_it_is_opened_again() {
    let disks = Disks::new();
    let disk = disks.open("memfd:ram:4M", &OpenOptions::default()).expect("memory");
    exercise(&disks, disk);
    let again = disks.open("memfd:ram:4M", &OpenOptions::default()).expect("memory");
    assert_ne!(disk, again, "ids are never used twice");
    let core = start(&disks);
    let bytes = core.block_on(move |local| {
        let io = local.io();
        async move { io.read(again, 8192, Buffer::uninit(4096)).await }
    });
    assert_eq!(bytes.expect("the core runs").expect("a read").as_ref(), block(1, 4096).as_ref());
    core.stop();
}

#[test]
fn more_requests_than_the_ring_has_room_for_wait_in_line() {
    let (folder, disks) = (Folder::new("deep"), Disks::new());
    let disk = folder.disk(&disks, 32 << 20);
    let core = start(&disks);
    let blocks = 4096_u64;
    core.block_on(move |local| {
        let io = local.io();
        async move {
            let writes = (0..blocks).map(|at| io.write(disk, at * 4096, block(at, 4096), false)).collect();
            assert!(join_all(writes).await.iter().all(Result::is_ok));
            let reads = (0..blocks).map(|at| io.read(disk, at * 4096, Buffer::uninit(4096))).collect();
            for (at, found) in join_all(reads).await.into_iter().enumerate() {
                assert_eq!(found.expect("a read").as_ref(), block(at as u64, 4096).as_ref());
            }
        }
    })
    .expect("the core runs");
    let counters = core.call(Local::counters).expect("the core runs");
    assert_eq!(counters.disk_requests, 2 * blocks);
    assert!(counters.ring_enters < blocks, "requests of a turn enter together: {counters:?}");
    core.stop();
}

#[test]
fn a_dropped_future_leaves_its_buffer_to_the_kernel_and_its_write_lands() {
    let (folder, disks) = (Folder::new("drop"), Disks::new());
    let disk = folder.disk(&disks, 16 << 20);
    let core = start(&disks);
    core.block_on(move |local| {
        let io = local.io();
        async move {
            for at in 0..64_u64 {
                drop(io.write(disk, at * 65536, block(at, 65536), false));
                drop(io.read(disk, at * 65536, Buffer::uninit(65536)));
                // A buffer that came back to the pool too early would be filled by the kernel now.
                assert!(Buffer::zeroed(65536).as_ref().iter().all(|byte| *byte == 0));
            }
        }
    })
    .expect("the core runs");
    // Stopping waits for what the kernel has.
    core.stop();
    let again = start(&disks);
    again
        .block_on(move |local| {
            let io = local.io();
            async move {
                for at in 0..64_u64 {
                    assert_eq!(read(&io, disk, at * 65536, 65536).await, block(at, 65536).as_ref(), "block {at}");
                }
            }
        })
        .expect("the core runs");
    again.stop();
}

#[test]
fn two_cores_wake_each_other_without_losing_a_ring() {
    let disks = Disks::new();
    let (left, right) = (start(&disks), start(&disks));
    let rounds = 20_000_u32;
    let (to_right, mut from_left) = channel::<u32>();
    let (to_left, mut from_right) = channel::<u32>();
    right
        .post(move |local| {
            local.spawner().spawn(async move {
                while let Some(number) = from_left.next().await {
                    to_left.send(number + 1);
                }
            });
        })
        .expect("the core runs");
    let last = left.block_on(move |local| {
        let spawner = local.spawner();
        async move {
            let mut number = 0;
            let event = Event::default();
            for _ in 0..rounds {
                to_right.send(number);
                // A wake of its own in between must not swallow the other core's ring.
                let (ring, waited) = (event.clone(), event.wait());
                spawner.spawn(async move { ring.notify() });
                waited.await;
                number = from_right.next().await.expect("the other core answers");
            }
            number
        }
    });
    assert_eq!(last, Ok(rounds));
    left.stop();
    right.stop();
}

#[test]
fn timers_fire_in_order_and_an_idle_core_sleeps() {
    let disks = Disks::new();
    let core = start(&disks);
    let began = Instant::now();
    let order = core.block_on(|local| {
        let (clock, spawner) = (local.clock(), local.spawner());
        let order = Rc::new(RefCell::new(Vec::new()));
        for ms in [60_u64, 20, 40] {
            let (sleep, order) = (clock.sleep(Duration::from_millis(ms)), Rc::clone(&order));
            spawner.spawn(async move {
                sleep.await;
                order.borrow_mut().push(ms);
            });
        }
        drop(clock.sleep(Duration::from_secs(3600)));
        async move {
            clock.sleep(Duration::from_millis(80)).await;
            order.take()
        }
    });
    assert_eq!(order, Ok(vec![20, 40, 60]));
    assert!(began.elapsed() >= Duration::from_millis(80));
    let before = core.call(Local::counters).expect("runs").turns;
    std::thread::sleep(Duration::from_millis(200));
    let after = core.call(Local::counters).expect("runs").turns;
    assert!(after - before <= 4, "an idle core took {} turns", after - before);
    core.stop();
}

/// Sends back what it gets, a little at a time, so that it must come back by itself.
struct Echo {
    local: Local,
    socket: Socket,
    queued: RefCell<Vec<u8>>,
    asked: Cell<bool>,
}

impl Source for Echo {
    fn handle_ready(self: Rc<Self>, _: Readiness) {
        let mut space = [0; 1000];
        match self.socket.receive(&mut [], &mut space).expect("receives") {
            Moved::Bytes(bytes) => {
                self.queued.borrow_mut().extend_from_slice(&space[..bytes]);
                self.local.next_turn(Rc::clone(&self) as Rc<dyn Source>);
            }
            Moved::WouldBlock => {}
            Moved::End => self.socket.finish_sending(),
        }
        if !self.asked.replace(true) {
            self.local.at_turn_end(Rc::clone(&self) as Rc<dyn Source>);
        }
    }

    fn handle_turn_end(self: Rc<Self>) {
        self.asked.set(false);
        let mut queued = self.queued.borrow_mut();
        if let Ok(Moved::Bytes(sent)) = self.socket.send(&[IoSlice::new(&queued)]) {
            queued.drain(..sent);
        }
        let more = !queued.is_empty();
        drop(queued);
        if more && !self.asked.replace(true) {
            self.local.next_turn(self.clone());
            self.asked.set(false);
        }
    }
}

#[test]
fn a_source_is_told_of_every_edge() {
    let disks = Disks::new();
    let core = start(&disks);
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("listens");
    let mut client = TcpStream::connect(listener.address()).expect("connects");
    core.call(move |local| {
        let socket = listener.accept().expect("accepts").expect("one waits");
        let echo = Rc::new(Echo { local: local.clone(), socket, queued: RefCell::default(), asked: Cell::new(false) });
        local.watch(&echo.socket, Rc::clone(&echo) as Rc<dyn Source>).expect("watched");
    })
    .expect("the core runs");
    for len in [1_usize, 999, 1000, 1001, 50_000] {
        let sent = block(len as u64, len);
        client.write_all(sent.as_ref()).expect("sends");
        let mut got = vec![0; len];
        client.read_exact(&mut got).expect("receives");
        assert_eq!(got, sent.as_ref());
    }
    core.stop();
    assert_eq!(client.read(&mut [0]).expect("the end"), 0, "a stopped core closes its sockets");
}
