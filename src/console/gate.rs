//! The one way to the driver for requests about devices. Onlookers get a hundredth of the driver's time at most,
//! however many they are, so that fewer than one in a hundred messages of devices waits for one of them.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::sleep_until;

use crate::clock::monotonic_now;

/// The next request waits this many times as long as the last answer took.
const PAUSE_FACTOR: u32 = 100;
/// Minimum pause between two requests: a request wakes the driver's thread, which costs it more than a short answer.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// Maximum pause: a driver that was silent for seconds, such as one of a suspended machine, keeps nobody out for
/// minutes afterwards. No answer of a running driver takes a hundredth of this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Admits one request at a time, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Gate {
    /// The time at which the next request may pass.
    next: Mutex<Instant>,
    /// Seconds that the driver took for all answers. The driver counts them before it answers.
    seconds: Counter<f64, AtomicU64>,
}

/// A request on its way. When it is over, also because nobody waits for it any more, the pause begins.
struct Turn<'a> {
    next: MutexGuard<'a, Instant>,
    begun: Instant,
    /// The seconds of all answers before this one.
    before: f64,
    seconds: &'a Counter<f64, AtomicU64>,
}

impl Gate {
    pub(super) fn new(seconds: Counter<f64, AtomicU64>) -> Self {
        Self { next: Mutex::new(monotonic_now()), seconds }
    }

    /// Waits for its turn, and then for the answer.
    pub(super) async fn pass<T>(&self, request: impl Future<Output = T>) -> T {
        let next = self.next.lock().await;
        sleep_until((*next).into()).await;
        let turn = Turn { next, begun: monotonic_now(), before: self.seconds.get(), seconds: &self.seconds };
        let answer = request.await;
        drop(turn);
        answer
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let now = monotonic_now();
        let counted = self.seconds.get() - self.before;
        // Not counted: a request that is not answered yet, or a snapshot. The time includes that on the way, then.
        let took = match counted > 0.0 {
            true => Duration::from_secs_f64(counted),
            false => now.saturating_duration_since(self.begun),
        };
        *self.next = now + (took * PAUSE_FACTOR).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn onlookers_have_a_hundredth_of_the_time_however_many_they_are() {
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
        assert!(monotonic_now() - begun >= Duration::from_millis(4 * 2 * 100));
    }

    #[tokio::test]
    async fn a_driver_that_was_silent_is_asked_again_after_a_second() {
        let gate = Gate::new(Counter::default());
        gate.pass(tokio::time::sleep(Duration::from_millis(300))).await;
        let answered = monotonic_now();
        gate.pass(async {}).await;
        let pause = monotonic_now() - answered;
        assert!(pause >= Duration::from_millis(900) && pause < Duration::from_secs(20), "{pause:?}");
    }

    #[tokio::test]
    async fn the_time_of_an_answer_is_that_of_the_driver_if_the_driver_counts_it() {
        let gate = Gate::new(Counter::default());
        gate.pass(async {
            gate.seconds.inc_by(0.000_1);
            tokio::time::sleep(Duration::from_millis(20)).await;
        })
        .await;
        let answered = monotonic_now();
        gate.pass(async {}).await;
        let pause = monotonic_now() - answered;
        assert!(pause >= Duration::from_millis(9) && pause < Duration::from_secs(2), "{pause:?}");
    }
}
