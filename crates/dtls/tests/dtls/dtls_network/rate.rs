use std::time::Duration;

use lwm2m_base::rate::{Rate, RateLimit};
use lwm2m_dtls::{DtlsConfig, DtlsDatagramOutcome, DtlsDropReason};

use crate::dtls_network::scene::*;
use lwm2m_dtls::test_client::DtlsClientConfig;

fn slow() -> DtlsConfig {
    let begun = RateLimit { total: Rate { per_second: 4, burst: 5 }, address: Rate { per_second: 2, burst: 3 } };
    DtlsConfig { begun, ..DtlsConfig::default() }
}

fn add_at(scene: &mut DtlsNetwork, address: &str) -> usize {
    let number = scene.devices.len();
    let device = scene.add(DtlsClientConfig::psk(&format!("urn:imei:{number}"), KEY));
    scene.devices[device].address = address.parse().unwrap();
    device
}

#[test]
fn handshakes_beyond_the_rate_of_an_address_are_begun_later_and_none_is_lost() {
    let mut scene = DtlsNetwork::with(slow());
    let devices: Vec<usize> = (0..9).map(|port| add_at(&mut scene, &format!("192.0.2.1:{}", 5000 + port))).collect();

    scene.run_for(Duration::from_millis(450));
    assert_eq!(scene.take_begun(), 3);
    assert_eq!(
        scene.outcomes.last(),
        Some(&DtlsDatagramOutcome::Dropped(DtlsDropReason::TooManyHandshakesFromAddress))
    );

    scene.run_for(Duration::from_secs(30));
    devices.into_iter().for_each(|device| scene.assert_established(device));
}

#[test]
fn all_addresses_share_a_rate() {
    let mut scene = DtlsNetwork::with(slow());
    for number in 1..=9 {
        add_at(&mut scene, &format!("192.0.2.{number}:5000"));
    }

    scene.run_for(Duration::from_millis(450));

    assert_eq!(scene.take_begun(), 5);
    assert_eq!(scene.outcomes.last(), Some(&DtlsDatagramOutcome::Dropped(DtlsDropReason::TooManyHandshakes)));
}

#[test]
fn ipv4_addresses_at_a_socket_of_ipv6_are_not_one_network() {
    let mut scene = DtlsNetwork::with(DtlsConfig { handshakes: 4, handshakes_per_address: 1, ..DtlsConfig::default() });
    scene.answers = false;
    // The first two take the half of the places that is free for everybody.
    for address in ["[2001:db8:0:1::1]:1", "[2001:db8:0:2::1]:2", "[::ffff:192.0.2.1]:3", "[::ffff:192.0.2.2]:4"] {
        add_at(&mut scene, address);
    }
    add_at(&mut scene, "[2001:db8:0:1::2]:5");

    scene.settle();

    assert_eq!((scene.server.table_sizes().handshakes, scene.failures()), (4, vec![]));
    assert!(scene.outcomes.contains(&DtlsDatagramOutcome::Dropped(DtlsDropReason::TooManyHandshakesFromAddress)));
}
