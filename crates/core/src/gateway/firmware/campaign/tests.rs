//! Campaigns with a fleet that answers, in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::*;
use crate::command::firmware::UpdateError;

/// 2026-01-01, at noon.
const NOON: Duration = Duration::from_secs(1_767_225_600 + 12 * 3600);

/// A campaign, and the devices that it asks.
struct Fleet {
    began: Instant,
    moment: Moment,
    campaign: Campaign,
    asleep: BTreeSet<String>,
    /// The values of resources, by endpoint and path. The default of Firmware Version is 1.
    values: BTreeMap<(String, String), String>,
    unanswering: BTreeSet<String>,
    refused: BTreeMap<String, Code>,
    /// The devices that are being updated.
    updating: Vec<String>,
    cancelled: Vec<String>,
    asked: usize,
    /// The seconds at which updates began.
    starts: Vec<u64>,
    events: Vec<CampaignEvent>,
}

impl Fleet {
    fn new(members: Value) -> Self {
        let mut spec = json!({ "name": "c", "image": "app.bin", "version": "2", "concurrency": 2, "pace": 60 });
        let members = members.as_object().expect("an object").clone();
        if !members.contains_key("endpoints") {
            spec["pattern"] = json!("dev-*");
        }
        members.into_iter().for_each(|(name, value)| spec[name] = value);
        let began = Instant::now();
        let moment = Moment { now: began, unix: NOON };
        let spec = CampaignSpec::read(spec.to_string().as_bytes()).expect("a campaign");
        Self {
            began,
            moment,
            campaign: Campaign::new(moment, spec),
            asleep: BTreeSet::new(),
            values: BTreeMap::new(),
            unanswering: BTreeSet::new(),
            refused: BTreeMap::new(),
            updating: Vec::new(),
            cancelled: Vec::new(),
            asked: 0,
            starts: Vec::new(),
            events: Vec::new(),
        }
    }

    fn with_devices(members: Value, devices: usize) -> Self {
        let mut fleet = Self::new(members);
        (0..devices).for_each(|number| fleet.campaign.heard_from(&device(number)));
        fleet.run();
        fleet
    }

    fn set(&mut self, endpoint: &str, path: &str, value: &str) {
        self.values.insert((endpoint.to_owned(), path.to_owned()), value.to_owned());
    }

    /// Does what the campaign asks for until it asks for nothing more.
    fn run(&mut self) {
        self.campaign.handle_timeout(self.moment);
        loop {
            let asleep = self.asleep.clone();
            let Some(action) = self.campaign.next_action(self.moment, |endpoint| !asleep.contains(endpoint)) else {
                break;
            };
            self.act(action);
        }
        self.campaign.handle_timeout(self.moment);
        self.events.extend(self.campaign.take_events());
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Read { endpoint, path } => {
                self.asked += 1;
                let answer = self.answer(&endpoint, path);
                self.campaign.read(&endpoint, &answer);
            }
            Action::Update { endpoint } => {
                let answer = match self.refused.get(&*endpoint) {
                    Some(code) => UpdateAnswer::Refused(*code),
                    None => {
                        self.updating.push(endpoint.to_string());
                        self.starts.push((self.moment.now - self.began).as_secs());
                        UpdateAnswer::Begun(label(&endpoint))
                    }
                };
                self.campaign.begun(self.moment.now, &endpoint, answer);
            }
            Action::Cancel { endpoint } => self.cancelled.push(endpoint.to_string()),
        }
    }

    fn answer(&self, endpoint: &str, path: Path) -> ReadAnswer {
        if self.unanswering.contains(endpoint) {
            return ReadAnswer::Unanswered;
        }
        match self.values.get(&(endpoint.to_owned(), path.to_string())) {
            Some(value) => ReadAnswer::Value(value.clone()),
            None if path.to_string() == "/3/0/3" => ReadAnswer::Value("1".to_owned()),
            None => ReadAnswer::Refused,
        }
    }

    fn hear(&mut self, endpoint: &str) {
        self.campaign.heard_from(endpoint);
        self.run();
    }

    /// Lets time pass, deadline by deadline.
    fn advance(&mut self, time: Duration) {
        let until = self.moment.now + time;
        while let Some(at) = self.campaign.next_deadline(self.moment).filter(|at| *at <= until) {
            assert!(at > self.moment.now, "a deadline that does not pass would keep the program busy");
            self.set_time(at);
            self.run();
        }
        self.set_time(until);
        self.run();
    }

    fn set_time(&mut self, at: Instant) {
        self.moment.unix += at - self.moment.now;
        self.moment.now = at;
    }

    fn tell(&mut self, endpoint: &str, phase: Phase, error: Option<UpdateError>) {
        let (state, result, bytes, size, method, code) = (None, None, None, None, None, None);
        let job = label(endpoint);
        let status = JobStatus { job, phase, method, state, result, bytes, size, attempt: 1, error, code };
        if phase.is_end() {
            self.updating.retain(|updating| updating != endpoint);
        }
        self.campaign.job_event(endpoint, &status);
        self.run();
    }

    fn succeed(&mut self, endpoint: &str) {
        self.tell(endpoint, Phase::Succeeded, None);
    }

    fn fail(&mut self, endpoint: &str) {
        self.tell(endpoint, Phase::Failed, Some(UpdateError::Integrity));
    }

    /// Returns the numbers of devices by state, without zeros.
    fn counts(&self) -> Vec<(&'static str, usize)> {
        let numbers = MemberState::ALL.iter().map(|state| (state.name(), self.campaign.counts().of(*state)));
        numbers.filter(|(_, number)| *number > 0).collect()
    }

    /// Continues with what a store has.
    fn restart(&mut self, lost_jobs: bool) {
        let records = self.records();
        let campaign = records.iter().find(|record| record.endpoint.is_none()).and_then(|record| record.json.clone());
        self.campaign = Campaign::restored(&campaign.expect("a record")).expect("it can be read");
        for record in records {
            if let (Some(endpoint), Some(json)) = (record.endpoint, record.json) {
                self.campaign.restore_member(&endpoint, &json);
            }
        }
        if lost_jobs {
            self.campaign.updating().iter().for_each(|(endpoint, _)| self.campaign.lost_job(endpoint));
            self.updating.clear();
        }
    }

    /// Returns the newest records of the campaign and its devices.
    fn records(&mut self) -> Vec<record::CampaignRecord> {
        let newest: BTreeMap<_, _> = self
            .campaign
            .take_changes(usize::MAX)
            .into_iter()
            .map(|record| (record.endpoint.clone(), record))
            .collect();
        newest.into_values().collect()
    }
}

fn device(number: usize) -> String {
    format!("dev-{number:02}")
}

fn label(endpoint: &str) -> JobLabel {
    let mut bytes = [0; JobLabel::LENGTH];
    bytes.iter_mut().zip(endpoint.bytes()).for_each(|(byte, letter)| *byte = letter);
    JobLabel::from_random(bytes)
}

#[test]
fn no_more_updates_run_than_may_run_at_once() {
    let mut fleet = Fleet::with_devices(json!({}), 5);
    fleet.advance(Duration::from_secs(600));
    assert_eq!(fleet.updating, ["dev-00", "dev-01"]);
    fleet.succeed("dev-01");
    assert_eq!(fleet.updating, ["dev-00", "dev-02"]);
    fleet.advance(Duration::from_secs(2));
    fleet.fail("dev-00");
    assert_eq!(fleet.updating, ["dev-02", "dev-03"]);
    assert_eq!(fleet.counts(), [("waiting", 1), ("updating", 2), ("succeeded", 1), ("failed", 1)]);
}

#[test]
fn updates_begin_at_the_pace_of_the_campaign() {
    let mut fleet = Fleet::with_devices(json!({ "concurrency": 100, "pace": 6 }), 4);
    fleet.advance(Duration::from_secs(25));
    assert_eq!(fleet.starts, [0, 10, 20]);
    fleet.advance(Duration::from_secs(600));
    assert_eq!(fleet.starts, [0, 10, 20, 30]);
}

#[test]
fn a_device_with_the_version_or_with_another_value_than_the_filter_is_not_updated() {
    let filter = json!({ "filter": { "/3/0/1": ["AX-7", "AX-8"], "/3/0/3": "1" } });
    let mut fleet = Fleet::new(filter);
    for (number, model, version) in
        [(0, "AX-7", "1"), (1, "AX-8", "2"), (2, "BX", "1"), (3, "AX-7", "1.5"), (4, "BX", "2")]
    {
        fleet.set(&device(number), "/3/0/1", model);
        fleet.set(&device(number), "/3/0/3", version);
        fleet.hear(&device(number));
    }
    fleet.hear("dev-without-model");
    fleet.set("dev-06", "/3/0/1", "AX-7");
    fleet.set("dev-06", "/5/0/7", "2");
    fleet.hear("dev-06");
    fleet.hear("other-00");
    fleet.advance(Duration::from_secs(60));
    assert_eq!(fleet.updating, ["dev-00"]);
    assert_eq!(fleet.counts(), [("updating", 1), ("up_to_date", 2), ("filter_mismatch", 4)]);
    let ended = |endpoint: &str, outcome| CampaignEvent::Ended { endpoint: endpoint.into(), outcome };
    assert!(fleet.events.contains(&ended("dev-01", MemberOutcome::UpToDate)));
    assert!(fleet.events.contains(&ended("dev-06", MemberOutcome::UpToDate)), "PkgVersion has it");
    assert!(fleet.events.contains(&ended("dev-without-model", MemberOutcome::FilterMismatch)));
}

#[test]
fn so_many_failures_stop_the_campaign_and_skipped_devices_are_none() {
    let mut fleet = Fleet::new(json!({ "stop_after": 2, "concurrency": 10 }));
    fleet.set("dev-90", "/3/0/3", "2");
    fleet.hear("dev-90");
    (0..6).for_each(|number| fleet.hear(&device(number)));
    fleet.advance(Duration::from_secs(2));
    assert_eq!(fleet.updating.len(), 3);
    fleet.fail("dev-00");
    fleet.tell("dev-01", Phase::Cancelled, None);
    assert_eq!(fleet.campaign.status(), CampaignStatus::Running, "somebody's cancel is no failure");
    fleet.fail("dev-02");
    assert_eq!(fleet.campaign.status(), CampaignStatus::Stopped);
    fleet.advance(Duration::from_secs(600));
    assert!(fleet.updating.is_empty(), "nothing begins");
    assert_eq!(fleet.campaign.pause(), Err("the campaign has stopped already, because too many updates failed"));

    // Resumed, the failures of before do not count.
    fleet.campaign.resume().unwrap();
    fleet.run();
    fleet.advance(Duration::from_secs(600));
    fleet.fail("dev-03");
    assert_eq!(fleet.campaign.status(), CampaignStatus::Running);
    fleet.fail("dev-04");
    assert_eq!(fleet.campaign.status(), CampaignStatus::Stopped);
}

#[test]
fn a_percentage_of_failures_stops_the_campaign_once_ten_updates_have_ended() {
    let mut fleet = Fleet::with_devices(json!({ "stop_after": "30%", "concurrency": 20, "pace": 60000 }), 12);
    fleet.advance(Duration::from_secs(1));
    (0..3).for_each(|number| fleet.fail(&device(number)));
    (3..9).for_each(|number| fleet.succeed(&device(number)));
    assert_eq!(fleet.campaign.status(), CampaignStatus::Running);
    fleet.fail("dev-09");
    assert_eq!(fleet.campaign.status(), CampaignStatus::Stopped);
}

#[test]
fn a_paused_campaign_begins_nothing_and_what_runs_goes_on() {
    let mut fleet = Fleet::with_devices(json!({}), 4);
    fleet.advance(Duration::from_secs(10));
    fleet.campaign.pause().unwrap();
    assert_eq!(fleet.campaign.pause(), Err("the campaign is paused already"));
    fleet.succeed("dev-00");
    fleet.advance(Duration::from_secs(600));
    assert_eq!(fleet.updating, ["dev-01"]);
    fleet.campaign.resume().unwrap();
    fleet.run();
    assert_eq!(fleet.updating, ["dev-01", "dev-02"]);
    assert_eq!(fleet.campaign.resume(), Err("the campaign runs already"));
}

#[test]
fn a_cancelled_campaign_cancels_what_runs_and_ends_what_waits() {
    let mut fleet = Fleet::with_devices(json!({}), 4);
    fleet.advance(Duration::from_secs(10));
    fleet.campaign.cancel().unwrap();
    fleet.run();
    assert_eq!(fleet.cancelled, ["dev-00", "dev-01"]);
    assert_eq!(fleet.counts(), [("updating", 2), ("cancelled", 2)]);
    // One was not registered: it is told when it comes back.
    fleet.campaign.not_cancelled("dev-01");
    fleet.hear("dev-01");
    fleet.hear("dev-00");
    assert_eq!(fleet.cancelled, ["dev-00", "dev-01", "dev-01"]);
    fleet.tell("dev-00", Phase::Cancelled, None);
    // It was installing already.
    fleet.succeed("dev-01");
    assert_eq!(fleet.counts(), [("succeeded", 1), ("cancelled", 3)]);
    assert!(!fleet.campaign.listens());
    fleet.hear("dev-77");
    assert_eq!(fleet.campaign.counts().total(), 4);
    assert_eq!(
        (fleet.campaign.cancel(), fleet.campaign.resume()),
        (Err("the campaign is over"), Err("the campaign is over"))
    );
}

#[test]
fn a_device_that_sleeps_is_updated_after_its_next_message_and_takes_no_place_meanwhile() {
    let mut fleet = Fleet::new(json!({ "concurrency": 1 }));
    fleet.asleep.insert("dev-00".to_owned());
    fleet.hear("dev-00");
    fleet.hear("dev-01");
    assert_eq!(fleet.updating, ["dev-01"]);
    fleet.succeed("dev-01");
    fleet.advance(Duration::from_secs(3600));
    assert!(fleet.updating.is_empty());
    fleet.asleep.clear();
    fleet.hear("dev-00");
    assert_eq!(fleet.updating, ["dev-00"]);
}

#[test]
fn a_device_that_falls_asleep_before_its_turn_is_not_asked_again() {
    let mut fleet = Fleet::new(json!({ "concurrency": 1 }));
    fleet.hear("dev-00");
    fleet.hear("dev-01");
    let asked = fleet.asked;
    fleet.asleep.insert("dev-01".to_owned());
    fleet.succeed("dev-00");
    fleet.advance(Duration::from_secs(60));
    assert!(fleet.updating.is_empty());
    fleet.asleep.clear();
    fleet.hear("dev-01");
    assert_eq!((fleet.updating.as_slice(), fleet.asked), (["dev-01".to_owned()].as_slice(), asked));
}

#[test]
fn an_update_that_waits_for_its_device_takes_no_place() {
    let mut fleet = Fleet::with_devices(json!({ "concurrency": 1 }), 2);
    fleet.tell("dev-00", Phase::Waiting, None);
    fleet.advance(Duration::from_secs(2));
    assert_eq!(fleet.updating, ["dev-00", "dev-01"]);
    fleet.tell("dev-00", Phase::Downloading, None);
    fleet.hear("dev-02");
    fleet.succeed("dev-01");
    fleet.advance(Duration::from_secs(60));
    assert_eq!(fleet.updating, ["dev-00"], "it is back and has the place");
}

#[test]
fn a_device_that_does_not_answer_is_asked_again_after_its_next_message() {
    let mut fleet = Fleet::new(json!({}));
    fleet.unanswering.insert("dev-00".to_owned());
    fleet.hear("dev-00");
    fleet.advance(Duration::from_secs(3600));
    assert_eq!(fleet.asked, 1);
    fleet.unanswering.clear();
    fleet.hear("dev-00");
    assert_eq!(fleet.updating, ["dev-00"]);
}

#[test]
fn listed_devices_that_are_away_join_later_and_the_campaign_ends_with_the_last() {
    let mut fleet = Fleet::new(json!({ "endpoints": ["a", "b"] }));
    fleet.hear("a");
    fleet.hear("c");
    fleet.succeed("a");
    fleet.advance(Duration::from_secs(86_400));
    assert_eq!(
        (fleet.campaign.status(), fleet.counts()),
        (CampaignStatus::Running, vec![("waiting", 1), ("succeeded", 1)])
    );
    fleet.hear("b");
    fleet.succeed("b");
    assert_eq!(fleet.campaign.status(), CampaignStatus::Completed);
    assert_eq!(fleet.events.last(), Some(&CampaignEvent::Status(CampaignStatus::Completed)));
    assert_eq!(fleet.campaign.next_deadline(fleet.moment), None);
}

#[test]
fn at_the_end_of_its_duration_nothing_begins_and_what_runs_ends_first() {
    let mut fleet = Fleet::new(json!({ "endpoints": ["a", "b"], "duration": "1h" }));
    fleet.hear("a");
    fleet.advance(Duration::from_secs(3600));
    fleet.hear("b");
    assert_eq!(
        (fleet.campaign.status(), fleet.counts()),
        (CampaignStatus::Running, vec![("updating", 1), ("absent", 1)])
    );
    fleet.advance(Duration::from_secs(3600));
    fleet.succeed("a");
    assert_eq!(
        (fleet.campaign.status(), fleet.counts()),
        (CampaignStatus::Completed, vec![("succeeded", 1), ("absent", 1)])
    );
}

#[test]
fn outside_its_window_nothing_begins_and_what_runs_goes_on() {
    let window = json!({ "start": "12:30", "end": "12:31", "zone": "UTC" });
    let mut fleet = Fleet::with_devices(json!({ "window": window, "pace": 2, "concurrency": 5 }), 4);
    assert!(fleet.updating.is_empty() && fleet.asked == 0);
    fleet.advance(Duration::from_secs(1799));
    assert!(fleet.starts.is_empty());
    fleet.advance(Duration::from_secs(600));
    assert_eq!(fleet.starts, [1800, 1830], "the third would begin when the window has closed");
    fleet.succeed("dev-00");
    assert_eq!(fleet.counts(), [("waiting", 2), ("updating", 1), ("succeeded", 1)]);
    fleet.advance(Duration::from_secs(24 * 3600));
    assert_eq!(fleet.starts[2..], [1800 + 86_400, 1830 + 86_400], "the next day");
}

#[test]
fn a_device_with_another_update_or_without_room_is_tried_again_and_a_refusal_is_a_failure() {
    let mut fleet = Fleet::new(json!({ "concurrency": 10, "pace": 60000 }));
    let refused = [("dev-00", Code::CONFLICT), ("dev-01", Code::SERVICE_UNAVAILABLE), ("dev-02", Code::NOT_FOUND)];
    fleet.refused.extend(refused.map(|(endpoint, code)| (endpoint.to_owned(), code)));
    (0..3).for_each(|number| fleet.hear(&device(number)));
    fleet.advance(Duration::from_secs(1));
    assert_eq!(fleet.counts(), [("waiting", 2), ("failed", 1)]);
    let members = fleet.campaign.members(None, Some(MemberState::Failed), 10);
    assert_eq!((members[0].endpoint.as_str(), members[0].error.as_deref()), ("dev-02", Some("refused 4.04")));
    fleet.hear("dev-00");
    fleet.refused.clear();
    fleet.advance(Duration::from_secs(58));
    assert!(fleet.updating.is_empty());
    fleet.advance(Duration::from_secs(3));
    assert_eq!(fleet.updating, ["dev-00", "dev-01"]);
}

#[test]
fn an_event_of_another_job_of_the_device_is_not_of_the_campaign() {
    let mut fleet = Fleet::with_devices(json!({}), 1);
    let job = label("other");
    let (phase, error) = (Phase::Failed, Some(UpdateError::Lost));
    let (state, result, bytes, size, method, code) = (None, None, None, None, None, None);
    let status = JobStatus { job, phase, method, state, result, bytes, size, attempt: 1, error, code };
    fleet.campaign.job_event("dev-00", &status);
    assert_eq!(fleet.counts(), [("updating", 1)]);
}

#[test]
fn a_restart_changes_nothing_for_devices_that_are_updated_or_done_with() {
    let mut fleet = Fleet::with_devices(json!({ "stop_after": 2, "concurrency": 3, "pace": 60000 }), 5);
    fleet.advance(Duration::from_secs(1));
    fleet.fail("dev-00");
    fleet.succeed("dev-01");
    fleet.advance(Duration::from_secs(1));
    assert_eq!(fleet.updating.len(), 3);
    fleet.restart(false);
    assert_eq!(fleet.counts(), [("updating", 3), ("succeeded", 1), ("failed", 1)]);
    fleet.advance(Duration::from_secs(1));
    fleet.fail("dev-02");
    assert_eq!(fleet.campaign.status(), CampaignStatus::Stopped, "the failure before the restart counts");
}

#[test]
fn after_a_restart_devices_that_wait_join_when_they_are_heard_and_lost_jobs_begin_again() {
    let mut fleet = Fleet::with_devices(json!({ "endpoints": ["dev-00", "dev-01"], "concurrency": 1 }), 2);
    assert_eq!(fleet.updating, ["dev-00"]);
    fleet.restart(true);
    assert_eq!(fleet.counts(), [("waiting", 2)]);
    fleet.hear("dev-01");
    fleet.hear("dev-00");
    assert_eq!(fleet.updating, ["dev-01"]);
    fleet.succeed("dev-01");
    fleet.advance(Duration::from_secs(2));
    assert_eq!(fleet.updating, ["dev-00"]);
}

#[test]
fn a_restart_keeps_the_status_and_the_end_of_the_campaign() {
    for status in [CampaignStatus::Running, CampaignStatus::Paused, CampaignStatus::Stopped, CampaignStatus::Cancelled]
    {
        let mut fleet = Fleet::with_devices(json!({ "stop_after": 1, "duration": "1h" }), 3);
        match status {
            CampaignStatus::Paused => fleet.campaign.pause().unwrap(),
            CampaignStatus::Stopped => fleet.fail("dev-00"),
            CampaignStatus::Cancelled => fleet.campaign.cancel().unwrap(),
            CampaignStatus::Running | CampaignStatus::Completed => {}
        }
        fleet.restart(false);
        assert_eq!(fleet.campaign.status(), status);
        fleet.updating.clear();
        (0..5).for_each(|number| fleet.campaign.heard_from(&device(number)));
        fleet.advance(Duration::from_secs(10));
        assert_eq!(fleet.updating.is_empty(), status != CampaignStatus::Running, "{status:?}");
        fleet.advance(Duration::from_secs(3600));
        assert_eq!(fleet.campaign.counts().of(MemberState::Waiting), 0, "{status:?}");
    }
}

#[test]
fn a_device_goes_from_the_store_when_it_takes_part_again() {
    let mut fleet = Fleet::with_devices(json!({}), 1);
    assert_eq!(fleet.records().len(), 2);
    fleet.campaign.lost_job("dev-00");
    let records = fleet.records();
    assert_eq!((records[0].endpoint.as_deref(), &records[0].json), (Some("dev-00"), &None));
}

#[test]
fn devices_beyond_the_limit_are_told_once() {
    let mut fleet = Fleet::new(json!({}));
    (0..MOST_MEMBERS + 3).for_each(|number| fleet.campaign.heard_from(&format!("dev-{number}")));
    let full = fleet.campaign.take_events();
    let full = full.iter().filter(|event| matches!(event, CampaignEvent::Full { .. }));
    assert_eq!((full.count(), fleet.campaign.counts().total()), (1, MOST_MEMBERS));
}
