//! What the programs log goes to standard error.

struct ToStandardError;

impl log::Log for ToStandardError {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        eprintln!("{} {}: {}", record.level(), record.target(), record.args());
    }

    fn flush(&self) {}
}

/// From now on everything up to `level` is printed.
pub fn log_to_standard_error(level: log::LevelFilter) {
    if log::set_logger(&ToStandardError).is_ok() {
        log::set_max_level(level);
    }
}
