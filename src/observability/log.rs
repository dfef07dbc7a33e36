//! Reports of the core as lines of the log, those about a device in a span with its endpoint name.
//!
//! What a device says of itself is recorded as text, never with `%`: so it comes out quoted, and no line break in an
//! endpoint name can forge a line.

use tracing::{Level, debug, enabled, error, error_span, info, trace, warn};

use crate::dtls;
use crate::dtls::credentials::PskIdentity;
use crate::gateway::report::{NotificationOutcome, Report, Verdict};

/// Logs a report: the life of a device at `info`, what a device did wrong at `debug`, what a person must look at above.
pub fn log(report: &Report) {
    // As high as any event in it, so that no filter takes the name from a line; but none for each notification, which
    // hardly anybody wants to see.
    let seen = enabled!(Level::TRACE) || !matches!(report, Report::Notification { .. });
    let _device = report.endpoint().filter(|_| seen).map(|endpoint| error_span!("device", endpoint).entered());
    match report {
        Report::Datagram { peer, verdict: Verdict::Dropped(reason) } => {
            debug!(peer = %peer.address, ?reason, "datagram dropped");
        }
        Report::Datagram { peer, verdict } => trace!(peer = %peer.address, ?verdict, "datagram"),
        Report::Retransmitted { peer } => debug!(peer = %peer.address, "sent once more"),
        Report::DuplicateForgotten { peer } => trace!(peer = %peer.address, "a message was forgotten for want of room"),
        Report::AutoObserveCut { paths, .. } => {
            warn!(paths, "auto_observe leaves paths out: the limit of observations");
        }
        Report::Registered { peer, lifetime, .. } => {
            info!(peer = %peer.address, ?lifetime, "device registered");
        }
        Report::RegisterRejected { peer, code, reason, .. } => {
            debug!(peer = %peer.address, %code, reason, "register refused");
        }
        Report::Updated { .. } => debug!("registration updated"),
        // What a device did wrong, however often.
        Report::Forbidden { peer, identity, reason, .. } => {
            debug!(peer = %peer.address, identity, ?reason, "forbidden");
        }
        Report::AssociationClosed { peer, reason } => {
            debug!(peer = %peer.address, association = peer.association.map(|id| id.0), ?reason, "association closed");
        }
        Report::Dtls(report) => log_dtls(report),
        Report::Restored { peer, .. } => debug!(peer = %peer.address, "device taken up again"),
        Report::NotRestored { reason, .. } => info!(?reason, "device not taken up again"),
        Report::Moved { from, to, .. } => {
            info!(from = %from.address, peer = %to.address, "device has a new address");
        }
        Report::Left { reason, .. } => info!(?reason, "device left"),
        Report::Command { msg_type, outcome, .. } => debug!(msg_type, ?outcome, "command done"),
        Report::Notification { outcome: NotificationOutcome::Published, .. } => trace!("notification"),
        Report::Notification { endpoint, outcome: NotificationOutcome::Ended } => {
            debug!(endpoint, "observation ended by the device");
        }
        Report::LinksLeftOut { reason, first: true, .. } => info!(reason, "part of a link list ignored"),
        Report::LinksLeftOut { reason, first: false, .. } => debug!(reason, "part of a link list ignored"),
        Report::Notification { outcome: NotificationOutcome::Superseded, .. } => trace!("notification superseded"),
        Report::UndecodableContent { path, reason, .. } => {
            error!(path, reason, "payload not understood");
        }
        Report::TransferFailed { peer, error } => debug!(peer = %peer.address, %error, "block-wise transfer failed"),
        Report::PublishRefused { topic, first: true, .. } => {
            warn!(topic, "the broker does not allow this device to publish here");
        }
        Report::PublishRefused { topic, first: false, .. } => debug!(topic, "publication refused"),
    }
}

/// An identity is what a stranger calls itself: it comes out quoted.
fn log_dtls(report: &dtls::Report) {
    match report {
        dtls::Report::Datagram { peer, verdict: dtls::Verdict::Dropped(reason) } => {
            debug!(peer = %peer.address, ?reason, "DTLS datagram dropped");
        }
        dtls::Report::Datagram { peer, verdict } => trace!(peer = %peer.address, ?verdict, "DTLS datagram"),
        dtls::Report::HandshakeBegun { peer } => trace!(peer = %peer.address, "handshake begun"),
        dtls::Report::HandshakeRetransmitted { peer } => debug!(peer = %peer.address, "flight sent once more"),
        dtls::Report::HandshakeCompleted { peer, suite, connection_id, resumed } => {
            let association = peer.association.map(|id| id.0);
            debug!(peer = %peer.address, association, ?suite, connection_id, resumed, "association established");
        }
        dtls::Report::HandshakeFailed { peer, identity, reason } => {
            let identity = identity.as_ref().map(PskIdentity::as_str);
            debug!(peer = %peer.address, identity, ?reason, "handshake failed");
        }
        dtls::Report::Moved { peer, from, to } => {
            debug!(association = peer.association.map(|id| id.0), %from, %to, "association has a new address");
        }
        dtls::Report::Restored { peer } => {
            trace!(peer = %peer.address, association = peer.association.map(|id| id.0), "association taken up again");
        }
        dtls::Report::NotRestored { association } => {
            error!(
                association = association.0,
                "an association of the store cannot be read, its device has to make one anew"
            );
        }
        dtls::Report::KeyNotAsked { identity } => {
            debug!(identity = identity.as_str(), "a key was not asked for: too many others are");
        }
        dtls::Report::Unsent { association } => {
            debug!(association = association.0, "nothing was sent: the association is over");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::filter::LevelFilter;

    use super::*;
    use crate::coap::{DecodeError, Peer};
    use crate::gateway::report::{DropReason, LeaveReason};

    #[test]
    fn the_life_of_a_device_is_logged_at_info() {
        let line = logged(LevelFilter::INFO, &left());
        assert_eq!(line, "INFO device{endpoint=\"urn:imei:1\"}: device left reason=LifetimeOver\n");
    }

    #[test]
    fn an_endpoint_name_cannot_forge_a_line() {
        let report = Report::Updated { endpoint: "a\nERROR all is lost".to_owned() };
        let line = logged(LevelFilter::DEBUG, &report);
        assert_eq!(line, "DEBUG device{endpoint=\"a\\nERROR all is lost\"}: registration updated\n");
    }

    #[test]
    fn what_a_stranger_does_wrong_fills_no_log() {
        let peer = Peer::udp(0, ([192, 0, 2, 1], 56830).into());
        let verdict = Verdict::Dropped(DropReason::NoMessage(DecodeError::Version));
        let report = Report::Datagram { peer, verdict };
        assert_eq!(logged(LevelFilter::INFO, &report), "");
        let line = logged(LevelFilter::DEBUG, &report);
        assert_eq!(line, "DEBUG datagram dropped peer=192.0.2.1:56830 reason=NoMessage(Version)\n");
    }

    #[test]
    fn only_the_first_refused_publication_of_a_device_is_a_warning() {
        let refused =
            |first| Report::PublishRefused { endpoint: "urn:imei:1".to_owned(), topic: "up".to_owned(), first };
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
    fn a_payload_that_is_not_understood_is_an_error() {
        let report = Report::UndecodableContent {
            endpoint: "urn:imei:1".to_owned(),
            path: "/3/0".to_owned(),
            reason: "cut short".to_owned(),
        };
        let line = logged(LevelFilter::ERROR, &report);
        assert_eq!(
            line,
            "ERROR device{endpoint=\"urn:imei:1\"}: payload not understood path=\"/3/0\" reason=\"cut short\"\n"
        );
    }

    fn left() -> Report {
        Report::Left { endpoint: "urn:imei:1".to_owned(), reason: LeaveReason::LifetimeOver }
    }

    /// The lines that a report makes in a log of this level.
    fn logged(level: LevelFilter, report: &Report) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(move || writer.clone())
            .without_time()
            .with_target(false)
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(subscriber, || log(report));
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().trim_start().to_owned()
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
