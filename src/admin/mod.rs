//! Serves metrics and health checks over HTTP.
//!
//! - `GET /metrics`: the page for Prometheus.
//! - `GET /healthz`: 200 as long as the driver serves devices; otherwise the process should be restarted.
//! - `GET /readyz`: 200 as long as no condition is down; each of them with its state, as JSON.
//!
//! It has neither authentication nor TLS, and tells nothing of single devices. Whoever reaches it can hold a few
//! connections for a few seconds, and no more: heads, connections and their time are bounded, and bodies are not read.
//! A new connection is always accepted, and the oldest one goes for it: a probe of an orchestrator has its answer long
//! before others have opened so many connections more.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::clock::monotonic_now;
use crate::conditions::{ConditionState, Conditions};
use crate::driver::control::Control;
use crate::observability::metrics::Metrics;
use crate::observability::page::{self, MetricsPage};
use crate::observability::snapshot::DriverSnapshot;

/// Maximum number of open connections. One more closes the oldest connection whose request head has not arrived, or
/// else the oldest connection.
const CONNECTIONS: usize = 64;
/// A client sends its request head within a second. A connection carries one request and is closed after ten seconds.
const TIMEOUTS: ConnectionTimeouts =
    ConnectionTimeouts { head: Duration::from_secs(1), whole: Duration::from_secs(10) };
/// Maximum size of a request head: the smallest buffer that hyper accepts.
const HEAD_BYTES: usize = 8 * 1024;
const HEADERS: usize = 32;
/// Time for which a snapshot of the driver is reused.
const SNAPSHOT_REUSE: Duration = Duration::from_secs(1);
/// Pause after an error of the listener, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// `None` enables it unless the broker is embedded: several embedded gateways may run on one machine.
    pub enable: Option<bool>,
    pub bind: SocketAddr,
}

/// Holds the sources of the answers: the metrics, the conditions and the driver.
#[derive(Clone, Debug)]
pub(crate) struct AdminSources {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) conditions: Conditions,
    pub(crate) control: Control,
    cached: Arc<Mutex<Option<CachedSnapshot>>>,
}

/// The snapshot that the driver returned last.
#[derive(Debug)]
struct CachedSnapshot {
    asked: Instant,
    /// `None` if the driver did not answer.
    snapshot: Option<DriverSnapshot>,
}

type HttpResponse = Response<Full<Bytes>>;

/// Limits the duration of a connection.
#[derive(Clone, Copy, Debug)]
struct ConnectionTimeouts {
    /// Limits the time until the request head is complete.
    head: Duration,
    whole: Duration,
}

/// Holds the open connections, the oldest first.
#[derive(Debug, Default)]
struct AdminConnections(VecDeque<AdminConnection>);

#[derive(Debug)]
struct AdminConnection {
    task: AbortHandle,
    /// Set when the request head has arrived.
    asked: Arc<AtomicBool>,
}

/// Accepts and serves connections until the task is aborted.
pub(crate) async fn serve(listener: TcpListener, sources: AdminSources) {
    serve_with(TIMEOUTS, listener, sources).await;
}

async fn serve_with(timeouts: ConnectionTimeouts, listener: TcpListener, sources: AdminSources) {
    let mut connections = AdminConnections::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.make_room(&sources);
                let (sources, asked) = (sources.clone(), Arc::new(AtomicBool::new(false)));
                let served = Arc::clone(&asked);
                let task = tokio::spawn(async move { serve_connection(timeouts, stream, &sources, &served).await });
                connections.0.push_back(AdminConnection { task: task.abort_handle(), asked });
            }
            Err(error) => {
                debug!(%error, "an admin connection was not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl AdminConnections {
    /// Closes a connection if the maximum is reached.
    fn make_room(&mut self, sources: &AdminSources) {
        self.0.retain(|open| !open.task.is_finished());
        if self.0.len() < CONNECTIONS {
            return;
        }
        let silent = self.0.iter().position(|open| !open.asked.load(Ordering::Relaxed));
        if let Some(open) = self.0.remove(silent.unwrap_or_default()) {
            open.task.abort();
            sources.cut(&"a newer one took its place");
        }
    }
}

async fn serve_connection(timeouts: ConnectionTimeouts, stream: TcpStream, sources: &AdminSources, asked: &AtomicBool) {
    let service = service_fn(|request| {
        asked.store(true, Ordering::Relaxed);
        async move { Ok::<_, Infallible>(sources.answer(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.head)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(timeouts.whole, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => sources.cut(&error),
        Err(_) => sources.cut(&io::Error::from(io::ErrorKind::TimedOut)),
    }
}

impl AdminSources {
    pub(crate) fn new(metrics: Arc<Metrics>, conditions: Conditions, control: Control) -> Self {
        Self { metrics, conditions, control, cached: Arc::default() }
    }

    async fn answer(&self, request: &Request<Incoming>) -> HttpResponse {
        // hyper omits the body of an answer to HEAD.
        let answer = match (request.method(), request.uri().path()) {
            (&(Method::GET | Method::HEAD), "/metrics") => self.metrics().await,
            (&(Method::GET | Method::HEAD), "/healthz") => self.health().await,
            (&(Method::GET | Method::HEAD), "/readyz") => self.readiness(),
            (&(Method::GET | Method::HEAD), _) => text(StatusCode::NOT_FOUND, "/metrics, /healthz or /readyz\n"),
            (_, _) => not_allowed(),
        };
        let counters = &self.metrics.admin;
        let refused = answer.status().is_client_error();
        if refused { &counters.requests_refused } else { &counters.requests_answered }.inc();
        answer
    }

    async fn metrics(&self) -> HttpResponse {
        let page = MetricsPage { metrics: Arc::clone(&self.metrics), snapshot: self.snapshot().await };
        answer(StatusCode::OK, page::CONTENT_TYPE, page.text())
    }

    /// Returns a snapshot of the driver that is at most [`SNAPSHOT_REUSE`] old.
    pub(crate) async fn snapshot(&self) -> Option<DriverSnapshot> {
        // Requests that come meanwhile wait for the same answer.
        let mut cached = self.cached.lock().await;
        if let Some(CachedSnapshot { asked, snapshot }) = &*cached
            && monotonic_now() - *asked < SNAPSHOT_REUSE
        {
            return snapshot.clone();
        }
        let snapshot = self.control.snapshot().await.ok();
        *cached = Some(CachedSnapshot { asked: monotonic_now(), snapshot: snapshot.clone() });
        snapshot
    }

    async fn health(&self) -> HttpResponse {
        match self.control.ping().await {
            Ok(()) => text(StatusCode::OK, "ok\n"),
            Err(silent) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{silent}\n")),
        }
    }

    fn readiness(&self) -> HttpResponse {
        let statuses = self.conditions.statuses();
        let ready = statuses.values().all(|condition| condition.state != ConditionState::Down);
        let conditions: serde_json::Map<String, Value> = statuses
            .iter()
            .map(|(name, condition)| {
                let entry = json!({ "state": condition.state.name(), "detail": condition.detail });
                ((*name).to_owned(), entry)
            })
            .collect();
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        answer(
            status,
            "application/json",
            format!("{}\n", json!({ "ready": ready, "pid": process::id(), "conditions": conditions })),
        )
    }

    fn cut(&self, error: &impl Display) {
        self.metrics.admin.connections_aborted.inc();
        debug!(%error, "an admin connection was cut");
    }
}

fn not_allowed() -> HttpResponse {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
    answer.headers_mut().insert(ALLOW, "GET, HEAD".parse().expect("a header"));
    answer
}

fn text(status: StatusCode, text: impl Into<String>) -> HttpResponse {
    answer(status, "text/plain; charset=utf-8", text.into())
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> HttpResponse {
    let builder = Response::builder().status(status).header(CONTENT_TYPE, content_type);
    let builder = builder.header(CACHE_CONTROL, "no-store");
    builder.body(Full::new(Bytes::from(body))).expect("the headers are constants")
}

#[cfg(test)]
mod tests;
