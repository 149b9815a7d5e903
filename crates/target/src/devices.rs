//! What answers requests.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::ready;
use std::rc::Rc;

use sds_block::{BlockError, Command, Device, DeviceFuture, ErrorKind, Geometry, LbaCount, LbaRange, Request};
use sds_io::{Buffer, ReadBytes, Segment, Slice};

use crate::exports::VolumeKey;

/// A device as connections use it: payload comes down as a [`Slice`], a read's bytes go up as [`ReadBytes`].
pub type DynDevice = dyn Device<Write = Slice, Read = ReadBytes>;

/// One core's devices.
pub trait Devices {
    /// The volume on this core; `None` if there is none.
    fn open(&self, volume: &VolumeKey) -> Option<Rc<DynDevice>>;
}

/// Devices by name, for tests and benches.
#[derive(Default)]
pub struct NamedDevices(HashMap<VolumeKey, Rc<DynDevice>>);

impl NamedDevices {
    /// Adds one.
    #[must_use]
    pub fn with(mut self, volume: &str, device: Rc<DynDevice>) -> Self {
        self.0.insert(VolumeKey(volume.to_owned()), device);
        self
    }
}

impl Devices for NamedDevices {
    fn open(&self, volume: &VolumeKey) -> Option<Rc<DynDevice>> {
        self.0.get(volume).cloned()
    }
}

/// The range and payload of a command, checked against the device's size: what every device must refuse.
fn check(geometry: &Geometry, request: &Request<Slice>) -> Result<(), BlockError> {
    let range = |range: &LbaRange| range.check(geometry.blocks);
    let payload = |blocks: u64| {
        let expected = blocks.checked_mul(u64::from(geometry.logical_block_bytes));
        let actual = request.payload.as_ref().map_or(0, |payload| payload.len() as u64);
        if expected == Some(actual) {
            Ok(())
        } else {
            Err(BlockError::new(ErrorKind::InvalidField, "the payload is not as long as the range").with_value(actual))
        }
    };
    match &request.command {
        Command::Read(at) => range(at),
        Command::Write { range: at, .. } | Command::Compare(at) => range(at).and_then(|()| payload(at.count.0)),
        Command::CompareAndWrite { range: at, .. } => range(at).and_then(|()| payload(at.count.0.saturating_mul(2))),
        Command::WriteZeroes { range: at, .. } => range(at),
        Command::Discard(ranges) => ranges.iter().try_for_each(range),
        Command::Flush => Ok(()),
    }
}

fn geometry(bytes: u64, uuid: [u8; 16]) -> Geometry {
    Geometry {
        logical_block_bytes: 512,
        physical_block_bytes: 4096,
        blocks: LbaCount(bytes / 512),
        write_cache: false,
        read_only: false,
        discard_granularity_bytes: 4096,
        optimal_transfer_bytes: 1 << 20,
        uuid,
    }
}

/// A device that only receives and answers: reads give the same bytes again and again, writes go nowhere. What is left
/// of a request's cost with this is the front end's.
pub struct NullDevice {
    geometry: Geometry,
    bytes: Slice,
}

impl NullDevice {
    /// The most that one read asks for.
    const READ_BYTES_MAX: usize = 1 << 20;

    /// A device that claims to have `bytes` bytes.
    #[must_use]
    pub fn new(bytes: u64, uuid: [u8; 16]) -> Self {
        let mut pattern = Buffer::uninit(Self::READ_BYTES_MAX);
        for (at, byte) in pattern.as_mut().iter_mut().enumerate() {
            *byte = (at % 251) as u8;
        }
        Self { geometry: geometry(bytes, uuid), bytes: pattern.share() }
    }

    fn answer(&self, request: &Request<Slice>) -> Result<Option<ReadBytes>, BlockError> {
        check(&self.geometry, request)?;
        let Command::Read(range) = request.command else { return Ok(None) };
        let mut rest = range.count.0 * u64::from(self.geometry.logical_block_bytes);
        let mut read = ReadBytes::default();
        while rest > 0 {
            let part = rest.min(Self::READ_BYTES_MAX as u64);
            read.push(Segment::Bytes(self.bytes.slice(0, part as usize)));
            rest -= part;
        }
        Ok(Some(read))
    }
}

impl Device for NullDevice {
    type Write = Slice;
    type Read = ReadBytes;

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn execute(&self, request: Request<Slice>) -> DeviceFuture<ReadBytes> {
        Box::pin(ready(self.answer(&request)))
    }
}

/// Blocks in memory, with every rule of the waist. One core's: give it to a node of one core.
pub struct MemoryDevice {
    geometry: Cell<Geometry>,
    bytes: RefCell<Vec<u8>>,
}

impl MemoryDevice {
    /// A device of `bytes` zero bytes.
    #[must_use]
    pub fn new(bytes: u64, uuid: [u8; 16]) -> Self {
        Self { geometry: Cell::new(geometry(bytes, uuid)), bytes: RefCell::new(vec![0; bytes as usize]) }
    }

    /// Changes its size.
    pub fn resize(&self, bytes: u64) {
        self.bytes.borrow_mut().resize(bytes as usize, 0);
        let uuid = self.geometry.get().uuid;
        self.geometry.set(geometry(bytes, uuid));
    }

    fn place(&self, range: LbaRange) -> std::ops::Range<usize> {
        let block = self.geometry.get().logical_block_bytes as usize;
        let start = range.start.0 as usize * block;
        start..start + range.count.0 as usize * block
    }

    fn run(&self, request: &Request<Slice>) -> Result<Option<ReadBytes>, BlockError> {
        check(&self.geometry.get(), request)?;
        let bytes = &mut *self.bytes.borrow_mut();
        let payload = request.payload.as_ref().map_or(&[][..], |payload| payload.as_ref());
        match &request.command {
            Command::Read(range) => {
                return Ok(Some(Buffer::copy_of(&bytes[self.place(*range)]).share().into()));
            }
            Command::Write { range, .. } => bytes[self.place(*range)].copy_from_slice(payload),
            Command::WriteZeroes { range, .. } => bytes[self.place(*range)].fill(0),
            Command::Discard(ranges) => ranges.iter().for_each(|range| bytes[self.place(*range)].fill(0)),
            Command::Compare(range) => compare(&bytes[self.place(*range)], payload)?,
            Command::CompareAndWrite { range, .. } => {
                let (expected, new) = payload.split_at(payload.len() / 2);
                compare(&bytes[self.place(*range)], expected)?;
                bytes[self.place(*range)].copy_from_slice(new);
            }
            Command::Flush => {}
        }
        Ok(None)
    }
}

fn compare(found: &[u8], expected: &[u8]) -> Result<(), BlockError> {
    match found.iter().zip(expected).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(at) => Err(BlockError::new(ErrorKind::Miscompare, "the bytes differ").with_value(at as u64)),
    }
}

impl Device for MemoryDevice {
    type Write = Slice;
    type Read = ReadBytes;

    fn geometry(&self) -> Geometry {
        self.geometry.get()
    }

    fn execute(&self, request: Request<Slice>) -> DeviceFuture<ReadBytes> {
        Box::pin(ready(self.run(&request)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compare_and_write_writes_only_over_what_was_expected() {
        let device = MemoryDevice::new(1 << 20, [0; 16]);
        let range = LbaRange::new(8, 1);
        let run = |command, payload: Option<Vec<u8>>| {
            let payload = payload.map(|bytes| Buffer::copy_of(&bytes).share());
            device.run(&Request { command, payload })
        };
        run(Command::Write { range, fua: false }, Some(vec![1; 512])).expect("a write");
        let mut pair = vec![1; 1024];
        pair[512..].fill(2);
        run(Command::CompareAndWrite { range, fua: false }, Some(pair.clone())).expect("equal");
        let differs = run(Command::CompareAndWrite { range, fua: false }, Some(pair)).expect_err("differs now");
        assert_eq!((differs.kind(), differs.context().value), (ErrorKind::Miscompare, Some(0)));
        assert_eq!(run(Command::Read(range), None).expect("a read").expect("bytes").to_vec(), vec![2; 512]);
        let past = run(Command::Read(LbaRange::new(2048, 1)), None).expect_err("past the end");
        assert_eq!(past.kind(), ErrorKind::OutOfRange);
        let short = run(Command::Write { range, fua: false }, Some(vec![0; 511])).expect_err("short");
        assert_eq!((short.kind(), short.context().value), (ErrorKind::InvalidField, Some(511)));
    }
}
