//! Commands of the console in virtual time: admission, answers for who asked, the guard of observations, shares of the
//! queue, withdrawals, and observations that last as long as a stream.

use std::time::Duration;

use lwm2m_core::coap::{Code, Kind, Message};
use lwm2m_core::command::{AskId, ConsoleOrigin, Origin};
use lwm2m_core::gateway::config::{AutoObserve, GatewayConfig};
use lwm2m_core::gateway::operators::console_commands::{
    AnswerOutcome, CONSOLE_OBSERVATIONS, CONSOLE_PENDING_COMMANDS, CommandRefusal, CommandState, ConsoleAnswer,
    ConsoleCommand, Withdrawal,
};
use lwm2m_core::gateway::operators::view::WakeState;
use lwm2m_core::gateway::report::{CommandOutcome, Report};
use lwm2m_testkit::scene::{Scene, content, observe, read};
use serde_json::{Value, json};

use crate::composite::scene::{restarted, restarted_with};

const TEMPERATURE: &str = "/3303/0/5700";
/// The query of a device in queue mode.
const SLEEPER: &str = "ep=dev-7&lt=3000&lwm2m=1.1&b=U&Q";

fn alice() -> ConsoleOrigin {
    ConsoleOrigin { user: "alice".to_owned(), force: false, while_stream: false }
}

fn asks(scene: &mut Scene, ask: u64, command: &Value) -> Result<CommandState, CommandRefusal> {
    asks_as(scene, ask, command, alice())
}

fn asks_as(
    scene: &mut Scene,
    ask: u64,
    command: &Value,
    origin: ConsoleOrigin,
) -> Result<CommandState, CommandRefusal> {
    let payload = command.to_string().into_bytes();
    let command = ConsoleCommand { endpoint: "dev-7".to_owned(), payload, origin };
    let admitted = scene.gateway.command(scene.now, AskId(ask), command);
    scene.settle();
    admitted
}

fn place(admitted: &Result<CommandState, CommandRefusal>) -> usize {
    admitted.as_ref().expect("it is admitted").place
}

/// A command of the console as applications see it.
fn marked(command: &Value) -> Value {
    let mut marked = command.clone();
    marked["origin"] = json!("console");
    marked
}

fn cancel(id: u64, path: &str) -> Value {
    json!({ "reqID": id, "msgType": "cancel-observe", "data": { "path": path } })
}

/// Expects the answer for the console and the same answer for applications.
fn expect_answers(scene: &mut Scene, ask: u64, outcome: AnswerOutcome) -> Value {
    let answer = scene.expect_console_answer();
    assert_eq!((answer.ask, answer.outcome), (AskId(ask), outcome));
    let payload = json_of(&answer);
    scene.expect_published("up/resp", &payload);
    assert_eq!(payload["origin"], "console");
    payload
}

fn json_of(answer: &ConsoleAnswer) -> Value {
    serde_json::from_slice(&answer.payload).expect("an answer is JSON")
}

fn outcomes(scene: &mut Scene) -> Vec<CommandOutcome> {
    let commands = scene.reports().into_iter().filter_map(|report| match report {
        Report::Command { outcome, .. } => Some(outcome),
        _ => None,
    });
    commands.collect()
}

/// The console observes, and the device accepts.
fn observes(scene: &mut Scene, ask: u64, path: &str, origin: ConsoleOrigin) -> Message {
    assert_eq!(place(&asks_as(scene, ask, &observe(ask, path), origin)), 0);
    let request = scene.expect_request(Code::GET, path);
    scene.answer_observe(&request, 2, "20.5");
    expect_answers(scene, ask, AnswerOutcome::Answered);
    request
}

fn sleeping(change: impl FnOnce(&mut GatewayConfig)) -> Scene {
    let mut scene = Scene::with(change);
    scene.register(SLEEPER);
    scene.advance(30.0);
    scene.reports();
    scene
}

/// Wakes the device by an Update, whose answer is taken.
fn wakes(scene: &mut Scene) {
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
}

// --- Answers
// ------------------------------------------------------------------------------------------------------------

#[test]
fn a_command_is_answered_for_who_asked_and_published_with_its_origin() {
    let mut scene = Scene::registered();
    let admitted = asks(&mut scene, 1, &read(7));
    assert_eq!((place(&admitted), admitted.expect("it is sent").device), (0, WakeState::Awake));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.advance(0.5);
    scene.answer_text(&request, "Acme");
    let answer = scene.expect_console_answer();
    let mut expected = marked(&read(7));
    expected["data"] = content("/3/0/0", "Acme");
    assert_eq!(json_of(&answer), expected);
    assert_eq!((answer.outcome, answer.took), (AnswerOutcome::Answered, Some(Duration::from_millis(500))));
    scene.expect_published("up/resp", &expected);
    scene.expect_nothing_more();
    assert_eq!(outcomes(&mut scene), [CommandOutcome::Answered]);
}

#[test]
fn an_origin_that_the_caller_writes_is_replaced() {
    let mut scene = Scene::registered();
    let mut command = read(1);
    command["origin"] = json!("mqtt");
    asks(&mut scene, 1, &command).expect("it is sent");
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer(&request, Code::NOT_FOUND);
    assert_eq!(expect_answers(&mut scene, 1, AnswerOutcome::Answered)["data"]["code"], "4.04");
}

#[test]
fn answers_stay_with_who_asked_if_the_configuration_says_so_and_notifications_do_not() {
    let mut scene = Scene::registered_with(|config| config.publish_console_answers = false);
    asks(&mut scene, 1, &observe(1, TEMPERATURE)).expect("it is sent");
    let request = scene.expect_request(Code::GET, TEMPERATURE);
    scene.device_sends(&Message::empty(Kind::Acknowledgement, request.id));
    scene.expect_nothing_more();
    let first = scene.notify(&request, Kind::Confirmable, 2, "20.5");
    scene.expect_acknowledgement(&first);
    assert_eq!(scene.expect_console_answer().outcome, AnswerOutcome::Answered);
    scene.expect_nothing_more();
    scene.notify(&request, Kind::NonConfirmable, 3, "21");
    let notified = scene.expect_any_published("lwm2m/dev-7/up/notify");
    assert_eq!((&notified["origin"], &notified["seqNum"]), (&json!("console"), &json!(3)));

    scene.command(&read(2));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(2), content("/3/0/0", "Acme"));
}

#[test]
fn each_end_of_a_command_has_its_outcome() {
    let mut scene = Scene::registered();
    asks(&mut scene, 1, &read(1)).expect("it is sent");
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.device_sends(&Message::empty(Kind::Reset, request.id));
    assert_eq!(expect_answers(&mut scene, 1, AnswerOutcome::Reset)["msgType"], "coap_reset");

    asks(&mut scene, 2, &read(2)).expect("it is sent");
    scene.expect_request(Code::GET, "/3/0/0");
    scene.advance(93.0);
    for _ in 0..4 {
        scene.expect_request(Code::GET, "/3/0/0");
    }
    assert_eq!(expect_answers(&mut scene, 2, AnswerOutcome::TimedOut)["msgType"], "coap_timeout");

    asks(&mut scene, 3, &read(3)).expect("it is sent");
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.device_sends(&Message::empty(Kind::Acknowledgement, request.id));
    let mut hasty = read(4);
    hasty["mheaders"] = json!({ "ttl": 2 });
    assert_eq!(place(&asks(&mut scene, 4, &hasty)), 1);
    assert_eq!(scene.expect_any_published("lwm2m/dev-7/up/resp")["msgType"], "ack");
    scene.advance(2.0);
    assert_eq!(expect_answers(&mut scene, 4, AnswerOutcome::Expired)["data"]["code"], "4.00");
    scene.expect_nothing_more();
}

#[test]
fn a_device_that_leaves_ends_its_commands_whether_or_not_the_broker_still_listens() {
    let mut scene = Scene::registered();
    asks(&mut scene, 1, &read(1)).expect("it is sent");
    asks(&mut scene, 2, &read(2)).expect("it waits");
    scene.expect_request(Code::GET, "/3/0/0");
    assert!(scene.gateway.kick(scene.now, "dev-7"));
    scene.settle();
    assert_eq!(expect_answers(&mut scene, 1, AnswerOutcome::Left)["msgType"], "coap_timeout");
    expect_answers(&mut scene, 2, AnswerOutcome::Left);
    scene.expect_disconnect(scene.device);
    scene.expect_nothing_more();
    assert_eq!(asks(&mut scene, 3, &read(3)), Err(CommandRefusal::NotRegistered));

    scene.register("ep=dev-7&lt=300&lwm2m=1.0");
    asks(&mut scene, 4, &read(4)).expect("it is sent");
    asks(&mut scene, 5, &read(5)).expect("it waits");
    scene.expect_request(Code::GET, "/3/0/0");
    let reason = lwm2m_core::gateway::broker::CloseReason::Kicked;
    scene.broker_says(lwm2m_core::gateway::broker::BrokerEvent::Closed { registration: scene.device, reason });
    for ask in [4, 5] {
        let answer = scene.expect_console_answer();
        assert_eq!((answer.ask, answer.outcome), (AskId(ask), AnswerOutcome::Left));
    }
    scene.expect_nothing_more();
}

// --- Admission
// ----------------------------------------------------------------------------------------------------------

#[test]
fn a_command_waits_at_its_place_until_the_device_wakes() {
    let mut scene = sleeping(|_| {});
    scene.command(&read(1));
    let admitted = asks(&mut scene, 1, &read(2)).expect("it waits");
    assert_eq!((admitted.place, admitted.device), (2, WakeState::Asleep));
    let state = scene.gateway.command_state(scene.now, "dev-7", admitted.number);
    assert_eq!(state, Some(admitted));
    wakes(&mut scene);
    let request = scene.expect_request(Code::GET, "/3/0/0");
    assert_eq!(scene.gateway.command_state(scene.now, "dev-7", admitted.number).map(|state| state.place), Some(1));
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    let state = scene.gateway.command_state(scene.now, "dev-7", admitted.number).expect("it was sent");
    assert_eq!((state.place, state.device), (0, WakeState::Awake));
    scene.answer_text(&request, "Acme");
    expect_answers(&mut scene, 1, AnswerOutcome::Answered);
    assert_eq!(scene.gateway.command_state(scene.now, "dev-7", admitted.number), None);
}

#[test]
fn a_command_that_is_not_admitted_is_refused_with_the_reason_and_nobody_else_learns_of_it() {
    let mut scene = sleeping(|config| config.limits.command_size = 1_000);
    let unknown = asks(&mut scene, 1, &json!({ "msgType": "raed", "data": { "path": "/3/0/0" } }));
    let Err(CommandRefusal::Invalid(reason)) = unknown else { panic!("{unknown:?}") };
    assert!(reason.contains("did you mean \"read\"?"), "{reason}");
    let mut hasty = read(2);
    hasty["mheaders"] = json!({ "ttl": 0 });
    assert!(matches!(asks(&mut scene, 2, &hasty), Err(CommandRefusal::DeviceAsleep(_))));
    let mut large = read(3);
    large["x"] = json!("x".repeat(1_000));
    assert!(matches!(asks(&mut scene, 3, &large), Err(CommandRefusal::TooLarge(_))));
    scene.drains();
    assert_eq!(asks(&mut scene, 4, &read(4)), Err(CommandRefusal::Ending));
    scene.expect_nothing_more();
    assert_eq!(outcomes(&mut scene), []);
    assert_eq!(scene.gateway.table_sizes().command_bytes, 0);
}

#[test]
fn the_console_has_a_share_of_the_queue_and_applications_have_the_rest() {
    let mut scene = sleeping(|_| {});
    for number in 1..=CONSOLE_PENDING_COMMANDS as u64 {
        asks(&mut scene, number, &read(number)).expect("it waits");
    }
    let full = asks(&mut scene, 9, &read(9));
    let Err(CommandRefusal::QueueFull(reason)) = full else { panic!("{full:?}") };
    assert!(reason.contains("8 commands of the console"), "{reason}");
    for number in 10..10 + 56 {
        scene.command(&read(number));
    }
    scene.expect_nothing_more();
    let view = scene.gateway.device(scene.now, "dev-7").expect("it is registered");
    assert_eq!(view.waiting.len(), 64);
    let by = |origin: Origin| view.waiting.iter().filter(|waiting| waiting.command.origin == origin).count();
    assert_eq!(by(Origin::Console(Box::new(alice()))), CONSOLE_PENDING_COMMANDS);
}

#[test]
fn of_a_small_queue_at_least_half_is_left_to_applications() {
    let mut scene = sleeping(|config| config.limits.pending_commands = 3);
    assert_eq!(place(&asks(&mut scene, 1, &read(1))), 1);
    assert_eq!(place(&asks(&mut scene, 2, &read(2))), 2);
    assert!(matches!(asks(&mut scene, 3, &read(3)), Err(CommandRefusal::QueueFull(_))));
    scene.command(&read(4));
    scene.expect_nothing_more();
    // A queue that applications have filled takes none either.
    let mut scene = sleeping(|config| config.limits.pending_commands = 2);
    scene.command(&read(1));
    scene.command(&read(2));
    assert!(matches!(asks(&mut scene, 3, &read(3)), Err(CommandRefusal::QueueFull(_))));
}

#[test]
fn the_console_has_a_share_of_the_observations() {
    let mut scene = Scene::registered();
    for number in 0..CONSOLE_OBSERVATIONS as u64 {
        observes(&mut scene, number, &format!("/3303/0/{}", 5700 + number), alice());
    }
    let full = asks(&mut scene, 90, &observe(90, "/3303/0/5602"));
    assert!(matches!(full, Err(CommandRefusal::QueueFull(_))), "{full:?}");
    // One of its own may be replaced, and applications have room.
    observes(&mut scene, 91, TEMPERATURE, alice());
    scene.observe(92, "/3303/0/5602");
}

// --- The guard of observations
// ------------------------------------------------------------------------------------------

#[test]
fn an_observation_of_an_application_is_neither_replaced_nor_ended_unless_forced() {
    let mut scene = Scene::registered();
    let observed = scene.observe(1, TEMPERATURE);
    for command in [observe(2, TEMPERATURE), cancel(3, TEMPERATURE)] {
        assert!(matches!(asks(&mut scene, 2, &command), Err(CommandRefusal::ObservedAlready(_))));
    }
    scene.notify(&observed, Kind::NonConfirmable, 5, "21");
    assert_eq!(scene.expect_any_published("lwm2m/dev-7/up/notify")["reqID"], 1);
    // Another path, and a composite observation, are other observations.
    observes(&mut scene, 4, "/3303/0", alice());

    let forced = ConsoleOrigin { force: true, ..alice() };
    let replaced = observes(&mut scene, 5, TEMPERATURE, forced);
    scene.notify(&replaced, Kind::NonConfirmable, 6, "22");
    assert_eq!(scene.expect_any_published("lwm2m/dev-7/up/notify"), {
        json!({ "reqID": 5, "msgType": "notify", "origin": "console", "seqNum": 6, "data": content(TEMPERATURE, 22) })
    });
    let stale = scene.notify(&observed, Kind::Confirmable, 7, "23");
    scene.expect_reset(&stale);
    // Now it is the console's own.
    assert_eq!(place(&asks(&mut scene, 6, &cancel(6, TEMPERATURE))), 0);
}

#[test]
fn an_observation_that_an_application_has_asked_for_is_guarded_before_it_is_accepted() {
    let mut scene = Scene::registered();
    scene.command(&observe(1, TEMPERATURE));
    let request = scene.expect_request(Code::GET, TEMPERATURE);
    assert!(matches!(asks(&mut scene, 1, &observe(2, TEMPERATURE)), Err(CommandRefusal::ObservedAlready(_))));
    scene.command(&cancel(3, TEMPERATURE));
    // It will be ended by then.
    assert_eq!(place(&asks(&mut scene, 2, &observe(4, TEMPERATURE))), 2);
    scene.command(&observe(5, TEMPERATURE));
    assert!(matches!(asks(&mut scene, 3, &cancel(6, TEMPERATURE)), Err(CommandRefusal::ObservedAlready(_))));
    scene.answer_observe(&request, 2, "20.5");
    scene.forget_what_was_said();
}

#[test]
fn an_observe_of_an_application_takes_the_place_of_the_console_s() {
    let mut scene = Scene::registered();
    observes(&mut scene, 1, TEMPERATURE, alice());
    scene.observe(2, TEMPERATURE);
    assert!(matches!(asks(&mut scene, 3, &cancel(3, TEMPERATURE)), Err(CommandRefusal::ObservedAlready(_))));
    scene.expect_nothing_more();
}

#[test]
fn a_pending_observe_is_refused_when_it_is_sent_if_the_observation_has_outlived_its_cancellation() {
    for is_withdrawn in [true, false] {
        let mut scene = Scene::with(|_| {});
        scene.register(SLEEPER);
        scene.observe(1, TEMPERATURE);
        scene.advance(30.0);
        scene.command(&cancel(2, TEMPERATURE));
        assert_eq!(place(&asks(&mut scene, 1, &observe(3, TEMPERATURE))), 2);
        if is_withdrawn {
            let view = scene.gateway.device(scene.now, "dev-7").expect("it is registered");
            scene.gateway.withdraw(scene.now, "dev-7", view.waiting[0].command.number);
            scene.settle();
            scene.expect_refused(&cancel(2, TEMPERATURE));
            wakes(&mut scene);
        } else {
            wakes(&mut scene);
            let request = scene.expect_request(Code::GET, TEMPERATURE);
            scene.device_sends(&Message::empty(Kind::Reset, request.id));
            scene.expect_returned(&cancel(2, TEMPERATURE), "coap_reset");
        }
        let refused = expect_answers(&mut scene, 1, AnswerOutcome::Refused);
        assert!(refused["data"]["reason"].as_str().expect("a reason").contains("force"), "{refused}");
        scene.expect_nothing_more();
    }
}

#[test]
fn paths_of_auto_observe_are_guarded_before_and_after_it_has_asked_for_them() {
    let paths = AutoObserve::Paths(vec!["/3303/0".parse().expect("a path"), "/3/0".parse().expect("a path")]);
    let mut scene = Scene::with(|config| config.auto_observe = paths);
    scene.register("ep=dev-7&lt=300&lwm2m=1.0");
    let request = scene.expect_request(Code::GET, "/3303/0");
    for path in ["/3303/0", "/3/0"] {
        let refused = asks(&mut scene, 1, &observe(1, path));
        assert!(matches!(refused, Err(CommandRefusal::ObservedAlready(_))), "{path}: {refused:?}");
    }
    scene.answer_observe(&request, 0, "20.5");
    scene.forget_what_was_said();
    assert!(matches!(asks(&mut scene, 2, &cancel(2, "/3303/0")), Err(CommandRefusal::ObservedAlready(_))));
}

// --- Withdrawals
// --------------------------------------------------------------------------------------------------------

#[test]
fn an_operator_withdraws_what_waits_whoever_gave_it() {
    let mut scene = Scene::registered();
    scene.command(&read(1));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.command(&read(2));
    let own = asks(&mut scene, 1, &read(3)).expect("it waits").number;
    let view = scene.gateway.device(scene.now, "dev-7").expect("it is registered");
    let (sent, foreign) = (view.in_flight.expect("it was sent").command.number, view.waiting[0].command.number);

    let now = scene.now;
    assert_eq!(scene.gateway.withdraw(now, "dev-7", foreign), Withdrawal::Withdrawn);
    scene.settle();
    assert_eq!(scene.expect_refused(&read(2)), "withdrawn by an operator");
    assert_eq!(scene.gateway.withdraw(now, "dev-7", own), Withdrawal::Withdrawn);
    scene.settle();
    let answer = expect_answers(&mut scene, 1, AnswerOutcome::Withdrawn);
    assert_eq!(answer["data"]["reason"], "withdrawn by an operator");
    for number in [own, sent, 99] {
        assert_eq!(scene.gateway.withdraw(now, "dev-7", number), Withdrawal::NotPending);
    }
    assert_eq!(scene.gateway.withdraw(now, "dev-8", own), Withdrawal::NotRegistered);
    assert_eq!(outcomes(&mut scene), [CommandOutcome::Withdrawn; 2]);
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    scene.expect_nothing_more();
}

// --- Restarts
// -----------------------------------------------------------------------------------------------------------

#[test]
fn after_a_restart_a_command_goes_on_and_nobody_has_asked_for_it() {
    let mut scene = Scene::new();
    scene.gateway.restore(scene.now, Vec::new());
    scene.register("ep=dev-7&lt=300&lwm2m=1.1");
    let request = observes(&mut scene, 1, TEMPERATURE, alice());
    scene.observe(2, "/3303/0/5602");
    asks(&mut scene, 3, &read(3)).expect("it is sent");
    let again = scene.expect_request(Code::GET, "/3/0/0");

    let mut scene = restarted(scene);
    let sent = scene.expect_request(Code::GET, "/3/0/0");
    assert_eq!(sent.options, again.options);
    let view = scene.gateway.device(scene.now, "dev-7").expect("it is registered");
    let by = Origin::Console(Box::new(alice()));
    assert_eq!(view.in_flight.expect("it was sent").command.origin, by);
    let origins: Vec<_> = view.observations.iter().map(|observation| observation.origin.clone()).collect();
    assert_eq!(origins.iter().filter(|origin| **origin == by).count(), 1);
    assert_eq!(origins.iter().filter(|origin| origin.is_application()).count(), 1);
    scene.answer_text(&sent, "Acme");
    scene.expect_answer(&marked(&read(3)), content("/3/0/0", "Acme"));
    // The guard knows whose the observations are.
    assert!(matches!(asks(&mut scene, 4, &cancel(4, "/3303/0/5602")), Err(CommandRefusal::ObservedAlready(_))));
    let id = scene.fresh_id();
    let notification = lwm2m_testkit::scene::text_reply(&request, Kind::NonConfirmable, id, Some(9), "22");
    scene.device_sends(&notification);
    assert_eq!(scene.expect_any_published("lwm2m/dev-7/up/notify")["origin"], "console");
    scene.expect_nothing_more();
}

#[test]
fn a_restored_command_is_answered_to_nobody_if_answers_are_not_published() {
    let silent = |config: &mut GatewayConfig| config.publish_console_answers = false;
    let mut scene = Scene::with(silent);
    scene.gateway.restore(scene.now, Vec::new());
    scene.register("ep=dev-7&lt=300&lwm2m=1.1");
    asks(&mut scene, 3, &read(3)).expect("it is sent");
    scene.expect_request(Code::GET, "/3/0/0");
    let mut scene = restarted_with(scene, silent);
    let sent = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&sent, "Acme");
    scene.expect_nothing_more();
    assert_eq!(outcomes(&mut scene), [CommandOutcome::Answered]);
}

// --- Observations that last as long as a stream
// ------------------------------------------------------------------------

fn while_stream() -> ConsoleOrigin {
    ConsoleOrigin { while_stream: true, ..alice() }
}

fn set_stream(scene: &mut Scene, user: &str, is_open: bool) {
    scene.gateway.set_stream_open(scene.now, "dev-7", user, is_open);
    scene.settle();
}

#[test]
fn an_observation_ends_a_minute_after_the_last_stream_of_its_user() {
    let mut scene = Scene::new();
    scene.register("ep=dev-7&lt=3000&lwm2m=1.1");
    set_stream(&mut scene, "alice", true);
    let observed = observes(&mut scene, 1, TEMPERATURE, while_stream());
    let lasting = observes(&mut scene, 2, "/3303/0/5701", alice());
    scene.advance(300.0);
    scene.notify(&observed, Kind::NonConfirmable, 3, "21");
    scene.expect_any_published("lwm2m/dev-7/up/notify");

    set_stream(&mut scene, "alice", false);
    // The stream of another user does not count; one of its own does.
    set_stream(&mut scene, "bob", true);
    scene.advance(59.9);
    set_stream(&mut scene, "alice", true);
    scene.advance(60.0);
    set_stream(&mut scene, "alice", false);
    scene.advance(59.9);
    scene.notify(&observed, Kind::NonConfirmable, 4, "22");
    scene.expect_any_published("lwm2m/dev-7/up/notify");
    scene.advance(0.2);
    scene.expect_nothing_more();
    let stale = scene.notify(&observed, Kind::Confirmable, 5, "23");
    scene.expect_reset(&stale);
    scene.notify(&lasting, Kind::NonConfirmable, 3, "24");
    scene.expect_any_published("lwm2m/dev-7/up/notify");
    assert_eq!(scene.gateway.device(scene.now, "dev-7").expect("it is registered").observations.len(), 1);
}

#[test]
fn an_observation_whose_stream_is_never_opened_ends_too_also_after_a_restart() {
    let mut scene = Scene::new();
    scene.gateway.restore(scene.now, Vec::new());
    scene.register("ep=dev-7&lt=3000&lwm2m=1.1");
    observes(&mut scene, 1, TEMPERATURE, while_stream());
    scene.advance(59.0);
    set_stream(&mut scene, "alice", true);
    scene.advance(100.0);
    let mut scene = restarted(scene);
    let count = |scene: &mut Scene| scene.gateway.device(scene.now, "dev-7").expect("registered").observations.len();
    scene.advance(59.9);
    assert_eq!(count(&mut scene), 1);
    scene.advance(0.1);
    assert_eq!(count(&mut scene), 0);
    scene.expect_nothing_more();
}
