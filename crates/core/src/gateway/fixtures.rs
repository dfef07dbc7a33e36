//! Builds what the unit tests of the gateway's parts need, such as a context and devices, and reads what the parts put
//! out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::coap::options::number;
use crate::coap::{Code, EndpointEvent, Message, Request};
use crate::lwm2m::model::Model;
use crate::lwm2m::register::{Registration, Update};
use crate::registry::{Device, Location, NewDevice, RegistrationId, Topic, TopicEnds, Topics};
use lwm2m_base::identity::{Identity, PskIdentity};
use lwm2m_base::{AssociationId, Peer};

use super::broker::{BrokerCommand, Publication};
use super::config::GatewayConfig;
use super::context::Context;
use super::operators::console_commands::ConsoleAnswer;
use super::output::Output;
use super::report::Report;
use super::wall_clock::WallClock;

/// The wall clock when the tests begin.
pub(crate) const YEAR_2026: Duration = Duration::from_secs(1_767_225_600);

/// Returns a peer of plain UDP.
pub(super) fn address(host: u8) -> Peer {
    Peer::udp(0, ([192, 0, 2, host], 5683).into())
}

/// Returns the peer of a DTLS association. Each of them has the same address.
pub(super) fn association(id: u64) -> Peer {
    Peer { association: Some(AssociationId(id)), ..Peer::udp(1, ([198, 51, 100, 1], 5684).into()) }
}

pub(super) fn psk(name: &str) -> Identity {
    Identity::Psk(PskIdentity::new(name.as_bytes()).expect("a short text is an identity"))
}

/// Returns a context without DTLS and without object definitions, whose time begins now.
pub(super) fn context(config: GatewayConfig) -> Context {
    Context::new(config, Arc::new(Model::default()), [7; 32], WallClock::new(Instant::now(), YEAR_2026))
}

/// Returns the values of a device `dev-ID` of plain UDP that registered with these query items. Its topics are named as
/// the fields of [`TopicEnds`]; its presence is not published.
pub(crate) fn new_device(id: u64, query: &[&str], last_heard: Instant) -> NewDevice {
    NewDevice {
        id: RegistrationId(id),
        registration: registration(id, query),
        location: Location::from_text(id.to_string()),
        peer: address(1),
        identity: None,
        topics: Topics::new(String::new(), topic_ends()),
        last_heard,
    }
}

/// Returns topics that are named as the fields, without a mountpoint. The presence is not published.
pub(crate) fn topic_ends() -> TopicEnds {
    let topic = |name: &str| Topic { name: name.to_owned(), qos: 0 };
    TopicEnds {
        command: topic("command"),
        response: topic("response"),
        notify: topic("notify"),
        send: Some(topic("send")),
        register: topic("register"),
        update: topic("update"),
        firmware: topic("firmware"),
        status: None,
    }
}

pub(super) fn device(id: u64, query: &[&str], last_heard: Instant) -> Device {
    Device::new(new_device(id, query, last_heard))
}

/// Returns the Update with these query items that such a device sends.
pub(super) fn update(device: &Device, query: &[&str]) -> Update {
    let mut request = Request::new(Code::POST);
    query.iter().for_each(|item| request.options.add_text(number::URI_QUERY, item));
    let lifetimes = GatewayConfig::default().lifetimes;
    device.registration.read_update(&request, &lifetimes).expect("the Update is valid")
}

/// Returns the registration of a device `dev-ID` of LwM2M 1.1.
fn registration(id: u64, query: &[&str]) -> Registration {
    let lifetimes = GatewayConfig::default().lifetimes;
    Registration::from_register(&register(id, query), &lifetimes, None).expect("the Register is valid")
}

fn register(id: u64, query: &[&str]) -> Request {
    let mut request = Request::new(Code::POST);
    let endpoint = format!("ep=dev-{id}");
    for item in [endpoint.as_str(), "lwm2m=1.1"].iter().chain(query) {
        request.options.add_text(number::URI_QUERY, item);
    }
    request
}

/// Hands a message of this peer to the CoAP endpoint, and returns what the endpoint makes of it.
pub(super) fn receive(context: &mut Context, peer: Peer, message: &Message) -> Option<EndpointEvent> {
    context.coap.handle_datagram(context.now, peer, &message.encode());
    context.coap.poll_event()
}

/// Reads the JSON of a publication.
pub(super) fn json(publication: &Publication) -> Value {
    serde_json::from_slice(&publication.payload).expect("the gateway publishes JSON")
}

/// What a part has put out since the last look, by its receiver, in order.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    pub messages: Vec<(Peer, Message)>,
    pub broker: Vec<BrokerCommand>,
    pub answers: Vec<ConsoleAnswer>,
    pub reports: Vec<Report>,
    pub image_requests: Vec<Output>,
}

impl Outputs {
    /// Takes what the context has. Reports of single datagrams are left out.
    pub(super) fn take(context: &mut Context) -> Self {
        context.flush_coap();
        let mut outputs = Self::default();
        while let Some(output) = context.pop_output() {
            match output {
                Output::Transmit(transmit) => {
                    let message = Message::decode(&transmit.datagram).expect("the gateway sends CoAP");
                    outputs.messages.push((transmit.peer, message));
                }
                Output::Broker(command) => outputs.broker.push(command),
                Output::Answer(answer) => outputs.answers.push(answer),
                Output::Report(Report::Datagram { .. }) => {}
                Output::Report(report) => outputs.reports.push(report),
                Output::DescribeImage { .. } | Output::ReadImage { .. } => outputs.image_requests.push(output),
                Output::FindKey(_) | Output::Claim(_) | Output::Unclaim { .. } | Output::Idle(_) => {
                    panic!("no part without DTLS asks for this: {output:?}")
                }
            }
        }
        outputs
    }

    pub(super) fn publications(&self) -> Vec<(RegistrationId, &Publication)> {
        let published = self.broker.iter().filter_map(|command| match command {
            BrokerCommand::Publish { registration, publication } => Some((*registration, publication)),
            BrokerCommand::Connect { .. }
            | BrokerCommand::Resume { .. }
            | BrokerCommand::SetLifetime { .. }
            | BrokerCommand::Confirm { .. }
            | BrokerCommand::Disconnect { .. }
            | BrokerCommand::HandOver { .. }
            | BrokerCommand::Abandon { .. } => None,
        });
        published.collect()
    }
}
