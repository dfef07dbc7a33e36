//! The place of a link to the broker among those of all driver threads.

use std::num::NonZero;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::UpstreamConfig;
use super::exproto::devices::ExProtoEvent;
use lwm2m_base::ThreadShards;

/// The place of the link of one driver thread.
pub struct LinkSeat {
    pub(super) shards: ThreadShards,
    /// The events of EMQX for this link, if the upstream is ExProto.
    pub(super) exproto_events: mpsc::Receiver<ExProtoEvent>,
    /// Holds what the handler needs, which the first link serves for all.
    pub(super) serves_handler: Option<ServedHandler>,
}

/// Holds what the handler of ExProto needs.
pub(super) struct ServedHandler {
    /// The queues of the links, by the number of their threads.
    pub(super) links: Vec<mpsc::Sender<ExProtoEvent>>,
    /// The runtime that serves it, if not the one of the link.
    pub(super) runtime: Option<Handle>,
}

impl LinkSeat {
    /// Returns the place of the only link.
    pub fn only(config: &UpstreamConfig) -> Self {
        Self::of_threads(NonZero::<u8>::MIN, config, None).remove(0)
    }

    /// Returns the places of the links of so many threads. `config` are those of each link. The handler of several
    /// links is served on `runtime`, so that it takes no time from the devices of one of them.
    pub fn of_threads(threads: NonZero<u8>, config: &UpstreamConfig, runtime: Option<Handle>) -> Vec<Self> {
        let room = match config {
            UpstreamConfig::ExProto(exproto) => exproto.link.event_queue.max(1),
            UpstreamConfig::Mqtt(_) => 1,
        };
        let (links, events): (Vec<_>, Vec<_>) = (0..threads.get()).map(|_| mpsc::channel(room)).unzip();
        let mut serves_handler = Some(ServedHandler { links, runtime });
        let shards = (0..threads.get()).filter_map(|thread| ThreadShards::new(thread, threads.get()));
        let seat = |(shards, exproto_events)| Self { shards, exproto_events, serves_handler: serves_handler.take() };
        shards.zip(events).map(seat).collect()
    }
}
