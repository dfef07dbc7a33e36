//! Counts the event streams: their number is bounded, in total and for each token. The core is told which users have a
//! stream of which device, because an observation may last as long as the streams of its user.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tokio::runtime::Handle;
use tracing::debug;

use crate::driver::control::Control;

use crate::console::http::problem::{Problem, ProblemKind};

/// Maximum number of streams.
const STREAMS: usize = 32;
/// Maximum number of streams of one token.
const STREAMS_OF_TOKEN: usize = 8;

/// The open streams.
#[derive(Debug)]
pub(crate) struct Streams {
    open: Mutex<HashMap<StreamKey, usize>>,
    /// Orders the messages to the core.
    telling: tokio::sync::Mutex<()>,
    control: Control,
    gauge: Gauge,
}

/// An open stream. It is closed when this is dropped.
#[derive(Debug)]
pub(crate) struct OpenEventStream {
    streams: Arc<Streams>,
    key: StreamKey,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct StreamKey {
    /// Name of the token.
    user: String,
    /// `None` for a stream of all devices.
    endpoint: Option<String>,
}

impl Streams {
    pub(in crate::console) fn new(control: Control, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), telling: tokio::sync::Mutex::default(), control, gauge })
    }

    /// Opens a stream of a device, or of all.
    pub(in crate::console) fn open(
        self: &Arc<Self>,
        user: &str,
        endpoint: Option<&str>,
    ) -> Result<OpenEventStream, Problem> {
        let key = StreamKey { user: user.to_owned(), endpoint: endpoint.map(str::to_owned) };
        {
            let mut open = self.lock();
            let of_token: usize = open.iter().filter(|(key, _)| key.user == user).map(|(_, count)| count).sum();
            let too_many = |number, whose| {
                Err(ProblemKind::TooMany.because(format!("{number} event streams {whose} are open: close another one")))
            };
            if of_token >= STREAMS_OF_TOKEN {
                return too_many(STREAMS_OF_TOKEN, "of this token");
            }
            if open.values().sum::<usize>() >= STREAMS {
                return too_many(STREAMS, "in all");
            }
            *open.entry(key.clone()).or_default() += 1;
            self.gauge.inc();
        }
        self.tell(&key);
        Ok(OpenEventStream { streams: Arc::clone(self), key })
    }

    fn close(self: &Arc<Self>, key: &StreamKey) {
        {
            let mut open = self.lock();
            if let Some(count) = open.get_mut(key) {
                *count -= 1;
                self.gauge.dec();
            }
            open.retain(|_, count| *count > 0);
        }
        self.tell(key);
    }

    /// Tells the core whether this user has a stream of the device. The last message has the last state.
    fn tell(self: &Arc<Self>, key: &StreamKey) {
        let StreamKey { user, endpoint } = key.clone();
        // A stream may be dropped while the runtime shuts down: then the core need not be told.
        let Some((endpoint, runtime)) = endpoint.zip(Handle::try_current().ok()) else { return };
        let (streams, key) = (Arc::clone(self), key.clone());
        runtime.spawn(async move {
            let _turn = streams.telling.lock().await;
            let is_open = streams.lock().contains_key(&key);
            if let Err(silent) = streams.control.stream_open(endpoint, user, is_open).await {
                debug!(%silent, "the event loop was not told of an event stream");
            }
        });
    }

    // A panic while the map is locked cannot leave it half changed.
    fn lock(&self) -> MutexGuard<'_, HashMap<StreamKey, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenEventStream {
    fn drop(&mut self) {
        self.streams.close(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use crate::driver::control::{DriverRequest, control};

    use super::*;

    #[tokio::test]
    async fn a_token_has_8_streams_and_all_together_have_32() {
        let (control, _requests) = control();
        let streams = Streams::new(control, Gauge::default());
        let mut open: Vec<_> = (0..STREAMS_OF_TOKEN).map(|_| streams.open("alice", None).ok().unwrap()).collect();
        assert_eq!(streams.open("alice", Some("ep1")).unwrap_err().kind, ProblemKind::TooMany);
        for user in 1..4 {
            open.extend((0..STREAMS_OF_TOKEN).map(|_| streams.open(&user.to_string(), Some("ep1")).ok().unwrap()));
        }
        assert_eq!(streams.gauge.get(), 32);
        assert_eq!(streams.open("bob", None).unwrap_err().kind, ProblemKind::TooMany);
        drop(open.pop());
        assert!(streams.open("bob", None).is_ok());
        drop(open);
        assert_eq!(streams.gauge.get(), 0);
        assert!(streams.lock().is_empty());
    }

    #[tokio::test]
    async fn the_core_learns_when_the_first_stream_is_opened_and_the_last_one_is_closed() {
        let (control, mut requests) = control();
        let streams = Streams::new(control, Gauge::default());
        let mut told = async || match requests.recv().await {
            Some(DriverRequest::StreamOpen { endpoint, user, is_open }) => (endpoint, user, is_open),
            other => panic!("{other:?}"),
        };
        let expected = |is_open| ("ep1".to_owned(), "alice".to_owned(), is_open);
        let (one, other) = (streams.open("alice", Some("ep1")), streams.open("alice", Some("ep1")));
        assert_eq!((told().await, told().await), (expected(true), expected(true)));
        drop(one);
        assert_eq!(told().await, expected(true));
        drop(other);
        assert_eq!(told().await, expected(false));
    }
}
