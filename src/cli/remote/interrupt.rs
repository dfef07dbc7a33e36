//! The end of a command that runs until Ctrl-C.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::RemoteError;

/// Keeps Ctrl-C and SIGTERM from ending the process, so that the command can clean up. A signal that comes while nobody
/// waits is not lost.
pub(crate) struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    pub(super) fn new() -> Result<Self, RemoteError> {
        let signals = || io::Result::Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?));
        let (interrupt, terminate) = signals().map_err(RemoteError::Signals)?;
        Ok(Self { interrupt, terminate })
    }

    /// Waits for a signal. Cancel-safe.
    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
