//! The counters of the bootstrap server.

use lwm2m_core::coap::Code;
use lwm2m_core::gateway::report::{BootstrapRefusal, BootstrapReport, BootstrapStep};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use crate::meters::{ResultLabel, counter, counters};

use super::labels::ReasonLabel;

/// The steps of a session, by the names of [`BootstrapStep::name`].
const STEPS: [&str; 5] = ["discover", "delete", "write", "verify", "finish"];

/// The codes that have series of their own; a session without an answer has `none`.
const CODES: [(&str, Option<Code>); 7] = [
    ("none", None),
    ("4.00", Some(Code::BAD_REQUEST)),
    ("4.04", Some(Code::NOT_FOUND)),
    ("4.05", Some(Code::METHOD_NOT_ALLOWED)),
    ("4.06", Some(Code::NOT_ACCEPTABLE)),
    ("4.15", Some(Code::UNSUPPORTED_CONTENT_FORMAT)),
    ("5.00", Some(Code::INTERNAL_SERVER_ERROR)),
];

const OTHER: &str = "other";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    step: &'static str,
    code: &'static str,
}

/// Counts the reports of the bootstrap server.
#[derive(Debug)]
pub(crate) struct BootstrapMetrics {
    started: Counter,
    finished: Counter,
    /// The failed sessions by step and code, in the order of [`STEPS`] and of [`CODES`], after which comes [`OTHER`].
    failed: Vec<(FailureLabels, Counter)>,
    rejected: BootstrapRejectionCounters,
    differences: Counter,
    accounts_set: Counter,
    accounts_removed: Counter,
    accounts_rejected: Counter,
    packs: Counter,
    keys_removed: Counter,
    statuses_dropped: Counter,
}

impl BootstrapMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let failed = counters(
            registry,
            "lwm2m_bootstrap_sessions_failed",
            "Failed bootstrap sessions by step and response code",
        );
        let codes = || CODES.iter().map(|(name, _)| *name).chain([OTHER]);
        let labels = STEPS.iter().flat_map(|step| codes().map(|code| FailureLabels { step, code }));
        let failed = labels.map(|labels| (labels.clone(), failed(labels))).collect();
        let accounts = "Bootstrap accounts that applications published, by result";
        let accounts = counters(registry, "lwm2m_bootstrap_accounts", accounts);
        let differences = "Bootstrap sessions after which the device did not have the values that were written";
        let packs = "Bootstrap packs sent: the whole account of a device in one answer";
        let statuses_dropped = "Results of bootstrap sessions without DTLS not published: there were too many";
        Self {
            started: counter(registry, "lwm2m_bootstrap_sessions_started", "Bootstrap sessions started"),
            finished: counter(registry, "lwm2m_bootstrap_sessions_finished", "Bootstrap sessions finished"),
            failed,
            rejected: BootstrapRejectionCounters::register(registry),
            accounts_set: accounts(ResultLabel { result: "set" }),
            accounts_removed: accounts(ResultLabel { result: "removed" }),
            accounts_rejected: accounts(ResultLabel { result: "rejected" }),
            differences: counter(registry, "lwm2m_bootstrap_differences", differences),
            packs: counter(registry, "lwm2m_bootstrap_packs", packs),
            statuses_dropped: counter(registry, "lwm2m_bootstrap_statuses_dropped", statuses_dropped),
            keys_removed: counter(registry, "lwm2m_bootstrap_keys_removed", "Generated keys that operators removed"),
        }
    }

    pub(super) fn of(&self, report: &BootstrapReport) -> &Counter {
        match report {
            BootstrapReport::Started { .. } => &self.started,
            BootstrapReport::Finished { .. } => &self.finished,
            BootstrapReport::Failed { step, code, .. } => self.failed_at(*step, *code),
            BootstrapReport::Rejected { refusal, .. } => self.rejected.of(*refusal),
            BootstrapReport::Differs { .. } => &self.differences,
            BootstrapReport::AccountSet { .. } => &self.accounts_set,
            BootstrapReport::AccountRemoved { .. } => &self.accounts_removed,
            BootstrapReport::AccountRejected { .. } => &self.accounts_rejected,
            BootstrapReport::Pack { .. } => &self.packs,
            BootstrapReport::StatusDropped { .. } => &self.statuses_dropped,
            BootstrapReport::KeyRemoved { .. } => &self.keys_removed,
        }
    }

    fn failed_at(&self, step: BootstrapStep, code: Option<Code>) -> &Counter {
        let code = CODES.iter().find(|(_, known)| *known == code).map_or(OTHER, |(name, _)| name);
        let labels = FailureLabels { step: step.name(), code };
        let found = self.failed.iter().find(|(known, _)| *known == labels);
        &found.expect("each step has a series for each code").1
    }
}

#[derive(Debug)]
struct BootstrapRejectionCounters {
    off: Counter,
    method: Counter,
    not_acceptable: Counter,
    format: Counter,
    malformed: Counter,
    accounts_awaited: Counter,
    no_account: Counter,
    other_identity: Counter,
    plaintext: Counter,
    second_kind: Counter,
    secured: Counter,
    unwritable: Counter,
    session_limit: Counter,
    key_limit: Counter,
    unstored: Counter,
    stopping: Counter,
}

impl BootstrapRejectionCounters {
    fn register(registry: &mut Registry) -> Self {
        let help = "Rejected requests for bootstrap by reason";
        let counters = counters(registry, "lwm2m_bootstrap_requests_rejected", help);
        let reason = |reason| counters(ReasonLabel { reason });
        Self {
            off: reason("off"),
            method: reason("method"),
            not_acceptable: reason("not_acceptable"),
            format: reason("format"),
            malformed: reason("malformed"),
            accounts_awaited: reason("accounts_awaited"),
            no_account: reason("no_account"),
            other_identity: reason("other_identity"),
            plaintext: reason("plaintext"),
            second_kind: reason("second_kind"),
            secured: reason("secured"),
            unwritable: reason("unwritable"),
            session_limit: reason("session_limit"),
            key_limit: reason("key_limit"),
            unstored: reason("unstored"),
            stopping: reason("stopping"),
        }
    }

    fn of(&self, refusal: BootstrapRefusal) -> &Counter {
        match refusal {
            BootstrapRefusal::Off => &self.off,
            BootstrapRefusal::Method => &self.method,
            BootstrapRefusal::NotAcceptable => &self.not_acceptable,
            BootstrapRefusal::Format => &self.format,
            BootstrapRefusal::Malformed | BootstrapRefusal::NoEndpoint => &self.malformed,
            BootstrapRefusal::AccountsAwaited => &self.accounts_awaited,
            BootstrapRefusal::NoAccount => &self.no_account,
            BootstrapRefusal::OtherIdentity => &self.other_identity,
            BootstrapRefusal::Plaintext => &self.plaintext,
            BootstrapRefusal::SecondKind => &self.second_kind,
            BootstrapRefusal::Secured => &self.secured,
            BootstrapRefusal::Unwritable => &self.unwritable,
            BootstrapRefusal::Busy => &self.session_limit,
            BootstrapRefusal::TooManyKeys => &self.key_limit,
            BootstrapRefusal::Unstored => &self.unstored,
            BootstrapRefusal::Stopping => &self.stopping,
        }
    }
}

/// Returns one report for every counter.
#[cfg(test)]
pub(super) fn reports() -> Vec<BootstrapReport> {
    use lwm2m_base::identity::PskIdentity;

    let (endpoint, peer) = (|| "ep1".to_owned(), test_peer());
    let single = [
        BootstrapReport::Started { endpoint: endpoint(), peer },
        BootstrapReport::Finished { endpoint: endpoint(), peer, took: std::time::Duration::from_secs(1) },
        BootstrapReport::Differs { endpoint: endpoint(), reason: String::new() },
        BootstrapReport::AccountSet { endpoint: endpoint() },
        BootstrapReport::AccountRemoved { endpoint: endpoint() },
        BootstrapReport::AccountRejected { endpoint: endpoint(), reason: String::new() },
        BootstrapReport::Pack { endpoint: endpoint(), peer },
        BootstrapReport::StatusDropped { endpoint: endpoint(), peer },
        BootstrapReport::KeyRemoved { identity: PskIdentity::new(b"dev-7").expect("an identity") },
    ];
    failures().chain(rejections()).chain(single).collect()
}

/// Returns a failed session for each step and code.
#[cfg(test)]
fn failures() -> impl Iterator<Item = BootstrapReport> {
    use lwm2m_core::lwm2m::path::Path;

    let steps = [
        BootstrapStep::Discover,
        BootstrapStep::Delete(Path::ROOT),
        BootstrapStep::Write(Path::ROOT),
        BootstrapStep::Verify,
        BootstrapStep::Finish,
    ];
    let codes = CODES.iter().map(|(_, code)| *code).chain([Some(Code::CONFLICT)]);
    let failed = steps.into_iter().flat_map(move |step| codes.clone().map(move |code| (step, code)));
    failed.map(|(step, code)| BootstrapReport::Failed {
        endpoint: "ep1".to_owned(),
        peer: test_peer(),
        step,
        code,
        reason: String::new(),
    })
}

/// Returns a rejected request for each reason.
#[cfg(test)]
fn rejections() -> impl Iterator<Item = BootstrapReport> {
    let refusals = [
        BootstrapRefusal::Off,
        BootstrapRefusal::Method,
        BootstrapRefusal::NotAcceptable,
        BootstrapRefusal::Format,
        BootstrapRefusal::Malformed,
        BootstrapRefusal::AccountsAwaited,
        BootstrapRefusal::NoAccount,
        BootstrapRefusal::OtherIdentity,
        BootstrapRefusal::Plaintext,
        BootstrapRefusal::SecondKind,
        BootstrapRefusal::Secured,
        BootstrapRefusal::Unwritable,
        BootstrapRefusal::Busy,
        BootstrapRefusal::TooManyKeys,
        BootstrapRefusal::Unstored,
        BootstrapRefusal::Stopping,
    ];
    refusals.into_iter().map(|refusal| BootstrapReport::Rejected {
        peer: test_peer(),
        endpoint: None,
        code: Code::BAD_REQUEST,
        refusal,
    })
}

#[cfg(test)]
fn test_peer() -> lwm2m_base::Peer {
    lwm2m_base::Peer::udp(0, ([192, 0, 2, 1], 56830).into())
}
