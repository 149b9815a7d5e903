//! Reads: where the bytes are, one disk read a contiguous piece, joined without a copy. What is sealed is verified.
//!
//! A read takes no lock, so what it finds in a sealed block may be newer than the CRC that it goes by: then the extent
//! has changed meanwhile, and the read begins again.

use std::rc::Rc;

use sds_block::{BlockError, ErrorKind};
use sds_io::sync::join_all;
use sds_io::{Buffer, Clock, Io, ReadBytes, Segment, Slice};

use crate::core::PoolCore;
use crate::forest::View;
use crate::page::{Page, Piece, Seal};
use crate::place::{BLOCK_BYTES, ChunkAddr};
use crate::request::{disk_error, spans};
use crate::seal::SealedRun;

/// How often a read begins again because its extents changed: each time a change of the map must come between.
const READS_AGAIN_MAX: u32 = 100;

impl<E: Io + Clock> PoolCore<E> {
    /// The bytes `[start, start + len)` of the page, as `view` sees it.
    pub(crate) async fn read(
        &self,
        view: &View,
        page: &Rc<Page>,
        start: u64,
        len: u64,
    ) -> Result<ReadBytes, BlockError> {
        for _ in 0..=READS_AGAIN_MAX {
            if let Some(bytes) = self.read_once(view, page, start, len).await? {
                return Ok(bytes);
            }
        }
        Err(BlockError::new(ErrorKind::Busy, "what is read changes all the time"))
    }

    /// `None`: to be read again.
    async fn read_once(
        &self,
        view: &View,
        page: &Rc<Page>,
        start: u64,
        len: u64,
    ) -> Result<Option<ReadBytes>, BlockError> {
        // Entered before the map is looked at: from here on no chunk that we find is given to anybody else.
        let _inflight = self.inflight.enter();
        let pieces = self.plan(view, page, start, len);
        let mut bytes = ReadBytes::default();
        if let [piece] = pieces[..] {
            let Some(segment) = self.read_piece(page, piece).await? else { return Ok(None) };
            bytes.push(segment);
            return Ok(Some(bytes));
        }
        let reads = pieces.iter().map(|piece| self.read_piece(page, *piece)).collect();
        for segment in join_all(reads).await {
            let Some(segment) = segment? else { return Ok(None) };
            bytes.push(segment);
        }
        Ok(Some(bytes))
    }

    fn plan(&self, view: &View, page: &Rc<Page>, start: u64, len: u64) -> Vec<Piece> {
        let mut pieces = Vec::with_capacity(1);
        let mut state = page.state.borrow_mut();
        for span in spans(start, len, self.shared.extent_bytes) {
            state.plan_read(view, span.slot, span.start, span.len, &mut pieces);
            let top = state.seen(view, span.slot).next().map(|extent| extent.record.id);
            if let Some(extent) = top.and_then(|id| state.extent_mut(id)) {
                extent.reads = extent.reads.saturating_add(1);
            }
        }
        pieces
    }

    async fn read_piece(&self, page: &Page, piece: Piece) -> Result<Option<Segment>, BlockError> {
        match piece {
            Piece::Zeros { len } => Ok(Some(Segment::Zeros(len as usize))),
            Piece::Disk { addr, within, len, seal: None } => {
                self.read_disk(addr, within, len).await.map(|bytes| Some(Segment::Bytes(bytes)))
            }
            Piece::Disk { addr, within, len, seal: Some(seal) } => {
                self.read_sealed(page, seal, addr, within, len).await.map(|bytes| bytes.map(Segment::Bytes))
            }
        }
    }

    /// Reads whole blocks and verifies them. `None`: to be read again, something changed meanwhile.
    async fn read_sealed(
        &self,
        page: &Page,
        seal: Seal,
        addr: ChunkAddr,
        within: u64,
        len: u64,
    ) -> Result<Option<Slice>, BlockError> {
        let head = within % BLOCK_BYTES;
        let run = SealedRun { seal, addr, within: within - head, count: (head + len).div_ceil(BLOCK_BYTES) as u32 };
        if let Some(data) = self.verified(&run).await {
            return Ok(Some(data.slice(head as usize, len as usize)));
        }
        let faults = self.faults_of(&run).await;
        match faults.first() {
            Some(fault) if self.holds(page, seal) => Err(self.report(page, seal.id, fault)),
            _ => Ok(None),
        }
    }

    /// `len` bytes from byte `within` of the chunk `addr`; widened to whole logical blocks of the disk.
    pub(crate) async fn read_disk(&self, addr: ChunkAddr, within: u64, len: u64) -> Result<Slice, BlockError> {
        let disks = self.disks();
        let disk = &disks[usize::from(addr.disk.0)];
        let unit = u64::from(disk.info.logical_block_bytes);
        let offset = disk.offset(addr) + within;
        let first = offset / unit * unit;
        let wide = (offset + len).next_multiple_of(unit) - first;
        let buffer = Buffer::uninit(wide as usize);
        let read = self.env.io.read(disk.disk, first, buffer).await.map_err(disk_error)?;
        Ok(read.share().slice((offset - first) as usize, len as usize))
    }
}
