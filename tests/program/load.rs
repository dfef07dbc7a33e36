//! The load generator against the built program: its account is that of what happened.

use std::time::Duration;

use lwm2m_load::{ApplicationConfig, FleetConfig, RunConfig};
use tokio::task::LocalSet;

use crate::common::broker::TestBroker;
use crate::common::gateway::Gateway;

crate::over_both_upstreams! {
    the_load_generator_registers_notifies_reads_and_leaves,
}

async fn the_load_generator_registers_notifies_reads_and_leaves() {
    let broker = TestBroker::start().await;
    let gateway = Gateway::start(&broker.addresses);
    let fleet = FleetConfig { prefix: "load-test-".to_owned(), ..FleetConfig::new(gateway.address(), 20) };
    let application = ApplicationConfig {
        prefix: fleet.prefix.clone(),
        ..ApplicationConfig::new(broker.addresses.mqtt.parse().expect("an address"))
    };
    let config = RunConfig {
        rate: 200.0,
        reads: 50.0,
        updates: 50.0,
        image: None,
        time: Duration::from_secs(2),
        auto_observed: false,
        stay: false,
    };

    let report = LocalSet::new().run_until(lwm2m_load::run(config, fleet, application, |_| {})).await.expect("a run");

    assert_eq!(report.registration.registered, 20);
    assert!(report.registration.refused.is_empty(), "{:?}", report.registration.refused);
    let told = &report.notifications;
    assert!(told.sent >= 200, "{told:?}");
    assert_eq!((told.received, told.lost, told.twice, told.out_of_order), (told.sent, 0, 0, 0));
    assert_eq!(told.latency.count, told.sent);
    assert!(report.update_latency.count >= 50, "{:?}", report.update_latency);
    assert!(report.reads.sent >= 50, "{:?}", report.reads);
    assert_eq!((report.reads.answers.get("2.05"), report.reads.unanswered), (Some(&report.reads.sent), 0));
}
