//! Calls to EMQX's ConnectionAdapter, over several HTTP/2 connections.
//!
//! A call that has begun runs to its end, also when its result is no longer needed: a cancelled call resets its stream,
//! and a server that sees many of these closes the connection, with all other calls on it.

mod connection;

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use hyper::http::Uri;
use hyper::http::uri::Authority;
use thiserror::Error;
use tonic::{Code, Status};

use crate::errors::with_causes;
use crate::process::descriptors;

use connection::{AdapterConnection, prefixed};

use super::devices::{AdapterCall, CallOutcome};
use super::v1;
use crate::upstream::client::device::ConnectionId;

/// Replaces an HTTP/2 connection long before it has used its 2^30 streams, one for each call.
const CALLS_PER_CHANNEL: u32 = 1 << 28;

#[derive(Debug)]
pub(super) struct AdapterClient {
    authority: Authority,
    connect_timeout: Duration,
    channels: Vec<CountedChannel>,
    proto_name: String,
}

/// Says that the address of an adapter is no URI with a host.
#[derive(Debug, Error)]
#[error("adapter {0:?}: expected http://host:port")]
pub(crate) struct AddressError(String);

#[derive(Debug)]
struct CountedChannel {
    connection: AdapterConnection,
    calls: u32,
}

impl AdapterClient {
    /// Creates the client. It connects when there is something to call, and again after a failure.
    ///
    /// # Errors
    /// The `address` is no URI with a host.
    pub(super) fn new(
        address: &str,
        connections: usize,
        proto_name: String,
        connect_timeout: Duration,
    ) -> Result<Self, AddressError> {
        let authority = address.parse().ok().and_then(|uri: Uri| uri.into_parts().authority);
        let authority = authority.ok_or_else(|| AddressError(address.to_owned()))?;
        let channel = |_| CountedChannel::lazy(&authority, connect_timeout);
        let channels = (0..connections.max(1)).map(channel).collect();
        Ok(Self { authority, connect_timeout, channels, proto_name })
    }

    /// Makes the call; the caller spawns the future. The calls of an anchor use the same connection.
    pub(super) fn call(
        &mut self,
        anchor: ConnectionId,
        call: AdapterCall,
    ) -> impl Future<Output = CallOutcome> + Send + 'static {
        let connection = self.connection(anchor);
        let (method, message) = encoded(call, &self.proto_name);
        async move { outcome(connection.call(method, message).await) }
    }

    fn connection(&mut self, anchor: ConnectionId) -> AdapterConnection {
        let index = anchor.0 % self.channels.len() as u64;
        let channel = &mut self.channels[index as usize];
        if channel.calls >= CALLS_PER_CHANNEL {
            // The old connection ends with the last of the calls that are under way on it.
            *channel = CountedChannel::lazy(&self.authority, self.connect_timeout);
        }
        channel.calls += 1;
        channel.connection.clone()
    }
}

impl CountedChannel {
    fn lazy(authority: &Authority, connect_timeout: Duration) -> Self {
        Self { connection: AdapterConnection::lazy(authority.clone(), connect_timeout), calls: 0 }
    }
}

/// Returns the path of the method, and the message of the call.
fn encoded(call: AdapterCall, proto_name: &str) -> (&'static str, Bytes) {
    match call {
        AdapterCall::Authenticate { conn, client } => {
            let password = client.password.map(|password| password.reveal().to_owned()).unwrap_or_default();
            let clientinfo = v1::ClientInfo {
                proto_name: proto_name.to_owned(),
                proto_ver: client.proto_ver,
                clientid: client.clientid,
                username: client.username,
                ..Default::default()
            };
            let request = v1::AuthenticateRequest { conn, clientinfo: Some(clientinfo), password };
            ("/emqx.exproto.v1.ConnectionAdapter/Authenticate", prefixed(&request))
        }
        AdapterCall::Subscribe { conn, filter, qos } => {
            let request = v1::SubscribeRequest { conn, topic: filter, qos: qos.into() };
            ("/emqx.exproto.v1.ConnectionAdapter/Subscribe", prefixed(&request))
        }
        AdapterCall::Publish { conn, publication } => {
            let request = v1::PublishRequest {
                conn,
                topic: publication.topic,
                qos: publication.qos.into(),
                payload: publication.payload,
            };
            ("/emqx.exproto.v1.ConnectionAdapter/Publish", prefixed(&request))
        }
        // Nothing to send: EMQX takes it for any connection that it has, before Authenticate too.
        AdapterCall::Ping { conn } => {
            let request = v1::SendBytesRequest { conn, bytes: Vec::new() };
            ("/emqx.exproto.v1.ConnectionAdapter/Send", prefixed(&request))
        }
    }
}

fn outcome(result: Result<v1::CodeResponse, Status>) -> CallOutcome {
    match result {
        Ok(response) => answered(&response),
        // A status with a cause was made on this side: it tells what became of the connection.
        Err(status) if status.code() == Code::Unavailable || status.source().is_some() => {
            let why = with_causes(status.message(), status.source());
            if is_short_of_descriptors(&status) { CallOutcome::Short(why) } else { CallOutcome::Unreachable(why) }
        }
        Err(status) => CallOutcome::Failed(format!("{}: {}", status.code(), status.message())),
    }
}

fn answered(response: &v1::CodeResponse) -> CallOutcome {
    let message = in_words(&response.message);
    let Ok(code) = v1::ResultCode::try_from(response.code) else {
        return CallOutcome::Rejected(format!("result code {}: {message}", response.code));
    };
    match code {
        v1::ResultCode::Success => CallOutcome::Done,
        // EMQX answers so to a call that comes between the end of the socket and the end of its process.
        v1::ResultCode::PermissionDeny if message.contains("Client socket disconnected") => {
            CallOutcome::ConnectionLost(message)
        }
        v1::ResultCode::PermissionDeny => CallOutcome::Refused(message),
        // UNKNOWN is `unexpected_call` for a client that is not authenticated (any more), or no answer within 5 s.
        v1::ResultCode::ConnProcessNotAlive | v1::ResultCode::Unknown => CallOutcome::ConnectionLost(message),
        v1::ResultCode::RequiredParamsMissed | v1::ResultCode::ParamsTypeError => CallOutcome::Rejected(message),
    }
}

fn is_short_of_descriptors(status: &Status) -> bool {
    let causes = std::iter::successors(status.source(), |error| (*error).source());
    causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).any(descriptors::is_used_up)
}

/// Makes a text for people of EMQX's reasons, which are terms of Erlang such as `<<"Authorization deny">>`.
fn in_words(message: &str) -> String {
    let bare: String = message.replace("<<\"", "").replace("\">>", "").replace(['{', '}', '"'], "");
    bare.replace(',', ", ").replace(",  ", ", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(code: i32, message: &str) -> CallOutcome {
        answered(&v1::CodeResponse { code, message: message.to_owned() })
    }

    #[test]
    fn result_codes_say_whose_the_fault_is() {
        assert_eq!(code(0, ""), CallOutcome::Done);
        assert_eq!(code(5, "not_authorized"), CallOutcome::Refused("not_authorized".to_owned()));
        assert!(matches!(code(5, "<<\"Client socket disconnected\">>"), CallOutcome::ConnectionLost(_)));
        assert!(matches!(code(2, "<<\"Connection process is not alive\">>"), CallOutcome::ConnectionLost(_)));
        assert!(matches!(code(1, "{error,unexpected_call}"), CallOutcome::ConnectionLost(_)));
        assert_eq!(code(5, "<<\"Authorization deny\">>"), CallOutcome::Refused("Authorization deny".to_owned()));
        assert_eq!(
            code(1, "{error,unexpected_call}"),
            CallOutcome::ConnectionLost("error, unexpected_call".to_owned())
        );
        assert!(matches!(code(3, ""), CallOutcome::Rejected(_)));
        assert!(matches!(code(4, ""), CallOutcome::Rejected(_)));
        assert!(matches!(code(77, "a code that is not in the contract"), CallOutcome::Rejected(_)));
    }

    #[test]
    fn a_status_of_the_server_is_told_from_a_lost_connection() {
        assert!(matches!(outcome(Err(Status::internal("RPC Execution Crashed"))), CallOutcome::Failed(_)));
        assert!(matches!(outcome(Err(Status::unavailable("refused"))), CallOutcome::Unreachable(_)));
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(matches!(outcome(Err(Status::from_error(Box::new(broken)))), CallOutcome::Unreachable(_)));
        let none_left = Status::from_error(Box::new(descriptors::used_up()));
        assert!(matches!(outcome(Err(none_left)), CallOutcome::Short(_)));
    }

    #[tokio::test]
    async fn a_channel_is_replaced_long_before_its_stream_ids_run_out() {
        let seconds = Duration::from_secs(1);
        let mut adapter = AdapterClient::new("http://127.0.0.1:1", 2, "exproto".to_owned(), seconds).expect("a URI");
        adapter.channels[1].calls = CALLS_PER_CHANNEL;
        drop(adapter.connection(ConnectionId(3)));
        drop(adapter.connection(ConnectionId(4)));
        assert_eq!(adapter.channels.iter().map(|channel| channel.calls).collect::<Vec<_>>(), [1, 1]);
    }
}
