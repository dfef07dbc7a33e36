//! A bare client of ExProto: it is made of tonic's own client, and only calls `Publish`, one call at a time for each
//! connection.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use lwm2m_gateway::upstream::exproto::v1;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use v1::connection_adapter_client::ConnectionAdapterClient;
use v1::connection_unary_handler_server::{ConnectionUnaryHandler, ConnectionUnaryHandlerServer};

use super::{BareWork, PAYLOAD, names};

/// HTTP/2 connections to the adapter.
const CHANNELS: u32 = 8;

/// Makes so many clients of the broker, and has each of them publish.
pub(super) async fn begin(
    work: &'static BareWork,
    devices: u32,
    [listener, adapter, handler]: [SocketAddr; 3],
) -> anyhow::Result<()> {
    let (sender, mut announced) = mpsc::unbounded_channel();
    let incoming = TcpIncoming::from(TcpListener::bind(handler).await?).with_nodelay(Some(true));
    let service = ConnectionUnaryHandlerServer::new(Handler(sender));
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    let endpoint = Endpoint::from_shared(format!("http://{adapter}"))?.tcp_nodelay(true);
    let channels: Vec<Channel> = (0..CHANNELS).map(|_| endpoint.connect_lazy()).collect();
    for number in 0..devices {
        let mut anchor = TcpStream::connect(listener).await?;
        anchor.write_all(b"bare\n").await?;
        let conn = announced.recv().await.context("the handler has ended")?;
        let client = ConnectionAdapterClient::new(channels[(number % CHANNELS) as usize].clone());
        let client = authenticated(client, conn.clone(), number).await?;
        tokio::spawn(async move {
            if let Err(error) = publish(work, client, conn, number).await {
                eprintln!("load: the bare client: {error:#}");
            }
            drop(anchor);
        });
    }
    Ok(())
}

async fn authenticated(
    mut client: ConnectionAdapterClient<Channel>,
    conn: String,
    number: u32,
) -> anyhow::Result<ConnectionAdapterClient<Channel>> {
    let (clientid, _) = names(number);
    let clientinfo = v1::ClientInfo {
        proto_name: "exproto".to_owned(),
        proto_ver: "1.0".to_owned(),
        username: clientid.clone(),
        clientid,
        ..Default::default()
    };
    let request = v1::AuthenticateRequest { conn, clientinfo: Some(clientinfo), password: String::new() };
    let answer = client.authenticate(request).await?.into_inner();
    ensure!(answer.code == 0, "Authenticate: {}", answer.message);
    Ok(client)
}

async fn publish(
    work: &BareWork,
    mut client: ConnectionAdapterClient<Channel>,
    conn: String,
    number: u32,
) -> anyhow::Result<()> {
    let (_, topic) = names(number);
    let mut pace = work.pace(number);
    while work.goes_on() {
        pace.tick().await;
        let payload = PAYLOAD.into();
        let request = v1::PublishRequest { conn: conn.clone(), topic: topic.clone(), qos: 0, payload };
        let answer = client.publish(request).await?.into_inner();
        ensure!(answer.code == 0, "Publish: {}", answer.message);
        work.count(1);
    }
    Ok(())
}

/// Tells which connection announced itself; the client makes them one by one.
struct Handler(mpsc::UnboundedSender<String>);

type Answer = Result<Response<v1::EmptySuccess>, Status>;

#[tonic::async_trait]
impl ConnectionUnaryHandler for Handler {
    async fn on_socket_created(&self, _: Request<v1::SocketCreatedRequest>) -> Answer {
        Ok(Response::new(v1::EmptySuccess {}))
    }

    async fn on_socket_closed(&self, _: Request<v1::SocketClosedRequest>) -> Answer {
        Ok(Response::new(v1::EmptySuccess {}))
    }

    async fn on_received_bytes(&self, request: Request<v1::ReceivedBytesRequest>) -> Answer {
        self.0.send(request.into_inner().conn).map_err(|_| Status::internal("the client has ended"))?;
        Ok(Response::new(v1::EmptySuccess {}))
    }

    async fn on_timer_timeout(&self, _: Request<v1::TimerTimeoutRequest>) -> Answer {
        Ok(Response::new(v1::EmptySuccess {}))
    }

    async fn on_received_messages(&self, _: Request<v1::ReceivedMessagesRequest>) -> Answer {
        Ok(Response::new(v1::EmptySuccess {}))
    }
}
