//! A job by itself: the test is the device, the owner and the clock.

mod endings;
mod interruptions;

use std::time::{Duration, Instant};

use super::*;
use crate::command::firmware::JobLabel;
use crate::gateway::firmware::image::Image;
use crate::gateway::firmware::pulls::uri::PullKey;
use crate::lwm2m::codec::Entry;
use crate::lwm2m::firmware::protocol;
use crate::lwm2m::path::Path;
use crate::lwm2m::value::Value;
use Phase::*;

const SIZE: u64 = 4096;

/// A device whose job is followed.
struct Play {
    job: Job,
    now: Instant,
    config: FirmwareConfig,
}

fn spec() -> JobSpec {
    let file = crate::gateway::firmware::image::FileIdentity { inode: 2, modified: (3, 4), changed: (0, 0) };
    let image = Image { size: SIZE, sha256: crate::gateway::firmware::image::ImageDigest::new([7; 32]), file };
    JobSpec {
        label: JobLabel::from_random([1, 2, 3, 4, 5, 6]),
        key: PullKey::from_random([9; 16], lwm2m_base::ShardSet::ALL),
        instance: 0,
        package: Package::Image { name: "app.bin".parse().unwrap(), image },
        method: MethodChoice::Auto,
        activate: true,
        version: None,
        block_size: None,
        attempts: 3,
    }
}

fn uri() -> Secret {
    Secret::new("coap://gw/fw/KEY/app.bin")
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

fn integer(at: &str, number: i64) -> Entry {
    Entry { path: path(at), value: Value::Integer(number), time: None, undefined: false }
}

fn text(at: &str, text: &str) -> Entry {
    Entry { path: path(at), value: Value::String(text.to_owned()), time: None, undefined: false }
}

/// The object of a device with both delivery methods.
fn object(state: i64, result: i64) -> Vec<Entry> {
    vec![integer("/5/0/3", state), integer("/5/0/5", result), integer("/5/0/8/0", 0), integer("/5/0/9", 2)]
}

impl Play {
    fn of(spec: JobSpec) -> Self {
        let now = Instant::now();
        let mut job = Job::new(now, spec, true);
        job.registered(now, Some(PullOffer { uri: uri(), protocol: protocol::COAP }), true, true);
        Self { job, now, config: FirmwareConfig::default() }
    }

    /// Plays the preparation of an idle device that can be observed.
    fn prepared(spec: JobSpec) -> Self {
        let mut play = Self::of(spec);
        play.expect_phases(&[Preparing]);
        play.prepare(0, 0);
        play
    }

    fn prepare(&mut self, state: i64, result: i64) {
        self.expect(JobRequest::Read(path("/5/0")));
        self.content(&object(state, result));
        self.observe(state, result);
    }

    fn observe(&mut self, state: i64, result: i64) {
        self.expect(JobRequest::Observe(path("/5/0/3")));
        self.answer(Code::CONTENT, &[integer("/5/0/3", state)], true);
        self.expect(JobRequest::Observe(path("/5/0/5")));
        self.answer(Code::CONTENT, &[integer("/5/0/5", result)], true);
    }

    /// Plays a pull up to the state Downloading.
    fn pulling(spec: JobSpec) -> Self {
        let mut play = Self::prepared(spec);
        play.expect(JobRequest::WriteUri(path("/5/0/1"), uri()));
        play.expect_phases(&[Downloading]);
        play.answer(Code::CHANGED, &[], false);
        play.notify("/5/0/3", 1);
        play
    }

    /// Plays a pull up to the end of the download.
    fn downloaded(spec: JobSpec) -> Self {
        let mut play = Self::pulling(spec);
        play.fetched(SIZE);
        play.notify("/5/0/3", 2);
        play.expect_phases(&[Downloaded]);
        play
    }

    /// Plays a pull up to the device that installs.
    fn updating(spec: JobSpec) -> Self {
        let mut play = Self::downloaded(spec);
        play.expect(JobRequest::Execute(path("/5/0/2")));
        play.answer(Code::CHANGED, &[], false);
        play.expect_phases(&[Updating]);
        play.notify("/5/0/3", 3);
        play
    }

    fn pushing(spec: JobSpec) -> Self {
        let mut play = Self::prepared(JobSpec { method: MethodChoice::Push, ..spec });
        play.expect(JobRequest::Push(path("/5/0/0"), PushFormat::Opaque));
        play.expect_phases(&[Downloading]);
        play
    }

    fn expect(&mut self, request: JobRequest) {
        assert_eq!(self.job.next_request(self.now, &self.config), Some(request));
        assert_eq!(self.job.next_request(self.now, &self.config), None, "one request at a time");
    }

    fn expect_idle(&mut self) {
        assert_eq!(self.job.next_request(self.now, &self.config), None);
    }

    fn answer(&mut self, code: Code, entries: &[Entry], observing: bool) {
        self.job.answered(self.now, Answer::Response { code, entries, observing }, &self.config);
    }

    fn content(&mut self, entries: &[Entry]) {
        self.answer(Code::CONTENT, entries, false);
    }

    fn no_answer(&mut self) {
        self.job.answered(self.now, Answer::Nothing, &self.config);
    }

    fn notify(&mut self, at: &str, number: i64) {
        self.job.notified(self.now, &[integer(at, number)], &self.config);
    }

    fn fetched(&mut self, bytes: u64) {
        self.job.moved(self.now, bytes, &self.config);
    }

    /// The device fetches a block without closing the first gap.
    fn fetched_behind_a_gap(&mut self, is_new: bool) {
        let bytes = self.job.pulls().expect("a pull");
        self.job.fetched(self.now, Fetched { bytes, is_new }, &self.config);
    }

    /// The device registers again, awake.
    fn registers(&mut self) {
        self.job.registered(self.now, Some(PullOffer { uri: uri(), protocol: protocol::COAP }), true, true);
    }

    /// Lets time pass, and wakes the job each time that it asked for it.
    fn advance(&mut self, seconds: u64) {
        let until = self.now + Duration::from_secs(seconds);
        while let Some(next) = self.job.next_deadline(&self.config).filter(|next| *next <= until) {
            self.now = next.max(self.now);
            self.job.handle_timeout(self.now, &self.config);
            let later = self.job.next_deadline(&self.config);
            assert!(later.is_none_or(|later| later > self.now), "a deadline that has passed is asked for again");
            if self.job.next_request(self.now, &self.config).is_some() {
                self.no_answer();
            }
        }
        self.now = until;
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.job.handle_timeout(self.now, &self.config);
    }

    fn expect_phases(&mut self, phases: &[Phase]) {
        let told: Vec<Phase> = self.job.take_events().into_iter().map(|event| event.phase).collect();
        assert_eq!(told, phases);
    }

    /// Expects the end of the job and no other event.
    fn expect_end(&mut self, phase: Phase, error: Option<UpdateError>, code: Option<Code>) {
        let events = self.job.take_events();
        let [end] = &events[..] else { panic!("{events:?}") };
        assert_eq!((end.phase, end.error, end.code), (phase, error, code));
        assert!(self.job.is_over());
        assert_eq!(self.job.next_deadline(&self.config), None);
    }
}

#[test]
fn a_pull_goes_from_the_uri_to_the_result() {
    let mut play = Play::updating(spec());
    play.expect_idle();
    play.notify("/5/0/5", 1);
    play.expect_phases(&[Verifying, Succeeded]);
    play.expect_idle();
    assert!(play.job.is_done());
}

#[test]
fn a_push_is_read_back_since_the_notification_of_its_end_may_be_lost() {
    let mut play = Play::pushing(spec());
    assert!(play.job.is_pushing());
    play.answer(Code::CHANGED, &[], false);
    play.expect(JobRequest::Read(path("/5/0/3")));
    play.content(&[integer("/5/0/3", 2)]);
    let events = play.job.take_events();
    assert_eq!(events.iter().map(|event| (event.phase, event.bytes)).collect::<Vec<_>>(), [(Downloaded, Some(SIZE))]);
    play.expect(JobRequest::Execute(path("/5/0/2")));
}

#[test]
fn a_device_that_takes_no_octet_stream_gets_tlv() {
    let mut play = Play::pushing(spec());
    play.answer(Code::UNSUPPORTED_CONTENT_FORMAT, &[], false);
    play.expect(JobRequest::Push(path("/5/0/0"), PushFormat::Tlv));
    play.answer(Code::UNSUPPORTED_CONTENT_FORMAT, &[], false);
    play.expect(JobRequest::Read(path("/5/0/5")));
    play.content(&[integer("/5/0/5", 0)]);
    play.expect_end(Failed, Some(UpdateError::Rejected), Some(Code::UNSUPPORTED_CONTENT_FORMAT));
}

#[test]
fn a_package_that_is_there_already_is_dropped_by_an_empty_uri_or_else_by_one_byte() {
    for state in [1, 2] {
        let mut play = Play::of(spec());
        play.expect(JobRequest::Read(path("/5/0")));
        play.content(&object(state, 0));
        play.expect(JobRequest::WriteUri(path("/5/0/1"), Secret::new("")));
        play.answer(Code::METHOD_NOT_ALLOWED, &[], false);
        play.expect(JobRequest::ClearPackage(path("/5/0/0")));
        play.answer(Code::CHANGED, &[], false);
        play.observe(0, 0);
        play.expect(JobRequest::WriteUri(path("/5/0/1"), uri()));
    }
}

#[test]
fn a_device_that_cannot_be_brought_back_to_idle_is_refused_or_waited_for() {
    let mut play = Play::of(spec());
    play.expect_phases(&[Preparing]);
    play.expect(JobRequest::Read(path("/5/0")));
    play.content(&object(2, 0));
    play.expect(JobRequest::WriteUri(path("/5/0/1"), Secret::new("")));
    play.answer(Code::CHANGED, &[], false);
    // It says that it has done it, and has not.
    play.observe(2, 0);
    play.expect_idle();
    play.notify("/5/0/3", 0);
    play.expect(JobRequest::WriteUri(path("/5/0/1"), uri()));

    let mut refuses = Play::of(spec());
    refuses.expect_phases(&[Preparing]);
    refuses.expect(JobRequest::Read(path("/5/0")));
    refuses.content(&object(1, 0));
    refuses.expect(JobRequest::WriteUri(path("/5/0/1"), Secret::new("")));
    refuses.answer(Code::METHOD_NOT_ALLOWED, &[], false);
    refuses.expect(JobRequest::ClearPackage(path("/5/0/0")));
    refuses.answer(Code::FORBIDDEN, &[], false);
    refuses.expect_end(Failed, Some(UpdateError::Rejected), Some(Code::FORBIDDEN));
}

#[test]
fn a_device_that_does_not_let_itself_be_observed_is_asked_now_and_then() {
    let mut play = Play::of(spec());
    play.expect(JobRequest::Read(path("/5/0")));
    play.content(&object(0, 0));
    for resource in ["/5/0/3", "/5/0/5"] {
        play.expect(JobRequest::Observe(path(resource)));
        play.answer(Code::METHOD_NOT_ALLOWED, &[], false);
    }
    play.expect(JobRequest::WriteUri(path("/5/0/1"), uri()));
    play.answer(Code::CHANGED, &[], false);
    play.expect_phases(&[Preparing, Downloading]);
    for state in [1, 2] {
        play.wait(29);
        play.expect_idle();
        play.wait(1);
        play.expect(JobRequest::Read(path("/5/0/3")));
        play.content(&[integer("/5/0/3", state)]);
        play.expect(JobRequest::Read(path("/5/0/5")));
        play.content(&[integer("/5/0/5", 0)]);
    }
    play.expect_phases(&[Downloaded]);
    play.expect(JobRequest::Execute(path("/5/0/2")));
}

#[test]
fn auto_pulls_where_the_device_and_the_configuration_can_and_pushes_otherwise() {
    let pull = || JobRequest::WriteUri(path("/5/0/1"), uri());
    let push = || JobRequest::Push(path("/5/0/0"), PushFormat::Opaque);
    let offered = [Some(protocol::COAP), Some(protocol::COAPS), None];
    let cases = [
        // Protocols, delivery, what comes with an offer by CoAP, by CoAPS, and without one.
        (&[0][..], 2, [Some(pull()), Some(push()), Some(push())]),
        (&[1], 2, [Some(push()), Some(pull()), Some(push())]),
        (&[], 2, [Some(pull()), Some(pull()), Some(push())]),
        (&[0, 1], 0, [Some(pull()), Some(pull()), None]),
        (&[0, 1], 1, [Some(push()), Some(push()), Some(push())]),
    ];
    for (protocols, delivery, requests) in cases {
        for (offer, request) in offered.into_iter().zip(requests) {
            let mut play = Play::of(spec());
            play.job.registered(play.now, offer.map(|protocol| PullOffer { uri: uri(), protocol }), true, true);
            let mut entries = vec![integer("/5/0/3", 0), integer("/5/0/5", 0), integer("/5/0/9", delivery)];
            entries.extend(protocols.iter().zip(0..).map(|(it, at)| integer(&format!("/5/0/8/{at}"), *it)));
            play.expect(JobRequest::Read(path("/5/0")));
            play.content(&entries);
            play.observe(0, 0);
            let is_refused = request.is_none();
            assert_eq!(play.job.next_request(play.now, &play.config), request, "{protocols:?} {delivery} {offer:?}");
            assert_eq!(play.job.status().error, is_refused.then_some(UpdateError::UnsupportedProtocol));
        }
    }
}

#[test]
fn a_uri_of_the_application_is_written_whatever_this_gateway_offers_and_has_no_progress() {
    let own = Secret::new("https://files.example.com/app.bin");
    let mut play = Play::of(JobSpec { package: Package::Uri(own.clone()), ..spec() });
    play.prepare(0, 0);
    play.expect(JobRequest::WriteUri(path("/5/0/1"), own));
    play.answer(Code::CHANGED, &[], false);
    play.notify("/5/0/3", 1);
    let status = play.job.status();
    assert_eq!((status.phase, status.method, status.bytes, status.size), (Downloading, Some(Method::Pull), None, None));
}

#[test]
fn a_package_waits_for_the_application_without_activate_and_for_as_long_as_it_takes() {
    let mut play = Play::pulling(JobSpec { activate: false, ..spec() });
    assert!(play.job.activate().is_err());
    play.fetched(SIZE);
    play.notify("/5/0/3", 2);
    play.expect_phases(&[Downloaded]);
    play.advance(7 * 24 * 3600);
    play.expect_idle();
    assert_eq!(play.job.activate(), Ok(()));
    play.expect(JobRequest::Execute(path("/5/0/2")));
}

#[test]
fn the_version_that_runs_is_that_of_the_device_or_of_the_package() {
    let wanted = || JobSpec { version: Some("2.1".to_owned()), ..spec() };
    let verifying = || {
        let mut play = Play::updating(wanted());
        play.notify("/5/0/5", 1);
        play.expect_phases(&[Verifying]);
        play.expect(JobRequest::Read(path("/3/0/3")));
        play
    };
    let mut of_device = verifying();
    of_device.content(&[text("/3/0/3", "2.1")]);
    of_device.expect_end(Succeeded, None, None);

    let mut of_package = verifying();
    of_package.content(&[text("/3/0/3", "17")]);
    of_package.expect(JobRequest::Read(path("/5/0/7")));
    of_package.content(&[text("/5/0/7", "2.1")]);
    of_package.expect_end(Succeeded, None, None);

    let mut old = verifying();
    old.answer(Code::NOT_FOUND, &[], false);
    old.expect(JobRequest::Read(path("/5/0/7")));
    old.content(&[text("/5/0/7", "2.0")]);
    old.expect_end(Failed, Some(UpdateError::Version), None);
}

#[test]
fn progress_is_told_when_it_grew_and_not_more_often_than_the_interval() {
    let mut play = Play::pulling(spec());
    for second in 1..=25 {
        play.wait(1);
        play.fetched(second * 100);
    }
    let told: Vec<_> = play.job.take_events().into_iter().map(|event| event.bytes).collect();
    assert_eq!(told, [Some(900), Some(1900)]);
    play.advance(100);
    let told: Vec<_> = play.job.take_events().into_iter().map(|event| event.bytes).collect();
    assert_eq!(told, [Some(2500)], "what came since is told by itself, once");
}
