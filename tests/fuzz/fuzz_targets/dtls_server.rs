//! Datagrams of unknown peers, and records of a store that is not what it was.

#![no_main]

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use lwm2m_base::AssociationId;
use lwm2m_dtls::handshake::{Acceptor, AcceptorConfig};
use lwm2m_dtls::{DtlsConfig, DtlsOutput, DtlsReport, DtlsServer, SavedAssociation, Term, WriteTerms};

#[derive(Arbitrary, Debug)]
enum Happening<'a> {
    Datagram {
        from: u8,
        datagram: &'a [u8],
    },
    /// One that the server made, sent back.
    Echo {
        which: u8,
        to: u8,
    },
    Passes(u16),
    Sends(u8),
}

fn acceptor() -> &'static Acceptor {
    static ACCEPTOR: OnceLock<Acceptor> = OnceLock::new();
    ACCEPTOR.get_or_init(|| Acceptor::new(&AcceptorConfig::default()).expect("PSK needs nothing"))
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number % 4], 5000))
}

/// Gives what was sent and how many outcomes there were.
fn drain(server: &mut DtlsServer, sent: &mut Vec<Vec<u8>>) -> usize {
    let mut outcomes = 0;
    while let Some(output) = server.poll_output() {
        match output {
            DtlsOutput::Transmit { datagram, .. } => sent.push(datagram),
            DtlsOutput::Report(DtlsReport::Datagram { .. }) => outcomes += 1,
            DtlsOutput::TransmitLastFlight { .. } => panic!("nobody here knows a key"),
            DtlsOutput::FindKey(_) | DtlsOutput::Closed { .. } | DtlsOutput::Report(_) => {}
        }
    }
    assert_eq!(server.poll_event(), None, "nobody here knows a key");
    outcomes
}

fuzz_target!(|input: (Vec<&[u8]>, Vec<Happening>)| {
    let (records, happenings) = input;
    let mut now = Instant::now();
    let mut server = DtlsServer::new(DtlsConfig::default(), Some(acceptor().clone()), [0; 32], now);
    let record = |(id, bytes): (u64, &&[u8])| SavedAssociation {
        id: AssociationId(id),
        made_at: 0,
        reached_by: 0,
        bytes: bytes.to_vec().into(),
    };
    let saved = (0..).zip(&records).map(record).collect();
    let terms = WriteTerms::new(Term::new(1 << 28), now, Duration::ZERO);
    assert!(server.restore(now, terms, saved).len() <= records.len());
    let mut sent = Vec::new();
    for happening in happenings {
        let (from, datagram) = match happening {
            Happening::Datagram { from, datagram } => (from, datagram.to_vec()),
            Happening::Echo { which, to } => (to, sent.get(usize::from(which)).cloned().unwrap_or_default()),
            Happening::Passes(milliseconds) => {
                now += Duration::from_millis(milliseconds.into());
                server.handle_timeout(now);
                drain(&mut server, &mut sent);
                continue;
            }
            Happening::Sends(id) => {
                sent.extend(server.seal(AssociationId(id.into()), b"down").map(|(_, datagram)| datagram));
                drain(&mut server, &mut sent);
                continue;
            }
        };
        drain(&mut server, &mut sent);
        let before = sent.len();
        server.handle_datagram(now, 0, address(from), &datagram);
        assert_eq!(drain(&mut server, &mut sent), 1);
        let answered: usize = sent[before..].iter().map(Vec::len).sum();
        assert!(answered <= datagram.len() || server.table_sizes().associations > 0, "more than was asked");
    }
});
