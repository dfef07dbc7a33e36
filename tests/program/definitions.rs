//! Object definitions from files: those that the project ships, and the whole public registry where a copy of it is at
//! hand (`OMA_REGISTRY`, or `../shared/oma-registry`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use lwm2m_core::lwm2m::model::{BrokenFile, Model, ObjectVersion, Resource, Version};
use lwm2m_core::lwm2m::value::ResourceType;

fn files_below(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder that can be read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "xml") {
            let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
            files.push((name, fs::read(&path).expect("a file that can be read")));
        }
    }
    files.sort();
    files
}

/// Those of the folder itself.
fn files_in(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let paths = fs::read_dir(folder).expect("a folder that can be read").map(|entry| entry.expect("an entry").path());
    let files = paths.filter(|path| path.extension().is_some_and(|extension| extension == "xml"));
    files.map(|path| (path.display().to_string(), fs::read(&path).expect("a file that can be read"))).collect()
}

fn registry() -> Option<PathBuf> {
    std::env::var_os("OMA_REGISTRY").map(PathBuf::from).or_else(|| {
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/oma-registry");
        beside.is_dir().then_some(beside)
    })
}

/// The version of an object on a device of LwM2M 1.0.
fn of(object: u16, ver: Option<&str>) -> ObjectVersion {
    ObjectVersion::of(object, ver, Version::FIRST)
}

fn shipped() -> Model {
    let (model, broken) = Model::from_files(files_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("xml")));
    assert_eq!(broken, []);
    model
}

#[test]
fn the_shipped_definitions_are_every_version_of_the_core_objects_and_the_newest_of_the_ipso_objects() {
    let model = shipped();
    let (core, ipso): (Vec<_>, Vec<_>) = model.objects().partition(|object| object.id <= 7);
    let versions: Vec<_> = core.iter().map(|object| format!("{}/{}", object.id, object.version)).collect();
    let expected = [
        "0/1.2", "0/1.1", "0/1.0", "1/1.2", "1/1.1", "1/1.0", "2/1.1", "2/1.0", "3/1.2", "3/1.1", "3/1.0", "4/1.3",
        "4/1.2", "4/1.1", "4/1.0", "5/1.2", "5/1.1", "5/1.0", "6/1.0", "7/1.0",
    ];
    assert_eq!(versions, expected);
    let ids: Vec<_> = ipso.iter().map(|object| object.id).collect();
    // The registry has no 3307 and no 3309.
    let expected: Vec<_> = (3200..=3203).chain(3300..=3306).chain([3308]).chain(3310..=3350).collect();
    assert_eq!(ids, expected);
    assert_eq!(model.objects().map(|object| object.resources().count()).sum::<usize>(), 842);
}

/// Where a copy of the public registry is at hand, the shipped definitions have its names, types, operations and units.
#[test]
fn the_shipped_definitions_say_what_the_public_registry_says() {
    let Some(registry) = registry() else {
        println!("skipped: no copy of the public registry (OMA_REGISTRY)");
        return;
    };
    let (registry, _) = Model::from_files(files_below(&registry));
    let published: BTreeMap<_, _> = registry.objects().map(|object| ((object.id, object.version), object)).collect();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for object in shipped().objects() {
        let other = published[&(object.id, object.version)];
        let (id, version) = (object.id, object.version);
        assert_eq!(words(&object.name), words(&other.name), "{id} {version}");
        assert_eq!((object.multiple, object.mandatory), (other.multiple, other.mandatory), "{id} {version}");
        assert_eq!(object.resources().count(), other.resources().count(), "{id} {version}");
        for (resource, published) in object.resources().zip(other.resources()) {
            let expected = Resource { name: words(&published.name), ..published.clone() };
            assert_eq!(*resource, expected, "{id} {version}");
        }
    }
}

#[test]
fn a_device_that_says_nothing_of_versions_may_use_the_resources_of_all() {
    let model = shipped();
    for (object, resource, expected) in [
        (1, 1, Some(ResourceType::Integer)),
        (1, 23, Some(ResourceType::Boolean)),
        (3, 9, Some(ResourceType::Integer)),
        (3, 22, Some(ResourceType::ObjectLink)),
        (5, 13, Some(ResourceType::UnsignedInteger)),
        (6, 4, Some(ResourceType::Opaque)),
        (3, 4, None),
    ] {
        for ver in [None, Some("1.0"), Some("1.1")] {
            let found = model.resource(object, of(object, ver), resource).expect("a definition");
            assert_eq!(found.resource_type, expected, "/{object}/0/{resource}");
        }
    }
    assert_eq!(model.resource(3, of(3, Some("2.0")), 0), None);
}

#[test]
fn every_file_of_the_public_registry_is_taken_or_refused_with_a_reason() {
    let Some(registry) = registry() else {
        println!("skipped: no copy of the public registry (OMA_REGISTRY)");
        return;
    };
    let files = files_below(&registry);
    assert_eq!(files.len(), 754);
    let marked = files.iter().filter(|(_, content)| content.starts_with(b"\xef\xbb\xbf")).count();
    assert_eq!(marked, 44);

    let (model, broken) = Model::from_files(files);
    let refused: Vec<_> = broken.iter().map(|BrokenFile { file, reason }| format!("{file}: {reason}")).collect();
    let no_objects = [
        // Resources that objects share, and two indexes.
        "Common.xml: resource 4000 has no MultipleInstances",
        "DDF.xml: the root element is \"DDFList\", not LWM2M",
        "LWM2M_senml_units.xml: the root element is \"units\", not LWM2M",
    ];
    assert_eq!(refused, no_objects);
    // The newest version of most objects is there twice: in the folder, and in that of the older ones.
    assert_eq!(model.objects().count(), 424);
    assert_eq!(model.objects().map(|object| object.id).collect::<BTreeSet<_>>().len(), 327);

    // The folder without its older versions has some objects of which there is no version 1: a device that announces no
    // version has the newest.
    let (newest, _) = Model::from_files(files_in(&registry));
    let without_first =
        newest.objects().filter(|object| newest.object(object.id, of(object.id, Some("1.0"))).is_none());
    assert_eq!(without_first.count(), 19);
    assert!(newest.objects().all(|object| newest.object(object.id, of(object.id, None)).is_some()));
}
