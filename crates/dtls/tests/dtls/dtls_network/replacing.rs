//! A hello from where an association is (RFC 6347 section 4.2.8).

use std::time::Duration;

use lwm2m_dtls::{AssociationCloseReason, DtlsDatagramOutcome, DtlsDropReason, DtlsReport, HandshakeFailure};

use crate::dtls_network::scene::*;

#[test]
fn a_device_that_reboots_takes_the_place_of_its_association_when_it_is_done() {
    for client in each_kind() {
        let (mut scene, device) = DtlsNetwork::established(client);
        let before = scene.peer();
        scene.reboot(device);
        scene.run_for(Duration::from_millis(450));
        assert_eq!((scene.server.table_sizes().handshakes, scene.closed.len()), (1, 0), "not before");
        scene.settle();

        scene.assert_established(device);
        let after = scene.peer();
        assert_ne!(before.association, after.association);
        assert_eq!(scene.closed, [(before, AssociationCloseReason::Replaced)]);
        scene.assert_data_flows(device, after);
        scene.server_sends(before, b"lost");
        assert!(matches!(scene.reports.last(), Some(DtlsReport::Unsent { .. })));
        assert_eq!(scene.server.table_sizes().associations, 1);
    }
}

#[test]
fn a_handshake_that_is_not_finished_does_not_disturb_the_association_at_its_address() {
    for client in each_kind() {
        let (mut scene, device) = DtlsNetwork::established(client.clone());
        let peer = scene.peer();
        let intruder = scene.add(client);
        scene.devices[intruder].address = scene.devices[device].address;
        // It gets as far as the cookie takes it; what follows is lost.
        scene.set_network(|way, datagram| {
            let is_key_exchange = way == Direction::Up && datagram[0] == 22 && datagram[13] == 16;
            if is_key_exchange { vec![] } else { vec![(LATENCY, datagram.to_vec())] }
        });
        for _ in 0..5 {
            scene.run_for(Duration::from_secs(3));
            assert_eq!(scene.server.table_sizes().handshakes, 1);
            scene.assert_data_flows(device, peer);
        }
        scene.run_for(Duration::from_secs(60));
        // What the intruder protected is not of any key that is known.
        assert_eq!((scene.established.len(), scene.closed.len()), (1, 0));
        scene.devices.remove(intruder);
        scene.assert_data_flows(device, peer);
    }
}

#[test]
fn a_hello_without_a_cookie_or_with_a_false_one_changes_nothing() {
    for client in each_kind() {
        let (mut scene, device) = DtlsNetwork::established(client.clone());
        let (peer, address) = (scene.peer(), scene.devices[device].address);
        let other = scene.add(client);
        let hello = scene.devices[other].client.poll_transmit().unwrap();
        for _ in 0..100 {
            assert_eq!(scene.outcome_of(address, &hello), DtlsDatagramOutcome::CookieAsked);
        }
        assert_eq!(scene.server.table_sizes().handshakes, 0);
        assert_eq!(scene.take_begun(), 1, "its own");
        scene.devices.remove(other);
        scene.assert_data_flows(device, peer);
    }
}

/// Behind a NAT the address of one that was silent is given to the next one.
#[test]
fn another_device_at_the_address_replaces_an_association_only_if_that_is_found_by_its_address() {
    for client in each_kind() {
        let has_cid = client.cid.is_some();
        let (mut scene, device) = DtlsNetwork::established(client);
        let peer = scene.peer();
        let other = scene.add(other_psk());
        let address = scene.devices[device].address;
        scene.devices[other].address = address;
        scene.rebind(device);
        scene.settle();
        scene.assert_established(other);

        let newer = scene.peer();
        scene.assert_data_flows(other, newer);
        if has_cid {
            assert_eq!(scene.closed, []);
            scene.assert_data_flows(device, peer);
            scene.assert_data_flows(other, newer);
        } else {
            assert_eq!(scene.closed, [(peer, AssociationCloseReason::Replaced)]);
        }
    }
}

#[test]
fn a_device_that_begins_anew_within_a_handshake_goes_on_with_the_new_one() {
    for client in each_kind() {
        let mut scene = DtlsNetwork::new();
        let device = scene.add(client);
        // The answer to its second hello is lost: it would take that for the answer to its next one.
        scene.set_network(|way, datagram| {
            let lost = way == Direction::Down && datagram.len() > 60;
            if lost { vec![] } else { vec![(LATENCY, datagram.to_vec())] }
        });
        scene.run_for(Duration::from_millis(350));
        assert_eq!(scene.server.table_sizes().handshakes, 1);
        scene.set_quiet_network();
        scene.reboot(device);
        scene.settle();
        scene.assert_established(device);
        assert_eq!((scene.failures(), scene.established.len()), (vec![HandshakeFailure::Restarted], 1));
        scene.assert_data_flows(device, scene.peer());
    }
}

#[test]
fn records_of_the_association_that_was_replaced_are_not_taken() {
    for client in each_kind() {
        let has_cid = client.cid.is_some();
        let (mut scene, device) = DtlsNetwork::established(client);
        let address = scene.devices[device].address;
        let late = scene.device_makes(device, b"late");
        scene.reboot(device);
        scene.settle();
        scene.assert_established(device);
        let reason = if has_cid { DtlsDropReason::UnknownConnectionId } else { DtlsDropReason::Forged };
        assert_eq!(scene.outcome_of(address, &late), DtlsDatagramOutcome::Dropped(reason));
        scene.assert_data_flows(device, scene.peer());
    }
}
