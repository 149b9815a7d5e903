//! One error shape below Python: kind, context, source.
//!
//! The kind is what a protocol answers (each has one exhaustive table, with no `_` arm); the context says what was
//! wrong, for the log and for a refusal that names the field; the source is the cause, kept for the log.

use alloc::boxed::Box;
use core::fmt;

/// What came of a request that failed. Small, matchable, stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The range does not lie on the device.
    OutOfRange,
    /// A field has a value that is never valid.
    InvalidField,
    /// Valid, and not offered here.
    Unsupported,
    /// The pool has no space for a write that needs some; overwrites go on.
    NoSpace,
    /// The data can't be read (or not be made durable) and no other copy has it.
    MediaError,
    /// Data was read and its checksum does not hold.
    ChecksumMismatch,
    /// Another host's reservation forbids this.
    ReservationConflict,
    /// This node is not the primary.
    Fenced,
    /// The device is not there any more.
    DeviceGone,
    /// A limit in time ran out.
    TimedOut,
    /// The device takes no writes.
    ReadOnly,
    /// Compare found other bytes.
    Miscompare,
    /// Not now: try again.
    Busy,
}

/// What the failure was about: a fixed sentence and, where there is one, the number at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// What was wrong, as a clause: "range ends past the device".
    pub what: &'static str,
    /// The offending value: for [`ErrorKind::OutOfRange`] an LBA, for [`ErrorKind::MediaError`] and
    /// [`ErrorKind::ChecksumMismatch`] the first bad LBA where it is known, for [`ErrorKind::Miscompare`] the first
    /// differing byte's offset in the payload.
    pub value: Option<u64>,
}

/// Why a request failed.
#[derive(Debug)]
pub struct BlockError {
    kind: ErrorKind,
    context: Context,
    source: Option<Box<dyn core::error::Error + Send + Sync>>,
}

impl BlockError {
    /// An error of `kind`; `what` says what was wrong, as a clause.
    #[must_use]
    pub const fn new(kind: ErrorKind, what: &'static str) -> Self {
        Self { kind, context: Context { what, value: None }, source: None }
    }

    /// The same error with the value at fault.
    #[must_use]
    pub const fn with_value(mut self, value: u64) -> Self {
        self.context.value = Some(value);
        self
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl core::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// What a protocol answers by.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What was wrong.
    #[must_use]
    pub const fn context(&self) -> Context {
        self.context
    }
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.context.what)?;
        if let Some(value) = self.context.value {
            write!(f, " ({value})")?;
        }
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl core::error::Error for BlockError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn core::error::Error + 'static))
    }
}
