//! Accepts and serves connections, over TCP with or without TLS and over the socket. Their number, their heads and
//! their bodies are bounded.
//!
//! When all connections are in use a new one takes the place of the oldest that has not authenticated, so that nobody
//! without a token keeps others out.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Display;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, ETAG, HeaderName};
use axum::response::{IntoResponse, Response};
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use openssl::ssl::{Ssl, SslAcceptor};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_openssl::SslStream;
use tower_service::Service;
use tracing::debug;

use super::problem;
use crate::console::access::guard::{ConsolePeer, most_bytes};
use crate::console::events::ConnectionCut;
use crate::console::{ConsoleError, ConsoleServer, api};

/// Maximum number of open connections.
const CONNECTIONS: usize = 64;
/// Number of connections that a token keeps when all are in use.
const TOKEN_SHARE: usize = CONNECTIONS / 4;
/// Time in which a client completes its TLS handshake and the head of a request. An idle connection is closed after it.
const HEAD: Duration = Duration::from_secs(10);
/// Maximum duration of one request.
const REQUEST: Duration = Duration::from_secs(90);
/// Maximum time that the end of the program waits for the answers to open requests.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Maximum size of a request head, in bytes.
const HEAD_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;
/// Pause after an error of the listener, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The page loads nothing from other hosts, and nobody can show it in a frame.
const HEADERS_OF_ALL: [(&str, &str); 5] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// Serves the connections of all listeners. Clones share the bound.
#[derive(Clone)]
pub(crate) struct ConsoleListeners {
    server: Arc<ConsoleServer>,
    router: axum::Router,
    connections: Arc<Mutex<ConsoleConnections>>,
}

struct ConsoleConnections {
    /// The oldest first.
    open: VecDeque<ConsoleConnection>,
    /// Ends the connections; `None` once they end.
    ending: Option<GracefulShutdown>,
}

struct ConsoleConnection {
    task: AbortHandle,
    user: ConnectionUser,
}

/// The name of the access of the first request that had a valid token; of a process, if it came by the socket.
type ConnectionUser = Arc<OnceLock<String>>;

/// A bound socket of the file system.
pub(crate) struct ConsoleSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a socket, which is removed when it is dropped.
pub(crate) struct SocketFile(PathBuf);

impl ConsoleSocket {
    /// Binds the socket with these permissions. A socket that a crashed program left is replaced.
    pub(in crate::console) fn bind(file: &Path, mode: u32) -> Result<Self, ConsoleError> {
        let failed = |error| ConsoleError::Socket { file: file.to_owned(), error };
        if let Err(error) = StdUnixStream::connect(file)
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            fs::remove_file(file).map_err(failed)?;
        }
        let listener = UnixListener::bind(file).map_err(failed)?;
        let file = SocketFile(file.to_owned());
        fs::set_permissions(&file.0, Permissions::from_mode(mode)).map_err(failed)?;
        Ok(Self { listener, file })
    }

    pub(crate) fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            debug!(%error, "the socket of the console was not removed");
        }
    }
}

impl ConsoleConnections {
    /// Takes the connection that makes room for another one: the oldest without a token, or the oldest of the token
    /// that has the most, if that is more than its share.
    fn take_victim(&mut self) -> Option<ConsoleConnection> {
        let silent = self.open.iter().position(|open| open.user.get().is_none());
        let at = silent.or_else(|| {
            let users = || self.open.iter().map(|open| open.user.get());
            let of = |user: Option<&String>| users().filter(|other| *other == user).count();
            let user = users().max_by_key(|user| of(*user))?;
            if of(user) > TOKEN_SHARE { users().position(|other| other == user) } else { None }
        })?;
        self.open.remove(at)
    }
}

impl ConsoleListeners {
    pub(in crate::console) fn new(server: Arc<ConsoleServer>) -> Self {
        let router = api::router(Arc::clone(&server));
        let connections = ConsoleConnections { open: VecDeque::new(), ending: Some(GracefulShutdown::new()) };
        Self { server, router, connections: Arc::new(Mutex::new(connections)) }
    }

    pub(crate) async fn serve_tcp(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => match stream.local_addr() {
                    Ok(local) => self.add(|this, user, watcher| async move {
                        let peer = ConsolePeer::Tcp { remote, local };
                        match this.server.files.acceptor() {
                            None => this.serve(stream, peer, &user, watcher).await,
                            Some(acceptor) => match accept_tls(&acceptor, stream).await {
                                Ok(stream) => this.serve(stream, peer, &user, watcher).await,
                                Err(error) => this.cut(&error),
                            },
                        }
                    }),
                    Err(error) => self.cut(&error),
                },
                Err(error) => pause_after(&error).await,
            }
        }
    }

    pub(crate) async fn serve_socket(self, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(process) => {
                        let peer = ConsolePeer::Process(process.uid());
                        self.add(|this, user, watcher| async move { this.serve(stream, peer, &user, watcher).await });
                    }
                    Err(error) => self.cut(&error),
                },
                Err(error) => pause_after(&error).await,
            }
        }
    }

    /// Accepts no more connections, and ends those that are open: each when its request is answered, all at the latest
    /// after [`LAST_ANSWERS`].
    pub(in crate::console) async fn end(self) {
        let ending = self.connections.lock().unwrap_or_else(PoisonError::into_inner).ending.take();
        let Some(ending) = ending else { return };
        if timeout(LAST_ANSWERS, ending.shutdown()).await.is_err() {
            self.cut(&"the program ends");
        }
    }

    /// Starts the task of a connection, if there is room for it.
    fn add<F>(&self, connection: impl FnOnce(Self, ConnectionUser, Watcher) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(watcher) = connections.ending.as_ref().map(GracefulShutdown::watcher) else { return };
        connections.open.retain(|open| !open.task.is_finished());
        if connections.open.len() >= CONNECTIONS {
            self.cut(&"all connections are in use");
            let Some(victim) = connections.take_victim() else { return };
            victim.task.abort();
        }
        let user = ConnectionUser::default();
        let task = tokio::spawn(connection(self.clone(), Arc::clone(&user), watcher)).abort_handle();
        connections.open.push_back(ConsoleConnection { task, user });
    }

    async fn serve<'a, S>(&'a self, stream: S, peer: ConsolePeer, user: &'a OnceLock<String>, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let cut = ConnectionCut::default();
        let service = service_fn(|request: Request<Incoming>| {
            let cut = cut.clone();
            async move {
                let path = request.uri().path().to_owned();
                let response = match timeout(REQUEST, self.answer(peer, request, cut, user)).await {
                    Ok(response) => response,
                    Err(_) => problem::ProblemKind::Internal.because("the request took too long").into_response(),
                };
                let response = with_headers(problem::finish(response, &path));
                let counters = &self.server.sources.admin.metrics.console;
                let refused = response.status().is_client_error() || response.status().is_server_error();
                if refused { &counters.requests_refused } else { &counters.requests_answered }.inc();
                Ok::<_, Infallible>(response)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            served = watcher.watch(connection) => {
                if let Err(error) = served {
                    self.cut(&error);
                }
            }
            () = cut.0.notified() => self.cut(&"a client did not read the end of its event stream"),
        }
    }

    async fn answer(
        &self,
        peer: ConsolePeer,
        request: Request<Incoming>,
        cut: ConnectionCut,
        user: &OnceLock<String>,
    ) -> Response {
        let (mut parts, body) = request.into_parts();
        let tokens = self.server.files.tokens();
        match self.server.guard.admit(peer, &parts, &tokens) {
            Err(problem) => return problem.into_response(),
            Ok(None) => {}
            Ok(Some(access)) => {
                user.get_or_init(|| access.name.clone());
                self.server.note_use(&access, &tokens);
                parts.extensions.insert(access);
                parts.extensions.insert(peer);
                parts.extensions.insert(cut);
            }
        }
        let body = Body::new(Limited::new(body, most_bytes(parts.uri.path())));
        let answered = self.router.clone().call(Request::from_parts(parts, body)).await;
        answered.unwrap_or_else(|never| match never {})
    }

    fn cut(&self, error: &impl Display) {
        self.server.sources.admin.metrics.console.connections_aborted.inc();
        debug!(%error, "a console connection was cut");
    }
}

async fn accept_tls(acceptor: &SslAcceptor, stream: TcpStream) -> Result<SslStream<TcpStream>, String> {
    let ssl = Ssl::new(acceptor.context()).map_err(|error| error.to_string())?;
    let mut stream = SslStream::new(ssl, stream).map_err(|error| error.to_string())?;
    let accepted = timeout(HEAD, Pin::new(&mut stream).accept()).await;
    accepted.map_err(|_| "the TLS handshake took too long".to_owned())?.map_err(|error| error.to_string())?;
    Ok(stream)
}

async fn pause_after(error: &io::Error) {
    debug!(%error, "a console connection was not accepted");
    sleep(ACCEPT_PAUSE).await;
}

fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in HEADERS_OF_ALL {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    // What has a tag may be kept, and is asked for again each time.
    let cache = if headers.contains_key(ETAG) { "private, no-cache" } else { "no-store" };
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}
