//! The tasks of one owner: cancelled together, and waited for.

use std::convert::Infallible;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Starts tasks that end when they are cancelled, at their next `await`.
#[derive(Clone)]
pub(super) struct Tasks {
    cancelled: CancellationToken,
    /// Every task holds a clone.
    alive: mpsc::Sender<Infallible>,
}

/// Tells when the tasks are gone.
pub(super) struct TasksEnded(mpsc::Receiver<Infallible>);

impl Tasks {
    pub(super) fn new() -> Self {
        Self { cancelled: CancellationToken::new(), alive: mpsc::channel(1).0 }
    }

    /// Tasks that are cancelled with these, or before them.
    pub(super) fn child(&self) -> (Self, TasksEnded) {
        let (alive, ended) = mpsc::channel(1);
        (Self { cancelled: self.cancelled.child_token(), alive }, TasksEnded(ended))
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Self { cancelled, alive } = self.clone();
        tokio::spawn(async move {
            cancelled.run_until_cancelled(task).await;
            drop(alive);
        });
    }

    /// Spawns a task that ends by itself when [`Tasks::cancelled`] completes.
    pub(super) fn spawn_uncancelled(&self, task: impl Future<Output = ()> + Send + 'static) {
        let alive = self.alive.clone();
        tokio::spawn(async move {
            task.await;
            drop(alive);
        });
    }

    pub(super) fn cancel(&self) {
        self.cancelled.cancel();
    }

    pub(super) fn cancelled(&self) -> impl Future<Output = ()> + Send + 'static {
        self.cancelled.clone().cancelled_owned()
    }
}

impl TasksEnded {
    /// Returns when the last task has ended and the last [`Tasks`] is dropped.
    pub(super) async fn wait(mut self) {
        let nothing = self.0.recv().await;
        debug_assert!(nothing.is_none());
    }
}
