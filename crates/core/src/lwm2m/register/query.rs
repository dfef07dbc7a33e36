//! The query of Register and Update requests (LwM2M 1.0 section 5.3, 1.1 section 6.2).

use std::ops::RangeInclusive;
use std::time::Duration;

use lwm2m_base::secret::Secret;

use crate::coap::options::number;
use crate::coap::{Code, Request};
use crate::lwm2m::number::Number;

use super::Rejection;

/// Names the item that holds the password of the device at the broker. No report repeats it.
pub const PASSWORD_ITEM: &str = "password";
const VERSIONS: &[&str] = &["1", "1.0", "1.1", "1.2"];
const MAX_ENDPOINT: usize = 255;
/// Limits the bytes of a query item. The longest endpoint name fits with its `ep=`, which is more than RFC 7252 section
/// 5.10 allows.
const MAX_ITEM: usize = 512;
/// Names the items that reports repeat as text, and that a request may have only once.
const KNOWN_OTHERS: &[&str] = &["sms", "imei", "imsi", "pid"];
/// Limits the items that have no meaning for this program. Updates add such items to the registration.
pub(super) const MAX_OTHER_ITEMS: usize = 64;

/// Holds the query items of one Register or Update request.
#[derive(Default)]
pub(super) struct Items {
    pub(super) endpoint: Option<String>,
    pub(super) lifetime: Option<Duration>,
    pub(super) version: Option<String>,
    pub(super) binding: Option<String>,
    pub(super) queue: bool,
    pub(super) password: Option<Secret>,
    pub(super) others: Vec<(String, String)>,
}

impl Items {
    pub(super) fn read(request: &Request, lifetimes: &RangeInclusive<Duration>) -> Result<Self, Rejection> {
        let mut items = Self::default();
        for item in request.options.all(number::URI_QUERY) {
            if item.len() > MAX_ITEM {
                return Err(Rejection::bad_request("a query item is too long"));
            }
            let Some(item) = text_of_item(item)? else { continue };
            match item.split_once('=') {
                Some((name, value)) if !name.is_empty() => items.take(name, value, lifetimes)?,
                None if item == "Q" => items.take_queue()?,
                // An empty item, or one without `=`, has no meaning.
                Some(_) | None => {}
            }
        }
        Ok(items)
    }

    fn take(&mut self, name: &str, value: &str, lifetimes: &RangeInclusive<Duration>) -> Result<(), Rejection> {
        match name {
            "ep" => once(name, &mut self.endpoint, endpoint(value)?),
            "lt" => once(name, &mut self.lifetime, lifetime(value, lifetimes)?),
            "lwm2m" => once(name, &mut self.version, version(value)?),
            "b" => once(name, &mut self.binding, value.to_owned()),
            PASSWORD_ITEM => once(name, &mut self.password, Secret::new(value)),
            "Q" => Err(Rejection::bad_request("the query item Q has no value")),
            _ => self.take_other(name, value),
        }
    }

    fn take_queue(&mut self) -> Result<(), Rejection> {
        if self.queue {
            return Err(twice("Q"));
        }
        self.queue = true;
        Ok(())
    }

    fn take_other(&mut self, name: &str, value: &str) -> Result<(), Rejection> {
        if KNOWN_OTHERS.contains(&name) && self.others.iter().any(|(other, _)| other == name) {
            return Err(twice(name));
        }
        put(&mut self.others, name.to_owned(), value.to_owned())
    }
}

/// Returns the text of a query item, or `None` for an item that is not UTF-8 and has no known name. An item with a
/// known name must be UTF-8.
fn text_of_item(item: &[u8]) -> Result<Option<&str>, Rejection> {
    if let Ok(text) = std::str::from_utf8(item) {
        return Ok(Some(text));
    }
    let name = item.split(|byte| *byte == b'=').next().unwrap_or_default();
    let mut known = ["ep", "lt", "lwm2m", "b", PASSWORD_ITEM].iter().chain(KNOWN_OTHERS);
    if known.any(|known| known.as_bytes() == name) {
        return Err(Rejection::bad_request("a query item is not UTF-8"));
    }
    Ok(None)
}

fn once<T>(name: &str, place: &mut Option<T>, value: T) -> Result<(), Rejection> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(twice(name)),
    }
}

fn twice(name: &str) -> Rejection {
    Rejection::bad_request(format!("the query item {name} is there twice"))
}

pub(super) fn endpoint(value: &str) -> Result<String, Rejection> {
    if value.is_empty() || value.len() > MAX_ENDPOINT {
        return Err(Rejection::bad_request(format!("ep has 1 to {MAX_ENDPOINT} bytes")));
    }
    Ok(value.to_owned())
}

/// Reads `lt`. The value 0 means an unlimited lifetime (LwM2M 1.1 section 6.2.1) and becomes the upper bound.
fn lifetime(value: &str, lifetimes: &RangeInclusive<Duration>) -> Result<Duration, Rejection> {
    let seconds = match Number::parse(value) {
        Some(Number::Whole(0)) => return Ok(*lifetimes.end()),
        Some(Number::Whole(seconds)) => u64::try_from(seconds).ok(),
        // It has more digits than 64 bits hold.
        Some(Number::Double(seconds)) if seconds > 0.0 && seconds.fract() == 0.0 => Some(seconds as u64),
        Some(Number::Double(_) | Number::Huge(_)) | None => None,
    };
    let Some(seconds) = seconds else {
        return Err(Rejection::bad_request("lt is not a whole number of seconds"));
    };
    within(Duration::from_secs(seconds), lifetimes)
}

pub(super) fn within(lifetime: Duration, lifetimes: &RangeInclusive<Duration>) -> Result<Duration, Rejection> {
    let (min, max, seconds) = (lifetimes.start(), lifetimes.end(), lifetime.as_secs());
    if lifetime < *min {
        let reason = format!("lt is {seconds} s, less than lifetime_min, which is {} s", min.as_secs());
        return Err(Rejection::bad_request(reason));
    }
    if lifetime > *max {
        let reason = format!("lt is {seconds} s, more than lifetime_max, which is {} s", max.as_secs());
        return Err(Rejection::bad_request(reason));
    }
    Ok(lifetime)
}

fn version(value: &str) -> Result<String, Rejection> {
    if VERSIONS.contains(&value) {
        return Ok(value.to_owned());
    }
    Err(Rejection { code: Code::PRECONDITION_FAILED, diagnostic: "LwM2M 1.0 to 1.2".to_owned() })
}

/// Replaces the value of the item with this name, or appends a new item.
pub(super) fn put(items: &mut Vec<(String, String)>, name: String, value: String) -> Result<(), Rejection> {
    let known = items.iter().position(|(known, _)| *known == name);
    match known {
        Some(index) => items[index].1 = value,
        None if items.len() < MAX_OTHER_ITEMS => items.push((name, value)),
        None => return Err(Rejection::bad_request(format!("more than {MAX_OTHER_ITEMS} query items"))),
    }
    Ok(())
}
