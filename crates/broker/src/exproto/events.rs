//! The events of one connection on their way to the handler: one call at a time, in order.

use std::collections::VecDeque;
use std::error::Error as _;
use std::fmt;
use std::future::pending;
use std::pin::Pin;

use tonic::{Code, Status};

use super::handler::HandlerClient;
use crate::bus::RoutedDelivery;
use crate::clock;
use crate::exproto::v1::{
    ConnInfo, Message, ReceivedBytesRequest, ReceivedMessagesRequest, SocketClosedRequest, SocketCreatedRequest,
    TimerTimeoutRequest, TimerType,
};

/// Events that may wait for one connection before nothing more is taken in for it. EMQX has no such bound.
const WAITING: usize = 1_024;
const NODE: &str = "embedded@127.0.0.1";

#[derive(Debug)]
pub(super) enum QueuedEvent {
    SocketCreated(Box<ConnInfo>),
    ReceivedBytes(Vec<u8>),
    ReceivedMessages(Vec<RoutedDelivery>),
    KeepaliveTimeout,
    SocketClosed { reason: String },
}

type Calling = Pin<Box<dyn Future<Output = Result<(), HandlerCallError>> + Send>>;

pub(super) struct EventQueue {
    conn: String,
    handler: HandlerClient,
    waiting: VecDeque<QueuedEvent>,
    calling: Option<Calling>,
}

impl EventQueue {
    pub(super) fn new(conn: String, handler: HandlerClient) -> Self {
        Self { conn, handler, waiting: VecDeque::new(), calling: None }
    }

    pub(super) fn push(&mut self, event: QueuedEvent) {
        self.waiting.push_back(event);
        self.call_next();
    }

    /// Waits for the end of the call in flight; for ever if there is none. Cancel-safe.
    ///
    /// # Errors
    /// The handler did not take the event: the connection has to be closed. There is no deadline.
    pub(super) async fn answered(&mut self) -> Result<(), HandlerCallError> {
        let Some(calling) = &mut self.calling else { return pending().await };
        let outcome = calling.await;
        self.calling = None;
        self.call_next();
        outcome
    }

    /// Returns whether no event waits and no call is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.calling.is_none()
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < WAITING
    }

    /// Forgets what waits; a call under way is given up.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.calling = None;
    }

    fn call_next(&mut self) {
        if self.calling.is_none() {
            self.calling = self.waiting.pop_front().map(|event| self.call(event));
        }
    }

    fn call(&self, event: QueuedEvent) -> Calling {
        Box::pin(call(self.handler.clone(), self.conn.clone(), event))
    }
}

async fn call(mut handler: HandlerClient, conn: String, event: QueuedEvent) -> Result<(), HandlerCallError> {
    let (name, answer) = match event {
        QueuedEvent::SocketCreated(conninfo) => {
            let request = SocketCreatedRequest { conn, conninfo: Some(*conninfo) };
            ("on_socket_created", handler.on_socket_created(request).await)
        }
        QueuedEvent::ReceivedBytes(bytes) => {
            let request = ReceivedBytesRequest { conn, bytes };
            ("on_received_bytes", handler.on_received_bytes(request).await)
        }
        QueuedEvent::ReceivedMessages(deliveries) => {
            let request = ReceivedMessagesRequest { conn, messages: deliveries.iter().map(message).collect() };
            ("on_received_messages", handler.on_received_messages(request).await)
        }
        QueuedEvent::KeepaliveTimeout => {
            let request = TimerTimeoutRequest { conn, r#type: TimerType::Keepalive.into() };
            ("on_timer_timeout", handler.on_timer_timeout(request).await)
        }
        QueuedEvent::SocketClosed { reason } => {
            ("on_socket_closed", handler.on_socket_closed(SocketClosedRequest { conn, reason }).await)
        }
    };
    answer.map(drop).map_err(|status| HandlerCallError { event: name, status })
}

/// Converts a delivery to a message. The QoS is the publisher's, whatever was subscribed.
fn message(delivery: &RoutedDelivery) -> Message {
    let message = &delivery.message;
    Message {
        node: NODE.to_owned(),
        id: format!("{:032X}", u128::from_be_bytes(clock::random())),
        qos: message.qos.into(),
        from: message.from.clone(),
        topic: message.topic.clone(),
        payload: message.payload.to_vec(),
        timestamp: message.timestamp,
    }
}

/// A call that the handler refused, or that did not reach it.
#[derive(Debug)]
pub(super) struct HandlerCallError {
    event: &'static str,
    status: Status,
}

/// Formats the error as EMQX does in the reason of OnSocketClosed.
impl fmt::Display for HandlerCallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event, status } = self;
        if status.code() == Code::Unavailable && status.source().is_some() {
            return write!(f, "{{{event},{{connection_down,{{shutdown,econnrefused}}}}}}");
        }
        write!(f, "{{{event},{{{},<<\"{}\">>}}}}", atom(status.code()), status.message())
    }
}

fn atom(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}
