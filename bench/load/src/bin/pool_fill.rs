//! One write in each extent of a pool's volumes, by the pool's own code, without hosts and without data:
//! `sds-pool-fill POOL --disk PATH --volume UUID [options] <rows >batches`.
//!
//! `--disk` and `--volume` are repeatable. `--window PLACES`: extents are written shuffled within windows of so many;
//! `--depth N`: writes that are open at a time; `--drop-owners`: see below; `--seed N`. What it came to is a line of
//! JSON on standard error.
//!
//! The pool must be closed. Standard input has the rows of its MetaStore, standard output gets every batch that the
//! pool puts there, both as [`sds_bench::rows`] has them: who runs this brings them to the product's RocksDB.
//!
//! What makes 100 TiB possible on a machine without them: bytes for the data area are thrown away, and nothing is
//! synced, since no power is cut meanwhile. Labels, catalog slots, journal and owner table are written as ever, unless
//! `--drop-owners` throws away the owner table too (13 GB of 100 TiB). Such a pool can't be rebuilt from its disks.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sds_bench::places::Sweep;
use sds_bench::report::{processor_time, resident_bytes};
use sds_bench::rows::{PipedStore, VolatileCarryOver};
use sds_bench::words::log_to_standard_error;
use sds_block::{BlockError, Command, Device, LbaRange, Request};
use sds_io::sync::join_all;
use sds_io::{Buffer, Clock, DiskId, DiskInfo, Io, IoError, Slice};
use sds_uring::{CoreHandle, CoreOptions, Disks, OpenOptions, UringIo};
use sds_volume::label_io::read_label;
use sds_volume::{CoreEnv, Planted, Pool, PoolEnv, Tuning, Volume};

const WRITE_BYTES: u64 = 4096;
/// As the engine has it: more would let more records wait than the journal may hold.
const CARRY_OVER_BYTES: usize = 8 << 20;
/// No page is written again later: the cache need only hold those of some windows.
const MAP_CACHE_BYTES_MAX: usize = 256 << 20;

/// Disks that keep their first bytes, up to an end for each, and nothing else.
#[derive(Clone)]
struct DatalessIo {
    io: UringIo,
    kept: Rc<HashMap<DiskId, u64>>,
}

impl DatalessIo {
    fn keeps(&self, disk: DiskId, offset: u64) -> bool {
        offset < self.kept[&disk]
    }
}

impl Io for DatalessIo {
    fn disk(&self, disk: DiskId) -> DiskInfo {
        self.io.disk(disk)
    }

    fn read(
        &self,
        disk: DiskId,
        offset: u64,
        buffer: Buffer,
    ) -> impl Future<Output = Result<Buffer, IoError>> + 'static {
        let len = buffer.len();
        let started = self.keeps(disk, offset).then(|| self.io.read(disk, offset, buffer));
        async move {
            match started {
                Some(read) => read.await,
                None => Ok(Buffer::zeroed(len)),
            }
        }
    }

    fn write(
        &self,
        disk: DiskId,
        offset: u64,
        data: Slice,
        _durable: bool,
    ) -> impl Future<Output = Result<(), IoError>> + 'static {
        let started = self.keeps(disk, offset).then(|| self.io.write(disk, offset, data, false));
        async move {
            match started {
                Some(write) => write.await,
                None => Ok(()),
            }
        }
    }

    fn sync(&self, _: DiskId) -> impl Future<Output = Result<(), IoError>> + 'static {
        std::future::ready(Ok(()))
    }

    fn discard(&self, _: DiskId, _: u64, _: u64) -> impl Future<Output = Result<(), IoError>> + 'static {
        std::future::ready(Ok(()))
    }
}

impl Clock for DatalessIo {
    fn now(&self) -> Duration {
        self.io.now()
    }

    fn wall(&self) -> Duration {
        self.io.wall()
    }

    fn sleep(&self, delay: Duration) -> impl Future<Output = ()> + 'static {
        self.io.sleep(delay)
    }
}

#[derive(Clone)]
struct Options {
    pool: [u8; 16],
    disks: Vec<String>,
    volumes: Vec<[u8; 16]>,
    window: u64,
    depth: usize,
    drop_owners: bool,
    seed: u64,
}

fn uuid(text: &str) -> Result<[u8; 16], String> {
    let digits: String = text.chars().filter(|digit| *digit != '-').collect();
    let number = u128::from_str_radix(&digits, 16).map_err(|_| format!("{text} is no uuid"))?;
    Ok(number.to_be_bytes())
}

fn parse(words: &[String]) -> Result<Options, String> {
    let (pool, rest) = words.split_first().ok_or("the pool's uuid is missing")?;
    let (disks, volumes) = (Vec::new(), Vec::new());
    let mut options = Options { pool: uuid(pool)?, disks, volumes, window: 1, depth: 128, drop_owners: false, seed: 1 };
    let mut rest = rest.iter();
    while let Some(name) = rest.next() {
        if name == "--drop-owners" {
            options.drop_owners = true;
            continue;
        }
        let value = rest.next().ok_or_else(|| format!("{name} wants a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{name} {value} is no number"));
        match name.as_str() {
            "--disk" => options.disks.push(value.clone()),
            "--volume" => options.volumes.push(uuid(value)?),
            "--window" => options.window = number()?.max(1),
            "--depth" => options.depth = number()?.clamp(1, 1024) as usize,
            "--seed" => options.seed = number()?,
            other => return Err(format!("{other} is no option")),
        }
    }
    Ok(options)
}

/// One write in each extent; how many.
async fn fill(device: Volume<DatalessIo>, options: &Options) -> Result<u64, BlockError> {
    let geometry = device.geometry();
    let block = u64::from(geometry.logical_block_bytes);
    let stride = u64::from(geometry.optimal_transfer_bytes) / block;
    let places = geometry.blocks.0 / stride;
    let sweep = Rc::new(RefCell::new(Sweep::new(places, options.window, options.seed)));
    let payload = Buffer::zeroed(WRITE_BYTES as usize).share();
    let writers = (0..options.depth).map(|_| {
        let (device, sweep, payload) = (device.clone(), Rc::clone(&sweep), payload.clone());
        async move {
            loop {
                let Some(place) = sweep.borrow_mut().next() else { return Ok(()) };
                let range = LbaRange::new(place * stride, WRITE_BYTES / block);
                let command = Command::Write { range, fua: false };
                device.execute(Request { command, payload: Some(payload.clone()) }).await?;
            }
        }
    });
    join_all(writers.collect()).await.into_iter().collect::<Result<(), BlockError>>()?;
    Ok(places)
}

async fn run(env: CoreEnv<UringIo>, store: Arc<PipedStore>, disks: Vec<DiskId>, options: Options) -> io::Result<u64> {
    let mut kept = HashMap::new();
    for disk in &disks {
        let label = read_label(&env.io, *disk).await.label.ok_or_else(|| io::Error::other("a disk has no label"))?;
        let layout = label.layout;
        kept.insert(*disk, if options.drop_owners { layout.owner_offset } else { layout.data_offset });
    }
    let io = DatalessIo { io: env.io, kept: Rc::new(kept) };
    let env = CoreEnv { core: env.core, io, spawner: env.spawner };
    let world = PoolEnv {
        cores: 1,
        meta: store,
        carry_over: Arc::new(VolatileCarryOver::new(CARRY_OVER_BYTES)),
        opener: format!("sds-pool-fill {}", std::process::id()),
        rename: None,
        tuning: Tuning { map_cache_bytes_max: MAP_CACHE_BYTES_MAX, ..Tuning::default() },
        planted: Planted::default(),
    };
    let (pool, _) = Pool::open(env, world, options.pool, &disks).await.map_err(io::Error::other)?;
    let mut extents = 0;
    for uuid in &options.volumes {
        let device = pool.device(*uuid).ok_or_else(|| io::Error::other("the pool has no such volume"))?;
        extents += fill(device, &options).await.map_err(|error| io::Error::other(error.to_string()))?;
    }
    pool.stop().await.map_err(io::Error::other)?;
    Ok(extents)
}

fn start(options: Options) -> io::Result<String> {
    let store = Arc::new(PipedStore::read_from(&mut io::stdin().lock())?);
    let disks = Disks::new();
    let open = OpenOptions { direct: false, ..OpenOptions::default() };
    let opened = options.disks.iter().map(|path| disks.open(path, &open)).collect::<Result<Vec<_>, _>>();
    let opened = opened.map_err(io::Error::other)?;
    let core = CoreHandle::start(CoreOptions::default(), disks)?;
    let began = Instant::now();
    let ended = core.block_on(move |local| {
        let env = CoreEnv { core: local.index(), io: local.io(), spawner: local.spawner() };
        run(env, store, opened, options)
    });
    let extents = ended.map_err(io::Error::other)??;
    let elapsed_s = began.elapsed().as_secs_f64();
    let me = std::process::id();
    Ok(format!(
        "{{\"extents\": {extents}, \"seconds\": {elapsed_s:.1}, \"cpu_us\": {:.3}, \"rss_bytes\": {}}}",
        processor_time(me)?.as_secs_f64() * 1e6 / extents.max(1) as f64,
        resident_bytes(me)?,
    ))
}

fn main() -> ExitCode {
    log_to_standard_error(log::LevelFilter::Warn);
    let words: Vec<String> = std::env::args().skip(1).collect();
    let options = match parse(&words) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("sds-pool-fill: {why}");
            return ExitCode::from(2);
        }
    };
    match start(options) {
        Ok(line) => {
            eprintln!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sds-pool-fill: {error}");
            ExitCode::FAILURE
        }
    }
}
