//! Queue mode (LwM2M Core 1.1 section 6.5): a device that sleeps takes commands only within the awake window after each of
//! its messages. Commands wait meanwhile: [`crate::registry::Device::is_awake`].

use std::time::Duration;

use crate::lwm2m::register::Registration;

use super::config::GatewayConfig;

/// Returns how long such a device is awake after its last message; `None` for a device that does not sleep.
pub(super) fn awake_window(config: &GatewayConfig, registration: &Registration) -> Option<Duration> {
    let apn = registration.item("apn");
    let sleeps = registration.queue_mode()
        || apn.is_some_and(|apn| config.qmode_apn.iter().any(|name| name.eq_ignore_ascii_case(apn)));
    sleeps.then_some(config.awake_window)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coap::options::number;
    use crate::coap::{Code, Request};

    fn window(query: &[&str]) -> Option<Duration> {
        let mut request = Request::new(Code::POST);
        query.iter().for_each(|item| request.options.add_text(number::URI_QUERY, item));
        let lifetimes = Duration::from_secs(1)..=Duration::from_secs(86_400);
        let registration = Registration::from_register_of(&request, &lifetimes, None).unwrap();
        awake_window(&GatewayConfig::default(), &registration)
    }

    #[test]
    fn a_device_sleeps_by_its_binding_or_by_its_apn() {
        let awake = Some(GatewayConfig::default().awake_window);
        assert_eq!(window(&["ep=a", "b=UQ"]), awake);
        assert_eq!(window(&["ep=a", "lwm2m=1.1", "Q"]), awake);
        assert_eq!(window(&["ep=a", "apn=cTNB"]), awake);
        assert_eq!(window(&["ep=a", "apn=internet"]), None);
        assert_eq!(window(&["ep=a"]), None);
    }
}
