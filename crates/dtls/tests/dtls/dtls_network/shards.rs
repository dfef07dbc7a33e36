//! The shard of an association is in its id and in the connection ID that the device puts into its records.

use lwm2m_base::ThreadShards;
use lwm2m_dtls::DtlsConfig;
use lwm2m_dtls::test_client::DtlsClientConfig;

use crate::dtls_network::scene::*;

#[test]
fn connection_ids_are_of_the_shards_of_the_thread() {
    for (thread, threads) in [(0, 2), (1, 2), (4, 5)] {
        let shards = ThreadShards::new(thread, threads).expect("there is such a thread");
        let mut scene = DtlsNetwork::with(DtlsConfig { shards: shards.into(), ..DtlsConfig::default() });
        for number in 0..12 {
            let device = scene.add(DtlsClientConfig::psk(&format!("urn:imei:{number}"), KEY).with_cid(&[1]));
            scene.settle();
            scene.assert_established(device);

            let (peer, _) = scene.established.last().expect("it has an association");
            let id = peer.association.expect("a peer over DTLS has an association");
            assert!(shards.contains(id.shard()), "{} is no shard of {thread} of {threads}", id.shard());
            let cid = scene.devices[device].client.cid_of_server().expect("the server has a connection ID");
            assert_eq!(cid.first(), Some(&id.shard().number()));
        }
    }
}
