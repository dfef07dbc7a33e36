//! The ConnectionAdapter: takes the gateway's calls and passes them to the connections.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tracing::{debug, warn};

use super::answer::AdapterAnswer;
use super::context::ExProtoContext;
use super::registry::ConnectionCall;
use crate::bus::RoutedMessage;
use crate::exproto::v1::connection_adapter_server::{ConnectionAdapter, ConnectionAdapterServer};
use crate::exproto::v1::{
    AuthenticateRequest, CloseSocketRequest, CodeResponse, PublishRequest, RawPublishRequest, SendBytesRequest,
    SubscribeRequest, TimerRequest, TimerType, UnsubscribeRequest,
};
use crate::rules::DeviceCredentials;
use crate::tasks::Tasks;

/// EMQX takes 5 MiB in one call and more.
const MAX_REQUEST: usize = 64 * 1024 * 1024;
/// Limits the time in which a connection has to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Limits the time in which the connections of a stopped adapter have to end.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// The highest QoS of MQTT.
const MAX_QOS: u32 = 2;

/// Serves until the tasks are cancelled; calls under way are answered still.
pub(super) fn serve(listener: TcpListener, context: Arc<ExProtoContext>, tasks: &Tasks) {
    let cancelled = tasks.cancelled();
    let adapter = EmbeddedAdapter { context, stopped: tasks.clone() };
    let service = ConnectionAdapterServer::new(adapter).max_decoding_message_size(MAX_REQUEST);
    let server = Server::builder()
        // The gateway gives up calls at its deadlines: that must not look like an attack.
        .http2_max_pending_accept_reset_streams(Some(1_000_000))
        .http2_max_local_error_reset_streams(None)
        .tcp_nodelay(true)
        .add_service(service)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), cancelled);
    let stopped = tasks.cancelled();
    tasks.spawn_uncancelled(async move {
        tokio::select! {
            ended = server => if let Err(error) = ended {
                warn!(%error, "the adapter has ended");
            },
            () = async { stopped.await; sleep(STOP_GRACE).await } => debug!("a connection to the adapter does not end"),
        }
    });
}

struct EmbeddedAdapter {
    context: Arc<ExProtoContext>,
    stopped: Tasks,
}

impl EmbeddedAdapter {
    async fn ask(&self, conn: &str, call: ConnectionCall) -> Result<Response<CodeResponse>, Status> {
        Ok(Response::new(self.answer(conn, call).await.into()))
    }

    async fn answer(&self, conn: &str, call: ConnectionCall) -> AdapterAnswer {
        let connection = match self.context.registry.connection(conn) {
            Ok(connection) => connection,
            Err(answer) => return answer,
        };
        // A connection that ends before it answers has crashed, or the gateway is being stopped.
        match timeout(ANSWER_TIMEOUT, connection.call(call)).await {
            Ok(answer) => answer.unwrap_or(AdapterAnswer::NotAlive),
            Err(_) => AdapterAnswer::Crashed,
        }
    }

    async fn delay(&self) {
        let delay = self.context.rules.delay();
        if !delay.is_zero() {
            tokio::select! {
                () = sleep(delay) => {}
                () = self.stopped.cancelled() => {}
            }
        }
    }
}

#[tonic::async_trait]
impl ConnectionAdapter for EmbeddedAdapter {
    async fn send(&self, request: Request<SendBytesRequest>) -> Result<Response<CodeResponse>, Status> {
        self.delay().await;
        let SendBytesRequest { conn, bytes } = request.into_inner();
        self.ask(&conn, ConnectionCall::Send(bytes.into())).await
    }

    async fn close(&self, request: Request<CloseSocketRequest>) -> Result<Response<CodeResponse>, Status> {
        self.delay().await;
        self.ask(&request.into_inner().conn, ConnectionCall::Close).await
    }

    /// Authenticates a client. Without the clientinfo the call crashes, as in EMQX; all of its fields may be empty.
    async fn authenticate(&self, request: Request<AuthenticateRequest>) -> Result<Response<CodeResponse>, Status> {
        self.delay().await;
        let AuthenticateRequest { conn, clientinfo, password } = request.into_inner();
        let Some(info) = clientinfo else { return Err(crash()) };
        let credentials = DeviceCredentials { clientid: info.clientid, username: info.username, password };
        self.ask(&conn, ConnectionCall::Authenticate(credentials)).await
    }

    async fn start_timer(&self, request: Request<TimerRequest>) -> Result<Response<CodeResponse>, Status> {
        self.delay().await;
        let TimerRequest { conn, r#type, interval } = request.into_inner();
        if interval == 0 || r#type != i32::from(TimerType::Keepalive) {
            return reply(AdapterAnswer::BadParameter);
        }
        self.ask(&conn, ConnectionCall::StartTimer(interval)).await
    }

    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<CodeResponse>, Status> {
        self.delay().await;
        let PublishRequest { conn, topic, qos, payload } = request.into_inner();
        let Some(qos) = quality(qos) else { return reply(AdapterAnswer::BadParameter) };
        self.ask(&conn, ConnectionCall::Publish { topic, qos, payload: payload.into() }).await
    }

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<CodeResponse>, Status> {
        self.delay().await;
        let SubscribeRequest { conn, topic, qos } = request.into_inner();
        let Some(qos) = quality(qos) else { return reply(AdapterAnswer::BadParameter) };
        self.ask(&conn, ConnectionCall::Subscribe { filter: topic, qos }).await
    }

    async fn unsubscribe(&self, request: Request<UnsubscribeRequest>) -> Result<Response<CodeResponse>, Status> {
        self.delay().await;
        let UnsubscribeRequest { conn, topic } = request.into_inner();
        self.ask(&conn, ConnectionCall::Unsubscribe { filter: topic }).await
    }

    /// Needs no connection and no permission; the publisher is `exproto`.
    async fn raw_publish(&self, request: Request<RawPublishRequest>) -> Result<Response<CodeResponse>, Status> {
        self.delay().await;
        let RawPublishRequest { topic, qos, payload } = request.into_inner();
        let qos = quality(qos).ok_or_else(crash)?;
        self.context.bus.publish(RoutedMessage::new("exproto", topic, qos, Bytes::from(payload)));
        reply(AdapterAnswer::Success)
    }
}

fn quality(qos: u32) -> Option<u8> {
    u8::try_from(qos).ok().filter(|_| qos <= MAX_QOS)
}

fn crash() -> Status {
    Status::internal("RPC Execution Crashed")
}

fn reply(answer: AdapterAnswer) -> Result<Response<CodeResponse>, Status> {
    Ok(Response::new(answer.into()))
}
