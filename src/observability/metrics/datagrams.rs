//! Counts the CoAP messages of devices by outcome, each exactly once.

use lwm2m_core::coap::MessageDecodeError;
use lwm2m_core::gateway::report::{DatagramOutcome, DropReason};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use crate::meters::counters;

use super::labels::DatagramLabels;

#[derive(Debug)]
pub(crate) struct DatagramCounters {
    request: Counter,
    response: Counter,
    notification: Counter,
    acknowledgement: Counter,
    reset: Counter,
    ping: Counter,
    duplicate: Counter,
    refused: Counter,
    dropped: DropCounters,
}

#[derive(Debug)]
struct DropCounters {
    too_short: Counter,
    version: Counter,
    token_length: Counter,
    malformed_empty: Counter,
    empty_payload: Counter,
    reserved_class: Counter,
    malformed: Counter,
    unexpected: Counter,
    stale_notification: Counter,
    invalid_code_for_type: Counter,
    critical_option: Counter,
    too_many_requests: Counter,
    rate_limited: Counter,
    device_rate_limited: Counter,
}

impl DatagramCounters {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let counters = counters(registry, "lwm2m_datagrams", "CoAP messages received from devices by outcome");
        let accepted = |outcome| counters(DatagramLabels::accepted(outcome));
        Self {
            request: accepted("request"),
            response: accepted("response"),
            notification: accepted("notification"),
            acknowledgement: accepted("acknowledgement"),
            reset: accepted("reset"),
            ping: accepted("ping"),
            duplicate: accepted("duplicate"),
            refused: accepted("refused"),
            dropped: DropCounters::new(|reason| counters(DatagramLabels::dropped(reason))),
        }
    }

    pub(super) fn of(&self, outcome: DatagramOutcome) -> &Counter {
        match outcome {
            DatagramOutcome::Request => &self.request,
            DatagramOutcome::Response => &self.response,
            DatagramOutcome::Notification => &self.notification,
            DatagramOutcome::Acknowledgement => &self.acknowledgement,
            DatagramOutcome::Reset => &self.reset,
            DatagramOutcome::Ping => &self.ping,
            DatagramOutcome::Duplicate => &self.duplicate,
            DatagramOutcome::Refused => &self.refused,
            DatagramOutcome::Dropped(reason) => self.dropped.of(reason),
        }
    }
}

impl DropCounters {
    fn new(dropped: impl Fn(&'static str) -> Counter) -> Self {
        Self {
            too_short: dropped("too_short"),
            version: dropped("version"),
            token_length: dropped("token_length"),
            malformed_empty: dropped("malformed_empty"),
            empty_payload: dropped("empty_payload"),
            reserved_class: dropped("reserved_class"),
            malformed: dropped("malformed"),
            unexpected: dropped("unexpected"),
            stale_notification: dropped("stale_notification"),
            invalid_code_for_type: dropped("invalid_code_for_type"),
            critical_option: dropped("critical_option"),
            too_many_requests: dropped("too_many_requests"),
            rate_limited: dropped("rate_limited"),
            device_rate_limited: dropped("device_rate_limited"),
        }
    }

    fn of(&self, reason: DropReason) -> &Counter {
        match reason {
            DropReason::NoMessage(MessageDecodeError::TooShort) => &self.too_short,
            DropReason::NoMessage(MessageDecodeError::Version) => &self.version,
            DropReason::NoMessage(MessageDecodeError::TokenLength) => &self.token_length,
            DropReason::NoMessage(MessageDecodeError::MalformedEmpty) => &self.malformed_empty,
            DropReason::NoMessage(MessageDecodeError::EmptyPayload) => &self.empty_payload,
            DropReason::NoMessage(MessageDecodeError::ReservedClass) => &self.reserved_class,
            DropReason::NoMessage(MessageDecodeError::Malformed) => &self.malformed,
            DropReason::Unexpected => &self.unexpected,
            DropReason::StaleNotification => &self.stale_notification,
            DropReason::InvalidCodeForType => &self.invalid_code_for_type,
            DropReason::CriticalOption => &self.critical_option,
            DropReason::TooManyRequests => &self.too_many_requests,
            DropReason::RateLimited => &self.rate_limited,
            DropReason::DeviceRateLimited => &self.device_rate_limited,
        }
    }
}
