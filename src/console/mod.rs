//! Serves the console over HTTP: a JSON API about the gateway and its devices, and a page that uses it.
//!
//! 1. `http::listener` accepts connections over TCP, with TLS if there is a certificate, and over a Unix socket.
//! 2. `access::guard` rejects requests that a page of another site makes, and authenticates the others by a token
//!    (`access::tokens`).
//! 3. `api` answers: each resource is a module of its own and is described by the OpenAPI document.
//! 4. Questions about devices go to the driver one by one, and rarely enough that devices do not notice (`gate`).
//! 5. Traces copy the messages of a device, decoded and with their secrets covered (`traces`).
//! 6. Whatever changes something is in the audit log (`access::audit`).
//! 7. Every error is a document of `http::problem` (RFC 9457).
//!
//! All of it runs on a thread of low priority: people who look on take no processor time from devices.
//!
//! The listener is separate from the admin listener, whose metrics and probes are open to whole networks. There is no
//! console unless the configuration names tokens or a socket, or the embedded broker makes it a trial. No cookie is
//! used, so that a browser sends no credentials by itself. No answer contains a key, a password or a token.

pub(crate) mod access;
mod api;
mod campaigns;
mod cluster;
mod commands;
mod devices;
mod emqx;
mod events;
mod failures;
mod files;
mod gate;
mod generated_keys;
pub(crate) mod hide;
mod http;
mod objects;
mod overview;
mod page;
mod time;
mod traces;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tracing::warn;

use crate::admin::AdminSources;
use crate::clock::monotonic_now;
use crate::cluster::status::ClusterHandle;
use crate::driver::traced::{TraceReceiver, trace_queue};
use crate::observability::failures::FailureLog;
use crate::process::runtime_thread::{Priority, RuntimeThread};
use crate::reload::status::ReloadStatus;
use crate::tls::TlsError;
use lwm2m_base::secret::Secret;
use lwm2m_core::lwm2m::model::Model;

use access::audit::AuditLog;
use access::guard::Guard;
use access::token_uses::TokenUses;
use access::tokens::TokensError;
use commands::{CommandRates, GivenCommands, LARGE_BODIES};
use events::polls::Polls;
use events::streams::Streams;
use files::ReloadedFiles;
use gate::Gate;
use hide::HiddenPaths;
use http::listener::{ConsoleListeners, ConsoleSocket, SocketFile};
use overview::history::History;
use traces::hub::TraceHub;

pub(crate) use api::document;

/// Maximum number of large lists that are made at the same time.
const LARGE_LISTS: usize = 2;

/// The configuration of the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleConfig {
    /// Address of the TCP listener, which exists if there is a tokens file.
    pub bind: SocketAddr,
    pub tokens: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    /// Permissions of the socket. A process that may write to it is an operator.
    pub socket_mode: u32,
    /// Certificate with its chain, and its key, as PEM.
    pub certificate: Option<CertificateFiles>,
    /// Host names of the console, besides its address and `localhost`.
    pub hosts: Vec<String>,
    /// A token of an operator that is in no file: the one that `run --embedded` makes for its run.
    pub trial_token: Option<Secret>,
    /// The paths whose values are never shown.
    pub hide: HiddenPaths,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    pub certfile: PathBuf,
    pub keyfile: PathBuf,
}

/// Holds the sources of the answers.
#[derive(Clone, Debug)]
pub(crate) struct ConsoleSources {
    pub admin: AdminSources,
    /// The object definitions in force.
    pub model: watch::Receiver<Arc<Model>>,
    pub failures: Arc<FailureLog>,
    pub reloads: ReloadStatus,
    /// Kind of the connection to the broker: `exproto` or `mqtt`.
    pub upstream: &'static str,
    /// The addresses of the listeners for devices, in the order of their sockets.
    pub sockets: Vec<SocketAddr>,
    /// The cluster; `None` for a gateway by itself.
    pub cluster: Option<ClusterHandle>,
}

/// The console, bound to its addresses.
pub(crate) struct Console {
    tcp: Option<TcpListener>,
    socket: Option<ConsoleSocket>,
    server: Arc<ConsoleServer>,
    traced: TraceReceiver,
}

/// The thread of the running console. It ends, and the socket is removed, when this is dropped.
pub(crate) struct RunningConsole {
    thread: RuntimeThread,
    listeners: ConsoleListeners,
    _socket: Option<SocketFile>,
}

/// Everything that answers a request. All connections share it.
struct ConsoleServer {
    sources: ConsoleSources,
    files: ReloadedFiles,
    guard: Guard,
    gate: Gate,
    token_uses: TokenUses,
    audit: AuditLog,
    hidden: HiddenPaths,
    commands: GivenCommands,
    command_rates: CommandRates,
    /// Limits the number of large bodies that are read at a time.
    large_bodies: Semaphore,
    /// Limits the number of large lists that are made at a time, because they need much memory.
    large_lists: Semaphore,
    traces: TraceHub,
    history: History,
    streams: Arc<Streams>,
    polls: Polls,
    last_event_id: AtomicU64,
    started: Instant,
}

/// Reasons why the console cannot start. They name files and never show their contents.
#[derive(Debug, Error)]
pub(crate) enum ConsoleError {
    #[error("console.bind = {address}: {error}")]
    Bind { address: SocketAddr, error: io::Error },
    #[error("console.socket = {}: {error}", .file.display())]
    Socket { file: PathBuf, error: io::Error },
    #[error("console.tokens = {0}")]
    ApiTokens(#[from] TokensError),
    #[error("console.certfile: {0}")]
    Tls(#[from] TlsError),
}

impl ConsoleConfig {
    /// Returns whether there is a console at all.
    pub fn is_enabled(&self) -> bool {
        self.tokens.is_some() || self.socket.is_some() || self.trial_token.is_some()
    }

    /// Reads the files of the configuration, and returns the number of tokens.
    pub(crate) fn check_files(&self) -> Result<usize, ConsoleError> {
        Ok(ReloadedFiles::read(self)?.tokens().len())
    }
}

impl Console {
    /// Reads the files and binds the addresses; `None` if the configuration names neither tokens nor a socket.
    pub(crate) async fn bind(config: &ConsoleConfig, sources: ConsoleSources) -> Result<Option<Self>, ConsoleError> {
        if !config.is_enabled() {
            return Ok(None);
        }
        let files = ReloadedFiles::read(config)?;
        let tcp = match (&config.tokens, &config.trial_token) {
            (Some(_), _) => Some(bind(config.bind).await?),
            (None, Some(_)) => Some(bind_for_trial(config).await?),
            (None, None) => None,
        };
        let socket = config.socket.as_ref().map(|file| ConsoleSocket::bind(file, config.socket_mode)).transpose()?;
        let guard = Guard::new(config.hosts.clone());
        let metrics = &sources.admin.metrics.console;
        let (copies, traced) = trace_queue(metrics.traced_lost.clone());
        let server = Arc::new(ConsoleServer {
            traces: TraceHub::new(copies, metrics),
            gate: Gate::new(sources.admin.metrics.console.driver_seconds.clone()),
            token_uses: TokenUses::default(),
            audit: AuditLog::default(),
            commands: GivenCommands::new(sources.admin.metrics.console.commands_forgotten.clone()),
            command_rates: CommandRates::default(),
            large_bodies: Semaphore::new(LARGE_BODIES),
            large_lists: Semaphore::new(LARGE_LISTS),
            hidden: config.hide.clone(),
            streams: Streams::new(sources.admin.control.clone(), sources.admin.metrics.console.streams.clone()),
            polls: Polls::default(),
            history: History::default(),
            last_event_id: AtomicU64::default(),
            sources,
            files,
            guard,
            started: monotonic_now(),
        });
        Ok(Some(Self { tcp, socket, server, traced }))
    }

    /// Returns the address of the TCP listener, and whether it uses TLS.
    pub(crate) fn address(&self) -> io::Result<Option<(SocketAddr, bool)>> {
        let address = self.tcp.as_ref().map(TcpListener::local_addr).transpose()?;
        Ok(address.map(|address| (address, self.server.files.acceptor().is_some())))
    }

    /// Serves until the result is dropped, on a thread of low priority.
    ///
    /// # Errors
    /// The system has no thread or no file descriptor left.
    pub(crate) fn start(self) -> io::Result<RunningConsole> {
        let Self { tcp, socket, server, traced } = self;
        let thread = RuntimeThread::start("console", Priority::Low)?;
        let runtime = thread.runtime();
        runtime.spawn(files::watch(Arc::clone(&server)));
        runtime.spawn(traces::hub::run(Arc::clone(&server), traced));
        runtime.spawn(overview::history::record(Arc::clone(&server)));
        let listeners = ConsoleListeners::new(server);
        if let Some(tcp) = tcp {
            runtime.spawn(listeners.clone().serve_tcp(tcp));
        }
        let (listener, file) = socket.map(ConsoleSocket::into_parts).unzip();
        if let Some(listener) = listener {
            runtime.spawn(listeners.clone().serve_socket(listener));
        }
        Ok(RunningConsole { thread, listeners, _socket: file })
    }
}

impl RunningConsole {
    /// Ends the console after the answers to the requests that are open. The event loop has ended: commands have their
    /// answers, and event streams end.
    pub(crate) async fn stop(self) {
        let Self { thread, listeners, .. } = &self;
        if let Err(error) = thread.runtime().spawn(listeners.clone().end()).await {
            warn!(%error, "the console failed at its shutdown");
        }
    }
}

impl ConsoleServer {
    /// Returns the ID of the next event. No two events of the process have the same.
    fn next_event_id(&self) -> u64 {
        self.last_event_id.fetch_add(1, Ordering::Relaxed) + 1
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ConsoleError> {
    TcpListener::bind(address).await.map_err(|error| ConsoleError::Bind { address, error })
}

/// Binds another port if the port is in use. Nobody has set up TLS for a trial: without it other machines have no
/// access.
async fn bind_for_trial(config: &ConsoleConfig) -> Result<TcpListener, ConsoleError> {
    let is_safe = config.bind.ip().is_loopback() || config.certificate.is_some();
    let address = if is_safe { config.bind } else { (Ipv4Addr::LOCALHOST, config.bind.port()).into() };
    match bind(address).await {
        Err(ConsoleError::Bind { error, .. }) if error.kind() == io::ErrorKind::AddrInUse => {
            bind(SocketAddr::new(address.ip(), 0)).await
        }
        bound => bound,
    }
}
