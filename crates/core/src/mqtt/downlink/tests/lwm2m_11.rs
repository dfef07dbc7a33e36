//! Commands and members of LwM2M 1.1 and 1.2.

use crate::command::Origin;
use crate::lwm2m::codec::Patch;
use crate::lwm2m::content_format::ContentFormat;
use crate::lwm2m::formats::Formats;

use super::*;

/// Reads a command for a device of this version, which announces these formats.
fn command_for(version: &str, announced: &str, msg_type: &str, data: Value) -> Result<Operation, String> {
    let mut request = Request::new(Code::POST);
    request.options.add_text(number::URI_QUERY, "ep=dev-7");
    request.options.add_text(number::URI_QUERY, &format!("lwm2m={version}"));
    request.payload = format!("</>;ct=\"{announced}\",</3/0>").into_bytes();
    let lifetimes = Duration::from_secs(1)..=Duration::from_secs(86_400);
    let (registration, model) = (Registration::from_register(&request, &lifetimes, None).unwrap(), model());
    let context = CommandContext { registration: &registration, model: &model, composite_paths: 4 };
    let payload = json!({ "msgType": msg_type, "data": data }).to_string();
    parse(payload.as_bytes(), context).map(|command| command.operation).map_err(|refusal| refusal.reason)
}

fn of_1_2(msg_type: &str, data: Value) -> Result<Operation, String> {
    command_for("1.2", "", msg_type, data)
}

fn query_of(operation: Result<Operation, String>) -> Result<Vec<String>, String> {
    operation.map(|operation| operation.query)
}

#[test]
fn the_paths_of_a_composite_operation_are_sent_once_in_their_order() {
    let paths = vec![path("/3303"), path("/3/0/9"), Path::ROOT];
    let data = json!({ "paths": ["3303/", "/3/0/9", "/", "/3303"] });
    for (msg_type, kind) in [
        ("read-composite", OperationKind::ReadComposite { paths: paths.clone() }),
        ("observe-composite", OperationKind::ObserveComposite { paths: paths.clone() }),
        ("cancel-observe-composite", OperationKind::CancelObserveComposite { paths: paths.clone() }),
    ] {
        let operation = command_for("1.1", "", msg_type, data.clone());
        assert_eq!(operation, Ok(Operation::new(Path::ROOT, Vec::new(), kind)), "{msg_type}");
    }
    for (paths, reason) in [
        (json!([]), "a list of paths"),
        (json!("/3"), "a list of paths"),
        (json!([3]), "a list of texts"),
        (json!(["/3/0/9?pmin=1"]), "0 to 65535"),
        (json!(["/3/x"]), "0 to 65535"),
        (json!(["/1/2/3/4/5"]), "four segments"),
        (json!(["/1", "/2", "/3", "/4", "/5"]), "more than 4 paths"),
    ] {
        let error = command_for("1.1", "", "read-composite", json!({ "paths": paths })).unwrap_err();
        assert!(error.contains(reason), "{paths}: {error}");
    }
    assert!(command_for("1.1", "", "read-composite", json!({})).unwrap_err().contains("paths is missing"));
}

#[test]
fn a_composite_write_has_whole_paths_in_their_order() {
    let content = json!([
        { "path": "/3/0/6", "value": 5 },
        { "path": "3/0/22/1", "value": null },
        { "path": "/4321/0/1", "type": "Integer", "value": 7 },
    ]);
    let patch = |at: &str, value| Patch { path: path(at), value };
    let patches = vec![
        patch("/3/0/6", Some(Lwm2mValue::Integer(5))),
        patch("/3/0/22/1", None),
        patch("/4321/0/1", Some(Lwm2mValue::Integer(7))),
    ];
    let expected = Operation::new(Path::ROOT, Vec::new(), OperationKind::WriteComposite { patches });
    assert_eq!(of_1_2("write-composite", json!({ "content": content })), Ok(expected));
    for (content, reason) in [
        (json!([]), "a list with values"),
        (json!([{ "path": "/3/0", "value": 1 }]), "not /3/0"),
        (json!([{ "path": "/3/0/6" }]), "value is missing"),
        (json!([{ "path": "/3/0/6", "value": null }]), "/3/0/6 is none"),
        (json!([{ "path": "/3/0/6", "value": 8 }]), "expected 0..7"),
        (json!([{ "path": "/4321/0/1", "value": 8 }]), "type is missing"),
        (json!([{ "path": "/3/0/6", "value": 1 }, { "path": "3/0/6", "value": 2 }]), "/3/0/6 is listed twice"),
        (
            json!([{ "path": "/3/0/22", "value": "1:0" }, { "path": "/3/0/22/1", "value": "1:0" }]),
            "one of its instances",
        ),
    ] {
        let error = of_1_2("write-composite", json!({ "content": content })).unwrap_err();
        assert!(error.contains(reason), "{content}: {error}");
    }
}

#[test]
fn a_command_that_needs_a_newer_version_is_refused_with_both() {
    let paths = || json!({ "paths": ["/3"] });
    let removal = json!({ "content": [{ "path": "/3/0/22/1", "value": null }] });
    for (version, msg_type, data, reason) in [
        ("1.0", "read-composite", paths(), "the device registered as LwM2M 1.0; read-composite needs 1.1"),
        ("1", "observe-composite", paths(), "the device registered as LwM2M 1; observe-composite needs 1.1"),
        ("1.0", "cancel-observe-composite", paths(), "LwM2M 1.0; cancel-observe-composite needs 1.1"),
        ("1.0", "write-composite", json!({}), "LwM2M 1.0; write-composite needs 1.1"),
        ("1.0", "read", json!({ "path": "/" }), "LwM2M 1.0; read of / needs 1.1"),
        ("1.1", "write-composite", removal, "LwM2M 1.1; null in write-composite needs 1.2"),
        ("1.1", "discover", json!({ "path": "/3", "depth": 1 }), "LwM2M 1.1; depth of discover needs 1.2"),
        ("1.1", "observe", json!({ "path": "/3", "pmin": 1 }), "LwM2M 1.1; pmin in observe needs 1.2"),
        ("1.1", "observe-composite", json!({ "paths": ["/3"], "gt": "" }), "gt in observe-composite needs 1.2"),
    ] {
        let error = command_for(version, "", msg_type, data).unwrap_err();
        assert!(error.ends_with(reason), "{msg_type}: {error}");
    }
    assert!(command_for("1.1", "", "observe", json!({ "path": "/3", "pmin": null })).is_ok());
}

#[test]
fn a_read_of_the_root_is_a_composite_one() {
    let kind = OperationKind::ReadComposite { paths: vec![Path::ROOT] };
    let read = command_for("1.1", "", "read", json!({ "path": "/" }));
    assert_eq!(read, Ok(Operation::new(Path::ROOT, Vec::new(), kind)));
    for msg_type in ["observe", "discover", "delete", "execute", "write-attr", "cancel-observe"] {
        assert!(of_1_2(msg_type, json!({ "path": "/", "pmin": 1 })).unwrap_err().contains("not /"), "{msg_type}");
    }
}

#[test]
fn the_mode_of_a_write_follows_from_its_target_unless_it_is_given() {
    let mode = |base: &str, at: &str, mode: Value| {
        let content = json!([{ "path": at, "type": "Integer", "value": 1 }]);
        match of_1_2("write", json!({ "basePath": base, "mode": mode, "content": content }))?.kind {
            OperationKind::Write { mode, .. } => Ok(mode),
            other => Err(format!("{other:?} is no write")),
        }
    };
    for (base, at, given, expected) in [
        ("/4321/0", "1", Value::Null, Ok(WriteMode::Update)),
        ("/4321/0", "1", json!("update"), Ok(WriteMode::Update)),
        ("/4321/0", "1", json!("replace"), Ok(WriteMode::Replace)),
        ("/4321/0/1", "0", Value::Null, Ok(WriteMode::Replace)),
        ("/4321/0/1", "0", json!("update"), Ok(WriteMode::Update)),
        ("/4321/0/1/2", "", Value::Null, Ok(WriteMode::Replace)),
        ("/4321/0/1/2", "", json!("replace"), Ok(WriteMode::Replace)),
    ] {
        assert_eq!(mode(base, at, given.clone()), expected, "{base} {given}");
    }
    assert!(mode("/4321/0/1/2", "", json!("update")).unwrap_err().contains("and /4321/0/1/2 has none"));
    for unknown in [json!("append"), json!(1)] {
        assert!(mode("/4321/0", "1", unknown).unwrap_err().contains("\"update\" or \"replace\""));
    }
    assert!(mode("/4321", "0/1", Value::Null).is_err());
}

#[test]
fn an_attribute_with_an_empty_text_is_removed_and_one_with_null_is_left_out() {
    let attributes = |data: Value| query_of(of_1_2("write-attr", data));
    let data = json!({ "path": "/3/0/6?x=1", "pmin": "", "pmax": 60, "gt": null, "con": 1, "edge": "0", "st": "2.50" });
    let expected = ["x=1", "con=1", "edge=0", "pmax=60", "pmin", "st=2.5"].map(str::to_owned).to_vec();
    assert_eq!(attributes(data), Ok(expected));
    for (name, value) in [
        ("pmin", json!("soon")),
        ("pmin", json!(-1)),
        ("pmax", json!(1.5)),
        ("hqmax", json!("0.5")),
        ("con", json!(2)),
        ("edge", json!(true)),
        ("st", json!(0)),
        ("gt", json!("1e400")),
        ("gt", json!([1])),
    ] {
        let error = attributes(json!({ "path": "/3/0/6", name: value })).unwrap_err();
        assert!(error.starts_with(&format!("{name} is not ")), "{name} {value}: {error}");
    }
    let observe = query_of(of_1_2("observe", json!({ "path": "/3/0/6?a", "pmax": 60, "epmin": 5 })));
    assert_eq!(observe, Ok(["a", "epmin=5", "pmax=60"].map(str::to_owned).to_vec()));
    assert_eq!(query_of(of_1_2("observe-composite", json!({ "paths": ["/3"], "con": 1 }))), Ok(vec!["con=1".into()]));
    assert_eq!(query_of(of_1_2("discover", json!({ "path": "/3", "depth": 0 }))), Ok(vec!["depth=0".into()]));
    assert!(of_1_2("discover", json!({ "path": "/3", "depth": 4 })).unwrap_err().contains("from 0 to 3"));
}

#[test]
fn a_command_names_formats_that_can_hold_what_it_is_about() {
    let formats = |msg_type: &str, data: Value| of_1_2(msg_type, data).map(|operation| operation.formats);
    let accept = |accept| Ok(Formats { accept: Some(accept), format: None });
    let format = |format| Ok(Formats { accept: None, format: Some(format) });
    let write = |named: Value| formats("write", json!({ "path": "/3/0/6", "value": 1, "format": named }));
    let read = |at: &str, named: Value| formats("read", json!({ "path": at, "accept": named }));
    let list = |members: Value| {
        let mut data = json!({ "paths": ["/3"] });
        data.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        formats("read-composite", data)
    };
    assert_eq!(read("/3/0/6", json!("cbor")), accept(ContentFormat::Cbor));
    assert_eq!(read("/3", json!(11542)), accept(ContentFormat::Tlv));
    assert_eq!(read("/3/0/12", json!("opaque")), accept(ContentFormat::Opaque));
    assert_eq!(write(json!("text")), format(ContentFormat::Text));
    assert_eq!(write(json!(112)), format(ContentFormat::SenmlCbor));
    assert_eq!(list(json!({ "accept": "lwm2m-cbor" })), accept(ContentFormat::Lwm2mCbor));
    assert_eq!(list(json!({ "format": 322 })), format(ContentFormat::SenmlEtchCbor));

    let content = json!([{ "path": "6", "value": 1 }]);
    let removal = json!([{ "path": "/3/0/22/1", "value": null }]);
    for refused in [
        read("/3/0", json!("text")),
        read("/3/0/6", json!("opaque")),
        read("/3/0/6", json!("link")),
        read("/3/0/6", json!("senml-etch-cbor")),
        write(json!("opaque")),
        write(json!("link")),
        write(json!("senml-etch-json")),
        formats("write", json!({ "basePath": "/3/0", "format": "cbor", "content": content })),
        list(json!({ "accept": "tlv" })),
        list(json!({ "format": "lwm2m-cbor" })),
        formats("write-composite", json!({ "content": removal, "format": "senml-cbor" })),
        formats("write-composite", json!({ "content": [{ "path": "/3/0/6", "value": 1 }], "format": "tlv" })),
    ] {
        assert!(refused.as_ref().is_err_and(|reason| reason.contains("cannot hold")), "{refused:?}");
    }
    for unknown in [json!("xml"), json!(50), json!(1542), json!(-1), json!(true)] {
        assert!(read("/3/0/6", unknown.clone()).is_err(), "{unknown}");
    }
}

#[test]
fn formats_mean_nothing_in_other_commands() {
    for (msg_type, data) in [
        ("discover", json!({ "path": "/3" })),
        ("cancel-observe", json!({ "path": "/3" })),
        ("execute", json!({ "path": "/3/0/4" })),
        ("delete", json!({ "path": "/3/1" })),
        ("write-attr", json!({ "path": "/3", "pmin": 1 })),
        ("cancel-observe-composite", json!({ "paths": ["/3"] })),
    ] {
        let mut named = data.clone();
        named["format"] = json!("nonsense");
        named["accept"] = json!(7);
        assert_eq!(of_1_2(msg_type, named), Ok(of_1_2(msg_type, data).unwrap()), "{msg_type}");
    }
}

#[test]
fn a_resource_instance_is_a_target_like_another_where_the_operation_has_one() {
    let at = "/3/0/22/1";
    for (msg_type, data) in [
        ("read", json!({ "path": at })),
        ("write", json!({ "path": at, "value": "1:0" })),
        ("observe", json!({ "path": at })),
        ("cancel-observe", json!({ "path": at })),
        ("write-attr", json!({ "path": at, "pmin": 1 })),
        ("delete", json!({ "path": at })),
    ] {
        for version in ["1.0", "1.1", "1.2"] {
            let operation = command_for(version, "", msg_type, data.clone()).unwrap();
            assert_eq!(operation.path, path(at), "{msg_type} {version}");
        }
    }
    let content = of_1_2("write", json!({ "basePath": "/3/0", "content": [{ "path": "22/1", "value": "1:0" }] }));
    let OperationKind::Write { values, .. } = content.unwrap().kind else { panic!("a write") };
    assert_eq!(values[0].path, path(at));
    for paths in ["read-composite", "observe-composite", "cancel-observe-composite"] {
        assert!(command_for("1.1", "", paths, json!({ "paths": [at] })).is_ok(), "{paths}");
    }
    for (msg_type, data) in [
        ("execute", json!({ "path": at })),
        ("discover", json!({ "path": at })),
        ("create", json!({ "basePath": at, "content": [] })),
    ] {
        assert!(of_1_2(msg_type, data).unwrap_err().ends_with("not /3/0/22/1"), "{msg_type}");
    }
}

#[test]
fn a_create_may_leave_the_instance_id_to_the_device() {
    let create = |announced: &str, paths: &[&str]| {
        let content: Vec<_> = paths.iter().map(|at| json!({ "path": at, "type": "Integer", "value": 1 })).collect();
        command_for("1.1", announced, "create", json!({ "basePath": "/4321", "content": content }))
    };
    let value = |at: &str| Assignment { path: path(at), value: Lwm2mValue::Integer(1) };
    let values = vec![value("/4321/0/1"), value("/4321/0/2/0")];
    let kind = OperationKind::Create { values, device_chooses_id: true };
    for announced in ["", "112 11542"] {
        let expected = Ok(Operation::new(path("/4321"), Vec::new(), kind.clone()));
        assert_eq!(create(announced, &["*/1", "/*/2/0"]), expected, "{announced}");
    }
    assert!(create("112", &["*/1"]).unwrap_err().contains("only TLV"));
    let named = |format: &str| {
        let content = json!([{ "path": "*/1", "type": "Integer", "value": 1 }]);
        command_for("1.1", "112", "create", json!({ "basePath": "/4321", "format": format, "content": content }))
    };
    assert_eq!(named("tlv").map(|create| create.formats.format), Ok(Some(ContentFormat::Tlv)));
    assert!(named("senml-cbor").unwrap_err().contains("cannot hold"));
    assert!(create("", &["*/1", "0/2"]).unwrap_err().contains("none does"));
    assert!(create("", &["*"]).is_err());
}

#[test]
fn an_automatic_observation_of_several_paths_says_so() {
    let command = Command::auto_observe_composite(vec![path("/3303/0"), path("/3/0/9")]);
    let paths = vec![path("/3303/0"), path("/3/0/9")];
    let expected = Operation::new(Path::ROOT, Vec::new(), OperationKind::ObserveComposite { paths });
    assert_eq!((command.operation, command.origin), (expected, Origin::AutoObserve));
    let echoed: Value = serde_json::from_str(&command.echo.to_json()).unwrap();
    assert_eq!((&echoed["is_auto_observe"], &echoed["data"]["paths"]), (&json!(true), &json!(["/3303/0", "/3/0/9"])));
}
