//! Accepting connections and handing them to cores.
//!
//! One listening socket per address, on the first core, which deals connections to the cores in turn. The
//! alternative, a socket per core with SO_REUSEPORT, spreads by a hash: a host's four queues then often meet on one.
//! The downside is one message between cores per connection, which a host makes once.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sds_io::Clock;
use sds_uring::net::Listener;
use sds_uring::{Local, Readiness, Source, SourceId};

use crate::admission::Door;
use crate::connections::Front;
use crate::glue::Glue;
use crate::shell::Conn;
use crate::throttle::Throttle;

/// Connections that are accepted in one turn.
const ACCEPTS_PER_TURN_MAX: usize = 64;
/// After an error (no file descriptors left) accepting rests so long.
const ACCEPT_REST_MS: u64 = 100;

struct Acceptor<G: Glue> {
    local: Local,
    front: Rc<Front>,
    node: Arc<G::Node>,
    listener: Listener,
    next_core: Cell<usize>,
    rest_lines: RefCell<Throttle>,
}

/// The first core's listeners, so that they can be stopped.
#[derive(Default)]
pub(crate) struct Listeners(RefCell<Vec<SourceId>>);

impl Listeners {
    fn of(local: &Local) -> Rc<Self> {
        local.get::<Self>().unwrap_or_else(|| {
            let new = Rc::new(Self::default());
            local.put(Rc::clone(&new));
            new
        })
    }

    /// Stops accepting.
    pub(crate) fn stop(local: &Local) {
        for source in Self::of(local).0.take() {
            local.unwatch(source);
        }
    }
}

/// Listens on `address` and serves what connects; to be called on the first core.
pub(crate) fn listen<G: Glue>(local: &Local, node: Arc<G::Node>, address: SocketAddr) -> io::Result<SocketAddr> {
    let front = local.get::<Front>().ok_or_else(|| io::Error::other("the core has no front end"))?;
    let listener = Listener::bind(address)?;
    let address = listener.address();
    let acceptor = Rc::new(Acceptor::<G> {
        local: local.clone(),
        front,
        node,
        listener,
        next_core: Cell::new(0),
        rest_lines: RefCell::default(),
    });
    let source = local.watch(&acceptor.listener, Rc::clone(&acceptor) as Rc<dyn Source>)?;
    Listeners::of(local).0.borrow_mut().push(source);
    Ok(address)
}

impl<G: Glue> Acceptor<G> {
    /// False if there is none to accept now.
    fn accept(self: &Rc<Self>) -> io::Result<bool> {
        let Some(socket) = self.listener.accept()? else { return Ok(false) };
        let core = self.next_core.get();
        let door = Door { core, close: Conn::<G>::give_way };
        let entered = self.front.admission.enter(&self.front.limits, socket.peer().ip(), door);
        let Some((place, gone)) = entered else { return Ok(true) };
        if let Some((door, id)) = gone {
            // After the message that started it, which went the same way.
            let _ = self.front.handles[door.core].post(move |local| (door.close)(local, id));
        }
        self.next_core.set((core + 1) % self.front.handles.len());
        let node = Arc::clone(&self.node);
        // A core that has stopped drops socket and place.
        let _ = self.front.handles[core].post(move |local| Conn::<G>::start(local, node, socket, place));
        Ok(true)
    }
}

impl<G: Glue> Source for Acceptor<G> {
    fn handle_ready(self: Rc<Self>, _: Readiness) {
        for _ in 0..ACCEPTS_PER_TURN_MAX {
            match self.accept() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    if let Some(more) = self.rest_lines.borrow_mut().pass(Instant::now()) {
                        let address = self.listener.address();
                        log::warn!("{address}: accepting failed and rests: {error}{more}");
                    }
                    let rest = self.local.clock().sleep(Duration::from_millis(ACCEPT_REST_MS));
                    self.local.clone().spawner().spawn(async move {
                        rest.await;
                        self.local.next_turn(Rc::clone(&self) as Rc<dyn Source>);
                    });
                    return;
                }
            }
        }
        self.local.next_turn(Rc::clone(&self) as Rc<dyn Source>);
    }

    fn handle_turn_end(self: Rc<Self>) {}
}
