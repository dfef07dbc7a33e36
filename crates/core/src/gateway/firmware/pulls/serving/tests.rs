use std::time::Instant;

use crate::coap::{Kind, MessageId, Token};
use crate::gateway::config::GatewayConfig;
use crate::gateway::firmware::image::{FileIdentity, ImageDigest};
use crate::gateway::firmware::jobs::job_id::JobId;
use crate::gateway::firmware::pulls::uri::PullKey;
use crate::gateway::firmware::pulls::{Pull, PullProgress};
use crate::gateway::fixtures::{YEAR_2026, address};
use crate::gateway::{Gateway, Output};
use crate::lwm2m::model::Model;

use super::*;

const KEY: &str = "ABCDEFGHIJKLMNOP";
const NAME: &str = "app.bin";
const SIZE: usize = 40_000;

/// A gateway that offers one image, a device, and a disk that answers when the test says so.
struct Shop {
    gateway: Gateway,
    now: Instant,
    reads: Vec<Output>,
    next_id: u16,
}

impl Shop {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let (now, mut config) = (Instant::now(), GatewayConfig::default());
        change(&mut config);
        let mut gateway = Gateway::new(config, Model::default().into(), [7; 32], now, YEAR_2026);
        let key: PullKey = KEY.parse().unwrap();
        let progress = PullProgress::default();
        let pull = Pull { job: JobId(1), name: NAME.parse().unwrap(), image: image(), identity: None, progress };
        gateway.context.pulls.offer(key, pull);
        Self { gateway, now, reads: Vec::new(), next_id: 0 }
    }

    /// Returns a GET of a block; the second number is the exponent of its size.
    fn get(&mut self, path: &[&str], block: Option<(u32, u32)>) -> Message {
        self.next_id += 1;
        let mut options = Options::new();
        path.iter().for_each(|segment| options.add_text(number::URI_PATH, segment));
        if let Some((number, exponent)) = block {
            options.add_uint(number::BLOCK2, (number << 4) | exponent);
        }
        let (id, token) = (MessageId(self.next_id), Token::new(&self.next_id.to_be_bytes()));
        Message { kind: Kind::Confirmable, code: Code::GET, id, token, options, payload: Vec::new() }
    }

    fn block(&mut self, number: u32, exponent: u32) -> Message {
        self.get(&[PATH, KEY, NAME], Some((number, exponent)))
    }

    /// Sends a message of the device, and returns what comes back.
    fn send(&mut self, message: &Message) -> Vec<Message> {
        self.gateway.handle_datagram(self.now, address(1), &message.encode());
        self.outputs()
    }

    /// Sends a request whose answer comes after one read at the most.
    fn ask(&mut self, message: &Message) -> Message {
        let mut answers = self.send(message);
        answers.extend(self.disk_answers());
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert_eq!((answers[0].kind, answers[0].id), (Kind::Acknowledgement, message.id));
        answers.remove(0)
    }

    fn disk_answers(&mut self) -> Vec<Message> {
        let mut answers = Vec::new();
        while let Some(Output::ReadImage { request, offset, length, .. }) = self.reads.pop() {
            let begin = offset as usize;
            self.gateway.image_read(self.now, request, Ok(body()[begin..begin + length].to_vec()));
            answers.extend(self.outputs());
        }
        answers
    }

    fn disk_fails(&mut self, error: ImageError) -> Vec<Message> {
        let Some(Output::ReadImage { request, .. }) = self.reads.pop() else { panic!("nothing is read") };
        self.gateway.image_read(self.now, request, Err(error));
        self.outputs()
    }

    fn outputs(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            match self.gateway.poll_output() {
                Output::Transmit(transmit) => messages.push(Message::decode(&transmit.datagram).unwrap()),
                output @ Output::ReadImage { .. } => self.reads.push(output),
                Output::Idle(_) => return messages,
                Output::Report(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn body() -> Vec<u8> {
    (0..SIZE).map(|at| (at % 251) as u8).collect()
}

fn image() -> Image {
    let file = FileIdentity { inode: 1, modified: (0, 0), changed: (0, 0) };
    Image { size: SIZE as u64, sha256: ImageDigest::new([9; 32]), file }
}

fn code_of(answers: &[Message]) -> Vec<Code> {
    answers.iter().map(|answer| answer.code).collect()
}

#[test]
fn any_block_of_any_size_is_served_with_the_size_and_the_etag_of_the_image() {
    let mut shop = Shop::new();
    for (number, exponent) in [(0, 6), (39, 6), (20, 6), (20, 6), (0, 0), (2499, 0), (156, 4), (1, 5)] {
        let request = shop.block(number, exponent);
        let answer = shop.ask(&request);
        let (size, begin) = (16 << exponent, number as usize * (16 << exponent));
        let end = (begin + size).min(SIZE);
        assert_eq!((answer.code, answer.token), (Code::CONTENT, request.token));
        assert_eq!(answer.payload, body()[begin..end], "block {number} of {size}");
        let more = u32::from(end < SIZE);
        assert_eq!(answer.options.uint(number::BLOCK2), Ok(Some((number << 4) | (more << 3) | exponent)));
        assert_eq!(answer.options.uint(number::SIZE2), Ok(Some(SIZE as u32)));
        assert_eq!(answer.options.first(number::ETAG), Some(&[9; 8][..]));
        assert_eq!(answer.options.content_format(), Some(format::OCTET_STREAM));
    }
}

#[test]
fn a_request_without_block2_gets_the_first_block_of_the_configured_size() {
    let mut shop = Shop::with(|config| config.coap.block_size = 256);
    let request = shop.get(&[PATH, KEY, NAME], None);
    let answer = shop.ask(&request);
    assert_eq!((answer.code, answer.payload.len()), (Code::CONTENT, 256));
    assert_eq!(answer.options.uint(number::BLOCK2), Ok(Some(0b1100)));
}

#[test]
fn the_path_of_nothing_is_not_found_whatever_is_wrong_with_it() {
    let mut shop = Shop::new();
    let paths: [&[&str]; 6] = [
        &[PATH, "ABCDEFGHIJKLMNOQ", NAME],
        &[PATH, KEY, "other.bin"],
        &[PATH, KEY],
        &[PATH],
        &[PATH, KEY, NAME, ""],
        &[PATH, &KEY[1..], NAME],
    ];
    for path in paths {
        let request = shop.get(path, Some((0, 6)));
        assert_eq!(code_of(&shop.send(&request)), [Code::NOT_FOUND], "{path:?}");
        let post = Message { code: Code::POST, ..shop.get(path, None) };
        assert_eq!(code_of(&shop.send(&post)), [Code::NOT_FOUND], "{path:?}");
    }
    assert_eq!(shop.reads, []);
}

#[test]
fn a_request_for_an_image_with_wrong_options_is_refused() {
    let mut shop = Shop::new();
    let mut refused = |change: &dyn Fn(&mut Message), code| {
        let mut request = shop.block(0, 6);
        change(&mut request);
        assert_eq!(code_of(&shop.send(&request)), [code], "{request:?}");
    };
    refused(&|request| request.code = Code::PUT, Code::METHOD_NOT_ALLOWED);
    refused(&|request| request.options.add_uint(number::ACCEPT, 110), Code::NOT_ACCEPTABLE);
    refused(&|request| request.options.add_text(number::URI_QUERY, "a=b"), Code::NOT_FOUND);
    refused(&|request| request.options.add(5, b""), Code::BAD_OPTION);
    let block2 = |value: u32| {
        move |request: &mut Message| {
            request.options.remove(number::BLOCK2);
            request.options.add_uint(number::BLOCK2, value);
        }
    };
    refused(&block2(7), Code::BAD_OPTION);
    refused(&block2((40 << 4) | 6), Code::BAD_REQUEST);
    refused(&block2(((1 << 20) - 1) << 4), Code::BAD_REQUEST);
    let mut accepted = shop.block(0, 6);
    accepted.options.add_uint(number::ACCEPT, format::OCTET_STREAM.into());
    assert_eq!(shop.ask(&accepted).code, Code::CONTENT);
}

#[test]
fn while_a_block_is_read_others_are_answered_and_a_duplicate_is_not_read_again() {
    let mut shop = Shop::new();
    let (slow, other) = (shop.block(0, 6), shop.get(&[".well-known", "core"], None));
    assert_eq!(shop.send(&slow), []);
    assert_eq!(code_of(&shop.send(&other)), [Code::CONTENT]);
    assert_eq!(shop.send(&slow), []);
    assert_eq!(shop.reads.len(), 1);
    // The same block in another message is another request.
    let again = shop.block(0, 6);
    assert_eq!(shop.send(&again), []);
    let answers = shop.disk_answers();
    assert_eq!(answers.iter().map(|answer| answer.id).collect::<Vec<_>>(), [slow.id, again.id]);
    assert_eq!(shop.gateway.table_sizes().coap.pending_requests, 0);
    assert_eq!(shop.gateway.table_sizes().image_requests, 0);
}

#[test]
fn no_message_of_a_download_is_remembered() {
    let mut shop = Shop::new();
    let request = shop.block(3, 6);
    let first = shop.ask(&request);
    assert_eq!(shop.ask(&request), first);
    assert_eq!(shop.gateway.table_sizes().coap.remembered_messages, 0);
}

#[test]
fn a_block_that_is_read_slowly_comes_in_a_message_of_its_own() {
    let mut shop = Shop::new();
    let request = shop.block(0, 6);
    assert_eq!(shop.send(&request), []);
    shop.now += Duration::from_secs(1);
    shop.gateway.handle_timeout(shop.now);
    assert_eq!(shop.outputs(), [Message::empty(Kind::Acknowledgement, request.id)]);
    let answers = shop.disk_answers();
    assert_eq!((answers.len(), answers[0].kind, answers[0].token), (1, Kind::Confirmable, request.token));
    assert_eq!((answers[0].code, answers[0].payload.len()), (Code::CONTENT, 1024));
}

#[test]
fn when_too_many_wait_for_the_disk_a_device_is_told_when_to_ask_again() {
    let mut shop = Shop::with(|config| {
        config.coap.pending_requests = 20;
        config.limits.pending_registrations = 12;
    });
    for _ in 0..2 {
        let request = shop.block(0, 6);
        assert_eq!(shop.send(&request), []);
    }
    let request = shop.block(0, 6);
    let answers = shop.send(&request);
    assert_eq!(code_of(&answers), [Code::SERVICE_UNAVAILABLE]);
    assert_eq!(answers[0].options.uint(number::MAX_AGE), Ok(Some(5)));
}

#[test]
fn an_image_that_is_gone_is_not_found_and_one_that_cannot_be_read_may_be_asked_for_again() {
    let mut shop = Shop::new();
    for (error, code) in [(ImageError::Changed, Code::NOT_FOUND), (ImageError::Unreadable, Code::SERVICE_UNAVAILABLE)] {
        let request = shop.block(0, 6);
        assert_eq!(shop.send(&request), []);
        assert_eq!(code_of(&shop.disk_fails(error)), [code]);
    }
}

#[test]
fn an_image_that_is_withdrawn_is_not_found_any_more() {
    let mut shop = Shop::new();
    let waiting = shop.block(0, 6);
    assert_eq!(shop.send(&waiting), []);
    shop.gateway.context.pulls.withdraw(JobId(1));
    assert_eq!(code_of(&shop.disk_answers()), [Code::NOT_FOUND]);
    let later = shop.block(0, 6);
    assert_eq!(code_of(&shop.send(&later)), [Code::NOT_FOUND]);
}

#[test]
fn many_requests_at_once_do_not_hold_up_other_messages_and_are_answered_in_turns() {
    let mut shop = Shop::new();
    // From now on the part is in memory.
    let first = shop.block(0, 6);
    shop.ask(&first);
    shop.now += Duration::from_millis(1);
    let requests: Vec<Message> = (0..100).map(|_| shop.block(0, 6)).collect();
    for request in &requests {
        shop.gateway.handle_datagram(shop.now, address(1), &request.encode());
    }
    let other = shop.get(&[".well-known", "core"], None);
    shop.gateway.handle_datagram(shop.now, address(2), &other.encode());
    let answers = shop.outputs();
    assert_eq!((answers.len(), answers.last().unwrap().id), (33, other.id));
    assert_eq!(shop.gateway.table_sizes().deferred_pulls, 68);
    let mut answered: Vec<MessageId> = answers[..32].iter().map(|answer| answer.id).collect();
    for turn in [32, 32, 4] {
        shop.gateway.handle_timeout(shop.now);
        let answers = shop.outputs();
        assert_eq!(answers.len(), turn);
        answered.extend(answers.iter().map(|answer| answer.id));
    }
    assert_eq!(answered, requests.iter().map(|request| request.id).collect::<Vec<_>>());
}
