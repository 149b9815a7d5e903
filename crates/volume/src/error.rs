//! Why a command to a pool failed. The same shape as [`BlockError`]: kind, context, source.

use std::fmt;

use sds_block::{BlockError, ErrorKind};

/// What came of a command that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolErrorKind {
    /// A parameter has a value that is not accepted.
    InvalidField,
    /// The disk can't hold a pool's regions and data.
    TooSmall,
    /// There is no such thing.
    NotFound,
    /// There is one already.
    Exists,
    /// A disk does not write a volume's blocks as a whole.
    PhysicalBlock,
    /// The disk belongs to another pool.
    ForeignLabel,
    /// Disks of the pool are missing.
    DiskMissing,
    /// What the disks say can't be used.
    Corrupt,
    /// A disk failed.
    Io,
    /// The MetaStore failed.
    Meta,
    /// The pool has no space.
    NoSpace,
    /// Not now: try again.
    Busy,
    /// The pool is being closed.
    Closed,
}

/// Why a command to a pool failed.
#[derive(Debug)]
pub struct PoolError {
    /// What a caller matches on.
    pub kind: PoolErrorKind,
    /// What was wrong, as a clause that names the field or thing.
    pub what: &'static str,
    /// The value at fault.
    pub value: Option<u64>,
    /// The cause.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl PoolError {
    /// An error of `kind`; `what` says what was wrong.
    #[must_use]
    pub const fn new(kind: PoolErrorKind, what: &'static str) -> Self {
        Self { kind, what, value: None, source: None }
    }

    /// The same words for another waiter; the cause went to the first one, or to the log.
    #[must_use]
    pub const fn again(&self) -> Self {
        Self { kind: self.kind, what: self.what, value: self.value, source: None }
    }

    /// The same with the value at fault.
    #[must_use]
    pub const fn with_value(mut self, value: u64) -> Self {
        self.value = Some(value);
        self
    }

    /// The same with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }
}

/// Whose physical blocks are too small.
#[derive(Debug)]
pub struct PhysicalBlock {
    /// The disk's path.
    pub path: String,
    /// What it writes as a whole.
    pub bytes: u32,
}

impl fmt::Display for PhysicalBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has physical blocks of {} bytes", self.path, self.bytes)
    }
}

impl std::error::Error for PhysicalBlock {}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)?;
        if let Some(value) = self.value {
            write!(f, " ({value})")?;
        }
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PoolError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

impl From<PoolError> for BlockError {
    fn from(error: PoolError) -> Self {
        let kind = match error.kind {
            PoolErrorKind::InvalidField
            | PoolErrorKind::TooSmall
            | PoolErrorKind::Exists
            | PoolErrorKind::PhysicalBlock => ErrorKind::InvalidField,
            PoolErrorKind::NotFound | PoolErrorKind::Closed | PoolErrorKind::DiskMissing => ErrorKind::DeviceGone,
            PoolErrorKind::ForeignLabel | PoolErrorKind::Corrupt | PoolErrorKind::Io => ErrorKind::MediaError,
            PoolErrorKind::NoSpace => ErrorKind::NoSpace,
            PoolErrorKind::Meta | PoolErrorKind::Busy => ErrorKind::Busy,
        };
        Self::new(kind, error.what).with_source(error)
    }
}
