//! Object lists by profile ID (LwM2M Core 1.2 section 6.2.1): a device may leave its object list out of a Register and
//! name it by the query item `pid`.
//!
//! 1. A list that a registered device sent together with a `pid` is kept under it.
//! 2. A Register with this `pid` and without a list gets the kept list. One whose profile ID is unknown has no list.
//! 3. The lists are in the store. Beyond `limits.profiles` the list that was used the longest time ago is evicted.
//!
//! Lists that came over plain UDP are not used for devices with a DTLS identity: anybody may have sent them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::lwm2m::register::{ObjectList, Registration};

use crate::gateway::persistence::record::{Change, ProfileRecord};

#[derive(Debug, Default)]
pub(in crate::gateway) struct Profiles {
    by_key: HashMap<Arc<str>, Profile>,
    /// The keys in the order of their last use.
    by_use: BTreeMap<u64, Arc<str>>,
    last_use: u64,
    /// Whether there is a store.
    keeps_changes: bool,
    /// The keys whose record in the store is out of date. There are no more of them than kept and stored lists.
    changes: BTreeSet<Arc<str>>,
}

#[derive(Debug)]
struct Profile {
    objects: ObjectList,
    last_use: u64,
    /// Whether the store may have a list under this key.
    is_stored: bool,
}

impl Profiles {
    /// Keeps what changes from now on for [`Profiles::take_changes`].
    pub(crate) fn keep_changes(&mut self) {
        self.keeps_changes = true;
    }

    /// Marks every list as changed.
    pub(in crate::gateway) fn change_all(&mut self) {
        if self.keeps_changes {
            self.changes.extend(self.by_key.keys().cloned());
        }
    }

    /// Gives a registration the kept list of its profile ID if it has none of its own.
    pub(super) fn complete(&mut self, registration: &mut Registration, is_secured: bool) {
        let Some(pid) = registration.profile_id().filter(|_| registration.objects().is_none()) else { return };
        let key = key(pid, is_secured);
        if let Some(profile) = self.by_key.get(key.as_str()) {
            registration.adopt_objects(profile.objects.clone());
            self.touch(&key);
        }
    }

    /// Keeps the list of a registered device under its profile ID. Returns the number of lists that were evicted for
    /// it.
    pub(super) fn learn(&mut self, registration: &Registration, is_secured: bool, most: usize) -> usize {
        let (Some(pid), Some(objects)) = (registration.profile_id(), registration.objects()) else { return 0 };
        if most == 0 {
            return 0;
        }
        let key = key(pid, is_secured);
        if self.by_key.get(key.as_str()).is_none_or(|known| known.objects != *objects) {
            let is_stored = self.by_key.get(key.as_str()).is_some_and(|known| known.is_stored);
            self.insert(&key, objects.clone(), is_stored);
            self.mark(&key);
        } else {
            self.touch(&key);
        }
        self.evict(most)
    }

    pub(in crate::gateway) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(in crate::gateway) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Returns the changes for the store, at most so many.
    pub(in crate::gateway) fn take_changes(&mut self, most: usize) -> Vec<Change> {
        let keys: Vec<Arc<str>> = std::iter::from_fn(|| self.changes.pop_first()).take(most).collect();
        keys.iter().map(|key| Change::Profile(self.take_record(key))).collect()
    }

    /// Restores the lists of an earlier process. Those beyond the limit are removed from the store.
    pub(in crate::gateway) fn restore(&mut self, records: Vec<ProfileRecord>, most: usize) {
        for ProfileRecord { key, objects } in records {
            match objects {
                Some(objects) if self.by_key.len() < most => self.insert(&key, objects, true),
                Some(_) | None => self.mark(&key),
            }
        }
    }

    fn insert(&mut self, key: &str, objects: ObjectList, is_stored: bool) {
        if let Some(former) = self.by_key.remove(key) {
            self.by_use.remove(&former.last_use);
        }
        let key: Arc<str> = key.into();
        self.last_use += 1;
        self.by_use.insert(self.last_use, Arc::clone(&key));
        self.by_key.insert(key, Profile { objects, last_use: self.last_use, is_stored });
    }

    fn touch(&mut self, key: &str) {
        let Some(profile) = self.by_key.get_mut(key) else { return };
        let Some(key) = self.by_use.remove(&profile.last_use) else { return };
        self.last_use += 1;
        profile.last_use = self.last_use;
        self.by_use.insert(self.last_use, key);
    }

    fn evict(&mut self, most: usize) -> usize {
        let mut evicted = 0;
        while self.by_key.len() > most
            && let Some((_, key)) = self.by_use.pop_first()
        {
            evicted += 1;
            if self.by_key.remove(&key).is_some_and(|evicted| evicted.is_stored) {
                self.mark(&key);
            } else {
                self.changes.remove(&key);
            }
        }
        evicted
    }

    fn mark(&mut self, key: &str) {
        if self.keeps_changes {
            self.changes.insert(key.into());
        }
    }

    fn take_record(&mut self, key: &str) -> ProfileRecord {
        let objects = self.by_key.get_mut(key).map(|profile| {
            profile.is_stored = true;
            profile.objects.clone()
        });
        ProfileRecord { key: key.to_owned(), objects }
    }
}

fn key(pid: &str, is_secured: bool) -> String {
    format!("{}:{pid}", if is_secured { "dtls" } else { "udp" })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::coap::options::number;
    use crate::coap::{Code, Request};

    use super::*;

    fn registration(pid: &str, objects: &str) -> Registration {
        let mut request = Request::new(Code::POST);
        for item in ["ep=a", "lwm2m=1.2", &format!("pid={pid}")] {
            request.options.add_text(number::URI_QUERY, item);
        }
        request.payload = objects.as_bytes().to_vec();
        Registration::from_register(&request, &(Duration::from_secs(1)..=Duration::from_secs(86_400)), None).unwrap()
    }

    fn completed(profiles: &mut Profiles, pid: &str, is_secured: bool) -> Option<Vec<String>> {
        let mut registration = registration(pid, "");
        profiles.complete(&mut registration, is_secured);
        registration.object_list().map(|objects| objects.map(str::to_owned).collect())
    }

    #[test]
    fn a_list_stands_in_for_a_missing_one_of_the_same_profile() {
        let mut profiles = Profiles::default();
        profiles.learn(&registration("x", "</1/0>,</3/0>"), false, 9);
        assert_eq!(completed(&mut profiles, "x", false).unwrap(), ["/1/0", "/3/0"]);
        assert_eq!(completed(&mut profiles, "y", false), None);
        assert_eq!(completed(&mut profiles, "x", true), None, "anybody may have sent it");
        let mut own = registration("x", "</5/0>");
        profiles.complete(&mut own, false);
        assert_eq!(own.object_list().unwrap().collect::<Vec<_>>(), ["/5/0"]);
    }

    #[test]
    fn the_list_that_was_used_the_longest_time_ago_is_evicted() {
        let mut profiles = Profiles::default();
        for pid in ["a", "b"] {
            assert_eq!(profiles.learn(&registration(pid, "</3/0>"), false, 2), 0);
        }
        assert!(completed(&mut profiles, "a", false).is_some());
        assert_eq!(profiles.learn(&registration("c", "</3/0>"), false, 2), 1);
        assert_eq!(completed(&mut profiles, "b", false), None);
        assert!(completed(&mut profiles, "a", false).is_some() && completed(&mut profiles, "c", false).is_some());
        assert_eq!(profiles.learn(&registration("d", "</3/0>"), false, 1), 2, "the limit has become smaller");
        assert_eq!((profiles.len(), profiles.by_use.len()), (1, 1));
        assert_eq!(profiles.learn(&registration("e", "</3/0>"), false, 0), 0);
        assert_eq!(profiles.len(), 1);
    }

    #[test]
    fn the_store_hears_of_new_changed_and_evicted_lists_and_gives_them_back() {
        let mut profiles = Profiles::default();
        profiles.keep_changes();
        profiles.learn(&registration("a", "</3/0>"), false, 1);
        let [Change::Profile(first)] = &profiles.take_changes(9)[..] else { panic!("one list") };
        assert_eq!((first.key.as_str(), first.objects.is_some()), ("udp:a", true));
        profiles.learn(&registration("a", "</3/0>"), false, 1);
        assert!(!profiles.has_changes(), "the same list");
        profiles.learn(&registration("b", "</3/0>"), true, 1);
        let changes = profiles.take_changes(9);
        let told: Vec<_> = changes
            .iter()
            .map(|change| match change {
                Change::Profile(record) => (record.key.as_str(), record.objects.is_some()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, [("dtls:b", true), ("udp:a", false)]);

        let mut restored = Profiles::default();
        restored.keep_changes();
        let third = ProfileRecord { key: "udp:c".to_owned(), ..first.clone() };
        restored.restore(vec![first.clone(), third], 1);
        assert_eq!(completed(&mut restored, "a", false).unwrap(), ["/3/0"]);
        let removed = ProfileRecord { key: "udp:c".to_owned(), objects: None };
        assert_eq!(restored.take_changes(9), [Change::Profile(removed)], "beyond the limit");
    }

    #[test]
    fn a_store_that_takes_nothing_does_not_make_the_changes_grow() {
        let mut profiles = Profiles::default();
        profiles.keep_changes();
        let learn =
            |profiles: &mut Profiles, pid: usize| profiles.learn(&registration(&pid.to_string(), "</3/0>"), false, 4);
        (0..4).for_each(|pid| assert_eq!(learn(&mut profiles, pid), 0));
        assert_eq!(profiles.take_changes(9).len(), 4);
        (4..100).for_each(|pid| assert_eq!(learn(&mut profiles, pid), 1));
        let (put, removed): (Vec<_>, Vec<_>) = profiles
            .take_changes(999)
            .into_iter()
            .partition(|change| matches!(change, Change::Profile(ProfileRecord { objects: Some(_), .. })));
        assert_eq!((put.len(), removed.len()), (4, 4));
    }
}
