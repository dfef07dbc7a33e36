//! Handles messages of other driver threads: datagrams of this thread's devices, and devices that move.

use std::time::Instant;

use lwm2m_core::gateway::moves::claims::{ClaimAnswer, ClaimQuestion};

use crate::transport::BATCH;

use super::Driver;
use super::threads::{DatagramMessage, MoveMessage, ThreadInput};

impl Driver {
    /// Asks the thread that has a device for it.
    pub(super) fn ask_for_device(&mut self, question: ClaimQuestion) {
        let Some(thread) = &self.thread else { return };
        if let Some((question, answer)) = thread.ask(question) {
            self.take_answer(question, answer);
        }
    }

    pub(super) fn handle_thread(&mut self, now: Instant, input: ThreadInput) {
        match input {
            ThreadInput::Datagram(message) => self.handle_datagrams(now, message),
            ThreadInput::Move(MoveMessage::Release { question, asker, room }) => {
                let answer = self.gateway.release(now, &question);
                self.carry_out();
                if let Some(thread) = &self.thread {
                    thread.give(question, answer, (asker, room));
                }
            }
            ThreadInput::Move(MoveMessage::Released { question, answer, from }) => {
                let arrived = match &answer {
                    ClaimAnswer::Arrived(moved) => Some(moved.record.registration.endpoint.clone()),
                    ClaimAnswer::Mine | ClaimAnswer::Absent | ClaimAnswer::Forbidden(_) | ClaimAnswer::Unknown => None,
                };
                self.take_answer(question, answer);
                if let (Some(endpoint), Some(thread)) = (arrived, &mut self.thread) {
                    thread.note_arrival(endpoint, from);
                }
            }
            ThreadInput::Move(MoveMessage::HandedOver { endpoint }) => self.gateway.handed_over(&endpoint),
        }
    }

    /// Tells other threads which of the devices that came from them have a stored record of this thread.
    pub(super) fn hand_over_records(&mut self) {
        let Self { gateway, store, thread: Some(thread), .. } = self else { return };
        match store {
            Some(store) => thread.note_flushed(store.last(), |endpoint| gateway.has_change_of(endpoint)),
            None => thread.note_stored(None),
        }
    }

    pub(super) fn take_answer(&mut self, question: ClaimQuestion, answer: ClaimAnswer) {
        self.metrics.moves.of(&answer).inc();
        let now = self.now();
        self.gateway.handle_claim(now, question, answer);
    }

    /// Handles a message about datagrams, and those that have come already, at most one batch.
    fn handle_datagrams(&mut self, now: Instant, first: DatagramMessage) {
        let Self { gateway, thread: Some(thread), .. } = self else { return };
        let mut next = Some(first);
        for left in (0..BATCH).rev() {
            match next {
                Some(DatagramMessage::Forwarded { peer, datagram, from, is_learned }) => {
                    gateway.handle_datagram(now, peer, &datagram);
                    let has_device = gateway.has_device_at(peer);
                    if has_device != is_learned {
                        thread.teach(from, peer, has_device);
                    }
                }
                Some(DatagramMessage::Learn { flow, thread: other, has_device }) => {
                    thread.learn(now, flow, other, has_device);
                }
                None => return,
            }
            next = (left > 0).then(|| thread.next_datagram()).flatten();
        }
    }
}
