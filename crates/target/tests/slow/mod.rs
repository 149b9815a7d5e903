//! A device that takes its time.

use std::rc::Rc;
use std::time::Duration;

use sds_block::{Device, DeviceFuture, Geometry, Request};
use sds_io::{Clock, ReadBytes, Slice};
use sds_target::DynDevice;
use sds_uring::{CoreClock, Local};

struct Slow {
    below: Rc<DynDevice>,
    clock: CoreClock,
    delay: Duration,
}

impl Device for Slow {
    type Write = Slice;
    type Read = ReadBytes;

    fn geometry(&self) -> Geometry {
        self.below.geometry()
    }

    fn execute(&self, request: Request<Slice>) -> DeviceFuture<ReadBytes> {
        let (sleep, below) = (self.clock.sleep(self.delay), Rc::clone(&self.below));
        Box::pin(async move {
            sleep.await;
            below.execute(request).await
        })
    }
}

/// `below` with an answer `delay_ms` later, so that requests are with it when things happen.
pub fn slow(local: &Local, below: Rc<DynDevice>, delay_ms: u64) -> Rc<DynDevice> {
    Rc::new(Slow { below, clock: local.clock(), delay: Duration::from_millis(delay_ms) })
}
