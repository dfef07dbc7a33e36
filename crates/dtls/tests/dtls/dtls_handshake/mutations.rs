//! Whatever arrives: nothing panics, and what is established is established on both sides alike.

use lwm2m_dtls::handshake::{AcceptorConfig, VerifyMode};
use proptest::prelude::*;

use crate::dtls_handshake::scene::{From, HandshakeScene, IDENTITY, KEY, with_certificate};
use lwm2m_dtls::test_client::DtlsClientConfig;
use lwm2m_dtls::test_client::credentials::{CertificateRequest, Certified, ClientCredentials};

/// A change of the wire to a datagram of the client.
#[derive(Clone, Debug)]
enum Mischief {
    None,
    Lose,
    Double,
    /// Replaces one byte.
    Change(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    /// Something comes before it.
    Precede(Vec<u8>),
}

fn mischief() -> impl Strategy<Value = Mischief> {
    prop_oneof![
        4 => Just(Mischief::None),
        1 => Just(Mischief::Lose),
        1 => Just(Mischief::Double),
        4 => (any::<prop::sample::Index>(), 1_u8..).prop_map(|(at, change)| Mischief::Change(at, change)),
        1 => any::<prop::sample::Index>().prop_map(Mischief::Cut),
        2 => record().prop_map(Mischief::Precede),
    ]
}

/// Something like a record.
fn record() -> impl Strategy<Value = Vec<u8>> {
    let types = prop_oneof![20_u8..=25];
    let message = (prop_oneof![Just(1_u8), Just(11), Just(15), Just(16), Just(20), any::<u8>()], 0_u16..4, 0_u8..64);
    (types, 0_u16..3, message, prop::collection::vec(any::<u8>(), 0..64)).prop_map(
        |(content_type, epoch, (kind, sequence, length), body)| {
            let fragment = [0, 0, length, sequence.to_be_bytes()[0], sequence.to_be_bytes()[1], 0, 0, 0, 0, 0];
            let payload = [&[kind][..], &fragment, &[body.len() as u8], &body].concat();
            let numbers = [&epoch.to_be_bytes()[..], &[0, 0, 0, 0, 0, 9]].concat();
            [&[content_type, 0xfe, 0xfd][..], &numbers, &[0, payload.len() as u8], &payload].concat()
        },
    )
}

fn arrivals(mischief: &Mischief, mut datagram: Vec<u8>) -> Vec<Vec<u8>> {
    match mischief {
        Mischief::None => vec![datagram],
        Mischief::Lose => vec![],
        Mischief::Double => vec![datagram.clone(), datagram],
        Mischief::Change(at, change) => {
            let at = at.index(datagram.len());
            datagram[at] ^= change;
            vec![datagram]
        }
        Mischief::Cut(at) => {
            datagram.truncate(at.index(datagram.len()));
            vec![datagram]
        }
        Mischief::Precede(record) => vec![record.clone(), datagram],
    }
}

fn assert_alike(mut scene: HandshakeScene, mischiefs: &[Mischief]) {
    let mut next = mischiefs.iter();
    scene.run_in_time(|from, datagram| match from {
        From::Client => arrivals(next.next().unwrap_or(&Mischief::None), datagram),
        From::Server => vec![datagram],
    });
    // The handshake may have failed, for good; a half of one is none.
    if scene.established.is_some() && scene.failed.is_none() && scene.client.is_established() {
        scene.assert_data_flows();
    }
    assert!(scene.established.is_none() || scene.failed.is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_handshake_by_psk_survives_it_or_fails(
        mischiefs in prop::collection::vec(mischief(), 0..12),
        cid in prop::option::of(prop::collection::vec(any::<u8>(), 0..4)),
        mtu in prop_oneof![Just(80_usize), Just(1200)],
    ) {
        let client = DtlsClientConfig { cid, mtu, ..DtlsClientConfig::psk(IDENTITY, KEY) };
        assert_alike(HandshakeScene::new(&AcceptorConfig::default(), client), &mischiefs);
    }

    #[test]
    fn a_handshake_by_certificates_survives_it_or_fails(
        mischiefs in prop::collection::vec(mischief(), 0..12),
        cid in prop::option::of(prop::collection::vec(any::<u8>(), 0..4)),
    ) {
        let authority = Certified::authority("CA");
        let server = CertificateRequest::new("gateway").issue(Some(&authority));
        let device = CertificateRequest::new("device").issue(Some(&authority));
        let config = with_certificate(&server, &authority, VerifyMode::Peer { required: true });
        let client = DtlsClientConfig::new(ClientCredentials::Certificate(device), "ECDHE-ECDSA-AES128-CCM8");
        assert_alike(HandshakeScene::new(&config, DtlsClientConfig { cid, ..client }), &mischiefs);
    }
}
