//! Files that are not what they were: the store, the records in it, and object definitions.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lwm2m_core::gateway::config::SocketRole;
use lwm2m_core::gateway::persistence::record::{Change, DeviceRecord};
use lwm2m_core::gateway::{Gateway, Output};
use lwm2m_core::lwm2m::model::Model;
use lwm2m_gateway::config::Config;
use lwm2m_gateway::store::{Store, StoreConfig};
use lwm2m_gateway::transport::{Security, UdpListener};
use rand::RngExt;
use rand::rngs::StdRng;
use tempfile::TempDir;

use super::effort;
use super::mutation::mutate;
use super::siege::Siege;
use lwm2m_testkit::scene::{beginning, model};

const FILES: u64 = 12;
const RECORDS: u64 = if cfg!(debug_assertions) { 3_000 } else { 30_000 };
const DEFINITIONS: u64 = if cfg!(debug_assertions) { 400 } else { 4_000 };
const UNIX_TIME: Duration = Duration::from_secs(1_700_000_100);

#[test]
fn a_store_with_other_bytes_is_read_or_put_aside_and_what_is_read_is_served() {
    let mut rng = effort::rng(4);
    let place = TempDir::new().expect("a place for a file");
    let file = place.path().join("store.redb");
    let (store, _) = Store::open(&settings(&file), &listeners(), UNIX_TIME, Arc::default()).expect("a new store");
    store.write_now(&changes()).expect("room on the disk");
    drop(store);
    let whole = fs::read(&file).expect("it was written");

    for _ in effort::rounds(FILES) {
        let place = TempDir::new().expect("a place for a file");
        let file = place.path().join("store.redb");
        fs::write(&file, corrupted(&mut rng, &whole)).expect("room on the disk");
        let opened = Store::open(&settings(&file), &listeners(), UNIX_TIME, Arc::default());
        let (_store, contents) = opened.expect("what is wrong with a file stops nobody");
        live_with(contents.devices);
    }
}

#[test]
fn records_that_somebody_changed_are_taken_or_refused() {
    let mut rng = effort::rng(5);
    let records: Vec<Vec<u8>> =
        records().values().map(|record| serde_json::to_vec(record).expect("a record is JSON")).collect();
    assert!(records.len() > 5);
    let mut readable = 0;
    for _ in effort::rounds(RECORDS) {
        let mut bytes = records[rng.random_range(0..records.len())].clone();
        match rng.random_bool(0.5) {
            true => mutate(&mut rng, &mut bytes, &records),
            false => change_a_number(&mut rng, &mut bytes),
        }
        if let Ok(record) = serde_json::from_slice::<DeviceRecord>(&bytes) {
            readable += 1;
            live_with(vec![record]);
        }
    }
    assert!(readable > RECORDS / 20, "{readable}: some of them must be read");
}

#[test]
fn definitions_that_somebody_changed_are_taken_or_refused_with_a_reason() {
    let mut rng = effort::rng(6);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("xml");
    let files: Vec<Vec<u8>> = fs::read_dir(folder)
        .expect("the shipped definitions")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "xml"))
        .map(|path| fs::read(path).expect("a file that can be read"))
        .collect();
    let mut refused = 0;
    for round in effort::rounds(DEFINITIONS) {
        let mut content = match round % 8 {
            0 => xml_bomb(&mut rng),
            _ => files[rng.random_range(0..files.len())].clone(),
        };
        mutate(&mut rng, &mut content, &files);
        let (model, broken) = Model::from_files([("file.xml".to_owned(), content)]);
        refused += broken.len();
        assert!(broken.iter().all(|broken| !broken.reason.to_string().is_empty()));
        assert!(model.objects().count() < 100);
    }
    assert!(refused > 0);
}

fn corrupted(rng: &mut StdRng, whole: &[u8]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    match rng.random_range(0..4) {
        0 => bytes.truncate(rng.random_range(0..whole.len())),
        1 => {
            let (from, length) = (rng.random_range(0..whole.len()), rng.random_range(1..8_192));
            let to = rng.random_range(0..whole.len());
            let piece = whole[from..(from + length).min(whole.len())].to_vec();
            bytes.splice(to..(to + piece.len()).min(whole.len()), piece);
        }
        2 => (0..rng.random_range(1..10)).for_each(|_| flip(rng, &mut bytes)),
        _ => (0..rng.random_range(10..2_000)).for_each(|_| flip(rng, &mut bytes)),
    }
    bytes
}

fn flip(rng: &mut StdRng, bytes: &mut [u8]) {
    let at = rng.random_range(0..bytes.len());
    bytes[at] ^= 1 << rng.random_range(0..8);
}

/// Another number in the place of one: most of a record are times, ids and ports.
fn change_a_number(rng: &mut StdRng, bytes: &mut Vec<u8>) {
    let digits: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at].is_ascii_digit()).collect();
    let Some(at) = digits.get(rng.random_range(0..digits.len().max(1))).copied() else { return };
    let end = (at..bytes.len()).find(|at| !bytes[*at].is_ascii_digit()).unwrap_or(bytes.len());
    let others = ["0", "1", "65535", "4294967296", "18446744073709551615", "253402300800000", "-1", "1e300"];
    bytes.splice(at..end, others[rng.random_range(0..others.len())].bytes());
}

/// Elements in elements, entities, and attributes without end.
fn xml_bomb(rng: &mut StdRng) -> Vec<u8> {
    let size = rng.random_range(1..20_000);
    match rng.random_range(0..4) {
        0 => b"<LWM2M>".repeat(size),
        1 => [&b"<LWM2M><Object>"[..], &b"<Resources><Item>".repeat(size / 4)].concat(),
        2 => b"<!DOCTYPE a [<!ENTITY b \"&c;&c;\"><!ENTITY c \"&b;&b;\">]><LWM2M>&b;</LWM2M>".to_vec(),
        _ => [&b"<LWM2M "[..], &b"a=\"&#x10FFFF;\" ".repeat(size / 8), b"/>"].concat(),
    }
}

/// Ten devices, some of them observed, some with commands that wait.
fn records() -> BTreeMap<String, DeviceRecord> {
    changes()
        .into_iter()
        .filter_map(|change| match change {
            Change::Put(record) => Some((record.registration.endpoint.clone(), *record)),
            _ => None,
        })
        .collect()
}

fn changes() -> Vec<Change> {
    let mut siege = Siege::begin(6, 4, effort::rng(7));
    (0..4).for_each(|number| siege.register_hostile(number));
    siege.pass(1.0);
    for number in 0..4 {
        for command in super::corpus::COMMANDS {
            let endpoint = siege.hostile[number].endpoint.clone();
            siege.network.command_bytes(&endpoint, command.as_bytes().to_vec());
        }
    }
    let now = siege.network.now;
    siege.network.gateway.restore(now, Vec::new());
    siege.network.gateway.change_all();
    siege.network.gateway.take_changes(now, usize::MAX)
}

/// A gateway takes the records up, and is asked for whatever is due for a day.
fn live_with(records: Vec<DeviceRecord>) {
    let mut now = beginning();
    let mut gateway = Gateway::new(Config::default().gateway, model(), [5; 32], now, UNIX_TIME);
    gateway.restore(now, records);
    for _ in 0..200 {
        let deadline = loop {
            if let Output::Idle(deadline) = gateway.poll_output() {
                break deadline;
            }
        };
        let Some(deadline) = deadline else { return };
        now = now.max(deadline);
        gateway.handle_timeout(now);
    }
}

fn settings(file: &Path) -> StoreConfig {
    StoreConfig { file: PathBuf::from(file), ..Config::default().store }
}

fn listeners() -> Vec<UdpListener> {
    let bind = "0.0.0.0:5683".parse().expect("an address");
    vec![UdpListener {
        name: "default".to_owned(),
        security: Security::None,
        role: SocketRole::All,
        bind,
        recbuf: 2048,
    }]
}
