//! Pre-shared keys: asked for, unknown, wrong, late.

use lwm2m_dtls::handshake::{HandshakeError, HandshakeRecordOutcome};

use crate::dtls_handshake::scene::{HandshakeScene, IDENTITY, KEY, psk_identity};
use lwm2m_dtls::test_client::{ClientState, DtlsClientConfig};

#[test]
fn the_key_of_the_identity_is_asked_for_once_and_the_identity_is_the_associations() {
    let mut scene = HandshakeScene::psk();

    scene.run().assert_established();

    assert_eq!(scene.asked, [IDENTITY]);
    assert_eq!(*scene.identity(), psk_identity(IDENTITY));
    assert!(!scene.established.as_ref().unwrap().resumed);
}

#[test]
fn an_unknown_identity_is_told_so_by_an_alert() {
    let mut scene = HandshakeScene::psk();
    scene.keys.clear();

    scene.run().assert_failed(HandshakeError::UnknownIdentity);

    assert_eq!(scene.client.state(), ClientState::Refused(115), "unknown_psk_identity");
}

#[test]
fn an_identity_that_is_not_utf_8_is_unknown_without_a_question() {
    let mut scene = HandshakeScene::psk();
    let mut replaced = false;
    scene.run_with(|_, mut datagram| {
        if let Some(at) = datagram.windows(IDENTITY.len()).position(|bytes| bytes == IDENTITY.as_bytes()) {
            datagram[at] = 0xff;
            replaced = true;
        }
        vec![datagram]
    });

    assert!(replaced);
    scene.assert_failed(HandshakeError::UnknownIdentity);
    assert!(scene.asked.is_empty());
    assert_eq!(scene.client.state(), ClientState::Refused(115), "unknown_psk_identity");
}

#[test]
fn a_wrong_key_is_silent_and_suspected() {
    for client in
        [DtlsClientConfig::psk(IDENTITY, b"another key"), DtlsClientConfig::psk(IDENTITY, b"x").with_cid(b"cid")]
    {
        let mut scene = HandshakeScene::new(&Default::default(), client);

        scene.run();

        assert!(scene.established.is_none() && scene.failed.is_none());
        assert_eq!(scene.client.state(), ClientState::Handshaking);
        assert!(scene.server.as_ref().unwrap().suspects_wrong_key());
        assert_eq!(scene.heard.last(), Some(&HandshakeRecordOutcome::NotAuthentic));
    }
}

#[test]
fn a_key_that_comes_late_finishes_the_handshake_with_what_came_meanwhile() {
    for client in [DtlsClientConfig::psk(IDENTITY, KEY), DtlsClientConfig::psk(IDENTITY, KEY).with_cid(b"cid")] {
        let mut scene = HandshakeScene::new(&Default::default(), client);
        scene.answers_keys = false;
        scene.run();
        // The client repeats all of its flight while the key is looked for.
        scene.client.retransmit();
        scene.run();
        assert_eq!(scene.asked, [IDENTITY], "one question");
        assert!(scene.established.is_none() && scene.failed.is_none());

        scene.answer_key();
        scene.run().assert_established().assert_data_flows();
    }
}

#[test]
fn an_answer_that_nobody_asked_for_changes_nothing() {
    let mut scene = HandshakeScene::psk();
    let key = lwm2m_dtls::credentials::PskKey::new(*b"x").unwrap();
    let hello = scene.client.poll_transmit().unwrap();
    scene.give_server(&hello);
    let hello = scene.client.poll_transmit().unwrap();
    scene.give_server(&hello);
    scene.server.as_mut().unwrap().handle_key(Some(&key));
    scene.server.as_mut().unwrap().handle_key(None);

    scene.run().assert_established();
    scene.server.as_mut().unwrap().handle_key(None);
    assert!(scene.server.as_mut().unwrap().poll().is_none());
}

#[test]
fn a_long_identity_and_a_long_key_are_fine() {
    let (identity, key) = ("i".repeat(255), vec![7; 256]);
    let mut scene = HandshakeScene::new(&Default::default(), DtlsClientConfig::psk(&identity, &key));
    scene.keys.insert(identity.clone(), key);

    scene.run().assert_established();

    assert_eq!(*scene.identity(), psk_identity(&identity));
}
