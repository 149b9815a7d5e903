//! A panic of the engine is a failure of its seed, not the end of the simulator.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
    static CAUGHT: RefCell<bool> = const { RefCell::new(false) };
}

static HOOK: Once = Once::new();

/// Panics on this thread are remembered with their backtrace instead of printed, from now on.
pub fn catch_here() {
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if CAUGHT.with(|caught| *caught.borrow()) {
                let trace = std::backtrace::Backtrace::force_capture().to_string();
                let ours = trace.lines().filter(|line| line.contains("sds_") || line.contains("crates/"));
                let ours: Vec<&str> = ours.take(24).collect();
                let text = format!("panic: {info}\n{}", ours.join("\n"));
                LAST.with(|last| last.borrow_mut().get_or_insert(text).len());
            } else {
                before(info);
            }
        }));
    });
    CAUGHT.with(|caught| *caught.borrow_mut() = true);
}

/// The first panic since the last call.
#[must_use]
pub fn take() -> String {
    LAST.with(|last| last.borrow_mut().take()).unwrap_or_else(|| "panic".into())
}
