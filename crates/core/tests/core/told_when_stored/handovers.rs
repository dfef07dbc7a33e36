//! A shard is handed over to another node while the answer to a command waits for the store.

use lwm2m_core::gateway::ChangeBatch;
use lwm2m_core::gateway::broker::BrokerCommand;
use lwm2m_core::gateway::moves::shards::ShardRecipients;
use lwm2m_core::registry::Location;
use lwm2m_testkit::scene::Scene;

use super::commands::{answered, publication};
use super::{confirm, take};

/// The device has answered a command. Its shard is written and handed over; the store has not confirmed that.
fn handed_over() -> (Scene, ChangeBatch, ShardRecipients) {
    let mut scene = answered();
    let shard = scene.location.last().and_then(|location| Location::shard_of(location)).expect("it names a shard");
    scene.gateway.change_shard(shard);
    let batch = take(&mut scene);
    let recipients = scene.gateway.hand_over_shard(scene.now, shard);
    scene.settle();
    scene.expect_nothing_more();
    (scene, batch, recipients)
}

#[test]
fn an_answer_is_published_when_the_store_has_the_records_of_the_shard() {
    let (mut scene, batch, _) = handed_over();
    confirm(&mut scene, &batch);
    assert!(publication(&mut scene).ticket.is_some(), "the answer to the command");
    assert!(matches!(scene.expect_broker_command(), BrokerCommand::HandOver { .. }));
    scene.expect_nothing_more();
}

#[test]
fn an_answer_that_waits_is_dropped_when_the_shard_is_lost_since_its_new_owner_decides_it() {
    let (mut scene, batch, recipients) = handed_over();
    scene.gateway.drop_outputs(scene.now, &recipients);
    scene.settle();
    assert!(matches!(scene.expect_broker_command(), BrokerCommand::Abandon { .. }));
    confirm(&mut scene, &batch);
    scene.advance(2.0);
    scene.expect_nothing_more();
}
