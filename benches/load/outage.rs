//! `--outage SECONDS`: the exproto gateway of the broker is stopped under load and started again, as by
//! `emqx ctl gateway stop exproto`, while the server, the devices and the application stay.
//!
//! Every device is observed and tells its temperature once in a second. Every tenth sleeps up to then, with commands
//! that wait for it: it answers them while the broker is away.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lwm2m_load::{Application, ApplicationConfig, Fleet, FleetConfig, Journal, sleeps};
use tokio::time::{sleep, timeout};

use crate::broker::BenchBroker;
use crate::server::BenchServer;
use crate::{PATIENCE, settle, wait_until};

/// The interval at which each device notifies.
const NOTIFICATIONS: Duration = Duration::from_secs(1);
/// Commands that wait for each device that sleeps.
const WAITING: u64 = 2;
/// The load runs this long before the outage and this long after it.
const LOAD: Duration = Duration::from_secs(5);
/// Between two looks at the broker's clients.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) async fn run(devices: u32, outage: Duration) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("lwm2m-gateway-load-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let mut broker = BenchBroker::start()?;
    let server = BenchServer::start_at(&broker, udp, &folder.join("store.redb")).await?;
    let journal = Rc::new(RefCell::new(Journal::new(devices)));
    let mut application = Application::connect(ApplicationConfig::new(broker.mqtt), Rc::clone(&journal)).await?;
    let config = FleetConfig { sleepers: true, ..FleetConfig::new(udp, devices) };
    let fleet = Fleet::start(config, &journal).await?;
    let counts = fleet.counts();
    let all = u64::from(devices);
    wait_until("every device is registered and observed", || {
        (counts.registered.get(), counts.observed.get()) == (all, all)
    })
    .await?;
    fleet.notify_while_awake(NOTIFICATIONS);
    let sleepers: Vec<u32> = (0..devices).filter(|number| sleeps(*number)).collect();
    for number in &sleepers {
        for id in 0..WAITING {
            application.command(*number, id, "read", "/3/0/0").await?;
        }
    }
    sleep(LOAD).await;

    broker.stop_gateway()?;
    let (before, memory) = (counts.notified.get(), server.memory()?);
    fleet.notify_every(Some(NOTIFICATIONS));
    sleep(outage).await;
    let (told, grown) = (counts.notified.get() - before, server.memory()?.saturating_sub(memory));
    println!("{devices} devices; the broker was away for {} s", outage.as_secs());
    println!("  {told} notifications meanwhile; the server grew by {:.1} MiB", grown as f64 / 1024.0 / 1024.0);
    broker.start_gateway()?;
    come_back(&mut broker, devices as usize).await?;
    sleep(LOAD).await;
    fleet.notify_every(None);
    settle(&application).await;

    let answered = answers(&mut application, sleepers.len() as u64 * WAITING).await?;
    let heard = journal.borrow().totals();
    let lost = heard.missing();
    let again = counts.registered.get() - all;
    println!(
        "  {} notifications in all: {lost} lost, {} twice, {} out of order",
        heard.sent, heard.twice, heard.out_of_order
    );
    println!("  {answered} of {} commands answered; {again} devices registered again", sleepers.len() as u64 * WAITING);
    println!("  datagrams of the devices that the system did not take: {}", counts.unsent.get());
    drop(server);
    fs::remove_dir_all(folder).context("removing the store")?;
    ensure!((lost, heard.out_of_order, again) == (0, 0, 0), "something was lost");
    Ok(())
}

/// Prints when all devices are clients again, and how many of them came in the fullest second.
async fn come_back(broker: &mut BenchBroker, devices: usize) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut seen: Vec<(Duration, usize)> = Vec::new();
    while seen.last().is_none_or(|(_, clients)| *clients < devices) {
        ensure!(begin.elapsed() < PATIENCE, "some devices do not come back: {:?}", seen.last());
        sleep(LOOK).await;
        seen.push((begin.elapsed(), broker.clients()?));
    }
    let arrivals = |(at, clients): &(Duration, usize)| {
        let earlier = seen.iter().take_while(|(earlier, _)| *earlier + Duration::from_secs(1) <= *at).last();
        clients - earlier.map_or(0, |(_, clients)| *clients)
    };
    let most = seen.iter().map(arrivals).max().unwrap_or_default();
    let first = seen.iter().find(|(_, clients)| *clients > 0).map_or(Duration::ZERO, |(at, _)| *at);
    println!(
        "  the first is a client again after {:.2} s, the last after {:.2} s; in the fullest second {most} come",
        first.as_secs_f64(),
        begin.elapsed().as_secs_f64(),
    );
    Ok(())
}

/// Returns the number of different commands that were answered. It waits for all of them, within a limit.
async fn answers(application: &mut Application, expected: u64) -> anyhow::Result<u64> {
    let mut answered = HashSet::new();
    let all = async {
        while (answered.len() as u64) < expected {
            let answer = application.next_answer().await?;
            if answer.code == "2.05" {
                answered.insert((answer.device, answer.id));
            }
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, all).await.context("commands were lost")??;
    Ok(answered.len() as u64)
}
