//! The data path's log: JSON lines on standard error, of the shape that `sds/process.py` writes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};

struct JsonLines;

impl Log for JsonLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = String::with_capacity(256);
        line.push_str("{\"ts\": \"");
        push_time(&mut line, SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64));
        line.push_str("\", \"level\": \"");
        line.push_str(match record.level() {
            Level::Error => "ERROR",
            Level::Warn => "WARNING",
            Level::Info => "INFO",
            Level::Debug | Level::Trace => "DEBUG",
        });
        line.push_str("\", \"target\": \"");
        push_escaped(&mut line, record.target());
        line.push_str("\", \"message\": \"");
        push_escaped(&mut line, &record.args().to_string());
        line.push_str("\"}\n");
        // One write, so that lines of several threads stay whole; nobody is left to be told that it failed.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// RFC 3339 in UTC, from milliseconds since 1970.
fn push_time(line: &mut String, ms: u64) {
    let (day, of_day) = (ms / 86_400_000, ms % 86_400_000);
    // Days from 0000-03-01, in 400-year cycles whose years begin in March, so that the leap day is a year's last
    // (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days).
    let days = day + 719_468;
    let (cycle, in_cycle) = (days / 146_097, days % 146_097);
    let year_of_cycle = (in_cycle - in_cycle / 1_460 + in_cycle / 36_524 - in_cycle / 146_096) / 365;
    let in_year = in_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let march_month = (5 * in_year + 2) / 153;
    let date = in_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = cycle * 400 + year_of_cycle + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
    let written =
        write!(line, "{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{:03}+00:00", of_day % 1000);
    written.expect("a string takes everything");
}

fn push_escaped(line: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            control if control < ' ' => {
                write!(line, "\\u{:04x}", control as u32).expect("a string takes everything");
            }
            other => line.push(other),
        }
    }
}

/// The filter of a level's name in the configuration; `None` if there is no such level.
pub fn level(name: &str) -> Option<LevelFilter> {
    match name {
        "debug" => Some(LevelFilter::Debug),
        "info" => Some(LevelFilter::Info),
        "warning" => Some(LevelFilter::Warn),
        "error" => Some(LevelFilter::Error),
        _ => None,
    }
}

/// Writes from now on what is at least as urgent as `filter`.
pub fn start(filter: LevelFilter) {
    // A second node of this process finds the logger set already.
    let _ = log::set_logger(&JsonLines);
    log::set_max_level(filter);
}
