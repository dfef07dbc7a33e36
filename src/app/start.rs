//! Builds the program from its configuration, step by step.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
#[cfg(feature = "embedded")]
use lwm2m_broker::EmbeddedBroker;
#[cfg(not(feature = "embedded"))]
use std::convert::Infallible as EmbeddedBroker;
use tokio::net::TcpListener;

use crate::admin::{self, AdminSources};
use crate::clock::unix_time;
use crate::conditions::ConditionState;
use crate::config::Config;
#[cfg(feature = "console")]
use crate::console::{Console, ConsoleSources};
use crate::reload::{ReloadableAccounts, ReloadableDefinitions, ReloadableSettings, Reloading};
use crate::transport::{Security, UdpListener};
#[cfg(any(feature = "console", feature = "embedded"))]
use crate::upstream;

use super::drivers::{DriverParts, driver_parts, start_drivers};
use super::dtls::DtlsSetup;
use super::prepared::{Prepared, PreparedAccounts, prepare};
use super::{App, BoundAddresses};

/// Builds the program and starts it. With `embedded` the broker runs in this process.
pub(crate) async fn start(config: Config, embedded: bool) -> anyhow::Result<App> {
    let unix_time = unix_time()?;
    let prepared = prepare(&config, embedded)?;
    let (config, broker) = begin_broker(config, embedded).await?;
    let parts = driver_parts(&config, embedded, unix_time, &prepared).await?;
    let listeners = listen(&config, embedded, &prepared, &parts).await?;
    let addresses = bound_addresses(&config, &prepared, &parts.addresses, &listeners, broker.as_ref())?;
    let control = parts.control.clone();
    let (drivers, member) = start_drivers(&config, &prepared, parts)?;
    let member = member.map(|member| (member, config.shutdown_timeout / 2));
    let metrics = Arc::clone(prepared.metrics());
    let Prepared { read_at, conditions, secured, room, reloads, announced, accounts, .. } = prepared;
    let serving = conditions.add("serving");
    serving.set(ConditionState::Up, "devices are served");
    let settings = ReloadableSettings::new(&config, room);
    let accounts = accounts.map(|PreparedAccounts { loaded, condition }| {
        ReloadableAccounts::new(&config.bootstrap, loaded.as_ref(), announced.subscribe(), condition)
    });
    let definitions = ReloadableDefinitions::new(reloads, Arc::clone(&metrics), announced);
    let credentials = secured.and_then(|secured| secured.reloadable(&read_at));
    let reloading = Reloading::new(config, settings, definitions, (credentials, accounts), control, (read_at, metrics));
    let Listeners { admin, sources, .. } = listeners;
    Ok(App {
        addresses,
        drivers,
        member,
        serving,
        admin: admin.map(|listener| tokio::spawn(admin::serve(listener, sources))),
        #[cfg(feature = "console")]
        console: listeners.console.map(Console::start).transpose().context("the thread of the console")?,
        reloading: Some(reloading),
        #[cfg(feature = "embedded")]
        broker,
        #[cfg(feature = "embedded")]
        simulated: None,
    })
}

/// The listeners of admin and console, which serve nothing yet.
struct Listeners {
    admin: Option<TcpListener>,
    sources: AdminSources,
    #[cfg(feature = "console")]
    console: Option<Console>,
}

/// Starts the embedded broker, if there is to be one, and points the configuration at it.
#[cfg(feature = "embedded")]
async fn begin_broker(mut config: Config, embedded: bool) -> anyhow::Result<(Config, Option<EmbeddedBroker>)> {
    if !embedded {
        return Ok((config, None));
    }
    if let upstream::UpstreamConfig::ExProto(exproto) = &mut config.upstream
        && exproto.handler_bind.port() == 0
    {
        exproto.handler_bind = free_address(exproto.handler_bind)?;
        config.embedded.handler = format!("http://{}", exproto.handler_bind);
    }
    if let upstream::UpstreamConfig::Mqtt(_) = config.upstream {
        config.embedded.devices = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    }
    let broker = EmbeddedBroker::start(config.embedded.clone()).await.context("the embedded broker")?;
    let addresses = broker.addresses();
    match &mut config.upstream {
        upstream::UpstreamConfig::ExProto(exproto) => {
            let adapter = format!("http://{}", addresses.adapter);
            exproto.nodes = vec![upstream::exproto::Node { listeners: vec![addresses.listener.to_string()], adapter }];
        }
        upstream::UpstreamConfig::Mqtt(mqtt) => {
            mqtt.brokers = addresses.devices.iter().map(SocketAddr::to_string).collect();
        }
    }
    Ok((config, Some(broker)))
}

#[cfg(not(feature = "embedded"))]
async fn begin_broker(config: Config, embedded: bool) -> anyhow::Result<(Config, Option<EmbeddedBroker>)> {
    if embedded {
        return Err(anyhow::anyhow!(
            "this program was built without the embedded broker (the Cargo feature `embedded`)"
        ));
    }
    Ok((config, None))
}

/// Binds the admin listener and the console.
async fn listen(
    config: &Config,
    embedded: bool,
    prepared: &Prepared,
    parts: &DriverParts,
) -> anyhow::Result<Listeners> {
    let admin = admin_listener(&config.admin, embedded).await?;
    let metrics = Arc::clone(prepared.metrics());
    let sources = AdminSources::new(metrics, prepared.conditions.clone(), parts.control.clone());
    #[cfg(feature = "console")]
    let console = bind_console(config, &sources, prepared, parts).await?;
    Ok(Listeners {
        admin,
        sources,
        #[cfg(feature = "console")]
        console,
    })
}

/// Returns where the program listens.
fn bound_addresses(
    config: &Config,
    prepared: &Prepared,
    sockets: &[SocketAddr],
    listeners: &Listeners,
    broker: Option<&EmbeddedBroker>,
) -> std::io::Result<BoundAddresses> {
    let (udp, dtls) = device_addresses(&config.listeners, sockets);
    Ok(BoundAddresses {
        udp,
        dtls,
        dtls_off: prepared.secured.as_ref().and_then(DtlsSetup::problem).map(str::to_owned),
        #[cfg(feature = "embedded")]
        mqtt: broker.map(|broker| broker.addresses().mqtt),
        #[cfg(not(feature = "embedded"))]
        mqtt: broker.map(|broker| match *broker {}),
        upstream: config.upstream.clone(),
        objects: prepared.announced.borrow().objects().count(),
        admin: listeners.admin.as_ref().map(TcpListener::local_addr).transpose()?,
        #[cfg(feature = "console")]
        console: console_url(listeners.console.as_ref())?,
        #[cfg(not(feature = "console"))]
        console: None,
        #[cfg(feature = "console")]
        trial_token: config.console.trial_token.clone(),
        #[cfg(not(feature = "console"))]
        trial_token: None,
        simulated: 0,
    })
}

async fn admin_listener(config: &admin::AdminConfig, embedded: bool) -> anyhow::Result<Option<TcpListener>> {
    if !config.enable.unwrap_or(!embedded) {
        return Ok(None);
    }
    let listener = TcpListener::bind(config.bind).await;
    let listener =
        listener.with_context(|| format!("admin.bind = {} (`admin.enable = false` needs none)", config.bind))?;
    Ok(Some(listener))
}

#[cfg(feature = "console")]
async fn bind_console(
    config: &Config,
    sources: &AdminSources,
    prepared: &Prepared,
    parts: &DriverParts,
) -> anyhow::Result<Option<Console>> {
    let upstream = match &config.upstream {
        upstream::UpstreamConfig::ExProto(_) => "exproto",
        upstream::UpstreamConfig::Mqtt(_) => "mqtt",
    };
    let (admin, failures, reloads) = (sources.clone(), Arc::clone(&parts.failures), prepared.reloads.clone());
    let (model, sockets) = (prepared.announced.subscribe(), parts.addresses.clone());
    let cluster = parts.cluster();
    let sources = ConsoleSources { admin, model, failures, reloads, upstream, sockets, cluster };
    Ok(Console::bind(&config.console, sources).await?)
}

#[cfg(feature = "console")]
fn console_url(console: Option<&Console>) -> std::io::Result<Option<String>> {
    let address = console.map(Console::address).transpose()?.flatten();
    Ok(address.map(|(address, tls)| format!("{}://{address}/", if tls { "https" } else { "http" })))
}

/// Returns the addresses of the plain UDP listeners and of the DTLS listeners.
fn device_addresses(listeners: &[UdpListener], sockets: &[SocketAddr]) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    let plain = listeners.iter().filter(|listener| listener.security == Security::None).count();
    let (plain, secured) = sockets.split_at(plain);
    (plain.to_vec(), secured.to_vec())
}

/// Returns an address with a free port: the embedded broker needs the handler's address before the handler is bound.
#[cfg(feature = "embedded")]
fn free_address(near: SocketAddr) -> std::io::Result<SocketAddr> {
    std::net::TcpListener::bind(near)?.local_addr()
}
