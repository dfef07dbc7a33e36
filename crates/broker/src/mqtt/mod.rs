//! MQTT, versions 3.1.1 and 5 on one port: for applications, and, at a listener of its own that obeys the rules of
//! [`BrokerControl`](super::BrokerControl) and can be stopped, for devices. Sessions outlive their connections for as long as the clients
//! ask for, in memory; shared subscriptions work.

mod codec;
mod devices;
mod session;
mod v311;
mod v5;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::sleep;
use tracing::{debug, warn};

use self::session::{ClientConnection, ListenerContext};
use super::tasks::Tasks;

pub(super) use self::devices::DeviceListener;
pub(super) use self::session::Sessions;

/// After `accept` failed, as it does when there are no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts clients until it is cancelled.
pub(super) async fn serve(listener: TcpListener, context: Arc<ListenerContext>, tasks: Tasks) {
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
pub(super) fn open_context(bus: Arc<super::bus::Bus>) -> Arc<ListenerContext> {
    Arc::new(ListenerContext { bus, sessions: Arc::default(), rules: Arc::default() })
}
