//! Range locks: overlapping writes of one page are ordered, block by block.
//!
//! Layout: a page has one table of held ranges and one queue of waiters, both short (as long as the page has requests).
//! A waiter goes on when nothing held overlaps it and no earlier waiter does, so nobody starves. The downside: a scan
//! of both lists per lock; a tree pays off only beyond some tens of overlapping requests a page.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::rc::Rc;
use std::task::{Poll, Waker};

#[derive(Default)]
struct State {
    held: Vec<(u64, Range<u64>)>,
    queue: VecDeque<(u64, Range<u64>, Option<Waker>)>,
    next_ticket: u64,
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

impl State {
    /// Grants whatever can be granted now, in order of arrival.
    fn grant(&mut self) {
        let mut index = 0;
        while index < self.queue.len() {
            let range = &self.queue[index].1;
            let blocked = self.held.iter().any(|(_, held)| overlap(held, range))
                || self.queue.iter().take(index).any(|(_, earlier, _)| overlap(earlier, range));
            if blocked {
                index += 1;
                continue;
            }
            let (ticket, range, waker) = self.queue.remove(index).expect("an index below the length");
            self.held.push((ticket, range));
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// The range locks of one page; ranges are in 4 KiB blocks of the page.
#[derive(Clone, Default)]
pub struct RangeLocks(Rc<RefCell<State>>);

/// A held range. Dropping it lets the next go on; dropping it while it waits takes it off the queue.
pub struct RangeGuard {
    locks: RangeLocks,
    ticket: u64,
}

impl RangeLocks {
    /// Ends when `range` is held by the caller alone. The place in the queue is taken now, not at the first poll.
    pub fn lock(&self, range: Range<u64>) -> impl Future<Output = RangeGuard> + 'static {
        let guard = {
            let mut state = self.0.borrow_mut();
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            let free = state.queue.iter().all(|(_, waiting, _)| !overlap(waiting, &range))
                && state.held.iter().all(|(_, held)| !overlap(held, &range));
            if free {
                state.held.push((ticket, range));
            } else {
                state.queue.push_back((ticket, range, None));
            }
            RangeGuard { locks: self.clone(), ticket }
        };
        let mut guard = Some(guard);
        poll_fn(move |context| {
            let waiting = {
                let ours = guard.as_ref().expect("not polled after its end");
                let mut state = ours.locks.0.borrow_mut();
                let entry = state.queue.iter_mut().find(|(ticket, _, _)| *ticket == ours.ticket);
                entry.map(|entry| entry.2 = Some(context.waker().clone())).is_some()
            };
            if waiting { Poll::Pending } else { Poll::Ready(guard.take().expect("not polled after its end")) }
        })
    }

    /// True if nothing is held and nobody waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let state = self.0.borrow();
        state.held.is_empty() && state.queue.is_empty()
    }
}

impl Drop for RangeGuard {
    fn drop(&mut self) {
        let mut state = self.locks.0.borrow_mut();
        state.held.retain(|(ticket, _)| *ticket != self.ticket);
        state.queue.retain(|(ticket, _, _)| *ticket != self.ticket);
        state.grant();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Context;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn overlapping_ranges_are_granted_in_order_and_others_at_once() {
        let locks = RangeLocks::default();
        let mut first = pin!(locks.lock(0..4));
        let Poll::Ready(first) = poll(first.as_mut()) else { panic!("free") };
        let mut second = Box::pin(locks.lock(3..8));
        let mut third = Box::pin(locks.lock(7..9));
        let mut apart = pin!(locks.lock(20..21));
        assert!(poll(second.as_mut()).is_pending());
        assert!(poll(third.as_mut()).is_pending(), "an earlier waiter overlaps it");
        assert!(poll(apart.as_mut()).is_ready());
        drop(first);
        let Poll::Ready(second) = poll(second.as_mut()) else { panic!("free now") };
        assert!(poll(third.as_mut()).is_pending());
        drop(second);
        assert!(poll(third.as_mut()).is_ready());
    }

    #[test]
    fn a_waiter_that_gives_up_holds_nobody_back() {
        let locks = RangeLocks::default();
        let Poll::Ready(held) = poll(pin!(locks.lock(0..1))) else { panic!("free") };
        let second = Box::pin(locks.lock(0..2));
        let mut third = Box::pin(locks.lock(1..3));
        assert!(poll(third.as_mut()).is_pending());
        drop(second);
        assert!(poll(third.as_mut()).is_ready());
        drop((held, third));
        assert!(locks.is_idle());
    }
}
