//! Latencies, processor time, resident memory.

use std::fs;
use std::io;
use std::time::Duration;

/// Buckets of one power of two: a value is known to 1/32 of itself.
const SUB_BITS: u32 = 5;
const BUCKETS: usize = (64 << SUB_BITS) as usize;

/// Durations in nanoseconds, by logarithmic buckets.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

fn bucket(nanos: u64) -> usize {
    let exponent = nanos.max(1).ilog2();
    if exponent < SUB_BITS {
        return nanos as usize;
    }
    let sub = (nanos >> (exponent - SUB_BITS)) as usize & ((1 << SUB_BITS) - 1);
    ((exponent - SUB_BITS + 1) as usize) << SUB_BITS | sub
}

/// The smallest value of a bucket.
fn floor(bucket: usize) -> u64 {
    let (exponent, sub) = (bucket >> SUB_BITS, bucket as u64 & ((1 << SUB_BITS) - 1));
    if exponent == 0 { sub } else { (1 << SUB_BITS | sub) << (exponent - 1) }
}

impl Histogram {
    /// One more.
    pub fn add(&mut self, duration: Duration) {
        self.counts[bucket(duration.as_nanos() as u64)] += 1;
        self.total += 1;
    }

    /// The duration that `share` (0 to 1) of all stay below, to 1/32 of itself.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(floor(bucket));
            }
        }
        Duration::ZERO
    }
}

/// The processor time that all threads of a process have used, their system calls and the softirqs in them included.
///
/// # Errors
/// The process is gone, or the kernel has no schedstat.
pub fn processor_time(pid: u32) -> io::Result<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        nanos += text.split_whitespace().next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanos))
}

/// Memory of a process that is in RAM, in bytes (Rss in `/proc/PID/smaps_rollup`).
///
/// # Errors
/// The process is gone, or is another user's.
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("smaps_rollup has no Rss"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_thirtysecond() {
        let mut histogram = Histogram::default();
        (1..=1000_u64).for_each(|micros| histogram.add(Duration::from_micros(micros)));
        for (share, micros) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = histogram.quantile(share).as_secs_f64() * 1e6;
            assert!((micros * 31.0 / 32.0..=micros).contains(&found), "{share}: {found}");
        }
        for nanos in (0..100).chain([1 << 20, u64::MAX]) {
            let low = floor(bucket(nanos));
            assert!(low <= nanos && nanos - low <= nanos / 32, "{nanos}: {low}");
        }
    }
}
