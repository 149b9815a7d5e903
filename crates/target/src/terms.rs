//! On which terms a volume is served: read-only, write-through, how fast, written zeros as holes.
//!
//! The terms of a volume hold for all its exports and all cores; [`Governed`] puts them between a connection and its
//! device. Without terms a request costs one load more.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sds_block::{BlockError, Command, Device, DeviceFuture, ErrorKind, Geometry, Request};
use sds_io::{Clock, ReadBytes, Slice};

use crate::devices::{Devices, DynDevice};
use crate::exports::VolumeKey;
use crate::meter::{Meter, Rate};

/// What an administrator asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TermsSpec {
    /// Writes are refused.
    pub read_only: bool,
    /// Each write is durable before its answer, and hosts see no write cache.
    pub write_through: bool,
    /// A write of nothing but zeros is a hole.
    pub detect_zeroes: bool,
    /// Reads, writes, discards and compares; a flush is none of them.
    pub requests: Option<Rate>,
    /// Bytes that are read, written or compared.
    pub bytes: Option<Rate>,
}

/// The terms of one volume, as all cores see them.
#[derive(Debug, Default)]
pub struct Terms {
    any: AtomicBool,
    read_only: AtomicBool,
    write_through: AtomicBool,
    detect_zeroes: AtomicBool,
    requests: Meter,
    bytes: Meter,
    delayed_requests: AtomicU64,
}

impl Terms {
    fn set(&self, spec: &TermsSpec) {
        self.read_only.store(spec.read_only, Relaxed);
        self.write_through.store(spec.write_through, Relaxed);
        self.detect_zeroes.store(spec.detect_zeroes, Relaxed);
        self.requests.set(spec.requests);
        self.bytes.set(spec.bytes);
        self.any.store(*spec != TermsSpec::default(), Relaxed);
    }

    /// How long a request waits for its turn.
    fn delay(&self, now: Duration, command: &Command, block_bytes: u32) -> Duration {
        let (requests, blocks) = match command {
            Command::Flush => return Duration::ZERO,
            Command::Discard(_) | Command::WriteZeroes { .. } => (1, 0),
            Command::Read(range) | Command::Write { range, .. } | Command::Compare(range) => (1, range.count.0),
            Command::CompareAndWrite { range, .. } => (1, range.count.0.saturating_mul(2)),
        };
        let bytes = blocks.saturating_mul(u64::from(block_bytes));
        let delay = self.requests.take(now, requests).max(self.bytes.take(now, bytes));
        if delay > Duration::ZERO {
            self.delayed_requests.fetch_add(1, Relaxed);
        }
        delay
    }

    /// The request as these terms want it.
    fn apply(&self, request: &mut Request<Slice>) -> Result<(), BlockError> {
        let writes = !matches!(request.command, Command::Read(_) | Command::Compare(_) | Command::Flush);
        if writes && self.read_only.load(Relaxed) {
            return Err(BlockError::new(ErrorKind::ReadOnly, "the volume is read-only"));
        }
        if self.detect_zeroes.load(Relaxed) {
            if let (Command::Write { range, fua }, Some(payload)) = (&request.command, &request.payload) {
                if is_zero(payload.as_ref()) {
                    let command = Command::WriteZeroes { range: *range, unmap: true, fua: *fua };
                    *request = Request { command, payload: None };
                }
            }
        }
        if self.write_through.load(Relaxed) {
            match &mut request.command {
                Command::Write { fua, .. }
                | Command::WriteZeroes { fua, .. }
                | Command::CompareAndWrite { fua, .. } => {
                    *fua = true;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // Most data differs from zero in its first bytes. Without a branch inside, a part is looked at in vectors.
    bytes.chunks(64).all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
}

/// The terms of every volume that has some or is open. Taken at opens and commands, never by an I/O.
#[derive(Debug, Default)]
pub(crate) struct TermsTable(Mutex<HashMap<VolumeKey, Arc<Terms>>>);

impl TermsTable {
    pub(crate) fn of(&self, volume: &VolumeKey) -> Arc<Terms> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(table.entry(volume.clone()).or_default())
    }

    pub(crate) fn set(&self, volume: &VolumeKey, spec: &TermsSpec) {
        self.of(volume).set(spec);
    }

    /// Forgets volumes that are gone.
    pub(crate) fn remove(&self, is_gone: impl Fn(&VolumeKey) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|volume, _| !is_gone(volume));
    }

    pub(crate) fn delayed_requests(&self, volume: &VolumeKey) -> u64 {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.get(volume).map_or(0, |terms| terms.delayed_requests.load(Relaxed))
    }
}

/// One core's devices under their volumes' terms.
pub(crate) struct GovernedDevices<C> {
    pub(crate) inner: Rc<dyn Devices>,
    pub(crate) table: Arc<TermsTable>,
    pub(crate) clock: C,
}

impl<C: Clock> Devices for GovernedDevices<C> {
    fn open(&self, volume: &VolumeKey) -> Option<Rc<DynDevice>> {
        let device = self.inner.open(volume)?;
        Some(Rc::new(Governed { device, terms: self.table.of(volume), clock: self.clock.clone() }))
    }
}

/// A device under its volume's terms.
struct Governed<C> {
    device: Rc<DynDevice>,
    terms: Arc<Terms>,
    clock: C,
}

impl<C: Clock> Device for Governed<C> {
    type Write = Slice;
    type Read = ReadBytes;

    fn geometry(&self) -> Geometry {
        let geometry = self.device.geometry();
        Geometry {
            read_only: geometry.read_only || self.terms.read_only.load(Relaxed),
            write_cache: geometry.write_cache && !self.terms.write_through.load(Relaxed),
            ..geometry
        }
    }

    fn execute(&self, mut request: Request<Slice>) -> DeviceFuture<ReadBytes> {
        if !self.terms.any.load(Relaxed) {
            return self.device.execute(request);
        }
        let block_bytes = self.device.geometry().logical_block_bytes;
        if let Err(error) = self.terms.apply(&mut request) {
            return Box::pin(std::future::ready(Err(error)));
        }
        let delay = self.terms.delay(self.clock.now(), &request.command, block_bytes);
        if delay == Duration::ZERO {
            return self.device.execute(request);
        }
        let (device, turn) = (Rc::clone(&self.device), self.clock.sleep(delay));
        Box::pin(async move {
            turn.await;
            device.execute(request).await
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use sds_block::LbaRange;
    use sds_io::Buffer;

    use super::*;
    use crate::devices::MemoryDevice;

    /// Hands on what it gets, and writes it down.
    struct Recorder {
        device: MemoryDevice,
        seen: Rc<RefCell<Vec<Command>>>,
    }

    impl Device for Recorder {
        type Write = Slice;
        type Read = ReadBytes;

        fn geometry(&self) -> Geometry {
            Geometry { write_cache: true, ..self.device.geometry() }
        }

        fn execute(&self, request: Request<Slice>) -> DeviceFuture<ReadBytes> {
            self.seen.borrow_mut().push(request.command.clone());
            self.device.execute(request)
        }
    }

    /// Time that passes only in sleeps.
    #[derive(Clone, Default)]
    struct SleepClock(Rc<RefCell<Duration>>);

    impl Clock for SleepClock {
        fn now(&self) -> Duration {
            *self.0.borrow()
        }

        fn wall(&self) -> Duration {
            self.now()
        }

        fn sleep(&self, delay: Duration) -> impl Future<Output = ()> + 'static {
            let now = Rc::clone(&self.0);
            async move { *now.borrow_mut() += delay }
        }
    }

    struct Scene {
        device: Governed<SleepClock>,
        seen: Rc<RefCell<Vec<Command>>>,
        clock: SleepClock,
    }

    fn scene(spec: TermsSpec) -> Scene {
        let (seen, clock) = (Rc::default(), SleepClock::default());
        let terms = Arc::new(Terms::default());
        terms.set(&spec);
        let inner = Recorder { device: MemoryDevice::new(1 << 20, [0; 16]), seen: Rc::clone(&seen) };
        let device = Governed { device: Rc::new(inner), terms, clock: clock.clone() };
        Scene { device, seen, clock }
    }

    impl Scene {
        fn run(&self, command: Command, payload: Option<Vec<u8>>) -> Result<Option<ReadBytes>, BlockError> {
            let payload = payload.map(|bytes| Buffer::copy_of(&bytes).share());
            let mut future = self.device.execute(Request { command, payload });
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            match future.as_mut().poll(&mut context) {
                std::task::Poll::Ready(answer) => answer,
                std::task::Poll::Pending => panic!("nothing here waits for more than the clock"),
            }
        }
    }

    const RANGE: LbaRange = LbaRange::new(8, 8);

    #[test]
    fn without_terms_everything_goes_through_as_it_is() {
        let scene = scene(TermsSpec::default());
        let write = Command::Write { range: RANGE, fua: false };
        scene.run(write.clone(), Some(vec![0; 4096])).expect("a write");
        assert_eq!(*scene.seen.borrow(), [write]);
        assert!(scene.device.geometry().write_cache && !scene.device.geometry().read_only);
    }

    #[test]
    fn a_read_only_volume_refuses_all_that_changes_it_and_nothing_else() {
        let scene = scene(TermsSpec { read_only: true, ..TermsSpec::default() });
        for command in [
            Command::Write { range: RANGE, fua: false },
            Command::WriteZeroes { range: RANGE, unmap: true, fua: false },
            Command::Discard(vec![RANGE]),
            Command::CompareAndWrite { range: RANGE, fua: false },
        ] {
            let refused = scene.run(command, Some(vec![0; 4096])).expect_err("it takes no writes");
            assert_eq!(refused.kind(), ErrorKind::ReadOnly);
        }
        assert!(scene.seen.borrow().is_empty());
        scene.run(Command::Read(RANGE), None).expect("a read");
        scene.run(Command::Compare(RANGE), Some(vec![0; 4096])).expect("a compare");
        scene.run(Command::Flush, None).expect("a flush");
        assert!(scene.device.geometry().read_only);
    }

    #[test]
    fn write_through_makes_every_write_durable_and_shows_no_cache() {
        let scene = scene(TermsSpec { write_through: true, ..TermsSpec::default() });
        scene.run(Command::Write { range: RANGE, fua: false }, Some(vec![1; 4096])).expect("a write");
        scene.run(Command::WriteZeroes { range: RANGE, unmap: false, fua: false }, None).expect("zeros");
        let pair = Some(vec![0; 8192]);
        scene.run(Command::CompareAndWrite { range: RANGE, fua: false }, pair).expect("equal");
        let expected = [
            Command::Write { range: RANGE, fua: true },
            Command::WriteZeroes { range: RANGE, unmap: false, fua: true },
            Command::CompareAndWrite { range: RANGE, fua: true },
        ];
        assert_eq!(*scene.seen.borrow(), expected);
        assert!(!scene.device.geometry().write_cache);
    }

    #[test]
    fn zeros_become_holes_and_other_data_does_not() {
        let scene = scene(TermsSpec { detect_zeroes: true, ..TermsSpec::default() });
        let write = Command::Write { range: RANGE, fua: true };
        scene.run(write.clone(), Some(vec![0; 4096])).expect("zeros");
        let mut last = vec![0; 4096];
        last[4095] = 1;
        scene.run(write.clone(), Some(last)).expect("data");
        let hole = Command::WriteZeroes { range: RANGE, unmap: true, fua: true };
        assert_eq!(*scene.seen.borrow(), [hole, write]);
    }

    #[test]
    fn requests_wait_for_the_stricter_of_both_rates_and_flushes_for_none() {
        let requests = Some(Rate { per_second: 100, burst: 0 });
        let bytes = Some(Rate { per_second: 40_960, burst: 0 });
        let scene = scene(TermsSpec { requests, bytes, ..TermsSpec::default() });
        for _ in 0..5 {
            scene.run(Command::Read(RANGE), None).expect("a read");
            scene.run(Command::Flush, None).expect("a flush");
        }
        assert_eq!(scene.clock.now().as_millis(), 400, "4,096 bytes take 100 ms, the first begins at once");
        for _ in 0..5 {
            scene.run(Command::Discard(vec![RANGE]), None).expect("a discard");
        }
        assert_eq!(scene.clock.now().as_millis(), 440, "a request alone takes 10 ms");
        assert_eq!(scene.device.terms.delayed_requests.load(Relaxed), 8);
    }
}
