//! What the member of the cluster asks of the store: requests that go together, and their answers.

use crate::clock::monotonic_now;
use ::redis::{Cmd, Pipeline};
use lwm2m_cluster::MemberEvent;
use lwm2m_cluster::engine::EngineRequest;

use super::{AT_ONCE, SharedAttemptError, SharedKeeper};
use crate::store::redis::lease::AnswerError;
use crate::store::redis::shared::names::{NameAnswer, NameAsk};
use crate::store::redis::shared::requests::{FORMAT, RoundLists, SharedRound, parse_acquisition, parse_location};
use crate::store::redis::shared::{EngineAnswer, EngineAsk};
use crate::store::redis::{RedisError, random_text};

impl SharedKeeper {
    /// Does what was asked first, together with what was asked after it and is of the same kind.
    pub(super) async fn do_asked(&mut self) -> Result<(), SharedAttemptError> {
        match self.queue.front() {
            Some(EngineAsk::Request(EngineRequest::Round { .. })) => self.ask_round().await,
            Some(EngineAsk::Load { .. }) => self.load().await,
            Some(EngineAsk::Name(NameAsk::Take(_))) => self.take_device().await,
            Some(_) => self.ask_together().await,
            None => Ok(()),
        }
    }

    async fn ask_round(&mut self) -> Result<(), SharedAttemptError> {
        let Some(EngineAsk::Request(EngineRequest::Round { asked, entry, renewals })) = self.queue.pop_front() else {
            return Ok(());
        };
        if asked + self.parts.identity.timing.renew < monotonic_now() {
            // A newer one follows.
            return Ok(());
        }
        let request = self.parts.identity.round((&entry, &self.report), &renewals, self.seq, &random_text()?);
        let lists: RoundLists = self.ask(&request).await?;
        match SharedRound::parse(asked, lists)? {
            SharedRound::OtherFormat(stored) => Err(RedisError::OtherFormat { stored, expected: FORMAT }.into()),
            SharedRound::OtherKey => Err(RedisError::OtherSealKey.into()),
            SharedRound::NewKey(node) => Err(RedisError::NewSealKey(node).into()),
            SharedRound::Answered { answer, database, nodes } => {
                let before = self.database.replace(database);
                if before.is_some() && before != self.database {
                    self.contents_lost();
                }
                self.rewrite = self.parts.identity.rewrite_time(&nodes);
                self.tell_member(EngineAnswer::Nodes(nodes));
                self.tell_member(EngineAnswer::Event(MemberEvent::Round(*answer)));
                Ok(())
            }
        }
    }

    /// Asks for leases, claims and the like, all that wait one after the other.
    async fn ask_together(&mut self) -> Result<(), SharedAttemptError> {
        let mut asked = Vec::new();
        while asked.len() < AT_ONCE
            && let Some(ask) = self.queue.pop_front()
        {
            match self.command(&ask) {
                Some(command) => asked.push((ask, command)),
                None => {
                    self.queue.push_front(ask);
                    break;
                }
            }
        }
        let mut commands = Pipeline::new();
        for (_, command) in &asked {
            commands.add_command(command.clone());
        }
        let patience = self.patience();
        let answered = self.ask_all(&commands, patience).await;
        let answers: Vec<Vec<String>> = match answered {
            Ok(answers) => answers,
            Err(error) => {
                asked.into_iter().for_each(|(ask, _)| self.give_up(ask));
                return Err(error.into());
            }
        };
        // An answer that cannot be read fails the attempt, but not before the others are taken.
        let mut taken = Ok(());
        for ((ask, _), answer) in asked.into_iter().zip(answers) {
            taken = self.take_answer(ask, answer).and(taken);
        }
        Ok(taken?)
    }

    /// Returns the command for what is asked; `None` if it is not asked together with others.
    fn command(&self, ask: &EngineAsk) -> Option<Cmd> {
        let identity = &self.parts.identity;
        match ask {
            EngineAsk::Request(request) => identity.lease_request(request, self.seq),
            EngineAsk::Name(ask) => ask.command(identity, self.rewrite),
            EngineAsk::Unclaim(endpoint) => Some(identity.unclaim(endpoint)),
            EngineAsk::Leave(_) => Some(identity.leave()),
            EngineAsk::Locate { endpoint, .. } => Some(identity.locate(endpoint)),
            EngineAsk::Drain { process, is_drained, .. } => Some(identity.drain(*process, *is_drained)),
            EngineAsk::Load { .. } | EngineAsk::Discard(_) | EngineAsk::Report(_) => None,
        }
    }

    fn take_answer(&mut self, ask: EngineAsk, answer: Vec<String>) -> Result<(), AnswerError> {
        match ask {
            EngineAsk::Request(EngineRequest::Acquire { asked, shard, .. }) => {
                let answer = parse_acquisition(answer)?;
                self.tell_member(EngineAnswer::Event(MemberEvent::Acquired { asked, shard, answer }));
            }
            EngineAsk::Name(ask) => {
                let (answer, read) = ask.read(answer);
                self.answer(answer);
                return read;
            }
            EngineAsk::Locate { found, .. } => {
                // Who has asked may have stopped waiting.
                let (Ok(()) | Err(_)) = found.send(parse_location(answer)?);
            }
            EngineAsk::Drain { noted, .. } => {
                let (Ok(()) | Err(())) = noted.send(());
            }
            EngineAsk::Leave(done) => {
                // The member task may have stopped waiting.
                let (Ok(()) | Err(())) = done.send(());
            }
            EngineAsk::Request(EngineRequest::Release { shard, term, .. }) => {
                // A release that was too late is asked for again.
                if answer.first().is_some_and(|word| word == "released") {
                    self.tell_member(EngineAnswer::Event(MemberEvent::Released { shard, term }));
                }
            }
            EngineAsk::Request(EngineRequest::Round { .. })
            | EngineAsk::Unclaim(_)
            | EngineAsk::Load { .. }
            | EngineAsk::Report(_)
            | EngineAsk::Discard(_) => {}
        }
        Ok(())
    }

    /// Drops what the server did not answer. The member task repeats its requests; a lease or a claim that was not
    /// given back runs out.
    pub(super) fn give_up(&mut self, ask: EngineAsk) {
        if let EngineAsk::Name(ask) = ask {
            self.answer(ask.unanswered());
        }
    }

    pub(super) fn answer(&self, answer: NameAnswer) {
        self.tell_member(EngineAnswer::Name(Box::new(answer)));
    }
}
