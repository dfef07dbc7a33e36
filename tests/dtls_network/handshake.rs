use lwm2m_gateway::dtls::Report;
use lwm2m_gateway::dtls::credentials::{Identity, PskIdentity};

use crate::scene::*;

#[test]
fn a_device_is_established_and_data_flows_both_ways() {
    for client in each_kind() {
        let connection_id = client.cid.is_some();
        let (mut scene, device) = Scene::established(client);
        let peer = scene.peer();
        assert_eq!(peer.address, scene.devices[device].address);
        let identity = Identity::Psk(PskIdentity::new(b"urn:imei:1").unwrap());
        assert_eq!(scene.server.identity(peer.association.unwrap()).map(|i| (**i).clone()), Some(identity));
        let completed = |report: &Report| match report {
            Report::HandshakeCompleted { connection_id, .. } => Some(*connection_id),
            _ => None,
        };
        assert_eq!(scene.reports.iter().find_map(completed), Some(connection_id));
        for _ in 0..3 {
            scene.assert_data_flows(device, peer);
        }
        assert_eq!(scene.server.occupancy().handshakes, 0);
        assert_eq!((scene.asked.len(), scene.closed.len()), (1, 0));
    }
}
