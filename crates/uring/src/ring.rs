//! One core's io_uring: requests from their submission until the kernel has let go of their buffers.
//!
//! Layout: requests live in a slab; a slot's index is the entry's user data, and the slot keeps the disk, the buffer
//! and the waker. A future that is dropped leaves its slot to the completion, because the kernel still writes to the
//! buffer. Short transfers go on where they stopped.
//!
//! Considerations: entries are only pushed here; the core submits them once a turn with one system call. At most
//! [`RING_REQUESTS_MAX`] are with the kernel, the others wait in line, so that the completion queue never overflows.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::task::{Poll, Waker};

use io_uring::{IoUring, opcode, squeue, types};
use rustix::event::EventfdFlags;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use sds_io::{Buffer, DiskId, IoError, IoErrorKind, Slice};

use crate::disks::{Disk, Disks};
use crate::errno::io_error;

/// Requests that one core has with the kernel: the submission queue's size, half the completion queue's.
pub(crate) const RING_REQUESTS_MAX: u32 = 1024;
/// How often one request is tried again after EAGAIN or EINTR before it counts as failed.
const REQUEST_RETRIES_MAX: u8 = 16;
/// The most that one entry transfers: lengths are 32 bits wide, and the kernel stops at 2 GiB less a page.
const ENTRY_BYTES_MAX: usize = 1 << 30;
/// Linux' RWF_DSYNC: this write is durable when it ends.
const RWF_DSYNC: i32 = 0x2;

pub(crate) enum Work {
    Read(Buffer),
    Write { data: Slice, durable: bool },
    Sync,
    Discard { bytes: u64 },
}

impl Work {
    fn bytes(&self) -> usize {
        match self {
            Self::Read(buffer) => buffer.len(),
            Self::Write { data, .. } => data.len(),
            Self::Sync | Self::Discard { .. } => 0,
        }
    }
}

enum State {
    Running(Option<Waker>),
    /// Nobody waits any more; the slot is freed by the completion.
    Orphan,
    Ended(Result<(), IoError>),
}

struct Request {
    disk: Arc<Disk>,
    offset: u64,
    done: usize,
    retries: u8,
    work: Work,
    state: State,
}

impl Request {
    /// The entry for what is still to do.
    fn entry(&mut self, index: usize) -> squeue::Entry {
        let fd = types::Fd(self.disk.file.as_raw_fd());
        let offset = self.offset + self.done as u64;
        let done = self.done;
        let entry = match &mut self.work {
            Work::Read(buffer) => {
                let rest = &mut buffer.as_mut()[done..];
                let len = rest.len().min(ENTRY_BYTES_MAX) as u32;
                opcode::Read::new(fd, rest.as_mut_ptr(), len).offset(offset).build()
            }
            Work::Write { data, durable } => {
                let rest = &data.as_ref()[done..];
                let len = rest.len().min(ENTRY_BYTES_MAX) as u32;
                let flags = if *durable { RWF_DSYNC } else { 0 };
                opcode::Write::new(fd, rest.as_ptr(), len).offset(offset).rw_flags(flags).build()
            }
            Work::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            Work::Discard { bytes } => {
                let mode = (FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE).bits();
                opcode::Fallocate::new(fd, *bytes).offset(offset).mode(mode as i32).build()
            }
        };
        entry.user_data(index as u64)
    }

    /// Takes the kernel's answer. `None`: there is more to do.
    fn advance(&mut self, answer: i32) -> Option<Result<(), IoError>> {
        if answer < 0 {
            let errno = Errno::from_raw_os_error(-answer);
            if matches!(errno, Errno::AGAIN | Errno::INTR) && self.retries < REQUEST_RETRIES_MAX {
                self.retries += 1;
                return None;
            }
            if matches!(self.work, Work::Discard { .. }) && errno == Errno::OPNOTSUPP {
                // The content is undefined after a discard, so a disk that keeps it has done as asked.
                return Some(Ok(()));
            }
            return Some(Err(io_error(errno)));
        }
        let total = self.work.bytes();
        if total == 0 {
            return Some(Ok(()));
        }
        // A direct transfer must go on at a whole block.
        let block = self.disk.info.logical_block_bytes as usize;
        let mut done = self.done + usize::try_from(answer).expect("not negative");
        if done < total {
            done -= done % block;
            if done == self.done {
                // The file ends early, or the disk makes no headway.
                return Some(Err(IoError { kind: IoErrorKind::Media, os_code: 0 }));
            }
        }
        self.done = done;
        (done >= total).then_some(Ok(()))
    }
}

#[derive(Default)]
struct Requests {
    slab: Vec<Option<Request>>,
    free: Vec<usize>,
    /// Slots whose entry waits for room in the ring.
    waiting: VecDeque<usize>,
}

pub(crate) struct Ring {
    uring: RefCell<IoUring>,
    requests: RefCell<Requests>,
    with_kernel: Cell<u32>,
    /// Readable (edge-triggered) when completions have come.
    pub(crate) completed: OwnedFd,
    disks: Arc<Disks>,
    cache: RefCell<Vec<Weak<Disk>>>,
    pub(crate) enters: Cell<u64>,
    pub(crate) requests_ended: Cell<u64>,
}

fn set_up() -> io::Result<IoUring> {
    let modern = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .build(RING_REQUESTS_MAX);
    match modern {
        // Before Linux 6.1 there are fewer flags; the plain ring does the same with more interrupts.
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            IoUring::builder().build(RING_REQUESTS_MAX)
        }
        other => other,
    }
}

impl Ring {
    /// To be made on the thread that uses it.
    pub(crate) fn new(disks: Arc<Disks>) -> io::Result<Self> {
        let uring = set_up()?;
        let completed = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        uring.submitter().register_eventfd(completed.as_raw_fd())?;
        Ok(Self {
            uring: RefCell::new(uring),
            requests: RefCell::default(),
            with_kernel: Cell::new(0),
            completed,
            disks,
            cache: RefCell::default(),
            enters: Cell::new(0),
            requests_ended: Cell::new(0),
        })
    }

    /// The disk, if it is open.
    pub(crate) fn disk(&self, id: DiskId) -> Option<Arc<Disk>> {
        let index = usize::from(id.0);
        let cached = self.cache.borrow().get(index).and_then(Weak::upgrade);
        if cached.is_some() {
            return cached;
        }
        let disk = self.disks.get(id)?;
        let mut cache = self.cache.borrow_mut();
        if cache.len() <= index {
            cache.resize_with(index + 1, Weak::new);
        }
        cache[index] = Arc::downgrade(&disk);
        Some(disk)
    }

    /// Takes a request; its entry goes to the kernel at the end of the turn.
    pub(crate) fn start(&self, disk: Arc<Disk>, offset: u64, work: Work) -> usize {
        let request = Request { disk, offset, done: 0, retries: 0, work, state: State::Running(None) };
        let mut requests = self.requests.borrow_mut();
        let index = requests.free.pop().unwrap_or_else(|| {
            requests.slab.push(None);
            requests.slab.len() - 1
        });
        requests.slab[index] = Some(request);
        requests.waiting.push_back(index);
        index
    }

    /// The request's end, and its work with the buffer; the slot is free after that.
    pub(crate) fn poll(&self, index: usize, waker: &Waker) -> Poll<(Result<(), IoError>, Work)> {
        let mut requests = self.requests.borrow_mut();
        let request = requests.slab[index].as_mut().expect("the future owns its slot");
        match &mut request.state {
            State::Running(slot) => {
                if !slot.as_ref().is_some_and(|old| old.will_wake(waker)) {
                    *slot = Some(waker.clone());
                }
                Poll::Pending
            }
            State::Ended(result) => {
                let result = *result;
                let request = requests.slab[index].take().expect("looked at above");
                requests.free.push(index);
                Poll::Ready((result, request.work))
            }
            State::Orphan => unreachable!("an orphan has no future"),
        }
    }

    /// The future is dropped: the slot frees itself when the kernel is done.
    pub(crate) fn abandon(&self, index: usize) {
        let mut requests = self.requests.borrow_mut();
        let request = requests.slab[index].as_mut().expect("the future owns its slot");
        if matches!(request.state, State::Ended(_)) {
            requests.slab[index] = None;
            requests.free.push(index);
        } else {
            request.state = State::Orphan;
        }
    }

    /// True if entries wait to be submitted.
    pub(crate) fn has_entries(&self) -> bool {
        !self.requests.borrow().waiting.is_empty() && self.with_kernel.get() < RING_REQUESTS_MAX
    }

    /// True if the kernel has requests of ours.
    pub(crate) fn is_busy(&self) -> bool {
        self.with_kernel.get() > 0
    }

    /// Moves waiting entries to the submission queue, as many as there is room for.
    fn push_entries(&self) {
        let requests = &mut *self.requests.borrow_mut();
        if requests.waiting.is_empty() {
            return;
        }
        let mut uring = self.uring.borrow_mut();
        let mut queue = uring.submission();
        while self.with_kernel.get() < RING_REQUESTS_MAX && !queue.is_full() {
            let Some(index) = requests.waiting.pop_front() else { break };
            let request = requests.slab[index].as_mut().expect("a waiting slot is in use");
            let entry = request.entry(index);
            // SAFETY: the slot keeps the buffer and the open file until the entry's completion was taken; a buffer's
            // bytes do not move when the slot does; nothing else touches a read's buffer meanwhile.
            unsafe { queue.push(&entry) }.expect("the queue was not full");
            self.with_kernel.set(self.with_kernel.get() + 1);
        }
    }

    /// Submits what is there, waits for at least `completions_min`, and takes all completions. Returns how many.
    pub(crate) fn turn(&self, completions_min: usize) -> usize {
        self.push_entries();
        let entered = self.uring.borrow().submit_and_wait(completions_min);
        self.enters.set(self.enters.get() + 1);
        match entered.map_err(|error| error.raw_os_error().map(Errno::from_raw_os_error)) {
            // What was not taken stays in the submission queue for the next turn.
            Ok(_) | Err(Some(Errno::INTR | Errno::AGAIN | Errno::BUSY)) => {}
            Err(errno) => panic!("io_uring_enter failed: {errno:?}"),
        }
        self.take_completions()
    }

    fn take_completions(&self) -> usize {
        let mut taken = 0;
        loop {
            let next = self.uring.borrow_mut().completion().next();
            let Some(completion) = next else { return taken };
            taken += 1;
            self.with_kernel.set(self.with_kernel.get() - 1);
            self.complete(completion.user_data() as usize, completion.result());
        }
    }

    fn complete(&self, index: usize, answer: i32) {
        let mut requests = self.requests.borrow_mut();
        let request = requests.slab[index].as_mut().expect("the kernel answers for slots in use");
        let Some(result) = request.advance(answer) else {
            requests.waiting.push_back(index);
            return;
        };
        self.requests_ended.set(self.requests_ended.get() + 1);
        match std::mem::replace(&mut request.state, State::Ended(result)) {
            State::Running(waker) => {
                drop(requests);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            State::Orphan => {
                if let Err(error) = result {
                    log::debug!("a request that nobody waits for failed on {}: {error}", request.disk.info.path);
                }
                let request = requests.slab[index].take();
                requests.free.push(index);
                drop(requests);
                drop(request);
            }
            State::Ended(_) => unreachable!("a request completes once"),
        }
    }

    /// The fd that epoll watches for completions.
    pub(crate) fn watched(&self) -> impl AsFd + '_ {
        self.completed.as_fd()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel still reads from and writes to the buffers of what it has.
        while self.is_busy() || self.has_entries() {
            self.turn(usize::from(self.is_busy()));
        }
    }
}
