//! Reads: where the bytes are, one disk read a contiguous piece, joined without a copy.

use std::rc::Rc;

use sds_block::BlockError;
use sds_io::sync::join_all;
use sds_io::{Buffer, Clock, Io, ReadBytes, Segment, Slice};

use crate::core::{PoolCore, VolumeCore};
use crate::page::{Page, Piece};
use crate::place::ChunkAddr;
use crate::request::{disk_error, spans};

impl<E: Io + Clock> PoolCore<E> {
    /// The bytes `[start, start + len)` of the page, as `volume` sees it.
    pub(crate) async fn read(
        &self,
        volume: &VolumeCore,
        page: &Rc<Page>,
        start: u64,
        len: u64,
    ) -> Result<ReadBytes, BlockError> {
        // Entered before the map is looked at: from here on no chunk that we find is given to anybody else.
        let _inflight = self.inflight.enter();
        let pieces = self.plan(volume, page, start, len);
        if let [piece] = pieces[..] {
            return self.read_piece(piece).await.map(|segment| {
                let mut bytes = ReadBytes::default();
                bytes.push(segment);
                bytes
            });
        }
        let reads = pieces.iter().map(|piece| self.read_piece(*piece)).collect();
        let mut bytes = ReadBytes::default();
        for segment in join_all(reads).await {
            bytes.push(segment?);
        }
        Ok(bytes)
    }

    fn plan(&self, volume: &VolumeCore, page: &Rc<Page>, start: u64, len: u64) -> Vec<Piece> {
        let mut pieces = Vec::with_capacity(1);
        let mut state = page.state.borrow_mut();
        for span in spans(start, len, self.shared.extent_bytes) {
            state.plan_read(volume.layer, span.slot, span.start, span.len, &mut pieces);
            let id = state.entry(volume.layer, span.slot);
            if let Some(extent) = state.extent_mut(id) {
                extent.reads = extent.reads.saturating_add(1);
            }
        }
        pieces
    }

    async fn read_piece(&self, piece: Piece) -> Result<Segment, BlockError> {
        match piece {
            Piece::Zeros { len } => Ok(Segment::Zeros(len as usize)),
            Piece::Disk { addr, within, len } => self.read_disk(addr, within, len).await.map(Segment::Bytes),
        }
    }

    /// `len` bytes from byte `within` of the chunk `addr`; widened to whole logical blocks of the disk.
    async fn read_disk(&self, addr: ChunkAddr, within: u64, len: u64) -> Result<Slice, BlockError> {
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
