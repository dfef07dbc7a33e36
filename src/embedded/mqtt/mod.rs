//! MQTT for applications, versions 3.1.1 and 5 on one port. A session ends with its connection; shared subscriptions work;
//! properties of MQTT 5 are not forwarded.

mod codec;
mod session;
mod v311;
mod v5;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::sleep;
use tracing::{debug, warn};

use self::session::{Session, Sessions};
use super::bus::Bus;
use super::tasks::Tasks;

/// After `accept` failed, as it does when there are no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts applications until it is cancelled.
pub(super) async fn serve(listener: TcpListener, bus: Arc<Bus>, tasks: Tasks) {
    let sessions = Arc::new(Sessions::default());
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                let session = Session::new(socket, bus.clone(), sessions.clone());
                tasks.spawn(async move {
                    if let Err(reason) = session.serve().await {
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
