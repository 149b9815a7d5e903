//! `sds-sim`: runs seeds, prints what they did, and says which failed and how.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use sds_sim::knobs::Knobs;
use sds_sim::lean::leaning;
use sds_sim::panics;
use sds_sim::pool::PoolEngine;
use sds_sim::report::{Counters, Failure};
use sds_sim::run::run;
use sds_volume::Defect;

const USAGE: &str = "\
usage: sds-sim [--seeds N] [--from N] [--seed N] [--ops N] [--threads N] [--planted NAME] [--trace] [--coverage]

  --seeds N       run so many seeds (default 1000)
  --from N        the first one (default 1)
  --seed N        replay this one alone, and print its knobs
  --ops N         operations a seed (default 2000)
  --threads N     seeds at once (default: the machine's processors)
  --planted NAME  put in a defect, in worlds that lean to it; all: one after the other; fails if it is not found
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
    planted: Vec<Defect>,
    trace: bool,
    coverage: bool,
    replay: bool,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options {
        seeds: 1000,
        from: 1,
        operations: 2000,
        threads,
        planted: Vec::new(),
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
            "--planted" => options.planted = defects(&arguments.next().unwrap_or_default())?,
            other => return Err(format!("unknown option {other:?}")),
        }
    }
    Ok(options)
}

fn defects(name: &str) -> Result<Vec<Defect>, String> {
    let named: Vec<Defect> =
        Defect::ALL.iter().copied().filter(|defect| name == "all" || name == defect.name()).collect();
    let names = || Defect::ALL.iter().map(|defect| defect.name()).collect::<Vec<_>>().join(", ");
    if named.is_empty() { Err(format!("--planted: {name:?} is none of all, {}", names())) } else { Ok(named) }
}

/// For each defect how many seeds find it, and how many of them by an assertion of the engine, which is no proof.
fn run_planted(options: &Options) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    println!("{:>24} {:>6} {:>10} of {} seeds", "defect", "found", "asserted", options.seeds);
    for defect in &options.planted {
        let (_, failures) = run_seeds(options, Some(*defect));
        let asserted = failures.iter().filter(|failure| failure.is_panic()).count();
        let found = failures.len() - asserted;
        println!("{:>24} {found:>6} {asserted:>10}", defect.name());
        if found == 0 {
            code = ExitCode::FAILURE;
        }
    }
    code
}

fn run_seeds(options: &Options, planted: Option<Defect>) -> (Counters, Vec<Failure>) {
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
                    let mut knobs = match planted {
                        Some(defect) => leaning(seed, options.operations, defect),
                        None => Knobs::new(seed, options.operations),
                    };
                    knobs.trace = options.trace;
                    if options.replay {
                        println!("{knobs:#?}");
                    }
                    let outcome = run::<PoolEngine>(knobs);
                    if options.replay {
                        println!("trace {:#018x}", outcome.trace.0);
                    }
                    if let Some(failure) = outcome.failure.as_ref().filter(|_| options.planted.len() < 2) {
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
    if !options.planted.is_empty() {
        return run_planted(&options);
    }
    println!("seeds {} to {}", options.from, options.from + options.seeds.saturating_sub(1));
    let began = Instant::now();
    let (counters, mut failures) = run_seeds(&options, None);
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
