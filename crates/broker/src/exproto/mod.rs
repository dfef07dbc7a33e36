//! The gateway ExProto as EMQX has it: a TCP listener for the devices, the ConnectionAdapter, and calls to one
//! ConnectionUnaryHandler. It can be stopped and started again, as by `emqx ctl gateway stop|start exproto`.

mod adapter;
mod answer;
mod calls;
mod connection;
mod context;
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

use self::connection::DeviceConnection;
use self::context::ExProtoContext;
use self::handler::HandlerChannels;
use self::registry::{ConnectionCall, ConnectionRegistry};
use self::secure::TlsAcceptor;
use super::bus::Bus;
use super::config::{BrokerConfig, SslListener};
use super::reserved::Reserved;
use super::rules::Rules;
use super::tasks::{Tasks, TasksEnded};
use crate::exproto::v1::SocketType;

/// Device connections at a time; more are closed at once (EMQX: `max_connections` of the listener).
const MAX_CONNECTIONS: usize = 20_000;
/// After `accept` failed, as it does when there are no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct ExProtoGateway {
    listener: Reserved,
    /// The one for TLS.
    secure: Option<(Reserved, TlsAcceptor)>,
    adapter: Reserved,
    config: BrokerConfig,
    bus: Arc<Bus>,
    rules: Arc<Rules>,
    tasks: Tasks,
    run: Mutex<Option<RunningExProto>>,
}

/// State between a start and the next stop.
struct RunningExProto {
    context: Arc<ExProtoContext>,
    tasks: Tasks,
    ended: TasksEnded,
}

impl ExProtoGateway {
    pub(super) async fn start(
        config: &BrokerConfig,
        bus: Arc<Bus>,
        rules: Arc<Rules>,
        tasks: Tasks,
    ) -> anyhow::Result<Self> {
        let secure = |ssl: &SslListener| anyhow::Ok((Reserved::new(ssl.bind)?, TlsAcceptor::new(ssl)?));
        let exproto = Self {
            listener: Reserved::new(config.listener)?,
            secure: config.ssl.as_ref().map(secure).transpose()?,
            adapter: Reserved::new(config.adapter)?,
            config: config.clone(),
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

    /// Starts the gateway again. The handler is not called, and the old connections are unknown.
    pub(super) async fn resume(&self) -> anyhow::Result<()> {
        if self.context().is_some() {
            return Ok(());
        }
        let devices = self.listener.listen()?;
        let secure =
            |(listener, acceptor): &(Reserved, TlsAcceptor)| anyhow::Ok((listener.listen()?, acceptor.clone()));
        let secure = self.secure.as_ref().map(secure).transpose()?;
        let calls = self.adapter.listen()?;
        let context = Arc::new(ExProtoContext {
            bus: self.bus.clone(),
            rules: self.rules.clone(),
            registry: ConnectionRegistry::default(),
            handler: HandlerChannels::new(&self.config.handler)?,
            idle_timeout: self.config.idle_timeout,
        });
        let (tasks, ended) = self.tasks.child();
        tasks.spawn(accept(devices, None, context.clone(), tasks.clone()));
        if let Some((devices, acceptor)) = secure {
            tasks.spawn(accept(devices, Some(acceptor), context.clone(), tasks.clone()));
        }
        adapter::serve(calls, context.clone(), &tasks);
        *self.run.lock().expect(UNPOISONED) = Some(RunningExProto { context, tasks, ended });
        Ok(())
    }

    /// Closes the listener, the adapter and all connections without OnSocketClosed.
    pub(super) async fn stop(&self) {
        let run = self.run.lock().expect(UNPOISONED).take();
        if let Some(RunningExProto { context, tasks, ended }) = run {
            tasks.cancel();
            drop((context, tasks));
            ended.wait().await;
        }
    }

    pub(super) async fn kick(&self, clientid: &str) -> bool {
        let Some(context) = self.context() else { return false };
        let Some(client) = context.registry.client(clientid) else { return false };
        client.call(ConnectionCall::Kick).await.is_some()
    }

    pub(super) fn clients(&self) -> Vec<String> {
        self.context().map(|context| context.registry.clients()).unwrap_or_default()
    }

    pub(super) fn subscriptions(&self, clientid: &str) -> Vec<String> {
        self.context().and_then(|context| context.registry.subscriptions(clientid)).unwrap_or_default()
    }

    fn context(&self) -> Option<Arc<ExProtoContext>> {
        self.run.lock().expect(UNPOISONED).as_ref().map(|run| run.context.clone())
    }
}

const UNPOISONED: &str = "nobody panics while holding the run";

/// Accepts connections; over plain TCP without an acceptor.
async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, context: Arc<ExProtoContext>, tasks: Tasks) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) if context.registry.len() < MAX_CONNECTIONS => match &acceptor {
                None => tasks.spawn(serve(socket, peer, context.clone())),
                Some(acceptor) => tasks.spawn(serve_secure(acceptor.clone(), socket, peer, context.clone())),
            },
            Ok((_, peer)) => warn!(%peer, "too many connections"),
            Err(error) => {
                warn!(%error, "cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(socket: TcpStream, peer: SocketAddr, context: Arc<ExProtoContext>) {
    match DeviceConnection::new(&socket, SocketType::Tcp, peer, &context) {
        Ok(connection) => connection.serve(socket).await,
        Err(error) => warn!(%peer, %error, "a device was gone before it could be served"),
    }
}

/// Serves a TLS connection, which begins after the handshake.
async fn serve_secure(acceptor: TlsAcceptor, socket: TcpStream, peer: SocketAddr, context: Arc<ExProtoContext>) {
    let Some(socket) = acceptor.accept(socket, peer).await else { return };
    match DeviceConnection::new(socket.get_ref(), SocketType::Ssl, peer, &context) {
        Ok(connection) => connection.serve(socket).await,
        Err(error) => warn!(%peer, %error, "a device was gone before it could be served"),
    }
}
