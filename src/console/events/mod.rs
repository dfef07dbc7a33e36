//! `GET /devices/{endpoint}/events` and `GET /events`: what happens, as server-sent events. A device's events can be
//! polled as well, for clients that cannot read a stream (`polls`).
//!
//! A stream begins with `hello` and repeats nothing of before. Its reader may be slow: what finds no room is lost, and
//! `lost` says how much. A stream ends after an hour, and when its token is removed or changed.

pub(super) mod documents;
pub(super) mod feed;
pub(super) mod polls;
pub(super) mod streams;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::Frame;
use serde::Deserialize;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use utoipa::IntoParams;

use crate::clock::monotonic_now;

use super::ConsoleServer;
use super::access::tokens::Access;
use super::devices::endpoints::visible_endpoint;
use super::http::problem::{Problem, ProblemKind};
use super::http::responses::Problems;

use documents::{Event, EventData};
use feed::{CHECK_EVERY, EventFeed};
use polls::EventList;
use streams::OpenEventStream;

/// Maximum duration of a stream.
const LONGEST: Duration = Duration::from_secs(3600);
/// Interval of the comments that keep proxies from closing the connection.
const COMMENT_EVERY: Duration = Duration::from_secs(15);
/// Time in which a client has to read the end of its stream before its connection is cut.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of events that wait for the connection, besides those in the queue of the driver.
const CHUNKS: usize = 4;
/// Time that a poll waits for an event, without `max`, and the maximum.
const POLL: Duration = Duration::from_secs(4);
const LONGEST_POLL: Duration = Duration::from_secs(30);

const EVENT_STREAM: &str = "text/event-stream";
/// Keeps nginx from collecting the events.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Cuts the connection of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionCut(pub Arc<Notify>);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// Asks for the events after this one, as JSON: the member `last` of the answer before, or 0. Without it the answer
    /// is a stream.
    since: Option<u64>,
    /// Maximum time that a poll waits for an event, such as `4s`; at most 30 s.
    #[param(example = "4s")]
    max: Option<String>,
}

/// A stream to a client.
struct EventStream {
    feed: EventFeed,
    access: Access,
    _open: OpenEventStream,
    chunks: mpsc::Sender<Bytes>,
    checks: Interval,
    deadlines: StreamDeadlines,
}

/// The times at which a stream ends, and at which it needs a comment.
#[derive(Clone, Copy, Debug)]
struct StreamDeadlines {
    end: Instant,
    comment: Instant,
}

/// The body of a stream.
struct EventBody {
    chunks: mpsc::Receiver<Bytes>,
    /// Dropped with the body.
    _read: oneshot::Sender<()>,
}

/// Follow a device
///
/// A stream of server-sent events, or the events after `since` as JSON. The device need not be registered. At most 32
/// streams are open, 8 of them of one token; a device whose events are polled counts as a stream until 30 s after the
/// last poll, and its last 256 events are kept for it.
#[utoipa::path(
    get,
    path = "/devices/{endpoint}/events",
    tag = "events",
    params(("endpoint" = String, Path, description = "Endpoint name, percent-encoded as a whole"), EventsQuery),
    responses(
        (status = 200, description = "Events",
            content((EventData = "text/event-stream"), (EventList = "application/json"))),
        Problems<400>, Problems<429>, Problems<503>
    )
)]
pub(crate) async fn device_events(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
    Extension(cut): Extension<ConnectionCut>,
    endpoint: Result<Path<String>, PathRejection>,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let endpoint = visible_endpoint(&access, endpoint)?;
    let invalid = |text: String| ProblemKind::InvalidRequest.because(text);
    let Query(EventsQuery { since, max }) = query?;
    let Some(since) = since else {
        if max.is_some() {
            return Err(invalid("max needs since".to_owned()));
        }
        let open = server.streams.open(&access.name, Some(&endpoint))?;
        let feed = EventFeed::of_device(&server, &access, &endpoint).await?;
        return Ok(respond(access, cut, open, feed));
    };
    let max = max.map(|max| humantime::parse_duration(&max)).transpose();
    let max = max.map_err(|_| invalid("max is a duration such as 4s".to_owned()))?.unwrap_or(POLL);
    if max > LONGEST_POLL {
        return Err(invalid(format!("max is at most {} s", LONGEST_POLL.as_secs())));
    }
    Ok(axum::Json(polls::poll(&server, &access, endpoint, since, max).await?).into_response())
}

/// Follow all devices
///
/// A stream of the events `registered`, `left`, `moved` and `failure` of all devices, at most 50 in a second.
#[utoipa::path(
    get,
    path = "/events",
    tag = "events",
    responses(
        (status = 200, description = "Events", content_type = "text/event-stream", body = EventData),
        Problems<429>, Problems<503>
    )
)]
pub(crate) async fn all_events(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
    Extension(cut): Extension<ConnectionCut>,
) -> Result<Response, Problem> {
    access.unlimited()?;
    let open = server.streams.open(&access.name, None)?;
    let feed = EventFeed::of_all(&server).await?;
    Ok(respond(access, cut, open, feed))
}

/// Answers with a stream of these events.
pub(super) fn respond(access: Access, cut: ConnectionCut, open: OpenEventStream, feed: EventFeed) -> Response {
    let (chunks, body) = mpsc::channel(CHUNKS);
    let (read, reading) = oneshot::channel();
    let now = monotonic_now();
    let mut checks = interval(CHECK_EVERY);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stream = EventStream { feed, access, _open: open, chunks, checks, deadlines: StreamDeadlines::new(now) };
    tokio::spawn(async move {
        stream.run().await;
        // A client that does not read any more would keep the connection for ever.
        if timeout(END_TIMEOUT, reading).await.is_err() {
            cut.0.notify_one();
        }
    });
    let body = Body::new(EventBody { chunks: body, _read: read });
    ([(CONTENT_TYPE, EVENT_STREAM), (X_ACCEL_BUFFERING, "no")], body).into_response()
}

impl EventStream {
    async fn run(mut self) {
        let mut event = Some(Event::hello());
        while let Some(next) = event {
            let chunk = frame(self.feed.server().next_event_id(), &next);
            if !self.send(chunk).await {
                return;
            }
            event = self.next().await;
        }
    }

    /// Returns the next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            tokio::select! {
                event = self.feed.next() => return event,
                _ = self.checks.tick() => {
                    let now = monotonic_now();
                    if !self.may_go_on(now) || self.chunks.is_closed() {
                        return None;
                    }
                    if self.deadlines.needs_comment(now) && !self.send(Bytes::from_static(b":\n\n")).await {
                        return None;
                    }
                }
                () = self.chunks.closed() => return None,
            }
        }
    }

    /// Sends a chunk, however slowly the client reads. Returns whether the stream goes on.
    async fn send(&mut self, chunk: Bytes) -> bool {
        loop {
            tokio::select! {
                sent = self.chunks.send(chunk.clone()) => {
                    self.deadlines.sent(monotonic_now());
                    return sent.is_ok();
                }
                _ = self.checks.tick() => {
                    if !self.may_go_on(monotonic_now()) {
                        return false;
                    }
                }
            }
        }
    }

    fn may_go_on(&self, now: Instant) -> bool {
        !self.deadlines.is_over(now) && self.feed.server().files.tokens().grants(&self.access)
    }
}

impl StreamDeadlines {
    /// Creates the times of a stream that begins now.
    fn new(now: Instant) -> Self {
        Self { end: now + LONGEST, comment: now + COMMENT_EVERY }
    }

    /// Notes that something was sent, so that the time of silence begins again.
    fn sent(&mut self, now: Instant) {
        self.comment = now + COMMENT_EVERY;
    }

    fn needs_comment(&self, now: Instant) -> bool {
        now >= self.comment
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.end
    }
}

impl hyper::body::Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.chunks.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// Writes an event as the HTML standard says (section 9.2, Server-sent events).
fn frame(id: u64, event: &Event) -> Bytes {
    let data = serde_json::to_string(&event.data).unwrap_or_default();
    // In JSON a line break stands between members only, and it would end the line of the event.
    let data = data.replace(['\n', '\r'], " ");
    Bytes::from(format!("id: {id}\nevent: {}\ndata: {data}\n\n", event.name))
}

#[cfg(test)]
mod tests {
    use crate::console::hide::HiddenPaths;
    use crate::driver::onlookers::{EventKind, OnlookerEvent};

    use super::*;

    #[test]
    fn a_stream_has_a_comment_after_15_seconds_of_silence_and_ends_after_an_hour() {
        let begun = monotonic_now();
        let after = |seconds| begun + Duration::from_secs_f64(seconds);
        let mut deadlines = StreamDeadlines::new(begun);
        assert!(!deadlines.needs_comment(after(14.9)) && deadlines.needs_comment(after(15.0)));
        deadlines.sent(after(15.0));
        deadlines.sent(after(20.0));
        assert!(!deadlines.needs_comment(after(34.9)) && deadlines.needs_comment(after(35.0)));
        // Nothing that is sent prolongs the stream.
        deadlines.sent(after(3_599.0));
        assert!(!deadlines.is_over(after(3_599.9)) && deadlines.is_over(after(3_600.0)));
    }

    #[test]
    fn an_event_is_one_line_of_data_whatever_an_application_has_written() {
        let payload = b"{\"reqID\":\r\n{\"a\":\n1},\"msgType\":\"ack\"}".to_vec();
        let kind = EventKind::Message { topic: "up/resp".to_owned(), bytes: payload.len(), payload };
        let event = OnlookerEvent { at: Duration::ZERO, endpoint: Some("ep1".to_owned()), kind };
        let written = frame(7, &Event::of(&event, &HiddenPaths::default()));
        let expected = "id: 7\nevent: message\ndata: {\"at\":\"1970-01-01T00:00:00.000Z\",\"endpoint\":\"ep1\",\
                        \"topic\":\"up/resp\",\"payload\":{\"reqID\":  {\"a\": 1},\"msgType\":\"ack\"}}\n\n";
        assert_eq!(written, expected);
    }
}
