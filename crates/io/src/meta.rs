//! Where metadata goes: the checkpoint store behind the journal, and memory that outlives the process.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

/// Rows to put (`Some`) or to delete (`None`), all or nothing.
pub type MetaBatch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// The store failed; its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaError(pub String);

impl fmt::Display for MetaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for MetaError {}

/// A future of the store's: it may end on another thread.
pub type MetaFuture<T> = Pin<Box<dyn Future<Output = Result<T, MetaError>> + Send>>;

/// An ordered store of rows, RocksDB in production. Never on the path of an acknowledgement: the journal is.
pub trait MetaStore: Send + Sync {
    /// The rows of `keys`, in their order; `None` where there is none.
    fn get(&self, keys: Vec<Vec<u8>>) -> MetaFuture<Vec<Option<Vec<u8>>>>;

    /// Up to `rows_max` rows whose key starts with `prefix` and is greater than `after` (empty: from the first), in
    /// order of key.
    fn scan(&self, prefix: Vec<u8>, after: Vec<u8>, rows_max: usize) -> MetaFuture<Vec<(Vec<u8>, Vec<u8>)>>;

    /// Applies `batch` as a whole, durably.
    fn put(&self, batch: MetaBatch) -> MetaFuture<()>;
}

/// Memory that survives the death of the process and not that of the machine: a mapped file in the data folder, tagged
/// with the kernel's boot id. What was stored before a kill is there for the next engine; after a reboot it reads as
/// nothing, because the disks may have lost what it speaks of.
pub trait CarryOver: Send + Sync {
    /// Its size in bytes.
    fn capacity_bytes(&self) -> usize;

    /// What the predecessor of this boot left: `capacity_bytes` bytes, all zero if there was none.
    fn load(&self) -> Vec<u8>;

    /// Stores `bytes` at `offset`. No system call; visible to the next engine as soon as this returns.
    ///
    /// # Panics
    /// If they do not fit.
    fn store(&self, offset: usize, bytes: &[u8]);
}
