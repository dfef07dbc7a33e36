use lwm2m_base::AssociationId;
use lwm2m_core::gateway::persistence::record::{ProfileRecord, RetainedCommandsRecord};
use lwm2m_core::registry::CommandDigest;
use lwm2m_testkit::scene::{QUERY, Scene};

use super::*;

/// A file with these devices, each with the first character of its location and its session, if it has one.
fn contents(devices: &[(&str, char, Option<AssociationId>)]) -> StoreContents {
    let mut scene = Scene::new();
    scene.gateway.restore(scene.now, Vec::new());
    scene.register(QUERY);
    let changes = scene.gateway.take_changes(scene.now, 1);
    let Some(Change::Put(record)) = changes.into_iter().next() else { panic!("a device is stored") };
    let device = |(endpoint, first, association): &(&str, char, Option<AssociationId>)| {
        let mut record = DeviceRecord::clone(&record);
        record.registration.endpoint = (*endpoint).to_owned();
        record.location = format!("{first}{}", &record.location[1..]);
        record.peer.association = *association;
        record
    };
    StoreContents { devices: devices.iter().map(device).collect(), ..StoreContents::default() }
}

fn count(contents: StoreContents, answer: impl Fn(&ImportUnit) -> &'static str) -> ImportReport {
    let (mut units, profiles) = ImportUnits::of(contents, &[]);
    let mut counts = ImportCounts::new(&units);
    for unit in units.by_ref() {
        counts.take(&unit, vec![answer(&unit).to_owned()]).expect("no reason to stop");
    }
    counts.report(&units, profiles.len())
}

#[test]
fn the_devices_and_their_shards_are_counted() {
    let devices = [("a", 'A', None), ("b", 'B', None), ("c", 'A', None), ("d", 'C', None)];
    let report = count(contents(&devices), |_| "imported");
    assert_eq!((report.devices, report.shards), (4, 3), "two of them have one shard");
    let report = count(contents(&devices), |unit| if unit.endpoint == "d" { "exists" } else { "imported" });
    assert_eq!((report.devices, report.shards, report.existing), (3, 2, 1));
    assert_eq!(report.existing_names, ["d"]);
    let many: Vec<String> = (0..100).map(|number| format!("ep-{number}")).collect();
    let many: Vec<_> = many.iter().map(|endpoint| (endpoint.as_str(), 'A', None)).collect();
    let report = count(contents(&many), |_| "exists");
    assert_eq!((report.existing, report.existing_names.len(), report.shards), (100, NAMES_TOLD, 0));
}

#[test]
fn a_device_comes_with_what_belongs_to_it_and_the_newest_of_two_records_is_taken() {
    let id = AssociationId(7 << 56 | 1);
    let mut contents = contents(&[("a", 'A', Some(id)), ("b", 'B', None), ("b", 'C', None)]);
    contents.devices[2].last_heard += Duration::from_secs(1);
    contents.retained_commands = ["a", "b", "gone"]
        .map(|endpoint| RetainedCommandsRecord { endpoint: endpoint.to_owned(), commands: vec![CommandDigest(1)] })
        .into();
    contents.profiles = vec![ProfileRecord { key: "udp:1".to_owned(), objects: None }];
    let newest = contents.devices[2].shard();
    let (units, _) = ImportUnits::of(contents, &[]);
    let mut hashes: Vec<(String, Vec<RecordHash>)> =
        units.map(|unit| (unit.endpoint, unit.values.into_iter().map(|(hash, ..)| hash).collect())).collect();
    hashes.sort();
    let of =
        |endpoint: &str, shard| (endpoint.to_owned(), vec![RecordHash::Devices(shard), RecordHash::RetainedOf(shard)]);
    assert_eq!(hashes, [of("a", Shard::new(7)), of("b", newest)]);
}

#[test]
fn sessions_that_cannot_be_imported_are_counted() {
    let saved = |id| SavedAssociation { id, made_at: 0, reached_by: 0, bytes: Zeroizing::new(vec![0]) };
    let [known, missing] = [1, 2].map(AssociationId);
    let mut contents = contents(&[("a", 'A', Some(known)), ("b", 'B', Some(missing)), ("c", 'C', None)]);
    contents.associations = vec![saved(known)];
    let report = count(contents, |_| "imported");
    assert_eq!((report.devices, report.sessions, report.without_session), (3, 0, 2), "the record is unreadable");
}

#[test]
fn a_file_whose_terms_are_ahead_of_the_server_is_refused() {
    let now = WallTime(Term::EPOCH.0 + 4_000_000);
    let session = SavedAssociation { id: AssociationId(1), made_at: 0, reached_by: 0, bytes: Zeroizing::default() };
    let check = |associations, term: Term| {
        let contents = StoreContents { term, associations, ..StoreContents::default() };
        check_terms(&contents, now).map_err(|error| error.to_string())
    };
    let an_hour_ahead = Term::new(Term::last_at(now).number() + 900);
    assert_eq!(check(vec![session.clone()], Term::last_at(now)), Ok(()));
    let refused = check(vec![session], an_hour_ahead);
    assert!(refused.is_err_and(|error| error.contains("record numbers that are 1h ahead of the clock")));
    assert_eq!(check(Vec::new(), an_hour_ahead), Ok(()), "without a session there are no numbers");
}
