//! Traces of devices that speak DTLS.

use lwm2m_core::gateway::operators::trace::{Direction, TraceId, TraceTarget, Traced, TracedEvent};

use super::*;

const TRACE: TraceId = TraceId(1);

impl DtlsGatewayScene {
    fn trace(&mut self, target: TraceTarget) {
        assert!(self.gateway.trace(self.now, TRACE, target));
    }

    fn traced(&mut self) -> Vec<Traced> {
        std::iter::from_fn(|| self.gateway.poll_trace()).collect()
    }
}

fn handshakes(traced: &[Traced]) -> Vec<(&server::DtlsReport, Option<&str>)> {
    let report = |traced| match traced {
        &Traced { event: TracedEvent::Report { ref report, ref identity, .. }, .. } => match &**report {
            Report::Dtls(report) => Some((report, identity.as_deref())),
            _ => None,
        },
        Traced { event: TracedEvent::Message(_), .. } => None,
    };
    traced.iter().filter_map(report).collect()
}

#[test]
fn a_trace_by_identity_has_a_handshake_with_a_wrong_key_and_its_reason() {
    let by_identity = TraceTarget::Identity(ENDPOINT.to_owned());
    for target in [by_identity, TraceTarget::Endpoint(ENDPOINT.to_owned())] {
        let mut scene = DtlsGatewayScene::with_silent_device(DtlsClientConfig::psk(ENDPOINT, b"another key than ours"));
        scene.trace(target);
        scene.run_for(Duration::from_secs(120));
        let traced = scene.traced();
        let failed = |(report, identity): &(&server::DtlsReport, Option<&str>)| {
            let wrong = server::HandshakeFailure::WrongKey;
            matches!(report, server::DtlsReport::HandshakeFailed { reason, .. } if *reason == wrong)
                && *identity == Some(ENDPOINT)
        };
        assert!(handshakes(&traced).iter().any(failed), "{traced:?}");
    }
}

#[test]
fn a_trace_by_another_identity_has_nothing() {
    let mut scene = DtlsGatewayScene::with_silent_device(psk());
    scene.trace(TraceTarget::Identity("somebody".to_owned()));
    scene.run_for(Duration::from_secs(10));
    assert!(scene.client.is_established());
    assert_eq!(scene.traced(), []);
}

#[test]
fn a_trace_has_the_plaintext_and_the_address_that_the_device_has_moved_to() {
    for target in [TraceTarget::Identity(ENDPOINT.to_owned()), TraceTarget::Endpoint(ENDPOINT.to_owned())] {
        let mut scene = DtlsGatewayScene::registered(psk().with_cid(b"dev"));
        scene.trace(target);
        scene.rebind();
        scene.client.send(&temperature_sent(4242));
        scene.run_for(Duration::from_secs(5));
        let traced = scene.traced();
        let message = |traced| match traced {
            &Traced { event: TracedEvent::Message(ref message), .. } => Some(message),
            Traced { event: TracedEvent::Report { .. }, .. } => None,
        };
        let messages: Vec<_> = traced.iter().filter_map(message).collect();
        assert_eq!(messages[0].datagram, temperature_sent(4242));
        assert_eq!(messages[1].direction, Direction::Out);
        for message in messages {
            assert!(message.peer.association.is_some());
            assert_eq!(message.address, scene.address);
        }
    }
}
