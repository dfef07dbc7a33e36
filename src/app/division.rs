//! Divides the contents of the store among the driver threads. Their number may have changed since the last run.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZero;

use crate::store::StoreContents;
use lwm2m_base::{Shard, ThreadShards};
use lwm2m_core::gateway::moves::newest_records;
use lwm2m_core::gateway::persistence::record::DeviceRecord;

/// Returns the part of each thread: the devices and associations of its shards, and what belongs to these devices. What
/// all threads need is of all. Several threads have no campaigns, because a campaign would take the devices of the
/// other threads for lost: the campaigns stay in the store for a program with one thread ([`suspended_campaigns`]).
pub(crate) fn divided(contents: StoreContents, threads: NonZero<u8>) -> Vec<StoreContents> {
    if threads == NonZero::<u8>::MIN {
        return vec![contents];
    }
    let thread_of = |shard: Shard| usize::from(ThreadShards::thread_of(shard, threads));
    let mut parts: Vec<StoreContents> = (0..threads.get())
        .map(|_| StoreContents {
            term: contents.term,
            store_clock: contents.store_clock,
            profiles: contents.profiles.clone(),
            generated_keys: contents.generated_keys.clone(),
            ..StoreContents::default()
        })
        .collect();
    // Of several records of one endpoint, the thread that restores the newest one removes the others.
    let (newest, older) = newest_records(contents.devices);
    let owner = |record: &DeviceRecord| (record.registration.endpoint.clone(), thread_of(record.shard()));
    let owners: HashMap<String, usize> = newest.iter().map(owner).collect();
    let owner_of = |endpoint: &str| owners.get(endpoint).copied().unwrap_or_default();
    for record in newest.into_iter().chain(older) {
        parts[owner_of(&record.registration.endpoint)].devices.push(record);
    }
    for association in contents.associations {
        parts[thread_of(association.id.shard())].associations.push(association);
    }
    for record in contents.retained_commands {
        parts[owner_of(&record.endpoint)].retained_commands.push(record);
    }
    for record in contents.awaited_bootstraps {
        parts[owner_of(&record.endpoint)].awaited_bootstraps.push(record);
    }
    for record in contents.firmware_jobs {
        parts[owner_of(&record.endpoint)].firmware_jobs.push(record);
    }
    parts
}

/// Returns the names of the campaigns that a program with so many threads leaves in the store.
pub(crate) fn suspended_campaigns(contents: &StoreContents, threads: NonZero<u8>) -> BTreeSet<String> {
    match threads {
        NonZero::<u8>::MIN => BTreeSet::new(),
        _ => contents.campaigns.iter().map(|record| record.campaign.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lwm2m_base::AssociationId;
    use lwm2m_core::gateway::persistence::record::{CampaignRecord, Change, ProfileRecord, RetainedCommandsRecord};
    use lwm2m_dtls::SavedAssociation;
    use lwm2m_testkit::scene::{QUERY, Scene};

    use super::*;

    /// A store with a device in each quarter of the shards, an association for each, and a campaign.
    fn contents() -> StoreContents {
        let mut scene = Scene::new();
        scene.gateway.restore(scene.now, Vec::new());
        scene.register(QUERY);
        let changes = scene.gateway.take_changes(scene.now, 1);
        let Some(Change::Put(record)) = changes.into_iter().next() else { panic!("a device is stored") };
        let device = |first: char| {
            let mut record = DeviceRecord::clone(&record);
            record.registration.endpoint = format!("device-{first}");
            record.location = format!("{first}{}", &record.location[1..]);
            record
        };
        let devices: Vec<DeviceRecord> = "ABCDabcd0123".chars().map(device).collect();
        let retained = devices.iter().map(|device| RetainedCommandsRecord {
            endpoint: device.registration.endpoint.clone(),
            commands: Vec::new(),
        });
        let association = |shard: Shard| SavedAssociation {
            id: AssociationId(u64::from(shard.number()) << 56),
            made_at: 0,
            reached_by: 0,
            bytes: vec![shard.number()].into(),
        };
        StoreContents {
            store_clock: Some(Duration::from_secs(7)),
            retained_commands: retained.collect(),
            devices,
            associations: Shard::all().map(association).collect(),
            profiles: vec![ProfileRecord { key: "profile".to_owned(), objects: None }],
            campaigns: vec![CampaignRecord { campaign: "spring".to_owned(), endpoint: None, json: None }],
            ..StoreContents::default()
        }
    }

    #[test]
    fn each_thread_has_the_devices_and_associations_of_its_shards_and_what_belongs_to_them() {
        for threads in [2, 3, 64].map(|threads| NonZero::new(threads).expect("not zero")) {
            let parts = divided(contents(), threads);
            assert_eq!(parts.len(), usize::from(threads.get()));
            for (thread, part) in (0..).zip(&parts) {
                let is_own = |shard| ThreadShards::thread_of(shard, threads) == thread;
                assert!(part.devices.iter().all(|record| is_own(record.shard())));
                assert!(part.associations.iter().all(|saved| is_own(saved.id.shard())));
                let mut devices: Vec<&str> =
                    part.devices.iter().map(|record| record.registration.endpoint.as_str()).collect();
                let mut retained: Vec<&str> =
                    part.retained_commands.iter().map(|record| record.endpoint.as_str()).collect();
                devices.sort_unstable();
                retained.sort_unstable();
                assert_eq!(devices, retained);
                assert_eq!((part.store_clock, part.profiles.len()), (Some(Duration::from_secs(7)), 1));
            }
            assert_eq!(parts.iter().map(|part| part.devices.len()).sum::<usize>(), 12);
            assert_eq!(parts.iter().map(|part| part.associations.len()).sum::<usize>(), 256);
        }
    }

    #[test]
    fn several_records_of_an_endpoint_are_in_the_thread_of_the_newest() {
        let mut contents = contents();
        let [newer, older] = [0, 1].map(|index| contents.devices[index].clone());
        let mut older = DeviceRecord { location: older.location, ..newer.clone() };
        older.last_heard = newer.last_heard.saturating_sub(Duration::from_secs(60));
        contents.devices = vec![older, newer.clone()];
        let threads = NonZero::new(64).expect("not zero");
        let parts = divided(contents, threads);
        let thread = usize::from(ThreadShards::thread_of(newer.shard(), threads));
        assert_eq!(parts[thread].devices.len(), 2);
        assert_eq!(parts[thread].devices[0], newer, "the one that is restored");
    }

    #[test]
    fn one_thread_has_everything_and_several_leave_campaigns_in_the_store() {
        let [one, two] = [1, 2].map(|threads| NonZero::new(threads).expect("not zero"));
        assert!(suspended_campaigns(&contents(), one).is_empty());
        assert_eq!(divided(contents(), one)[0].campaigns.len(), 1);
        assert_eq!(suspended_campaigns(&contents(), two).into_iter().collect::<Vec<_>>(), ["spring"]);
        assert!(divided(contents(), two).iter().all(|part| part.campaigns.is_empty()));
    }
}
