//! Sizes of the tables of the gateway.

use crate::coap;
use lwm2m_dtls as dtls;

use super::bootstrap::BootstrapServer;
use super::context::Context;
use super::intake::MessageIntake;
use super::registrations::Registrations;

/// The entries of each table: all of them are bounded, and empty when every device has left and its messages are
/// forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSizes {
    pub devices: usize,
    /// Bytes that the registrations of the devices take.
    pub registration_bytes: usize,
    /// Registers that wait for the broker.
    pub pending_registrations: usize,
    /// Commands that came before their device was registered.
    pub early_commands: usize,
    pub pending_commands: usize,
    /// Bytes of the commands that are kept: those that wait, early ones and those in flight.
    pub command_bytes: usize,
    /// Endpoints whose retained commands are remembered.
    pub retained_commands: usize,
    /// Profile IDs whose object list is kept.
    pub profiles: usize,
    /// Bootstrap sessions that run.
    pub bootstrap_sessions: usize,
    /// Commands that wait for a bootstrap session.
    pub awaited_bootstraps: usize,
    /// Keys that the bootstrap server generated.
    pub generated_keys: usize,
    /// Exchanges and observations of devices.
    pub exchanges: usize,
    /// Notifications whose acknowledgement waits for the broker.
    pub deferred_acks: usize,
    /// Paths that `auto_observe` has not observed yet.
    pub to_observe: usize,
    /// Addresses of unregistered peers in the tables of the rate limits.
    pub addresses: usize,
    /// Registered devices in the tables of the rate limits.
    pub senders: usize,
    /// Readers of firmware images that wait for the shell, and images that are described.
    pub image_requests: usize,
    /// Requests for blocks of firmware images that wait for their turn.
    pub deferred_pulls: usize,
    /// Firmware updates of devices.
    pub firmware_jobs: usize,
    /// Firmware campaigns, those that are over included.
    pub campaigns: usize,
    /// Devices of firmware campaigns.
    pub campaign_devices: usize,
    /// Firmware images that devices may fetch.
    pub image_offers: usize,
    pub deadlines: usize,
    /// Outputs that were not polled yet.
    pub outputs: usize,
    /// Peers whose messages wait until it is known which gateway of the program has their device.
    pub claim_questions: usize,
    /// Outputs that wait for the store.
    pub held_outputs: usize,
    /// Final answers that the broker may not have yet.
    pub unpublished_answers: usize,
    /// Devices whose presence is to be withdrawn.
    pub status_withdrawals: usize,
    pub coap: coap::CoapTableSizes,
    pub dtls: dtls::DtlsTableSizes,
}

/// Adds the sizes of the tables of another instance.
impl std::ops::AddAssign for TableSizes {
    fn add_assign(&mut self, other: Self) {
        lwm2m_base::add_fields!(self, other;
            devices, registration_bytes, pending_registrations, early_commands, pending_commands,
            command_bytes, retained_commands, profiles, bootstrap_sessions, awaited_bootstraps,
            generated_keys, exchanges, deferred_acks, to_observe, addresses, senders, image_requests,
            deferred_pulls, firmware_jobs, campaigns, campaign_devices, image_offers, deadlines, outputs,
            claim_questions, held_outputs, unpublished_answers, status_withdrawals, coap, dtls
        );
    }
}

impl TableSizes {
    /// Reads the sizes of all tables. The cost does not depend on the number of devices.
    pub(super) fn of(
        context: &Context,
        intake: &MessageIntake,
        bootstrap: &BootstrapServer,
        registrations: &Registrations,
    ) -> Self {
        let devices = registrations.devices();
        let totals = devices.registry().totals();
        Self {
            devices: devices.registry().len(),
            registration_bytes: totals.registration_bytes.sum(),
            pending_registrations: registrations.pending().len(),
            early_commands: devices.commands().early_commands(),
            pending_commands: totals.pending_commands.sum(),
            command_bytes: devices.commands().bytes(),
            retained_commands: devices.commands().retained.len(),
            profiles: registrations.profiles().len(),
            bootstrap_sessions: bootstrap.sessions(),
            awaited_bootstraps: context.awaited_bootstraps.len(),
            generated_keys: context.generated_keys.len(),
            exchanges: devices.commands().exchanges(),
            deferred_acks: totals.deferred_acks.sum(),
            to_observe: totals.scheduled_observations.sum(),
            addresses: intake.admission().addresses(),
            senders: intake.admission().senders(),
            image_requests: context.images.open_requests(),
            deferred_pulls: intake.deferred(),
            firmware_jobs: devices.commands().jobs.len(),
            campaigns: 0,
            campaign_devices: 0,
            image_offers: context.pulls.len(),
            deadlines: devices.deadlines(),
            outputs: context.outputs(),
            claim_questions: context.claims.len(),
            held_outputs: context.held.len(),
            unpublished_answers: context.outbox.len(),
            status_withdrawals: devices.status_client().len(),
            coap: context.coap.table_sizes(),
            dtls: context.associations(),
        }
    }
}

#[cfg(test)]
mod tests;
