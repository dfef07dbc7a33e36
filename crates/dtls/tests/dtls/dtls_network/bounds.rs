//! Bounds of the tables that unauthenticated peers can fill, and the eviction when they are full.

use std::time::Duration;

use lwm2m_dtls::record::{ContentType, records};
use lwm2m_dtls::{
    AssociationCloseReason, DtlsConfig, DtlsDatagramOutcome, DtlsDropReason, DtlsReport, HandshakeFailure,
};

use crate::dtls_network::scene::*;
use lwm2m_dtls::test_client::{ClientState, DtlsClientConfig};

fn device(number: usize) -> DtlsClientConfig {
    DtlsClientConfig::psk(&format!("urn:imei:{number}"), KEY)
}

#[test]
fn handshakes_under_way_are_bounded_together_and_by_address() {
    let mut scene = DtlsNetwork::with(DtlsConfig { handshakes: 5, handshakes_per_address: 2, ..DtlsConfig::default() });
    scene.answers = false;
    for number in 0..8 {
        let added = scene.add(device(number));
        // Four at one address.
        scene.devices[added].address =
            format!("192.0.2.{}:{}", number.saturating_sub(3), 1000 + number).parse().unwrap();
    }
    scene.settle();
    assert_eq!(scene.server.table_sizes().handshakes, 5);
    let dropped =
        |reason| scene.outcomes.iter().filter(|outcome| **outcome == DtlsDatagramOutcome::Dropped(reason)).count();
    // Three are admitted while less than half of the places are taken, two of the others beyond. None of them is
    // overdue.
    assert!(dropped(DtlsDropReason::TooManyHandshakesFromAddress) >= 1, "{:?}", scene.outcomes);
    assert!(dropped(DtlsDropReason::TooManyHandshakes) >= 1, "{:?}", scene.outcomes);
    assert_eq!(scene.failures(), []);

    // All is free again when they are over, and those who waited get in.
    scene.run_for(Duration::from_secs(62));
    scene.answers = true;
    let given_up = scene.failures().iter().filter(|failure| **failure == HandshakeFailure::Deadline).count();
    assert_eq!(given_up, 5);
    for identity in std::mem::take(&mut scene.asked) {
        let answer = scene.answer(&identity);
        scene.server.handle_key(scene.now, &identity.clone().into(), answer);
        scene.drain();
    }
    scene.run_for(Duration::from_secs(62));
    for number in 0..8 {
        scene.reboot(number);
        scene.settle();
        assert_eq!(scene.devices[number].client.state(), ClientState::Established);
    }
    assert_eq!(scene.server.table_sizes().handshakes, 0);
}

#[test]
fn a_client_that_stops_after_its_answer_makes_room_and_is_told() {
    let mut scene = DtlsNetwork::with(DtlsConfig { handshakes: 2, ..DtlsConfig::default() });
    for number in 0..2 {
        scene.add(device(number));
    }
    // Their last flights are lost but for the identity: nothing of epoch 1 arrives.
    scene.set_network(|way, datagram| {
        let cut = records(datagram, 0).take_while(|record| record.epoch == 0).map(|record| record.bytes.len()).sum();
        let copy = if way == Direction::Up { datagram[..cut].to_vec() } else { datagram.to_vec() };
        if copy.is_empty() { vec![] } else { vec![(LATENCY, copy)] }
    });
    scene.run_for(Duration::from_secs(3));
    assert_eq!((scene.server.table_sizes().handshakes, scene.failures()), (2, vec![]));

    scene.set_quiet_network();
    let late = scene.add(device(2));
    scene.run_for(Duration::from_millis(700));

    scene.assert_established(late);
    assert_eq!(scene.failures(), [HandshakeFailure::Evicted]);
    // The older of the two. RFC 5246 section 7.2.2: internal_error.
    assert_eq!(scene.devices[0].client.state(), ClientState::Refused(80));
}

#[test]
fn networks_of_ipv6_count_as_one_address() {
    let mut scene = DtlsNetwork::with(DtlsConfig { handshakes: 4, handshakes_per_address: 1, ..DtlsConfig::default() });
    scene.answers = false;
    for (number, address) in
        ["[2001:db8::1]:1", "[2001:db8::2]:2", "[2001:db8::3]:3", "[2001:db8:0:1::1]:4"].into_iter().enumerate()
    {
        let added = scene.add(device(number));
        scene.devices[added].address = address.parse().unwrap();
    }
    scene.settle();
    assert_eq!(scene.server.table_sizes().handshakes, 3);
}

#[test]
fn keys_that_are_asked_for_are_bounded() {
    let mut scene = DtlsNetwork::with(DtlsConfig { handshakes: 3, ..DtlsConfig::default() });
    scene.answers = false;
    for number in 0..3 {
        scene.add(device(number));
    }
    scene.run_for(Duration::from_secs(61));
    assert_eq!((scene.server.table_sizes().handshakes, scene.server.table_sizes().key_questions), (0, 3));
    let late = scene.add(device(9));
    scene.settle();
    assert!(scene.reports.iter().any(|report| matches!(report, DtlsReport::KeyNotAsked { .. })));
    assert_eq!(scene.failures().last(), Some(&HandshakeFailure::KeyUnavailable));
    assert_eq!(scene.devices[late].client.state(), ClientState::Handshaking);
}

#[test]
fn when_there_is_no_room_the_longest_silent_association_goes_and_is_told() {
    let mut scene = DtlsNetwork::with(DtlsConfig { associations: 3, ..DtlsConfig::default() });
    for number in 0..3 {
        scene.add(device(number));
        scene.settle();
    }
    let peers: Vec<_> = scene.established.iter().map(|(peer, _)| *peer).collect();
    scene.assert_data_flows(0, peers[0]);
    let newest = scene.add(device(3));
    scene.settle();
    scene.assert_established(newest);
    assert_eq!(scene.closed, [(peers[1], AssociationCloseReason::Evicted)]);
    assert_eq!(scene.devices[1].client.state(), ClientState::Closed);
    assert_eq!(scene.server.table_sizes().associations, 3);
    for (device, peer) in [(0, peers[0]), (2, peers[2]), (newest, scene.peer())] {
        scene.assert_data_flows(device, peer);
    }
}

#[test]
fn a_device_that_makes_handshake_after_handshake_drives_out_nobody_else() {
    let mut scene = DtlsNetwork::with(DtlsConfig { associations: 8, ..DtlsConfig::default() });
    for number in 1..4 {
        scene.add(device(number));
    }
    scene.settle();
    let others: Vec<_> = scene.established.iter().map(|(peer, _)| *peer).collect();
    let greedy = scene.add(device(9));
    for _ in 0..20 {
        scene.settle();
        assert_eq!(scene.devices[greedy].client.state(), ClientState::Established);
        scene.rebind(greedy);
        scene.reboot(greedy);
    }
    assert_eq!((scene.established.len(), scene.closed.len()), (23, 15));
    for peer in &others {
        assert!(
            scene.closed.iter().all(|(closed, reason)| closed != peer && *reason == AssociationCloseReason::Evicted)
        );
        let device = scene.devices.iter().position(|device| device.address == peer.address).unwrap();
        scene.assert_data_flows(device, *peer);
    }
}

#[test]
fn an_association_that_is_silent_for_too_long_is_forgotten_and_each_record_begins_its_time_anew() {
    let idle = Duration::from_secs(1000);
    let mut scene = DtlsNetwork::with(DtlsConfig { idle, ..DtlsConfig::default() });
    let device = scene.add(psk_cid());
    scene.settle();
    let peer = scene.peer();
    for _ in 0..3 {
        scene.run_for(idle - Duration::from_secs(10));
        scene.assert_data_flows(device, peer);
    }
    scene.run_for(idle - Duration::from_secs(10));
    assert_eq!(scene.closed, []);
    scene.run_for(Duration::from_secs(20));
    assert_eq!(scene.closed, [(peer, AssociationCloseReason::Idle)]);
    assert_eq!(scene.server.next_deadline(), None);
    assert_eq!(scene.server.table_sizes(), Default::default());
}

#[test]
fn records_that_are_not_authentic_are_counted_and_end_an_association_at_the_limit() {
    for client in each_kind() {
        let mut scene = DtlsNetwork::with(DtlsConfig { failed_tags: 1000, ..DtlsConfig::default() });
        let device = scene.add(client);
        scene.settle();
        let (peer, address) = (scene.peer(), scene.devices[device].address);
        let mut forged = scene.device_makes(device, b"data");
        *forged.last_mut().unwrap() ^= 1;
        for _ in 0..500 {
            assert_eq!(scene.outcome_of(address, &forged), DtlsDatagramOutcome::Dropped(DtlsDropReason::Forged));
        }
        // They are counted over a restart.
        scene.server.change_all();
        scene.save();
        scene.restart();
        for _ in 0..499 {
            scene.give_server(address, &forged);
        }
        scene.assert_data_flows(device, peer);
        scene.give_server(address, &forged);
        assert_eq!(scene.closed, [(peer, AssociationCloseReason::TooManyForged)]);
        assert_eq!(scene.last_sealed(device), Some((ContentType::Alert, vec![1, 0])));
        scene.settle();
        assert_eq!(scene.devices[device].client.state(), ClientState::Closed);
    }
}

/// A million of them in a second take 19 hours.
#[test]
fn no_flood_that_there_is_ends_an_association() {
    assert!(DtlsConfig::default().failed_tags / 1_000_000 > 19 * 3600);
}

#[test]
fn a_hello_that_is_repeated_is_one_handshake_and_one_that_is_over_leaves_nothing() {
    let mut scene = DtlsNetwork::new();
    let device = scene.add(psk());
    scene.set_network(|way, datagram| {
        let copies = if way == Direction::Up && datagram[0] == 22 && datagram[13] == 1 { 20 } else { 1 };
        (0..copies).map(|number| (LATENCY + Duration::from_millis(number), datagram.to_vec())).collect()
    });
    scene.settle();
    scene.assert_established(device);
    assert_eq!(scene.take_begun(), 1);
    assert_eq!(scene.server.table_sizes().handshakes, 0);
}
