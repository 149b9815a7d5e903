//! Time comes in from outside.

use std::future::Future;
use std::time::Duration;

/// One core's clock.
pub trait Clock: Clone + 'static {
    /// Time since some fixed moment, never stepping back.
    fn now(&self) -> Duration;

    /// Time since 1970, for people; it may step.
    fn wall(&self) -> Duration;

    /// Ends after `delay`.
    fn sleep(&self, delay: Duration) -> impl Future<Output = ()> + 'static;
}
