use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tracing_subscriber::filter::LevelFilter;

use super::*;
use crate::observability::repeats::PERIOD;
use lwm2m_core::coap::{Code, MessageDecodeError};
use lwm2m_core::gateway::report::{BootstrapStep, DropReason, Forbidden, LeaveReason};
use lwm2m_core::lwm2m::model::Version;

#[test]
fn the_life_of_a_device_is_logged_at_info() {
    let line = logged(LevelFilter::INFO, &left());
    assert_eq!(line, "INFO device{endpoint=\"urn:imei:1\"}: registration ended reason=\"lifetime expired\"\n");
}

#[test]
fn an_endpoint_name_cannot_forge_a_line() {
    let report = Report::Updated { endpoint: "a\nERROR all is lost".to_owned() };
    let line = logged(LevelFilter::DEBUG, &report);
    assert_eq!(line, "DEBUG device{endpoint=\"a\\nERROR all is lost\"}: registration updated\n");
}

#[test]
fn mistakes_of_an_unregistered_peer_fill_no_log() {
    let peer = Peer::udp(0, ([192, 0, 2, 1], 56830).into());
    let outcome = DatagramOutcome::Dropped(DropReason::NoMessage(MessageDecodeError::Version));
    let report = Report::Datagram { peer, outcome };
    assert_eq!(logged(LevelFilter::INFO, &report), "");
    let line = logged(LevelFilter::DEBUG, &report);
    assert_eq!(line, "DEBUG datagram dropped peer=192.0.2.1:56830 reason=\"no CoAP message: version is not 1\"\n");
}

#[test]
fn only_the_first_refused_publication_of_a_device_is_a_warning() {
    let refused = |first| Report::PublishRefused { endpoint: "urn:imei:1".to_owned(), topic: "up".to_owned(), first };
    assert!(logged(LevelFilter::INFO, &refused(true)).starts_with("WARN"));
    assert_eq!(logged(LevelFilter::INFO, &refused(false)), "");
}

#[test]
fn only_the_first_odd_link_list_of_a_registration_is_seen_at_info() {
    let odd = |first| Report::LinksLeftOut { endpoint: "ep1".to_owned(), reason: "byte 5".to_owned(), first };
    let line = logged(LevelFilter::INFO, &odd(true));
    assert_eq!(line, "INFO device{endpoint=\"ep1\"}: part of a link list ignored reason=\"byte 5\"\n");
    assert_eq!(logged(LevelFilter::INFO, &odd(false)), "");
}

#[test]
fn versions_without_definition_are_one_line_with_the_first_few() {
    let version = |major| Version { major, minor: 0 };
    let undefined = |object| UndefinedVersion { object, announced: version(3), defined: vec![version(2), version(1)] };
    let report = |objects| Report::UndefinedVersions {
        endpoint: "ep1".to_owned(),
        versions: (1..=objects).map(undefined).collect(),
    };
    let line = logged(LevelFilter::INFO, &report(1));
    let expected =
        "INFO device{endpoint=\"ep1\"}: object version has no definition objects=\"1 3.0 (loaded: 2.0, 1.0)\"\n";
    assert_eq!(line, expected);
    let line = logged(LevelFilter::INFO, &report(10));
    assert!(line.ends_with("8 3.0 (loaded: 2.0, 1.0), and 2 more\"\n"), "{line}");
}

#[test]
fn a_payload_that_is_not_understood_is_a_warning() {
    let report = Report::UndecodableContent {
        endpoint: "urn:imei:1".to_owned(),
        path: "/3/0".to_owned(),
        reason: "cut short".to_owned(),
    };
    let line = logged(LevelFilter::WARN, &report);
    assert_eq!(
        line,
        "WARN device{endpoint=\"urn:imei:1\"}: payload not understood path=\"/3/0\" reason=\"cut short\"\n"
    );
}

#[test]
fn a_payload_that_is_not_understood_is_a_warning_once_in_a_minute_and_then_how_often() {
    let report = |reason: &str| Report::UndecodableContent {
        endpoint: "ep1".to_owned(),
        path: "/3/0".to_owned(),
        reason: reason.to_owned(),
    };
    let (mut log, now) = (Log::default(), Instant::now());
    let text = captured(LevelFilter::WARN, || {
        ["cut short", "cut short", "no TLV"].into_iter().for_each(|reason| log.log(now, &report(reason)));
        log.handle_timeout(now + PERIOD);
    });
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let expected = [
        "WARN device{endpoint=\"ep1\"}: payload not understood path=\"/3/0\" reason=\"cut short\"",
        "WARN payload not understood again device=\"ep1\" times=2 reason=\"no TLV\"",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn what_keeps_devices_out_is_told_once_in_a_minute_and_then_how_often() {
    let peer = Peer::udp(0, ([192, 0, 2, 1], 56830).into());
    let identity = || Some("dev-7".to_owned());
    let rejected = Report::RegisterRejected {
        peer,
        endpoint: Some("ep1".to_owned()),
        code: Code::FORBIDDEN,
        reason: "Authenticate: not_authorized".to_owned(),
    };
    let forbidden =
        Report::Forbidden { endpoint: "ep1".to_owned(), peer, identity: identity(), reason: Forbidden::OtherName };
    let failed =
        |reason| Report::Dtls(dtls::DtlsReport::HandshakeFailed { peer, identity: PskIdentity::new(b"dev-7"), reason });
    let wrong_key = failed(HandshakeFailure::WrongKey);
    let (mut log, now) = (Log::default(), Instant::now());
    let text = captured(LevelFilter::INFO, || {
        for report in [&rejected, &forbidden, &wrong_key, &failed(HandshakeFailure::Deadline)] {
            (0..3).for_each(|_| log.log(now, report));
        }
        assert_eq!(log.next_deadline(), Some(now + PERIOD));
        log.handle_timeout(now + PERIOD);
    });
    let expected = [
        "INFO device{endpoint=\"ep1\"}: registration rejected peer=192.0.2.1:56830 code=4.03 \
         reason=\"Authenticate: not_authorized\"",
        "INFO device{endpoint=\"ep1\"}: request forbidden peer=192.0.2.1:56830 identity=\"dev-7\" reason=\"the \
         DTLS identity belongs to another endpoint name (dtls.identity)\"",
        "INFO DTLS handshake failed peer=192.0.2.1:56830 identity=\"dev-7\" reason=\"the device has another key \
         for this identity\"",
        "INFO registration rejected again device=\"ep1\" times=2 reason=\"Authenticate: not_authorized\"",
        "INFO request forbidden again device=\"ep1\" times=2 reason=\"the DTLS identity belongs to another \
         endpoint name (dtls.identity)\"",
        "INFO DTLS handshake failed again device=\"dev-7\" times=2 reason=\"the device has another key for this \
         identity\"",
    ];
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    assert_eq!(lines, expected);
}

#[test]
fn failed_sessions_without_dtls_are_told_once_in_a_minute_for_each_address_whatever_their_names_are() {
    let failed = |endpoint: &str, peer| {
        Report::Bootstrap(BootstrapReport::Failed {
            endpoint: endpoint.to_owned(),
            peer,
            step: BootstrapStep::Discover,
            code: None,
            reason: "the device did not answer".to_owned(),
        })
    };
    let plain = Peer::udp(0, ([192, 0, 2, 1], 56830).into());
    let secured = Peer { association: Some(lwm2m_base::AssociationId(7)), ..plain };
    let (mut log, now) = (Log::default(), Instant::now());
    let text = captured(LevelFilter::INFO, || {
        for (endpoint, peer) in [("a", plain), ("b", plain), ("c", secured), ("d", secured), ("d", secured)] {
            log.log(now, &Report::Bootstrap(BootstrapReport::Started { endpoint: endpoint.to_owned(), peer }));
            log.log(now, &failed(endpoint, peer));
        }
        log.handle_timeout(now + PERIOD);
    });
    let told = |line: &str| line.trim_start().split(" peer=").next().unwrap_or_default().to_owned();
    let started = |endpoint: &str| format!("INFO device{{endpoint=\"{endpoint}\"}}: bootstrap started");
    let failed = |endpoint: &str| format!("WARN device{{endpoint=\"{endpoint}\"}}: bootstrap failed");
    let again = |device: &str| {
        format!("INFO bootstrap failed again device=\"{device}\" times=1 reason=\"the device did not answer\"")
    };
    let expected = [
        failed("a"),
        started("c"),
        failed("c"),
        started("d"),
        failed("d"),
        started("d"),
        again("192.0.2.1"),
        again("d"),
    ];
    assert_eq!(text.lines().map(told).collect::<Vec<_>>(), expected);
}

fn left() -> Report {
    Report::Left { endpoint: "urn:imei:1".to_owned(), reason: LeaveReason::LifetimeOver }
}

/// Returns the lines that a report makes in a log of this level.
fn logged(level: LevelFilter, report: &Report) -> String {
    captured(level, || Log::default().log(Instant::now(), report)).trim_start().to_owned()
}

fn captured(level: LevelFilter, logging: impl FnOnce()) -> String {
    let lines = CapturedLog::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(move || writer.clone())
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .finish();
    tracing::subscriber::with_default(subscriber, logging);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[derive(Clone, Default)]
struct CapturedLog(Arc<Mutex<Vec<u8>>>);

impl Write for CapturedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
