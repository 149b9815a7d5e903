//! The operating system's error numbers as the engine's kinds.

use rustix::io::Errno;
use sds_io::{IoError, IoErrorKind};

/// What a failed request to a disk means. Numbers that say nothing of the caller or of the disk's presence count as
/// [`IoErrorKind::Media`]: that kind makes the engine look for another copy and is never taken for success.
pub(crate) fn io_error(errno: Errno) -> IoError {
    let kind = match errno {
        Errno::NODEV
        | Errno::NXIO
        | Errno::NOENT
        | Errno::BADF
        | Errno::SHUTDOWN
        | Errno::NOTCONN
        | Errno::HOSTDOWN => IoErrorKind::Gone,
        Errno::ROFS | Errno::PERM | Errno::ACCESS | Errno::TXTBSY => IoErrorKind::ReadOnly,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => IoErrorKind::NoSpace,
        Errno::TIMEDOUT | Errno::TIME | Errno::NOLINK => IoErrorKind::TimedOut,
        Errno::INVAL | Errno::FAULT | Errno::OPNOTSUPP | Errno::NOSYS | Errno::SPIPE | Errno::OVERFLOW => {
            IoErrorKind::Invalid
        }
        // EIO, ENODATA (an unreadable sector), EILSEQ (protection information), EREMOTEIO and everything else.
        _ => IoErrorKind::Media,
    };
    IoError { kind, os_code: errno.raw_os_error() }
}

/// A request that never reached the system: misaligned or past the end.
pub(crate) const INVALID: IoError = IoError { kind: IoErrorKind::Invalid, os_code: 0 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_number_is_never_taken_for_the_callers_mistake() {
        assert_eq!(io_error(Errno::IO), IoError { kind: IoErrorKind::Media, os_code: 5 });
        assert_eq!(io_error(Errno::NODATA).kind, IoErrorKind::Media);
        assert_eq!(io_error(Errno::NODEV).kind, IoErrorKind::Gone);
        assert_eq!(io_error(Errno::NOSPC).kind, IoErrorKind::NoSpace);
    }
}
