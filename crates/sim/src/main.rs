//! `sds-sim`: runs seeds, prints what they did, and says which failed and how.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use sds_sim::knobs::{Knobs, Planted};
use sds_sim::panics;
use sds_sim::pool::PoolEngine;
use sds_sim::report::{Counters, Failure};
use sds_sim::run::run;

const USAGE: &str = "\
usage: sds-sim [--seeds N] [--from N] [--seed N] [--ops N] [--threads N] [--planted NAME] [--trace] [--coverage]

  --seeds N       run so many seeds (default 500)
  --from N        the first one (default 1)
  --seed N        replay this one alone, and print its knobs
  --ops N         operations a seed (default 2000)
  --threads N     seeds at once (default: the machine's processors)
  --planted NAME  put in a defect: free_early, ignore_crc or skip_sync; then the run must fail
  --trace         print every event (with --seed)
  --coverage      fail if anything that a run can do never happened
";

/// Failing seeds that are printed in full.
const FAILURES_MAX: usize = 3;

struct Options {
    seeds: u64,
    from: u64,
    operations: u32,
    threads: usize,
    planted: Planted,
    trace: bool,
    coverage: bool,
    replay: bool,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options {
        seeds: 500,
        from: 1,
        operations: 2000,
        threads,
        planted: Planted::default(),
        trace: false,
        coverage: false,
        replay: false,
    };
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64, String> {
            let value = arguments.next().ok_or_else(|| format!("{argument} needs a number"))?;
            value.parse().map_err(|_| format!("{argument}: {value:?} is not a number"))
        };
        match argument.as_str() {
            "--seeds" => options.seeds = number()?,
            "--from" => options.from = number()?,
            "--seed" => (options.from, options.seeds, options.replay) = (number()?, 1, true),
            "--ops" => options.operations = u32::try_from(number()?).map_err(|_| "--ops: too many")?,
            "--threads" => options.threads = number()?.max(1) as usize,
            "--trace" => options.trace = true,
            "--coverage" => options.coverage = true,
            "--planted" => match arguments.next().as_deref() {
                Some("free_early") => options.planted.free_early = true,
                Some("ignore_crc") => options.planted.ignore_crc = true,
                Some("skip_sync") => options.planted.skip_sync = true,
                other => return Err(format!("--planted: {other:?} is none of free_early, ignore_crc, skip_sync")),
            },
            other => return Err(format!("unknown option {other:?}")),
        }
    }
    Ok(options)
}

fn run_seeds(options: &Options) -> (Counters, Vec<Failure>) {
    let next = AtomicU64::new(options.from);
    let totals: Mutex<(Counters, Vec<Failure>)> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..options.threads.min(options.seeds as usize) {
            scope.spawn(|| {
                panics::catch_here();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= options.from + options.seeds {
                        return;
                    }
                    let mut knobs = Knobs::new(seed, options.operations);
                    knobs.planted = options.planted;
                    knobs.trace = options.trace;
                    if options.replay {
                        println!("{knobs:#?}");
                    }
                    let outcome = run::<PoolEngine>(knobs);
                    if options.replay {
                        println!("trace {:#018x}", outcome.trace.0);
                    }
                    if let Some(failure) = &outcome.failure {
                        // At once: a run that is cut short has said what it found.
                        println!("seed {seed} failed: {}", failure.what.lines().next().unwrap_or_default());
                    }
                    let mut totals = totals.lock().expect("no thread died");
                    totals.0.add(&outcome.counters);
                    totals.1.extend(outcome.failure);
                }
            });
        }
    });
    totals.into_inner().expect("no thread died")
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(what) => {
            eprintln!("sds-sim: {what}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let began = Instant::now();
    let (counters, mut failures) = run_seeds(&options);
    failures.sort_by_key(|failure| failure.seed);
    for failure in failures.iter().take(FAILURES_MAX) {
        println!("{failure}");
    }
    println!("{counters}");
    let seconds = began.elapsed().as_secs_f64();
    println!("{} of {} seeds failed, {seconds:.1} s", failures.len(), options.seeds);
    let mut code = if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if options.coverage {
        for (label, _) in counters.rows().iter().filter(|(_, value)| *value == 0) {
            println!("never happened: {label}");
            code = ExitCode::FAILURE;
        }
    }
    if let Some(failure) = failures.first() {
        println!("replay with: sds-sim --seed {} --ops {}", failure.seed, options.operations);
    }
    code
}
