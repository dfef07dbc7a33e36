//! Session tickets, and what makes them worthless.

use lwm2m_dtls::handshake::{Acceptor, AcceptorConfig, VerifyMode};

use crate::dtls_handshake::scene::{HandshakeScene, IDENTITY, KEY, psk_identity, with_certificate};
use lwm2m_dtls::test_client::DtlsClientConfig;
use lwm2m_dtls::test_client::credentials::{CertificateRequest, Certified, ClientCredentials};

#[test]
fn a_session_is_resumed_with_the_key_of_today_looked_up() {
    for cid in [None, Some(b"".to_vec()), Some(b"cid".to_vec())] {
        for suite in ["PSK-AES128-CCM8", "PSK-AES128-GCM-SHA256", "PSK-AES128-CBC-SHA256"] {
            let client =
                DtlsClientConfig { cid: cid.clone(), ..DtlsClientConfig::psk(IDENTITY, KEY).with_suites(suite) };
            let mut scene = HandshakeScene::new(&AcceptorConfig::default(), client);
            scene.run().assert_established();

            scene.resume().run().assert_established();

            assert!(scene.client.is_resumed());
            assert_eq!(scene.asked, [IDENTITY]);
            assert_eq!(*scene.identity(), psk_identity(IDENTITY));
            let left = scene.established.as_ref().unwrap();
            assert!(left.resumed && left.last_flight.is_empty());
            scene.assert_data_flows();
        }
    }
}

#[test]
fn nothing_of_a_resumption_leaves_before_the_key_is_known() {
    let mut scene = HandshakeScene::psk();
    scene.run().assert_established();
    scene.resume().answers_keys = false;

    scene.run();
    assert_eq!(scene.asked, [IDENTITY]);
    assert!(scene.sent.is_empty(), "but the cookie, which is the test's");

    scene.answer_key();
    scene.run().assert_established();
    assert!(scene.client.is_resumed());
}

#[test]
fn a_changed_key_makes_the_ticket_worthless_and_the_old_key_does_not_come_back() {
    let mut scene = HandshakeScene::psk();
    scene.run().assert_established();
    scene.keys.insert(IDENTITY.to_owned(), b"the key of today".to_vec());

    scene.resume().run();

    assert!(scene.established.is_none(), "the client has the old key");
    assert!(!scene.client.is_resumed());
    assert!(scene.server.as_ref().unwrap().suspects_wrong_key());
}

#[test]
fn a_revoked_identity_does_not_come_back_by_its_ticket() {
    let mut scene = HandshakeScene::psk();
    scene.run().assert_established();
    scene.keys.clear();

    scene.resume().run();

    scene.assert_failed(lwm2m_dtls::handshake::HandshakeError::UnknownIdentity);
    assert!(!scene.client.is_resumed());
}

#[test]
fn after_a_refused_ticket_there_is_a_full_handshake_and_a_ticket_that_works() {
    let mut scene = HandshakeScene::psk();
    scene.run().assert_established();
    let first = scene.client.session().unwrap();
    // It is the key of today again, but meanwhile another one was.
    scene.keys.insert(IDENTITY.to_owned(), b"another one".to_vec());
    scene.resume().run();
    scene.keys.insert(IDENTITY.to_owned(), KEY.to_vec());
    let client = scene.client.reboot(scene.now);
    scene.restart(client).run().assert_established();

    scene.resume().run().assert_established();

    assert!(scene.client.is_resumed());
    assert_ne!(scene.client.session().unwrap().id(), first.id());
}

#[test]
fn tickets_do_not_outlive_the_credentials() {
    let mut scene = HandshakeScene::psk();
    scene.run().assert_established();
    scene.acceptor = Acceptor::new(&AcceptorConfig::default()).unwrap();

    scene.resume().run().assert_established();

    assert!(!scene.client.is_resumed(), "a full handshake");
}

#[test]
fn a_client_with_a_certificate_resumes_as_the_same() {
    let authority = Certified::authority("CA");
    let server = CertificateRequest::new("gateway").issue(Some(&authority));
    let device = CertificateRequest::new("device").issue(Some(&authority));
    let config = with_certificate(&server, &authority, VerifyMode::Peer { required: true });
    let client =
        DtlsClientConfig::new(ClientCredentials::Certificate(device), "ECDHE-ECDSA-AES128-CCM8").with_cid(b"cid");
    let mut scene = HandshakeScene::new(&config, client);
    scene.run().assert_established();
    assert_eq!(scene.identity().name(), Some("device"));

    scene.resume().run().assert_established().assert_data_flows();

    assert!(scene.client.is_resumed());
    assert_eq!(scene.identity().name(), Some("device"));
    assert!(scene.asked.is_empty());
}

#[test]
fn switched_off_there_are_none() {
    let off = AcceptorConfig { tickets: false, ..AcceptorConfig::default() };
    let mut scene = HandshakeScene::new(&off, DtlsClientConfig::psk(IDENTITY, KEY));
    scene.run().assert_established();

    scene.resume().run().assert_established();

    assert!(!scene.client.is_resumed());
}
