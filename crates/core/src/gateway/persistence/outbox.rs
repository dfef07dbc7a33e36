//! The final answers to commands that the broker may not have yet.
//!
//! 1. An answer is kept in the record of its device: one write removes the command and adds the answer, so that the
//!    final form of a command is decided once.
//! 2. The answer is published when that is stored ([`super::held_outputs`]).
//! 3. The broker's side has it, or never will: it is removed, with the next batch.
//! 4. The next process publishes what is left once more, with the same bytes.
//!
//! Nothing is kept unless outputs wait for the store. When a device registers again its answers stay, since those that
//! are queued for the broker stay as well. When a device leaves they are forgotten: there is no session to publish them
//! by.

use std::collections::HashMap;
use std::sync::Arc;

use super::record::AnswerRecord;
use crate::gateway::broker::{Publication, Ticket, UplinkClass};

/// Maximum number of answers that are kept for one endpoint. Further answers are published at once, and lost if a crash
/// comes before the broker has them.
const OF_ENDPOINT: usize = 64;
/// Maximum number of bytes of all answers that are kept. Further answers are published at once, as beyond
/// [`OF_ENDPOINT`].
const BYTES: usize = 32 * 1024 * 1024;
/// The bit that the serials of answers have, and other tickets do not. The serial of an answer is its ticket.
const ANSWER: u64 = 1 << 63;

#[derive(Debug, Default)]
pub(in crate::gateway) struct Outbox {
    by_endpoint: HashMap<Arc<str>, Vec<AnswerRecord>>,
    /// The endpoint of each answer, by its serial.
    endpoints: HashMap<u64, Arc<str>>,
    bytes: usize,
    last: u64,
}

impl Outbox {
    /// Keeps an answer for this endpoint. Returns the ticket of its publication; `None` if there is no room.
    pub(in crate::gateway) fn keep(&mut self, endpoint: &str, publication: &Publication) -> Option<Ticket> {
        let kept = self.by_endpoint.get(endpoint).map_or(0, Vec::len);
        if kept >= OF_ENDPOINT || self.bytes + publication.payload.len() > BYTES {
            return None;
        }
        let Publication { topic, qos, correlation, .. } = publication;
        let payload = str::from_utf8(&publication.payload).ok()?.to_owned();
        let serial = ANSWER | (self.last + 1);
        let (topic, correlation) = (topic.clone(), correlation.clone());
        self.add(endpoint, AnswerRecord { serial, topic, qos: *qos, correlation, payload });
        Some(Ticket(serial))
    }

    /// Takes the answers of an earlier process, or of another gateway. An answer whose serial is in use here gets a new
    /// one.
    pub(super) fn restore(&mut self, endpoint: &str, answers: Vec<AnswerRecord>) {
        for mut answer in answers.into_iter().filter(|answer| answer.serial & ANSWER != 0) {
            if self.endpoints.contains_key(&answer.serial) {
                answer.serial = ANSWER | (self.last + 1);
            }
            self.add(endpoint, answer);
        }
    }

    /// Returns the publications of the answers of this endpoint, in their order.
    pub(super) fn publications(&self, endpoint: &str) -> Vec<Publication> {
        self.by_endpoint.get(endpoint).into_iter().flatten().map(publication).collect()
    }

    /// Returns the answers of this endpoint, for its record.
    pub(super) fn records(&self, endpoint: &str) -> Vec<AnswerRecord> {
        self.by_endpoint.get(endpoint).cloned().unwrap_or_default()
    }

    /// Removes an answer that the broker's side has, or never will have. Returns its endpoint; `None` if the ticket is
    /// not that of an answer.
    pub(in crate::gateway) fn done(&mut self, ticket: Ticket) -> Option<Arc<str>> {
        let endpoint = self.endpoints.remove(&ticket.0)?;
        let answers = self.by_endpoint.get_mut(&endpoint)?;
        let place = answers.iter().position(|answer| answer.serial == ticket.0)?;
        self.bytes -= answers.remove(place).payload.len();
        if answers.is_empty() {
            self.by_endpoint.remove(&endpoint);
        }
        Some(endpoint)
    }

    /// Forgets the answers of a device that has left.
    pub(in crate::gateway) fn forget(&mut self, endpoint: &str) {
        for answer in self.by_endpoint.remove(endpoint).into_iter().flatten() {
            self.endpoints.remove(&answer.serial);
            self.bytes -= answer.payload.len();
        }
    }

    /// Returns the number of answers.
    pub(in crate::gateway) fn len(&self) -> usize {
        self.endpoints.len()
    }

    fn add(&mut self, endpoint: &str, answer: AnswerRecord) {
        self.last = self.last.max(answer.serial & !ANSWER);
        let endpoint: Arc<str> = endpoint.into();
        if self.endpoints.insert(answer.serial, Arc::clone(&endpoint)).is_none() {
            self.bytes += answer.payload.len();
            self.by_endpoint.entry(endpoint).or_default().push(answer);
        }
    }
}

fn publication(answer: &AnswerRecord) -> Publication {
    let AnswerRecord { serial, topic, qos, correlation, payload } = answer.clone();
    let (payload, ticket) = (payload.into(), Some(Ticket(serial)));
    Publication { topic, qos, payload, class: UplinkClass::Answer, retain: false, expiry: None, correlation, ticket }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn answer(payload: &str) -> Publication {
        let (topic, payload) = ("up/resp".to_owned(), payload.to_owned().into());
        let class = UplinkClass::Answer;
        Publication { topic, qos: 1, payload, class, retain: false, expiry: None, correlation: None, ticket: None }
    }

    #[test]
    fn an_answer_is_kept_until_it_is_done_and_the_next_process_gives_no_ticket_twice() {
        let mut outbox = Outbox::default();
        let [first, second] = ["a", "b"].map(|payload| outbox.keep("ep", &answer(payload)).expect("room"));
        assert_eq!(outbox.done(first).as_deref(), Some("ep"));
        assert_eq!((outbox.done(first), outbox.len(), outbox.bytes), (None, 1, 1));
        let mut next = Outbox::default();
        next.restore("ep", outbox.records("ep"));
        assert_eq!(next.publications("ep"), [Publication { ticket: Some(second), ..answer("b") }]);
        assert!(next.keep("ep", &answer("c")).is_some_and(|third| third > second));
        next.forget("ep");
        assert_eq!((next.len(), next.bytes, next.by_endpoint.len()), (0, 0, 0));
    }

    #[test]
    fn answers_of_two_gateways_with_one_serial_are_both_kept() {
        let [mut one, mut other] = [Outbox::default(), Outbox::default()];
        one.keep("a", &answer("of one")).expect("room");
        other.keep("b", &answer("of the other")).expect("room");
        one.restore("b", other.records("b"));
        let payloads = |endpoint| one.publications(endpoint).into_iter().map(|kept| kept.payload).collect::<Vec<_>>();
        assert_eq!((payloads("a"), payloads("b")), (vec![Bytes::from("of one")], vec!["of the other".into()]));
        assert_eq!(one.len(), 2);
    }

    #[test]
    fn the_answers_of_an_endpoint_and_the_bytes_of_all_are_bounded() {
        let mut outbox = Outbox::default();
        for _ in 0..OF_ENDPOINT {
            assert!(outbox.keep("ep", &answer("a")).is_some());
        }
        assert_eq!(outbox.keep("ep", &answer("a")), None);
        assert!(outbox.keep("other", &answer("a")).is_some());
        assert_eq!(outbox.keep("large", &answer(&"a".repeat(BYTES))), None);
        assert_eq!((outbox.len(), outbox.bytes), (OF_ENDPOINT + 1, OF_ENDPOINT + 1));
    }
}
