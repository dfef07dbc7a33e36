//! Object definitions that are replaced while devices are registered, in virtual time.

use std::sync::Arc;

use lwm2m_core::coap::Code;
use lwm2m_core::gateway::report::Report;
use lwm2m_core::lwm2m::model::Model;
use lwm2m_testkit::scene::{QUERY, Scene};

/// Defines object 33333 in version 1.0.
const DEFINITION: &str = r#"<?xml version="1.0"?><LWM2M><Object ObjectType="MODefinition"><Name>Meter</Name>
<ObjectID>33333</ObjectID><ObjectVersion>1.0</ObjectVersion><MultipleInstances>Multiple</MultipleInstances>
<Mandatory>Optional</Mandatory><Resources>
<Item ID="1"><Name>Count</Name><Operations>R</Operations><MultipleInstances>Single</MultipleInstances>
<Mandatory>Optional</Mandatory>
<Type>Integer</Type>
</Item></Resources></Object></LWM2M>"#;

fn reload(scene: &mut Scene, definitions: &[&str]) {
    let files = definitions.iter().map(|text| ("meter.xml".to_owned(), text.as_bytes().to_vec()));
    let (model, broken) = Model::from_files(files);
    assert!(broken.is_empty(), "{broken:?}");
    scene.gateway.set_model(Arc::new(model));
}

/// Sends an Update without an object list, and returns what is reported at it.
fn reported_at_update(scene: &mut Scene) -> Vec<String> {
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    let versions = scene.reports().into_iter().filter_map(|report| match report {
        Report::UndefinedVersions { versions, .. } => Some(versions),
        _ => None,
    });
    versions.flatten().map(|version| version.to_string()).collect()
}

#[test]
fn versions_are_looked_up_again_at_the_next_update_after_a_reload() {
    let mut scene = Scene::new();
    let mut register = scene.register_message(QUERY);
    register.payload = b"</33333>;ver=4.0".to_vec();
    scene.device_sends(&register);
    scene.expect_connect();
    scene.broker_takes_it();
    scene.expect_created(&register);
    scene.expect_reported("register");
    assert!(reported_at_update(&mut scene).is_empty(), "no version of the object is defined");

    reload(&mut scene, &[DEFINITION]);
    assert_eq!(reported_at_update(&mut scene), ["33333 4.0 (loaded: 1.0)"]);
    assert!(reported_at_update(&mut scene).is_empty(), "it is reported once");
    let announced = DEFINITION.replace("1.0</ObjectVersion>", "4.0</ObjectVersion>");
    reload(&mut scene, &[&announced]);
    assert!(reported_at_update(&mut scene).is_empty());
    reload(&mut scene, &[DEFINITION]);
    assert_eq!(reported_at_update(&mut scene), ["33333 4.0 (loaded: 1.0)"]);
    scene.expect_nothing_more();
}
