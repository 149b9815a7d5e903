//! A volume as a device: requests are checked, split at pages, and each part goes to the core that owns its page.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use sds_block::{BlockError, Command, Device, DeviceFuture, ErrorKind, Geometry, LbaCount, LbaRange, Request};
use sds_io::sync::{join_all, oneshot};
use sds_io::{Clock, Io, ReadBytes, Slice};

use crate::core::{PoolCore, VolumeCore};
use crate::place::{BLOCK_BYTES, EXTENTS_PER_PAGE, PageKey};
use crate::planted::Defect;
use crate::request::{Part, PartAnswer, PartOp, pages};
use crate::shared::Message;
use crate::write::miscompare;

/// Pages that one request discards or zeroes at a time.
const ZERO_PAGES_IN_FLIGHT_MAX: usize = 16;

/// A volume on one core.
pub struct Volume<E: Io + Clock> {
    core: Rc<PoolCore<E>>,
    volume: Rc<VolumeCore>,
}

impl<E: Io + Clock> Clone for Volume<E> {
    fn clone(&self) -> Self {
        Self { core: Rc::clone(&self.core), volume: Rc::clone(&self.volume) }
    }
}

impl<E: Io + Clock> Volume<E> {
    pub(crate) const fn new(core: Rc<PoolCore<E>>, volume: Rc<VolumeCore>) -> Self {
        Self { core, volume }
    }

    async fn run(self, request: Request<Slice>) -> Result<Option<ReadBytes>, BlockError> {
        let _open = OpenRequest::new(&self.core);
        if self.core.shared.is_stopping() {
            return Err(BlockError::new(ErrorKind::DeviceGone, "the pool is being closed"));
        }
        let counters = &self.volume.counters;
        match request.command {
            Command::Read(_) | Command::Compare(_) => counters.reads.fetch_add(1, Ordering::Relaxed),
            Command::Write { .. } | Command::CompareAndWrite { .. } => counters.writes.fetch_add(1, Ordering::Relaxed),
            Command::Flush | Command::WriteZeroes { .. } | Command::Discard(_) => 0,
        };
        match request.command {
            Command::Read(range) => {
                let (start, len) = self.bytes(range)?;
                self.read(start, len).await.map(Some)
            }
            Command::Write { range, fua } => {
                let (start, len) = self.bytes(range)?;
                let data = payload(request.payload, len)?;
                self.write(start, &data, fua).await.map(|()| None)
            }
            Command::Flush => self.flush().await.map(|()| None),
            Command::WriteZeroes { range, unmap, fua } => {
                let (start, len) = self.bytes(range)?;
                self.zero(start, len, unmap).await?;
                if fua { self.flush().await.map(|()| None) } else { Ok(None) }
            }
            Command::Discard(ranges) => {
                for range in &ranges {
                    self.bytes(*range)?;
                }
                for range in ranges {
                    let (start, len) = self.bytes(range)?;
                    self.zero(start, len, true).await?;
                }
                Ok(None)
            }
            Command::Compare(range) => {
                let (start, len) = self.bytes(range)?;
                let expected = payload(request.payload, len)?;
                let found = self.read(start, len).await?;
                miscompare(&found.to_vec(), expected.as_ref()).map(|()| None)
            }
            Command::CompareAndWrite { range, fua } => {
                let (start, len) = self.bytes(range)?;
                let data = payload(request.payload, 2 * len)?;
                self.compare_and_write(start, len, data).await?;
                if fua { self.flush().await.map(|()| None) } else { Ok(None) }
            }
        }
    }

    /// The range in bytes.
    fn bytes(&self, range: LbaRange) -> Result<(u64, u64), BlockError> {
        if self.volume.closed.get() {
            return Err(BlockError::new(ErrorKind::DeviceGone, "the volume was deleted"));
        }
        let unit = u64::from(self.volume.logical_block_bytes);
        range.check(LbaCount(self.volume.size_bytes.get() / unit))?;
        Ok((range.start.0 * unit, range.count.0 * unit))
    }

    async fn read(&self, start: u64, len: u64) -> Result<ReadBytes, BlockError> {
        let mut answer = ReadBytes::default();
        for part in self.run_parts(start, len, |_, _| PartOp::Read).await? {
            for segment in part.bytes.segments {
                answer.push(segment);
            }
        }
        Ok(answer)
    }

    async fn write(&self, start: u64, data: &Slice, fua: bool) -> Result<(), BlockError> {
        let op = |offset, len| PartOp::Write { data: data.slice(offset as usize, len as usize), fua };
        let parts = self.run_parts(start, data.len() as u64, op).await?;
        if fua && parts.iter().any(|part| part.undurable) {
            self.flush().await?;
        }
        Ok(())
    }

    async fn zero(&self, start: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        // A discard of a whole volume has 100,000 pages: some at a time, so that it is done within a host's patience
        // and holds no core for long.
        let mut pages = pages(start, len, self.core.shared.extent_bytes).peekable();
        while pages.peek().is_some() {
            let part = |(page, first, bytes, _)| {
                let op = PartOp::Zero { unmap };
                self.run_part(Part { volume: self.volume.uuid, page, start: first, len: bytes, op })
            };
            let parts = pages.by_ref().take(ZERO_PAGES_IN_FLIGHT_MAX).map(part).collect();
            join_all(parts).await.into_iter().collect::<Result<Vec<_>, BlockError>>()?;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), BlockError> {
        let shared = &self.core.shared;
        if shared.planted.has(Defect::FlushIgnoresOverwrites) && !shared.ledger().has_pending() {
            return Ok(());
        }
        shared.commit().await.map_err(BlockError::from)
    }

    async fn compare_and_write(&self, start: u64, len: u64, data: Slice) -> Result<(), BlockError> {
        let mut parts = pages(start, len, self.core.shared.extent_bytes);
        let Some((page, first, bytes, _)) = parts.next() else { return Ok(()) };
        if parts.next().is_some() {
            // Two pages may have two owners, and neither can hold the other's range: refused rather than not atomic.
            let what = "compare and write may not cross a multiple of 512 extents";
            return Err(BlockError::new(ErrorKind::Unsupported, what).with_value(start));
        }
        let part =
            Part { volume: self.volume.uuid, page, start: first, len: bytes, op: PartOp::CompareAndWrite { data } };
        self.run_part(part).await.map(|_| ())
    }

    /// Runs one part for each page that the range touches.
    async fn run_parts(
        &self,
        start: u64,
        len: u64,
        op: impl Fn(u64, u64) -> PartOp,
    ) -> Result<Vec<PartAnswer>, BlockError> {
        let volume = self.volume.uuid;
        let mut parts: Vec<Part> = pages(start, len, self.core.shared.extent_bytes)
            .map(|(page, first, bytes, offset)| Part { volume, page, start: first, len: bytes, op: op(offset, bytes) })
            .collect();
        match parts.len() {
            0 => Ok(Vec::new()),
            1 => Ok(vec![self.run_part(parts.pop().expect("one part")).await?]),
            _ => join_all(parts.into_iter().map(|part| self.run_part(part)).collect()).await.into_iter().collect(),
        }
    }

    /// Runs a part here or on the core that owns its page.
    async fn run_part(&self, part: Part) -> Result<PartAnswer, BlockError> {
        let (page, start) = (part.page, part.start);
        self.run_on_owner(part).await.map_err(|error| {
            let is_of_blocks = matches!(error.kind(), ErrorKind::MediaError | ErrorKind::ChecksumMismatch);
            let Some(at) = error.context().value.filter(|_| is_of_blocks) else { return error };
            // The block may begin before the range.
            let byte = page.0 * EXTENTS_PER_PAGE * self.core.shared.extent_bytes + at.max(start);
            error.with_value(byte / u64::from(self.volume.logical_block_bytes))
        })
    }

    async fn run_on_owner(&self, part: Part) -> Result<PartAnswer, BlockError> {
        let owner = self.core.shared.owner(PageKey { tree: self.volume.tree, page: part.page });
        if owner == self.core.env.core {
            return self.core.run(&self.volume, &part).await;
        }
        let (sender, receiver) = oneshot();
        self.core.shared.inboxes[owner].send(Message::Execute(part, sender));
        let gone = || Err(BlockError::new(ErrorKind::DeviceGone, "the pool is being closed"));
        receiver.await.unwrap_or_else(gone)
    }
}

/// A payload exactly as long as its command says.
fn payload(payload: Option<Slice>, len: u64) -> Result<Slice, BlockError> {
    match payload {
        Some(data) if data.len() as u64 == len => Ok(data),
        Some(data) => {
            let what = "the payload is not as long as the range";
            Err(BlockError::new(ErrorKind::InvalidField, what).with_value(data.len() as u64))
        }
        None => Err(BlockError::new(ErrorKind::InvalidField, "the payload is missing")),
    }
}

/// Counts an open request, so that a stop can wait for it.
pub(crate) struct OpenRequest<E: Io + Clock>(Rc<PoolCore<E>>);

impl<E: Io + Clock> OpenRequest<E> {
    pub(crate) fn new(core: &Rc<PoolCore<E>>) -> Self {
        core.open_requests.set(core.open_requests.get() + 1);
        Self(Rc::clone(core))
    }
}

impl<E: Io + Clock> Drop for OpenRequest<E> {
    fn drop(&mut self) {
        self.0.open_requests.set(self.0.open_requests.get() - 1);
    }
}

impl<E: Io + Clock> Device for Volume<E> {
    type Write = Slice;
    type Read = ReadBytes;

    fn geometry(&self) -> Geometry {
        let unit = self.volume.logical_block_bytes;
        Geometry {
            logical_block_bytes: unit,
            physical_block_bytes: BLOCK_BYTES as u32,
            blocks: LbaCount(self.volume.size_bytes.get() / u64::from(unit)),
            write_cache: true,
            read_only: self.volume.is_frozen(),
            discard_granularity_bytes: self.core.shared.chunk_bytes() as u32,
            optimal_transfer_bytes: self.core.shared.extent_bytes as u32,
            uuid: self.volume.uuid,
        }
    }

    fn execute(&self, request: Request<Slice>) -> DeviceFuture<ReadBytes> {
        Box::pin(self.clone().run(request))
    }
}
