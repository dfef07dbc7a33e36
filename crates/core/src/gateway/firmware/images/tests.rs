use super::*;
use crate::gateway::firmware::image::{FileIdentity, ImageDigest};

/// Parts of the image of these tests.
const PARTS: u64 = 400;

fn image(inode: u64) -> Image {
    let file = FileIdentity { inode, modified: (0, 0), changed: (0, 0) };
    Image { size: PARTS * READ_LENGTH as u64 - 100, sha256: ImageDigest::new([7; 32]), file }
}

fn wanted(offset: u64, length: usize) -> Wanted {
    Wanted { name: "a.bin".parse().unwrap(), image: image(1), offset, length }
}

fn part(number: u64) -> Wanted {
    wanted(number * READ_LENGTH as u64, 16)
}

fn push(exchange: u64) -> ImageConsumer {
    ImageConsumer::Push(PendingPart { exchange: ExchangeId(exchange), offset: 0 })
}

/// Returns the id of a read, its offset and its length.
fn asked(output: Option<Output>) -> (ImageRequestId, u64, usize) {
    match output {
        Some(Output::ReadImage { request, offset, length, .. }) => (request, offset, length),
        other => panic!("expected a read, not {other:?}"),
    }
}

/// Returns the bytes of a part: each tells its place.
fn bytes(offset: u64, length: usize) -> Vec<u8> {
    (offset..offset + length as u64).map(|at| (at % 251) as u8).collect()
}

#[test]
fn a_part_is_read_once_for_all_who_wait_and_is_there_for_those_who_come_later() {
    let mut images = Images::default();
    let begin = READ_LENGTH as u64;
    let (later, output) = images.read(push(1), wanted(begin + 1024, 1024), 10);
    let (request, offset, length) = asked(output);
    assert_eq!((later, offset, length), (ImageBytes::Later, begin, READ_LENGTH));
    assert_eq!(images.read(push(2), wanted(begin, 64), 10), (ImageBytes::Later, None));

    let (answers, next) = images.have_read(request, Ok(bytes(begin, READ_LENGTH)));
    let expected = [(push(1), Ok(bytes(begin + 1024, 1024))), (push(2), Ok(bytes(begin, 64)))];
    assert_eq!((answers.as_slice(), next), (expected.as_slice(), None));
    assert_eq!(images.read(push(3), wanted(begin + 16, 16), 10), (ImageBytes::Here(bytes(begin + 16, 16)), None));
    assert_eq!(images.open_requests(), 0);
    assert_eq!(images.have_read(request, Ok(Vec::new())), (Vec::new(), None), "a second answer");
}

#[test]
fn bytes_end_at_the_end_of_the_image_and_of_a_part() {
    let mut images = Images::default();
    let size = image(1).size;
    let (_, output) = images.read(push(1), wanted(size - 10, 1024), 10);
    let (request, offset, length) = asked(output);
    assert_eq!((offset, length), ((PARTS - 1) * READ_LENGTH as u64, READ_LENGTH - 100));
    let (answers, _) = images.have_read(request, Ok(bytes(offset, length)));
    assert_eq!(answers, [(push(1), Ok(bytes(size - 10, 10)))]);

    let (_, output) = images.read(push(2), wanted(READ_LENGTH as u64 - 8, 1024), 10);
    let (request, ..) = asked(output);
    let (answers, _) = images.have_read(request, Ok(bytes(0, READ_LENGTH)));
    assert_eq!(answers, [(push(2), Ok(bytes(READ_LENGTH as u64 - 8, 8)))]);
}

#[test]
fn the_shell_reads_a_limited_number_of_parts_at_once_and_the_others_in_turn() {
    let mut images = Images::default();
    let outputs: Vec<_> = (0..MOST_READS as u64 + 2).map(|n| images.read(push(n), part(n), 1000).1).collect();
    let (first, ..) = asked(outputs[0].clone());
    assert_eq!(outputs.iter().filter(|output| output.is_some()).count(), MOST_READS);
    let (answers, next) = images.have_read(first, Ok(bytes(0, READ_LENGTH)));
    assert_eq!(answers.len(), 1);
    assert_eq!(asked(next).1, (MOST_READS * READ_LENGTH) as u64);
}

#[test]
fn readers_beyond_the_bound_do_not_wait() {
    let mut images = Images::default();
    images.read(push(1), part(1), 2);
    images.read(push(2), part(1), 2);
    assert_eq!(images.read(push(3), part(1), 2), (ImageBytes::Busy, None));
    assert_eq!(images.open_requests(), 2);
}

#[test]
fn after_an_error_all_who_wait_get_it_and_nothing_of_the_image_is_kept() {
    let mut images = Images::default();
    let (first, ..) = asked(images.read(push(1), part(0), 10).1);
    images.have_read(first, Ok(bytes(0, READ_LENGTH)));
    let (second, ..) = asked(images.read(push(1), part(1), 10).1);
    images.read(push(2), part(1), 10);
    let (answers, _) = images.have_read(second, Err(ImageError::Changed));
    assert_eq!(answers, [(push(1), Err(ImageError::Changed)), (push(2), Err(ImageError::Changed))]);
    let (third, ..) = asked(images.read(push(1), part(0), 10).1);
    let (answers, _) = images.have_read(third, Ok(vec![0; 5]));
    assert_eq!(answers, [(push(1), Err(ImageError::Changed))], "a part of another length");
}

#[test]
fn the_cache_has_a_bound_and_keeps_what_is_used() {
    let mut images = Images::default();
    for number in 0..PARTS - 1 {
        if number > 0 {
            let (first, _) = images.read(push(1), part(0), 10);
            assert_eq!(first, ImageBytes::Here(bytes(0, 16)), "{number}");
        }
        let (request, offset, length) = asked(images.read(push(1), part(number), 10).1);
        images.have_read(request, Ok(bytes(offset, length)));
    }
    assert_eq!(images.read(push(1), part(1), 10).0, ImageBytes::Later);
}

#[test]
fn descriptions_have_a_bound() {
    let mut images = Images::default();
    let name: ImageName = "a.bin".parse().unwrap();
    let ids: Vec<_> = (0..MOST_DESCRIPTIONS).map(|_| images.describe(name.clone()).unwrap().0).collect();
    assert_eq!(images.describe(name.clone()), None);
    assert!(images.described(ids[0]) && !images.described(ids[0]));
    assert!(images.describe(name).is_some());
}
