//! Two nodes of EMQX, of which one fails: each way in which it can.

use std::time::Duration;

use lwm2m_core::gateway::broker::{BrokerEvent, ConnectError, MessageProperties, RegistrationId};

use super::emqx::{Emqx, HandlerLost};
use super::{ExProtoLinkScene, published, settings};

/// Two nodes, each with two devices: 1 and 3 at the first one, 2 and 4 at the second one. A failed attempt takes two
/// seconds.
async fn two_nodes() -> (ExProtoLinkScene, Emqx) {
    let (first, mut second) = (Emqx::bind().await, Emqx::bind().await);
    let mut settings = settings(&[&first, &second]);
    settings.link.connect_timeout = Duration::from_secs(2);
    let mut rig = ExProtoLinkScene::start_with(first, &mut [&mut second], settings).await;
    for id in 1..=4 {
        connect(&mut rig, id).await;
    }
    rig.emqx.until_clients(&["ep1", "ep3"]).await;
    second.until_clients(&["ep2", "ep4"]).await;
    (rig, second)
}

async fn connect(rig: &mut ExProtoLinkScene, id: u64) {
    rig.connect(RegistrationId(id), &format!("ep{id}")).await;
    rig.expect(BrokerEvent::Connected { registration: RegistrationId(id) }).await;
}

/// What each of these devices publishes arrives, in order, and so does a command to it.
async fn expect_served(rig: &mut ExProtoLinkScene, at: &mut Emqx, ids: &[u64]) {
    for id in ids {
        let clientid = format!("ep{id}");
        for payload in ["1", "2", "3"] {
            rig.publish(RegistrationId(*id), "t", payload).await;
        }
        for payload in ["1", "2", "3"] {
            assert_eq!(at.published().await, published(&clientid, "t", payload));
        }
        at.send(&clientid, &[("dn", "command")]).await;
        let (topic, payload) = ("dn".to_owned(), b"command".to_vec());
        rig.expect(BrokerEvent::Message {
            registration: RegistrationId(*id),
            topic,
            payload,
            properties: MessageProperties::default(),
        })
        .await;
    }
}

#[tokio::test]
async fn a_node_that_is_killed_is_left_and_used_again_when_it_is_back() {
    let (mut rig, mut second) = two_nodes().await;
    rig.emqx.stop().await;
    for number in 0..20 {
        rig.publish(RegistrationId(1), "t", &number.to_string()).await;
    }
    for number in 0..20 {
        assert_eq!(second.published().await, published("ep1", "t", &number.to_string()));
    }
    second.until_clients(&["ep1", "ep2", "ep3", "ep4"]).await;
    expect_served(&mut rig, &mut second, &[1, 2, 3, 4]).await;
    connect(&mut rig, 5).await;
    assert_eq!(rig.metrics.upstream.moved.get(), 2);
    assert_eq!(rig.metrics.upstream.connections_lost.get(), 2);

    rig.emqx.start_again().await;
    while rig.metrics.upstream.nodes_recovered.get() == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    connect(&mut rig, 6).await;
    assert_eq!(rig.emqx.login("ep6").filters, ["lwm2m/ep6/dn"]);
    second.until_clients(&["ep1", "ep2", "ep3", "ep4", "ep5"]).await;
    rig.end().await;
}

#[tokio::test]
async fn a_node_whose_adapter_is_away_is_left_by_its_silent_clients_too() {
    let (mut rig, mut second) = two_nodes().await;
    rig.emqx.stop_adapter().await;
    rig.publish(RegistrationId(1), "t", "finds out").await;
    assert_eq!(second.published().await, published("ep1", "t", "finds out"));
    second.until_clients(&["ep1", "ep2", "ep3", "ep4"]).await;
    expect_served(&mut rig, &mut second, &[1, 2, 3, 4]).await;
    connect(&mut rig, 5).await;
    assert_eq!(second.clients().len(), 5);
    rig.end().await;
}

#[tokio::test]
async fn a_node_whose_adapter_hangs_is_left_when_three_calls_had_no_answer() {
    let (mut rig, mut second) = two_nodes().await;
    rig.emqx.hang();
    let mut failed = 0;
    while rig.metrics.upstream.nodes_failed.get() == 0 {
        failed += 1;
        // Every second one goes to the node that is fine.
        rig.connect(RegistrationId(100 + failed), &format!("new{failed}")).await;
        match rig.event().await {
            BrokerEvent::Connected { .. } => {}
            BrokerEvent::ConnectFailed { error: ConnectError::Unavailable(_), .. } => {}
            event => panic!("{event:?}"),
        }
    }
    assert!((3..=8).contains(&failed), "{failed}");
    connect(&mut rig, 5).await;
    let moved = ["ep1", "ep2", "ep3", "ep4", "ep5"];
    while !moved.iter().all(|clientid| second.clients().iter().any(|client| client == clientid)) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    expect_served(&mut rig, &mut second, &[1, 2, 3, 4, 5]).await;
    rig.end().await;
}

#[tokio::test]
async fn a_node_that_cannot_call_the_handler_is_left_by_those_that_it_closes_and_gets_no_more() {
    let (mut rig, mut second) = two_nodes().await;
    rig.emqx.lose_handler(HandlerLost::Closes);
    rig.emqx.send("ep1", &[("dn", "lost with its connection")]).await;
    rig.emqx.send("ep3", &[("dn", "lost with its connection")]).await;
    second.until_clients(&["ep1", "ep2", "ep3", "ep4"]).await;
    // A new device that the node closes is at the other one within the same Connect.
    for id in 5..9 {
        connect(&mut rig, id).await;
    }
    assert_eq!(second.clients().len(), 8);
    assert_eq!(rig.metrics.upstream.nodes_failed.get(), 1);
    expect_served(&mut rig, &mut second, &[1, 2, 3, 4, 5, 6, 7, 8]).await;

    rig.emqx.find_handler();
    while rig.metrics.upstream.nodes_recovered.get() == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    connect(&mut rig, 9).await;
    rig.emqx.until_clients(&["ep9"]).await;
    rig.end().await;
}

#[tokio::test]
async fn a_node_that_takes_anchors_and_never_tells_of_them_is_left_by_its_silent_clients_too() {
    let (mut rig, mut second) = two_nodes().await;
    rig.emqx.lose_handler(HandlerLost::Waits);
    let mut attempts = 0;
    while rig.metrics.upstream.nodes_failed.get() == 0 {
        attempts += 1;
        rig.connect(RegistrationId(100 + attempts), &format!("new{attempts}")).await;
        match rig.event().await {
            BrokerEvent::Connected { .. } => {}
            BrokerEvent::ConnectFailed { error: ConnectError::Unavailable(_), .. } => {}
            event => panic!("{event:?}"),
        }
    }
    // A machine that is too busy for one of its calls adds a fault to the three (virtual time: `nodes` has them
    // exactly).
    assert!((2..=8).contains(&attempts), "{attempts}");
    while !["ep1", "ep3"].iter().all(|moved| second.clients().iter().any(|client| client == moved)) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    expect_served(&mut rig, &mut second, &[1, 2, 3, 4]).await;
    rig.end().await;
}
