//! Every cipher suite, with and without connection ids.

use lwm2m_dtls::handshake::{Acceptor, AcceptorConfig, CredentialError, HandshakeError, VerifyMode};

use crate::dtls_handshake::scene::{HandshakeScene, IDENTITY, KEY, with_certificate};
use lwm2m_dtls::test_client::credentials::{CertificateRequest, Certified, ClientCredentials, rsa_key};
use lwm2m_dtls::test_client::{ClientState, DtlsClientConfig};

const PSK: &[&str] = &[
    "PSK-AES128-CCM8",
    "PSK-AES128-CCM",
    "PSK-AES128-GCM-SHA256",
    "PSK-AES256-GCM-SHA384",
    "PSK-AES256-CCM8",
    "PSK-AES256-CCM",
    "PSK-AES128-CBC-SHA256",
    "PSK-AES256-CBC-SHA384",
    "ECDHE-PSK-AES128-CBC-SHA256",
    "ECDHE-PSK-AES256-CBC-SHA384",
];
const ECDSA: &[&str] = &[
    "ECDHE-ECDSA-AES128-CCM8",
    "ECDHE-ECDSA-AES128-CCM",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES256-CCM8",
    "ECDHE-ECDSA-AES256-CCM",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-ECDSA-AES256-SHA384",
];
const RSA: &[&str] = &[
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES128-SHA256",
    "ECDHE-RSA-AES256-SHA384",
];

/// None: the client does not know connection ids.
const CIDS: &[Option<&[u8]>] = &[None, Some(b""), Some(b"\x17"), Some(b"twenty bytes of a cid")];

#[test]
fn every_suite_with_a_pre_shared_key_leaves_keys_that_the_client_has_too() {
    assert_each_works(PSK, &AcceptorConfig::default(), &|suite| {
        DtlsClientConfig::psk(IDENTITY, KEY).with_suites(suite)
    });
}

#[test]
fn every_suite_with_ecdsa_certificates_of_both_sides_leaves_keys_that_the_client_has_too() {
    let authority = Certified::authority("CA");
    let server = CertificateRequest::new("gateway").issue(Some(&authority));
    let device = CertificateRequest::new("device").issue(Some(&authority));
    let config = with_certificate(&server, &authority, VerifyMode::Peer { required: true });
    assert_each_works(ECDSA, &config, &|suite| DtlsClientConfig {
        authorities: Some(authority.certificate.clone()),
        ..DtlsClientConfig::new(ClientCredentials::Certificate(device.clone()), suite)
    });
}

#[test]
fn every_suite_with_an_rsa_certificate_leaves_keys_that_the_client_has_too() {
    let authority = Certified::authority("CA");
    let server = CertificateRequest::new("gateway").with_key(rsa_key()).issue(Some(&authority));
    let config = with_certificate(&server, &authority, VerifyMode::None);
    assert_each_works(RSA, &config, &|suite| DtlsClientConfig::new(ClientCredentials::Nothing, suite));
}

fn assert_each_works(suites: &[&str], acceptor: &AcceptorConfig, client: &dyn Fn(&str) -> DtlsClientConfig) {
    for suite in suites {
        for cid in CIDS {
            let client = DtlsClientConfig { cid: cid.map(<[u8]>::to_vec), ..client(suite) };
            let mut scene = HandshakeScene::new(acceptor, client);
            scene.run().assert_established().assert_data_flows();
            let left = scene.established.as_ref().unwrap();
            assert_eq!(scene.client.suite(), Some(*suite));
            assert_eq!(left.own_cid.is_some(), cid.is_some(), "{suite}");
            assert_eq!(left.next_write_sequence, 1, "{suite}: the Finished was number 0");
        }
    }
}

#[test]
fn a_client_without_encrypt_then_mac_gets_the_suite_that_needs_none() {
    let client = DtlsClientConfig {
        encrypt_then_mac: false,
        ..DtlsClientConfig::psk(IDENTITY, KEY).with_suites("PSK-AES128-CBC-SHA256:PSK-AES128-CCM8")
    };
    let mut scene = HandshakeScene::new(&AcceptorConfig::default(), client);

    scene.run().assert_established().assert_data_flows();

    assert_eq!(scene.client.suite(), Some("PSK-AES128-CCM8"));
}

#[test]
fn a_client_that_could_only_mac_then_encrypt_is_told_so_in_the_handshake() {
    for acceptor_suites in [vec![], vec!["PSK-AES128-CBC-SHA256".to_owned()]] {
        let client = DtlsClientConfig {
            encrypt_then_mac: false,
            ..DtlsClientConfig::psk(IDENTITY, KEY).with_suites("PSK-AES128-CBC-SHA256")
        };
        let acceptor = AcceptorConfig { cipher_suites: acceptor_suites, ..AcceptorConfig::default() };
        let mut scene = HandshakeScene::new(&acceptor, client);

        scene.run().assert_failed(HandshakeError::NoCommonSuite);

        assert_eq!(scene.client.state(), ClientState::Refused(40), "handshake_failure");
    }
}

#[test]
fn only_the_configured_suites_are_spoken() {
    let only = AcceptorConfig {
        cipher_suites: vec!["TLS_PSK_WITH_AES_128_GCM_SHA256".to_owned()],
        ..AcceptorConfig::default()
    };
    HandshakeScene::new(&only, DtlsClientConfig::psk(IDENTITY, KEY)).run().assert_failed(HandshakeError::NoCommonSuite);
    let gcm = DtlsClientConfig::psk(IDENTITY, KEY).with_suites("PSK-AES128-GCM-SHA256");
    HandshakeScene::new(&only, gcm).run().assert_established();
}

#[test]
fn the_clients_order_of_suites_decides() {
    for suites in ["PSK-AES128-CCM8:PSK-AES128-GCM-SHA256", "PSK-AES128-GCM-SHA256:PSK-AES128-CCM8"] {
        let client = DtlsClientConfig::psk(IDENTITY, KEY).with_suites(suites);
        let mut scene = HandshakeScene::new(&AcceptorConfig::default(), client);
        scene.run().assert_established();
        assert_eq!(scene.client.suite(), suites.split(':').next());
    }
}

#[test]
fn a_client_without_extended_master_secret_is_served() {
    let client =
        DtlsClientConfig { extended_master_secret: false, ..DtlsClientConfig::psk(IDENTITY, KEY).with_cid(b"c") };
    HandshakeScene::new(&AcceptorConfig::default(), client).run().assert_established().assert_data_flows();
}

#[test]
fn the_suites_that_cannot_be_done_are_named_all_at_once() {
    let cannot = ["PSK-AES128-CBC-SHA", "TLS_AES_128_GCM_SHA256", "RSA-PSK-AES128-GCM-SHA256", "nonsense", "ALL"];
    let list = [&cannot[..], &["PSK-AES128-CCM8"]].concat();
    let config =
        AcceptorConfig { cipher_suites: list.into_iter().map(str::to_owned).collect(), ..AcceptorConfig::default() };
    let Err(error) = Acceptor::new(&config) else { panic!("taken") };
    assert!(matches!(&error, CredentialError::CipherSuites { names } if names == &cannot), "{error}");
}
