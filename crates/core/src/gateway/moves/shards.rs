//! Shards that a node of a cluster acquires and releases.
//!
//! Each node of a cluster serves some of the 256 shards. There is one gateway for each driver thread, whose set of
//! shards changes, and not one for each shard: limits, sessions at the broker and the object model are those of the
//! node, and an empty gateway takes memory. A device, its association and its tokens are of one shard
//! ([`DeviceRecord::shard`]), so that a shard can be taken out of a gateway as a whole.
//!
//! 1. The node acquires a shard and reads its records. [`Gateway::restore_shard`] continues its devices as after a
//!    restart: nothing is sent to them, and the broker is asked to connect them by their client IDs.
//! 2. While the node serves the shard, [`Gateway::use_term`] gives it newer terms for its DTLS records, which
//!    [`Gateway::take_wanted_terms`] asks for.
//! 3. Of a shard that the node gives up the commands in flight end first ([`Gateway::wind_down`]). Then it is written
//!    completely ([`Gateway::change_shard`]), and handed over ([`Gateway::hand_over_shard`]): outputs that wait for the
//!    store leave when the store has its records. If the node loses the shard before that, the outputs that still wait
//!    are dropped ([`Gateway::drop_outputs`]).
//! 4. A shard that was lost to another node is forgotten at once ([`Gateway::forget_shard`]), with all outputs that
//!    wait: its devices and the broker hear nothing.
//!
//! While a node may have lost its shards its driver neither calls the gateway nor polls outputs. So the gateway does
//! not know suspension.

use std::time::Instant;

use lwm2m_base::{Peer, Shard, ShardSet};
use lwm2m_dtls::{SavedAssociation, Term};

use crate::registry::RegistrationId;

use crate::gateway::Gateway;
use crate::gateway::broker::BrokerCommand;
use crate::gateway::firmware::jobs::record::FirmwareJobRecord;
use crate::gateway::persistence::held_outputs::Recipients;
use crate::gateway::persistence::record::{DeviceRecord, RetainedCommandsRecord};

/// The stored records of one shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardContents {
    pub devices: Vec<DeviceRecord>,
    pub associations: Vec<SavedAssociation>,
    pub retained_commands: Vec<RetainedCommandsRecord>,
    pub firmware_jobs: Vec<FirmwareJobRecord>,
}

/// The devices of a shard that was handed over, as the recipients of outputs that may still wait.
#[derive(Debug, Default)]
pub struct ShardRecipients {
    recipients: Recipients,
    publishers: Vec<RegistrationId>,
}

impl ShardRecipients {
    /// Returns the registrations as which the devices publish.
    pub fn publishers(&self) -> &[RegistrationId] {
        &self.publishers
    }

    /// Iterates over the addresses of the devices, by the listeners that they speak to.
    pub fn places(&self) -> impl Iterator<Item = Peer> {
        self.recipients.addresses().map(|(socket, address)| Peer::udp(socket, address))
    }
}

/// Shards.
impl Gateway {
    /// Takes a shard with its stored records, after [`Gateway::restore`] of what is no shard's. Its DTLS records are
    /// numbered in this term. The limits of devices and of associations do not hold for them: they are registered, and
    /// no other node has them.
    pub fn restore_shard(&mut self, now: Instant, (shard, term): (Shard, Term), contents: ShardContents) {
        let ShardContents { devices, associations, retained_commands, firmware_jobs } = contents;
        self.context.now = now;
        let mut shards = self.shards();
        shards.insert(shard);
        self.serve_shards(shards);
        if let Some(dtls) = &mut self.context.dtls {
            dtls.server.restore_shard(now, (shard, term), &associations);
        }
        self.handle_dtls();
        self.restore_devices(devices, usize::MAX);
        self.restore_retained_commands(retained_commands);
        self.restore_firmware_jobs(now, firmware_jobs);
        self.handle_coap();
    }

    /// Makes commands for a device wait until it sends a message, because the node does not know how to reach it.
    pub fn hold_until_heard(&mut self, endpoint: &str) {
        let devices = self.registrations.devices_mut();
        if let Some(id) = devices.registry().id_by_endpoint(endpoint)
            && let Some((device, _)) = devices.with_commands(id)
        {
            device.hold_until_heard();
        }
    }

    /// Returns the registration as which the device of this endpoint publishes.
    pub fn publisher(&self, endpoint: &str) -> Option<RegistrationId> {
        self.registrations.devices().registry().device_by_endpoint(endpoint).map(|device| device.publishes_as)
    }

    /// Numbers the DTLS records of a shard in this term from now on.
    pub fn use_term(&mut self, shard: Shard, term: Term) {
        if let Some(dtls) = &mut self.context.dtls {
            dtls.server.use_term(shard, term);
        }
    }

    /// Returns the shards that need a newer term; each shard is returned once for each term.
    pub fn take_wanted_terms(&mut self) -> ShardSet {
        self.context.dtls.as_mut().map_or(ShardSet::EMPTY, |dtls| dtls.server.take_wanted_terms())
    }

    /// Marks all records of a shard as changed.
    pub fn change_shard(&mut self, shard: Shard) {
        if let Some(dtls) = &mut self.context.dtls {
            dtls.server.change_shard(shard);
        }
        let devices = self.registrations.devices_mut();
        let of_shard = devices.registry().devices().filter(|device| device.shard() == shard);
        let endpoints: Vec<String> = of_shard.map(|device| device.registration.endpoint.clone()).collect();
        for endpoint in endpoints {
            self.context.changes.mark(&endpoint);
            devices.commands_mut().change_companions(&endpoint);
        }
    }

    /// Sends no more commands to the devices of a shard: they wait. Those in flight end.
    pub fn wind_down(&mut self, shard: Shard) {
        self.context.winding.insert(shard);
        let devices = self.registrations.devices().registry().devices();
        let busy = devices.filter(|device| device.shard() == shard && device.in_flight().is_some());
        let busy = busy.map(|device| device.id).collect();
        self.busy.insert(shard, busy);
    }

    /// Returns whether no command is in flight to a device of a shard, after [`Gateway::wind_down`].
    pub fn is_wound_down(&mut self, shard: Shard) -> bool {
        let Self { busy, registrations, .. } = self;
        let registry = registrations.devices().registry();
        let Some(busy) = busy.get_mut(&shard) else { return true };
        busy.retain(|id| registry.device(*id).is_some_and(|device| device.in_flight().is_some()));
        busy.is_empty()
    }

    /// Sends commands to the devices of a shard again that is not handed over after all.
    pub fn go_on(&mut self, now: Instant, shard: Shard) {
        self.context.now = now;
        self.busy.remove(&shard);
        if !self.context.winding.remove(shard) {
            return;
        }
        let devices = self.registrations.devices().registry().devices();
        let ids: Vec<_> = devices.filter(|device| device.shard() == shard).map(|device| device.id).collect();
        for id in ids {
            if let Some((device, commands)) = self.registrations.devices_mut().with_commands(id) {
                commands.send_next(&mut self.context, device);
            }
        }
        self.handle_coap();
    }

    /// Forgets a shard whose records are handed to the store, and that another node will have. What its devices and the
    /// broker are to be told still leaves. Registers of its devices, and those over its associations, that wait for the
    /// broker are answered 5.03: the other node registers these devices.
    pub fn hand_over_shard(&mut self, now: Instant, shard: Shard) -> ShardRecipients {
        self.context.now = now;
        let pending = self.registrations.pending_of(shard, self.is_only_shard(shard));
        self.registrations.hand_over_pending(&mut self.context, pending);
        // The answers have to leave before their associations are forgotten.
        self.handle_coap();
        let (devices, recipients) = self.take_out_shard(shard);
        for id in devices {
            drop(self.registrations.devices_mut().release(&mut self.context, id));
        }
        self.stop_serving(shard);
        recipients
    }

    /// Drops the outputs that still wait for the devices of a shard that was handed over, since another node has the
    /// shard: their records may not have been stored. Their sessions at the broker are left to the other node.
    pub fn drop_outputs(&mut self, now: Instant, of_shard: &ShardRecipients) {
        self.context.now = now;
        self.context.withdraw(&of_shard.recipients);
        for &registration in &of_shard.publishers {
            self.context.command_broker(BrokerCommand::Abandon { registration });
        }
    }

    /// Forgets a shard that another node has. All outputs for its devices and for their sessions at the broker are
    /// dropped. Registers that wait for the broker end without an answer if they came over associations of the shard;
    /// those of its devices over plain UDP are answered 5.03.
    pub fn forget_shard(&mut self, now: Instant, shard: Shard) {
        self.context.now = now;
        let pending = self.registrations.pending_of(shard, self.is_only_shard(shard));
        let (devices, of_shard) = self.take_out_shard(shard);
        self.context.withdraw(&of_shard.recipients);
        self.registrations.forget_pending(&mut self.context, pending, shard);
        for id in devices {
            self.registrations.devices_mut().forget(&mut self.context, id);
        }
        self.stop_serving(shard);
    }

    /// Forgets the associations of a shard. Returns its devices, and them as recipients of outputs.
    fn take_out_shard(&mut self, shard: Shard) -> (Vec<RegistrationId>, ShardRecipients) {
        let Self { context, registrations, .. } = self;
        let (mut devices, mut of_shard) = (Vec::new(), ShardRecipients::default());
        for device in registrations.devices().registry().devices().filter(|device| device.shard() == shard) {
            devices.push(device.id);
            of_shard.publishers.push(device.publishes_as);
            of_shard.recipients.add_registration(device.publishes_as);
            of_shard.recipients.add_address(device.peer.socket, device.peer.address);
        }
        if let Some(dtls) = &mut context.dtls {
            let places = dtls.server.forget_shard(shard);
            places.into_iter().for_each(|(socket, address)| of_shard.recipients.add_address(socket, address));
        }
        (devices, of_shard)
    }

    fn stop_serving(&mut self, shard: Shard) {
        self.context.changes.forget_shard(shard);
        let mut shards = self.shards();
        shards.remove(shard);
        self.serve_shards(shards);
        self.context.winding.remove(shard);
        self.busy.remove(&shard);
        self.handle_coap();
    }

    /// Returns the shards that the gateway serves.
    pub fn shards(&self) -> ShardSet {
        self.context.config.coap.shards
    }

    fn is_only_shard(&self, shard: Shard) -> bool {
        let mut others = self.shards();
        others.remove(shard);
        others.is_empty()
    }

    fn serve_shards(&mut self, shards: ShardSet) {
        self.context.config.coap.shards = shards;
        self.context.coap.serve_shards(shards);
        if let Some(dtls) = &mut self.context.dtls {
            dtls.server.serve_shards(shards);
        }
    }
}
