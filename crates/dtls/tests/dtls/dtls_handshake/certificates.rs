//! Certificates, pinned ones, and raw public keys (RFC 7250).

use lwm2m_base::identity::Identity;
use lwm2m_dtls::handshake::{
    Acceptor, AcceptorConfig, CertificateFault, CredentialError, HandshakeError, PemSecret, Pinned, VerifyMode,
};
use openssl::hash::MessageDigest;
use openssl::symm::Cipher;

use crate::dtls_handshake::scene::{HandshakeScene, with_certificate};
use lwm2m_dtls::test_client::credentials::{
    CertificateRequest, Certified, ClientCredentials, ec_key, public_key_pem, short_rsa_key,
};
use lwm2m_dtls::test_client::{ClientState, DtlsClientConfig};

const SUITE: &str = "ECDHE-ECDSA-AES128-CCM8";
const REQUIRED: VerifyMode = VerifyMode::Peer { required: true };

fn gateway(authority: &Certified, verify: VerifyMode) -> AcceptorConfig {
    with_certificate(&CertificateRequest::new("gateway").issue(Some(authority)), authority, verify)
}

fn client(device: &Certified) -> DtlsClientConfig {
    DtlsClientConfig::new(ClientCredentials::Certificate(device.clone()), SUITE)
}

#[test]
fn the_names_in_a_certificate_are_the_identity() {
    let authority = Certified::authority("CA");
    let device = CertificateRequest::new("device 1").with_dns_name("d1.example").with_dns_name("d2.example");
    let mut scene = HandshakeScene::new(&gateway(&authority, REQUIRED), client(&device.issue(Some(&authority))));

    scene.run().assert_established().assert_data_flows();

    let expected = Identity::Certificate {
        common_name: Some("device 1".to_owned()),
        alternative_names: vec!["d1.example".to_owned(), "d2.example".to_owned()],
    };
    assert_eq!(*scene.identity(), expected);
}

#[test]
fn no_more_of_a_certificate_is_kept_than_some_names_of_some_length() {
    let authority = Certified::authority("CA");
    let long = "d".repeat(256);
    let names = (0..20).map(|number| format!("d{number}.example")).chain([long]);
    let request = names.rev().fold(CertificateRequest::new("device"), |request, name| request.with_dns_name(&name));
    let mut scene = HandshakeScene::new(&gateway(&authority, REQUIRED), client(&request.issue(Some(&authority))));

    scene.run().assert_established();

    let Identity::Certificate { alternative_names, .. } = scene.identity() else { panic!("a certificate") };
    assert_eq!(alternative_names.len(), 8);
    assert_eq!(alternative_names[0], "d19.example", "the first one is too long");
}

#[test]
fn our_chain_is_shown_with_the_authorities_between() {
    let root = Certified::authority("root");
    let server = CertificateRequest::new("gateway").issue(Some(&root));
    let mut config = with_certificate(&server, &root, VerifyMode::None);
    config.certificate_chain = Some([server.certificate_pem(), root.certificate_pem()].concat());
    let client = DtlsClientConfig {
        authorities: Some(root.certificate.clone()),
        ..DtlsClientConfig::new(ClientCredentials::Nothing, SUITE)
    };
    let mut scene = HandshakeScene::new(&config, client);

    scene.run().assert_established().assert_data_flows();

    assert_eq!(*scene.identity(), Identity::Unknown);
}

#[test]
fn a_missing_certificate_is_refused_where_one_is_required() {
    let authority = Certified::authority("CA");
    let nobody = DtlsClientConfig::new(ClientCredentials::Nothing, SUITE);
    let mut scene = HandshakeScene::new(&gateway(&authority, REQUIRED), nobody.clone());
    scene.run().assert_failed(HandshakeError::NoCertificate);
    assert!(matches!(scene.client.state(), ClientState::Refused(_)));

    let mut scene = HandshakeScene::new(&gateway(&authority, VerifyMode::Peer { required: false }), nobody);
    scene.run().assert_established();
    assert_eq!(*scene.identity(), Identity::Unknown);
}

#[test]
fn a_certificate_that_does_not_hold_is_refused_with_the_reason() {
    let authority = Certified::authority("CA");
    let expired = CertificateRequest::new("device").expired().issue(Some(&authority));
    let foreign = CertificateRequest::new("device").issue(Some(&Certified::authority("another CA")));
    let self_signed = CertificateRequest::new("device").issue(None);
    for (device, fault, alert) in [
        (expired, CertificateFault::Expired, 45),
        (foreign, CertificateFault::UnknownAuthority, 48),
        (self_signed, CertificateFault::UnknownAuthority, 48),
    ] {
        for required in [true, false] {
            let config = gateway(&authority, VerifyMode::Peer { required });
            let mut scene = HandshakeScene::new(&config, client(&device));
            scene.run().assert_failed(HandshakeError::CertificateRefused(fault));
            assert_eq!(scene.client.state(), ClientState::Refused(alert));
        }
    }
}

#[test]
fn a_certificate_that_is_weak_is_refused() {
    let authority = Certified::authority("CA");
    let weak_key = CertificateRequest::new("device").with_key(short_rsa_key()).issue(Some(&authority));
    let weak_digest = CertificateRequest::new("device").signed_with(MessageDigest::sha1()).issue(Some(&authority));
    // X509_V_ERR_EE_KEY_TOO_SMALL, X509_V_ERR_CA_MD_TOO_WEAK.
    for (device, error) in [(weak_key, 66), (weak_digest, 68)] {
        let mut scene = HandshakeScene::new(&gateway(&authority, REQUIRED), client(&device));
        scene.run().assert_failed(HandshakeError::CertificateRefused(CertificateFault::Other(error)));
    }
}

#[test]
fn signatures_of_sha_1_are_not_spoken() {
    let authority = Certified::authority("CA");
    let device = CertificateRequest::new("device").issue(Some(&authority));
    let with = |signatures: &'static str| DtlsClientConfig { signatures: Some(signatures), ..client(&device) };
    HandshakeScene::new(&gateway(&authority, REQUIRED), with("ECDSA+SHA256")).run().assert_established();
    HandshakeScene::new(&gateway(&authority, REQUIRED), with("ECDSA+SHA1"))
        .run()
        .assert_failed(HandshakeError::NoCommonSuite);
}

#[test]
fn a_pinned_certificate_needs_no_authority_and_no_date() {
    let authority = Certified::authority("CA");
    let device = CertificateRequest::new("device").expired().issue(None);
    let pin = Pinned { name: "device".to_owned(), pem: device.certificate_pem() };
    let config = AcceptorConfig { pinned: vec![pin], authorities: None, ..gateway(&authority, REQUIRED) };

    let mut scene = HandshakeScene::new(&config, client(&device));
    scene.run().assert_established().assert_data_flows();
    assert_eq!(scene.identity().name(), Some("device"));

    // Another certificate of the same name and the same key is another one.
    let again = CertificateRequest::new("device").with_key(device.key.clone()).issue(None);
    HandshakeScene::new(&config, client(&again))
        .run()
        .assert_failed(HandshakeError::CertificateRefused(CertificateFault::UnknownAuthority));
}

#[test]
fn a_pinned_key_accepts_any_certificate_of_it_and_none_of_its_names() {
    let authority = Certified::authority("CA");
    let key = ec_key();
    let pin = Pinned { name: "a device".to_owned(), pem: public_key_pem(&key) };
    let config = AcceptorConfig { pinned: vec![pin], ..gateway(&authority, REQUIRED) };
    for name in ["one", "two"] {
        let device = CertificateRequest::new(name).with_key(key.clone()).issue(None);
        let mut scene = HandshakeScene::new(&config, client(&device));
        scene.run().assert_established();
        // Who has the key may have written any name.
        assert_eq!(*scene.identity(), Identity::RawPublicKey { name: "a device".to_owned() });
    }
    let other = CertificateRequest::new("one").issue(None);
    HandshakeScene::new(&config, client(&other))
        .run()
        .assert_failed(HandshakeError::CertificateRefused(CertificateFault::UnknownAuthority));
}

#[cfg(raw_public_keys)]
#[test]
fn raw_public_keys_of_both_sides_need_no_certificate() {
    let (ours, theirs) = (ec_key(), ec_key());
    let config = AcceptorConfig {
        private_key: Some(PemSecret::new(ours.private_key_to_pem_pkcs8().unwrap())),
        pinned: vec![Pinned { name: "meter 7".to_owned(), pem: public_key_pem(&theirs) }],
        verify: REQUIRED,
        raw_public_keys: true,
        ..AcceptorConfig::default()
    };
    for cid in [None, Some(b"cid".to_vec())] {
        let credentials = ClientCredentials::RawPublicKey(theirs.clone());
        let client = DtlsClientConfig { cid, ..DtlsClientConfig::new(credentials, SUITE) };
        let mut scene = HandshakeScene::new(&config, client);

        scene.run().assert_established().assert_data_flows();

        assert_eq!(*scene.identity(), Identity::RawPublicKey { name: "meter 7".to_owned() });
        assert_eq!(scene.client.raw_key_of_server(), Some(ours.public_key_to_der().unwrap()));

        scene.resume().run().assert_established().assert_data_flows();
        assert!(scene.client.is_resumed());
        assert_eq!(*scene.identity(), Identity::RawPublicKey { name: "meter 7".to_owned() });
    }
    let unknown = DtlsClientConfig::new(ClientCredentials::RawPublicKey(ec_key()), SUITE);
    let refused = HandshakeError::CertificateRefused(CertificateFault::UnknownKey);
    HandshakeScene::new(&config, unknown).run().assert_failed(refused);
}

#[cfg(raw_public_keys)]
#[test]
fn who_wants_certificates_gets_them_beside_raw_public_keys() {
    let authority = Certified::authority("CA");
    let key = ec_key();
    let config = AcceptorConfig {
        pinned: vec![Pinned { name: "meter 7".to_owned(), pem: public_key_pem(&key) }],
        raw_public_keys: true,
        ..gateway(&authority, REQUIRED)
    };
    let device = CertificateRequest::new("device").issue(Some(&authority));
    let mut scene = HandshakeScene::new(&config, client(&device));
    scene.run().assert_established();
    assert_eq!(scene.identity().name(), Some("device"));

    let raw = DtlsClientConfig::new(ClientCredentials::RawPublicKey(key), SUITE);
    let mut scene = HandshakeScene::new(&config, raw);
    scene.run().assert_established();
    assert_eq!(scene.identity().name(), Some("meter 7"));
}

#[cfg(not(raw_public_keys))]
#[test]
fn without_raw_public_keys_in_the_library_the_settings_are_refused() {
    let config = AcceptorConfig { raw_public_keys: true, ..AcceptorConfig::default() };
    assert!(matches!(Acceptor::new(&config), Err(CredentialError::RawPublicKeys { .. })));
}

#[test]
fn what_is_wrong_with_the_credentials_is_named() {
    let authority = Certified::authority("CA");
    let good = gateway(&authority, REQUIRED);
    let not_pem = Some(b"nothing".to_vec());
    let other_key = Some(PemSecret::new(ec_key().private_key_to_pem_pkcs8().unwrap()));
    let no_key = Some(PemSecret::new(b"nothing".to_vec()));
    let pin = vec![Pinned { name: "d".to_owned(), pem: b"nothing".to_vec() }];
    type IsRight = fn(&CredentialError) -> bool;
    let cases: Vec<(AcceptorConfig, IsRight)> = vec![
        (AcceptorConfig { certificate_chain: not_pem.clone(), ..good.clone() }, |e| {
            matches!(e, CredentialError::NoCertificate)
        }),
        (AcceptorConfig { private_key: other_key, ..good.clone() }, |e| matches!(e, CredentialError::KeyDoesNotFit)),
        (AcceptorConfig { private_key: no_key, ..good.clone() }, |e| matches!(e, CredentialError::PrivateKey)),
        (AcceptorConfig { private_key: None, ..good.clone() }, |e| {
            matches!(e, CredentialError::CertificateWithoutKey)
        }),
        (AcceptorConfig { authorities: not_pem, ..good.clone() }, |e| matches!(e, CredentialError::NoAuthority)),
        (AcceptorConfig { authorities: None, ..good.clone() }, |e| matches!(e, CredentialError::NobodyToTrust)),
        (
            AcceptorConfig { pinned: pin, ..good.clone() },
            |e| matches!(e, CredentialError::Pinned { name } if name == "d"),
        ),
        (AcceptorConfig { mtu: 100, ..good.clone() }, |e| matches!(e, CredentialError::Mtu { mtu: 100 })),
        (AcceptorConfig { psk: false, ..AcceptorConfig::default() }, |e| matches!(e, CredentialError::Nothing)),
        (AcceptorConfig { cipher_suites: vec![SUITE.to_owned()], ..AcceptorConfig::default() }, |e| {
            matches!(e, CredentialError::NoCipherSuite)
        }),
    ];
    assert!(Acceptor::new(&good).is_ok());
    for (config, is_right) in cases {
        let Err(error) = Acceptor::new(&config) else { panic!("taken: {config:?}") };
        assert!(is_right(&error), "{error:?}");
    }
}

#[test]
fn an_encrypted_private_key_is_read_with_its_password() {
    let authority = Certified::authority("CA");
    let server = CertificateRequest::new("gateway").issue(Some(&authority));
    let pem = server.key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), b"open sesame").unwrap();
    let encrypted = AcceptorConfig {
        private_key: Some(PemSecret::new(pem)),
        ..with_certificate(&server, &authority, VerifyMode::None)
    };
    let with = |password: &str| AcceptorConfig {
        private_key_password: Some(lwm2m_base::secret::Secret::new(password)),
        ..encrypted.clone()
    };

    assert!(Acceptor::new(&with("open sesame")).is_ok());
    assert!(matches!(Acceptor::new(&with("wrong")), Err(CredentialError::PrivateKey)));
    assert!(matches!(Acceptor::new(&encrypted), Err(CredentialError::PrivateKey)));
}
