//! Answers for devices, applications and the console.

use bytes::Bytes;

use crate::coap::{RequestId, Response};
use crate::command::{AskId, Origin, Reply, ResponseTopic};
use crate::registry::{Device, RegistrationId};

use super::Context;
use crate::gateway::broker::{BrokerCommand, Publication, Ticket, UplinkClass};
use crate::gateway::commands::final_answer::{FinalAnswer, Recipient};
use crate::gateway::firmware::campaigns::inbox::is_of_campaign;
use crate::gateway::operators::console_commands::ConsoleAnswer;
use crate::gateway::output::Output;
use crate::gateway::persistence::held_outputs::Awaited;
use crate::gateway::report::Report;

impl Context {
    pub(in crate::gateway) fn respond(&mut self, request: RequestId, response: Response) {
        self.coap.respond(self.now, request, response);
    }

    /// Publishes as the broker's client of this registration.
    pub(in crate::gateway) fn publish(&mut self, registration: RegistrationId, publication: Publication) {
        self.command_broker(BrokerCommand::Publish { registration, publication });
    }

    /// Answers a Send of this device.
    pub(crate) fn answer_send(&mut self, device: &Device, request: RequestId, response: Response) {
        let code = response.code;
        self.respond(request, response);
        let endpoint = Some(device.registration.endpoint.clone());
        self.report(Report::Send { peer: device.peer, endpoint, code });
    }

    /// Publishes to the device's topic for answers. The configuration may exclude the answers to the console's
    /// commands. Answers to the commands of campaigns are never published.
    pub(crate) fn publish_answer(&mut self, device: &Device, origin: &Origin, payload: Bytes) {
        if self.publishes_answers_to(origin) {
            let publication = Publication::new(device.topics.response(), payload, UplinkClass::Answer);
            self.publish(device.publishes_as, publication);
        }
    }

    fn publishes_answers_to(&self, origin: &Origin) -> bool {
        let is_hidden = origin.console().is_some() && !self.config.publish_console_answers;
        !is_hidden && *origin != Origin::Campaign
    }

    /// Publishes the same answer to the topic that the command named, if it named one, and to the device's own. The
    /// console gets the answer to its command by an output. What is published is kept until the broker has it.
    pub(crate) fn publish_final_answer(&mut self, device: &Device, recipient: Recipient<'_>, answer: FinalAnswer) {
        let Recipient { reply, origin } = recipient;
        match reply {
            Some(Reply::Topic(reply)) => {
                self.publish_kept(
                    device,
                    reply_publication(device.topics.response().qos, reply, answer.payload.clone()),
                );
            }
            Some(Reply::Asker(ask)) => self.answer_console(*ask, answer.clone()),
            None => {}
        }
        if self.publishes_answers_to(origin) {
            self.publish_kept(device, Publication::new(device.topics.response(), answer.payload, UplinkClass::Answer));
        }
    }

    /// Publishes a final answer when the store has it in place of the command. The store keeps it until the broker has
    /// accepted it.
    fn publish_kept(&mut self, device: &Device, publication: Publication) {
        if !self.held.is_enabled() {
            return self.publish(device.publishes_as, publication);
        }
        let endpoint = &device.registration.endpoint;
        let ticket = self.outbox.keep(endpoint, &publication);
        self.tell_when_stored(Awaited::Device(endpoint), |context| {
            context.publish(device.publishes_as, Publication { ticket, ..publication });
        });
    }

    /// Notes that the broker has accepted a publication, or never will. Returns whether it was a final answer.
    pub(crate) fn answer_is_done(&mut self, ticket: Ticket) -> bool {
        let endpoint = self.outbox.done(ticket);
        endpoint.as_ref().inspect(|endpoint| self.changes.mark(endpoint)).is_some()
    }

    /// Answers a request of the console, or the command of a campaign.
    pub(crate) fn answer_console(&mut self, ask: AskId, answer: FinalAnswer) {
        if is_of_campaign(ask) {
            return self.campaign_inbox.answer(ask, answer);
        }
        let FinalAnswer { outcome, took, payload } = answer;
        self.push(Output::Answer(ConsoleAnswer { ask, outcome, took, payload }));
    }

    /// Publishes an answer to the topic that the command named.
    pub(crate) fn publish_reply(
        &mut self,
        registration: RegistrationId,
        qos: u8,
        reply: &ResponseTopic,
        payload: Bytes,
    ) {
        self.publish(registration, reply_publication(qos, reply, payload));
    }
}

/// Returns the publication of an answer to the topic that its command named.
fn reply_publication(qos: u8, reply: &ResponseTopic, payload: Bytes) -> Publication {
    let ResponseTopic { topic, correlation } = reply.clone();
    Publication {
        topic,
        qos,
        payload,
        class: UplinkClass::Answer,
        retain: false,
        expiry: None,
        correlation,
        ticket: None,
    }
}
