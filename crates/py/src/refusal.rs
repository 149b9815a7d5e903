//! Why a call was refused or failed, as Python sees it: `CoreError`, with (kind, message, value).

use std::error::Error;
use std::io;

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use sds_uring::{CoreGone, OpenError, OpenErrorKind};
use sds_volume::error::{PoolError, PoolErrorKind};

create_exception!(sds._core, CoreError, PyException, "The core refused or failed: (kind, message, value).");

/// Why a call was refused or failed.
#[derive(Debug)]
pub struct Refusal {
    /// In snake case; `sds/_core.pyi` lists them.
    kind: &'static str,
    /// What was wrong and what caused it, for a person.
    message: String,
    /// The number at fault.
    value: Option<u64>,
}

impl Refusal {
    /// A refusal without a number.
    pub fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), value: None }
    }

    /// The same about a socket or a file: `what` is put before it.
    pub fn about(what: &str, error: &io::Error) -> Self {
        let refusal = Self::from_io(error);
        Self { message: format!("{what}: {}", refusal.message), ..refusal }
    }

    fn from_io(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        // The standard library's list is open, so the rest is what it is: a failure of the system's.
        let kind = if error.kind() == Kind::NotFound {
            "no_such_file"
        } else if error.kind() == Kind::PermissionDenied {
            "permission"
        } else if [Kind::AddrInUse, Kind::WouldBlock].contains(&error.kind()) {
            "in_use"
        } else if [Kind::InvalidInput, Kind::AddrNotAvailable].contains(&error.kind()) {
            "invalid_field"
        } else if error.kind() == Kind::StorageFull {
            "no_space"
        } else {
            "io"
        };
        Self::new(kind, chain(error))
    }
}

/// The error's words and those of its causes, each once: some errors repeat their cause.
fn chain(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !words.contains(&text) {
            words = format!("{words}: {text}");
        }
        next = cause.source();
    }
    words
}

impl From<PoolError> for Refusal {
    fn from(error: PoolError) -> Self {
        let kind = match error.kind {
            PoolErrorKind::InvalidField => "invalid_field",
            PoolErrorKind::TooSmall => "too_small",
            PoolErrorKind::NotFound => "not_found",
            PoolErrorKind::Exists => "exists",
            PoolErrorKind::PhysicalBlock => "physical_block",
            PoolErrorKind::ForeignLabel => "foreign_label",
            PoolErrorKind::DiskMissing => "disk_missing",
            PoolErrorKind::Corrupt => "corrupt",
            PoolErrorKind::Io => "io",
            PoolErrorKind::Meta => "meta",
            PoolErrorKind::NoSpace => "no_space",
            PoolErrorKind::Busy => "busy",
            PoolErrorKind::Closed => "closed",
        };
        Self { kind, message: chain(&error), value: error.value }
    }
}

impl From<OpenError> for Refusal {
    fn from(error: OpenError) -> Self {
        let (kind, value) = match error.kind() {
            OpenErrorKind::NotFound => ("no_such_file", None),
            OpenErrorKind::NotADisk => ("not_a_disk", None),
            OpenErrorKind::Permission => ("permission", None),
            OpenErrorKind::InUse { pid, .. } => ("in_use", pid.map(u64::from)),
            OpenErrorKind::ReadOnly => ("read_only", None),
            OpenErrorKind::TooSmall(bytes) => ("too_small", Some(*bytes)),
            OpenErrorKind::NoSpace => ("no_space", None),
            OpenErrorKind::TooMany => ("too_many", None),
            OpenErrorKind::Other => ("io", None),
        };
        Self { kind, message: chain(&error), value }
    }
}

impl From<CoreGone> for Refusal {
    fn from(gone: CoreGone) -> Self {
        Self::new("closed", gone.to_string())
    }
}

impl From<Refusal> for PyErr {
    fn from(refusal: Refusal) -> Self {
        CoreError::new_err((refusal.kind, refusal.message, refusal.value))
    }
}
