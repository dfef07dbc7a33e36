//! Threads with a runtime of their own.
//!
//! - The driver, the devices' sockets and the connections to the broker share one: whatever passes between them wakes
//!   no other thread, and what is ready at one time is handled together.
//! - The console has another one of low priority, so that people who look on take no processor time from devices.

use std::io;
use std::thread;

use rustix::process::{getpriority_process, setpriority_process};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tracing::warn;

/// The niceness of a thread of low priority (setpriority(2)): on a busy processor it has a tenth of the time of a
/// thread of normal priority.
const LOW: i32 = 10;

/// The share of the processor that a thread gets beside others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    Normal,
    /// Threads of normal priority precede this one.
    #[cfg_attr(not(feature = "console"), allow(dead_code, reason = "for the console"))]
    Low,
}

/// A runtime with a single thread of its own, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct RuntimeThread {
    runtime: Handle,
    _end: oneshot::Sender<()>,
}

impl RuntimeThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread or no file descriptor left.
    pub(crate) fn start(name: &str, priority: Priority) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            priority.take();
            // Only the end of the sender completes the future: nothing is ever sent.
            drop(runtime.block_on(ended));
        })?;
        Ok(Self { runtime: handle, _end: end })
    }

    /// Returns where tasks are spawned and sockets are registered that belong to the thread.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Priority {
    /// Gives the calling thread this priority. On Linux, niceness belongs to a thread.
    fn take(self) {
        match self {
            Self::Normal => {}
            Self::Low => {
                // A program that was started with a larger niceness keeps it.
                let lowered = getpriority_process(None).and_then(|own| setpriority_process(None, own.max(LOW)));
                if let Err(error) = lowered {
                    warn!(%error, "a thread runs with normal priority instead of a low one");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_run_on_a_thread_of_the_name_and_the_priority_and_no_other_thread_has_that_priority() {
        let before = getpriority_process(None).expect("a priority");
        let [normal, low] = [Priority::Normal, Priority::Low]
            .map(|priority| RuntimeThread::start("of-a-test", priority).expect("a thread"));
        let look = async || (thread::current().name().map(str::to_owned), getpriority_process(None));
        let name = Some("of-a-test".to_owned());
        assert_eq!(normal.runtime().spawn(look()).await.expect("no panic"), (name.clone(), Ok(before)));
        assert_eq!(low.runtime().spawn(look()).await.expect("no panic"), (name, Ok(LOW.max(before))));
        assert_eq!(getpriority_process(None), Ok(before));
    }
}
