//! The handshake on a bad network, and with devices that are not what they should be.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use lwm2m_base::identity::{Identity, PskIdentity};
use lwm2m_dtls::credentials::KeyAnswer;
use lwm2m_dtls::handshake::HandshakeError;
use lwm2m_dtls::record::{ContentType, records};
use lwm2m_dtls::{AssociationCloseReason, DtlsDatagramOutcome, DtlsDropReason, DtlsReport, HandshakeFailure};

use crate::dtls_network::scene::*;
use lwm2m_dtls::test_client::{ClientState, DtlsClientConfig};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_device_is_established_and_data_flows_both_ways() {
    for client in each_kind() {
        let connection_id = client.cid.is_some();
        let (mut scene, device) = DtlsNetwork::established(client);
        let peer = scene.peer();
        assert_eq!(peer.address, scene.devices[device].address);
        let identity = Identity::Psk(PskIdentity::new(b"urn:imei:1").unwrap());
        assert_eq!(scene.server.identity(peer.association.unwrap()).map(|i| (**i).clone()), Some(identity));
        let completed = |report: &DtlsReport| match report {
            DtlsReport::HandshakeCompleted { connection_id, .. } => Some(*connection_id),
            _ => None,
        };
        assert_eq!(scene.reports.iter().find_map(completed), Some(connection_id));
        for _ in 0..3 {
            scene.assert_data_flows(device, peer);
        }
        assert_eq!(scene.server.table_sizes().handshakes, 0);
        assert_eq!((scene.asked.len(), scene.closed.len()), (1, 0));
    }
}

/// The numbers of the datagrams of a handshake that is not disturbed.
fn datagrams(client: &DtlsClientConfig) -> usize {
    let number = Rc::new(RefCell::new(0));
    let mut scene = DtlsNetwork::new();
    let counted = Rc::clone(&number);
    scene.set_network(move |_, datagram| {
        *counted.borrow_mut() += 1;
        vec![(LATENCY, datagram.to_vec())]
    });
    let device = scene.add(client.clone());
    scene.settle();
    scene.assert_established(device);
    *number.borrow()
}

/// With a hello in fragments, too.
fn every_shape() -> Vec<DtlsClientConfig> {
    each_kind().into_iter().flat_map(|client| [client.clone(), DtlsClientConfig { mtu: 128, ..client }]).collect()
}

#[test]
fn whichever_datagram_is_lost_the_device_is_established_by_one_handshake() {
    for client in every_shape() {
        let all = datagrams(&client);
        assert!(all >= 8, "{all} datagrams");
        for (first, number) in (0..all).flat_map(|first| [(first, 1), (first, 2), (first, 5)]) {
            let mut scene = DtlsNetwork::new();
            let mut at = 0;
            scene.set_network(move |_, datagram| {
                at += 1;
                let lost = (first..first + number).contains(&(at - 1));
                if lost { vec![] } else { vec![(LATENCY, datagram.to_vec())] }
            });
            let device = scene.add(client.clone());
            scene.run_for(40 * SECOND);
            scene.assert_established(device);
            assert_eq!((scene.established.len(), scene.closed.len()), (1, 0), "lost: {number} from {first}");
            scene.set_quiet_network();
            scene.assert_data_flows(device, scene.peer());
            assert_eq!(scene.take_begun(), 1);
        }
    }
}

#[test]
fn whichever_datagram_comes_late_or_twice_the_device_is_established() {
    for client in every_shape() {
        for number in 0..datagrams(&client) {
            for delays in [vec![350], vec![100, 100], vec![100, 350], vec![100, 2_500], vec![1_500]] {
                let mut scene = DtlsNetwork::new();
                let (mut at, copies) = (0, delays.clone());
                scene.set_network(move |_, datagram| {
                    at += 1;
                    let delays = if at == number + 1 { copies.as_slice() } else { &[100] };
                    delays.iter().map(|delay| (Duration::from_millis(*delay), datagram.to_vec())).collect()
                });
                let device = scene.add(client.clone());
                scene.run_for(40 * SECOND);
                scene.assert_established(device);
                assert_eq!((scene.established.len(), scene.closed.len()), (1, 0), "datagram {number} at {delays:?}");
                scene.set_quiet_network();
                scene.assert_data_flows(device, scene.peer());
            }
        }
    }
}

#[test]
fn everything_doubled_and_every_flight_turned_round_the_device_is_established() {
    for client in every_shape() {
        let mut scene = DtlsNetwork::new();
        let mut number = 0;
        scene.set_network(move |_, datagram| {
            number += 1;
            // Each is overtaken by those that are sent after it.
            let delay = Duration::from_millis(500 - 10 * number.min(40));
            vec![(delay, datagram.to_vec()), (delay + 2 * LATENCY, datagram.to_vec())]
        });
        let device = scene.add(client);
        scene.run_for(40 * SECOND);
        scene.assert_established(device);
        assert_eq!((scene.established.len(), scene.closed.len()), (1, 0));
        scene.set_quiet_network();
        scene.settle();
        scene.assert_data_flows(device, scene.peer());
    }
}

/// RFC 5246 appendix E.1. Mbed TLS 2 has 0 in place of the minor version where no lowest version is configured.
#[test]
fn whatever_minor_version_the_record_of_a_hello_has_the_device_is_established() {
    for client in each_kind() {
        for minor in [0x00, 0x01, 0xfc, 0xfe, 0xff] {
            let mut scene = DtlsNetwork::new();
            let mut hellos = 0;
            scene.set_network(move |way, datagram| {
                let mut datagram = datagram.to_vec();
                // A ClientHello of epoch 0.
                if matches!(way, Direction::Up) && datagram[0] == 22 && datagram[3..5] == [0, 0] && datagram[13] == 1 {
                    datagram[2] = minor;
                    hellos += 1;
                }
                // The device repeats its second hello: the answer to it is lost.
                let lost = matches!(way, Direction::Down) && hellos == 2;
                if lost { vec![] } else { vec![(LATENCY, datagram)] }
            });
            let device = scene.add(client.clone());
            scene.run_for(20 * SECOND);
            scene.assert_established(device);
            scene.assert_data_flows(device, scene.peer());
        }
    }
}

#[test]
fn a_lost_last_flight_is_repeated_as_it_was_until_the_device_sends_data() {
    for client in each_kind() {
        for losses in 1..4 {
            let mut scene = DtlsNetwork::new();
            let mut lost = 0;
            scene.set_network(move |way, datagram| {
                if is_last_flight(way, datagram) && lost < losses {
                    lost += 1;
                    return vec![];
                }
                vec![(LATENCY, datagram.to_vec())]
            });
            let device = scene.add(client.clone());
            scene.settle();
            assert_eq!(scene.established.len(), 1, "the server is content");
            assert_eq!(scene.devices[device].client.is_established(), losses == 1, "the device waits");
            scene.run_for(20 * SECOND);

            scene.assert_established(device);
            let repeated =
                scene.outcomes.iter().filter(|outcome| **outcome == DtlsDatagramOutcome::LastFlightRepeated).count();
            assert_eq!(repeated, losses);
            let flights: Vec<_> =
                scene.transmitted.iter().filter(|(_, datagram)| is_last_flight(Direction::Down, datagram)).collect();
            assert_eq!(flights.len(), losses + 1);
            assert!(flights.iter().all(|flight| *flight == flights[0]), "the same bytes");

            scene.assert_data_flows(device, scene.peer());
            scene.devices[device].client.retransmit();
            scene.settle();
            assert_eq!(scene.outcomes.last(), Some(&DtlsDatagramOutcome::Dropped(DtlsDropReason::Unexpected)));
            scene.assert_data_flows(device, scene.peer());
        }
    }
}

#[test]
fn data_that_overtakes_the_end_of_the_handshake_is_kept_for_it() {
    for client in each_kind() {
        let (mut scene, device) = DtlsNetwork::established(client);
        scene.devices[device].client = scene.devices[device].client.resume(scene.now);
        // The last flight of a resumed handshake is the device's, and is late.
        scene.set_network(|way, datagram| {
            let cipher_changed = way == Direction::Up && (datagram[0] == 20 || datagram[0] == 22 && datagram[4] == 1);
            let is_finished = way == Direction::Up && datagram[0] == 25 && datagram[10] == 0;
            let delay = if cipher_changed || is_finished { 5 * LATENCY } else { LATENCY };
            vec![(delay, datagram.to_vec())]
        });
        scene.run_for(Duration::from_millis(401));
        scene.assert_established(device);
        assert!(scene.devices[device].client.is_resumed());
        assert_eq!(scene.established.len(), 1, "of before");
        for number in 0..6u8 {
            scene.device_sends(device, &[number]);
        }
        scene.run_for(2 * LATENCY);
        assert!(scene.plaintexts.is_empty());
        scene.settle();

        assert_eq!(scene.established.len(), 2);
        let peer = scene.peer();
        let early: Vec<_> = scene.plaintexts.iter().map(|(from, plaintext)| (*from, plaintext[0])).collect();
        assert_eq!(early, (0..4).map(|number| (peer, number)).collect::<Vec<_>>(), "four, and no more");
        assert_eq!(scene.outcomes.iter().filter(|outcome| **outcome == DtlsDatagramOutcome::Early).count(), 4);
        assert_eq!(
            scene.outcomes.iter().filter(|v| **v == DtlsDatagramOutcome::Dropped(DtlsDropReason::TooMuchHeld)).count(),
            2,
            "{:?}",
            scene.outcomes
        );
        scene.set_quiet_network();
        scene.assert_data_flows(device, peer);
    }
}

#[test]
fn our_flight_is_repeated_after_1_2_4_8_and_16_seconds_and_given_up_after_60() {
    let mut scene = DtlsNetwork::new();
    let device = scene.add(psk());
    // The device hears nothing but the request for its cookie, and is patient.
    scene.set_network(|way, datagram| {
        let heard = way == Direction::Up && datagram.len() > 100 || datagram[13] == 3;
        if heard { vec![(LATENCY, datagram.to_vec())] } else { vec![] }
    });
    scene.run_for(3 * LATENCY);
    scene.set_network(|_, _| vec![]);
    let start = scene.now;
    assert_eq!(scene.take_begun(), 1);
    scene.transmitted.clear();

    let mut sent = Vec::new();
    while scene.server.table_sizes().handshakes == 1 {
        scene.run_for(SECOND / 10);
        let number = scene.transmitted.len();
        scene.transmitted.clear();
        sent.extend(std::iter::repeat_n((scene.now - start).as_secs_f32().round() as u32, usize::from(number > 0)));
        assert!(scene.now - start < 100 * SECOND);
    }

    assert_eq!(sent, [1, 3, 7, 15, 31]);
    assert_eq!((scene.now - start).as_secs_f32().round() as u32, 60);
    assert_eq!(scene.failures(), [HandshakeFailure::Deadline]);
    assert!(!scene.devices[device].client.is_established());
}

#[test]
fn a_device_with_another_key_hears_nothing_and_its_handshake_ends_at_the_deadline() {
    for client in [DtlsClientConfig::psk("urn:imei:1", b"another key"), psk_cid()] {
        let mut scene = DtlsNetwork::new();
        let device = scene.add(client);
        scene.keys.insert("urn:imei:1".into(), b"the key of today".to_vec());
        scene.run_for(90 * SECOND);
        assert_eq!(scene.devices[device].client.state(), ClientState::Handshaking);
        assert_eq!((scene.established.len(), scene.failures()), (0, vec![HandshakeFailure::WrongKey]));
        assert_eq!(scene.server.table_sizes().handshakes, 0);
        let named = scene.reports.iter().any(|report| {
            matches!(
                report,
                DtlsReport::HandshakeFailed { identity: Some(identity), .. } if identity.as_str() == "urn:imei:1"
            )
        });
        assert!(named, "{:?}", scene.reports);
    }
}

#[test]
fn an_unknown_device_is_told_so_and_its_identity_is_not_asked_about_again() {
    let mut scene = DtlsNetwork::new();
    let device = scene.add(psk());
    scene.keys.clear();
    for _ in 0..3 {
        scene.settle();
        assert_eq!(scene.devices[device].client.state(), ClientState::Refused(115));
        scene.reboot(device);
    }
    assert_eq!(scene.asked.len(), 1);
    assert_eq!(scene.failures(), [HandshakeFailure::Failed(HandshakeError::UnknownIdentity); 3]);

    // Its owner enters it, and the answer of before is not believed for ever.
    scene.keys.insert("urn:imei:1".into(), KEY.to_vec());
    scene.server.forget_keys();
    scene.reboot(device);
    scene.settle();
    scene.assert_established(device);
}

#[test]
fn a_key_that_takes_long_to_be_found_is_asked_for_once_and_nothing_is_sent_meanwhile() {
    let mut scene = DtlsNetwork::new();
    scene.answers = false;
    let (one, two) = (scene.add(psk()), scene.add(psk_cid()));
    scene.settle();
    let sent = scene.transmitted.len();
    scene.run_for(5 * SECOND);
    assert_eq!(scene.asked.len(), 1, "both have the same identity");
    assert_eq!(scene.transmitted.len(), sent);
    assert_eq!(scene.server.table_sizes().key_questions, 1);

    let identity = scene.asked[0].clone();
    let answer = scene.answer(&identity);
    scene.server.handle_key(scene.now, &identity.clone().into(), answer);
    scene.drain();
    scene.settle();
    scene.assert_established(one);
    scene.assert_established(two);
    assert_eq!(scene.established.len(), 2);
    assert_eq!(scene.server.table_sizes().key_questions, 0);
    let (first, second) = (scene.established[0].0, scene.established[1].0);
    let (first, second) = if first.address == scene.devices[one].address { (first, second) } else { (second, first) };
    scene.assert_data_flows(one, first);
    scene.assert_data_flows(two, second);
}

#[test]
fn a_device_whose_key_cannot_be_looked_up_is_left_without_a_word() {
    let mut scene = DtlsNetwork::new();
    scene.answers = false;
    let device = scene.add(psk());
    scene.settle();
    let (identity, sent) = (scene.asked[0].clone(), scene.transmitted.len());
    scene.server.handle_key(scene.now, &identity.clone().into(), KeyAnswer::Unavailable);
    scene.drain();
    scene.run_for(10 * SECOND);
    assert_eq!(scene.failures(), [HandshakeFailure::KeyUnavailable]);
    assert_eq!((scene.transmitted.len(), scene.devices[device].client.state()), (sent, ClientState::Handshaking));
    assert_eq!(scene.server.table_sizes().handshakes, 0);

    scene.answers = true;
    scene.reboot(device);
    scene.settle();
    scene.assert_established(device);
}

#[test]
fn an_answer_that_comes_after_the_handshake_is_kept_for_the_next_one() {
    let mut scene = DtlsNetwork::new();
    scene.answers = false;
    let device = scene.add(psk());
    scene.run_for(61 * SECOND);
    assert_eq!(scene.failures(), [HandshakeFailure::Deadline]);
    let identity = scene.asked[0].clone();
    let answer = scene.answer(&identity);
    scene.server.handle_key(scene.now, &identity.clone().into(), answer);
    scene.reboot(device);
    scene.settle();
    scene.assert_established(device);
    assert_eq!(scene.asked.len(), 1);
}

#[test]
fn without_an_acceptor_there_are_cookies_and_no_handshakes_and_associations_go_on() {
    let (mut scene, device) = DtlsNetwork::established(psk());
    let peer = scene.peer();
    scene.server.set_acceptor(None);
    scene.assert_data_flows(device, peer);
    let other = scene.add(other_psk());
    scene.settle();
    assert_eq!(scene.devices[other].client.state(), ClientState::Handshaking);
    assert_eq!(scene.outcomes.last(), Some(&DtlsDatagramOutcome::Dropped(DtlsDropReason::NoAcceptor)));
}

#[test]
fn a_device_that_says_goodbye_is_answered_and_forgotten() {
    for client in each_kind() {
        let (mut scene, device) = DtlsNetwork::established(client);
        let peer = scene.peer();
        scene.devices[device].client.close();
        scene.settle();
        assert_eq!(scene.closed, [(peer, AssociationCloseReason::CloseNotify)]);
        assert_eq!(scene.last_sealed(device), Some((ContentType::Alert, vec![1, 0])));
        assert_eq!(scene.server.table_sizes().associations, 0);
        scene.server_sends(peer, b"too late");
        assert!(matches!(scene.reports.last(), Some(DtlsReport::Unsent { .. })));
    }
}

#[test]
fn a_fatal_alert_ends_an_association_and_a_warning_does_not() {
    let (mut scene, device) = DtlsNetwork::established(psk());
    let (peer, address) = (scene.peer(), scene.devices[device].address);
    let warning = scene.device_seals(device, ContentType::Alert, 5, &[1, 90]);
    assert_eq!(scene.outcome_of(address, &warning), DtlsDatagramOutcome::Alert);
    assert_eq!(scene.closed, []);
    let fatal = scene.device_seals(device, ContentType::Alert, 6, &[2, 80]);
    assert_eq!(scene.outcome_of(address, &fatal), DtlsDatagramOutcome::Alert);
    assert_eq!(scene.closed, [(peer, AssociationCloseReason::Alert(80))]);
}

#[test]
fn a_wish_to_renegotiate_is_refused_and_the_association_goes_on() {
    for client in each_kind() {
        let (mut scene, device) = DtlsNetwork::established(client);
        let address = scene.devices[device].address;
        let hello = scene.device_seals(device, ContentType::Handshake, 9, &[1, 0, 0, 40, 0, 0]);
        assert_eq!(scene.outcome_of(address, &hello), DtlsDatagramOutcome::RenegotiationRefused);
        assert_eq!(scene.last_sealed(device), Some((ContentType::Alert, vec![1, 100])));
        let hello_request = scene.device_seals(device, ContentType::Handshake, 10, &[0, 0, 0, 0]);
        let sent = scene.transmitted.len();
        assert_eq!(scene.outcome_of(address, &hello_request), DtlsDatagramOutcome::Dropped(DtlsDropReason::Unexpected));
        assert_eq!((scene.transmitted.len(), scene.closed.len()), (sent, 0));
        let data = scene.device_seals(device, ContentType::ApplicationData, 11, b"still here");
        assert_eq!(scene.outcome_of(address, &data), DtlsDatagramOutcome::Data);
    }
}

#[test]
fn several_records_in_a_datagram_have_one_outcome() {
    let (mut scene, device) = DtlsNetwork::established(psk());
    let address = scene.devices[device].address;
    let [one, two] = [scene.device_makes(device, b"one"), scene.device_makes(device, b"two")];
    let junk = [&one[..one.len() - 1], &[one[one.len() - 1] ^ 1]].concat();
    assert_eq!(
        scene.outcome_of(address, &[junk, one.clone(), two, b"rest".to_vec()].concat()),
        DtlsDatagramOutcome::Data
    );
    let plaintexts: Vec<_> = scene.plaintexts.iter().map(|(_, plaintext)| plaintext.as_slice()).collect();
    assert_eq!(plaintexts, [b"one", b"two"]);
    assert_eq!(
        scene.outcome_of(address, &[one.clone(), one].concat()),
        DtlsDatagramOutcome::Dropped(DtlsDropReason::Replayed)
    );
    assert!(records(&[], 8).next().is_none());
    assert_eq!(scene.outcome_of(address, &[]), DtlsDatagramOutcome::Dropped(DtlsDropReason::NoRecord));
}
