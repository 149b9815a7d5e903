//! How tasks wait for each other: one-shot answers and channels (between cores), events (within one).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

struct OneshotState<T> {
    value: Option<T>,
    waker: Option<Waker>,
    closed: bool,
}

/// The end that answers, once. Dropping it answers `None`.
pub struct OneshotSender<T>(Arc<Mutex<OneshotState<T>>>);

/// The end that waits: `Some(answer)`, or `None` if the other end was dropped.
pub struct OneshotReceiver<T>(Arc<Mutex<OneshotState<T>>>);

/// A pair for one answer, which may come from another thread.
#[must_use]
pub fn oneshot<T>() -> (OneshotSender<T>, OneshotReceiver<T>) {
    let state = Arc::new(Mutex::new(OneshotState { value: None, waker: None, closed: false }));
    (OneshotSender(Arc::clone(&state)), OneshotReceiver(state))
}

impl<T> OneshotSender<T> {
    /// Answers.
    pub fn send(self, value: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).value = Some(value);
    }
}

impl<T> Drop for OneshotSender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.closed = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for OneshotReceiver<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.value.is_some() || state.closed {
            return Poll::Ready(state.value.take());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

struct ChannelState<T> {
    queue: VecDeque<T>,
    waker: Option<Waker>,
    senders: usize,
    /// The receiving end is there.
    open: bool,
}

/// An end that sends; clone it for every sender.
pub struct Sender<T>(Arc<Mutex<ChannelState<T>>>);

/// The end that receives.
pub struct Receiver<T>(Arc<Mutex<ChannelState<T>>>);

/// An unbounded queue between cores: its users bound what they have open.
#[must_use]
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let state = Arc::new(Mutex::new(ChannelState { queue: VecDeque::new(), waker: None, senders: 1, open: true }));
    (Sender(Arc::clone(&state)), Receiver(state))
}

impl<T> Sender<T> {
    /// Puts `value` at the end of the queue; drops it if nobody will receive it.
    pub fn send(&self, value: T) {
        let waker = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if !state.open {
                // The value may wake somebody as it goes: not under the lock.
                drop(state);
                return drop(value);
            }
            state.queue.push_back(value);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.senders -= 1;
            (state.senders == 0).then(|| state.waker.take()).flatten()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// The next value; `None` when the queue is empty and every sender is gone.
    pub async fn next(&mut self) -> Option<T> {
        poll_fn(|context| {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(value) = state.queue.pop_front() {
                return Poll::Ready(Some(value));
            }
            if state.senders == 0 {
                return Poll::Ready(None);
            }
            state.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The next value if one is there now.
    pub fn try_next(&mut self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).queue.pop_front()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let left = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.open = false;
            std::mem::take(&mut state.queue)
        };
        // Values may wake somebody as they go: not under the lock.
        drop(left);
    }
}

/// Something that happens again and again on one core: waiters wait for its next time.
#[derive(Clone, Default)]
pub struct Event(Rc<EventState>);

#[derive(Default)]
struct EventState {
    times: Cell<u64>,
    waiters: RefCell<Vec<Waker>>,
}

impl Event {
    /// It happened: all who wait go on.
    pub fn notify(&self) {
        self.0.times.set(self.0.times.get() + 1);
        for waker in self.0.waiters.take() {
            waker.wake();
        }
    }

    /// Ends at the next [`Event::notify`] after this call (not after the first poll).
    pub fn wait(&self) -> impl Future<Output = ()> + 'static {
        let state = Rc::clone(&self.0);
        let seen = state.times.get();
        poll_fn(move |context| {
            if state.times.get() != seen {
                return Poll::Ready(());
            }
            state.waiters.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
    }
}

/// Runs `futures` together and returns their answers in order.
pub async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut open: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut answers: Vec<Option<F::Output>> = open.iter().map(|_| None).collect();
    poll_fn(move |context| {
        let mut pending = false;
        for (future, answer) in open.iter_mut().zip(&mut answers) {
            if answer.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *answer = Some(value),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending {
            return Poll::Pending;
        }
        Poll::Ready(answers.iter_mut().map(|answer| answer.take().expect("each future ended")).collect())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    #[test]
    fn who_waits_for_an_answer_of_a_receiver_that_is_gone_is_told() {
        let (requests, receiver) = channel();
        let (early, early_answer) = oneshot::<u32>();
        requests.send(early);
        drop(receiver);
        let (late, late_answer) = oneshot::<u32>();
        requests.send(late);
        let mut context = Context::from_waker(Waker::noop());
        for answer in [early_answer, late_answer] {
            assert_eq!(pin!(answer).poll(&mut context), Poll::Ready(None));
        }
    }
}
