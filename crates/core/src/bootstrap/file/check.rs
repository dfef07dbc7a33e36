//! Checks that the parts of an account fit together.

use crate::bootstrap::EndpointPattern;
use crate::bootstrap::account::{Account, ServerAccount, ServerSecurity};
use lwm2m_base::identity::PskIdentity;

use super::{AccountError, AccountPlace, AccountProblem, first_twice};

pub(super) fn check(account: &Account, place: &AccountPlace, pattern: &EndpointPattern) -> Result<(), AccountError> {
    if account.servers.is_empty() {
        return Err(place.member("server").error(AccountProblem::Missing));
    }
    if first_twice(account.servers.iter().map(|server| server.short_server_id)) {
        return Err(place.member("short_server_id").error(AccountProblem::Twice("short server ID")));
    }
    if first_twice(account.servers.iter().filter_map(|server| server.security_instance)) {
        return Err(place.member("security_instance").error(AccountProblem::Twice("instance")));
    }
    for (server, number) in account.servers.iter().zip(1..) {
        check_server(server, &place.member(&format!("server {number}")), pattern)?;
    }
    Ok(())
}

fn check_server(server: &ServerAccount, place: &AccountPlace, pattern: &EndpointPattern) -> Result<(), AccountError> {
    // OMA LwM2M Core 1.1 appendix E.1: 0 and 65535 are reserved.
    if !(1..=65_534).contains(&server.short_server_id) {
        return Err(place.member("short_server_id").error(AccountProblem::Expected("a number from 1 to 65534")));
    }
    if server.lifetime.is_zero() {
        return Err(place.member("lifetime").error(AccountProblem::Expected("at least one second")));
    }
    check_uri(server, place)?;
    let Some(identity) = server.identity() else { return Ok(()) };
    let place = place.member("identity");
    let is_shared = pattern.has_wildcards() && !identity.has_placeholder();
    if server.generated_identity().is_some() && is_shared {
        return Err(place.error(AccountProblem::SharedIdentity));
    }
    if !identity.has_placeholder() && PskIdentity::new(identity.as_str().as_bytes()).is_none() {
        return Err(place.error(AccountProblem::Expected("1 to 255 bytes")));
    }
    Ok(())
}

/// The schemes of LwM2M (OMA LwM2M Transport 1.1 section 6), whether they are secure, and the letter of their transport
/// in a binding.
const SCHEMES: [(&str, bool, char); 4] =
    [("coap", false, 'U'), ("coaps", true, 'U'), ("coap+tcp", false, 'T'), ("coaps+tcp", true, 'T')];

fn check_uri(server: &ServerAccount, place: &AccountPlace) -> Result<(), AccountError> {
    let malformed = || place.member("uri").error(AccountProblem::Uri);
    let (scheme, authority) = server.uri.split_once("://").ok_or_else(malformed)?;
    let authority = authority.split('/').next().unwrap_or_default();
    if !is_authority(authority) || server.uri.len() > 255 || server.uri.contains(char::is_whitespace) {
        return Err(malformed());
    }
    let known = SCHEMES.iter().find(|(known, ..)| *known == scheme);
    let (_, is_secure, transport) = known.ok_or_else(malformed)?;
    if *is_secure == (server.security == ServerSecurity::None) {
        let (scheme, security) = (scheme.to_owned(), server.security.name());
        return Err(place.member("uri").error(AccountProblem::Scheme { scheme, security }));
    }
    let place = place.member("binding");
    if server.binding.is_empty() || !server.binding.chars().all(|letter| "UMHTSNQ".contains(letter)) {
        return Err(place.error(AccountProblem::Expected("letters of U, M, H, T, S, N and Q")));
    }
    if !server.binding.contains(*transport) {
        let binding = server.binding.clone();
        return Err(place.error(AccountProblem::Binding { binding, transport: *transport }));
    }
    Ok(())
}

/// Returns whether this is a host, perhaps with a port. An IPv6 address stands in brackets.
fn is_authority(authority: &str) -> bool {
    let (host, port) = match authority.rsplit_once(']') {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, port.strip_prefix(':').or(Some(""))),
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
    !host.trim_start_matches('[').is_empty() && !host.contains('@') && port.is_none_or(is_port)
}
