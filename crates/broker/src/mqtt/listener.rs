//! Accepts the clients of a listener, and serves each in a task of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::session::{ClientConnection, ListenerContext};
use crate::bus::Bus;
use crate::tasks::Tasks;

/// After `accept` failed, as it does when there are no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts clients until it is cancelled.
pub(crate) async fn serve(listener: TcpListener, context: Arc<ListenerContext>, tasks: Tasks) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                let session = ClientConnection::new(socket, context.clone());
                let stopped = tasks.cancelled();
                tasks.spawn_uncancelled(async move {
                    if let Err(reason) = session.serve(stopped).await {
                        debug!(%peer, %reason, "an MQTT connection ends");
                    }
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Returns the context of the listener for applications, which accepts and permits everything.
pub(crate) fn open_context(bus: Arc<Bus>) -> Arc<ListenerContext> {
    Arc::new(ListenerContext { bus, sessions: Arc::default(), rules: Arc::default() })
}
