//! The LwM2M gateway without IO: the caller passes in the time, received bytes and randomness, and polls outputs.
//!
//! ```text
//! gateway -> mqtt -> registry -> command -> lwm2m -> coap::{Request, Options ...}
//!    |-----> coap::Endpoint
//!    \-----> lwm2m_dtls::DtlsServer
//! ```
//!
//! Each module knows the modules to its right:
//! - [`coap`] knows peers. It knows nothing of LwM2M, MQTT or devices.
//! - [`lwm2m`] knows the vocabulary of CoAP, never the endpoint, and keeps no state.
//! - [`command`] holds what an application asks of a device, independent of the transport.
//! - [`registry`] has the devices, their topics and their pending commands. It builds no packet, topic or payload.
//! - [`mqtt`] maps values to values: JSON to commands, outcomes to JSON, templates to topics. It keeps no state.
//! - [`bootstrap`] has the accounts that devices are given in a bootstrap session. It knows `lwm2m` and the values of
//!   `mqtt`, and keeps no state.
//! - [`gateway`] is the only module that joins the others; a program drives [`gateway::Gateway`].
//!
//! The crate names no socket, no file, no runtime and no clock: its Cargo.toml has none of their libraries, and
//! `clippy.toml` forbids the rest.
//!
//! # Glossary
//!
//! LwM2M (OMA LwM2M Core 1.0 to 1.2):
//! - **Endpoint name**: the name under which a device registers. By default it is also its MQTT client identifier
//!   (`clientinfo.clientid`).
//! - **Registration**: the record of a registered device: endpoint name, lifetime, version, binding and object links. A
//!   Register creates it, an Update prolongs it, and a De-register or the end of its lifetime removes it.
//! - **Location**: the path, such as `/rd/5a3f`, that the gateway assigns to a registration for later Updates.
//! - **Lifetime**: the time after which a registration without Update expires.
//! - **Object, instance, resource, resource instance**: the four levels of a path such as `/3/0/7/1`.
//! - **Queue mode**: a device in queue mode listens only for a while after it sent a message; the gateway keeps
//!   commands until then. A device is *awake* during that time and *asleep* otherwise.
//! - **Operation**: what an application wants from a device: read, write, execute, observe and the others.
//! - **Bootstrap**: the procedure in which a device gets the servers that it registers with, and their keys. An
//!   *account* is what it gets; its *bootstrap account* is what it uses to reach the bootstrap server.
//!
//! CoAP (RFC 7252, 7641, 7959):
//! - **Peer**: the address, and the DTLS association if there is one, that messages come from and go to.
//! - **Exchange**: one request of the gateway with its response. Its [`coap::ExchangeId`] does not change when the
//!   request or the response takes several blocks.
//! - **Transmission**: one confirmable message that is repeated until it is acknowledged.
//! - **Observation**: an exchange whose response had the Observe option. Each further response with its token is a
//!   *notification*. An observation keeps the id of its exchange.
//! - **Send**: a request by which a device reports values that nobody asked for (`POST /dp`).
//! - **Token**: matches a response to its request. **Message id**: matches an acknowledgement to its message and
//!   identifies duplicates.
//! - **Piggybacked response**: a response in the acknowledgement. A *separate* response comes in a message of its own.
//! - **Block1, Block2**: block-wise transfer of a large request or response body.
//!
//! DTLS (RFC 6347, 9146):
//! - **Association**: the keys and counters that a completed handshake leaves for one device.
//! - **Connection ID**: lets an association continue from another address.
//! - **Cookie**: the value of a HelloVerifyRequest, which proves that a client receives at its address.
//!
//! MQTT and EMQX:
//! - **Uplink, downlink**: messages from a device to applications, and from applications to a device.
//! - **Session**: the MQTT session that the broker holds for one registered device. A DTLS session is an
//!   **association**; a **bootstrap session** is the exchange by which a device is given its servers.
//! - **Retained command**: a command that the broker delivers again at each subscription.
//! - **In-flight publication**: a publication that the broker has not acknowledged.
//!
//! Terms of this program:
//! - **Upstream**: the connection to the broker, by MQTT or by ExProto.
//! - **Anchor**: the TCP connection to an EMQX node's exproto listener that stands for one device, or for a probe.
//! - **Pending registration**: a Register that waits for the broker to accept the device.
//! - **Command in flight**: a command whose request was sent to the device and is not answered. A **pending command**
//!   waits to be sent.
//! - **Echo**: the members of a command, such as `reqID`, that each of its answers repeats.
//! - **Auto observe**: observations that the gateway begins by itself after a registration.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod bootstrap;
pub mod coap;
pub mod command;
pub mod gateway;
pub mod lwm2m;
pub mod mqtt;
pub mod registry;
