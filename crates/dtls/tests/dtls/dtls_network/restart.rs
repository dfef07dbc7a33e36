//! kill -9 and a new process with what the store had, in every state. What the device sees: nothing, wherever its
//! association was saved.

use std::time::Duration;

use lwm2m_dtls::{AssociationCloseReason, DtlsDatagramOutcome, DtlsDropReason, DtlsReport};

use crate::dtls_network::scene::*;
use lwm2m_dtls::test_client::ClientState;

#[test]
fn an_established_device_notices_nothing_and_makes_no_handshake() {
    for client in each_kind() {
        let (mut scene, device) = DtlsNetwork::established(client);
        let peer = scene.peer();
        scene.save();
        for _ in 0..3 {
            scene.restart();
            assert!(scene.reports.contains(&DtlsReport::Restored { peer }));
            assert_eq!(scene.server.identity(peer.association.unwrap()).unwrap().name(), Some("urn:imei:1"));
            scene.server_sends(peer, b"first");
            scene.settle();
            assert_eq!(scene.devices[device].received, [b"first".to_vec()]);
            scene.assert_data_flows(device, peer);
        }
        assert_eq!((scene.take_begun(), scene.closed.len()), (1, 0));
    }
}

/// The scene looks at each record that leaves: no sequence number is there twice.
#[test]
fn however_much_was_sent_since_the_last_save_no_sequence_number_is_used_twice() {
    let (mut scene, device) = DtlsNetwork::established(psk());
    let peer = scene.peer();
    scene.save();
    scene.set_network(|way, datagram| if way == Direction::Down { vec![] } else { vec![(LATENCY, datagram.to_vec())] });
    for _ in 0..4 {
        for number in 0..300u32 {
            scene.server_sends(peer, &number.to_be_bytes());
        }
        scene.restart();
    }
    // One that ends right after its start.
    scene.restart();
    scene.restart();
    scene.set_quiet_network();
    scene.assert_data_flows(device, peer);
}

#[test]
fn a_device_that_did_not_get_our_last_flight_gets_it_from_the_next_process() {
    for client in each_kind() {
        let mut scene = DtlsNetwork::new();
        let device = scene.add(client);
        scene.set_network(
            |way, datagram| {
                if is_last_flight(way, datagram) { vec![] } else { vec![(LATENCY, datagram.to_vec())] }
            },
        );
        scene.settle();
        assert!(!scene.devices[device].client.is_established());
        scene.save();
        scene.restart();
        scene.set_quiet_network();
        scene.run_for(Duration::from_secs(5));
        scene.assert_established(device);
        assert_eq!(scene.take_begun(), 1);
        scene.assert_data_flows(device, scene.peer());
    }
}

/// In each tenth of a second. Where nothing was saved, the device has to begin anew: it waits for that as long as it
/// waits for any answer.
#[test]
fn a_device_in_the_middle_of_its_handshake_begins_anew_and_is_established() {
    for client in each_kind() {
        for tenths in 0..9 {
            let mut scene = DtlsNetwork::new();
            let device = scene.add(client.clone());
            scene.run_for(tenths * Duration::from_millis(100) + Duration::from_millis(50));
            scene.save();
            scene.restart();
            scene.run_for(Duration::from_secs(30));
            if scene.devices[device].client.state() != ClientState::Established {
                // Where it had its cookie of the former process it is told; later there is nobody who would know it.
                assert!(tenths > 0, "nothing was asked of it yet: {:?}", scene.outcomes);
                let state = if tenths < 3 { ClientState::Refused(40) } else { ClientState::Handshaking };
                assert_eq!(scene.devices[device].client.state(), state, "after {tenths} tenths: {:?}", scene.outcomes);
                scene.reboot(device);
                scene.settle();
            }
            scene.assert_established(device);
            let peer = scene.peer();
            scene.assert_data_flows(device, peer);
        }
    }
}

#[test]
fn a_device_that_was_not_saved_hears_nothing_until_it_begins_anew() {
    for client in each_kind() {
        let has_cid = client.cid.is_some();
        let (mut scene, device) = DtlsNetwork::established(client);
        scene.restart();
        scene.device_sends(device, b"up");
        scene.settle();
        let reason = if has_cid { DtlsDropReason::UnknownConnectionId } else { DtlsDropReason::Unknown };
        assert_eq!(scene.outcomes.last(), Some(&DtlsDatagramOutcome::Dropped(reason)));
        scene.reboot(device);
        scene.settle();
        scene.assert_established(device);
        scene.assert_data_flows(device, scene.peer());
    }
}

#[test]
fn a_device_that_moved_is_found_where_it_was_when_it_was_saved_and_tells_where_it_is() {
    let (mut scene, device) = DtlsNetwork::established(psk_cid());
    let peer = scene.peer();
    let second = scene.rebind(device);
    scene.assert_data_flows(device, peer);
    scene.save();
    scene.restart();
    scene.server_sends(peer, b"down");
    assert_eq!(scene.transmitted.last().unwrap().0, second);
    scene.settle();
    let third = scene.rebind(device);
    scene.assert_data_flows(device, peer);
    scene.restart();
    scene.server_sends(peer, b"lost");
    assert_eq!(scene.transmitted.last().unwrap().0, second);
    scene.assert_data_flows(device, peer);
    assert_eq!(scene.transmitted.last().unwrap().0, third);
}

#[test]
fn a_closed_association_is_removed_from_the_store() {
    let (mut scene, device) = DtlsNetwork::established(psk());
    let peer = scene.peer();
    scene.save();
    assert_eq!(scene.store.len(), 1);
    scene.devices[device].client.close();
    scene.settle();
    scene.save();
    assert_eq!((scene.store.len(), scene.server.has_changes()), (0, false));
    scene.restart();
    assert_eq!(
        (scene.server.table_sizes().associations, scene.closed.clone()),
        (0, vec![(peer, AssociationCloseReason::CloseNotify)])
    );
}

#[test]
fn what_was_received_before_the_save_is_not_taken_again_and_what_came_after_it_at_most_once() {
    let (mut scene, device) = DtlsNetwork::established(psk_cid());
    let (peer, address) = (scene.peer(), scene.devices[device].address);
    let [before, after] = [scene.device_makes(device, b"before"), scene.device_makes(device, b"after")];
    assert_eq!(scene.outcome_of(address, &before), DtlsDatagramOutcome::Data);
    scene.save();
    assert_eq!(scene.outcome_of(address, &after), DtlsDatagramOutcome::Data);
    scene.restart();
    assert_eq!(scene.outcome_of(address, &before), DtlsDatagramOutcome::Dropped(DtlsDropReason::Replayed));
    assert_eq!(scene.outcome_of(address, &after), DtlsDatagramOutcome::Data);
    assert_eq!(scene.outcome_of(address, &after), DtlsDatagramOutcome::Dropped(DtlsDropReason::Replayed));
    scene.assert_data_flows(device, peer);
}

#[test]
fn an_association_is_a_change_at_its_making_its_moves_every_64_records_and_its_end() {
    let (mut scene, device) = DtlsNetwork::established(psk_cid());
    let peer = scene.peer();
    scene.save();
    assert!(!scene.server.has_changes());
    scene.rebind(device);
    scene.assert_data_flows(device, peer);
    assert_eq!(scene.server.take_changes(9).len(), 1);
    for number in 0..64 {
        assert!(!scene.server.has_changes(), "{number}");
        scene.device_sends(device, b"up");
        scene.settle();
    }
    assert_eq!(scene.server.take_changes(9).len(), 1);
    scene.server.change_all();
    assert_eq!((scene.server.take_changes(0).len(), scene.server.take_changes(9).len()), (0, 1));
    scene.devices[device].client.close();
    scene.settle();
    assert_eq!(scene.server.take_changes(9).len(), 1);
}

#[test]
fn a_record_that_cannot_be_read_is_reported_and_removed() {
    let (mut scene, _) = DtlsNetwork::established(psk());
    let id = scene.peer().association.unwrap();
    scene.save();
    scene.store.get_mut(&id).unwrap().bytes.pop();
    scene.restart();
    assert_eq!(scene.reports.last(), Some(&DtlsReport::NotRestored { association: id }));
    assert!(scene.store.is_empty());
}
