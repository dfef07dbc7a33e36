//! A job that is interrupted: by loss, by a reboot, by sleep, by a restart of the gateway.

use super::*;

impl Play {
    /// The gateway is restarted: what the store has of the job goes on.
    fn restart(&mut self) {
        let record = serde_json::to_string(&(self.job.spec(), self.job.progress())).unwrap();
        let (spec, progress) = serde_json::from_str(&record).unwrap();
        self.job = Job::restored(self.now, spec, progress, self.job.update_ends());
        self.registers();
    }

    fn read_object(&mut self, state: i64, result: i64) {
        self.expect(JobRequest::Read(path("/5/0")));
        self.content(&object(state, result));
    }
}

#[test]
fn a_device_that_sleeps_is_waited_for() {
    let now = Instant::now();
    let mut job = Job::new(now, spec(), false);
    job.registered(now, None, true, false);
    let mut play = Play { job, now, config: FirmwareConfig::default() };
    play.expect_phases(&[Waiting]);
    play.now += Duration::from_secs(100_000);
    assert_eq!(play.job.next_deadline(&play.config), None);
    play.job.set_awake(play.now, true);
    play.job.heard();
    play.expect(JobRequest::Read(path("/5/0")));
    play.expect_phases(&[Preparing]);
}

#[test]
fn a_request_without_an_answer_makes_the_job_wait_for_the_device_and_read_again() {
    let mut play = Play::downloaded(spec());
    play.expect(JobRequest::Execute(path("/5/0/2")));
    play.no_answer();
    play.expect_idle();
    play.job.heard();
    // The device got it, and installs.
    play.read_object(3, 0);
    play.observe(3, 0);
    play.expect_phases(&[Updating]);
    play.notify("/5/0/5", 1);
    play.expect_phases(&[Verifying, Succeeded]);
}

#[test]
fn an_update_command_that_was_lost_is_given_again() {
    let mut play = Play::downloaded(spec());
    play.expect(JobRequest::Execute(path("/5/0/2")));
    play.no_answer();
    play.job.heard();
    play.read_object(2, 0);
    play.observe(2, 0);
    play.expect(JobRequest::Execute(path("/5/0/2")));
}

#[test]
fn a_push_that_timed_out_starts_over_after_the_next_message_for_so_many_attempts() {
    let mut play = Play::pushing(spec());
    for attempt in 2..=3 {
        play.no_answer();
        play.expect_idle();
        play.job.heard();
        play.read_object(1, 0);
        play.expect(JobRequest::WriteUri(path("/5/0/1"), Secret::new("")));
        play.answer(Code::CHANGED, &[], false);
        play.observe(0, 0);
        play.expect(JobRequest::Push(path("/5/0/0"), PushFormat::Opaque));
        play.expect_phases(&[Waiting, Preparing, Downloading]);
        assert_eq!(play.job.status().attempt, attempt);
    }
    play.no_answer();
    play.expect_end(Failed, Some(UpdateError::Stalled), None);
}

#[test]
fn a_push_whose_blocks_the_device_has_lost_starts_over_at_once() {
    for broken in [true, false] {
        let mut play = Play::pushing(spec());
        if broken {
            play.job.answered(play.now, Answer::Broken, &play.config);
        } else {
            play.answer(Code::REQUEST_ENTITY_INCOMPLETE, &[], false);
        }
        play.read_object(0, 0);
        play.observe(0, 0);
        play.expect(JobRequest::Push(path("/5/0/0"), PushFormat::Opaque));
        assert_eq!(play.job.status().attempt, 2);
    }
}

#[test]
fn a_push_that_the_device_could_not_take_fails_by_the_result_that_tells_why() {
    for answer in [Answer::Broken, incomplete()] {
        for state in [0, 1] {
            let mut play = Play::pushing(JobSpec { attempts: 1, ..spec() });
            play.job.answered(play.now, answer, &play.config);
            play.expect_phases(&[]);
            play.read_object(state, 2);
            play.expect_end(Failed, Some(UpdateError::NoFlash), None);
        }
        let mut without_reason = Play::pushing(JobSpec { attempts: 1, ..spec() });
        without_reason.job.answered(without_reason.now, answer, &without_reason.config);
        without_reason.read_object(0, 0);
        without_reason.expect_end(Failed, Some(UpdateError::Stalled), None);
    }
}

#[test]
fn a_push_that_timed_out_fails_by_the_result_that_was_notified_before() {
    let mut play = Play::pushing(spec());
    play.notify("/5/0/5", 3);
    play.no_answer();
    play.expect_end(Failed, Some(UpdateError::NoMemory), None);
}

fn incomplete() -> Answer<'static> {
    Answer::Response { code: Code::REQUEST_ENTITY_INCOMPLETE, entries: &[], observing: false }
}

#[test]
fn a_pull_in_any_order_does_not_stall_as_long_as_blocks_are_new() {
    let mut play = Play::pulling(spec());
    for _ in 0..10 {
        play.advance(599);
        play.fetched_behind_a_gap(true);
    }
    play.advance(599);
    play.fetched_behind_a_gap(false);
    assert!(!play.job.is_over());
    play.advance(1);
    play.expect_end(Failed, Some(UpdateError::Stalled), None);
}

#[test]
fn a_pull_goes_on_by_itself_after_a_register_while_the_state_is_downloading() {
    let mut play = Play::pulling(spec());
    play.fetched(1024);
    play.registers();
    play.read_object(1, 0);
    play.observe(1, 0);
    play.expect_idle();
    play.fetched(2048);
    play.fetched(SIZE);
    play.notify("/5/0/3", 2);
    play.expect_phases(&[Downloaded]);
    assert_eq!(play.job.status().attempt, 1);
}

#[test]
fn a_pull_that_the_device_has_forgotten_in_a_reboot_starts_over() {
    let mut play = Play::pulling(spec());
    play.fetched(1024);
    play.registers();
    play.read_object(0, 0);
    play.observe(0, 0);
    play.expect(JobRequest::WriteUri(path("/5/0/1"), uri()));
    play.expect_phases(&[Preparing, Downloading]);
    assert_eq!((play.job.status().attempt, play.job.status().bytes), (2, Some(0)));
}

#[test]
fn a_push_starts_over_after_a_register() {
    let mut play = Play::pushing(spec());
    play.registers();
    play.read_object(1, 0);
    play.expect(JobRequest::WriteUri(path("/5/0/1"), Secret::new("")));
    assert_eq!(play.job.status().attempt, 2);
}

#[test]
fn a_device_that_reboots_to_install_tells_its_result_after_its_register() {
    for (result, phases) in [(1, &[Verifying, Succeeded][..]), (8, &[Failed])] {
        let mut play = Play::updating(spec());
        play.job.left(play.now);
        play.expect_idle();
        play.registers();
        play.read_object(0, result);
        play.expect_phases(phases);
    }
}

#[test]
fn a_device_that_has_rebooted_without_a_result_is_watched_until_it_tells_one() {
    let mut play = Play::updating(spec());
    play.registers();
    play.read_object(0, 0);
    play.observe(0, 0);
    play.expect_idle();
    play.notify("/5/0/5", 1);
    play.expect_phases(&[Verifying, Succeeded]);
}

#[test]
fn every_phase_goes_on_after_a_restart_of_the_gateway() {
    let mut pull = Play::pulling(spec());
    pull.fetched(1024);
    pull.restart();
    pull.read_object(1, 0);
    pull.observe(1, 0);
    pull.fetched(SIZE);
    pull.notify("/5/0/3", 2);
    pull.expect_phases(&[Downloaded]);
    pull.restart();
    pull.read_object(2, 0);
    pull.observe(2, 0);
    pull.expect(JobRequest::Execute(path("/5/0/2")));
    pull.answer(Code::CHANGED, &[], false);
    pull.expect_phases(&[Updating]);
    pull.restart();
    pull.read_object(3, 0);
    pull.observe(3, 0);
    pull.expect_phases(&[]);
    pull.restart();
    pull.read_object(0, 1);
    pull.expect_phases(&[Verifying, Succeeded]);
    pull.restart();
    pull.expect_idle();
    assert_eq!(pull.job.status().phase, Succeeded);
}

#[test]
fn a_download_that_ended_while_the_gateway_was_down_is_taken() {
    for mut play in [Play::pulling(spec()), Play::pushing(spec())] {
        play.restart();
        play.read_object(2, 0);
        play.observe(2, 0);
        play.expect_phases(&[Downloaded]);
        play.expect(JobRequest::Execute(path("/5/0/2")));
    }
}

#[test]
fn a_push_that_a_restart_has_cut_starts_over_without_an_attempt() {
    let mut play = Play::pushing(JobSpec { attempts: 1, ..spec() });
    play.restart();
    play.read_object(1, 0);
    play.expect(JobRequest::WriteUri(path("/5/0/1"), Secret::new("")));
    play.answer(Code::CHANGED, &[], false);
    play.observe(0, 0);
    play.expect(JobRequest::Push(path("/5/0/0"), PushFormat::Opaque));
    assert_eq!(play.job.status().attempt, 1);
}

#[test]
fn the_time_for_an_update_goes_on_over_a_restart() {
    let mut play = Play::updating(spec());
    play.advance(1700);
    play.restart();
    play.read_object(3, 0);
    play.observe(3, 0);
    play.advance(99);
    assert!(!play.job.is_over());
    play.advance(1);
    play.expect_end(Failed, Some(UpdateError::Lost), None);
}

#[test]
fn a_notification_of_the_end_of_a_pull_that_is_lost_is_asked_for() {
    let mut play = Play::pulling(spec());
    play.fetched(SIZE);
    play.wait(30);
    play.expect(JobRequest::Read(path("/5/0/3")));
    play.content(&[integer("/5/0/3", 2)]);
    play.expect(JobRequest::Execute(path("/5/0/2")));
}

#[test]
fn an_observation_that_the_device_ends_is_replaced_by_reading() {
    let mut play = Play::pulling(spec());
    play.job.observation_ended(play.now, path("/5/0/3"), &play.config);
    play.wait(30);
    play.expect(JobRequest::Read(path("/5/0/3")));
    play.content(&[integer("/5/0/3", 2)]);
    play.expect_phases(&[Downloaded]);
}

#[test]
fn no_debug_output_of_a_job_shows_the_secret_of_its_uri() {
    let play = Play::pulling(spec());
    let shown = format!("{:?}", play.job);
    assert!(!shown.contains(spec().key.reveal()) && !shown.contains("/fw/"), "{shown}");
}
