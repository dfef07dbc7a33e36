//! Handshakes over a network that loses, repeats and reorders.

use lwm2m_dtls::handshake::{AcceptorConfig, HandshakeRecordOutcome, VerifyMode};
use lwm2m_dtls::record::{OwnCid, records};

use crate::dtls_handshake::scene::{From, HandshakeScene, IDENTITY, KEY, with_certificate};
use lwm2m_dtls::test_client::DtlsClientConfig;
use lwm2m_dtls::test_client::credentials::{CertificateRequest, Certified, ClientCredentials};

/// Clients of each kind, with and without connection ids.
fn scenes() -> Vec<HandshakeScene> {
    let authority = Certified::authority("CA");
    let server = CertificateRequest::new("gateway").issue(Some(&authority));
    let device = CertificateRequest::new("device").issue(Some(&authority));
    let config = with_certificate(&server, &authority, VerifyMode::Peer { required: true });
    let psk = DtlsClientConfig::psk(IDENTITY, KEY);
    let certificate = DtlsClientConfig::new(ClientCredentials::Certificate(device), "ECDHE-ECDSA-AES128-CCM8");
    [psk.clone(), psk.clone().with_cid(b"cid"), psk.with_cid(b""), certificate.clone(), certificate.with_cid(b"c")]
        .into_iter()
        .map(|client| HandshakeScene::new(&config, client))
        .collect()
}

#[test]
fn everything_twice_is_no_harm() {
    for mut scene in scenes() {
        scene.run_with(|_, datagram| vec![datagram.clone(), datagram]).assert_established().assert_data_flows();
    }
}

#[test]
fn each_datagram_may_be_lost_once() {
    for lost in 0..12 {
        for mut scene in scenes() {
            let mut count = 0;
            scene.run_in_time(|_, datagram| {
                count += 1;
                if count - 1 == lost { vec![] } else { vec![datagram] }
            });
            if scene.established.is_some() && !scene.client.is_established() {
                scene.repeat_last_flight();
            }
            scene.assert_established().assert_data_flows();
        }
    }
}

#[test]
fn records_of_a_flight_may_come_in_the_other_order() {
    for mut scene in scenes() {
        let mut held: Vec<Vec<u8>> = Vec::new();
        // All of the client's key exchange, backwards.
        while scene.established.is_none() {
            let from_client = scene.client.transmits();
            from_client.iter().rev().for_each(|datagram| scene.give_server(datagram));
            let from_server = scene.server_transmits();
            assert!(!from_client.is_empty() || !from_server.is_empty() || scene.established.is_some(), "stuck");
            held.extend(from_server.iter().cloned());
            from_server.iter().for_each(|datagram| scene.client.handle_datagram(scene.now, datagram));
        }
        scene.run().assert_established().assert_data_flows();
    }
}

#[test]
fn hellos_and_key_exchanges_come_in_fragments() {
    for mtu in [64, 100, 128, 256] {
        for cid in [None, Some(b"cid".to_vec())] {
            let identity = "i".repeat(200);
            let client = DtlsClientConfig { mtu, cid, ..DtlsClientConfig::psk(&identity, KEY) };
            let mut scene = HandshakeScene::new(&AcceptorConfig::default(), client);
            scene.keys.insert(identity.clone(), KEY.to_vec());

            scene.run().assert_established().assert_data_flows();

            assert_eq!(scene.asked, [identity]);
        }
    }
}

#[test]
fn certificates_come_in_fragments_both_ways() {
    let authority = Certified::authority("CA");
    let server = CertificateRequest::new("gateway").issue(Some(&authority));
    let device = CertificateRequest::new("device").issue(Some(&authority));
    let config = AcceptorConfig {
        mtu: AcceptorConfig::MIN_MTU,
        ..with_certificate(&server, &authority, VerifyMode::Peer { required: true })
    };
    let client =
        DtlsClientConfig::new(ClientCredentials::Certificate(device), "ECDHE-ECDSA-AES128-CCM8").with_cid(b"cid");
    let mut scene = HandshakeScene::new(&config, DtlsClientConfig { mtu: 128, ..client });

    scene.run().assert_established().assert_data_flows();

    let largest = scene.sent.iter().map(Vec::len).max();
    assert!(largest <= Some(AcceptorConfig::MIN_MTU.into()), "{largest:?}");
}

#[test]
fn a_repeated_hello_has_our_flight_repeated_in_new_records() {
    let mut scene = HandshakeScene::psk();
    scene.run_with(|from, datagram| if from == From::Server { vec![] } else { vec![datagram] });
    let first = std::mem::take(&mut scene.sent);

    scene.client.retransmit();
    scene.run_with(|from, datagram| if from == From::Server { vec![] } else { vec![datagram] });

    let numbers = |datagrams: &[Vec<u8>]| -> Vec<u64> {
        let split = datagrams.iter().flat_map(|datagram| records(datagram, 0));
        split.map(|record| record.sequence).collect()
    };
    let messages = |datagrams: &[Vec<u8>]| -> Vec<Vec<u8>> {
        let split = datagrams.iter().flat_map(|datagram| records(datagram, 0));
        split.map(|record| record.fragment.to_vec()).collect()
    };
    assert_eq!(messages(&first), messages(&scene.sent));
    assert!(numbers(&first).iter().max() < numbers(&scene.sent).iter().min());
}

#[test]
fn our_flight_is_repeated_when_the_server_says_so() {
    let mut scene = HandshakeScene::psk();
    scene.run_with(|from, datagram| if from == From::Server { vec![] } else { vec![datagram] });

    scene.server.as_mut().unwrap().retransmit();

    scene.run().assert_established().assert_data_flows();
}

#[test]
fn a_finished_handshake_repeats_nothing_and_hears_nothing() {
    let mut scene = HandshakeScene::psk();
    scene.run().assert_established();
    scene.client.retransmit();
    let again = scene.client.transmits();

    scene.server.as_mut().unwrap().retransmit();

    again.iter().for_each(|datagram| scene.give_server(datagram));
    assert!(scene.server_transmits().is_empty());
}

#[test]
fn the_same_bytes_leave_under_the_same_number_of_epoch_1() {
    for mut scene in scenes() {
        scene.run().assert_established();
        scene.resume().run_with(|from, datagram| if from == From::Server { vec![] } else { vec![datagram] });
        for _ in 0..3 {
            scene.server.as_mut().unwrap().retransmit();
            scene.server_transmits();
        }
        let cid_length = scene.client.own_cid_length();
        let mut protected: Vec<Vec<u8>> = scene
            .sent
            .iter()
            .flat_map(|datagram| records(datagram, cid_length))
            .filter(|record| record.epoch == 1)
            .map(|record| record.bytes.to_vec())
            .collect();
        assert_eq!(protected.len(), 4, "our Finished, and three times again");
        protected.dedup();
        assert_eq!(protected.len(), 1);
    }
}

#[test]
fn data_that_comes_before_the_finished_is_for_the_association() {
    for client in [DtlsClientConfig::psk(IDENTITY, KEY), DtlsClientConfig::psk(IDENTITY, KEY).with_cid(b"cid")] {
        let mut scene = HandshakeScene::new(&AcceptorConfig::default(), client);
        scene.run().assert_established();
        // A resumed client is finished as soon as it has sent its Finished.
        scene.resume().run_with(|from, datagram| {
            let protected = records(&datagram, OwnCid::LENGTH).any(|record| record.epoch == 1);
            if from == From::Client && protected { vec![] } else { vec![datagram] }
        });
        assert!(scene.client.is_established() && scene.established.is_none());
        scene.client.send(b"early");
        let early = scene.client.transmits();
        early.iter().for_each(|datagram| scene.give_server(datagram));
        assert_eq!(scene.heard.last(), Some(&HandshakeRecordOutcome::Early));

        scene.client.retransmit();
        scene.run().assert_established();

        assert_eq!(scene.established.as_ref().unwrap().early, early);
    }
}

#[test]
fn what_comes_early_is_bounded() {
    let mut scene = HandshakeScene::psk();
    scene.run().assert_established();
    scene.resume().run_with(|from, datagram| {
        let protected = records(&datagram, OwnCid::LENGTH).any(|record| record.epoch == 1);
        if from == From::Client && protected { vec![] } else { vec![datagram] }
    });
    for _ in 0..20 {
        scene.client.send(b"early");
        scene.client.transmits().iter().for_each(|datagram| scene.give_server(datagram));
    }
    assert_eq!(scene.heard.last(), Some(&HandshakeRecordOutcome::TooMuch));

    scene.client.retransmit();
    scene.run().assert_established();
    assert!(scene.established.as_ref().unwrap().early.len() <= 8);
}

#[test]
fn forged_records_do_not_end_a_handshake() {
    for mut scene in scenes() {
        scene.run_with(|from, datagram| {
            let Some(record) = records(&datagram, OwnCid::LENGTH).find(|record| record.epoch == 1) else {
                return vec![datagram];
            };
            if from == From::Server {
                return vec![datagram];
            }
            let mut forged = record.bytes.to_vec();
            *forged.last_mut().unwrap() ^= 1;
            vec![forged, datagram]
        });
        assert!(scene.heard.contains(&HandshakeRecordOutcome::NotAuthentic));
        scene.assert_established().assert_data_flows();
    }
}

#[test]
fn what_is_no_record_of_a_handshake_has_no_place() {
    let mut scene = HandshakeScene::psk();
    scene.run_with(|from, datagram| if from == From::Server { vec![] } else { vec![datagram] });
    let server = scene.server.as_mut().unwrap();
    for record in [
        &b""[..],
        b"\x16",
        b"\x17\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01x",
        b"\x16\xfe\xfd\x00\x02\x00\x00\x00\x00\x00\x01\x00\x01x",
        b"\x16\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01x",
    ] {
        assert_eq!(server.handle_record(record), HandshakeRecordOutcome::Unexpected);
    }
    server.retransmit();
    scene.run().assert_established();
}

#[test]
fn a_hello_that_is_another_one_has_nothing_repeated() {
    let mut scene = HandshakeScene::psk();
    let mut hello = Vec::new();
    scene.run_with(|from, datagram| {
        if from == From::Client {
            hello.clone_from(&datagram);
            return vec![datagram];
        }
        vec![]
    });
    scene.sent.clear();
    // Its random is at 13 (record) and 12 (message) and 2 (version).
    hello[40] ^= 1;

    scene.give_server(&hello);

    assert_eq!(scene.heard.last(), Some(&HandshakeRecordOutcome::Unexpected));
    assert!(scene.server_transmits().is_empty());
}
