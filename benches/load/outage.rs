//! `--outage SECONDS`: the exproto gateway of the broker is stopped under load and started again, as by
//! `emqx ctl gateway stop exproto`, while the server, the devices and the application stay.
//!
//! Every device is observed and tells its temperature once in a second. Every tenth sleeps up to then, with commands that
//! wait for it: it answers them while the broker is away.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rumqttc::Publish;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::broker::BenchBroker;
use crate::fleet::{self, Fleet};
use crate::server::BenchServer;
use crate::subscriber::Subscriber;
use crate::{HOUR, PATIENCE, settle, wait_until};

/// The interval at which each device notifies.
const NOTIFICATIONS: Duration = Duration::from_secs(1);
/// Commands that wait for each device that sleeps.
const WAITING: u64 = 2;
/// The load runs this long before the outage and this long after it.
const LOAD: Duration = Duration::from_secs(5);
/// Between two looks at the broker's clients.
const LOOK: Duration = Duration::from_millis(50);

pub async fn run(devices: u32, outage: Duration) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("lwm2m-gateway-load-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let mut broker = BenchBroker::start()?;
    let server = BenchServer::start_at(&broker, udp, &folder.join("store.redb")).await?;
    let mut subscriber = Subscriber::connect(broker.mqtt).await?;
    let fleet = Fleet::start(devices, HOUR, udp, true).await?;
    let counts = fleet.counts();
    let all = u64::from(devices);
    wait_until("every device is registered and observed", || {
        (counts.registered.get(), counts.observed.get()) == (all, all)
    })
    .await?;
    subscriber.record();
    fleet.notify_while_awake(NOTIFICATIONS);
    let sleepers: Vec<u32> = (0..devices).filter(|number| fleet::sleeps(*number)).collect();
    for number in &sleepers {
        for id in 0..WAITING {
            subscriber.command(&fleet::endpoint(*number), id, "read", "/3/0/0").await?;
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
    settle(&subscriber).await;

    let answered = answers(&mut subscriber, sleepers.len() as u64 * WAITING).await?;
    let heard = NotificationTally::of(&subscriber.take_recorded())?;
    let lost = counts.notified.get() - heard.notifications;
    let again = counts.registered.get() - all;
    println!(
        "  {} notifications in all: {lost} lost, {} twice, {} out of order",
        counts.notified.get(),
        heard.twice,
        heard.late
    );
    println!("  {answered} of {} commands answered; {again} devices registered again", sleepers.len() as u64 * WAITING);
    println!("  datagrams of the devices that the system did not take: {}", counts.unsent.get());
    drop(server);
    fs::remove_dir_all(folder).context("removing the store")?;
    ensure!((lost, heard.late, again) == (0, 0, 0), "something was lost");
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

/// Counts the notifications that reached the application. The value of each is its number at the device.
struct NotificationTally {
    notifications: u64,
    /// Notifications that arrived more than once.
    twice: u64,
    /// Notifications that arrived after a later one of the same device.
    late: u64,
}

impl NotificationTally {
    fn of(messages: &[Publish]) -> anyhow::Result<Self> {
        let mut numbers: HashMap<&str, (HashSet<u64>, u64)> = HashMap::new();
        let mut heard = Self { notifications: 0, twice: 0, late: 0 };
        for message in messages {
            let notification: Value = serde_json::from_slice(&message.payload)?;
            let value = notification["data"]["content"][0]["value"].as_f64().context("a value")?;
            let number = value as u64;
            let (known, highest) = numbers.entry(&message.topic).or_default();
            if !known.insert(number) {
                heard.twice += 1;
                continue;
            }
            heard.notifications += 1;
            heard.late += u64::from(number < *highest);
            *highest = number.max(*highest);
        }
        Ok(heard)
    }
}

/// Returns the number of different commands that were answered. It waits for all of them, within a limit.
async fn answers(subscriber: &mut Subscriber, expected: u64) -> anyhow::Result<u64> {
    let mut answered = HashSet::new();
    let all = async {
        while (answered.len() as u64) < expected {
            answered.insert(subscriber.next_answer().await?);
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, all).await.context("commands were lost")??;
    Ok(answered.len() as u64)
}
