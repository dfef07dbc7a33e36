use super::*;

fn texts(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

const RUN: &str = "00000000000000ff0123456789abcdef01234567";

fn lists() -> RoundLists {
    let mut leases = vec!["free".to_owned(); Shard::COUNT];
    leases[1] = "unknown".to_owned();
    leases[2] = "held 3:1796000000000".to_owned();
    leases[255] = "expired 127:5".to_owned();
    let report = r#"{"version":"1.2.3","devices":7,"shards":0,"engine":"sure","peers":[7],"draining":false}"#;
    let third = format!("3 1796000000000 2 1 1 250 gw-3 a:1 {report}");
    let nodes = texts(&[&third, "7 5 1 0 0 90000 gw-7 b:2"]);
    let head = texts(&["done", "1796000000001", RUN, "c1", "0", "0", "1"]);
    (head, nodes, leases, texts(&["2 77 mine", "9 78 restored", "10 1 later", "11 2 fenced"]))
}

#[test]
fn the_answer_to_a_round_is_read() {
    let asked = Instant::now();
    let parsed = SharedRound::parse(asked, lists()).unwrap();
    let SharedRound::Answered { answer, database, nodes } = parsed else { panic!("{parsed:?}") };
    assert_eq!(database, (RUN.to_owned(), "c1".to_owned()));
    assert_eq!((answer.asked, answer.time, answer.run), (asked, WallTime(1_796_000_000_001), RunId(255)));
    assert_eq!((answer.announced, answer.nodes.len(), answer.members.len()), (Announced::Done, 1, 2));
    let owner = |node: u64, incarnation| NodeProcess {
        node: NodeNumber::try_from(node).unwrap(),
        incarnation: Incarnation(incarnation),
    };
    assert_eq!(answer.nodes[0], NodeEntry { process: owner(3, 1_796_000_000_000), weight: 2, takes: true });
    let seventh = NodeAddress { name: "gw-7".to_owned(), address: "b:2".to_owned() };
    assert_eq!(nodes[1].address, seventh, "also that of a node whose entry has run out");
    assert_eq!((nodes[0].is_alive, nodes[1].is_alive, answer.is_drained), (true, false, true));
    assert_eq!((nodes[0].age, nodes[1].age), (Duration::from_millis(250), Duration::from_secs(90)));
    let report = nodes[0].report.as_ref().map(|report| (report.version.as_str(), report.devices));
    assert_eq!((report, &nodes[1].report), (Some(("1.2.3", 7)), &None), "an older version reports nothing");
    assert_eq!(answer.leases.len(), 256);
    let lease = |shard: usize| answer.leases[shard].1;
    assert_eq!([lease(0), lease(1)], [LeaseState::Free, LeaseState::Unknown]);
    assert_eq!(lease(2), LeaseState::Held(owner(3, 1_796_000_000_000)));
    assert_eq!(lease(255), LeaseState::Expired(owner(127, 5)));
    assert_eq!(answer.renewals[1], (Shard::new(9), Term::new(78), Renewed::Restored));
}

#[test]
fn the_names_take_longer_to_be_written_again_with_more_devices() {
    let second = Duration::from_secs(1);
    let identity = NodeIdentity {
        prefix: "lwm2m".to_owned(),
        process: parse_process("3:1").unwrap(),
        name: "gw-3".to_owned(),
        address: "a:1".to_owned(),
        timing: Timing { grace: 10 * second, ..Timing::default() },
        seal: String::new(),
    };
    let SharedRound::Answered { mut nodes, .. } = SharedRound::parse(Instant::now(), lists()).unwrap() else {
        panic!("an answer")
    };
    assert_eq!(identity.rewrite_time(&[]), 10 * second);
    nodes[0].report.as_mut().unwrap().devices = 300_000;
    assert_eq!(identity.rewrite_time(&nodes), 70 * second);
}

#[test]
fn answers_that_no_script_gives_are_errors() {
    let wrong = |change: &dyn Fn(&mut RoundLists)| {
        let mut lists = lists();
        change(&mut lists);
        assert!(SharedRound::parse(Instant::now(), lists).is_err());
    };
    wrong(&|lists| lists.0[0] = "what".to_owned());
    wrong(&|lists| lists.0[2] = "short".to_owned());
    wrong(&|lists| lists.1[0] = "300 1 1 1 1 1 x y".to_owned());
    wrong(&|lists| lists.2[0] = "held 1".to_owned());
    wrong(&|lists| lists.3[0] = "2 77 yours".to_owned());
    assert!(parse_acquisition(texts(&["acquired", "7"])).is_err());
    let acquired = parse_acquisition(texts(&["acquired", "7", RUN]));
    assert_eq!(acquired, Ok(Acquisition::Acquired { term: Term::new(7), run: RunId(255) }));
}
