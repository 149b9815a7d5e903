//! A rate with credit, for requests and for bytes.
//!
//! The generic cell rate algorithm (ITU-T I.371, annex A) in one atomic: when the next unit may begin. Each
//! unit pushes it on by its share of a second, and it lags behind the present by the credit at most. So cores share a
//! rate without a lock, and who comes first begins first.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const NS_PER_S: u128 = 1_000_000_000;

/// What is let through in a second, and how much of it may be saved up while nobody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units a second, at least one.
    pub per_second: u64,
    /// Units that may go at once after a pause.
    pub burst: u64,
}

/// A rate that is kept, or none. Changed and asked from any core.
#[derive(Debug, Default)]
pub struct Meter {
    /// 0: no limit.
    per_second: AtomicU64,
    credit_ns: AtomicU64,
    next_ns: AtomicU64,
}

fn ns(units: u64, per_second: u64) -> u64 {
    u64::try_from(u128::from(units) * NS_PER_S / u128::from(per_second.max(1))).unwrap_or(u64::MAX)
}

impl Meter {
    /// Keeps `rate` from now on; what waits already goes on waiting.
    pub fn set(&self, rate: Option<Rate>) {
        let Rate { per_second, burst } = rate.unwrap_or(Rate { per_second: 0, burst: 0 });
        self.credit_ns.store(ns(burst, per_second), Relaxed);
        self.per_second.store(per_second, Relaxed);
    }

    /// Takes `units` at the time `now`; how long to wait before they begin.
    #[must_use]
    pub fn take(&self, now: Duration, units: u64) -> Duration {
        let per_second = self.per_second.load(Relaxed);
        if per_second == 0 || units == 0 {
            return Duration::ZERO;
        }
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let oldest = now.saturating_sub(self.credit_ns.load(Relaxed));
        let cost = ns(units, per_second);
        let begin = |next: u64| next.max(oldest);
        let before =
            self.next_ns.fetch_update(Relaxed, Relaxed, |next| Some(begin(next).saturating_add(cost))).unwrap_or(0);
        Duration::from_nanos(begin(before).saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn meter(per_second: u64, burst: u64) -> Meter {
        let meter = Meter::default();
        meter.set(Some(Rate { per_second, burst }));
        meter
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let meter = Meter::default();
        assert!((0..1000).all(|_| meter.take(SECOND, u64::MAX) == Duration::ZERO));
    }

    #[test]
    fn what_was_saved_up_goes_at_once_and_the_rest_at_the_rate() {
        let meter = meter(100, 10);
        let waits: Vec<u128> = (0..15).map(|_| meter.take(SECOND, 1).as_millis()).collect();
        assert_eq!(waits[..11], [0; 11]);
        assert_eq!(waits[11..], [10, 20, 30, 40]);
    }

    #[test]
    fn no_more_than_the_burst_is_saved_up_however_long_the_pause() {
        let meter = meter(100, 10);
        let _ = meter.take(SECOND, 500);
        assert_eq!(meter.take(1000 * SECOND, 10), Duration::ZERO);
        assert_eq!(meter.take(1000 * SECOND, 1), Duration::ZERO);
        assert_eq!(meter.take(1000 * SECOND, 1), Duration::from_millis(10));
    }

    #[test]
    fn a_rate_that_is_taken_away_holds_nobody() {
        let meter = meter(1, 1);
        let _ = meter.take(SECOND, 1000);
        assert!(meter.take(SECOND, 1) > SECOND);
        meter.set(None);
        assert_eq!(meter.take(SECOND, 1), Duration::ZERO);
    }

    #[test]
    fn in_any_window_no_more_begins_than_rate_and_burst_allow() {
        // A deterministic walk of arrivals of many sizes.
        let (rate, burst) = (1_000_000_u64, 65_536_u64);
        let meter = meter(rate, burst);
        let (mut now, mut state) = (Duration::ZERO, 1_u64);
        let mut begun: Vec<(Duration, u64)> = Vec::new();
        for _ in 0..2000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            now += Duration::from_micros(state >> 54);
            let bytes = 512 * (1 + (state >> 33) % 128);
            begun.push((now + meter.take(now, bytes), bytes));
        }
        let largest = 512 * 128;
        for from in (0..begun.len()).step_by(37) {
            let mut sum = 0;
            for (at, bytes) in &begun[from..] {
                sum += bytes;
                let allowed = (*at - begun[from].0).as_secs_f64() * rate as f64 + (burst + largest) as f64 + 1.0;
                assert!(sum as f64 <= allowed, "{sum} of {allowed} from {from}");
            }
        }
    }
}
