//! Clients that complete the exchange of cookies and leave their handshakes there: they keep nobody out.

use std::net::SocketAddr;
use std::time::Duration;

use lwm2m_base::rate::{Rate, RateLimit};
use lwm2m_dtls::DtlsConfig;

use crate::dtls_network::crowd::{AttackDepth, Crowd, HandshakeAttack};

/// A device repeats its hello after 1, 3, 7 and 15 seconds: it got in by one of the first four repetitions.
const FOUR_REPETITIONS: Duration = Duration::from_secs(16);
/// Clients of an attack that are enough to take every place that it can take.
const MANY: u32 = 3_000;

fn own_address(number: u32) -> SocketAddr {
    let [_, b, c, d] = number.to_be_bytes();
    SocketAddr::from(([10, b, c, d], 5000))
}

fn behind_the_nat(number: u32) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 7], 2_000 + number as u16))
}

/// Fifty devices at addresses of their own come in two seconds, while the attack has every place that it can get.
#[track_caller]
fn devices_get_in_during(attack: HandshakeAttack) -> Crowd {
    let mut crowd = Crowd::new(DtlsConfig::default());
    crowd.attack(attack);
    crowd.run_for(Duration::from_secs(1) * MANY / attack.per_second);
    for number in 0..50 {
        crowd.add(own_address(number), Duration::from_millis(40) * number);
    }
    crowd.run_until_established(50, Duration::from_secs(2) + FOUR_REPETITIONS);
    assert!(crowd.longest() < FOUR_REPETITIONS, "{attack:?}: {:?}", crowd.longest());
    assert!(crowd.devices.values().all(|device| device.restarts == 0), "{attack:?}");
    assert!(crowd.server.table_sizes().handshakes <= DtlsConfig::default().handshakes);
    crowd
}

#[test]
fn eighty_silent_clients_a_second_from_two_addresses_keep_nobody_out() {
    let crowd = devices_get_in_during(HandshakeAttack { addresses: 2, per_second: 80, depth: AttackDepth::Silent });
    assert!(crowd.longest() < Duration::from_secs(1), "{:?}: there is room", crowd.longest());
}

#[test]
fn a_thousand_silent_clients_a_second_from_two_addresses_keep_nobody_out() {
    devices_get_in_during(HandshakeAttack { addresses: 2, per_second: 1_000, depth: AttackDepth::Silent });
}

#[test]
fn a_thousand_silent_clients_a_second_from_a_hundred_addresses_keep_nobody_out() {
    let crowd =
        devices_get_in_during(HandshakeAttack { addresses: 100, per_second: 1_000, depth: AttackDepth::Silent });
    assert!(crowd.evicted() > 1_000, "{:?}", crowd.failures);
}

#[test]
fn clients_that_name_a_device_and_then_are_silent_keep_nobody_out() {
    for (addresses, per_second) in [(2, 80), (100, 1_000)] {
        devices_get_in_during(HandshakeAttack { addresses, per_second, depth: AttackDepth::NamesAnIdentity });
    }
}

#[test]
fn thousands_of_devices_behind_one_address_get_in_after_a_power_cut() {
    let mut crowd = Crowd::new(DtlsConfig::default());
    for number in 0..3_000 {
        crowd.add(behind_the_nat(number), Duration::from_millis(number.into()) / 3);
    }
    crowd.run_for(Duration::from_secs(4));
    assert!(crowd.waiting() < 2_000, "{} wait", crowd.waiting());
    crowd.run_until_established(3_000, FOUR_REPETITIONS);
    assert!(crowd.devices.values().all(|device| device.restarts == 0), "{:?}", crowd.failures);
}

/// An address has 40 places then, each for a fifth of a second; the devices repeat their hellos at the same times.
#[test]
fn hundreds_of_devices_behind_one_address_get_in_during_an_attack_from_elsewhere() {
    let mut crowd = Crowd::new(DtlsConfig::default());
    crowd.attack(HandshakeAttack { addresses: 100, per_second: 500, depth: AttackDepth::Silent });
    crowd.run_for(Duration::from_secs(5));
    for number in 0..400 {
        crowd.add(behind_the_nat(number), Duration::from_millis(number.into()) * 2);
    }
    crowd.run_until_established(400, FOUR_REPETITIONS);
    assert!(crowd.devices.values().all(|device| device.restarts == 0), "{:?}", crowd.failures);
}

/// An attacker behind the NAT of the devices shares their places, and its silent clients make room.
#[test]
fn devices_get_in_beside_an_attacker_at_their_own_address() {
    let mut crowd = Crowd::new(DtlsConfig::default());
    crowd.attack(HandshakeAttack { addresses: 1, per_second: 80, depth: AttackDepth::Silent });
    crowd.run_for(Duration::from_secs(40));
    for number in 0..50 {
        // The address of the attack.
        let address = SocketAddr::from(([198, 18, 0, 1], 65_100 + number));
        crowd.add(address, Duration::from_millis(40) * u32::from(number));
    }
    crowd.run_until_established(50, FOUR_REPETITIONS);
}

/// A tenth of the default limits, so that an attack at its full rate is one of ten thousand clients a second.
fn a_tenth() -> DtlsConfig {
    let begun =
        RateLimit { total: Rate { per_second: 200, burst: 400 }, address: Rate { per_second: 100, burst: 200 } };
    DtlsConfig { begun, handshakes: 200, handshakes_per_address: 4, ..DtlsConfig::default() }
}

/// A hundred addresses, each of which begins handshakes at the full rate of an address.
fn full_rate(depth: AttackDepth) -> HandshakeAttack {
    HandshakeAttack { addresses: 100, per_second: 10_000, depth }
}

#[test]
fn a_hundred_addresses_at_their_full_rate_keep_nobody_out() {
    for depth in [AttackDepth::Silent, AttackDepth::NamesAnIdentity, AttackDepth::GivesUp] {
        let mut crowd = Crowd::new(a_tenth());
        crowd.attack(full_rate(depth));
        crowd.run_for(Duration::from_secs(2));
        for number in 0..50 {
            crowd.add(own_address(number), Duration::from_millis(40) * number);
        }
        crowd.run_until_established(50, FOUR_REPETITIONS);
        assert!(crowd.devices.values().all(|device| device.restarts == 0), "{depth:?}");
    }
}

#[test]
fn a_hundred_addresses_at_their_full_rate_keep_nobody_behind_one_address_out() {
    for depth in [AttackDepth::Silent, AttackDepth::GivesUp] {
        let mut crowd = Crowd::new(a_tenth());
        crowd.attack(full_rate(depth));
        crowd.run_for(Duration::from_secs(2));
        for number in 0..200 {
            crowd.add(behind_the_nat(number), Duration::from_millis(5) * number);
        }
        crowd.run_until_established(200, FOUR_REPETITIONS);
    }
}

#[test]
fn two_thousand_devices_behind_one_address_get_in_within_four_seconds_during_an_attack_from_elsewhere() {
    let mut crowd = Crowd::new(DtlsConfig::default());
    crowd.attack(HandshakeAttack { addresses: 100, per_second: 4_000, depth: AttackDepth::Silent });
    crowd.run_for(Duration::from_secs(3));
    for number in 0..2_000 {
        crowd.add(behind_the_nat(number), Duration::from_millis(number.into()));
    }
    crowd.run_until_established(2_000, Duration::from_secs(4));
}
