//! Connection ids (RFC 9146).

use lwm2m_dtls::handshake::AcceptorConfig;
use lwm2m_dtls::record::{ContentType, PeerCid, records};

use crate::dtls_handshake::scene::{From, HandshakeScene, IDENTITY, KEY, OWN_CID};
use lwm2m_dtls::test_client::DtlsClientConfig;

#[test]
fn ids_of_every_length_are_agreed_on() {
    for length in [1, 2, 8, 20, 254, 255] {
        let cid = vec![0xc1; length];
        let mut scene =
            HandshakeScene::new(&AcceptorConfig::default(), DtlsClientConfig::psk(IDENTITY, KEY).with_cid(&cid));

        scene.run().assert_established().assert_data_flows();

        let left = scene.established.as_ref().unwrap();
        assert_eq!(left.peer_cid, PeerCid::new(&cid));
        assert_eq!(scene.client.cid_of_server().as_deref(), Some(&OWN_CID.0[..]));
    }
}

#[test]
fn every_protected_record_of_the_handshake_has_its_connection_id() {
    let mut scene =
        HandshakeScene::new(&AcceptorConfig::default(), DtlsClientConfig::psk(IDENTITY, KEY).with_cid(b"cid"));
    let mut seen = Vec::new();

    scene.run_with(|from, datagram| {
        let length = if from == From::Client { OWN_CID.0.len() } else { 3 };
        for record in records(&datagram, length).filter(|record| record.epoch == 1) {
            seen.push((from, record.content_type, record.cid.to_vec()));
        }
        vec![datagram]
    });

    let expected = [
        (From::Client, ContentType::Tls12Cid, OWN_CID.0.to_vec()),
        (From::Server, ContentType::Tls12Cid, b"cid".to_vec()),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_client_with_an_empty_id_has_ours_in_its_records_and_none_in_ours() {
    let mut scene = HandshakeScene::new(&AcceptorConfig::default(), DtlsClientConfig::psk(IDENTITY, KEY).with_cid(b""));

    scene.run().assert_established().assert_data_flows();

    let left = scene.established.as_ref().unwrap();
    assert_eq!((left.own_cid, &left.peer_cid), (Some(OWN_CID), &None));
}

#[test]
fn where_they_are_switched_off_a_client_that_offers_one_goes_without() {
    let off = AcceptorConfig { connection_ids: false, ..AcceptorConfig::default() };
    let mut scene = HandshakeScene::new(&off, DtlsClientConfig::psk(IDENTITY, KEY).with_cid(b"cid"));

    scene.run().assert_established().assert_data_flows();

    assert_eq!(scene.established.as_ref().unwrap().own_cid, None);
}
