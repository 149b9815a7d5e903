//! The node's open disks: opening, locking, closing.
//!
//! A disk is a block device, a regular file, or memory (`memfd:NAME:SIZE`, for tests and benches). Each is locked
//! exclusively for as long as it is open, because two engines on one disk destroy it. A predecessor that was killed
//! holds its locks until its last request has ended, so opening waits for that, and then says who has it.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, Stat};
use rustix::io::Errno;
use sds_io::{DiskId, DiskInfo};

use crate::mapping::Mapping;
use crate::{lock, shape};

/// Ids are never used twice, so this is how many disks one process can open in its life.
const OPENED_DISKS_MAX: usize = u16::MAX as usize;
/// The smallest thing worth calling a disk: a label, an owner table and some chunks need more than this.
const DISK_BYTES_MIN: u64 = 1 << 20;
const MEMORY_PREFIX: &str = "memfd:";

/// How to open a disk.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Create a missing file with this many bytes, preallocated. An existing file keeps its size.
    pub create_bytes: Option<u64>,
    /// Bypass the page cache (`O_DIRECT`). Where the file system can't, it is opened buffered, with a warning.
    pub direct: bool,
    /// Take no writes; the lock is then shared.
    pub read_only: bool,
    /// How long to wait for a predecessor's lock.
    pub lock_wait_ms: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { create_bytes: None, direct: true, read_only: false, lock_wait_ms: 10_000 }
    }
}

/// What was wrong with a disk that could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenErrorKind {
    /// There is nothing at that path.
    NotFound,
    /// It is neither a block device nor a regular file, or the memory's name and size can't be read.
    NotADisk,
    /// This process may not open it.
    Permission,
    /// Another process (or this one) has it; by pid where the kernel says so, else where it is mounted.
    InUse {
        /// Who has it.
        pid: Option<u32>,
        /// Where it is mounted.
        mounted_at: Option<String>,
    },
    /// It can't be opened for writing.
    ReadOnly,
    /// It is too small, with its size in bytes.
    TooSmall(u64),
    /// The file system has no space for the file that was to be created.
    NoSpace,
    /// This process has opened too many disks in its life.
    TooMany,
    /// Anything else.
    Other,
}

/// Why a disk was not opened.
#[derive(Debug)]
pub struct OpenError {
    kind: OpenErrorKind,
    path: String,
    source: Option<io::Error>,
}

impl OpenError {
    fn new(kind: OpenErrorKind, path: &str) -> Self {
        Self { kind, path: path.to_owned(), source: None }
    }

    fn of_errno(path: &str, errno: Errno) -> Self {
        let kind = match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::NXIO | Errno::NODEV => OpenErrorKind::NotFound,
            Errno::ACCESS | Errno::PERM => OpenErrorKind::Permission,
            Errno::ROFS => OpenErrorKind::ReadOnly,
            Errno::ISDIR | Errno::LOOP => OpenErrorKind::NotADisk,
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => OpenErrorKind::NoSpace,
            Errno::BUSY | Errno::WOULDBLOCK => OpenErrorKind::InUse { pid: None, mounted_at: None },
            _ => OpenErrorKind::Other,
        };
        Self { kind, path: path.to_owned(), source: Some(errno.into()) }
    }

    /// What was wrong.
    #[must_use]
    pub const fn kind(&self) -> &OpenErrorKind {
        &self.kind
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk {}: ", self.path)?;
        match &self.kind {
            OpenErrorKind::NotFound => f.write_str("there is nothing at that path"),
            OpenErrorKind::NotADisk => f.write_str("is neither a block device, a regular file nor memfd:NAME:BYTES"),
            OpenErrorKind::Permission => f.write_str("this process may not open it"),
            OpenErrorKind::InUse { pid: Some(pid), .. } => write!(f, "process {pid} has it"),
            OpenErrorKind::InUse { mounted_at: Some(place), .. } => write!(f, "is mounted at {place}"),
            OpenErrorKind::InUse { .. } => f.write_str("something else has it (mounted, or a part of LVM, MD or ZFS)"),
            OpenErrorKind::ReadOnly => f.write_str("takes no writes"),
            OpenErrorKind::TooSmall(bytes) => write!(f, "has {bytes} bytes; {DISK_BYTES_MIN} is the least"),
            OpenErrorKind::NoSpace => f.write_str("the file system has no space for it"),
            OpenErrorKind::TooMany => write!(f, "this process has opened {OPENED_DISKS_MAX} disks already"),
            OpenErrorKind::Other => f.write_str("can't be opened"),
        }?;
        self.source.as_ref().map_or(Ok(()), |source| write!(f, ": {source}"))
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    Memory,
    File,
    BlockDevice,
}

/// An open disk. It is closed, and its lock freed, when the registry and every request have let go of it.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) info: DiskInfo,
    pub(crate) file: OwnedFd,
    pub(crate) backing: Backing,
    pub(crate) direct: bool,
    pub(crate) memory: Option<Arc<Memory>>,
    /// Device and inode: what tells two names of one file.
    identity: (u64, u64),
}

/// A RAM disk's bytes: they stay until [`Disks`] goes, so that a disk closed and opened again is the same disk.
#[derive(Debug)]
pub(crate) struct Memory {
    file: OwnedFd,
    pub(crate) mapping: Mapping,
}

#[derive(Default)]
struct Registry {
    disks: Vec<Option<Arc<Disk>>>,
    memory: HashMap<String, Arc<Memory>>,
}

/// All open disks of the node, shared by its cores.
#[derive(Default)]
pub struct Disks {
    registry: Mutex<Registry>,
}

impl fmt::Debug for Disks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.registry().disks.iter().flatten().map(|disk| &disk.info.path)).finish()
    }
}

impl Disks {
    /// No disks yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    // A panic elsewhere leaves the registry whole: each change is one step.
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens and locks `path`: a block device, a regular file, or `memfd:NAME:BYTES` (BYTES may end in K, M, G or T).
    /// Blocks for up to `lock_wait_ms`: not for a core's thread.
    ///
    /// # Errors
    /// [`OpenError`] says what was wrong and, for a disk in use, who has it.
    pub fn open(&self, path: &str, options: &OpenOptions) -> Result<DiskId, OpenError> {
        let disk = match path.strip_prefix(MEMORY_PREFIX) {
            Some(rest) => self.open_memory(path, rest)?,
            None => self.open_path(path, options)?,
        };
        let mut registry = self.registry();
        if registry.disks.len() >= OPENED_DISKS_MAX {
            return Err(OpenError::new(OpenErrorKind::TooMany, path));
        }
        if registry.disks.iter().flatten().any(|open| open.identity == disk.identity) {
            let kind = OpenErrorKind::InUse { pid: Some(std::process::id()), mounted_at: None };
            return Err(OpenError::new(kind, path));
        }
        let id = DiskId(u16::try_from(registry.disks.len()).expect("below OPENED_DISKS_MAX"));
        registry.disks.push(Some(Arc::new(disk)));
        Ok(id)
    }

    /// Takes the disk away: requests that are open run to their end, new ones find it gone. The lock is free when the
    /// last of them has ended. Closing twice does nothing.
    pub fn close(&self, id: DiskId) {
        if let Some(slot) = self.registry().disks.get_mut(usize::from(id.0)) {
            *slot = None;
        }
    }

    /// What the disk is; `None` if it was never opened or is closed.
    #[must_use]
    pub fn info(&self, id: DiskId) -> Option<DiskInfo> {
        self.get(id).map(|disk| disk.info.clone())
    }

    pub(crate) fn get(&self, id: DiskId) -> Option<Arc<Disk>> {
        self.registry().disks.get(usize::from(id.0))?.clone()
    }

    fn open_memory(&self, path: &str, rest: &str) -> Result<Disk, OpenError> {
        let parsed = rest.split_once(':').and_then(|(name, size)| Some((name, parse_bytes(size)?)));
        let Some((name, bytes)) = parsed.filter(|(name, bytes)| !name.is_empty() && bytes % 4096 == 0) else {
            return Err(OpenError::new(OpenErrorKind::NotADisk, path));
        };
        let len = usize::try_from(bytes).map_err(|_| OpenError::new(OpenErrorKind::NotADisk, path))?;
        if bytes < DISK_BYTES_MIN {
            return Err(OpenError::new(OpenErrorKind::TooSmall(bytes), path));
        }
        let known = self.registry().memory.get(path).cloned();
        let memory = match known {
            Some(memory) => memory,
            None => {
                let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)
                    .and_then(|file| rustix::fs::ftruncate(&file, bytes).map(|()| file))
                    .map_err(|errno| OpenError::of_errno(path, errno))?;
                let mapping = Mapping::new(file.as_fd(), len).map_err(|error| OpenError {
                    kind: OpenErrorKind::NoSpace,
                    path: path.to_owned(),
                    source: Some(error),
                })?;
                let memory = Arc::new(Memory { file, mapping });
                self.registry().memory.insert(path.to_owned(), Arc::clone(&memory));
                memory
            }
        };
        let of_errno = |errno| OpenError::of_errno(path, errno);
        let stat = rustix::fs::fstat(&memory.file).map_err(of_errno)?;
        let file = rustix::io::fcntl_dupfd_cloexec(&memory.file, 0).map_err(of_errno)?;
        Ok(Disk {
            info: shape::of_memory(path, bytes),
            file,
            backing: Backing::Memory,
            direct: false,
            memory: Some(memory),
            identity: (stat.st_dev, stat.st_ino),
        })
    }

    fn open_path(&self, path: &str, options: &OpenOptions) -> Result<Disk, OpenError> {
        let of_errno = |errno| OpenError::of_errno(path, errno);
        let stat = match (rustix::fs::stat(path), options.create_bytes) {
            (Err(Errno::NOENT), Some(bytes)) if !options.read_only => {
                create_file(path, bytes)?;
                rustix::fs::stat(path).map_err(of_errno)?
            }
            (stat, _) => stat.map_err(of_errno)?,
        };
        // Said before the lock is waited for: this process would wait for itself.
        if self.registry().disks.iter().flatten().any(|open| open.identity == (stat.st_dev, stat.st_ino)) {
            let kind = OpenErrorKind::InUse { pid: Some(std::process::id()), mounted_at: None };
            return Err(OpenError::new(kind, path));
        }
        let (block_device, file) = (shape::is_block_device(&stat), shape::is_file(&stat));
        if !block_device && !file {
            return Err(OpenError::new(OpenErrorKind::NotADisk, path));
        }
        let (fd, direct) = open_locked(path, &stat, block_device, options)?;
        // The size of a block device is where its end is; stat says 0.
        let bytes = rustix::fs::seek(&fd, rustix::fs::SeekFrom::End(0)).map_err(of_errno)?;
        let info = if block_device {
            shape::of_block_device(path, fd.as_fd(), &stat, bytes)
        } else {
            shape::of_file(path, fd.as_fd(), &stat, bytes)
        };
        if info.size_bytes < DISK_BYTES_MIN {
            return Err(OpenError::new(OpenErrorKind::TooSmall(bytes), path));
        }
        let backing = if block_device { Backing::BlockDevice } else { Backing::File };
        Ok(Disk { info, file: fd, backing, direct, memory: None, identity: (stat.st_dev, stat.st_ino) })
    }
}

/// Opens `path`, which `stat` describes, and locks it; waits for a predecessor.
fn open_locked(
    path: &str,
    stat: &Stat,
    block_device: bool,
    options: &OpenOptions,
) -> Result<(OwnedFd, bool), OpenError> {
    let mut flags = OFlags::CLOEXEC | if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
    if block_device && !options.read_only {
        // On a block device this claims it: mounts, LVM and MD are refused while we have it, and the other way round.
        flags |= OFlags::EXCL;
    }
    let mut direct = options.direct;
    let wait = Duration::from_millis(options.lock_wait_ms);
    let opened = lock::retry_while_held(wait, || {
        let wanted = if direct { flags | OFlags::DIRECT } else { flags };
        let fd = match rustix::fs::open(path, wanted, Mode::empty()) {
            Err(Errno::INVAL) if direct => {
                direct = false;
                rustix::fs::open(path, flags, Mode::empty())?
            }
            other => other?,
        };
        lock::try_lock(fd.as_fd(), !options.read_only)?;
        Ok(fd)
    });
    match opened {
        Ok(fd) => {
            if options.direct && !direct {
                log::warn!("disk {path}: its file system refuses O_DIRECT; the page cache holds its data twice");
            }
            Ok((fd, direct))
        }
        Err(errno @ (Errno::WOULDBLOCK | Errno::BUSY)) => {
            let mounted_at = lock::mounted_at(stat.st_rdev).ok().flatten().filter(|_| block_device);
            let kind = OpenErrorKind::InUse { pid: lock::holder(stat.st_dev, stat.st_ino), mounted_at };
            Err(OpenError { kind, path: path.to_owned(), source: Some(errno.into()) })
        }
        Err(errno) => Err(OpenError::of_errno(path, errno)),
    }
}

/// Creates the file with all its space; on failure nothing stays.
fn create_file(path: &str, bytes: u64) -> Result<(), OpenError> {
    let flags = OFlags::CLOEXEC | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    let fd =
        rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| OpenError::of_errno(path, errno))?;
    let allocated = match rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP) => {
            log::warn!("disk {path}: its file system can't preallocate; writes may fail for want of space later");
            rustix::fs::ftruncate(&fd, bytes)
        }
        other => other,
    };
    allocated.and_then(|()| rustix::fs::fsync(&fd)).map_err(|errno| {
        if let Err(error) = std::fs::remove_file(path) {
            log::warn!("disk {path}: the file that could not be filled could not be removed: {error}");
        }
        OpenError::of_errno(path, errno)
    })
}

/// `64M` as bytes; powers of 1,024.
fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A folder of its own on the build's file system (so that O_DIRECT works), removed at the end.
    pub(crate) struct Folder(PathBuf);

    impl Folder {
        pub(crate) fn new(name: &str) -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let base = std::env::var_os("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
            let path = base.join(format!("sds-uring-{name}-{}-{count}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a folder for the test");
            Self(path)
        }

        pub(crate) fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn text(path: &Path) -> &str {
        path.to_str().expect("a path in UTF-8")
    }

    fn quick(create_bytes: Option<u64>) -> OpenOptions {
        OpenOptions { create_bytes, lock_wait_ms: 50, ..OpenOptions::default() }
    }

    #[test]
    fn a_second_engine_is_refused_and_told_who_has_the_disk() {
        let folder = Folder::new("lock");
        let path = folder.path("disk.img");
        let first = Disks::new();
        let id = first.open(text(&path), &quick(Some(4 << 20))).expect("created");
        let info = first.info(id).expect("open");
        assert_eq!((info.size_bytes, info.volatile_cache), (4 << 20, true));
        let same_process = first.open(text(&path), &quick(None)).expect_err("twice in one registry");
        let me = Some(std::process::id());
        assert_eq!(*same_process.kind(), OpenErrorKind::InUse { pid: me, mounted_at: None });
        let second = Disks::new();
        let refused = second.open(text(&path), &quick(None)).expect_err("locked");
        assert_eq!(*refused.kind(), OpenErrorKind::InUse { pid: me, mounted_at: None });
        assert!(refused.to_string().contains(&format!("process {} has it", std::process::id())), "{refused}");
        first.close(id);
        second.open(text(&path), &quick(None)).expect("free again");
    }

    #[test]
    fn a_predecessors_lock_is_waited_for() {
        let folder = Folder::new("wait");
        let path = folder.path("disk.img");
        let first = Disks::new();
        let id = first.open(text(&path), &quick(Some(1 << 20))).expect("created");
        let later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            first.close(id);
        });
        let patient = OpenOptions { lock_wait_ms: 5_000, ..OpenOptions::default() };
        Disks::new().open(text(&path), &patient).expect("opened after the first let go");
        later.join().expect("the first engine's thread");
    }

    #[test]
    fn what_is_no_disk_is_refused_by_its_kind() {
        let folder = Folder::new("refuse");
        let disks = Disks::new();
        let kind = |path: &str, options: &OpenOptions| disks.open(path, options).expect_err("refused").kind().clone();
        assert_eq!(kind(text(&folder.path("none")), &quick(None)), OpenErrorKind::NotFound);
        assert_eq!(kind(text(&folder.0), &quick(None)), OpenErrorKind::NotADisk);
        assert_eq!(kind("/dev/null", &quick(None)), OpenErrorKind::NotADisk);
        assert_eq!(kind("memfd:x", &quick(None)), OpenErrorKind::NotADisk);
        assert_eq!(kind("memfd:x:4097", &quick(None)), OpenErrorKind::NotADisk);
        assert_eq!(kind("memfd:x:64K", &quick(None)), OpenErrorKind::TooSmall(65536));
        assert_eq!(kind(text(&folder.path("small")), &quick(Some(8192))), OpenErrorKind::TooSmall(8192));
        assert_eq!(kind(text(&folder.path("huge")), &quick(Some(1 << 60))), OpenErrorKind::NoSpace);
        assert!(!folder.path("huge").exists(), "nothing is left of a file that could not be filled");
    }
}
