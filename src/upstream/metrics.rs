//! The metrics of the broker connection. They belong to the state machines that count in them; the page of metrics only
//! shows them.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::meters::{ResultLabel, StateLabel, counter, counters, histograms};

/// A broker answers within milliseconds, or is in trouble.
const CALL_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// Counts what happens between the gateway and the broker.
#[derive(Debug)]
pub struct UpstreamMetrics {
    pub connections_attempted: Counter,
    pub connections_failed: Counter,
    pub connections_not_opened: Counter,
    pub connections_lost: Counter,
    pub connected: Counter,
    pub reconnected: Counter,
    pub moved: Counter,
    pub closed: Counter,
    pub referrals: Counter,
    pub nodes_failed: Counter,
    pub nodes_recovered: Counter,
    pub probes: Counter,
    pub authenticate_ok: Counter,
    pub authenticate_refused: Counter,
    pub authenticate_unavailable: Counter,
    pub subscribe_refused: Counter,
    pub publishes_ok: Counter,
    pub publishes_refused: Counter,
    pub publishes_failed: Counter,
    pub dropped_registrations: Counter,
    pub dropped_answers: Counter,
    pub dropped_notifications: Counter,
    pub dropped_sends: Counter,
    pub events: HandlerEvents,
    pub handler_queue_waits: Counter,
    pub messages_dropped: Counter,
    pub unknown_tokens: Counter,
    pub times: CallTimes,
}

/// The calls from EMQX to the ExProto handler.
#[derive(Debug)]
pub struct HandlerEvents {
    pub socket_created: Counter,
    pub socket_closed: Counter,
    pub received_bytes: Counter,
    pub timer_timeout: Counter,
    pub received_messages: Counter,
}

/// The time from a call to the broker to its answer, whatever the answer is.
#[derive(Debug)]
pub struct CallTimes {
    pub authenticate: Histogram,
    pub subscribe: Histogram,
    pub publish: Histogram,
    pub probe: Histogram,
}

impl UpstreamMetrics {
    /// Registers the metrics, every series with the value 0.
    pub fn register(registry: &mut Registry) -> Self {
        let attempted = "Connection attempts to the broker's listener";
        let failed = "Connection attempts that the broker's listener did not accept";
        let not_opened = "Broker connections that this machine could not open: no file descriptor, port or memory left";
        let lost = "Established broker connections that ended unexpectedly";
        let closed = "Clients that the broker closed for good: kicked, discarded, expired or refused";
        let referrals = "Referrals of clients to another server by the broker";
        let subscribe_refused = "Subscriptions to command topics that the broker refused";
        let handler_queue_waits = "Broker events delayed because the queue to the event loop was full";
        let messages_dropped = "Broker messages dropped: no device, or too many before the subscription was confirmed";
        let changes = counters(registry, "lwm2m_node_changes", "Availability changes of broker nodes by new state");
        let authentications = counters(registry, "lwm2m_authentications", "Authentication results by outcome");
        let [publishes_ok, publishes_refused, publishes_failed] = publishes(registry);
        let [dropped_registrations, dropped_answers, dropped_notifications, dropped_sends] = dropped(registry);
        let change = |state| changes(StateLabel { state });
        let authentication = |result| authentications(ResultLabel { result });
        Self {
            connections_attempted: counter(registry, "lwm2m_broker_connections_attempted", attempted),
            connections_failed: counter(registry, "lwm2m_broker_connections_failed", failed),
            connections_not_opened: counter(registry, "lwm2m_broker_connections_not_opened", not_opened),
            connections_lost: counter(registry, "lwm2m_broker_connections_lost", lost),
            connected: counter(registry, "lwm2m_clients_connected", "Devices connected to the broker as clients"),
            reconnected: counter(registry, "lwm2m_clients_reconnected", "Clients reconnected after a lost connection"),
            moved: counter(registry, "lwm2m_clients_moved", "Clients reconnected at another broker node"),
            closed: counter(registry, "lwm2m_clients_closed", closed),
            referrals: counter(registry, "lwm2m_broker_referrals", referrals),
            nodes_failed: change("down"),
            nodes_recovered: change("up"),
            probes: counter(registry, "lwm2m_node_probes", "Health probes of broker nodes"),
            authenticate_ok: authentication("ok"),
            authenticate_refused: authentication("refused"),
            authenticate_unavailable: authentication("unavailable"),
            subscribe_refused: counter(registry, "lwm2m_subscriptions_refused", subscribe_refused),
            publishes_ok,
            publishes_refused,
            publishes_failed,
            dropped_registrations,
            dropped_answers,
            dropped_notifications,
            dropped_sends,
            events: HandlerEvents::register(registry),
            handler_queue_waits: counter(registry, "lwm2m_broker_event_waits", handler_queue_waits),
            messages_dropped: counter(registry, "lwm2m_broker_messages_dropped", messages_dropped),
            unknown_tokens: counter(registry, "lwm2m_unknown_tokens", "Unknown tokens received on ExProto connections"),
            times: CallTimes::register(registry),
        }
    }
}

/// Registers the counters of publications by result.
fn publishes(registry: &mut Registry) -> [Counter; 3] {
    let help = "Publish calls to the broker by result; failed ones are retried";
    let publishes = counters(registry, "lwm2m_publishes", help);
    ["ok", "refused", "failed"].map(|result| publishes(ResultLabel { result }))
}

/// Registers the counters of dropped publications by class.
fn dropped(registry: &mut Registry) -> [Counter; 4] {
    let help = "Publications dropped: queue full, broker unavailable for too long, or too many failures";
    let dropped = counters(registry, "lwm2m_publications_dropped", help);
    ["registration", "answer", "notification", "send"].map(|class| dropped(ClassLabel { class }))
}

impl Default for UpstreamMetrics {
    /// Metrics that no page shows.
    fn default() -> Self {
        Self::register(&mut Registry::default())
    }
}

impl HandlerEvents {
    fn register(registry: &mut Registry) -> Self {
        let events = counters(registry, "lwm2m_broker_events", "Calls from EMQX to the ExProto handler by event");
        let event = |event| events(EventLabel { event });
        Self {
            socket_created: event("socket_created"),
            socket_closed: event("socket_closed"),
            received_bytes: event("received_bytes"),
            timer_timeout: event("timer_timeout"),
            received_messages: event("received_messages"),
        }
    }
}

impl CallTimes {
    fn register(registry: &mut Registry) -> Self {
        let help = "Time from a call to the broker to its answer";
        let times = histograms(registry, "lwm2m_broker_call", help, CALL_BUCKETS);
        let time = |call| times(CallLabel { call });
        Self {
            authenticate: time("authenticate"),
            subscribe: time("subscribe"),
            publish: time("publish"),
            probe: time("probe"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabel {
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabel {
    event: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabel {
    call: &'static str,
}
