//! The ConnectionUnaryHandler, which EMQX calls. An event is answered as soon as it is queued, and never with an error:
//! EMQX would close the device's connection.

use std::error::Error;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::mpsc::error::TrySendError;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tracing::{debug, error};

use crate::errors::with_causes;
use crate::upstream::metrics::UpstreamMetrics;

use super::devices::{ExProtoEvent, ExProtoMessage};
use super::routes::EventRoutes;
use super::v1;
use super::v1::connection_unary_handler_server::{ConnectionUnaryHandler, ConnectionUnaryHandlerServer};

/// Limits the size of one call. EMQX puts up to 101 MQTT messages into it, each up to its `max_packet_size` (1 MB
/// unless set).
const LARGEST_CALL: usize = 128 * 1024 * 1024;
/// Limits the calls in progress. EMQX has as many as connections with an event: all of them at once when a node stops.
const CALLS_AT_ONCE: u32 = 1_000_000;
/// Limits the calls that EMQX may give up before they are read. The small default would close the HTTP/2 connection as
/// an attack, with every call on it.
const GIVEN_UP_CALLS: usize = 1_000_000;

/// Serves the handler on the socket, until the task is aborted.
pub(super) async fn serve(listener: TcpListener, routes: EventRoutes, metrics: Arc<UpstreamMetrics>) {
    let handler =
        ConnectionUnaryHandlerServer::new(HandlerService { routes, metrics }).max_decoding_message_size(LARGEST_CALL);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = Server::builder()
        .max_concurrent_streams(CALLS_AT_ONCE)
        .http2_max_pending_accept_reset_streams(Some(GIVEN_UP_CALLS))
        .http2_max_local_error_reset_streams(None)
        .add_service(handler)
        .serve_with_incoming(incoming)
        .await;
    let reason = served.err().map(|error| with_causes(&error.to_string(), error.source()));
    error!(reason, "the ExProto handler has ended");
}

struct HandlerService {
    routes: EventRoutes,
    metrics: Arc<UpstreamMetrics>,
}

type HandlerAnswer = Result<Response<v1::EmptySuccess>, Status>;

#[tonic::async_trait]
impl ConnectionUnaryHandler for HandlerService {
    async fn on_socket_created(&self, _: Request<v1::SocketCreatedRequest>) -> HandlerAnswer {
        self.queue(ExProtoEvent::SocketCreated).await
    }

    async fn on_socket_closed(&self, request: Request<v1::SocketClosedRequest>) -> HandlerAnswer {
        let v1::SocketClosedRequest { conn, reason } = request.into_inner();
        self.queue(ExProtoEvent::SocketClosed { conn, reason }).await
    }

    async fn on_received_bytes(&self, request: Request<v1::ReceivedBytesRequest>) -> HandlerAnswer {
        let v1::ReceivedBytesRequest { conn, bytes } = request.into_inner();
        self.queue(ExProtoEvent::ReceivedBytes { conn, bytes }).await
    }

    async fn on_timer_timeout(&self, _: Request<v1::TimerTimeoutRequest>) -> HandlerAnswer {
        self.queue(ExProtoEvent::TimerTimeout).await
    }

    async fn on_received_messages(&self, request: Request<v1::ReceivedMessagesRequest>) -> HandlerAnswer {
        let v1::ReceivedMessagesRequest { conn, messages } = request.into_inner();
        let messages = messages.into_iter().map(|v1::Message { topic, payload, .. }| ExProtoMessage { topic, payload });
        self.queue(ExProtoEvent::ReceivedMessages { conn, messages: messages.collect() }).await
    }
}

impl HandlerService {
    /// Queues the event. While the queue is full EMQX waits, connection by connection. After the end of the link nobody
    /// takes events.
    async fn queue(&self, event: ExProtoEvent) -> HandlerAnswer {
        let Some((link, event)) = self.routes.route(event) else { return Ok(Response::new(v1::EmptySuccess {})) };
        if let Err(TrySendError::Full(event)) = link.try_send(event) {
            self.metrics.handler_queue_waits.inc();
            if link.send(event).await.is_err() {
                debug!("event dropped: the link has ended");
            }
        }
        Ok(Response::new(v1::EmptySuccess {}))
    }
}
