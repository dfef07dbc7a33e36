//! Bootstrap-Pack: everything in one answer.

use super::*;

/// Sends GET `/bspack` with these formats of `Accept` and Block2, and returns the answer.
fn ask_pack(scene: &mut Scene, query: &str, accept: Option<u16>, block: Option<u32>) -> Message {
    let mut request = scene.request(Code::GET, &["bspack"], query);
    accept.into_iter().for_each(|accept| request.options.add_uint(number::ACCEPT, accept.into()));
    block.into_iter().for_each(|block| request.options.add_uint(number::BLOCK2, block));
    scene.device_sends(&request);
    let (_, answer) = scene.expect_sent();
    scene.expect_nothing_more();
    assert!(answer.encode().len() <= request.encode().len() + 12, "an answer is hardly larger than its request");
    answer
}

/// Fetches a whole pack by blocks.
fn fetch(scene: &mut Scene, accept: u16) -> Vec<u8> {
    let mut body = Vec::new();
    for number in 0.. {
        let answer = ask_pack(scene, "ep=dev-7", Some(accept), (number > 0).then_some(number << 4));
        assert_eq!(answer.code, Code::CONTENT);
        assert_eq!(answer.options.content_format(), Some(accept));
        body.extend(&answer.payload);
        let block = answer.options.uint(number::BLOCK2).unwrap().unwrap_or_default();
        if block & 0x08 == 0 {
            break;
        }
    }
    body
}

#[test]
fn a_pack_has_all_instances_with_their_whole_paths() {
    let mut scene = scene(account(json!({})));
    let pack: Value = serde_json::from_slice(&fetch(&mut scene, 110)).expect("JSON");
    let expected = json!([
        { "n": "/0/100/0", "vs": "coap://gw.example.com:5683" }, { "n": "/0/100/1", "vb": false },
        { "n": "/0/100/2", "v": 3 }, { "n": "/0/100/3", "vd": "" }, { "n": "/0/100/4", "vd": "" },
        { "n": "/0/100/5", "vd": "" }, { "n": "/0/100/10", "v": 101 },
        { "n": "/1/0/0", "v": 101 }, { "n": "/1/0/1", "v": 3600 }, { "n": "/1/0/6", "vb": true },
        { "n": "/1/0/7", "vs": "U" },
    ]);
    assert_eq!(pack, expected);
    assert_eq!(reports(&mut scene).len(), 1, "one report for all blocks");
    // {0: {100: {0: ...}}, 1: {0: {...}}}
    assert_eq!(fetch(&mut scene, 11544)[..7], *b"\xa2\x00\xa1\x18\x64\xa7\x00");
    assert_eq!(fetch(&mut scene, 112)[..11], *b"\x8b\xa2\x00\x68/0/100/");
}

#[test]
fn each_block_of_a_pack_has_the_etag_of_its_version() {
    let mut scene = scene(account(json!({})));
    let etag = |scene: &mut Scene, block: u32| {
        let answer = ask_pack(scene, "ep=dev-7", Some(112), Some(block << 4));
        answer.options.first(number::ETAG).expect("an ETag").to_vec()
    };
    let first = etag(&mut scene, 0);
    assert_eq!(etag(&mut scene, 1), first);
    let server = json!({ "short_server_id": 101, "uri": "coap://gw.example.com:5683", "lifetime": "2h" });
    scene.gateway.set_bootstrap_accounts(scene.now, accounts(json!([account(json!({ "server": [server] }))])));
    assert_ne!(etag(&mut scene, 1), first, "the account has changed meanwhile");
}

#[test]
fn a_pack_is_refused_with_the_code_of_its_reason() {
    let mut scene = scene(json!({ "match": "dev-*", "server": [{ "short_server_id": 1, "uri": "coap://gw" }] }));
    for (query, accept, code) in [
        ("ep=dev-7", None, Code::NOT_ACCEPTABLE),
        ("ep=dev-7", Some(11542), Code::NOT_ACCEPTABLE),
        ("ep=dev-7", Some(60), Code::NOT_ACCEPTABLE),
        ("ep=other", Some(112), Code::NOT_FOUND),
        ("", Some(112), Code::BAD_REQUEST),
    ] {
        assert_eq!(ask_pack(&mut scene, query, accept, None).code, code, "{query} {accept:?}");
    }
    let request = scene.request(Code::POST, &["bspack"], "ep=dev-7");
    scene.ask(&request, Code::METHOD_NOT_ALLOWED);
    assert_eq!(reports(&mut scene).len(), 6);
}

#[test]
fn a_pack_that_cannot_be_given_now_is_answered_with_the_time_after_which_the_device_may_ask_again() {
    let mut scene = scene(account(json!({})));
    scene.gateway.drain(scene.now);
    let answer = ask_pack(&mut scene, "ep=dev-7", Some(112), None);
    assert_eq!(answer.code, Code::SERVICE_UNAVAILABLE);
    assert_eq!(answer.options.uint(number::MAX_AGE), Ok(Some(30)));
}

#[test]
fn a_pack_has_no_secret_without_dtls_and_no_key_is_generated_for_an_unproven_address() {
    let mut scene = scene(generating(json!({ "allow_plaintext": false })));
    assert_eq!(ask_pack(&mut scene, "ep=dev-7", Some(112), None).code, Code::BAD_REQUEST);
    let mut scene = super::scene(generating(json!({})));
    // The device asks for a session then.
    assert_eq!(ask_pack(&mut scene, "ep=dev-7", Some(112), None).code, Code::NOT_IMPLEMENTED);
    assert_eq!(scene.gateway.table_sizes().generated_keys, 0);
}
