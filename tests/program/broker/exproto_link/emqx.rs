//! An exproto gateway as EMQX has it, as far as the link needs one: a listener, a ConnectionAdapter, and calls to the
//! handler, one at a time for each connection.

use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lwm2m_gateway::upstream::exproto::v1;
use lwm2m_gateway::upstream::exproto::v1::connection_adapter_server::{ConnectionAdapter, ConnectionAdapterServer};
use lwm2m_gateway::upstream::exproto::v1::connection_unary_handler_client::ConnectionUnaryHandlerClient;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use v1::ResultCode;

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub clientid: String,
    pub topic: String,
    pub payload: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Login {
    pub proto_name: String,
    pub proto_ver: String,
    pub username: String,
    pub password: String,
    pub filters: Vec<String>,
}

/// Has a runtime of its own: with it go the sockets, also those of HTTP/2 connections that tonic serves in tasks.
pub(super) struct Emqx {
    pub listener: SocketAddr,
    pub adapter: SocketAddr,
    sockets: Option<(TcpListener, TcpListener)>,
    handler: Option<SocketAddr>,
    shared: Arc<Shared>,
    published: mpsc::UnboundedReceiver<Published>,
    running: Option<Running>,
}

/// One runtime for each side, so that either can go by itself.
struct Running {
    listener: Runtime,
    adapter: Option<Runtime>,
}

impl Drop for Emqx {
    fn drop(&mut self) {
        if let Some(Running { listener, adapter }) = self.running.take() {
            listener.shutdown_background();
            adapter.into_iter().for_each(Runtime::shutdown_background);
        }
    }
}

/// What it does when it cannot call its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandlerLost {
    /// As EMQX 5.8: a connection with an event is closed at once.
    Closes,
    /// As EMQX 5.3, which tries for a while: the connection stays open, and nothing is heard of it.
    Waits,
}

struct Shared {
    state: Mutex<State>,
    published: mpsc::UnboundedSender<Published>,
    client_left: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    connections: HashMap<String, Connection>,
    refused: HashSet<String>,
    denied: HashSet<String>,
    hangs: bool,
    handler_lost: Option<HandlerLost>,
}

struct Connection {
    clientid: Option<String>,
    login: Login,
    orders: mpsc::UnboundedSender<Order>,
}

enum Order {
    Close(String),
    Messages(Vec<v1::Message>),
}

impl Emqx {
    /// Takes its ports, but does not serve.
    pub(super) async fn bind() -> Self {
        let listener = TcpListener::bind(crate::common::ports::free_address()).await.expect("a port");
        let adapter = TcpListener::bind(crate::common::ports::free_address()).await.expect("a port");
        let (sender, published) = mpsc::unbounded_channel();
        let shared = Shared { state: Mutex::default(), published: sender, client_left: Notify::new() };
        Self {
            listener: listener.local_addr().expect("an address"),
            adapter: adapter.local_addr().expect("an address"),
            sockets: Some((listener, adapter)),
            handler: None,
            shared: Arc::new(shared),
            published,
            running: None,
        }
    }

    pub(super) async fn start(&mut self, handler: SocketAddr) {
        self.handler = Some(handler);
        let (listener, adapter) = self.sockets.take().expect("a gateway that is not started");
        let [listener, adapter] = [listener, adapter].map(|socket| socket.into_std().expect("a socket"));
        let [devices, calls] =
            [(); 2].map(|()| Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime"));
        devices.spawn(serve_listener(listener, handler, Arc::clone(&self.shared)));
        calls.spawn(serve_adapter(adapter, Arc::clone(&self.shared)));
        self.running = Some(Running { listener: devices, adapter: Some(calls) });
    }

    /// As `gateway stop`: everything is closed, and the handler hears nothing of it.
    pub(super) async fn stop(&mut self) {
        let Running { listener, adapter } = self.running.take().expect("a gateway that is started");
        end(listener).await;
        if let Some(adapter) = adapter {
            end(adapter).await;
        }
        self.shared.state().connections.clear();
    }

    /// The connections of the devices stay.
    pub(super) async fn stop_adapter(&mut self) {
        let running = self.running.as_mut().expect("a gateway that is started");
        end(running.adapter.take().expect("an adapter that is started")).await;
    }

    /// From now on the adapter takes calls, and does not answer.
    pub(super) fn hang(&self) {
        self.shared.state().hangs = true;
    }

    pub(super) fn lose_handler(&self, how: HandlerLost) {
        self.shared.state().handler_lost = Some(how);
    }

    pub(super) fn find_handler(&self) {
        self.shared.state().handler_lost = None;
    }

    /// The clientids, in alphabetical order.
    pub(super) fn clients(&self) -> Vec<String> {
        let state = self.shared.state();
        let mut clients: Vec<_> = state.connections.values().filter_map(|client| client.clientid.clone()).collect();
        clients.sort_unstable();
        clients
    }

    pub(super) async fn start_again(&mut self) {
        self.sockets = Some((bind_again(self.listener).await, bind_again(self.adapter).await));
        self.start(self.handler.expect("a start before")).await;
    }

    pub(super) fn refuse(&self, clientid: &str) {
        self.shared.state().refused.insert(clientid.to_owned());
    }

    pub(super) fn deny(&self, topic: &str) {
        self.shared.state().denied.insert(topic.to_owned());
    }

    pub(super) fn login(&self, clientid: &str) -> Login {
        self.shared.state().client(clientid).expect("a client").login.clone()
    }

    pub(super) async fn published(&mut self) -> Published {
        timeout(PATIENCE, self.published.recv()).await.expect("a publication in time").expect("a broker")
    }

    pub(super) async fn send(&self, clientid: &str, messages: &[(&str, &str)]) {
        let message = |(topic, payload): &(&str, &str)| v1::Message {
            topic: (*topic).to_owned(),
            payload: payload.as_bytes().to_vec(),
            ..Default::default()
        };
        self.shared.state().order(clientid, Order::Messages(messages.iter().map(message).collect()));
    }

    /// Returns when the broker has forgotten the connection.
    pub(super) async fn close(&self, clientid: &str, reason: &str) {
        let conn = self.shared.state().order(clientid, Order::Close(reason.to_owned()));
        self.until(|state| !state.connections.contains_key(&conn)).await;
    }

    pub(super) async fn until_clients(&self, clientids: &[&str]) {
        let wait = async {
            while self.clients() != clientids {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{clientids:?} in time, not {:?}", self.clients()));
    }

    pub(super) async fn until_no_clients(&self) {
        self.until(|state| state.connections.is_empty()).await;
    }

    async fn until(&self, holds: impl Fn(&State) -> bool) {
        let wait = async {
            loop {
                let left = self.shared.client_left.notified();
                if holds(&self.shared.state()) {
                    return;
                }
                left.await;
            }
        };
        timeout(PATIENCE, wait).await.expect("the clients to leave in time");
    }
}

async fn end(runtime: Runtime) {
    tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.expect("a stop");
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it was locked")
    }
}

impl State {
    fn client(&self, clientid: &str) -> Option<&Connection> {
        self.entry(clientid).map(|(_, connection)| connection)
    }

    /// Gives the connection that has the order.
    fn order(&self, clientid: &str, order: Order) -> String {
        let (conn, connection) = self.entry(clientid).expect("a client");
        assert!(connection.orders.send(order).is_ok(), "the connection of {clientid} is gone");
        conn.clone()
    }

    fn entry(&self, clientid: &str) -> Option<(&String, &Connection)> {
        self.connections.iter().find(|(_, connection)| connection.clientid.as_deref() == Some(clientid))
    }
}

type Handler = ConnectionUnaryHandlerClient<Channel>;

async fn serve_listener(socket: StdTcpListener, handler: SocketAddr, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(socket).expect("a socket");
    let endpoint = Endpoint::from_shared(format!("http://{handler}")).expect("an address");
    let handler = ConnectionUnaryHandlerClient::new(endpoint.connect_lazy());
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        connections.spawn(serve(stream, handler.clone(), Arc::clone(&shared)));
    }
}

async fn serve_adapter(socket: StdTcpListener, shared: Arc<Shared>) {
    let incoming = TcpIncoming::from(TcpListener::from_std(socket).expect("a socket"));
    let service = ConnectionAdapterServer::new(Adapter(shared));
    Server::builder().add_service(service).serve_with_incoming(incoming).await.expect("a serving adapter");
}

/// One connection: its events, one after the other.
async fn serve(mut stream: TcpStream, mut handler: Handler, shared: Arc<Shared>) {
    let (sender, mut orders) = mpsc::unbounded_channel();
    let conn = {
        let mut state = shared.state();
        state.next += 1;
        let conn = format!("{}-{}", stream.local_addr().expect("an address"), state.next);
        let connection = Connection { clientid: None, login: Login::default(), orders: sender };
        state.connections.insert(conn.clone(), connection);
        conn
    };
    if handler_is_lost(&shared).await {
        shared.state().connections.remove(&conn);
        return;
    }
    let created = v1::SocketCreatedRequest { conn: conn.clone(), conninfo: None };
    handler.on_socket_created(created).await.expect("no error, ever");
    let reason = loop {
        let mut buffer = [0; 7];
        tokio::select! {
            read = stream.read(&mut buffer) => match read {
                Ok(0) | Err(_) => break "{shutdown,tcp_closed}".to_owned(),
                Ok(length) => {
                    let event = v1::ReceivedBytesRequest { conn: conn.clone(), bytes: buffer[..length].to_vec() };
                    handler.on_received_bytes(event).await.expect("no error, ever");
                }
            },
            Some(order) = orders.recv() => match order {
                Order::Close(reason) => break reason,
                Order::Messages(_) if handler_is_lost(&shared).await => {
                    shared.state().connections.remove(&conn);
                    return;
                }
                Order::Messages(messages) => {
                    let event = v1::ReceivedMessagesRequest { conn: conn.clone(), messages };
                    handler.on_received_messages(event).await.expect("no error, ever");
                }
            },
        }
    };
    drop(stream);
    shared.state().connections.remove(&conn);
    shared.client_left.notify_waiters();
    // The handler may have ended with the link.
    if let Err(status) = handler.on_socket_closed(v1::SocketClosedRequest { conn, reason }).await {
        assert_ne!(status.code(), tonic::Code::Internal, "{status}");
    }
}

/// True where the connection has to be closed; does not return where it waits for ever.
async fn handler_is_lost(shared: &Shared) -> bool {
    let lost = shared.state().handler_lost;
    match lost {
        Some(HandlerLost::Waits) => pending().await,
        Some(HandlerLost::Closes) => true,
        None => false,
    }
}

struct Adapter(Arc<Shared>);

type Answer = Result<Response<v1::CodeResponse>, Status>;

fn answer(code: ResultCode, message: &str) -> Answer {
    Ok(Response::new(v1::CodeResponse { code: code.into(), message: message.to_owned() }))
}

impl Adapter {
    async fn hang(&self) {
        let hangs = self.0.state().hangs;
        if hangs {
            pending().await
        }
    }

    /// Does something with an authenticated client.
    fn with_client(
        &self,
        conn: &str,
        topic: &str,
        act: impl FnOnce(&mut Connection, &mpsc::UnboundedSender<Published>),
    ) -> Answer {
        let mut state = self.0.state();
        let denied = state.denied.contains(topic);
        let Some(connection) = state.connections.get_mut(conn) else {
            return answer(ResultCode::ConnProcessNotAlive, "<<\"Connection process is not alive\">>");
        };
        if connection.clientid.is_none() {
            return answer(ResultCode::Unknown, "{error,unexpected_call}");
        }
        if denied {
            return answer(ResultCode::PermissionDeny, "<<\"Authorization deny\">>");
        }
        act(connection, &self.0.published);
        answer(ResultCode::Success, "")
    }
}

#[tonic::async_trait]
impl ConnectionAdapter for Adapter {
    async fn authenticate(&self, request: Request<v1::AuthenticateRequest>) -> Answer {
        self.hang().await;
        let v1::AuthenticateRequest { conn, clientinfo, password } = request.into_inner();
        let info = clientinfo.ok_or_else(|| Status::internal("RPC Execution Crashed"))?;
        let mut state = self.0.state();
        if state.refused.contains(&info.clientid) {
            return answer(ResultCode::PermissionDeny, "not_authorized");
        }
        if state.client(&info.clientid).is_some() {
            state.order(&info.clientid, Order::Close("{shutdown,discarded}".to_owned()));
        }
        let Some(connection) = state.connections.get_mut(&conn) else {
            return answer(ResultCode::ConnProcessNotAlive, "<<\"Connection process is not alive\">>");
        };
        let v1::ClientInfo { proto_name, proto_ver, clientid, username, .. } = info;
        connection.clientid = Some(clientid);
        connection.login = Login { proto_name, proto_ver, username, password, filters: Vec::new() };
        answer(ResultCode::Success, "")
    }

    async fn publish(&self, request: Request<v1::PublishRequest>) -> Answer {
        self.hang().await;
        let v1::PublishRequest { conn, topic, payload, .. } = request.into_inner();
        self.with_client(&conn, &topic.clone(), |client, published| {
            let clientid = client.clientid.clone().expect("an authenticated client");
            published.send(Published { clientid, topic, payload: payload.into() }).expect("a test that listens");
        })
    }

    async fn subscribe(&self, request: Request<v1::SubscribeRequest>) -> Answer {
        self.hang().await;
        let v1::SubscribeRequest { conn, topic, .. } = request.into_inner();
        self.with_client(&conn, &topic.clone(), |client, _| client.login.filters.push(topic))
    }

    async fn send(&self, request: Request<v1::SendBytesRequest>) -> Answer {
        self.hang().await;
        let v1::SendBytesRequest { conn, bytes } = request.into_inner();
        assert_eq!(bytes, b"", "the anchors hear nothing");
        if self.0.state().connections.contains_key(&conn) {
            answer(ResultCode::Success, "")
        } else {
            answer(ResultCode::ConnProcessNotAlive, "<<\"Connection process is not alive\">>")
        }
    }

    async fn close(&self, _: Request<v1::CloseSocketRequest>) -> Answer {
        unreachable!("the link does not call this")
    }

    async fn start_timer(&self, _: Request<v1::TimerRequest>) -> Answer {
        unreachable!("the link does not call this")
    }

    async fn unsubscribe(&self, _: Request<v1::UnsubscribeRequest>) -> Answer {
        unreachable!("the link does not call this")
    }

    async fn raw_publish(&self, _: Request<v1::RawPublishRequest>) -> Answer {
        unreachable!("the link does not call this")
    }
}

/// Binds a port of before. It may be taken for a moment: a program that another test starts has copies of the closed
/// sockets until it runs.
async fn bind_again(address: SocketAddr) -> TcpListener {
    let attempt = async {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => return listener,
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{address}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, attempt).await.expect("the port of before")
}
