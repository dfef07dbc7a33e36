use std::time::Instant;

use serde_json::json;

use super::*;
use crate::coap::options::{format, number};
use crate::coap::{EndpointEvent, Kind, Message, MessageId, Options, RequestId, Token};
use crate::gateway::broker::Ticket;
use crate::gateway::config::GatewayConfig;
use crate::gateway::fixtures::{Outputs, address, context, device, json, receive};
use crate::lwm2m::format_choice::Attempts;
use crate::mqtt::downlink;
use crate::registry::Observation;

const PATH: &str = "/3303/0/5700";

/// A device that has accepted the observation of [`PATH`].
struct Observed {
    context: Context,
    device: Device,
    notifications: Notifications,
    observation: ExchangeId,
    token: Token,
    last_message_id: u16,
}

impl Observed {
    fn new(acknowledging: AckMode) -> Self {
        let mut config = GatewayConfig::default();
        config.coap.acknowledge_notifications = acknowledging;
        let mut context = context(config);
        let mut device = device(7, &[], Instant::now());
        let observe = json!({ "reqID": 1, "msgType": "observe", "data": { "path": PATH } }).to_string();
        let command = downlink::parse(observe.as_bytes(), context.command_context(&device.registration)).unwrap();
        let formats = Attempts::first(&command.operation, &device.registration).formats();
        let request = command.operation.request_in(formats, &device.registration);
        let observation = context.coap.send_request(context.now, device.peer, request);
        device.observations.begin(observation, Observation::of(command, formats));

        let (_, request) = Outputs::take(&mut context).messages.remove(0);
        let (token, id) = (request.token, request.id);
        let answer = Message { kind: Kind::Acknowledgement, id, ..value(token, 0, 20.0) };
        let event = receive(&mut context, device.peer, &answer);
        assert!(matches!(event, Some(EndpointEvent::Response { observing: Some(0), .. })), "{event:?}");
        Self { context, device, notifications: Notifications::default(), observation, token, last_message_id: 0 }
    }

    /// The device sends a confirmable notification with this value. Returns its message id.
    fn notify(&mut self, number: u32, value_now: f64) -> MessageId {
        self.last_message_id += 1;
        let id = MessageId(self.last_message_id);
        let message = Message { id, ..value(self.token, number, value_now) };
        let event = receive(&mut self.context, self.device.peer, &message);
        let Some(EndpointEvent::Notification { observation, number, response, pending_ack }) = event else {
            panic!("no notification: {event:?}");
        };
        self.receive(ReceivedNotification { observation, number, received: Ok(&response), pending_ack, over: false });
        id
    }

    fn receive(&mut self, notification: ReceivedNotification) {
        self.notifications.received(&mut self.context, &mut self.device, notification);
    }

    /// The device sends a request that is answered when the publication with the returned ticket is done.
    fn send(&mut self) -> (MessageId, Ticket) {
        self.last_message_id += 1;
        let (id, request) = request(&mut self.context, self.last_message_id);
        let deferred = DeferredAck::Send(request);
        (id, self.notifications.defer(&mut self.context, &mut self.device, deferred))
    }

    fn published(&mut self, ticket: Ticket) -> Outputs {
        self.notifications.published(&mut self.context, &mut self.device, ticket);
        Outputs::take(&mut self.context)
    }

    fn queued(&mut self, ticket: Ticket) -> Outputs {
        self.notifications.queued(&mut self.context, &mut self.device, ticket);
        Outputs::take(&mut self.context)
    }

    fn unpublished(&mut self, ticket: Ticket) -> Outputs {
        self.notifications.unpublished(&mut self.context, &mut self.device, ticket);
        Outputs::take(&mut self.context)
    }

    fn outputs(&mut self) -> Outputs {
        Outputs::take(&mut self.context)
    }
}

/// Returns a confirmable notification of [`PATH`].
fn value(token: Token, number: u32, value: f64) -> Message {
    let mut options = Options::new();
    options.add_uint(number::OBSERVE, number);
    options.add_uint(number::CONTENT_FORMAT, format::SENML_JSON.into());
    let payload = json!([{ "n": PATH, "v": value }]).to_string().into_bytes();
    Message { kind: Kind::Confirmable, code: Code::CONTENT, id: MessageId(0), token, options, payload }
}

/// The device sends `POST /dp` with this message id.
fn request(context: &mut Context, id: u16) -> (MessageId, RequestId) {
    let mut options = Options::new();
    options.add_text(number::URI_PATH, super::send::PATH);
    let (id, token) = (MessageId(id), Token::new(&id.to_be_bytes()));
    let message = Message { kind: Kind::Confirmable, code: Code::POST, id, token, options, payload: Vec::new() };
    match receive(context, address(1), &message) {
        Some(EndpointEvent::Request { id: request, .. }) => (id, request),
        other => panic!("no request: {other:?}"),
    }
}

fn sent(outputs: &Outputs) -> Vec<(Kind, Code, MessageId)> {
    outputs.messages.iter().map(|(_, message)| (message.kind, message.code, message.id)).collect()
}

fn tickets(outputs: &Outputs) -> Vec<Option<Ticket>> {
    outputs.publications().into_iter().map(|(_, publication)| publication.ticket).collect()
}

fn acknowledgement(id: MessageId) -> (Kind, Code, MessageId) {
    (Kind::Acknowledgement, Code::EMPTY, id)
}

fn answer(code: Code, id: MessageId) -> (Kind, Code, MessageId) {
    (Kind::Acknowledgement, code, id)
}

fn ended(outcome: NotificationOutcome) -> Report {
    Report::Notification { endpoint: "dev-7".to_owned(), outcome }
}

// --- Notifications ---------------------------------------------------------------------------------------------------

#[test]
fn a_notification_is_published_and_acknowledged_once_the_broker_has_it() {
    let mut observed = Observed::new(AckMode::Deferred);
    let id = observed.notify(5, 21.5);
    let outputs = observed.outputs();
    assert_eq!(sent(&outputs), [], "it waits for the broker");
    assert_eq!(outputs.reports, [ended(NotificationOutcome::Published)]);
    let [(session, publication)] = outputs.publications()[..] else { panic!("{outputs:?}") };
    assert_eq!((session, publication.topic.as_str()), (observed.device.id, "notify"));
    assert_eq!((publication.class, publication.ticket), (UplinkClass::Notification, Some(Ticket(1))));
    let published = json(publication);
    assert_eq!(
        (&published["reqID"], &published["msgType"], &published["seqNum"]),
        (&json!(1), &json!("notify"), &json!(5))
    );
    assert_eq!(published["data"]["content"][0]["value"], json!(21.5));

    assert_eq!(sent(&observed.published(Ticket(1))), [acknowledgement(id)]);
    assert_eq!(sent(&observed.published(Ticket(1))), [], "a ticket is good for one acknowledgement");
}

#[test]
fn a_notification_that_was_acknowledged_on_receipt_has_no_ticket() {
    let mut observed = Observed::new(AckMode::OnReceipt);
    let id = observed.notify(5, 21.5);
    let outputs = observed.outputs();
    assert_eq!(sent(&outputs), [acknowledgement(id)]);
    assert_eq!(tickets(&outputs), [None]);
    assert!(observed.device.deferred_acks.is_empty());
}

#[test]
fn a_notification_that_is_not_published_is_never_acknowledged() {
    let mut observed = Observed::new(AckMode::Deferred);
    observed.notify(5, 21.5);
    observed.outputs();
    assert_eq!(sent(&observed.unpublished(Ticket(1))), []);
    assert_eq!(sent(&observed.published(Ticket(1))), [], "it is given up");
    assert!(observed.device.deferred_acks.is_empty());
}

#[test]
fn acknowledgements_follow_the_broker_and_not_the_order_of_the_notifications() {
    let mut observed = Observed::new(AckMode::Deferred);
    let (first, second) = (observed.notify(5, 21.5), observed.notify(6, 22.5));
    assert_eq!(tickets(&observed.outputs()), [Some(Ticket(1)), Some(Ticket(2))]);
    assert_eq!(sent(&observed.published(Ticket(2))), [acknowledgement(second)]);
    assert_eq!(sent(&observed.published(Ticket(1))), [acknowledgement(first)]);
}

#[test]
fn the_queue_of_the_broker_side_is_not_enough_for_an_acknowledgement_on_demand() {
    let mut observed = Observed::new(AckMode::Deferred);
    let id = observed.notify(5, 21.5);
    observed.outputs();
    assert_eq!(sent(&observed.queued(Ticket(1))), []);
    assert_eq!(sent(&observed.published(Ticket(1))), [acknowledgement(id)]);
}

#[test]
fn the_last_notification_ends_its_observation() {
    let mut observed = Observed::new(AckMode::OnReceipt);
    let (observation, gone) = (observed.observation, Response::new(Code::NOT_FOUND));
    let last =
        || ReceivedNotification { observation, number: None, received: Ok(&gone), pending_ack: None, over: true };
    observed.receive(last());
    let outputs = observed.outputs();
    assert_eq!(outputs.reports, [ended(NotificationOutcome::Ended)]);
    let [(_, publication)] = outputs.publications()[..] else { panic!("{outputs:?}") };
    let published = json(publication);
    assert_eq!((&published["data"]["code"], published.get("seqNum")), (&json!("4.04"), None));
    assert!(observed.device.observations.get(observation).is_none());

    observed.receive(last());
    let outputs = observed.outputs();
    assert!(outputs.broker.is_empty() && outputs.reports.is_empty(), "{outputs:?}");
}

#[test]
fn a_notification_that_cannot_be_read_is_published_as_400_and_its_observation_lives_on() {
    let mut observed = Observed::new(AckMode::OnReceipt);
    let observation = observed.observation;
    let mut garbage = Response::new(Code::CONTENT);
    garbage.options.add_uint(number::CONTENT_FORMAT, format::SENML_JSON.into());
    garbage.payload = b"[{".to_vec();
    let (number, pending_ack) = (Some(5), None);
    observed.receive(ReceivedNotification { observation, number, received: Ok(&garbage), pending_ack, over: false });
    let outputs = observed.outputs();
    let [(_, publication)] = outputs.publications()[..] else { panic!("{outputs:?}") };
    assert_eq!(json(publication)["data"]["code"], json!("4.00"));
    let [Report::UndecodableContent { endpoint, path, .. }, published] = &outputs.reports[..] else {
        panic!("{outputs:?}");
    };
    assert_eq!((endpoint.as_str(), path.as_str()), ("dev-7", PATH));
    assert_eq!(*published, ended(NotificationOutcome::Published));
    assert!(observed.device.observations.get(observation).is_some());
}

#[test]
fn a_superseded_notification_is_counted_and_not_published() {
    let mut observed = Observed::new(AckMode::OnReceipt);
    report_superseded(&mut observed.context, &observed.device);
    let outputs = observed.outputs();
    assert_eq!(outputs.reports, [ended(NotificationOutcome::Superseded)]);
    assert!(outputs.broker.is_empty() && outputs.messages.is_empty());
}

// --- Sends -----------------------------------------------------------------------------------------------------------

#[test]
fn a_send_is_answered_204_when_it_is_queued_unless_it_has_to_be_published() {
    let mut observed = Observed::new(AckMode::OnReceipt);
    let (id, ticket) = observed.send();
    assert_eq!(sent(&observed.queued(ticket)), [answer(Code::CHANGED, id)]);
    assert_eq!(sent(&observed.published(ticket)), [], "it has its answer");

    let mut observed = Observed::new(AckMode::Deferred);
    let (id, ticket) = observed.send();
    assert_eq!(sent(&observed.queued(ticket)), []);
    let outputs = observed.published(ticket);
    assert_eq!(sent(&outputs), [answer(Code::CHANGED, id)]);
    let (peer, endpoint) = (address(1), Some("dev-7".to_owned()));
    assert_eq!(outputs.reports, [Report::Send { peer, endpoint, code: Code::CHANGED }]);
}

#[test]
fn a_send_that_is_not_published_is_answered_503_with_the_time_of_the_next_try() {
    let mut observed = Observed::new(AckMode::Deferred);
    let (id, ticket) = observed.send();
    let outputs = observed.unpublished(ticket);
    assert_eq!(sent(&outputs), [answer(Code::SERVICE_UNAVAILABLE, id)]);
    assert_eq!(outputs.messages[0].1.options.uint(number::MAX_AGE), Ok(Some(30)));
    assert_eq!(sent(&observed.published(ticket)), [], "it has its answer");
}

// --- Bounds ----------------------------------------------------------------------------------------------------------

#[test]
fn the_oldest_of_too_many_waiting_answers_is_given_up() {
    let mut observed = Observed::new(AckMode::Deferred);
    let (oldest, oldest_ticket) = observed.send();
    for _ in 1..DEFERRED_ACKS_PER_DEVICE {
        observed.send();
    }
    assert_eq!(sent(&observed.outputs()), []);
    let (newest, newest_ticket) = observed.send();
    assert_eq!(sent(&observed.outputs()), [answer(Code::SERVICE_UNAVAILABLE, oldest)]);
    assert_eq!(observed.device.deferred_acks.len(), DEFERRED_ACKS_PER_DEVICE);
    assert_eq!(sent(&observed.published(oldest_ticket)), []);
    assert_eq!(sent(&observed.published(newest_ticket)), [answer(Code::CHANGED, newest)]);
}

#[test]
fn each_device_has_a_bound_of_its_own_and_no_ticket_of_another() {
    let mut observed = Observed::new(AckMode::Deferred);
    for _ in 0..DEFERRED_ACKS_PER_DEVICE {
        observed.send();
    }
    let mut other = device(8, &[], Instant::now());
    let (id, request) = request(&mut observed.context, 1000);
    let ticket = observed.notifications.defer(&mut observed.context, &mut other, DeferredAck::Send(request));
    assert_eq!(sent(&observed.outputs()), [], "nothing is given up");
    assert_eq!(sent(&observed.published(ticket)), [], "the ticket is not of this device");
    observed.notifications.published(&mut observed.context, &mut other, ticket);
    assert_eq!(sent(&observed.outputs()), [answer(Code::CHANGED, id)]);
}

#[test]
fn a_device_that_leaves_gets_503_for_its_sends_and_no_acknowledgement() {
    let mut observed = Observed::new(AckMode::Deferred);
    observed.notify(5, 21.5);
    let (id, ticket) = observed.send();
    observed.outputs();
    observed.notifications.forget(&mut observed.context, &mut observed.device);
    assert_eq!(sent(&observed.outputs()), [answer(Code::SERVICE_UNAVAILABLE, id)]);
    assert!(observed.device.deferred_acks.is_empty());
    assert_eq!(sent(&observed.published(Ticket(1))), []);
    assert_eq!(sent(&observed.published(ticket)), []);
}
