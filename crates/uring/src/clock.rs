//! Time and timers of one core.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use sds_io::Clock;

#[derive(Default)]
struct Timers {
    /// By deadline, then by order of setting. A timer that fired is gone from here.
    pending: RefCell<BTreeMap<(Duration, u64), Waker>>,
    next: Cell<u64>,
}

/// One core's clock. Cheap to clone; stays on its core. Time is the system's monotonic clock, the same on all cores.
#[derive(Clone, Default)]
pub struct CoreClock {
    timers: Rc<Timers>,
}

fn since(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

impl CoreClock {
    /// When the next timer is due.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.timers.pending.borrow().first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// Wakes all whose time has come.
    pub(crate) fn fire(&self, now: Duration) {
        loop {
            let mut pending = self.timers.pending.borrow_mut();
            let due = pending.first_entry().filter(|entry| entry.key().0 <= now);
            let Some(waker) = due.map(|entry| entry.remove()) else { return };
            drop(pending);
            waker.wake();
        }
    }
}

impl Clock for CoreClock {
    fn now(&self) -> Duration {
        since(ClockId::Monotonic)
    }

    fn wall(&self) -> Duration {
        since(ClockId::Realtime)
    }

    fn sleep(&self, delay: Duration) -> impl Future<Output = ()> + 'static {
        let number = self.timers.next.get();
        self.timers.next.set(number + 1);
        Sleep { clock: self.clone(), key: (self.now().saturating_add(delay), number) }
    }
}

struct Sleep {
    clock: CoreClock,
    key: (Duration, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.clock.now() >= self.key.0 {
            return Poll::Ready(());
        }
        self.clock.timers.pending.borrow_mut().insert(self.key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.clock.timers.pending.borrow_mut().remove(&self.key);
    }
}
