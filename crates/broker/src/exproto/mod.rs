//! The gateway ExProto as EMQX has it: a TCP listener for the devices, the ConnectionAdapter, and calls to one
//! ConnectionUnaryHandler. It can be stopped and started again, as by `emqx ctl gateway stop|start exproto`.

mod adapter;
mod answer;
mod calls;
mod connection;
mod ending;
mod events;
mod handler;
mod registry;
mod secure;
mod timers;
pub(crate) mod v1;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tracing::warn;

use self::connection::Connection;
use self::handler::Handler;
use self::registry::{Call, Registry};
use self::secure::Acceptor;
use super::bus::Bus;
use super::control::Rules;
use super::reserved::Reserved;
use super::tasks::{Ended, Tasks};
use super::{Settings, SslListener};
use crate::exproto::v1::SocketType;

/// Device connections at a time; more are closed at once (EMQX: `max_connections` of the listener).
const MAX_CONNECTIONS: usize = 20_000;
/// After `accept` failed, as it does when there are no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct ExProto {
    listener: Reserved,
    /// The one for TLS.
    secure: Option<(Reserved, Acceptor)>,
    adapter: Reserved,
    settings: Settings,
    bus: Arc<Bus>,
    rules: Arc<Rules>,
    tasks: Tasks,
    run: Mutex<Option<Run>>,
}

/// From a start to the next stop.
struct Run {
    site: Arc<Site>,
    tasks: Tasks,
    ended: Ended,
}

/// What the connections and the adapter of one run share.
struct Site {
    bus: Arc<Bus>,
    rules: Arc<Rules>,
    registry: Registry,
    handler: Handler,
    idle_timeout: Duration,
}

impl ExProto {
    pub(super) async fn start(
        settings: &Settings,
        bus: Arc<Bus>,
        rules: Arc<Rules>,
        tasks: Tasks,
    ) -> anyhow::Result<Self> {
        let secure = |ssl: &SslListener| anyhow::Ok((Reserved::new(ssl.bind)?, Acceptor::new(ssl)?));
        let exproto = Self {
            listener: Reserved::new(settings.listener)?,
            secure: settings.ssl.as_ref().map(secure).transpose()?,
            adapter: Reserved::new(settings.adapter)?,
            settings: settings.clone(),
            bus,
            rules,
            tasks,
            run: Mutex::new(None),
        };
        exproto.resume().await?;
        Ok(exproto)
    }

    pub(super) fn listener(&self) -> SocketAddr {
        self.listener.address
    }

    pub(super) fn secure_listener(&self) -> Option<SocketAddr> {
        self.secure.as_ref().map(|(listener, _)| listener.address)
    }

    pub(super) fn adapter(&self) -> SocketAddr {
        self.adapter.address
    }

    /// Nothing is sent to the handler, and the old connections are known no more.
    pub(super) async fn resume(&self) -> anyhow::Result<()> {
        if self.site().is_some() {
            return Ok(());
        }
        let devices = self.listener.listen()?;
        let secure = |(listener, acceptor): &(Reserved, Acceptor)| anyhow::Ok((listener.listen()?, acceptor.clone()));
        let secure = self.secure.as_ref().map(secure).transpose()?;
        let calls = self.adapter.listen()?;
        let site = Arc::new(Site {
            bus: self.bus.clone(),
            rules: self.rules.clone(),
            registry: Registry::default(),
            handler: Handler::new(&self.settings.handler)?,
            idle_timeout: self.settings.idle_timeout,
        });
        let (tasks, ended) = self.tasks.child();
        tasks.spawn(accept(devices, None, site.clone(), tasks.clone()));
        if let Some((devices, acceptor)) = secure {
            tasks.spawn(accept(devices, Some(acceptor), site.clone(), tasks.clone()));
        }
        adapter::serve(calls, site.clone(), &tasks);
        *self.run.lock().expect(UNPOISONED) = Some(Run { site, tasks, ended });
        Ok(())
    }

    /// Listener, adapter and connections go; no OnSocketClosed for any of them.
    pub(super) async fn stop(&self) {
        let run = self.run.lock().expect(UNPOISONED).take();
        if let Some(Run { site, tasks, ended }) = run {
            tasks.cancel();
            drop((site, tasks));
            ended.wait().await;
        }
    }

    pub(super) async fn kick(&self, clientid: &str) -> bool {
        let Some(site) = self.site() else { return false };
        let Some(client) = site.registry.client(clientid) else { return false };
        client.call(Call::Kick).await.is_some()
    }

    pub(super) fn clients(&self) -> Vec<String> {
        self.site().map(|site| site.registry.clients()).unwrap_or_default()
    }

    pub(super) fn subscriptions(&self, clientid: &str) -> Vec<String> {
        self.site().and_then(|site| site.registry.subscriptions(clientid)).unwrap_or_default()
    }

    fn site(&self) -> Option<Arc<Site>> {
        self.run.lock().expect(UNPOISONED).as_ref().map(|run| run.site.clone())
    }
}

const UNPOISONED: &str = "nobody panics while holding the run";

/// Without an acceptor over plain TCP.
async fn accept(listener: TcpListener, acceptor: Option<Acceptor>, site: Arc<Site>, tasks: Tasks) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) if site.registry.len() < MAX_CONNECTIONS => match &acceptor {
                None => tasks.spawn(serve(socket, peer, site.clone())),
                Some(acceptor) => tasks.spawn(serve_secure(acceptor.clone(), socket, peer, site.clone())),
            },
            Ok((_, peer)) => warn!(%peer, "too many connections"),
            Err(error) => {
                warn!(%error, "cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(socket: TcpStream, peer: SocketAddr, site: Arc<Site>) {
    match Connection::new(&socket, SocketType::Tcp, peer, &site) {
        Ok(connection) => connection.serve(socket).await,
        Err(error) => warn!(%peer, %error, "a device was gone before it could be served"),
    }
}

/// The connection begins after the handshake.
async fn serve_secure(acceptor: Acceptor, socket: TcpStream, peer: SocketAddr, site: Arc<Site>) {
    let Some(socket) = acceptor.accept(socket, peer).await else { return };
    match Connection::new(socket.get_ref(), SocketType::Ssl, peer, &site) {
        Ok(connection) => connection.serve(socket).await,
        Err(error) => warn!(%peer, %error, "a device was gone before it could be served"),
    }
}
