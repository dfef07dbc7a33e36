//! An HTTP/2 connection to the ConnectionAdapter, and the unary calls of gRPC on it.
//!
//! The client that tonic generates passes each request and each answer through queues between several tasks, and copies
//! futures of kilobytes. Here a call writes to its stream itself, and one task moves the frames of all streams between
//! their buffers and the socket: calls that begin at one time leave in one packet.

use std::error::Error;
use std::fmt;
use std::future::{pending, poll_fn};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, RecvStream};
use hyper::http::header::{CONTENT_TYPE, HeaderValue, TE};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::http::{Method, Request, Response, StatusCode, Uri, Version};
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};
use tracing::debug;

/// Closes a connection that does not answer pings, with its calls.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// The port of a URI without one.
const HTTP: u16 = 80;
/// The number of bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// Limits the bytes of an answer, which is a code and a short text.
const LARGEST_ANSWER: usize = 1024 * 1024;

/// A connection that is opened when there is something to call, and again after a failure.
#[derive(Clone, Debug)]
pub(crate) struct AdapterConnection(Arc<ConnectionSettings>);

#[derive(Debug)]
struct ConnectionSettings {
    authority: Authority,
    connect_timeout: Duration,
    /// The newest attempt to connect, with its result.
    attempt: Mutex<Attempt>,
}

/// Calls that begin while the connection is being opened share its result.
type Attempt = Arc<OnceCell<Result<OpenAdapterConnection, AdapterConnectError>>>;

#[derive(Clone, Debug)]
struct OpenAdapterConnection {
    requests: SendRequest<Bytes>,
    /// Tells that the connection accepts no more calls.
    ended: Arc<AtomicBool>,
}

/// Says why there is no connection. All calls that waited for it get the reason.
#[derive(Clone, Debug)]
struct AdapterConnectError(Arc<dyn Error + Send + Sync>);

impl AdapterConnection {
    /// Takes the authority of an `http` URI. Opens nothing yet.
    pub(crate) fn lazy(authority: Authority, connect_timeout: Duration) -> Self {
        Self(Arc::new(ConnectionSettings { authority, connect_timeout, attempt: Mutex::default() }))
    }

    /// Makes a unary call, of a message with its prefix (see [`prefixed`]), and returns the answer.
    ///
    /// # Errors
    /// The status of the server, or one with a source if the call did not reach it or the connection ended.
    pub(super) async fn call<Answer: Message + Default>(
        self,
        method: &'static str,
        message: Bytes,
    ) -> Result<Answer, Status> {
        let answer = match self.begin(method, message.clone()).await? {
            Ok(answer) => answer,
            // Nothing was sent: the server has begun to close that connection.
            Err(_) => self.begin(method, message).await?.map_err(unreachable)?,
        };
        read(answer.await.map_err(unreachable)?).await
    }

    /// Sends a request on the newest connection. The inner error says that this connection takes no more requests; the
    /// calls on it go on.
    async fn begin(&self, method: &'static str, message: Bytes) -> Result<Result<ResponseFuture, h2::Error>, Status> {
        let attempt = self.0.attempt();
        let OpenAdapterConnection { requests, ended } =
            attempt.get_or_init(|| self.0.connect()).await.clone().map_err(unreachable)?;
        let begun = send(requests, self.0.request(method), message).await;
        if begun.is_err() {
            ended.store(true, Ordering::Relaxed);
        }
        Ok(begun)
    }
}

/// Encodes a message behind its prefix, which says that it is not compressed.
pub(super) fn prefixed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("a publication is smaller than 4 GiB"));
    message.encode_raw(&mut bytes);
    bytes.freeze()
}

impl ConnectionSettings {
    /// Returns the attempt that this call waits for: the newest, unless it has failed or its connection has ended.
    fn attempt(&self) -> Attempt {
        let mut attempt = self.attempt.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = match attempt.get() {
            None => false,
            Some(Ok(connection)) => connection.ended.load(Ordering::Relaxed),
            Some(Err(_)) => true,
        };
        if is_over {
            *attempt = Attempt::default();
        }
        Arc::clone(&attempt)
    }

    async fn connect(&self) -> Result<OpenAdapterConnection, AdapterConnectError> {
        let failed = |error: Box<dyn Error + Send + Sync>| AdapterConnectError(error.into());
        let connecting = timeout(self.connect_timeout, self.handshake()).await;
        let (requests, mut connection) = match connecting {
            Ok(connected) => connected.map_err(failed)?,
            Err(_) => return Err(failed(io::Error::from(io::ErrorKind::TimedOut).into())),
        };
        let pings = connection.ping_pong();
        let ended = Arc::new(AtomicBool::new(false));
        let open = OpenAdapterConnection { requests, ended: Arc::clone(&ended) };
        tokio::spawn(async move {
            tokio::select! {
                biased;
                result = connection => debug!(?result, "connection to the adapter ended"),
                () = unanswered(pings) => debug!("connection to the adapter closed: no answer to a ping"),
            }
            ended.store(true, Ordering::Relaxed);
        });
        Ok(open)
    }

    async fn handshake(
        &self,
    ) -> Result<(SendRequest<Bytes>, client::Connection<TcpStream, Bytes>), Box<dyn Error + Send + Sync>> {
        let host = self.authority.host().trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, self.authority.port_u16().unwrap_or(HTTP))).await?;
        stream.set_nodelay(true)?;
        // Each answer is a small DATA frame. Thousands may arrive before the calls read them, when many devices are
        // connected at once: that is no attack. What is not read is bounded by the window of the connection.
        let mut builder = client::Builder::new();
        builder.enable_push(false).data_frame_budget(usize::MAX);
        Ok(builder.handshake(stream).await?)
    }

    fn request(&self, method: &'static str) -> Request<()> {
        let mut parts = hyper::http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(PathAndQuery::from_static(method));
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_parts(parts).expect("a URI with all its parts");
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        request
    }
}

/// Sends the request, and returns the answer that is to come.
async fn send(requests: SendRequest<Bytes>, request: Request<()>, message: Bytes) -> Result<ResponseFuture, h2::Error> {
    // Waits while the server allows no more streams.
    let mut requests = requests.ready().await?;
    let (answer, mut stream) = requests.send_request(request, false)?;
    stream.send_data(message, true)?;
    Ok(answer)
}

/// Reads the message of an answer, and its status, which comes at its end, or at once if there is no message.
async fn read<Answer: Message + Default>(answer: Response<RecvStream>) -> Result<Answer, Status> {
    let (head, mut stream) = answer.into_parts();
    let status = Status::from_header_map(&head.headers);
    if let Some(status) = status.filter(|status| status.code() != Code::Ok) {
        return Err(status);
    }
    if head.status != StatusCode::OK {
        return Err(status_of_http(head.status));
    }
    let mut message = Bytes::new();
    while let Some(data) = stream.data().await {
        let data = data.map_err(unreachable)?;
        stream.flow_control().release_capacity(data.len()).map_err(unreachable)?;
        if message.len() + data.len() > LARGEST_ANSWER {
            return Err(Status::out_of_range("an answer of more than a mebibyte"));
        }
        message = if message.is_empty() { data } else { Bytes::from([message, data].concat()) };
    }
    let trailers = poll_fn(|context| stream.poll_trailers(context)).await.map_err(unreachable)?;
    if let Some(trailers) = trailers {
        match Status::from_header_map(&trailers) {
            Some(status) if status.code() != Code::Ok => return Err(status),
            Some(_) | None => {}
        }
    }
    decode(&message)
}

/// Decodes the message behind its prefix.
fn decode<Answer: Message + Default>(bytes: &[u8]) -> Result<Answer, Status> {
    let message = match bytes {
        [0, a, b, c, d, message @ ..] if message.len() == u32::from_be_bytes([*a, *b, *c, *d]) as usize => message,
        _ => return Err(Status::internal("the answer is not an uncompressed message")),
    };
    Answer::decode(message).map_err(|error| Status::internal(format!("an answer that is malformed: {error}")))
}

/// Maps a status of HTTP to one of gRPC as its specification does (http-grpc-status-mapping).
fn status_of_http(status: StatusCode) -> Status {
    let text = format!("HTTP status {status}");
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Status::unavailable(text),
        StatusCode::NOT_FOUND => Status::unimplemented(text),
        _ => Status::unknown(text),
    }
}

/// Returns the status of a call that did not reach the server, or whose answer was lost.
fn unreachable(error: impl Error + Send + Sync + 'static) -> Status {
    let mut status = Status::unavailable(error.to_string());
    status.set_source(Arc::new(error));
    status
}

/// Returns when the server has left a ping without an answer.
async fn unanswered(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return pending().await };
    loop {
        sleep(PING_INTERVAL).await;
        if !matches!(timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

impl fmt::Display for AdapterConnectError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Error for AdapterConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use crate::upstream::exproto::v1;

    use super::*;

    const METHOD: &str = "/emqx.exproto.v1.ConnectionAdapter/Publish";

    /// A server that takes HTTP/2 connections and answers each request with this status of gRPC, one connection after
    /// the other, each for so many requests.
    async fn server(requests_per_connection: usize, status: &'static str) -> Authority {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut connection = h2::server::handshake(stream).await.expect("a handshake");
                for _ in 0..requests_per_connection {
                    let Some(Ok((request, answer))) = connection.accept().await else { break };
                    assert_eq!(request.uri().path(), METHOD);
                    respond(answer, status);
                }
                connection.graceful_shutdown();
                while connection.accept().await.is_some() {}
            }
        });
        address.to_string().parse().expect("an authority")
    }

    /// A server that answers when it has this number of requests, all at once.
    async fn patient_server(requests: usize) -> Authority {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut connection = h2::server::handshake(stream).await.expect("a handshake");
            let mut waiting = Vec::new();
            while let Some(Ok((_, answer))) = connection.accept().await {
                waiting.push(answer);
                if waiting.len() == requests {
                    waiting.drain(..).for_each(|answer| respond(answer, "0"));
                }
            }
        });
        address.to_string().parse().expect("an authority")
    }

    fn respond(mut answer: h2::server::SendResponse<Bytes>, status: &'static str) {
        let mut body = answer.send_response(Response::new(()), false).expect("an open stream");
        let message = v1::CodeResponse { code: 5, message: "no".to_owned() };
        body.send_data(prefixed(&message), false).expect("an open stream");
        let mut trailers = hyper::http::HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        body.send_trailers(trailers).expect("an open stream");
    }

    async fn call(connection: &AdapterConnection) -> Result<v1::CodeResponse, Status> {
        let request = v1::PublishRequest { topic: "t".to_owned(), ..Default::default() };
        connection.clone().call(METHOD, prefixed(&request)).await
    }

    #[tokio::test]
    async fn a_call_returns_the_message_of_the_answer() {
        let connection = AdapterConnection::lazy(server(2, "0").await, PING_TIMEOUT);
        for _ in 0..2 {
            let answer = call(&connection).await.expect("an answer");
            assert_eq!((answer.code, answer.message.as_str()), (5, "no"));
        }
    }

    #[tokio::test]
    async fn answers_to_many_calls_may_come_at_once() {
        const CALLS: usize = 1_000;
        let connection = AdapterConnection::lazy(patient_server(CALLS).await, PING_TIMEOUT);
        let calls: Vec<_> = (0..CALLS)
            .map(|_| {
                let connection = connection.clone();
                tokio::spawn(async move { call(&connection).await })
            })
            .collect();
        for answered in calls {
            assert_eq!(answered.await.expect("no panic").expect("an answer").code, 5);
        }
    }

    #[tokio::test]
    async fn a_failure_in_the_trailers_is_a_status_of_the_server() {
        let connection = AdapterConnection::lazy(server(1, "13").await, PING_TIMEOUT);
        let status = call(&connection).await.expect_err("a failure");
        assert_eq!(status.code(), Code::Internal);
        assert!(status.source().is_none(), "{status:?}");
    }

    #[tokio::test]
    async fn a_connection_that_the_server_closed_is_opened_again() {
        let connection = AdapterConnection::lazy(server(1, "0").await, PING_TIMEOUT);
        let mut answered = 0;
        while answered < 3 {
            // A call may meet the connection while it is being closed.
            match call(&connection).await {
                Ok(_) => answered += 1,
                Err(status) => assert!(status.source().is_some(), "{status:?}"),
            }
        }
    }

    #[tokio::test]
    async fn calls_without_a_server_fail_with_the_reason_each_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let authority = address.to_string().parse().expect("an authority");
        let connection = AdapterConnection::lazy(authority, PING_TIMEOUT);
        for _ in 0..2 {
            let status = call(&connection).await.expect_err("nobody listens");
            assert_eq!(status.code(), Code::Unavailable);
            assert!(status.message().contains("refused"), "{status:?}");
        }
    }

    #[test]
    fn an_answer_that_is_no_message_is_a_failure() {
        let decoded = |bytes: &[u8]| decode::<v1::CodeResponse>(bytes);
        assert!(decoded(&[0, 0, 0, 0, 0]).is_ok());
        for bytes in
            [&[][..], &[0, 0, 0, 0], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 1], &[0, 0, 0, 0, 0, 0], &[0, 0, 0, 0, 1, 8]]
        {
            assert!(decoded(bytes).is_err(), "{bytes:?}");
        }
    }
}
