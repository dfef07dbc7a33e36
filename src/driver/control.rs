//! What the rest of the program asks of the driver. Each request has its turn between two inputs of the event loop, so
//! that an answer proves that devices are served.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::observability::snapshot::DriverSnapshot;
use lwm2m_core::gateway::config::Limits;
use lwm2m_core::lwm2m::model::Model;
use lwm2m_dtls::credentials::PskIdentity;
use lwm2m_dtls::handshake::Acceptor;

/// A driver that takes longer than this is stuck: what it does in one turn takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// Requests that may wait. Whoever finds no room waits, and gives up in time.
const WAITING: usize = 16;

#[derive(Debug)]
pub enum DriverRequest {
    /// To be answered, and nothing else.
    Ping(oneshot::Sender<()>),
    /// How full everything is. It looks at every device, some milliseconds where there are many.
    Snapshot(oneshot::Sender<DriverSnapshot>),
    /// What comes from devices is read by these definitions from now on.
    Model(Arc<Model>),
    /// Handshakes are made with these credentials from now on.
    Acceptor(Acceptor),
    /// The keys of devices may be others now. Those of the `revoked` identities are, or they have none any more; these
    /// `identities` have one in the file.
    Keys { revoked: HashSet<PskIdentity>, identities: HashSet<PskIdentity> },
    /// These bounds hold from now on; what is beyond them already stays.
    Limits(Box<Limits>),
}

/// The other end of the driver; a clone asks the same one.
#[derive(Clone, Debug)]
pub struct Control {
    requests: mpsc::Sender<DriverRequest>,
    patience: Duration,
}

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the driver does not answer")]
pub struct DriverSilent;

/// A control, and where its requests come out.
pub fn control() -> (Control, mpsc::Receiver<DriverRequest>) {
    let (requests, receiver) = mpsc::channel(WAITING);
    (Control { requests, patience: PATIENCE }, receiver)
}

impl Control {
    /// Whether the driver is alive.
    pub async fn ping(&self) -> Result<(), DriverSilent> {
        self.ask(DriverRequest::Ping).await
    }

    pub async fn snapshot(&self) -> Result<DriverSnapshot, DriverSilent> {
        self.ask(DriverRequest::Snapshot).await
    }

    /// Hands a request over that has no answer.
    pub async fn send(&self, request: DriverRequest) -> Result<(), DriverSilent> {
        timeout(self.patience, self.requests.send(request)).await.map_err(|_| DriverSilent)?.map_err(|_| DriverSilent)
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> DriverRequest) -> Result<T, DriverSilent> {
        let (sender, answer) = oneshot::channel();
        let asking = async {
            self.send(request(sender)).await?;
            answer.await.map_err(|_| DriverSilent)
        };
        timeout(self.patience, asking).await.unwrap_or(Err(DriverSilent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_driver_that_does_nothing_is_silent() {
        let (mut control, _requests) = control();
        control.patience = Duration::from_millis(1);
        assert_eq!(control.ping().await, Err(DriverSilent));
        for _ in 1..WAITING {
            assert_eq!(control.snapshot().await, Err(DriverSilent));
        }
        // Now there is no room for one more, and nobody waits for ever.
        assert_eq!(control.ping().await, Err(DriverSilent));
    }

    #[tokio::test]
    async fn a_driver_that_has_ended_is_silent() {
        let (control, requests) = control();
        drop(requests);
        assert_eq!(control.ping().await, Err(DriverSilent));
    }
}
