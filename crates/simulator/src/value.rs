//! Values of resources, as text and as the bytes of TLV (OMA LwM2M 1.0 appendix C).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

#[derive(Clone, Debug, PartialEq)]
pub enum SimulatedValue {
    String(String),
    /// Integer and Time.
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Opaque(Vec<u8>),
    ObjectLink {
        object: u16,
        instance: u16,
    },
}

impl SimulatedValue {
    pub(super) fn text(&self) -> String {
        match self {
            SimulatedValue::String(text) => text.clone(),
            SimulatedValue::Integer(number) => number.to_string(),
            SimulatedValue::Float(number) => number.to_string(),
            SimulatedValue::Boolean(truth) => u8::from(*truth).to_string(),
            SimulatedValue::Opaque(bytes) => BASE64.encode(bytes),
            SimulatedValue::ObjectLink { object, instance } => format!("{object}:{instance}"),
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            SimulatedValue::String(text) => text.clone().into_bytes(),
            SimulatedValue::Integer(number) => shortest(*number),
            SimulatedValue::Float(number) => number.to_be_bytes().to_vec(),
            SimulatedValue::Boolean(truth) => vec![u8::from(*truth)],
            SimulatedValue::Opaque(bytes) => bytes.clone(),
            SimulatedValue::ObjectLink { object, instance } => [object.to_be_bytes(), instance.to_be_bytes()].concat(),
        }
    }

    /// A value of this one's type from its text form; `None` when the text is not of the type.
    pub(super) fn same_type_from_text(&self, text: &str) -> Option<SimulatedValue> {
        match self {
            SimulatedValue::String(_) => Some(SimulatedValue::String(text.to_owned())),
            SimulatedValue::Integer(_) => text.parse().ok().map(SimulatedValue::Integer),
            SimulatedValue::Float(_) => {
                text.parse().ok().filter(|number: &f64| number.is_finite()).map(SimulatedValue::Float)
            }
            SimulatedValue::Boolean(_) => match text {
                "0" => Some(SimulatedValue::Boolean(false)),
                "1" => Some(SimulatedValue::Boolean(true)),
                _ => None,
            },
            SimulatedValue::Opaque(_) => BASE64.decode(text).ok().map(SimulatedValue::Opaque),
            SimulatedValue::ObjectLink { .. } => {
                let (object, instance) = text.split_once(':')?;
                Some(SimulatedValue::ObjectLink { object: object.parse().ok()?, instance: instance.parse().ok()? })
            }
        }
    }

    /// A value of this one's type from its bytes in TLV; `None` when they are not of the type.
    pub(super) fn same_type_from_bytes(&self, bytes: &[u8]) -> Option<SimulatedValue> {
        match self {
            SimulatedValue::String(_) => String::from_utf8(bytes.to_vec()).ok().map(SimulatedValue::String),
            SimulatedValue::Integer(_) => integer(bytes).map(SimulatedValue::Integer),
            SimulatedValue::Float(_) => float(bytes).map(SimulatedValue::Float),
            SimulatedValue::Boolean(_) => match bytes {
                [0] => Some(SimulatedValue::Boolean(false)),
                [1] => Some(SimulatedValue::Boolean(true)),
                _ => None,
            },
            SimulatedValue::Opaque(_) => Some(SimulatedValue::Opaque(bytes.to_vec())),
            SimulatedValue::ObjectLink { .. } => {
                let [a, b, c, d] = *bytes else { return None };
                Some(SimulatedValue::ObjectLink {
                    object: u16::from_be_bytes([a, b]),
                    instance: u16::from_be_bytes([c, d]),
                })
            }
        }
    }
}

impl From<&str> for SimulatedValue {
    fn from(text: &str) -> Self {
        SimulatedValue::String(text.to_owned())
    }
}

/// The shortest of 1, 2, 4 and 8 bytes that holds the number.
fn shortest(number: i64) -> Vec<u8> {
    if let Ok(small) = i8::try_from(number) {
        small.to_be_bytes().to_vec()
    } else if let Ok(small) = i16::try_from(number) {
        small.to_be_bytes().to_vec()
    } else if let Ok(small) = i32::try_from(number) {
        small.to_be_bytes().to_vec()
    } else {
        number.to_be_bytes().to_vec()
    }
}

fn integer(bytes: &[u8]) -> Option<i64> {
    match *bytes {
        [a] => Some(i8::from_be_bytes([a]).into()),
        [a, b] => Some(i16::from_be_bytes([a, b]).into()),
        [a, b, c, d] => Some(i32::from_be_bytes([a, b, c, d]).into()),
        [a, b, c, d, e, f, g, h] => Some(i64::from_be_bytes([a, b, c, d, e, f, g, h])),
        _ => None,
    }
}

fn float(bytes: &[u8]) -> Option<f64> {
    let number = match *bytes {
        [a, b, c, d] => f32::from_be_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => f64::from_be_bytes([a, b, c, d, e, f, g, h]),
        _ => return None,
    };
    number.is_finite().then_some(number)
}
