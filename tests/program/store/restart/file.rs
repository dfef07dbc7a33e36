//! The file of the store: what is in it comes out again, and whatever is wrong with it stops nobody.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lwm2m_base::AssociationId;
use lwm2m_core::gateway::config::SocketRole;
use lwm2m_core::gateway::persistence::record::{Change, DeviceRecord, ProfileRecord, RetainedCommandsRecord};
use lwm2m_core::registry::CommandDigest;
use lwm2m_dtls::{AssociationChange, SavedAssociation};
use lwm2m_gateway::conditions::{Condition, Conditions};
use lwm2m_gateway::config::Config;
use lwm2m_gateway::observability::metrics::Metrics;
use lwm2m_gateway::store::{Store, StoreConfig, StoreError};
use lwm2m_gateway::transport::{Security, UdpListener};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redb::{ReadableTable, TableDefinition};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::core::{RestartedCore, peer, read};

const UNIX_TIME: Duration = Duration::from_secs(1_800_000_123);
const PATIENCE: Duration = Duration::from_secs(20);
/// The present format of the file.
const FORMAT: u64 = 4;
const ABOUT: TableDefinition<'_, &str, u64> = TableDefinition::new("about");
const DEVICES: TableDefinition<'_, (u8, &str), &[u8]> = TableDefinition::new("shard_devices");
const COMMANDS: TableDefinition<'_, (u8, &str, u64), &str> = TableDefinition::new("shard_commands");
/// The tables of the formats before 4.
const UNSHARDED_DEVICES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("devices");
const UNSHARDED_COMMANDS: TableDefinition<'_, (&str, u64), &str> = TableDefinition::new("commands");

#[tokio::test]
async fn what_is_written_is_read_again_and_what_left_is_not() {
    let place = StoreFolder::new();
    let mut core = RestartedCore::new();
    let mut store = place.open_new();
    let gone = core.register(peer(9), "ep=gone&lt=300");
    install_restored_state(&mut core);
    store.flush(core.now, &mut core.gateway);
    core.datagram(peer(9), &super::request(super::Code::DELETE, &["rd", &gone], &[], None));
    core.advance(Duration::from_secs(1));
    let kept = close(store, core).await;

    let (store, records) = place.open();
    let records = by_endpoint(records);
    assert_eq!(records, kept);
    assert_eq!(records.len(), 3);
    assert_eq!(records.iter().map(|record| record.commands.len()).sum::<usize>(), 5);
    close(store, RestartedCore::new()).await;
}

#[tokio::test]
async fn a_device_comes_back_to_the_listener_of_its_name_or_to_one_that_reaches_it() {
    let place = StoreFolder::new();
    let mut core = RestartedCore::new();
    let store = place.open_new();
    core.register(peer(1), "ep=a&lt=300");
    close(store, core).await;
    for (names, socket) in [
        (&[("other", "0.0.0.0:1"), ("default", "0.0.0.0:2")][..], 1),
        (&[("v6", "[::1]:1"), ("v4", "0.0.0.0:2")], 1),
        (&[("v6", "[::1]:1")], 0),
    ] {
        let (store, contents) = Store::open(&place.settings(), &listeners(names), UNIX_TIME, Arc::default()).unwrap();
        let (store, records) = (store.start(condition()).unwrap(), contents.devices);
        assert_eq!(records[0].peer.socket, socket, "{names:?}");
        close(store, RestartedCore::new()).await;
    }
}

#[tokio::test]
async fn only_the_owner_can_read_the_file() {
    let place = StoreFolder::new();
    close(place.open_new(), RestartedCore::new()).await;
    assert_eq!(place.mode(), 0o600);
    fs::set_permissions(place.file(), fs::Permissions::from_mode(0o644)).unwrap();
    drop(place.open());
    assert_eq!(place.mode(), 0o600);
}

#[tokio::test]
async fn two_cannot_share_a_file() {
    let place = StoreFolder::new();
    let store = place.open_new();
    let second = Store::open(&place.settings(), &default_listeners(), UNIX_TIME, Arc::default());
    assert!(matches!(second.err(), Some(StoreError::InUse(_))));
    assert_eq!(place.files(), ["store.redb"]);
    drop(store);
}

#[test]
fn a_place_that_cannot_be_written_is_an_error_that_names_the_key() {
    let settings = StoreConfig { file: PathBuf::from("/nowhere/store.redb"), ..StoreFolder::new().settings() };
    let error = Store::open(&settings, &default_listeners(), UNIX_TIME, Arc::default()).err().unwrap();
    assert!(error.to_string().starts_with("store.file = /nowhere/store.redb: No such file"), "{error}");
}

#[tokio::test]
async fn a_file_of_something_else_is_put_aside() {
    for content in [&b"no store"[..], &[0; 4096], &[0xff; 1_000_000]] {
        let place = StoreFolder::new();
        fs::write(place.file(), content).unwrap();
        let (_store, records) = place.open();
        assert_eq!(records, []);
        assert_eq!(place.files(), ["store.redb", "store.redb.damaged-1800000123"]);
        assert_eq!(fs::read(place.file().with_extension("redb.damaged-1800000123")).unwrap(), content);
    }
}

#[tokio::test]
async fn a_store_of_a_newer_format_is_refused_with_the_reason_and_left_as_it_is() {
    let place = StoreFolder::new();
    let mut core = RestartedCore::new();
    let store = place.open_new();
    install_restored_state(&mut core);
    close(store, core).await;
    let (store, before) = place.open();
    close(store, RestartedCore::new()).await;
    assert!(!before.is_empty());
    place.set_format(FORMAT + 1);

    let refused = Store::open(&place.settings(), &default_listeners(), UNIX_TIME, Arc::default());
    let reason = refused.err().unwrap().to_string();
    assert!(reason.contains("it has format 5, and this version reads the formats 1 to 4"), "{reason}");
    assert!(reason.contains("A newer version of this program wrote it"), "{reason}");
    assert_eq!(place.files(), ["store.redb"]);
    place.set_format(FORMAT);
    assert_eq!(place.open().1, before);
}

/// It had no associations.
#[tokio::test]
async fn a_store_of_format_1_is_read_and_is_of_this_one_from_then_on() {
    let place = StoreFolder::new();
    let mut core = RestartedCore::new();
    let store = place.open_new();
    install_restored_state(&mut core);
    let kept = close(store, core).await;
    place.make_older(1);
    const ASSOCIATIONS: TableDefinition<'_, u64, (&str, &str, &[u8])> = TableDefinition::new("associations");
    const OBEYED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("obeyed");
    place.change(|transaction| assert!(transaction.delete_table(ASSOCIATIONS).unwrap()));
    place.change(|transaction| assert!(transaction.delete_table(OBEYED).unwrap()));

    let (store, records) = place.open();
    assert_eq!(by_endpoint(records), kept);
    let nobody = RestartedCore::new();
    store.close(nobody.now, nobody.gateway, PATIENCE).await;
    place.change(|transaction| {
        assert_eq!(transaction.open_table(ABOUT).unwrap().get("format").unwrap().unwrap().value(), FORMAT)
    });
}

/// Its object lists had each link twice: as a text and as a path.
#[tokio::test]
async fn a_store_of_format_2_is_read() {
    let place = StoreFolder::new();
    let mut core = RestartedCore::new();
    let store = place.open_new();
    install_restored_state(&mut core);
    let kept = close(store, core).await;
    place.make_older(2);
    place.change(|transaction| {
        let mut devices = transaction.open_table(UNSHARDED_DEVICES).unwrap();
        let json: Vec<u8> = devices.get("a").unwrap().unwrap().value().to_vec();
        let mut device: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let objects = &mut device["record"]["registration"]["objects"];
        objects["paths"] = objects["targets"].clone();
        devices.insert("a", device.to_string().as_bytes()).unwrap();
    });
    let (_store, records) = place.open();
    assert_eq!(by_endpoint(records), kept);
}

/// Its keys had no shards, and it had no terms.
#[tokio::test]
async fn a_store_of_format_3_is_read_and_later_changes_find_its_records() {
    let place = StoreFolder::new();
    let mut core = RestartedCore::new();
    let store = place.open_new();
    install_restored_state(&mut core);
    let kept = close(store, core).await;
    place.make_older(3);
    assert_eq!(place.term(), None);

    let (store, records) = place.open();
    assert_eq!(by_endpoint(records.clone()), kept);
    assert!(place.files() == ["store.redb"], "{:?}", place.files());
    let mut core = RestartedCore::new();
    core.gateway.restore(core.now, records);
    core.close_all_but("b");
    store.close(core.now, core.gateway, PATIENCE).await;
    assert!(place.term().is_some());
    let (_store, records) = place.open();
    let names: Vec<_> = records.iter().map(|record| record.registration.endpoint.as_str()).collect();
    assert_eq!((names, records[0].commands.len()), (vec!["b"], 5));
}

#[tokio::test]
async fn each_process_has_a_later_first_term_also_after_an_older_copy_of_the_file_was_brought_back() {
    let place = StoreFolder::new();
    let dtls = UdpListener { security: Security::Dtls, ..default_listeners().remove(0) };
    let open = |unix_time| {
        let (opened, contents) =
            Store::open(&place.settings(), std::slice::from_ref(&dtls), unix_time, Arc::default()).unwrap();
        (opened, contents.term)
    };
    // The last 50 ms of a tick.
    let unix_time = Duration::from_millis(1_800_000_003_950);
    let (opened, first) = open(unix_time);
    let association = SavedAssociation { id: AssociationId(1), made_at: 0, reached_by: 0, bytes: vec![7; 80].into() };
    opened.write_now(&[Change::Association(AssociationChange::Put(association))]).unwrap();
    drop(opened);
    let copy = fs::read(place.file()).unwrap();
    let started = Instant::now();
    let (_, second) = open(unix_time);
    assert_eq!(second, first.next());
    assert!(started.elapsed() >= Duration::from_millis(50), "it waited for the next tick");
    assert_eq!(open(Duration::from_secs(1)).1, second.next(), "by a clock that was set back");
    let later = unix_time + Duration::from_secs(60);
    let (_, latest) = open(later);
    assert_eq!(latest.since(first), Some(15), "ticks of 4 s");

    fs::write(place.file(), copy).unwrap();
    assert!(open(later + Duration::from_secs(4)).1 > latest);
}

#[tokio::test]
async fn two_gateways_of_a_program_do_not_change_each_others_record_of_an_endpoint() {
    let place = StoreFolder::new();
    let (opened, _) = Store::open(&place.settings(), &default_listeners(), UNIX_TIME, Arc::default()).unwrap();
    let mut core = RestartedCore::new();
    core.register(peer(1), "ep=a&lt=300");
    let Some(Change::Put(record)) = core.gateway.take_changes(core.now, 1).pop() else { panic!("a record") };
    let moved = DeviceRecord { location: "AAAAAAAAAAAA".to_owned(), ..(*record).clone() };
    assert_ne!(moved.shard(), record.shard());
    let remove = Change::Remove { shard: record.shard(), endpoint: "a".to_owned() };
    opened.write_now(&[Change::Put(record), Change::Put(Box::new(moved.clone())), remove]).unwrap();
    drop(opened);
    assert_eq!(place.open().1, [moved]);
}

#[tokio::test]
async fn what_is_remembered_of_retained_commands_is_written_and_read_again() {
    let place = StoreFolder::new();
    let mut core = RestartedCore::new();
    let mut store = place.open_new();
    for (number, endpoint) in [(1, "a"), (2, "b")] {
        core.register(peer(number), &format!("ep={endpoint}&lt=300"));
        core.retained_command(endpoint, &read(7));
        core.expect_to_device(peer(number));
    }
    store.flush(core.now, &mut core.gateway);
    store.close(core.now, core.gateway, PATIENCE).await;
    let (opened, contents) = Store::open(&place.settings(), &default_listeners(), UNIX_TIME, Arc::default()).unwrap();
    let digest = CommandDigest::of(read(7).to_string().as_bytes());
    let record = |endpoint: &str| RetainedCommandsRecord { endpoint: endpoint.to_owned(), commands: vec![digest] };
    assert_eq!(contents.retained_commands, [record("a"), record("b")]);
    opened
        .write_now(&[Change::RetainedCommands(RetainedCommandsRecord {
            endpoint: "a".to_owned(),
            commands: Vec::new(),
        })])
        .unwrap();
    drop(opened);
    let (_, contents) = Store::open(&place.settings(), &default_listeners(), UNIX_TIME, Arc::default()).unwrap();
    assert_eq!(contents.retained_commands, [record("b")]);
}

#[tokio::test]
async fn the_object_lists_of_profiles_are_written_and_read_again() {
    let place = StoreFolder::new();
    let mut core = RestartedCore::new();
    let mut store = place.open_new();
    core.register(peer(1), "ep=a&lt=300&lwm2m=1.2&pid=f00d");
    store.flush(core.now, &mut core.gateway);
    store.close(core.now, core.gateway, PATIENCE).await;
    let open = || Store::open(&place.settings(), &default_listeners(), UNIX_TIME, Arc::default()).unwrap();
    let (opened, contents) = open();
    let [record] = &contents.profiles[..] else { panic!("{:?}", contents.profiles) };
    assert_eq!((record.key.as_str(), record.objects.is_some()), ("udp:f00d", true));
    let other = ProfileRecord { key: "dtls:f00d".to_owned(), ..record.clone() };
    let removed = ProfileRecord { key: record.key.clone(), objects: None };
    opened.write_now(&[Change::Profile(other.clone()), Change::Profile(removed)]).unwrap();
    drop(opened);
    let (opened, contents) = open();
    assert_eq!(contents.profiles, [other]);
    drop(opened);

    const PROFILES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("profiles");
    place.change(|transaction| {
        transaction.open_table(PROFILES).unwrap().insert("dtls:f00d", &b"no list"[..]).unwrap();
    });
    let unreadable = ProfileRecord { key: "dtls:f00d".to_owned(), objects: None };
    assert_eq!(open().1.profiles, [unreadable]);
}

#[tokio::test]
async fn an_association_comes_back_with_the_listeners_of_the_same_names() {
    let place = StoreFolder::new();
    let dtls = |name: &str| UdpListener { security: Security::Dtls, ..listeners(&[(name, "127.0.0.1:0")]).remove(0) };
    let plain = || listeners(&[("one", "127.0.0.1:0")]).remove(0);
    let open = |listeners: &[UdpListener]| {
        let (opened, contents) = Store::open(&place.settings(), listeners, UNIX_TIME, Arc::default()).unwrap();
        (opened, contents.associations)
    };
    let saved = |id: u64, made_at, reached_by| SavedAssociation {
        id: AssociationId(id),
        made_at,
        reached_by,
        bytes: Zeroizing::new(vec![7; 80]),
    };
    let put = |saved| Change::Association(AssociationChange::Put(saved));
    let (opened, none) = open(&[plain(), dtls("a"), dtls("b")]);
    assert_eq!(none, []);
    opened.write_now(&[put(saved(1, 1, 2)), put(saved(2, 2, 2)), put(saved(3, 1, 1))]).unwrap();
    opened.write_now(&[Change::Association(AssociationChange::Remove(AssociationId(3)))]).unwrap();
    drop(opened);
    let (opened, moved) = open(&[dtls("b"), dtls("new"), dtls("a")]);
    assert_eq!(moved, [saved(1, 2, 0), saved(2, 0, 0)]);
    drop(opened);
    // Where a listener is gone there is another one.
    let (_opened, moved) = open(&[plain(), dtls("new"), dtls("a")]);
    assert_eq!(moved, [saved(1, 2, 1), saved(2, 1, 1)]);
}

#[tokio::test]
async fn a_store_that_was_cut_short_is_read_or_put_aside() {
    let (whole, kept) = sample().await;
    for share in 0..16 {
        let place = StoreFolder::new();
        fs::write(place.file(), &whole[..whole.len() * share / 16]).unwrap();
        check_what_comes_out(&place, &kept);
    }
}

#[tokio::test]
async fn a_store_with_other_bytes_in_it_is_read_or_put_aside() {
    let (whole, kept) = sample().await;
    let mut put_aside = 0;
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut bytes = whole.clone();
        for _ in 0..100 {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
        let place = StoreFolder::new();
        OpenOptions::new().write(true).create_new(true).open(place.file()).unwrap().write_all(&bytes).unwrap();
        put_aside += check_what_comes_out(&place, &kept);
    }
    assert!(put_aside > 0, "a hundred bytes hit something now and then");
}

/// Whatever is read has been written; 1 if nothing was, and the file is kept for whoever wants to look at it.
fn check_what_comes_out(place: &StoreFolder, kept: &[DeviceRecord]) -> usize {
    let (_store, records) = place.open();
    let aside = place.files().iter().filter(|name| name.contains(".damaged-")).count();
    match aside {
        0 => assert!(records.is_empty() || by_endpoint(records.clone()) == kept, "{records:?}"),
        _ => assert_eq!(records, []),
    }
    aside
}

/// The bytes of a store, and what is in it.
async fn sample() -> (Vec<u8>, Vec<DeviceRecord>) {
    let place = StoreFolder::new();
    let mut core = RestartedCore::new();
    let store = place.open_new();
    install_restored_state(&mut core);
    let kept = close(store, core).await;
    (fs::read(place.file()).unwrap(), kept)
}

/// Three devices, one observed, one with five commands.
fn install_restored_state(core: &mut RestartedCore) {
    core.register(peer(1), "ep=a&lt=300&password=secret");
    core.register(peer(2), "ep=b&lt=300&b=UQ");
    core.register(peer(3), "ep=c&lt=300&lwm2m=1.1&imei=7");
    core.observe("a", peer(1), 1);
    core.advance(Duration::from_secs(30));
    (1..=5).for_each(|id| core.command("b", &read(id)));
}

/// Closes the store, and gives what it has to contain.
async fn close(mut store: Store, mut core: RestartedCore) -> Vec<DeviceRecord> {
    store.flush(core.now, &mut core.gateway);
    core.gateway.change_all();
    core.keep();
    store.close(core.now, core.gateway, PATIENCE).await;
    core.store.devices.into_values().collect()
}

/// The records of the devices in the order of their names.
fn by_endpoint(mut records: Vec<DeviceRecord>) -> Vec<DeviceRecord> {
    records.sort_by(|one, other| one.registration.endpoint.cmp(&other.registration.endpoint));
    records
}

fn condition() -> Condition {
    Conditions::default().add("store")
}

fn listeners(names: &[(&str, &str)]) -> Vec<UdpListener> {
    let listener = |&(name, bind): &(&str, &str)| UdpListener {
        name: name.to_owned(),
        security: Security::None,
        role: SocketRole::All,
        bind: bind.parse().unwrap(),
        recbuf: 2048,
    };
    names.iter().map(listener).collect()
}

fn default_listeners() -> Vec<UdpListener> {
    listeners(&[("default", "0.0.0.0:5683")])
}

/// Makes the file one of a format before 4: keys without shards, and no terms.
pub(super) fn make_older(file: &Path, format: u64) {
    change_file(file, |transaction| {
        let mut about = transaction.open_table(ABOUT).unwrap();
        about.insert("format", format).unwrap();
        about.remove("term").unwrap();
        let devices = transaction.open_table(DEVICES).unwrap();
        let mut older = transaction.open_table(UNSHARDED_DEVICES).unwrap();
        for entry in devices.iter().unwrap() {
            let (key, value) = entry.unwrap();
            older.insert(key.value().1, value.value()).unwrap();
        }
        let commands = transaction.open_table(COMMANDS).unwrap();
        let mut older = transaction.open_table(UNSHARDED_COMMANDS).unwrap();
        for entry in commands.iter().unwrap() {
            let (key, value) = entry.unwrap();
            let (_, endpoint, serial) = key.value();
            older.insert((endpoint, serial), value.value()).unwrap();
        }
    });
    change_file(file, |transaction| {
        assert!(transaction.delete_table(DEVICES).unwrap());
        assert!(transaction.delete_table(COMMANDS).unwrap());
    });
}

/// Changes a file from outside.
fn change_file(file: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = redb::Database::open(file).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

struct StoreFolder(TempDir);

impl StoreFolder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("store.redb")
    }

    fn settings(&self) -> StoreConfig {
        StoreConfig { file: self.file(), ..Config::default().store }
    }

    fn open(&self) -> (Store, Vec<DeviceRecord>) {
        let opened = Store::open(&self.settings(), &default_listeners(), UNIX_TIME, Arc::<Metrics>::default());
        let (store, contents) = opened.unwrap();
        (store.start(condition()).unwrap(), contents.devices)
    }

    fn open_new(&self) -> Store {
        let (store, records) = self.open();
        assert_eq!(records, []);
        store
    }

    fn set_format(&self, format: u64) {
        self.change(|transaction| {
            transaction.open_table(ABOUT).unwrap().insert("format", format).unwrap();
        });
    }

    fn make_older(&self, format: u64) {
        make_older(&self.file(), format);
    }

    /// The term in the file.
    fn term(&self) -> Option<u64> {
        let mut term = None;
        self.change(|transaction| {
            term = transaction.open_table(ABOUT).unwrap().get("term").unwrap().map(|term| term.value());
        });
        term
    }

    fn change(&self, change: impl FnOnce(&redb::WriteTransaction)) {
        change_file(&self.file(), change);
    }

    fn mode(&self) -> u32 {
        fs::metadata(self.file()).unwrap().permissions().mode() & 0o777
    }

    fn files(&self) -> Vec<String> {
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let mut names: Vec<_> =
            fs::read_dir(self.0.path()).unwrap().map(|entry| name(&entry.unwrap().path())).collect();
        names.sort();
        names
    }
}
