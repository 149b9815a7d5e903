//! A disk whose syncs are believed as long as none failed.
//!
//! A sync that succeeds after one that failed says nothing of what was written before, whoever wrote it: data, owner
//! table, catalog or label. So all of a pool's syncs of a disk go through here, and one failure is for as long as
//! the pool is open. A sync that was under way meanwhile may have been spared the failure and still miss what that one
//! lost: it fails as well.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sds_io::{Buffer, DiskId, DiskInfo, Io, IoError, IoErrorKind, Slice};

use crate::planted::{Defect, Planted};
use crate::shared::PoolDisk;

/// The way to one disk of a pool.
#[derive(Clone)]
pub(crate) struct CarefulIo<E> {
    pub io: E,
    pub disk: Arc<PoolDisk>,
    pub planted: Planted,
}

/// What a disk that failed a sync says to the next.
const UNCERTAIN: IoError = IoError { kind: IoErrorKind::Media, os_code: 0 };

impl<E: Io> Io for CarefulIo<E> {
    fn disk(&self, disk: DiskId) -> DiskInfo {
        self.io.disk(disk)
    }

    fn read(
        &self,
        disk: DiskId,
        offset: u64,
        buffer: Buffer,
    ) -> impl Future<Output = Result<Buffer, IoError>> + 'static {
        self.io.read(disk, offset, buffer)
    }

    fn write(
        &self,
        disk: DiskId,
        offset: u64,
        data: Slice,
        durable: bool,
    ) -> impl Future<Output = Result<(), IoError>> + 'static {
        self.io.write(disk, offset, data, durable)
    }

    fn sync(&self, disk: DiskId) -> impl Future<Output = Result<(), IoError>> + 'static {
        let Self { io, disk: state, planted } = self.clone();
        async move {
            let retries = planted.has(Defect::SyncRetried);
            if state.sync_failed.load(Ordering::Acquire) && !retries {
                return Err(UNCERTAIN);
            }
            match io.sync(disk).await {
                Ok(()) if state.sync_failed.load(Ordering::Acquire) && !retries => Err(UNCERTAIN),
                Err(_) if retries => io.sync(disk).await,
                Err(error) => {
                    state.sync_failed.store(true, Ordering::Release);
                    log::error!("{}: sync failed: {error}", state.info.path);
                    Err(error)
                }
                Ok(()) => Ok(()),
            }
        }
    }

    fn discard(&self, disk: DiskId, offset: u64, len: u64) -> impl Future<Output = Result<(), IoError>> + 'static {
        self.io.discard(disk, offset, len)
    }
}
