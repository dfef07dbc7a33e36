//! Endpoint names in a cluster: the store tells which shard has each.

use lwm2m_core::gateway::claims::{ClaimAnswer, ClaimPurpose, ClaimQuestion, DeviceName};

use crate::store::redis::shared::EngineAsk;
use crate::store::redis::shared::names::{NameAnswer, NameAsk, NameHolder};

use super::Driver;

impl Driver {
    /// Asks the store whether another node has the endpoint of a Register. A device of another node does not come by
    /// other messages: it stays where it is until it registers.
    pub(super) fn ask_for_name(&mut self, question: ClaimQuestion) {
        let asked = match (&self.cluster, question.purpose, &question.device) {
            (Some(seat), ClaimPurpose::Register, DeviceName::Endpoint(_)) => {
                seat.ask(EngineAsk::Name(NameAsk::Claim(question)))
            }
            _ => return self.take_answer(question, ClaimAnswer::Absent),
        };
        if let Err(EngineAsk::Name(NameAsk::Claim(question))) = asked {
            self.take_answer(question, ClaimAnswer::Unknown);
        }
    }

    pub(super) fn give_name_back(&self, endpoint: String) {
        // A claim that cannot be given back runs out.
        let (Some(Ok(()) | Err(_)) | None) = self.cluster.as_ref().map(|seat| seat.ask(EngineAsk::Unclaim(endpoint)));
    }

    /// Takes an answer of the store.
    pub(super) fn handle_name(&mut self, answer: NameAnswer) {
        match answer {
            NameAnswer::Found(name, holder) => {
                let now = self.now();
                let Self { gateway, cluster: Some(seat), .. } = self else { return };
                seat.forwarding.handle_name(now, gateway, &name, holder);
            }
            NameAnswer::Claimed(question, holder) => {
                let answer = match holder {
                    NameHolder::Free => ClaimAnswer::Mine,
                    // The gateway does not have the device: its record is about to be removed.
                    NameHolder::Shard { shard, .. } if self.gateway.shards().contains(shard) => ClaimAnswer::Mine,
                    // Also if this node has the lease: the shard is being read or handed over, and who may use the name
                    // is not known.
                    NameHolder::Shard { .. } | NameHolder::Claimed | NameHolder::Unknown => ClaimAnswer::Unknown,
                };
                self.take_answer(question, answer);
            }
        }
    }
}
