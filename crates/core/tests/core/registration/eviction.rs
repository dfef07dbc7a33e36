//! Room for new devices when there are as many as may be.

use super::*;

const DAY: f64 = 86_400.0;

/// A house for three devices that is full: `old-1`, `old-2` and `old-3`, an hour apart, with a lifetime of a year each.
fn full_house() -> Scene {
    let mut scene = Scene::with(|config| {
        config.limits.devices = 3;
        config.lifetimes = Duration::from_secs(1)..=Duration::from_secs(400 * 86_400);
    });
    for number in 1..=3 {
        scene.peer = peer(number);
        joins(&mut scene, &format!("ep=old-{number}&lt=31536000"));
        scene.advance(3600.0);
    }
    scene.reports();
    scene.peer = peer(9);
    scene
}

fn joins(scene: &mut Scene, query: &str) -> RegistrationId {
    scene.join(query);
    scene.forget_what_was_said();
    scene.device
}

fn evicted(scene: &mut Scene) -> Vec<String> {
    let evicted = scene.reports().into_iter().filter_map(|report| match report {
        Report::Left { endpoint, reason: LeaveReason::Evicted } => Some(endpoint),
        _ => None,
    });
    evicted.collect()
}

#[test]
fn the_device_that_was_silent_the_longest_makes_room_when_the_house_is_full() {
    let mut scene = full_house();
    // The first of them is heard, so that it is the second one's turn.
    scene.peer = peer(1);
    scene.send_register("ep=old-1&lt=31536000");
    scene.expect_connect();
    scene.broker_takes_it();
    scene.forget_what_was_said();
    scene.peer = peer(9);
    scene.advance(DAY - 1.5 * 3600.0);
    scene.send_register("ep=new-1&lt=300");
    scene.expect_connect();
    assert_eq!(evicted(&mut scene), Vec::<String>::new(), "the broker has not accepted it yet");
    scene.broker_says(BrokerEvent::Connected { registration: scene.device });
    let said: Vec<_> = std::iter::from_fn(|| scene.next_said()).collect();
    assert!(format!("{said:?}").contains("Disconnect"), "{said:?}");
    assert_eq!(evicted(&mut scene), ["old-2"]);
    assert_eq!(scene.gateway.table_sizes().devices, 3);

    // The others were silent for less than a day.
    let refused = scene.register_message("ep=new-2&lt=300");
    scene.ask(&refused, Code::SERVICE_UNAVAILABLE);
    scene.expect_nothing_more();
    // An hour later the third one was silent for a day.
    scene.advance(3600.0);
    scene.forget_what_was_said();
    scene.send_register("ep=new-3&lt=300");
    scene.expect_connect();
}

#[test]
fn a_device_that_the_broker_refuses_evicts_nobody() {
    let mut scene = full_house();
    scene.advance(3.0 * DAY);
    for _ in 0..5 {
        scene.send_register("ep=other&lt=300");
        scene.expect_connect();
        let error = ConnectError::Refused("not authorized".to_owned());
        scene.broker_says(BrokerEvent::ConnectFailed { registration: scene.device, error });
        scene.forget_what_was_said();
    }
    assert_eq!(evicted(&mut scene), Vec::<String>::new());
    assert_eq!(scene.gateway.table_sizes().devices, 3);
}

#[test]
fn of_many_that_wait_for_one_place_the_broker_s_first_gets_it_and_the_others_are_told_to_try_again() {
    let mut scene = full_house();
    scene.advance(DAY - 3.0 * 3600.0);
    let mut waiting = Vec::new();
    for number in 10..13 {
        scene.peer = peer(number);
        let register = scene.send_register(&format!("ep=new-{number}&lt=300"));
        scene.expect_connect();
        waiting.push((scene.peer, scene.device, register));
    }
    let (first, others) = waiting.split_first().unwrap();
    scene.broker_says(BrokerEvent::Connected { registration: first.1 });
    assert_eq!(evicted(&mut scene), ["old-1"]);
    scene.forget_what_was_said();
    for (from, device, register) in others {
        scene.command_to(*device, read(1).to_string().as_bytes());
        scene.broker_says(BrokerEvent::Connected { registration: *device });
        // The command that came early has its answer, the device its 5.03, and the broker lets go of it.
        let Said::ToBroker(BrokerCommand::Publish { .. }) = scene.next_said().unwrap() else { panic!("no answer") };
        let answer = scene.expect_reply(*from, register, Code::SERVICE_UNAVAILABLE);
        assert_eq!(answer.options.uint(number::MAX_AGE), Ok(Some(30)));
        scene.expect_disconnect(*device);
        scene.expect_nothing_more();
    }
    assert_eq!(scene.gateway.table_sizes().devices, 3);
}

#[test]
fn to_look_for_the_silent_costs_no_look_at_every_device() {
    const DEVICES: u32 = 5_000;
    let mut scene = Scene::with(|config| {
        config.limits.devices = DEVICES as usize;
        config.lifetimes = Duration::from_secs(1)..=Duration::from_secs(400 * 86_400);
    });
    let mut locations = Vec::new();
    for number in 0..DEVICES {
        scene.peer = peer(100 + number);
        joins(&mut scene, &format!("ep=dev-{number}&lt=31536000"));
        locations.push(scene.location.clone());
        scene.advance(0.5);
    }
    scene.advance(DAY);
    // All but the last one are heard again.
    for number in 0..DEVICES - 1 {
        scene.peer = peer(100 + number);
        scene.location = locations[number as usize].clone();
        let update = scene.update("");
        scene.ask(&update, Code::CHANGED);
    }
    scene.peer = peer(9);
    scene.reports();
    // Each Register looks at a bounded number of them; the one that is silent is found in the end, and only that.
    let mut asked = 0;
    while !matches!(scene.next_said(), Some(Said::ToBroker(BrokerCommand::Connect { .. }))) {
        asked += 1;
        assert!(asked < 10, "nobody is found");
        scene.send_register("ep=new&lt=300");
    }
    assert!(asked > 1, "one Register looked at all devices");
}
