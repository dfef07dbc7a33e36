//! Attacks as they were done to the program, one by one.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use lwm2m_base::Peer;
use lwm2m_base::rate::{Rate, RateLimit};
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Message, MessageId};
use lwm2m_core::gateway::broker::BrokerCommand;

use super::corpus;
use super::effort::now;
use super::program::Fort;
use crate::common::admin;
use crate::common::device::{Device, request};
use lwm2m_testkit::scene::{Said, Scene, peer};

/// One registered device sends thousands of Updates in a second; its object list is as long as the gateway takes one.
/// Two thousand a second showed after a minute what five thousand show after some seconds.
#[tokio::test(flavor = "multi_thread")]
async fn one_device_that_sends_thousands_of_updates_does_not_slow_the_others_down() {
    let Some(mut fort) = Fort::build("").await else { return };
    let mut attacker = Device::new(fort.gateway.address());
    let list = longest_list(&mut attacker);
    println!("{list} links");
    let location = attacker.location.clone();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = thread::spawn(move || {
        let path: Vec<&str> = location.iter().map(String::as_str).collect();
        let begun = now();
        let mut sent = 0_u32;
        while !stopped.load(Ordering::Relaxed) {
            while begun + Duration::from_micros(200) * sent <= now() {
                attacker.send(&request(Code::POST, &path, &[], None));
                sent += 1;
            }
            thread::park_timeout(Duration::from_millis(1));
        }
        sent
    });
    fort.live_for(Duration::from_secs(6));
    stop.store(true, Ordering::Relaxed);
    println!("{} Updates", thread.join().expect("an attacker does not panic"));
    fort.fall_silent();
    fort.assert_all_were_served();
}

/// Returns the number of links of the longest list that a Register with it is answered 2.01 to.
fn longest_list(device: &mut Device) -> usize {
    let mut number = 2_900;
    loop {
        let links: Vec<String> = (0..number).map(|link| format!("</{}/{}>", 3300 + link % 10, link)).collect();
        if register_in_blocks(device, links.join(",").as_bytes()) == Code::CREATED {
            return number;
        }
        number /= 2;
    }
}

fn register_in_blocks(device: &mut Device, links: &[u8]) -> Code {
    const SIZE: usize = 1024;
    let blocks = links.len().div_ceil(SIZE);
    let mut code = Code::EMPTY;
    for (block, payload) in links.chunks(SIZE).enumerate() {
        let content = Some((format::LINK_FORMAT, payload));
        let mut message = request(Code::POST, &["rd"], &["ep=attacker", "lt=300", "lwm2m=1.0"], content);
        let more = u32::from(block + 1 < blocks) << 3;
        message.options.add_uint(number::BLOCK1, (block as u32) << 4 | more | 6);
        let answer = device.request(&message);
        let location = answer.options.texts(number::LOCATION_PATH).expect("text");
        device.location = location.into_iter().map(str::to_owned).collect();
        code = answer.code;
        if code != Code::CONTINUE {
            break;
        }
    }
    code
}

/// Each of 510 addresses begins a Register in blocks, and never goes on.
#[test]
fn bodies_that_unregistered_peers_abandon_do_not_block_a_register_in_blocks() {
    let mut scene = Scene::new();
    for number in 0..510 {
        let register = begun(&format!("ep=spoofed-{number}"), 0, MessageId(7));
        scene.device_sends_from(peer(1_000 + number), &register);
    }
    scene.advance(1.0);
    scene.forget_what_was_said();

    let first = begun("ep=dev-7&lt=300", 0, MessageId(1));
    scene.ask(&first, Code::CONTINUE);
    let mut last = begun("ep=dev-7&lt=300", 1, MessageId(2));
    last.payload = b"</3/0>,</3303/0>".to_vec();
    scene.device_sends(&last);
    scene.expect_connect();
}

/// The same from one address: it takes no more than its share.
#[test]
fn bodies_of_one_address_leave_room_for_other_unregistered_peers() {
    let mut scene = Scene::new();
    for number in 0..2_000 {
        let register = begun(&format!("ep=spoofed-{number}"), 0, MessageId(number));
        scene.device_sends_from(Peer::udp(0, ([198, 51, 100, 1], 1_024 + number).into()), &register);
    }
    scene.forget_what_was_said();
    let first = begun("ep=dev-7&lt=300", 0, MessageId(1));
    scene.ask(&first, Code::CONTINUE);
    // It is not driven out before it is whole.
    for number in 2_000..4_000 {
        let register = begun(&format!("ep=spoofed-{number}"), 0, MessageId(number));
        scene.device_sends_from(Peer::udp(0, ([198, 51, 100, 1], 1_024 + number).into()), &register);
    }
    scene.forget_what_was_said();
    let mut last = begun("ep=dev-7&lt=300", 1, MessageId(2));
    last.payload = b"</3/0>,</3303/0>".to_vec();
    scene.device_sends(&last);
    scene.expect_connect();
}

/// A block of 1,024 bytes. The last one has another number and its own payload.
fn begun(query: &str, block: u32, id: MessageId) -> Message {
    let items: Vec<&str> = query.split('&').collect();
    let mut message = corpus::request(Code::POST, &["rd"], &items, id);
    message.options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
    message.options.add_uint(number::BLOCK1, block << 4 | u32::from(block == 0) << 3 | 6);
    message.payload = b"</3/0>;a=\"0123456789abcdef0123456789abcdef01234567\",</3303/0>;b=\"\""
        .iter()
        .copied()
        .cycle()
        .take(1024)
        .collect();
    message
}

/// A registration that fills a datagram is answered 4.13, or little of it is kept, whatever is large about it.
#[test]
fn nothing_that_is_large_is_kept_of_a_registration() {
    let attributes = format!("</3/0>;a=\"{}\"", "x".repeat(60_000));
    let links: String = (0..4_500).map(|link| format!("</3303/{link}>,")).collect();
    let long_links = format!("</{}>", "3303/".repeat(10_000));
    let versions: String = (0..2_500).map(|object| format!("</{object}>;ver=1.{object},")).collect();
    for payload in [attributes, links, long_links, versions, String::new()] {
        let mut scene = Scene::new();
        let mut register = scene.request(Code::POST, &["rd"], "ep=large");
        if payload.is_empty() {
            (0..240).for_each(|item| {
                register.options.add_text(number::URI_QUERY, &format!("{item}={}", "x".repeat(240)));
            });
        }
        register.options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
        register.payload = payload.into_bytes();
        let bytes = register.encode().len();
        assert!(bytes < 65_000, "{bytes}");
        scene.device_sends(&register);
        if let Some(Said::ToBroker(BrokerCommand::Connect { registration: device, .. })) = scene.next_said() {
            scene.device = device;
            scene.broker_takes_it();
        }
        let kept = scene.gateway.table_sizes().registration_bytes;
        assert!(kept <= 16 * 1024, "{kept} bytes of {bytes}");
    }
}

/// Four heads in a second that never end: the probes of Kubernetes are answered all the while.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_leave_the_probes_their_answers() {
    let Some(fort) = Fort::build("").await else { return };
    let address = admin::address(&fort.gateway.output()).expect("it prints where");
    let mut held = Vec::new();
    let begun = now();
    while now() < begun + Duration::from_secs(8) {
        // Twice as many as were enough, from the beginning on.
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).expect("it listens");
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost:").expect("it takes a part of a request");
            held.push(stream);
        }
        let asked = now();
        let (status, _) = fort.gateway.ask_admin("/healthz");
        assert_eq!(status, 200);
        let took = now() - asked;
        // A probe of Kubernetes waits for a second by default.
        assert!(took < Duration::from_secs(1), "{took:?} with {} connections", held.len());
        thread::park_timeout(Duration::from_millis(250));
    }
}

/// Somebody who has seen a location requests it from many addresses: the limit of unregistered peers applies.
#[test]
fn requests_for_the_location_of_another_device_are_limited_like_those_of_unregistered_peers() {
    let limit = RateLimit { total: Rate { per_second: 1, burst: 6 }, address: Rate { per_second: 1, burst: 4 } };
    let mut scene = Scene::registered_with(|settings| settings.limits.unregistered = limit);
    let location = scene.location.clone();
    let mut answered = 0;
    for number in 0..100 {
        let get = scene.request(Code::GET, &location, "");
        scene.device_sends_from(peer(5_000 + number), &get);
        answered += usize::from(scene.next_said().is_some());
    }
    assert!(answered <= 6, "{answered} were answered");
    // The device itself is served.
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
}

#[test]
fn the_rate_of_one_registered_device_is_bounded() {
    let mut scene = Scene::registered();
    let mut answered = 0;
    for _ in 0..10_000 {
        let update = scene.update("");
        scene.device_sends(&update);
        answered += usize::from(scene.next_said().is_some());
    }
    assert!((1_000..=3_000).contains(&answered), "{answered} Updates were answered at once");
    scene.advance(10.0);
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
}
