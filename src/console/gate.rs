//! The one way to the driver for requests about devices. Onlookers get a twentieth of the driver's time at most,
//! however many they are: devices do not notice them.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::sleep_until;

use crate::driver::monotonic_now;

/// After an answer that took some time the next request waits this many times as long.
const PAUSE_FACTOR: u32 = 20;
/// Minimum pause between two requests.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// Lets one request at a time through, in the order in which they came.
#[derive(Debug)]
pub struct Gate {
    /// The time at which the next request may pass.
    next: Mutex<Instant>,
    /// Seconds that the driver took for all answers.
    seconds: Counter<f64, AtomicU64>,
}

/// A request on its way. When it is over, also because nobody waits for it any more, the pause begins.
struct Turn<'a> {
    next: MutexGuard<'a, Instant>,
    begun: Instant,
    seconds: &'a Counter<f64, AtomicU64>,
}

impl Gate {
    pub fn new(seconds: Counter<f64, AtomicU64>) -> Self {
        Self { next: Mutex::new(monotonic_now()), seconds }
    }

    /// Waits for its turn, and then for the answer.
    pub async fn pass<T>(&self, request: impl Future<Output = T>) -> T {
        let next = self.next.lock().await;
        sleep_until((*next).into()).await;
        let turn = Turn { next, begun: monotonic_now(), seconds: &self.seconds };
        let answer = request.await;
        drop(turn);
        answer
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let now = monotonic_now();
        let took = now.saturating_duration_since(self.begun);
        self.seconds.inc_by(took.as_secs_f64());
        *self.next = now + (took * PAUSE_FACTOR).max(SHORTEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn onlookers_have_a_twentieth_of_the_time_however_many_they_are() {
        let gate = Arc::new(Gate::new(Counter::default()));
        let begun = monotonic_now();
        let asked: Vec<_> = (0..5)
            .map(|_| {
                let gate = Arc::clone(&gate);
                tokio::spawn(
                    async move { gate.pass(async { tokio::time::sleep(Duration::from_millis(2)).await }).await },
                )
            })
            .collect();
        for one in asked {
            one.await.unwrap();
        }
        // Four pauses lie between five answers.
        assert!(monotonic_now() - begun >= Duration::from_millis(4 * 2 * 20));
        assert!(gate.seconds.get() >= 0.010);
    }
}
