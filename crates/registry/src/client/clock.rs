//! Time, which tests make themselves.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use std::time::Instant;

/// A future that says nothing but that it is over.
pub type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a client asks of time.
pub trait Clock: Debug + Send + Sync {
    /// Returns the time since some moment before the client was made.
    fn now(&self) -> Duration;

    /// Waits before the next attempt or the next request.
    fn sleep(&self, duration: Duration) -> Wait;

    /// Waits while a peer is silent: when it ends, the peer is given up.
    fn patience(&self, duration: Duration) -> Wait;
}

/// The time of this machine.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, duration: Duration) -> Wait {
        Box::pin(tokio::time::sleep(duration))
    }

    fn patience(&self, duration: Duration) -> Wait {
        self.sleep(duration)
    }
}
