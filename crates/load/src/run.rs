//! The course of a run: register, observe, notify and read, and take the account.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use tokio::time::{MissedTickBehavior, interval, interval_at, sleep};

use crate::application::{Application, ApplicationConfig};
use crate::fleet::Fleet;
use crate::fleet_config::{FleetConfig, NOTIFIED_PATH};
use crate::journal::{Journal, Latencies};
use crate::report::{DownloadReport, LatencyReport, NotificationReport, ReadReport, RegistrationReport, RunReport};

/// A step of the preparation fails when nothing has moved for this time.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);

/// The time after which a read has no answer any more.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Silence after the last arrival, after which missing notifications count as lost.
const SETTLING: Duration = Duration::from_secs(2);

/// Observe commands on their way at once.
const COMMANDS_AT_ONCE: u64 = 64;

/// The interval at which the counts are checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// The interval between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(1);

/// The load of the devices and the application once all devices are registered.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Notifications a second, of all devices together.
    pub rate: f64,
    /// Reads a second, spread over all devices.
    pub reads: f64,
    /// Updates a second, of all devices together.
    pub updates: f64,
    /// The firmware image that all devices fetch from the gateway.
    pub image: Option<String>,
    pub time: Duration,
    /// Whether the gateway observes [`NOTIFIED_PATH`] by itself, so that no observe command is sent.
    pub auto_observed: bool,
    /// Whether the devices are left registered at the end.
    pub stay: bool,
}

/// Registers the devices, observes them, lets them notify and reads them for the time of the run or until Ctrl-C, and
/// takes the account. `progress` gets a line about each second. It needs a `LocalSet`.
///
/// # Errors
///
/// The broker is not there or goes away, or for a minute no further device is registered, observed or de-registered.
pub async fn run(
    config: RunConfig,
    fleet: FleetConfig,
    application: ApplicationConfig,
    progress: impl Fn(&str),
) -> anyhow::Result<RunReport> {
    let devices = fleet.devices;
    let fleet = FleetConfig { pulls: fleet.pulls || config.image.is_some(), ..fleet };
    let journal = Rc::new(RefCell::new(Journal::new(fleet.devices)));
    let application = Application::connect(application, Rc::clone(&journal)).await?;
    let begin = Instant::now();
    let fleet = Fleet::start(fleet, &journal).await?;
    let mut run = Run { config, devices, fleet, application, journal, reads: Reads::default(), progress: &progress };
    run.until_all("registered", |run| run.fleet.counts().registered.get()).await?;
    let registered = begin.elapsed();
    if run.config.rate > 0.0 {
        run.observe().await?;
    }
    run.pull().await?;
    let notifying = run.load().await?;
    run.settle().await?;
    if !run.config.stay {
        run.fleet.stop();
        run.until_all("de-registered", |run| run.fleet.counts().stopped.get()).await?;
    }
    Ok(run.report(registered, notifying))
}

struct Run<'a> {
    config: RunConfig,
    devices: u32,
    fleet: Fleet,
    application: Application,
    journal: Rc<RefCell<Journal>>,
    reads: Reads,
    progress: &'a dyn Fn(&str),
}

/// The reads of a run, whose ids begin after those of the observe commands.
#[derive(Default)]
struct Reads {
    sent: u64,
    under_way: HashMap<u64, Instant>,
    unanswered: u64,
    answers: BTreeMap<String, u64>,
    latencies: Latencies,
}

impl Run<'_> {
    /// Waits until a count has reached the number of devices, with progress.
    async fn until_all(&self, what: &str, count: impl Fn(&Self) -> u64) -> anyhow::Result<()> {
        let all = u64::from(self.devices);
        let (mut last, mut moved, mut printed) = (count(self), Instant::now(), Instant::now());
        while last < all {
            sleep(CHECK_INTERVAL).await;
            self.check_broker()?;
            let current = count(self);
            if current != last {
                (last, moved) = (current, Instant::now());
            }
            if moved.elapsed() > PROGRESS_TIMEOUT {
                let refused = self.fleet.counts().refused.borrow();
                bail!(
                    "{last} of {all} devices are {what}, and none more for {PROGRESS_TIMEOUT:?}; refused: {refused:?}"
                );
            }
            if printed.elapsed() >= PROGRESS {
                printed = Instant::now();
                (self.progress)(&format!("{last} of {all} devices are {what}"));
            }
        }
        Ok(())
    }

    /// Observes every device, unless the gateway does so by itself.
    async fn observe(&self) -> anyhow::Result<()> {
        if !self.config.auto_observed {
            let observing = async {
                for device in 0..self.devices {
                    self.application.command(device, u64::from(device), "observe", NOTIFIED_PATH).await?;
                    while self.fleet.counts().observed.get() + COMMANDS_AT_ONCE <= u64::from(device) {
                        sleep(CHECK_INTERVAL).await;
                    }
                }
                anyhow::Ok(())
            };
            let observed = self.until_all("observed", |run| run.fleet.counts().observed.get());
            let mut observing = pin!(observing);
            tokio::select! {
                biased;
                failed = &mut observing => failed?,
                stuck = observed => return stuck,
            }
        }
        self.until_all("observed", |run| run.fleet.counts().observed.get()).await
    }

    /// Lets every device fetch the image, if there is to be one.
    async fn pull(&self) -> anyhow::Result<()> {
        let Some(image) = &self.config.image else { return Ok(()) };
        for device in 0..self.devices {
            self.application.pull(device, u64::from(device), image).await?;
        }
        Ok(())
    }

    /// Notifies and reads for the time of the run, or until Ctrl-C. Returns how long that was.
    async fn load(&mut self) -> anyhow::Result<Duration> {
        while self.application.try_next_answer().is_some() {}
        let RunConfig { rate, reads, updates, time, .. } = self.config;
        let each = |rate: f64, count: f64| (rate > 0.0).then(|| Duration::from_secs_f64(count / rate));
        self.fleet.update_every(each(updates, f64::from(self.devices)));
        self.fleet.notify_every(each(rate, f64::from(self.devices)));
        let begin = Instant::now();
        let mut progress = interval_at((begin + PROGRESS).into(), PROGRESS);
        let mut look = interval(CHECK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut interrupted = pin!(tokio::signal::ctrl_c());
        while begin.elapsed() < time {
            tokio::select! {
                _ = progress.tick() => self.show_load(begin.elapsed()),
                _ = look.tick() => {
                    self.check_broker()?;
                    self.read_until((begin.elapsed().as_secs_f64() * reads) as u64).await?;
                }
                _ = &mut interrupted => break,
            }
        }
        self.fleet.notify_every(None);
        self.fleet.update_every(None);
        Ok(begin.elapsed())
    }

    /// Takes the answers that are there, and sends reads until so many are sent.
    async fn read_until(&mut self, wanted: u64) -> anyhow::Result<()> {
        while let Some(answer) = self.application.try_next_answer() {
            if let Some(sent) = self.reads.under_way.remove(&answer.id) {
                self.reads.latencies.record(answer.received.saturating_duration_since(sent));
                *self.reads.answers.entry(answer.code).or_default() += 1;
            }
        }
        let before = self.reads.under_way.len();
        self.reads.under_way.retain(|_, sent| sent.elapsed() < ANSWER_TIMEOUT);
        self.reads.unanswered += (before - self.reads.under_way.len()) as u64;
        let devices = u64::from(self.devices);
        while self.reads.sent < wanted {
            let device = u32::try_from(self.reads.sent % devices).expect("less than the number of devices");
            let id = devices + self.reads.sent;
            self.reads.under_way.insert(id, Instant::now());
            self.reads.sent += 1;
            self.application.command(device, id, "read", "/3/0/0").await?;
        }
        Ok(())
    }

    /// Waits until nothing arrives any more.
    async fn settle(&mut self) -> anyhow::Result<()> {
        let outstanding = |run: &Self| (run.journal.borrow().totals().missing(), run.reads.under_way.len());
        let (mut before, mut moved) = (outstanding(self), Instant::now());
        while before != (0, 0) && moved.elapsed() < SETTLING {
            sleep(CHECK_INTERVAL).await;
            self.check_broker()?;
            self.read_until(self.reads.sent).await?;
            let now = outstanding(self);
            if now != before {
                (before, moved) = (now, Instant::now());
            }
        }
        self.reads.unanswered += self.reads.under_way.len() as u64;
        Ok(())
    }

    fn check_broker(&self) -> anyhow::Result<()> {
        let ended = self.application.ended();
        ensure!(ended.is_none(), "the connection to the broker has ended: {}", ended.unwrap_or_default());
        Ok(())
    }

    fn show_load(&self, elapsed: Duration) {
        let recent = self.journal.borrow_mut().take_recent();
        let totals = self.journal.borrow().totals();
        (self.progress)(&format!(
            "{:>4.0} s: {} sent, {} received, {} under way; in the last second {} received, p50 {:.1?}, p99 {:.1?}; {} \
             reads answered, {} images fetched",
            elapsed.as_secs_f64(),
            totals.sent,
            totals.received,
            totals.missing(),
            recent.count(),
            recent.percentile(50.0),
            recent.percentile(99.0),
            self.reads.latencies.count(),
            self.fleet.counts().downloaded.get(),
        ));
    }

    fn report(&self, registered: Duration, notifying: Duration) -> RunReport {
        let counts = self.fleet.counts();
        let journal = self.journal.borrow();
        RunReport {
            devices: self.devices,
            registration: RegistrationReport {
                registered: counts.registered.get(),
                seconds: registered.as_secs_f64(),
                refused: counts.refused.borrow().clone(),
                latency: LatencyReport::from(&*counts.registrations.borrow()),
            },
            notifications: NotificationReport::new(
                self.config.rate,
                notifying.as_secs_f64(),
                journal.totals(),
                counts.delayed.get(),
                journal.latencies(),
            ),
            reads: ReadReport {
                sent: self.reads.sent,
                answers: self.reads.answers.clone(),
                unanswered: self.reads.unanswered,
                latency: LatencyReport::from(&self.reads.latencies),
            },
            updates: counts.updated.get(),
            update_latency: LatencyReport::from(&*counts.updates.borrow()),
            downloads: self
                .config
                .image
                .is_some()
                .then(|| DownloadReport { completed: counts.downloaded.get(), failed: counts.failed_downloads.get() }),
            unsent_datagrams: counts.unsent.get(),
        }
    }
}
