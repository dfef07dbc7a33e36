//! The events of a watch, and the messages of traces, as documents: what streams and polls have in common.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::debug;

use crate::driver::onlookers::{EventReceiver, Watch, WatchTarget, event_stream};
use lwm2m_core::lwm2m::model::Model;

use super::documents::Event;
use crate::console::ConsoleServer;
use crate::console::access::tokens::{Access, Role};
use crate::console::http::problem::{Problem, silent};
use crate::console::traces::follower::TraceFollower;

/// Interval at which it is checked whether the token of the reader of events is still valid.
pub(crate) const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The events of one watch, and the messages of traces, as documents.
pub(crate) struct EventFeed {
    server: Arc<ConsoleServer>,
    /// `None` if only a trace is followed.
    events: Option<EventReceiver>,
    model: watch::Receiver<Arc<Model>>,
    traced: Option<TraceFollower>,
}

impl EventFeed {
    /// Begins to watch a device. An operator gets the messages of its traces as well.
    pub(super) async fn of_device(
        server: &Arc<ConsoleServer>,
        access: &Access,
        endpoint: &str,
    ) -> Result<Self, Problem> {
        let traced = (access.role == Role::Operator).then(|| TraceFollower::of_device(&server.traces, endpoint));
        let mut feed = Self::open(server, WatchTarget::Device(endpoint.to_owned())).await?;
        feed.traced = traced;
        Ok(feed)
    }

    /// Begins to watch all devices.
    pub(super) async fn of_all(server: &Arc<ConsoleServer>) -> Result<Self, Problem> {
        Self::open(server, WatchTarget::All).await
    }

    /// Begins to watch.
    async fn open(server: &Arc<ConsoleServer>, target: WatchTarget) -> Result<Self, Problem> {
        let (sender, events) = event_stream();
        server.sources.admin.control.watch(Watch { target, events: sender }).await.map_err(silent)?;
        let mut feed = Self::without_events(server);
        feed.events = Some(events);
        Ok(feed)
    }

    /// Follows a trace.
    pub(in crate::console) fn of_trace(server: &Arc<ConsoleServer>, traced: TraceFollower) -> Self {
        let mut feed = Self::without_events(server);
        feed.traced = Some(traced);
        feed
    }

    fn without_events(server: &Arc<ConsoleServer>) -> Self {
        let mut model = server.sources.model.clone();
        model.mark_unchanged();
        Self { server: Arc::clone(server), events: None, model, traced: None }
    }

    /// Returns the next event; `None` if the event loop or the trace has ended. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Event> {
        let Self { server, events, model, traced } = self;
        match events.as_ref().map_or(0, EventReceiver::take_lost) {
            0 => {}
            lost => return Some(Event::lost(Some(lost))),
        }
        let next_of_device = async {
            match events {
                Some(events) => events.next().await,
                None => pending().await,
            }
        };
        let next_of_trace = async {
            match traced {
                Some(traced) => traced.next(&server.traces).await,
                None => pending().await,
            }
        };
        tokio::select! {
            event = next_of_device => event.map(|event| Event::of(&event, &server.hidden)),
            followed = next_of_trace => {
                followed.map(|followed| Event::traced(&followed, &server.sources.model.borrow()))
            }
            Ok(()) = model.changed() => Some(Event::definitions()),
        }
    }

    pub(super) fn server(&self) -> &Arc<ConsoleServer> {
        &self.server
    }
}

impl Drop for EventFeed {
    fn drop(&mut self) {
        let server = Arc::clone(&self.server);
        let Some(events) = &mut self.events else { return };
        events.close();
        // While the runtime shuts down the event loop has ended, too.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(silent) = server.sources.admin.control.unwatch().await {
                debug!(%silent, "the event loop was not told that an event stream has ended");
            }
        });
    }
}
