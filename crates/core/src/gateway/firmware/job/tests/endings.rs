//! The ends of a job: results, refusals, cancellation and time.

use super::*;

#[test]
fn every_result_of_the_device_has_its_name() {
    let errors = [
        (2, UpdateError::NoFlash),
        (3, UpdateError::NoMemory),
        (4, UpdateError::ConnectionLost),
        (5, UpdateError::Integrity),
        (6, UpdateError::UnsupportedPackage),
        (7, UpdateError::InvalidUri),
        (8, UpdateError::UpdateFailed),
        (9, UpdateError::UnsupportedProtocol),
    ];
    for (result, error) in errors {
        let mut play = Play::pulling(spec());
        play.notify("/5/0/5", result);
        play.expect_end(Failed, Some(error), None);
        assert_eq!(play.job.status().result.map(|result| i64::from(result.number())), Some(result));

        let mut updating = Play::updating(spec());
        updating.notify("/5/0/5", result);
        updating.expect_end(Failed, Some(error), None);
    }
    for (result, phase) in [(10, Cancelled), (11, Deferred)] {
        let mut play = Play::updating(spec());
        play.notify("/5/0/5", result);
        play.expect_end(phase, None, None);
    }
}

#[test]
fn a_result_that_the_device_has_not_cleared_is_not_that_of_this_update() {
    let mut play = Play::of(spec());
    play.prepare(0, 5);
    play.expect(JobRequest::WriteUri(path("/5/0/1"), uri()));
    play.answer(Code::CHANGED, &[], false);
    play.notify("/5/0/3", 1);
    play.notify("/5/0/5", 5);
    assert!(!play.job.is_over());
    // It fell back to idle: now it is.
    play.notify("/5/0/3", 0);
    play.expect(JobRequest::Read(path("/5/0")));
    play.expect_phases(&[Preparing, Downloading]);
    play.content(&object(0, 5));
    play.expect_end(Failed, Some(UpdateError::Integrity), None);
}

#[test]
fn a_device_that_claims_success_before_it_was_told_to_install_has_not_installed() {
    let mut play = Play::pulling(spec());
    play.notify("/5/0/5", 1);
    assert!(!play.job.is_over());
    play.notify("/5/0/3", 2);
    play.expect_phases(&[Downloaded]);
    play.expect(JobRequest::Execute(path("/5/0/2")));
    play.answer(Code::CHANGED, &[], false);
    play.expect_phases(&[Updating]);
    assert!(!play.job.is_over(), "the same result as before is none");
    play.notify("/5/0/3", 3);
    play.notify("/5/0/3", 0);
    play.expect(JobRequest::Read(path("/5/0")));
    play.content(&object(0, 1));
    play.expect_phases(&[Verifying, Succeeded]);
}

#[test]
fn a_device_that_says_it_has_the_image_after_a_push_and_has_not_stalls() {
    let mut play = Play::pushing(spec());
    play.answer(Code::CHANGED, &[], false);
    play.expect(JobRequest::Read(path("/5/0/3")));
    play.content(&[integer("/5/0/3", 0)]);
    play.expect_idle();
    play.advance(599);
    // That it has all bytes is the last progress.
    play.expect_phases(&[Downloading]);
    play.advance(1);
    play.expect_end(Failed, Some(UpdateError::Stalled), None);
}

#[test]
fn a_refused_request_is_explained_by_the_result_or_by_its_code() {
    let mut play = Play::prepared(spec());
    play.expect(JobRequest::WriteUri(path("/5/0/1"), uri()));
    play.answer(Code::BAD_REQUEST, &[], false);
    play.expect(JobRequest::Read(path("/5/0/5")));
    play.expect_phases(&[Downloading]);
    play.content(&[integer("/5/0/5", 7)]);
    play.expect_end(Failed, Some(UpdateError::InvalidUri), None);

    let mut push = Play::pushing(spec());
    push.answer(Code::REQUEST_ENTITY_TOO_LARGE, &[], false);
    push.expect(JobRequest::Read(path("/5/0/5")));
    push.content(&[integer("/5/0/5", 0)]);
    push.expect_end(Failed, Some(UpdateError::Rejected), Some(Code::REQUEST_ENTITY_TOO_LARGE));

    let mut execute = Play::downloaded(spec());
    execute.expect(JobRequest::Execute(path("/5/0/2")));
    execute.answer(Code::METHOD_NOT_ALLOWED, &[], false);
    execute.expect(JobRequest::Read(path("/5/0/5")));
    execute.answer(Code::NOT_FOUND, &[], false);
    execute.expect_end(Failed, Some(UpdateError::Rejected), Some(Code::METHOD_NOT_ALLOWED));
}

#[test]
fn a_device_without_the_instance_or_one_that_installs_already_is_refused() {
    let mut play = Play::of(spec());
    play.expect_phases(&[Preparing]);
    play.expect(JobRequest::Read(path("/5/0")));
    play.answer(Code::NOT_FOUND, &[], false);
    play.expect_end(Failed, Some(UpdateError::Rejected), Some(Code::NOT_FOUND));

    let mut busy = Play::of(spec());
    busy.expect_phases(&[Preparing]);
    busy.expect(JobRequest::Read(path("/5/0")));
    busy.content(&object(3, 0));
    busy.expect_end(Failed, Some(UpdateError::Rejected), Some(Code::CONFLICT));
}

#[test]
fn a_cancelled_download_is_dropped_by_the_device_in_one_of_three_ways() {
    let mut play = Play::pulling(spec());
    assert_eq!(play.job.cancel(), Ok(()));
    play.expect_end(Cancelled, None, None);
    play.expect(JobRequest::Execute(path("/5/0/10")));
    play.answer(Code::METHOD_NOT_ALLOWED, &[], false);
    play.expect(JobRequest::WriteUri(path("/5/0/1"), Secret::new("")));
    play.answer(Code::BAD_REQUEST, &[], false);
    play.expect(JobRequest::ClearPackage(path("/5/0/0")));
    play.answer(Code::BAD_REQUEST, &[], false);
    play.expect_idle();
    assert!(play.job.is_done());
}

#[test]
fn a_job_that_has_not_begun_to_download_is_cancelled_without_a_word_to_the_device() {
    let mut play = Play::of(spec());
    play.expect_phases(&[Preparing]);
    play.expect(JobRequest::Read(path("/5/0")));
    assert_eq!(play.job.cancel(), Ok(()));
    play.expect_end(Cancelled, None, None);
    play.expect_idle();
}

#[test]
fn a_push_is_cancelled_at_once() {
    let mut play = Play::pushing(spec());
    assert_eq!(play.job.cancel(), Ok(()));
    play.expect_end(Cancelled, None, None);
    // A device that does not answer is asked again when it has sent a message.
    for _ in 0..3 {
        play.expect(JobRequest::Execute(path("/5/0/10")));
        play.no_answer();
        play.expect_idle();
        play.job.heard();
    }
    play.expect_idle();
    assert!(play.job.is_done());
}

#[test]
fn an_update_that_runs_cannot_be_cancelled() {
    let mut play = Play::updating(spec());
    assert!(play.job.cancel().is_err());
    play.notify("/5/0/5", 1);
    play.expect_phases(&[Verifying, Succeeded]);
}

#[test]
fn an_update_command_without_an_answer_has_the_time_of_an_installation() {
    let mut play = Play::downloaded(spec());
    play.expect(JobRequest::Execute(path("/5/0/2")));
    play.no_answer();
    assert!(play.job.cancel().is_err());
    play.advance(1799);
    play.expect_phases(&[]);
    play.registers();
    play.expect(JobRequest::Read(path("/5/0")));
    play.content(&object(0, 1));
    play.expect_phases(&[Verifying, Succeeded]);

    let mut play = Play::downloaded(spec());
    play.expect(JobRequest::Execute(path("/5/0/2")));
    play.no_answer();
    play.advance(1800);
    play.expect_end(Failed, Some(UpdateError::Lost), None);
}

#[test]
fn a_device_that_falls_back_to_idle_with_an_old_result_is_asked_for_the_new_one() {
    let mut play = Play::of(spec());
    play.prepare(0, 1);
    play.expect(JobRequest::WriteUri(path("/5/0/1"), uri()));
    play.answer(Code::CHANGED, &[], false);
    play.notify("/5/0/3", 1);
    play.fetched(SIZE);
    play.notify("/5/0/3", 2);
    play.expect(JobRequest::Execute(path("/5/0/2")));
    play.answer(Code::CHANGED, &[], false);
    play.notify("/5/0/3", 3);
    play.notify("/5/0/3", 0);
    play.expect(JobRequest::Read(path("/5/0")));
    play.expect_phases(&[Preparing, Downloading, Downloaded, Updating]);
    play.content(&object(0, 8));
    play.expect_end(Failed, Some(UpdateError::UpdateFailed), None);
}

#[test]
fn an_update_without_a_result_is_lost_after_its_time_whatever_the_device_does() {
    let mut play = Play::updating(spec());
    play.job.set_awake(play.now, false);
    play.advance(1799);
    play.expect_phases(&[]);
    play.advance(1);
    play.expect_end(Failed, Some(UpdateError::Lost), None);
}

#[test]
fn a_job_stalls_when_nothing_has_moved_for_ten_minutes() {
    let mut play = Play::pulling(spec());
    play.advance(599);
    play.fetched(1024);
    play.advance(599);
    play.notify("/5/0/3", 0);
    play.job.take_events();
    play.expect(JobRequest::Read(path("/5/0")));
    play.content(&object(1, 0));
    play.observe(1, 0);
    play.advance(599);
    assert!(!play.job.is_over());
    play.advance(1);
    play.expect_end(Failed, Some(UpdateError::Stalled), None);
}

#[test]
fn time_in_which_the_device_sleeps_does_not_count() {
    let mut play = Play::pulling(spec());
    play.advance(300);
    for _ in 0..29 {
        play.job.set_awake(play.now, false);
        play.advance(24 * 3600);
        play.job.set_awake(play.now, true);
        play.advance(10);
    }
    assert!(!play.job.is_over());
    play.advance(10);
    play.expect_end(Failed, Some(UpdateError::Stalled), None);
}

#[test]
fn an_image_that_has_changed_ends_the_download_and_nothing_behind_it() {
    let mut play = Play::pulling(spec());
    play.job.lost_image();
    play.expect_end(Failed, Some(UpdateError::ImageChanged), None);

    let mut updating = Play::updating(spec());
    updating.job.lost_image();
    updating.expect_phases(&[]);
}

#[test]
fn a_device_that_changes_its_state_without_end_stalls() {
    let mut play = Play::of(spec());
    play.expect(JobRequest::Read(path("/5/0")));
    play.content(&object(2, 0));
    play.expect(JobRequest::WriteUri(path("/5/0/1"), Secret::new("")));
    play.answer(Code::CHANGED, &[], false);
    play.observe(2, 0);
    let mut changes = 0;
    while !play.job.is_over() && changes < 1000 {
        changes += 1;
        play.notify("/5/0/3", 1 + changes % 2);
        play.advance(300);
    }
    assert!((10..100).contains(&changes), "{changes}");
    assert_eq!(play.job.status().error, Some(UpdateError::Stalled));
}

#[test]
fn a_state_that_changes_while_bytes_move_is_no_stall() {
    let mut play = Play::pulling(spec());
    for bytes in 1..200 {
        play.advance(599);
        play.fetched(bytes);
    }
    assert!(!play.job.is_over());
}

#[test]
fn an_image_that_cannot_be_read_for_long_has_an_error_of_its_own() {
    let mut push = Play::pushing(spec());
    push.job.image_unreadable(push.now, &push.config);
    push.now += Duration::from_secs(599);
    push.job.image_unreadable(push.now, &push.config);
    assert!(!push.job.is_over());
    push.now += Duration::from_secs(1);
    push.job.image_unreadable(push.now, &push.config);
    push.expect_end(Failed, Some(UpdateError::ImageUnreadable), None);

    let mut pull = Play::pulling(spec());
    pull.advance(10);
    pull.job.image_unreadable(pull.now, &pull.config);
    pull.advance(590);
    pull.expect_end(Failed, Some(UpdateError::ImageUnreadable), None);

    let mut again = Play::pulling(spec());
    again.job.image_unreadable(again.now, &again.config);
    again.fetched(1024);
    again.advance(600);
    assert_eq!(again.job.status().error, Some(UpdateError::Stalled), "the disk worked since");
}
