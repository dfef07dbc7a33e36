//! NAT: a device has another address, in every state, with and without a connection id (RFC 9146 section 6).

use std::time::Duration;

use lwm2m_dtls::{DtlsDatagramOutcome, DtlsDropReason, DtlsReport};

use crate::dtls_network::scene::*;
use lwm2m_dtls::test_client::ClientState;

fn moves(scene: &DtlsNetwork) -> usize {
    scene.reports.iter().filter(|report| matches!(report, DtlsReport::Moved { .. })).count()
}

#[test]
fn with_a_connection_id_the_association_follows_its_device() {
    for client in [psk_cid(), psk().with_cid(&[])] {
        let (mut scene, device) = DtlsNetwork::established(client);
        let peer = scene.peer();
        for number in 1..20 {
            let address = scene.rebind(device);
            scene.assert_data_flows(device, peer);
            assert_eq!(moves(&scene), number);
            assert_eq!(scene.transmitted.last().map(|(to, _)| *to), Some(address));
        }
        assert_eq!(scene.server.table_sizes().associations, 1);
    }
}

#[test]
fn without_a_connection_id_a_device_at_another_address_is_unknown_and_may_come_back() {
    let (mut scene, device) = DtlsNetwork::established(psk());
    let (peer, before) = (scene.peer(), scene.devices[device].address);
    scene.rebind(device);
    scene.device_sends(device, b"who am I");
    scene.settle();
    assert_eq!(scene.outcomes.last(), Some(&DtlsDatagramOutcome::Dropped(DtlsDropReason::Unknown)));
    assert_eq!((scene.plaintexts.len(), scene.closed.len()), (0, 0));
    scene.devices[device].address = before;
    scene.assert_data_flows(device, peer);

    // For good, it needs a new handshake.
    scene.rebind(device);
    scene.reboot(device);
    scene.settle();
    scene.assert_established(device);
    let after = scene.peer();
    scene.assert_data_flows(device, after);
    assert_eq!(scene.server.table_sizes().associations, 2, "the former one is not at this address");
}

#[test]
fn only_the_newest_record_tells_where_a_device_is() {
    let (mut scene, device) = DtlsNetwork::established(psk_cid());
    let (peer, home) = (scene.peer(), scene.devices[device].address);
    let elsewhere = "203.0.113.9:9".parse().unwrap();
    let [late, seen] = [scene.device_makes(device, b"late"), scene.device_makes(device, b"seen")];
    assert_eq!(scene.outcome_of(home, &seen), DtlsDatagramOutcome::Data);

    // Replayed, forged, and late: from where somebody wants the answers to go.
    assert_eq!(scene.outcome_of(elsewhere, &seen), DtlsDatagramOutcome::Dropped(DtlsDropReason::Replayed));
    let mut forged = scene.device_makes(device, b"newer");
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(scene.outcome_of(elsewhere, &forged), DtlsDatagramOutcome::Dropped(DtlsDropReason::Forged));
    assert_eq!(scene.outcome_of(elsewhere, &late), DtlsDatagramOutcome::Data, "late, but its own");
    assert_eq!(moves(&scene), 0);
    scene.server_sends(peer, b"down");
    assert_eq!(scene.transmitted.last().unwrap().0, home);
    scene.settle();
    scene.assert_data_flows(device, peer);
}

#[test]
fn devices_that_swap_their_addresses_keep_their_associations_by_their_connection_ids() {
    let mut scene = DtlsNetwork::new();
    let (one, two) = (scene.add(psk_cid()), scene.add(other_psk().with_cid(b"")));
    scene.settle();
    let at = |scene: &DtlsNetwork, device: usize| {
        let address = scene.devices[device].address;
        scene.established.iter().find(|(peer, _)| peer.address == address).unwrap().0
    };
    let (first, second) = (at(&scene, one), at(&scene, two));
    for _ in 0..5 {
        let address = scene.devices[one].address;
        scene.devices[one].address = scene.devices[two].address;
        scene.devices[two].address = address;
        scene.assert_data_flows(one, first);
        scene.assert_data_flows(two, second);
    }
    assert_eq!((moves(&scene), scene.closed.len()), (10, 0));
}

#[test]
fn devices_without_connection_ids_that_swap_their_addresses_are_not_taken_for_each_other() {
    let mut scene = DtlsNetwork::new();
    let (one, two) = (scene.add(psk()), scene.add(other_psk()));
    scene.settle();
    let home = (scene.devices[one].address, scene.devices[two].address);
    (scene.devices[one].address, scene.devices[two].address) = (home.1, home.0);
    for device in [one, two] {
        scene.device_sends(device, b"up");
        scene.settle();
        assert_eq!(scene.outcomes.last(), Some(&DtlsDatagramOutcome::Dropped(DtlsDropReason::Forged)));
    }
    assert_eq!((scene.plaintexts.len(), scene.closed.len()), (0, 0));
    (scene.devices[one].address, scene.devices[two].address) = home;
    for device in [one, two] {
        let address = scene.devices[device].address;
        let peer = scene.established.iter().find(|(peer, _)| peer.address == address).unwrap().0;
        scene.assert_data_flows(device, peer);
    }
}

/// Anybody may forward its records from that address, which must not silence the device that has the address.
#[test]
fn a_device_that_moves_by_its_connection_id_does_not_take_the_place_of_one_without() {
    let mut scene = DtlsNetwork::new();
    let (resident, mover) = (scene.add(psk()), scene.add(other_psk().with_cid(&[])));
    scene.settle();
    let (home, address) = (scene.devices[mover].address, scene.devices[resident].address);
    let at =
        |scene: &DtlsNetwork, address| scene.established.iter().find(|(peer, _)| peer.address == address).unwrap().0;
    let (resident_peer, mover_peer) = (at(&scene, address), at(&scene, home));

    let record = scene.device_makes(mover, b"from there");
    assert_eq!(scene.outcome_of(address, &record), DtlsDatagramOutcome::Data);
    assert_eq!(moves(&scene), 1);

    scene.assert_data_flows(resident, resident_peer);
    scene.assert_data_flows(mover, mover_peer);
    scene.assert_data_flows(resident, resident_peer);
    assert_eq!(scene.closed, []);
}

/// In each tenth of a second of a handshake. What was begun at the former address is lost; the device begins anew when
/// it has waited long enough, and is established.
#[test]
fn a_device_that_moves_within_its_handshake_is_established_by_the_same_or_the_next_one() {
    for client in each_kind() {
        for tenths in 0..9 {
            let mut scene = DtlsNetwork::new();
            let device = scene.add(client.clone());
            scene.run_for(tenths * Duration::from_millis(100) + Duration::from_millis(50));
            scene.rebind(device);
            scene.run_for(Duration::from_secs(30));
            if scene.devices[device].client.state() != ClientState::Established {
                scene.reboot(device);
                scene.run_for(Duration::from_secs(30));
            }
            scene.assert_established(device);
            if client.cid.is_none() && scene.peer().address != scene.devices[device].address {
                // It was established just before.
                scene.reboot(device);
                scene.settle();
            }
            let peer = scene.peer();
            scene.assert_data_flows(device, peer);
            scene.run_for(Duration::from_secs(61));
            assert_eq!(scene.server.table_sizes().handshakes, 0);
        }
    }
}

#[test]
fn a_device_that_moves_before_it_has_our_last_flight_gets_it_where_it_is() {
    for client in [psk_cid(), psk().with_cid(&[])] {
        let mut scene = DtlsNetwork::new();
        let device = scene.add(client);
        scene.set_network(
            |way, datagram| {
                if is_last_flight(way, datagram) { vec![] } else { vec![(LATENCY, datagram.to_vec())] }
            },
        );
        scene.settle();
        assert_eq!((scene.established.len(), scene.devices[device].client.is_established()), (1, false));
        let address = scene.rebind(device);
        scene.set_quiet_network();
        scene.run_for(Duration::from_secs(5));
        scene.assert_established(device);
        assert_eq!(scene.transmitted.last().unwrap().0, address);
        assert_eq!(scene.take_begun(), 1);
        scene.assert_data_flows(device, scene.peer());
    }
}

#[test]
fn a_record_without_the_connection_id_that_was_agreed_on_is_not_taken() {
    let (mut scene, device) = DtlsNetwork::established(psk_cid());
    let address = scene.devices[device].address;
    let keys = scene.devices[device].client.keys().unwrap();
    let sealing = lwm2m_dtls::cipher::Sealing {
        writer: lwm2m_dtls::cipher::RecordWriter::Client,
        content_type: lwm2m_dtls::record::ContentType::ApplicationData,
        sequence: 50,
        cid: &[],
    };
    let bare = keys.seal(sealing, b"without");
    assert_eq!(scene.outcome_of(address, &bare), DtlsDatagramOutcome::Dropped(DtlsDropReason::Unknown));
    scene.assert_data_flows(device, scene.peer());
}
