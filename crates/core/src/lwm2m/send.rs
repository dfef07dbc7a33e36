//! Send: values that a device reports without having been asked (LwM2M 1.1 section 6.4.6), `POST /dp`.

use thiserror::Error;

use crate::coap::Request;
use crate::coap::options::number;

use super::codec::{self, DecodeContext, Entry, Requested};
use super::content_format::ContentFormat;
use super::path::Path;

/// Tells why a Send is rejected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// The answer is 4.15, and nothing is published.
    #[error("SenML JSON (110), SenML CBOR (112) or LwM2M CBOR (11544)")]
    UnsupportedFormat,
    /// The answer is 4.00, and the application gets the reason.
    #[error("{0}")]
    BadPayload(String),
}

/// Reads the entries of a Send. They may be of any object. A Send has at least one entry.
pub fn read(request: &Request, context: DecodeContext<'_>) -> Result<Vec<Entry>, SendError> {
    let number = request.options.uint(number::CONTENT_FORMAT).ok().flatten();
    let format = number.and_then(|number| ContentFormat::from_number(number.into()).ok());
    let format = format.filter(|format| is_supported(*format)).ok_or(SendError::UnsupportedFormat)?;
    let entries = codec::decode(Requested::Paths(&[Path::ROOT]), Some(format.number()), &request.payload, context);
    match entries {
        Ok(entries) if entries.is_empty() => Err(SendError::BadPayload("the payload has no values".to_owned())),
        Ok(entries) => Ok(entries),
        Err(error) => Err(SendError::BadPayload(error.to_string())),
    }
}

fn is_supported(format: ContentFormat) -> bool {
    matches!(format, ContentFormat::SenmlJson | ContentFormat::SenmlCbor | ContentFormat::Lwm2mCbor)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::coap::Code;
    use crate::lwm2m::codec::UndefinedResources;
    use crate::lwm2m::model::Model;
    use crate::lwm2m::register::Registration;
    use crate::lwm2m::value::Value;

    fn send(content_format: Option<u16>, payload: &[u8]) -> Result<Vec<Entry>, SendError> {
        let mut register = Request::new(Code::POST);
        register.options.add_text(number::URI_QUERY, "ep=dev-7");
        let lifetimes = Duration::from_secs(1)..=Duration::from_secs(86_400);
        let registration = Registration::from_register(&register, &lifetimes, None).unwrap();
        let mut request = Request::new(Code::POST);
        if let Some(format) = content_format {
            request.options.add_uint(number::CONTENT_FORMAT, format.into());
        }
        request.payload = payload.to_vec();
        let context = DecodeContext {
            registration: &registration,
            model: &Model::default(),
            undefined: UndefinedResources::Refuse,
            unix_time: Duration::from_secs(1_700_000_000),
            max_entries: 2,
        };
        read(&request, context)
    }

    #[test]
    fn a_send_has_values_of_any_object_with_their_times() {
        let entries = send(Some(110), br#"[{"n":"/4321/0/1","v":1,"t":-60},{"n":"/1/0/1","v":60}]"#).unwrap();
        let found: Vec<_> =
            entries.iter().map(|entry| (entry.path.to_string(), entry.value.clone(), entry.time)).collect();
        assert_eq!(
            found,
            [
                ("/4321/0/1".to_owned(), Value::Integer(1), Some(1_699_999_940.0)),
                ("/1/0/1".to_owned(), Value::Integer(60), None),
            ]
        );
    }

    #[test]
    fn a_send_in_another_format_is_unsupported_and_one_without_values_is_bad() {
        for format in [None, Some(0), Some(60), Some(11542), Some(11543), Some(322)] {
            assert_eq!(send(format, b"81"), Err(SendError::UnsupportedFormat), "{format:?}");
        }
        for payload in [&b""[..], b"[]", b"[{}]", br#"[{"n":"/3/0","v":1}]"#, b"[{"] {
            assert!(matches!(send(Some(110), payload), Err(SendError::BadPayload(_))), "{payload:?}");
        }
        let three = br#"[{"bn":"/3/0/9","v":1},{"v":2,"t":1},{"v":3,"t":2}]"#;
        assert_eq!(send(Some(110), three), Err(SendError::BadPayload("more than 2 entries".to_owned())));
    }
}
