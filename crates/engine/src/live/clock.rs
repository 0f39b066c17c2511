//! The step clock: whether the engine's thread still makes steps, told without asking it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How the engine's thread does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Health {
    /// It makes steps, or has nothing to do.
    Healthy,
    /// The step at hand lasts too long.
    Stalled {
        /// How long it has lasted.
        seconds: f64,
    },
    /// It has ended.
    Stopped,
}

/// Nothing is being done.
const RESTING: u64 = u64::MAX;
/// Nothing will be done any more.
const STOPPED: u64 = u64::MAX - 1;

/// Since when the thread has been at what it does now.
pub(super) struct Clock {
    start: Instant,
    stall_after: Duration,
    /// Microseconds after the start, or one of the constants.
    since: AtomicU64,
}

impl Clock {
    pub fn new(start: Instant, stall_after: Duration) -> Self {
        Self { start, stall_after, since: AtomicU64::new(RESTING) }
    }

    /// Something new begins.
    pub fn begin(&self) {
        self.since.store(self.start.elapsed().as_micros() as u64, Ordering::Relaxed);
    }

    pub fn rest(&self) {
        self.since.store(RESTING, Ordering::Relaxed);
    }

    pub fn stop(&self) {
        self.since.store(STOPPED, Ordering::Relaxed);
    }

    pub fn health(&self) -> Health {
        match self.since.load(Ordering::Relaxed) {
            RESTING => Health::Healthy,
            STOPPED => Health::Stopped,
            since => {
                let lasted = self.start.elapsed().saturating_sub(Duration::from_micros(since));
                if lasted > self.stall_after {
                    Health::Stalled { seconds: lasted.as_secs_f64() }
                } else {
                    Health::Healthy
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_step_that_lasts_too_long_is_stalled() {
        let clock = Clock::new(Instant::now() - Duration::from_secs(100), Duration::from_secs(10));
        assert_eq!(clock.health(), Health::Healthy);
        clock.since.store(50_000_000, Ordering::Relaxed);
        assert!(matches!(clock.health(), Health::Stalled { seconds } if seconds >= 50.0));
        clock.begin();
        assert_eq!(clock.health(), Health::Healthy);
        clock.since.store(0, Ordering::Relaxed);
        clock.rest();
        assert_eq!(clock.health(), Health::Healthy);
        clock.stop();
        assert_eq!(clock.health(), Health::Stopped);
    }
}
