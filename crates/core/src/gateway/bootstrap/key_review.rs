//! Compares the generated keys with the accounts: a key ends when no account generates it any more.
//!
//! Keys are compared only while all accounts are known: those of the file were read, and those that applications
//! publish have come from the broker.

use lwm2m_base::identity::PskIdentity;

use super::{AccountsChange, BootstrapServer, SessionId};
use crate::gateway::context::Context;
use crate::gateway::report::{BootstrapReport, Report};

/// The reason of a session that ends because its key was removed.
const KEY_ENDED: &str = "the generated key was removed";

impl BootstrapServer {
    /// Ends the keys that no account generates after this change, with their DTLS sessions.
    pub(super) fn review_keys(&mut self, context: &mut Context, change: AccountsChange) {
        if !(self.knows_patterns && self.client.knows_all_accounts()) {
            return;
        }
        let reviewed: Vec<PskIdentity> = match change {
            AccountsChange::None => return,
            AccountsChange::Of(identities) => identities,
            AccountsChange::Any => context.generated_keys.identities().cloned().collect(),
        };
        for identity in reviewed {
            let is_generated = self.accounts.generates(&identity);
            if context.generated_keys.review(context.now, &identity, is_generated) {
                self.key_ended(context, &identity);
            } else if is_generated {
                // The key may have ended before, and another key of the identity may be cached.
                context.forget_key(&identity);
            }
        }
    }

    /// Compares all keys with the accounts, if these are known.
    pub(crate) fn review_all_keys(&mut self, context: &mut Context) {
        self.review_keys(context, AccountsChange::Any);
    }

    /// Removes a generated key, and returns whether there was one. If an account still generates it, the next bootstrap
    /// of the device generates another one.
    pub(crate) fn remove_generated_key(&mut self, context: &mut Context, identity: &PskIdentity) -> bool {
        let was_there = context.generated_keys.remove(identity);
        if was_there {
            context.report(Report::Bootstrap(BootstrapReport::KeyRemoved { identity: identity.clone() }));
            self.key_ended(context, identity);
        }
        was_there
    }

    fn key_ended(&mut self, context: &mut Context, identity: &PskIdentity) {
        context.forget_key(identity);
        context.close_former_associations(identity);
        let writes = |(id, running): (&SessionId, &super::RunningSession)| {
            running.session.generated().contains(identity).then_some(*id)
        };
        let sessions: Vec<SessionId> = self.sessions.iter().filter_map(writes).collect();
        for id in sessions {
            self.fail(context, id, None, KEY_ENDED);
        }
    }
}
