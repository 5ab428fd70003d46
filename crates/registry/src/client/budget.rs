//! How many requests a host is sent.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use super::Clock;

/// What one host may be sent, shared by all that is asked of it: a bucket of requests that fills up again over
/// time, and a moment before which the host wants to be left alone.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Requests per minute, which is the size of the bucket too; `None`: as many as there are.
    rate: Option<u32>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the bucket is full again; each request moves it by the time that one request takes to fill.
    full_at: Duration,
    /// Before this, nothing is sent.
    closed_until: Duration,
}

const MINUTE: Duration = Duration::from_secs(60);

impl Budget {
    pub(crate) fn new(rate: Option<u32>) -> Budget {
        let rate = rate.map(|rate| rate.max(1));
        Budget { rate, state: Mutex::new(State { full_at: Duration::ZERO, closed_until: Duration::ZERO }) }
    }

    /// Waits until another request may be sent, and counts it.
    pub(crate) async fn take(&self, clock: &dyn Clock) {
        loop {
            let wait = self.try_take(clock.now());
            if wait.is_zero() {
                return;
            }
            clock.sleep(wait).await;
        }
    }

    /// Takes a request from the bucket, or returns how long to wait before the next try.
    fn try_take(&self, now: Duration) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed_until > now {
            return state.closed_until - now;
        }
        let Some(rate) = self.rate else { return Duration::ZERO };
        let full_at = state.full_at.max(now) + MINUTE / rate;
        // The bucket is empty when it takes more than its whole size to fill.
        match full_at.checked_sub(now + MINUTE) {
            Some(excess) if !excess.is_zero() => excess,
            _ => {
                state.full_at = full_at;
                Duration::ZERO
            }
        }
    }

    /// Sends nothing for a while, as the host asked.
    pub(crate) fn close(&self, now: Duration, pause: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed_until = state.closed_until.max(now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_then_the_rate_holds() {
        let budget = Budget::new(Some(300));
        let now = Duration::from_secs(1000);
        for _ in 0..300 {
            assert_eq!(budget.try_take(now), Duration::ZERO);
        }
        assert_eq!(budget.try_take(now), Duration::from_millis(200));
        // The one that was refused was not counted.
        assert_eq!(budget.try_take(now + Duration::from_millis(200)), Duration::ZERO);
        assert!(!budget.try_take(now + Duration::from_millis(200)).is_zero());
        // After a minute of rest there is a whole burst again, and no more.
        let later = now + Duration::from_secs(600);
        assert_eq!((0..400).filter(|_| budget.try_take(later).is_zero()).count(), 300);
    }

    #[test]
    fn a_closed_host_is_left_alone_by_everyone() {
        let budget = Budget::new(None);
        let now = Duration::from_secs(5);
        budget.close(now, Duration::from_secs(30));
        // A shorter wish does not shorten a longer one.
        budget.close(now, Duration::from_secs(1));
        assert_eq!(budget.try_take(now), Duration::from_secs(30));
        assert_eq!(budget.try_take(now + Duration::from_secs(30)), Duration::ZERO);
    }
}
