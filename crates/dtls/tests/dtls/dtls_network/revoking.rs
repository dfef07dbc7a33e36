use lwm2m_dtls::{AssociationCloseReason, HandshakeFailure};

use crate::dtls_network::scene::*;
use lwm2m_dtls::test_client::ClientState;

#[test]
fn what_was_made_by_a_key_that_is_gone_is_over_and_its_device_is_told() {
    for client in each_kind() {
        let (mut scene, device) = DtlsNetwork::established(client);
        let revoked = scene.peer();
        let other = scene.add(other_psk());
        scene.settle();
        let stays = scene.peer();
        scene.save();

        scene.server.revoke(|key| key.identity.as_str() == "urn:imei:1");
        scene.drain();
        scene.settle();

        assert_eq!(scene.closed, [(revoked, AssociationCloseReason::Revoked)]);
        assert_eq!(scene.devices[device].client.state(), ClientState::Closed);
        scene.assert_data_flows(other, stays);
        scene.save();
        assert_eq!(scene.store.keys().copied().collect::<Vec<_>>(), [stays.association.unwrap()]);
    }
}

#[test]
fn a_handshake_that_has_such_a_key_ends_and_one_that_still_waits_for_its_key_gets_the_new_one() {
    for has_key in [true, false] {
        let mut scene = DtlsNetwork::new();
        scene.answers = has_key;
        let device = scene.add(psk());
        // Neither ChangeCipherSpec nor Finished of the device arrive.
        scene.set_network(|way, datagram| {
            let is_lost = way == Direction::Up && (datagram[0] == 20 || datagram[3..5] == [0, 1]);
            if is_lost { Vec::new() } else { vec![(LATENCY, datagram.to_vec())] }
        });
        scene.settle();
        assert_eq!((scene.asked.len(), scene.server.table_sizes().handshakes), (1, 1));

        scene.server.revoke(|key| key.identity.as_str() == "urn:imei:1");
        scene.drain();

        let expected = if has_key { vec![HandshakeFailure::Revoked] } else { vec![] };
        assert_eq!(scene.failures(), expected);
        assert_eq!(scene.devices[device].client.state(), ClientState::Handshaking);
    }
}
