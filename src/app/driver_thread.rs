//! The thread of the driver. The driver, the devices' sockets and the connections to the broker share one runtime with one
//! thread: whatever passes between them wakes no other thread, and what is ready at one time is handled together.

use std::io;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A runtime with a single thread of its own, which ends when this is dropped.
#[derive(Debug)]
pub struct DriverThread {
    runtime: Handle,
    _end: oneshot::Sender<()>,
}

impl DriverThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread or no file descriptor left.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        // Only the end of the sender completes the future: nothing is ever sent.
        thread::Builder::new().name("driver".to_owned()).spawn(move || drop(runtime.block_on(ended)))?;
        Ok(Self { runtime: handle, _end: end })
    }

    /// Returns where tasks are spawned and sockets are registered that belong to the driver.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_of_the_driver_run_on_a_thread_of_its_name() {
        let driver = DriverThread::start().expect("a thread");
        let name = driver.runtime().spawn(async { thread::current().name().map(str::to_owned) });
        assert_eq!(name.await.expect("no panic").as_deref(), Some("driver"));
    }
}
