//! The requests of the console that wait for the answers to their commands.

use std::collections::HashMap;

use tokio::sync::oneshot;
use tracing::debug;

use lwm2m_core::command::AskId;
use lwm2m_core::gateway::operators::console_commands::ConsoleAnswer;

/// The number of waiting requests from which on abandoned ones are removed.
const CLEANUP_FROM: usize = 2_048;

/// Passes answers to the requests that wait for them. The console bounds the number of its commands.
#[derive(Debug, Default)]
pub(crate) struct Askers {
    waiting: HashMap<AskId, oneshot::Sender<ConsoleAnswer>>,
    last: u64,
}

impl Askers {
    /// Adds a request, and returns the name of its command.
    pub(super) fn add(&mut self, asker: oneshot::Sender<ConsoleAnswer>) -> AskId {
        if self.waiting.len() >= CLEANUP_FROM {
            self.waiting.retain(|_, asker| !asker.is_closed());
        }
        self.last += 1;
        let ask = AskId(self.last);
        self.waiting.insert(ask, asker);
        ask
    }

    /// Forgets a request whose command was not admitted.
    pub(super) fn forget(&mut self, ask: AskId) {
        self.waiting.remove(&ask);
    }

    pub(super) fn answer(&mut self, answer: ConsoleAnswer) {
        let asker = self.waiting.remove(&answer.ask);
        if asker.is_none_or(|asker| asker.send(answer).is_err()) {
            debug!("nobody waited for the answer to a command of the console");
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use lwm2m_core::gateway::operators::console_commands::AnswerOutcome;

    #[test]
    fn requests_that_nobody_waits_for_make_room() {
        let mut askers = Askers::default();
        for _ in 0..CLEANUP_FROM {
            askers.add(oneshot::channel().0);
        }
        let (asker, mut waiting) = oneshot::channel();
        let ask = askers.add(asker);
        assert_eq!(askers.waiting.len(), 1);
        let answer = ConsoleAnswer { ask, outcome: AnswerOutcome::Reset, took: None, payload: Bytes::new() };
        askers.answer(answer.clone());
        assert_eq!((waiting.try_recv(), askers.waiting.len()), (Ok(answer), 0));
    }
}
