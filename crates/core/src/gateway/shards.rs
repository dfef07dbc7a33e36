//! Shards that come and go, in a cluster of gateways.
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
//! 3. A shard that the node gives up is written completely ([`Gateway::change_shard`]), and forgotten. A shard that was
//!    lost to another node is forgotten at once, with all outputs that wait: its devices and the broker hear nothing.
//!
//! While a node may have lost its shards its driver neither calls the gateway nor polls outputs. So the gateway does
//! not know suspension.

use std::time::Instant;

use lwm2m_base::{Shard, ShardSet};
use lwm2m_dtls::{SavedAssociation, Term};

use crate::registry::RegistrationId;

use super::Gateway;
use super::firmware::record::FirmwareJobRecord;
use super::held_outputs::Recipients;
use super::record::{DeviceRecord, RetainedCommandsRecord};

/// The stored records of one shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardContents {
    pub devices: Vec<DeviceRecord>,
    pub associations: Vec<SavedAssociation>,
    pub retained_commands: Vec<RetainedCommandsRecord>,
    pub firmware_jobs: Vec<FirmwareJobRecord>,
}

/// Says how a gateway loses a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardEnd {
    /// All its records are stored. What is queued for the broker is published.
    HandedOver,
    /// Another node has taken it.
    Lost,
}

/// Shards.
impl Gateway {
    /// Takes a shard with its stored records, after [`Gateway::restore`] of what is no shard's. Its DTLS records are
    /// numbered in this term.
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
        self.restore_devices(devices);
        self.restore_retained_commands(retained_commands);
        self.restore_firmware_jobs(now, firmware_jobs);
        self.handle_coap();
    }

    /// Numbers the DTLS records of a shard in this term from now on.
    pub fn use_term(&mut self, shard: Shard, term: Term) {
        if let Some(dtls) = &mut self.context.dtls {
            dtls.server.use_term(shard, term);
        }
    }

    /// Returns the shards that need a newer term, each once after each use.
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

    /// Forgets a shard that another node has from now on, or will have. Registers over its associations end without an
    /// answer. Of a lost shard all outputs for its devices and for their sessions at the broker are dropped.
    pub fn forget_shard(&mut self, now: Instant, shard: Shard, end: ShardEnd) {
        self.context.now = now;
        let Self { context, registrations, .. } = self;
        let of_shard = registrations.devices().registry().devices().filter(|device| device.shard() == shard);
        let devices: Vec<_> = of_shard.map(|device| (device.id, device.publishes_as, device.peer)).collect();
        let mut recipients = Recipients::default();
        for (_, publisher, peer) in &devices {
            recipients.add_registration(*publisher);
            recipients.add_address(peer.socket, peer.address);
        }
        if let Some(dtls) = &mut context.dtls {
            let places = dtls.server.forget_shard(shard);
            places.into_iter().for_each(|(socket, address)| recipients.add_address(socket, address));
        }
        let ids: Vec<RegistrationId> = devices.into_iter().map(|(id, ..)| id).collect();
        match end {
            ShardEnd::HandedOver => {
                ids.into_iter().for_each(|id| drop(registrations.devices_mut().release(context, id)))
            }
            ShardEnd::Lost => {
                context.withdraw(&recipients);
                ids.into_iter().for_each(|id| registrations.devices_mut().forget(context, id));
            }
        }
        registrations.forget_pending(context, shard);
        let mut shards = self.shards();
        shards.remove(shard);
        self.serve_shards(shards);
        self.handle_coap();
    }

    /// Returns the shards that the gateway serves.
    pub fn shards(&self) -> ShardSet {
        self.context.config.coap.shards
    }

    fn serve_shards(&mut self, shards: ShardSet) {
        self.context.config.coap.shards = shards;
        self.context.coap.serve_shards(shards);
        if let Some(dtls) = &mut self.context.dtls {
            dtls.server.serve_shards(shards);
        }
    }
}
