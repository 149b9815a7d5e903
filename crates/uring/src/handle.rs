//! Starting a core and reaching it from other threads.
//!
//! A core's thread must not die alone: tasks hold range locks, queues wait for its answers, and its connections would
//! hang until their hosts give up. So a panic on it is logged as an ERROR and ends the process; the supervisor starts
//! the engine again, and that is a crash that the engine survives without loss by design.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use rustix::event::EventfdFlags;
use rustix::thread::CpuSet;

use crate::core::Local;
use crate::disks::Disks;

type Job = Box<dyn FnOnce(&Local) + Send>;

thread_local! {
    /// The mailbox number of the core that runs on this thread; 0 if none does.
    static HERE: Cell<u64> = const { Cell::new(0) };
}

/// Jobs for a core, and the bell that wakes it.
pub(crate) struct Mailbox {
    number: u64,
    bell: OwnedFd,
    jobs: Mutex<VecDeque<Job>>,
    filled: AtomicBool,
    closed: AtomicBool,
}

impl Mailbox {
    fn new() -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            bell,
            jobs: Mutex::default(),
            filled: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        })
    }

    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// This thread runs the core.
    pub(crate) fn claim(&self) {
        HERE.set(self.number);
    }

    /// Wakes the core, unless this is its own thread: it looks at its queues before it sleeps.
    pub(crate) fn ring_unless_here(&self) {
        if HERE.try_with(Cell::get) != Ok(self.number) {
            // It fails only when the counter is full, and then the core has not slept since 2^64 rings.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    pub(crate) fn has_jobs(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    pub(crate) fn take(&self) -> VecDeque<Job> {
        if !self.filled.swap(false, Ordering::AcqRel) {
            return VecDeque::new();
        }
        std::mem::take(&mut *self.jobs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn post(&self, job: Job) -> Result<(), CoreGone> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::Acquire) {
            return Err(CoreGone);
        }
        jobs.push_back(job);
        drop(jobs);
        self.filled.store(true, Ordering::Release);
        self.ring_unless_here();
        Ok(())
    }

    /// No more jobs; those that are left are dropped, which tells their senders.
    fn close(&self) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(true, Ordering::Release);
        let left = std::mem::take(&mut *jobs);
        drop(jobs);
        drop(left);
    }
}

/// The core has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreGone;

impl fmt::Display for CoreGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the core has stopped")
    }
}

impl std::error::Error for CoreGone {}

/// How to run a core.
#[derive(Clone, Copy, Debug, Default)]
pub struct CoreOptions {
    /// Its number, for names and for those who share work by it.
    pub index: usize,
    /// The processor to stay on; `None` leaves it to the scheduler.
    pub processor: Option<usize>,
    /// After its last work the core looks again and again for so long before it sleeps: lower latency for one open
    /// request, at the price of a busy processor. 0, the default, sleeps at once.
    pub spin_us: u32,
}

/// A way to a core from any thread.
#[derive(Clone)]
pub struct CoreHandle {
    index: usize,
    mailbox: Arc<Mailbox>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl CoreHandle {
    /// Starts a thread that runs a core.
    ///
    /// # Errors
    /// The system's: no thread, no io_uring (`ENOSYS` or `EPERM` where it is switched off), no such processor.
    pub fn start(options: CoreOptions, disks: Arc<Disks>) -> io::Result<Self> {
        let mailbox = Arc::new(Mailbox::new()?);
        let (started, outcome) = mpsc::channel();
        let inside = Arc::clone(&mailbox);
        let main = move || match set_up(options, disks, &inside) {
            Err(error) => drop(started.send(Err(error))),
            Ok(local) => {
                let _ = started.send(Ok(()));
                if catch_unwind(AssertUnwindSafe(|| local.run())).is_err() {
                    log::error!(
                        "core {} panicked; the engine ends, because what the core held stays held",
                        options.index
                    );
                    log::logger().flush();
                    std::process::abort();
                }
                inside.close();
            }
        };
        let thread = std::thread::Builder::new().name(format!("sds-core-{}", options.index)).spawn(main)?;
        outcome.recv().map_err(|_| io::Error::other("the core's thread ended before it began"))??;
        Ok(Self { index: options.index, mailbox, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// Which core it is.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Runs `job` there, some time soon. Jobs of one thread run in their order.
    ///
    /// # Errors
    /// [`CoreGone`] if the core has stopped. A job that was taken may still be dropped unrun when it stops.
    pub fn post(&self, job: impl FnOnce(&Local) + Send + 'static) -> Result<(), CoreGone> {
        self.mailbox.post(Box::new(job))
    }

    /// Runs `job` there and waits for its answer. Not for a core's thread: it would wait for itself.
    ///
    /// # Errors
    /// [`CoreGone`] if the core stops first.
    pub fn call<T: Send + 'static>(&self, job: impl FnOnce(&Local) -> T + Send + 'static) -> Result<T, CoreGone> {
        let (sender, receiver) = mpsc::channel();
        self.post(move |local| drop(sender.send(job(local))))?;
        receiver.recv().map_err(|_| CoreGone)
    }

    /// Runs the future that `make` gives there and waits for its end. Not for a core's thread.
    ///
    /// # Errors
    /// [`CoreGone`] if the core stops first.
    pub fn block_on<T, F>(&self, make: impl FnOnce(&Local) -> F + Send + 'static) -> Result<T, CoreGone>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (sender, receiver) = mpsc::channel();
        self.post(move |local| {
            let future = make(local);
            local.spawner().spawn(async move { drop(sender.send(future.await)) });
        })?;
        receiver.recv().map_err(|_| CoreGone)
    }

    /// Stops the core and waits for its thread; disk requests that the kernel has run to their end. Stopping twice
    /// does nothing.
    pub fn stop(&self) {
        let _ = self.post(Local::stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic aborts, so the thread ended well.
            let _ = thread.join();
        }
    }
}

fn set_up(options: CoreOptions, disks: Arc<Disks>, mailbox: &Arc<Mailbox>) -> io::Result<Local> {
    if let Some(processor) = options.processor {
        let mut set = CpuSet::new();
        set.set(processor);
        rustix::thread::sched_setaffinity(None, &set)?;
    }
    Local::new(options, disks, Arc::clone(mailbox))
}
