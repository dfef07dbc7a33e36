//! `--restart`: the server is killed under load and started again, while the broker and the devices stay.
//!
//! Every device is observed. Nine of ten tell their temperature all the time, the tenth sleeps, and commands wait for
//! it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lwm2m_load::{Application, ApplicationConfig, Fleet, FleetConfig, Journal, sleeps};
use tokio::time::{sleep, timeout};

use crate::broker::BenchBroker;
use crate::server::BenchServer;
use crate::{Arguments, PATIENCE, wait_until};

/// Notifications in a second, of all devices together.
const RATE: u32 = 1_000;

/// Commands that wait for each device that sleeps.
const WAITING: u64 = 2;

/// The load runs this long before the server is killed.
const LOAD: Duration = Duration::from_secs(3);

pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let devices = u64::from(arguments.devices);
    let folder = std::env::temp_dir().join(format!("lwm2m-gateway-load-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let store = folder.join("store.redb");
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let broker = BenchBroker::start()?;
    let server = BenchServer::start_at(&broker, udp, &store).await?;
    let journal = Rc::new(RefCell::new(Journal::new(arguments.devices)));
    let mut application = Application::connect(ApplicationConfig::new(broker.mqtt), Rc::clone(&journal)).await?;

    let begin = Instant::now();
    let config = FleetConfig { sleepers: true, ..FleetConfig::new(udp, arguments.devices) };
    let fleet = Fleet::start(config, &journal).await?;
    let counts = fleet.counts();
    wait_until("every device is registered and observed", || {
        (counts.registered.get(), counts.observed.get()) == (devices, devices)
    })
    .await?;
    println!("{devices} devices registered and observed in {:.2} s", begin.elapsed().as_secs_f64());

    let interval = Duration::from_secs_f64(f64::from(arguments.devices) / f64::from(RATE));
    fleet.notify_while_awake(interval);
    let sleepers: Vec<u32> = (0..arguments.devices).filter(|number| sleeps(*number)).collect();
    for number in &sleepers {
        for id in 0..WAITING {
            application.command(*number, id, "read", "/3/0/0").await?;
        }
    }
    sleep(LOAD).await;
    server.kill()?;
    println!("killed; the store has {:.1} MiB", fs::metadata(&store)?.len() as f64 / 1024.0 / 1024.0);

    application.forget();
    let begin = Instant::now();
    let server = BenchServer::start_at(&broker, udp, &store).await?;
    println!("hears devices again after {:.2} s", begin.elapsed().as_secs_f64());
    let awake = arguments.devices as usize - sleepers.len();
    wait_until("every device that is awake is heard again", || application.notifying_devices() == awake)
        .await
        .with_context(|| format!("{} of {awake} devices that are awake are heard", application.notifying_devices()))?;
    println!("each of {awake} observations told something after {:.2} s", begin.elapsed().as_secs_f64());

    fleet.notify_every(Some(interval));
    let answers = answers(&mut application, sleepers.len()).await?;
    let in_order = answers.values().filter(|ids| ids.iter().copied().eq(0..WAITING)).count();
    println!("{in_order} of {} devices that slept answered their {WAITING} commands, in order", sleepers.len());
    wait_until("every device is heard again", || application.notifying_devices() == arguments.devices as usize).await?;
    let again = counts.registered.get() - devices;
    println!("{} of {devices} observations go on; {again} devices registered again", application.notifying_devices());
    println!("server: {:.1} KiB a device", server.memory()? as f64 / 1024.0 / f64::from(arguments.devices));
    ensure!(again == 0 && in_order == sleepers.len(), "something was lost");
    drop(server);
    fs::remove_dir_all(folder).context("removing the store")
}

/// By device, the ids of the commands that were answered, in the order of the answers.
async fn answers(application: &mut Application, devices: usize) -> anyhow::Result<HashMap<u32, Vec<u64>>> {
    let mut answers: HashMap<u32, Vec<u64>> = HashMap::new();
    let all = async {
        for _ in 0..devices as u64 * WAITING {
            let answer = application.next_answer().await?;
            ensure!(answer.code == "2.05", "a command was answered with {}", answer.code);
            answers.entry(answer.device).or_default().push(answer.id);
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, all).await.context("commands were lost")??;
    Ok(answers)
}
