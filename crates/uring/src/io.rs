//! [`UringIo`]: one core's way to the disks.
//!
//! RAM disks answer at once with a copy. Files and devices go through the core's ring; a request is handed over when
//! it is made, not when its future is first polled, so that "submitted before" means what the caller thinks.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::fs::FallocateFlags;
use sds_io::{Buffer, Clock, DiskId, DiskInfo, Io, IoError, IoErrorKind, Slice};

use crate::clock::CoreClock;
use crate::disks::{Backing, Disk};
use crate::errno::{INVALID, io_error};
use crate::ring::{Ring, Work};

const GONE: IoError = IoError { kind: IoErrorKind::Gone, os_code: 0 };

/// One core's disks and clock. Cheap to clone; stays on its core.
#[derive(Clone)]
pub struct UringIo {
    ring: Rc<Ring>,
    clock: CoreClock,
}

impl UringIo {
    pub(crate) const fn new(ring: Rc<Ring>, clock: CoreClock) -> Self {
        Self { ring, clock }
    }

    /// The disk, if `[offset, offset + len)` lies on it in whole blocks.
    fn checked(&self, id: DiskId, offset: u64, len: u64) -> Result<Arc<Disk>, IoError> {
        let disk = self.ring.disk(id).ok_or(GONE)?;
        let block = u64::from(disk.info.logical_block_bytes);
        let fits = offset.checked_add(len).is_some_and(|end| end <= disk.info.size_bytes);
        if fits && len > 0 && offset % block == 0 && len % block == 0 { Ok(disk) } else { Err(INVALID) }
    }

    fn start(&self, disk: Arc<Disk>, offset: u64, work: Work) -> Started {
        Started::Running(Running { index: self.ring.start(disk, offset, work), ring: Some(Rc::clone(&self.ring)) })
    }
}

enum Started {
    /// Answered at once: a RAM disk, or refused.
    Answered(Option<Result<Option<Buffer>, IoError>>),
    Running(Running),
}

/// A request that the ring has; dropping it leaves the buffer to the ring.
struct Running {
    index: usize,
    ring: Option<Rc<Ring>>,
}

impl Future for Started {
    type Output = Result<Option<Buffer>, IoError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Answered(answer) => Poll::Ready(answer.take().expect("polled once after its end")),
            Self::Running(running) => {
                let ring = running.ring.as_ref().expect("polled once after its end");
                let Poll::Ready((result, work)) = ring.poll(running.index, context.waker()) else {
                    return Poll::Pending;
                };
                running.ring = None;
                Poll::Ready(result.map(|()| match work {
                    Work::Read(buffer) => Some(buffer),
                    Work::Write { .. } | Work::Sync | Work::Discard { .. } => None,
                }))
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(ring) = self.ring.take() {
            ring.abandon(self.index);
        }
    }
}

impl Io for UringIo {
    fn disk(&self, disk: DiskId) -> DiskInfo {
        self.ring.disk(disk).expect("the disk is open").info.clone()
    }

    fn read(
        &self,
        disk: DiskId,
        offset: u64,
        mut buffer: Buffer,
    ) -> impl Future<Output = Result<Buffer, IoError>> + 'static {
        let started = match self.checked(disk, offset, buffer.len() as u64) {
            Err(error) => Started::Answered(Some(Err(error))),
            Ok(disk) => match &disk.memory {
                Some(memory) => {
                    memory.mapping.read(offset as usize, buffer.as_mut());
                    Started::Answered(Some(Ok(Some(buffer))))
                }
                None => self.start(disk, offset, Work::Read(buffer)),
            },
        };
        async move { started.await.map(|buffer| buffer.expect("a read gives its buffer back")) }
    }

    fn write(
        &self,
        disk: DiskId,
        offset: u64,
        data: Slice,
        durable: bool,
    ) -> impl Future<Output = Result<(), IoError>> + 'static {
        let started = match self.checked(disk, offset, data.len() as u64) {
            Err(error) => Started::Answered(Some(Err(error))),
            Ok(disk) => match &disk.memory {
                Some(memory) => {
                    memory.mapping.write(offset as usize, data.as_ref());
                    Started::Answered(Some(Ok(None)))
                }
                None if disk.direct && data.offset_in_buffer() % disk.info.logical_block_bytes as usize != 0 => {
                    Started::Answered(Some(Err(INVALID)))
                }
                None => self.start(disk, offset, Work::Write { data, durable }),
            },
        };
        async move { started.await.map(drop) }
    }

    fn sync(&self, disk: DiskId) -> impl Future<Output = Result<(), IoError>> + 'static {
        let started = match self.ring.disk(disk) {
            None => Started::Answered(Some(Err(GONE))),
            Some(disk) => match disk.backing {
                Backing::Memory => Started::Answered(Some(Ok(None))),
                Backing::File | Backing::BlockDevice => self.start(disk, 0, Work::Sync),
            },
        };
        async move { started.await.map(drop) }
    }

    fn discard(&self, disk: DiskId, offset: u64, len: u64) -> impl Future<Output = Result<(), IoError>> + 'static {
        let started = match self.checked(disk, offset, len) {
            Err(error) => Started::Answered(Some(Err(error))),
            Ok(disk) => match disk.backing {
                Backing::Memory => {
                    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    let punched = rustix::fs::fallocate(&disk.file, mode, offset, len);
                    Started::Answered(Some(punched.map(|()| None).map_err(io_error)))
                }
                Backing::File | Backing::BlockDevice if !disk.info.discard => Started::Answered(Some(Ok(None))),
                Backing::File | Backing::BlockDevice => self.start(disk, offset, Work::Discard { bytes: len }),
            },
        };
        async move { started.await.map(drop) }
    }
}

impl Clock for UringIo {
    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn wall(&self) -> Duration {
        self.clock.wall()
    }

    fn sleep(&self, delay: Duration) -> impl Future<Output = ()> + 'static {
        self.clock.sleep(delay)
    }
}
