//! Firmware campaigns through the gateway: its requests to a device, its answers to operators, and restarts.

use lwm2m_core::coap::{Code, Message};
use lwm2m_core::command::AskId;
use lwm2m_core::gateway::firmware::campaign::CampaignStatus;
use lwm2m_core::gateway::firmware::campaign::member::{MemberOutcome, MemberState};
use lwm2m_core::gateway::firmware::campaigns::request::{CampaignAction, CampaignRefusal, RefusalKind};
use lwm2m_core::gateway::operators::console_commands::AnswerOutcome;
use lwm2m_core::gateway::report::{CampaignReport, Report};
use lwm2m_testkit::scene::Scene;
use lwm2m_testkit::store::MemoryStore;
use serde_json::{Value, json};

use super::scene::*;

fn start(scene: &mut Scene, members: Value) -> Result<(), CampaignRefusal> {
    let mut campaign = json!({ "name": "spring", "image": IMAGE, "version": "2.1.0", "endpoints": ["dev-7"] });
    members.as_object().expect("an object").iter().for_each(|(name, value)| campaign[name] = value.clone());
    let campaign = campaign.to_string();
    scene.gateway.start_campaign(scene.now, AskId(1), campaign.as_bytes())?;
    scene.settle();
    Ok(())
}

/// Begins a campaign, and expects that it is answered.
fn begin_campaign(scene: &mut Scene, members: Value) {
    start(scene, members).expect("a campaign");
    let answer = scene.expect_console_answer();
    assert_eq!(answer.outcome, AnswerOutcome::Answered);
    let campaign: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    assert_eq!((&campaign["name"], &campaign["status"]), (&json!("spring"), &json!("running")));
}

/// Answers the reads of the versions: an older Firmware Version, and no PkgVersion.
fn tell_versions(scene: &mut Scene) {
    answer_value(scene, "/3/0/3", "2.0.0");
    let read = scene.expect_request(Code::GET, "/5/0/7");
    scene.answer(&read, Code::NOT_FOUND);
}

/// Expects an event of the update, which names the campaign, and returns its `data`.
fn expect_campaign_event(scene: &mut Scene, phase: &str) -> Value {
    let mut event = scene.expect_any_published(EVENTS);
    assert_eq!((&event["campaign"], &event["data"]["phase"]), (&json!("spring"), &json!(phase)), "{event}");
    event["data"].take()
}

/// Plays the update until the device downloads. Returns the observation of State and the path of the image.
fn download(scene: &mut Scene) -> ([Message; 2], String, String) {
    expect_campaign_event(scene, "preparing");
    let observations = prepare(scene, 2);
    expect_campaign_event(scene, "downloading");
    let (write, key, name) = expect_uri(scene);
    scene.answer(&write, Code::CHANGED);
    (observations, key, name)
}

fn install(scene: &mut Scene, [state, result]: &[Message; 2]) {
    notify(scene, state, 13, 2);
    expect_campaign_event(scene, "downloaded");
    let execute = expect_execute(scene, "/5/0/2");
    scene.answer(&execute, Code::CHANGED);
    expect_campaign_event(scene, "updating");
    notify(scene, state, 14, 3);
    notify(scene, result, 12, 1);
    expect_campaign_event(scene, "verifying");
    answer_value(scene, "/3/0/3", "2.1.0");
    expect_campaign_event(scene, "succeeded");
}

fn reports(scene: &mut Scene) -> Vec<CampaignReport> {
    let campaign = |report| if let Report::Campaign(report) = report { Some(report) } else { None };
    scene.reports().into_iter().filter_map(campaign).collect()
}

fn status(scene: &Scene) -> CampaignStatus {
    scene.gateway.campaign("spring").expect("the campaign").status
}

#[test]
fn a_campaign_is_told_from_its_first_question_to_the_new_version_of_its_device() {
    let mut scene = public_scene();
    begin_campaign(&mut scene, json!({ "filter": { "/3/0/1": "AX-7" } }));
    answer_value(&mut scene, "/3/0/1", "AX-7");
    tell_versions(&mut scene);
    let (observations, key, name) = download(&mut scene);
    assert_eq!(scene.gateway.campaign("spring").unwrap().counts.of(MemberState::Updating), 1);
    (0..4).for_each(|block| drop(fetch(&mut scene, (&key, &name), block)));
    install(&mut scene, &observations);
    scene.expect_nothing_more();

    let reports = reports(&mut scene);
    let ended = CampaignReport::Ended {
        campaign: "spring".into(),
        endpoint: "dev-7".into(),
        outcome: MemberOutcome::Succeeded,
    };
    assert!(reports.contains(&ended), "{reports:?}");
    let completed = |report: &CampaignReport| {
        matches!(report, CampaignReport::Status { status: CampaignStatus::Completed, counts, .. }
            if counts.of(MemberState::Succeeded) == 1)
    };
    assert!(reports.iter().any(completed), "{reports:?}");
    assert_eq!(status(&scene), CampaignStatus::Completed);
}

#[test]
fn a_device_that_has_the_version_gets_nothing_but_the_question() {
    let mut scene = public_scene();
    begin_campaign(&mut scene, json!({}));
    answer_value(&mut scene, "/3/0/3", "2.1.0");
    scene.expect_nothing_more();
    let devices = scene.gateway.campaign_devices("spring", None, None, 10).unwrap();
    assert_eq!((devices.len(), devices[0].state), (1, MemberState::UpToDate));
}

#[test]
fn what_cannot_be_begun_is_refused_before_anything_is_sent() {
    let mut scene = public_scene();
    let refusal = start(&mut scene, json!({ "pattern": "*" })).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Invalid);
    for (members, reason) in [
        (json!({ "image": "missing.bin" }), "there is no such image"),
        (json!({ "sha256": "0".repeat(64) }), "the image has the SHA-256"),
    ] {
        start(&mut scene, members).expect("its image is looked at");
        let answer = scene.expect_console_answer();
        assert_eq!(answer.outcome, AnswerOutcome::Refused);
        let text = String::from_utf8(answer.payload.into()).unwrap();
        assert!(text.contains(reason), "{text}");
    }
    scene.expect_nothing_more();
    assert!(scene.gateway.campaign_list().is_empty());

    begin_campaign(&mut scene, json!({}));
    let refusal = start(&mut scene, json!({})).unwrap_err();
    assert_eq!((refusal.kind, refusal.reason.as_str()), (RefusalKind::Conflict, "there is a campaign spring already"));
    let now = scene.now;
    let unknown = scene.gateway.control_campaign(now, "autumn", CampaignAction::Pause).unwrap_err();
    assert_eq!(unknown.kind, RefusalKind::NotFound);
}

#[test]
fn a_device_in_queue_mode_takes_part_with_its_next_message() {
    let mut scene = public_scene();
    register(&mut scene, "ep=dev-7&lt=3600&lwm2m=1.1&b=U&Q");
    scene.advance(300.0);
    scene.forget_what_was_said();
    begin_campaign(&mut scene, json!({}));
    scene.advance(600.0);
    scene.expect_nothing_more();
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    while let Some(said) = scene.next_said() {
        if matches!(&said, lwm2m_testkit::scene::Said::ToDevice(..)) {
            scene.say_again(said);
            break;
        }
    }
    answer_value(&mut scene, "/3/0/3", "2.0.0");
}

#[test]
fn a_cancelled_campaign_cancels_the_update_of_its_device() {
    let mut scene = public_scene();
    begin_campaign(&mut scene, json!({}));
    tell_versions(&mut scene);
    download(&mut scene);
    let now = scene.now;
    scene.gateway.control_campaign(now, "spring", CampaignAction::Cancel).unwrap();
    scene.settle();
    expect_campaign_event(&mut scene, "cancelled");
    let devices = scene.gateway.campaign_devices("spring", None, None, 10).unwrap();
    assert_eq!(devices[0].state, MemberState::Cancelled);
    assert_eq!(
        scene.gateway.control_campaign(now, "spring", CampaignAction::Resume).unwrap_err().kind,
        RefusalKind::Conflict
    );
}

#[test]
fn a_restart_during_the_download_leaves_the_campaign_with_its_device() {
    let mut store = MemoryStore::default();
    let mut scene = public_scene();
    begin_campaign(&mut scene, json!({}));
    tell_versions(&mut scene);
    download(&mut scene);
    let now = scene.now;
    store.keep(scene.gateway.take_changes(now, usize::MAX));
    assert!(!scene.gateway.has_changes());

    let mut scene = Scene::with(|config| {
        config.firmware.public_uris.add("coap://gw.example.com:5683".parse().expect("a URI"));
    });
    scene.images.write(IMAGE, &image());
    store.restore(&mut scene.gateway, scene.now);
    let counts = scene.gateway.campaign("spring").unwrap().counts;
    assert_eq!((counts.of(MemberState::Updating), counts.total()), (1, 1));
    assert_eq!(status(&scene), CampaignStatus::Running);
    let now = scene.now;
    scene.gateway.control_campaign(now, "spring", CampaignAction::Pause).unwrap();
    store.keep(scene.gateway.take_changes(now, usize::MAX));
    let mut scene = Scene::with(|_| {});
    store.restore(&mut scene.gateway, scene.now);
    assert_eq!(status(&scene), CampaignStatus::Paused);
}
