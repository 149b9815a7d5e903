//! A log that hosts can't flood.

use std::fmt;
use std::time::{Duration, Instant};

/// One line of a kind is written in so long.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// How many lines were kept back since the one before; nothing is printed if there were none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KeptBack(u64);

impl fmt::Display for KeptBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, " (and {} more since the last such line)", self.0) }
    }
}

/// Lets some lines of a kind through and counts the others.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    open_at: Option<Instant>,
    kept_back: u64,
}

impl Throttle {
    /// Some if a line may be written now; it ends with what this says.
    pub(crate) fn pass(&mut self, now: Instant) -> Option<KeptBack> {
        if self.open_at.is_some_and(|open_at| now < open_at) {
            self.kept_back += 1;
            return None;
        }
        self.open_at = Some(now + LINE_EVERY);
        Some(KeptBack(std::mem::take(&mut self.kept_back)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_a_second_and_the_next_one_says_how_many_were_kept_back() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        let passed: Vec<_> = (0..2500).map(|ms| throttle.pass(start + Duration::from_millis(ms))).collect();
        let lines = passed.iter().enumerate().filter_map(|(at, line)| Some(format!("{at}{}", line.as_ref()?)));
        let more = " (and 999 more since the last such line)";
        assert_eq!(lines.collect::<Vec<_>>(), ["0".to_owned(), format!("1000{more}"), format!("2000{more}")]);
    }
}
