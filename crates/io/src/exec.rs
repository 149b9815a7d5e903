//! One core's tasks.
//!
//! Layout: tasks live in a slab on their core and never move; a waker is an `Arc` that puts the task's slot on a ready
//! queue behind a mutex, so that another core may wake it (it then rings the core's doorbell, once per turn). Who runs
//! the loop decides the order: the reactor takes the oldest, the simulator draws by seed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Wakes a core that sleeps in its reactor. Called from any thread, at most once between two turns.
pub type Doorbell = Arc<dyn Fn() + Send + Sync>;

struct Ready {
    queue: Mutex<VecDeque<Arc<Slot>>>,
    rung: AtomicBool,
    doorbell: Doorbell,
}

impl Ready {
    // A panic elsewhere leaves the queue as it was: every push and pop is one step.
    fn queue(&self) -> MutexGuard<'_, VecDeque<Arc<Slot>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Slot {
    index: usize,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for Slot {
    fn wake(self: Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let ready = Arc::clone(&self.ready);
        ready.queue().push_back(self);
        if !ready.rung.swap(true, Ordering::AcqRel) {
            (ready.doorbell)();
        }
    }
}

#[derive(Default)]
struct Tasks {
    slab: Vec<Option<(Task, Arc<Slot>)>>,
    free: Vec<usize>,
    open: usize,
}

/// Runs one core's tasks. Not `Send`: it stays on its core; wakers may travel.
pub struct Executor {
    tasks: Rc<RefCell<Tasks>>,
    ready: Arc<Ready>,
}

/// Starts tasks on one core. Cheap to clone; stays on its core.
#[derive(Clone)]
pub struct Spawner {
    tasks: Rc<RefCell<Tasks>>,
    ready: Arc<Ready>,
}

impl Spawner {
    /// Starts `task`; it first runs in the executor's next turn.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let mut tasks = self.tasks.borrow_mut();
        let index = tasks.free.pop().unwrap_or_else(|| {
            tasks.slab.push(None);
            tasks.slab.len() - 1
        });
        let slot = Arc::new(Slot { index, queued: AtomicBool::new(false), ready: Arc::clone(&self.ready) });
        tasks.slab[index] = Some((Box::pin(task), Arc::clone(&slot)));
        tasks.open += 1;
        drop(tasks);
        slot.wake();
    }
}

impl Executor {
    /// An executor whose core is woken by `doorbell`.
    #[must_use]
    pub fn new(doorbell: Doorbell) -> Self {
        let ready = Ready { queue: Mutex::default(), rung: AtomicBool::new(false), doorbell };
        Self { tasks: Rc::default(), ready: Arc::new(ready) }
    }

    /// A handle that starts tasks here.
    #[must_use]
    pub fn spawner(&self) -> Spawner {
        Spawner { tasks: Rc::clone(&self.tasks), ready: Arc::clone(&self.ready) }
    }

    /// Tasks that have not ended.
    #[must_use]
    pub fn open_tasks(&self) -> usize {
        self.tasks.borrow().open
    }

    /// Tasks that are ready to run.
    #[must_use]
    pub fn ready_tasks(&self) -> usize {
        self.ready.queue().len()
    }

    /// Runs the tasks that are ready now, oldest first, and those that become ready meanwhile, `tasks_max` at the most.
    /// Returns how many ran; 0 means that the core may sleep until its doorbell rings.
    pub fn turn(&self, tasks_max: usize) -> usize {
        self.ready.rung.store(false, Ordering::Release);
        let mut ran = 0;
        while ran < tasks_max {
            let Some(slot) = self.ready.queue().pop_front() else { break };
            self.run(&slot);
            ran += 1;
        }
        ran
    }

    /// Runs one ready task: the one that `choose` picks among `n` (it gets `n` and returns an index below it). False if
    /// none is ready. This is how the simulator tries other orders.
    pub fn step(&self, choose: impl FnOnce(usize) -> usize) -> bool {
        let slot = {
            let mut queue = self.ready.queue();
            if queue.is_empty() {
                return false;
            }
            let index = choose(queue.len());
            queue.remove(index).expect("an index below the length")
        };
        self.run(&slot);
        true
    }

    fn run(&self, slot: &Arc<Slot>) {
        slot.queued.store(false, Ordering::Release);
        let taken = self.tasks.borrow_mut().slab.get_mut(slot.index).and_then(|entry| {
            // A waker may outlive its task; the slot may then belong to another one.
            entry.as_ref().is_some_and(|(_, owner)| Arc::ptr_eq(owner, slot)).then(|| entry.take()).flatten()
        });
        let Some((mut task, owner)) = taken else { return };
        let waker = Waker::from(Arc::clone(slot));
        let done = task.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Ready(());
        let mut tasks = self.tasks.borrow_mut();
        if done {
            tasks.free.push(slot.index);
            tasks.open -= 1;
            drop(tasks);
            // The task is dropped outside the borrow: what it owns may start or wake tasks.
            drop(task);
        } else {
            tasks.slab[slot.index] = Some((task, owner));
        }
    }

    /// Drops every task: how the simulator kills a process.
    pub fn clear(&self) {
        self.ready.queue().clear();
        let slab = std::mem::take(&mut self.tasks.borrow_mut().slab);
        drop(slab);
        *self.tasks.borrow_mut() = Tasks::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn a_task_woken_from_another_thread_rings_the_doorbell_once() {
        let rings = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&rings);
        let executor = Executor::new(Arc::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        }));
        let (sender, receiver) = sync::oneshot::<u32>();
        let seen = Rc::new(RefCell::new(None));
        let out = Rc::clone(&seen);
        executor.spawner().spawn(async move { *out.borrow_mut() = receiver.await });
        assert_eq!(executor.turn(16), 1);
        let before = rings.load(Ordering::SeqCst);
        std::thread::spawn(move || sender.send(7)).join().expect("the sender's thread");
        assert_eq!(rings.load(Ordering::SeqCst), before + 1);
        assert_eq!((executor.turn(16), *seen.borrow(), executor.open_tasks()), (1, Some(7), 0));
    }
}
