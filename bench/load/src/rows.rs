//! A MetaStore at the end of two pipes, and carry-over memory that is none.
//!
//! A batch: how many rows (u32), then for each the key's length and the value's (u32 each, little-endian;
//! [`DELETED`] for no value), key and value.

use std::collections::BTreeMap;
use std::future::ready;
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sds_io::meta::MetaFuture;
use sds_io::{CarryOver, MetaBatch, MetaError, MetaStore};

/// The length of a value that is none.
pub const DELETED: u32 = u32::MAX;

/// Rows in memory; each batch that is put also goes to standard output.
#[derive(Default)]
pub struct PipedStore(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl PipedStore {
    /// The rows of all batches up to the input's end.
    ///
    /// # Errors
    /// The input's, or it ends within a batch.
    pub fn read_from(input: &mut impl Read) -> io::Result<Self> {
        let store = Self::default();
        loop {
            let count = match read_u32(input) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(store),
                Err(error) => return Err(error),
            };
            for _ in 0..count {
                let (key_len, value_len) = (read_u32(input)?, read_u32(input)?);
                let key = read_bytes(input, key_len)?;
                let value = if value_len == DELETED { None } else { Some(read_bytes(input, value_len)?) };
                store.apply(key, value);
            }
        }
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, key: Vec<u8>, value: Option<Vec<u8>>) {
        match value {
            Some(value) => drop(self.rows().insert(key, value)),
            None => drop(self.rows().remove(&key)),
        }
    }
}

fn read_u32(input: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn read_bytes(input: &mut impl Read, len: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn encode(batch: &MetaBatch) -> Vec<u8> {
    let mut out = (batch.len() as u32).to_le_bytes().to_vec();
    for (key, value) in batch {
        out.extend((key.len() as u32).to_le_bytes());
        out.extend(value.as_ref().map_or(DELETED, |value| value.len() as u32).to_le_bytes());
        out.extend(key);
        out.extend(value.iter().flatten());
    }
    out
}

impl MetaStore for PipedStore {
    fn get(&self, keys: Vec<Vec<u8>>) -> MetaFuture<Vec<Option<Vec<u8>>>> {
        let rows = self.rows();
        let found = keys.iter().map(|key| rows.get(key).cloned()).collect();
        Box::pin(ready(Ok(found)))
    }

    fn scan(&self, prefix: Vec<u8>, after: Vec<u8>, rows_max: usize) -> MetaFuture<Vec<(Vec<u8>, Vec<u8>)>> {
        let rows = self.rows();
        let from = if after.is_empty() { Bound::Included(&prefix) } else { Bound::Excluded(&after) };
        let found = rows.range::<Vec<u8>, _>((from, Bound::Unbounded));
        let ours = found.take_while(|(key, _)| key.starts_with(&prefix)).take(rows_max);
        let found = ours.map(|(key, value)| (key.clone(), value.clone())).collect();
        Box::pin(ready(Ok(found)))
    }

    fn put(&self, batch: MetaBatch) -> MetaFuture<()> {
        let written = io::stdout().lock().write_all(&encode(&batch));
        batch.into_iter().for_each(|(key, value)| self.apply(key, value));
        Box::pin(ready(written.map_err(|error| MetaError(error.to_string()))))
    }
}

/// Memory that dies with the process.
pub struct VolatileCarryOver(Mutex<Vec<u8>>);

impl VolatileCarryOver {
    /// So much of it, all zero.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Mutex::new(vec![0; bytes]))
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CarryOver for VolatileCarryOver {
    fn capacity_bytes(&self) -> usize {
        self.bytes().len()
    }

    fn load(&self) -> Vec<u8> {
        self.bytes().clone()
    }

    fn store(&self, offset: usize, bytes: &[u8]) {
        self.bytes()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_and_a_batch_that_ends_early_is_refused() {
        let batch: MetaBatch =
            vec![(b"F1".to_vec(), Some(vec![7; 3])), (b"gone".to_vec(), None), (b"K".to_vec(), None)];
        let bytes = encode(&batch);
        assert_eq!(bytes[..12], [3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
        let store = PipedStore::read_from(&mut &bytes[..]).expect("whole");
        assert_eq!(*store.rows(), BTreeMap::from([(b"F1".to_vec(), vec![7; 3])]));
        assert!(PipedStore::read_from(&mut &bytes[..bytes.len() - 1]).is_err());
    }
}
