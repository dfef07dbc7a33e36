//! The gateway's side of ExProto, played by a test: a handler that shows every call and answers when it is told to,
//! devices that dial the listener, and applications.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lwm2m_gateway::upstream::exproto::v1::connection_adapter_client::ConnectionAdapterClient;
use lwm2m_gateway::upstream::exproto::v1::connection_unary_handler_server::{
    ConnectionUnaryHandler, ConnectionUnaryHandlerServer,
};
use lwm2m_gateway::upstream::exproto::v1::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

/// Far more than anything here takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A name that no other test has used, on this broker.
pub(super) fn unique(name: &str) -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed))
}

pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("still no {what}"))
}

// -- The handler ------------------------------------------------------------------------------------------------------

#[derive(Debug, Clone, PartialEq)]
pub(super) enum HandlerCall {
    Created { conn: String },
    Bytes { conn: String, bytes: Vec<u8> },
    Messages { conn: String, messages: Vec<Message> },
    Timeout { conn: String },
    Closed { conn: String, reason: String },
}

/// An event whose caller waits.
#[derive(Debug)]
pub(super) struct PendingCall {
    pub event: HandlerCall,
    answer: oneshot::Sender<Result<(), Status>>,
}

impl PendingCall {
    pub(super) fn accept(self) -> HandlerCall {
        self.answer.send(Ok(())).expect("the broker waits for the answer");
        self.event
    }

    pub(super) fn refuse(self, status: Status) {
        self.answer.send(Err(status)).expect("the broker waits for the answer");
    }
}

pub(super) struct TestHandler {
    calls: mpsc::UnboundedReceiver<PendingCall>,
    /// The connections whose creation it was told.
    known: HashSet<String>,
    server: JoinHandle<()>,
}

impl TestHandler {
    pub(super) async fn bind(address: SocketAddr) -> Self {
        let (shown, calls) = mpsc::unbounded_channel();
        let listener = soon("port for the handler", free_port(address)).await;
        let service = ConnectionUnaryHandlerServer::new(Shown(shown)).max_decoding_message_size(64 << 20);
        let serving = Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { serving.await.expect("the handler serves") });
        Self { calls, known: HashSet::new(), server }
    }

    /// EMQX calls the handler of the test before this one until it has found out that it is gone. Meanwhile it closes
    /// each connection.
    pub(super) async fn wait_for_calls(&mut self, listener: &str) {
        let is_called = async {
            loop {
                let _device = dial(listener).await;
                while let Ok(Some(call)) = timeout(Duration::from_millis(500), self.calls.recv()).await {
                    if let HandlerCall::Created { .. } = call.accept() {
                        return;
                    }
                }
            }
        };
        soon("call of the handler", is_called).await;
    }

    /// Passes over the end of this connection.
    pub(super) fn forget(&mut self, conn: &str) {
        self.known.remove(conn);
    }

    pub(super) async fn next(&mut self) -> PendingCall {
        loop {
            let call = soon("event", self.calls.recv()).await.expect("the handler serves");
            if let Some(call) = self.of_this_test(call) {
                return call;
            }
        }
    }

    /// EMQX may tell late that a connection of an earlier test was closed.
    fn of_this_test(&mut self, call: PendingCall) -> Option<PendingCall> {
        match &call.event {
            HandlerCall::Created { conn } => {
                self.known.insert(conn.clone());
            }
            HandlerCall::Closed { conn, .. } if !self.known.contains(conn) => {
                call.accept();
                return None;
            }
            HandlerCall::Closed { .. }
            | HandlerCall::Bytes { .. }
            | HandlerCall::Messages { .. }
            | HandlerCall::Timeout { .. } => {}
        }
        Some(call)
    }

    /// The next event, answered.
    pub(super) async fn event(&mut self) -> HandlerCall {
        self.next().await.accept()
    }

    pub(super) fn expect_nothing(&mut self) {
        while let Ok(call) = self.calls.try_recv() {
            let early = self.of_this_test(call);
            assert!(early.is_none(), "an event too much: {early:?}");
        }
    }

    /// The bytes of one connection, as much of them; each event answered.
    pub(super) async fn bytes(&mut self, wanted: &str, count: usize) -> Vec<Vec<u8>> {
        let mut chunks = Vec::<Vec<u8>>::new();
        while chunks.iter().map(Vec::len).sum::<usize>() < count {
            match self.event().await {
                HandlerCall::Bytes { conn, bytes } if conn == wanted => chunks.push(bytes),
                other => panic!("not its bytes: {other:?}"),
            }
        }
        chunks
    }

    /// The messages for one connection, as many of them, in their batches; each event answered.
    pub(super) async fn batches(&mut self, wanted: &str, count: usize) -> Vec<Vec<Message>> {
        let mut batches = Vec::<Vec<Message>>::new();
        while batches.iter().map(Vec::len).sum::<usize>() < count {
            match self.event().await {
                HandlerCall::Messages { conn, messages } if conn == wanted => batches.push(messages),
                other => panic!("not its messages: {other:?}"),
            }
        }
        batches
    }

    pub(super) async fn messages(&mut self, conn: &str, count: usize) -> Vec<Message> {
        self.batches(conn, count).await.concat()
    }

    pub(super) async fn expect_closed(&mut self, conn: &str, reason: &str) {
        let expected = HandlerCall::Closed { conn: conn.to_owned(), reason: reason.to_owned() };
        assert_eq!(self.event().await, expected);
    }
}

/// The handler of the test before this one may be about to go.
async fn free_port(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{address}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Drop for TestHandler {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Shown(mpsc::UnboundedSender<PendingCall>);

impl Shown {
    async fn show(&self, event: HandlerCall) -> Result<Response<EmptySuccess>, Status> {
        let (answer, answered) = oneshot::channel();
        self.0.send(PendingCall { event, answer }).map_err(|_| Status::cancelled("the test is over"))?;
        answered.await.map_err(|_| Status::cancelled("the test is over"))??;
        Ok(Response::new(EmptySuccess {}))
    }
}

#[tonic::async_trait]
impl ConnectionUnaryHandler for Shown {
    async fn on_socket_created(&self, call: Request<SocketCreatedRequest>) -> Result<Response<EmptySuccess>, Status> {
        self.show(HandlerCall::Created { conn: call.into_inner().conn }).await
    }

    async fn on_socket_closed(&self, call: Request<SocketClosedRequest>) -> Result<Response<EmptySuccess>, Status> {
        let SocketClosedRequest { conn, reason } = call.into_inner();
        self.show(HandlerCall::Closed { conn, reason }).await
    }

    async fn on_received_bytes(&self, call: Request<ReceivedBytesRequest>) -> Result<Response<EmptySuccess>, Status> {
        let ReceivedBytesRequest { conn, bytes } = call.into_inner();
        self.show(HandlerCall::Bytes { conn, bytes }).await
    }

    async fn on_timer_timeout(&self, call: Request<TimerTimeoutRequest>) -> Result<Response<EmptySuccess>, Status> {
        self.show(HandlerCall::Timeout { conn: call.into_inner().conn }).await
    }

    async fn on_received_messages(
        &self,
        call: Request<ReceivedMessagesRequest>,
    ) -> Result<Response<EmptySuccess>, Status> {
        let ReceivedMessagesRequest { conn, messages } = call.into_inner();
        self.show(HandlerCall::Messages { conn, messages }).await
    }
}

// -- The adapter ------------------------------------------------------------------------------------------------------

/// Code and message of an answer.
pub(super) type AdapterAnswer = (ResultCode, String);

#[derive(Clone)]
pub(super) struct AdapterClient(ConnectionAdapterClient<Channel>);

impl AdapterClient {
    pub(super) async fn connect(url: &str) -> Self {
        Self(ConnectionAdapterClient::connect(url.to_owned()).await.expect("the adapter listens"))
    }

    pub(super) async fn authenticate(&mut self, conn: &str, clientid: &str) -> AdapterAnswer {
        let info = ClientInfo {
            proto_name: "exproto".to_owned(),
            clientid: clientid.to_owned(),
            username: "somebody".to_owned(),
            ..ClientInfo::default()
        };
        self.authenticate_with(conn, Some(info)).await.expect("no gRPC error")
    }

    pub(super) async fn authenticate_with(
        &mut self,
        conn: &str,
        clientinfo: Option<ClientInfo>,
    ) -> Result<AdapterAnswer, Status> {
        let request = AuthenticateRequest { conn: conn.to_owned(), clientinfo, password: "secret".to_owned() };
        self.0.authenticate(request).await.map(answer)
    }

    pub(super) async fn send(&mut self, conn: &str, bytes: &[u8]) -> AdapterAnswer {
        let request = SendBytesRequest { conn: conn.to_owned(), bytes: bytes.to_vec() };
        answer(self.0.send(request).await.expect("no gRPC error"))
    }

    pub(super) async fn close(&mut self, conn: &str) -> AdapterAnswer {
        answer(self.0.close(CloseSocketRequest { conn: conn.to_owned() }).await.expect("no gRPC error"))
    }

    pub(super) async fn start_timer(&mut self, conn: &str, interval: u32) -> AdapterAnswer {
        let request = TimerRequest { conn: conn.to_owned(), r#type: TimerType::Keepalive.into(), interval };
        answer(self.0.start_timer(request).await.expect("no gRPC error"))
    }

    pub(super) async fn publish(&mut self, conn: &str, topic: &str, qos: u32, payload: &[u8]) -> AdapterAnswer {
        let (conn, topic, payload) = (conn.to_owned(), topic.to_owned(), payload.to_vec().into());
        answer(self.0.publish(PublishRequest { conn, topic, qos, payload }).await.expect("no gRPC error"))
    }

    pub(super) async fn raw_publish(&mut self, topic: &str, qos: u32, payload: &[u8]) -> Result<AdapterAnswer, Status> {
        let request = RawPublishRequest { topic: topic.to_owned(), qos, payload: payload.to_vec() };
        self.0.raw_publish(request).await.map(answer)
    }

    pub(super) async fn subscribe(&mut self, conn: &str, topic: &str, qos: u32) -> AdapterAnswer {
        let request = SubscribeRequest { conn: conn.to_owned(), topic: topic.to_owned(), qos };
        answer(self.0.subscribe(request).await.expect("no gRPC error"))
    }

    pub(super) async fn unsubscribe(&mut self, conn: &str, topic: &str) -> AdapterAnswer {
        let request = UnsubscribeRequest { conn: conn.to_owned(), topic: topic.to_owned() };
        answer(self.0.unsubscribe(request).await.expect("no gRPC error"))
    }
}

pub(super) fn success() -> AdapterAnswer {
    (ResultCode::Success, String::new())
}

fn answer(response: Response<CodeResponse>) -> AdapterAnswer {
    let response = response.into_inner();
    (response.code(), response.message)
}

// -- Devices ----------------------------------------------------------------------------------------------------------

pub(super) struct RawDevice {
    pub conn: String,
    socket: TcpStream,
}

impl RawDevice {
    /// Connected, and the handler knows it.
    pub(super) async fn connect(listener: &str, handler: &mut TestHandler) -> Self {
        let socket = dial(listener).await;
        match handler.event().await {
            HandlerCall::Created { conn } => Self { conn, socket },
            other => panic!("not created: {other:?}"),
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.expect("the broker reads");
    }

    pub(super) async fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        soon("bytes for the device", self.socket.read_exact(&mut bytes)).await.expect("the connection is open");
        bytes
    }

    pub(super) async fn expect_eof(mut self) {
        expect_eof(&mut self.socket).await;
    }
}

pub(super) async fn dial(listener: &str) -> TcpStream {
    let socket = TcpStream::connect(listener).await.expect("the listener listens");
    socket.set_nodelay(true).expect("the option is known");
    socket
}

/// A reset is an end, too: it comes when the broker has not read all.
pub(super) async fn expect_eof(socket: &mut TcpStream) {
    let read = soon("end of the connection", socket.read(&mut [0; 1])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "bytes instead of the end");
}
