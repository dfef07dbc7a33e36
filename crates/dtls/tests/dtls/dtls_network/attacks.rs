//! Attacks by somebody who sees and forges datagrams and has no key.

use std::net::SocketAddr;
use std::time::Duration;

use lwm2m_dtls::record::{ContentType, VERSION, write_plain};
use lwm2m_dtls::{DtlsDatagramOutcome, DtlsDropReason};
use proptest::prelude::*;

use crate::dtls_network::scene::*;

#[test]
fn hellos_from_everywhere_leave_nothing_and_are_answered_with_less() {
    let mut scene = DtlsNetwork::new();
    let device = scene.add(psk_cid());
    let hello = scene.devices[device].client.poll_transmit().unwrap();
    for number in 0..10_000u32 {
        let from = SocketAddr::from(([10, (number >> 8) as u8, number as u8, 1], 5000));
        assert_eq!(scene.outcome_of(from, &hello), DtlsDatagramOutcome::CookieAsked);
    }
    assert_eq!(scene.server.table_sizes(), Default::default());
    assert_eq!(scene.server.next_deadline(), None);
    assert_eq!(scene.transmitted.len(), 10_000);
    assert!(scene.transmitted.iter().all(|(_, answer)| answer.len() < hello.len() && answer.len() == 44));
}

#[test]
fn a_cookie_of_another_address_or_another_time_begins_nothing() {
    let mut scene = DtlsNetwork::new();
    let device = scene.add(psk());
    scene.run_for(Duration::from_millis(250));
    let address = scene.devices[device].address;
    let with_cookie = {
        // The second hello is on its way.
        scene.set_network(|_, _| vec![]);
        scene.devices[device].client.retransmit();
        scene.devices[device].client.poll_transmit().unwrap()
    };
    assert_eq!(scene.outcome_of("198.51.100.1:5000".parse().unwrap(), &with_cookie), DtlsDatagramOutcome::CookieAsked);
    scene.run_for(Duration::from_secs(180));
    assert_eq!(scene.outcome_of(address, &with_cookie), DtlsDatagramOutcome::CookieAsked);
}

#[test]
fn what_is_not_protected_does_nothing_to_an_association() {
    for client in each_kind() {
        let (mut scene, device) = DtlsNetwork::established(client);
        let (peer, address) = (scene.peer(), scene.devices[device].address);
        for (content_type, fragment) in [
            (ContentType::Alert, &[2, 40][..]),
            (ContentType::Alert, &[1, 0]),
            (ContentType::ChangeCipherSpec, &[1]),
            (ContentType::Handshake, &[20, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 12]),
            (ContentType::Handshake, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (ContentType::ApplicationData, b"plain"),
        ] {
            let record = write_plain(content_type, VERSION, 7, fragment);
            assert_eq!(
                scene.outcome_of(address, &record),
                DtlsDatagramOutcome::Dropped(DtlsDropReason::Unknown),
                "{content_type:?}"
            );
        }
        assert_eq!(
            scene.outcome_of(address, &write_plain(ContentType::Handshake, VERSION, 7, &[1])),
            DtlsDatagramOutcome::Dropped(DtlsDropReason::NoHello)
        );
        assert_eq!(scene.closed, []);
        scene.assert_data_flows(device, peer);
    }
}

/// Within a handshake, too: what has no place there is left out.
#[test]
fn records_thrown_into_a_handshake_do_not_keep_it_from_its_end() {
    for client in each_kind() {
        let mut scene = DtlsNetwork::new();
        let device = scene.add(client);
        let address = scene.devices[device].address;
        for step in 0..12u8 {
            for (content_type, fragment) in [
                (ContentType::ApplicationData, &[step; 40][..]),
                (ContentType::Handshake, &[20, 0, 0, 12, 0, 9, 0, 0, 0, 0, 0, 12]),
                (ContentType::Handshake, b"short"),
            ] {
                for epoch in [0, 1, 2] {
                    let mut record = write_plain(content_type, VERSION, u64::from(step) + 100, fragment);
                    record[4] = epoch;
                    scene.give_server(address, &record);
                }
            }
            scene.run_for(Duration::from_millis(100));
        }
        scene.run_for(Duration::from_secs(30));
        scene.assert_established(device);
        scene.assert_data_flows(device, scene.peer());
    }
}

#[test]
fn a_record_is_not_taken_twice_wherever_it_comes_from() {
    for client in each_kind() {
        let (mut scene, device) = DtlsNetwork::established(client);
        let (peer, address) = (scene.peer(), scene.devices[device].address);
        let records: Vec<_> = (0..100u8).map(|number| scene.device_makes(device, &[number])).collect();
        for record in &records {
            assert_eq!(scene.outcome_of(address, record), DtlsDatagramOutcome::Data);
        }
        for from in [address, "203.0.113.1:1".parse().unwrap()] {
            for record in &records {
                assert!(matches!(scene.outcome_of(from, record), DtlsDatagramOutcome::Dropped(_)));
            }
        }
        assert_eq!(scene.plaintexts.len(), 100);
        scene.assert_data_flows(device, peer);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn no_mutated_datagram_is_taken_and_none_disturbs_the_device(
        kind in 0..3usize,
        mutations in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255u8, any::<bool>()), 1..40),
        junk in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..20),
    ) {
        let (mut scene, device) = DtlsNetwork::established(each_kind()[kind].clone());
        let (peer, address) = (scene.peer(), scene.devices[device].address);
        let genuine = scene.device_makes(device, b"genuine data of a device");
        for (at, difference, cut) in mutations {
            let mut mutated = genuine.clone();
            let at = at.index(mutated.len());
            mutated[at] ^= difference;
            if cut {
                mutated.truncate(at);
            }
            prop_assert!(matches!(scene.outcome_of(address, &mutated), DtlsDatagramOutcome::Dropped(_)));
        }
        for datagram in junk {
            prop_assert!(matches!(scene.outcome_of(address, &datagram), DtlsDatagramOutcome::Dropped(_)));
        }
        prop_assert_eq!((scene.plaintexts.len(), scene.closed.len()), (0, 0));
        prop_assert_eq!(scene.outcome_of(address, &genuine), DtlsDatagramOutcome::Data);
        scene.assert_data_flows(device, peer);
    }
}
