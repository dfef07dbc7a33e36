//! Values of resources, and their forms in the content formats (OMA LwM2M Core 1.0 and 1.2, appendix C).

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

/// A value in the form that its payload carries. The type of the resource decides what it becomes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PayloadValue {
    /// A value of the text format, in which every type has a form.
    PlainText(String),
    /// A value of TLV, whose bytes mean nothing without the type.
    TlvBytes(Vec<u8>),
    Integer(i128),
    Float(f64),
    Boolean(bool),
    Text(String),
    Bytes(Vec<u8>),
    /// An object link that its format marks as one: `11:1`.
    Link(String),
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

    /// Returns the form of the value in the formats with types: SenML, CBOR and LwM2M CBOR.
    pub(super) fn typed(&self) -> PayloadValue {
        match self {
            SimulatedValue::String(text) => PayloadValue::Text(text.clone()),
            SimulatedValue::Integer(number) => PayloadValue::Integer((*number).into()),
            SimulatedValue::Float(number) => PayloadValue::Float(*number),
            SimulatedValue::Boolean(truth) => PayloadValue::Boolean(*truth),
            SimulatedValue::Opaque(bytes) => PayloadValue::Bytes(bytes.clone()),
            SimulatedValue::ObjectLink { .. } => PayloadValue::Link(self.text()),
        }
    }

    /// Returns a value of this one's type; `None` when the payload's value is not of the type.
    ///
    /// A Float may come as a whole number. A fraction is refused for an Integer even when it is zero, because a server
    /// that knows the type does not write one.
    pub(super) fn same_type_from(&self, value: &PayloadValue) -> Option<SimulatedValue> {
        match value {
            PayloadValue::PlainText(text) => self.same_type_from_text(text),
            PayloadValue::TlvBytes(bytes) => self.same_type_from_bytes(bytes),
            PayloadValue::Integer(number) => match self {
                SimulatedValue::Integer(_) => i64::try_from(*number).ok().map(SimulatedValue::Integer),
                SimulatedValue::Float(_) => Some(SimulatedValue::Float(*number as f64)),
                SimulatedValue::String(_)
                | SimulatedValue::Boolean(_)
                | SimulatedValue::Opaque(_)
                | SimulatedValue::ObjectLink { .. } => None,
            },
            PayloadValue::Float(number) => {
                let is_float = matches!(self, SimulatedValue::Float(_)) && number.is_finite();
                is_float.then_some(SimulatedValue::Float(*number))
            }
            PayloadValue::Boolean(truth) => {
                matches!(self, SimulatedValue::Boolean(_)).then_some(SimulatedValue::Boolean(*truth))
            }
            // CBOR and LwM2M CBOR have no mark for an object link.
            PayloadValue::Text(text) | PayloadValue::Link(text)
                if matches!(self, SimulatedValue::ObjectLink { .. }) =>
            {
                self.same_type_from_text(text)
            }
            PayloadValue::Text(text) => {
                matches!(self, SimulatedValue::String(_)).then(|| SimulatedValue::String(text.clone()))
            }
            PayloadValue::Link(_) => None,
            PayloadValue::Bytes(bytes) => {
                matches!(self, SimulatedValue::Opaque(_)).then(|| SimulatedValue::Opaque(bytes.clone()))
            }
        }
    }

    /// Returns a value of this one's type from its text form; `None` when the text is not of the type.
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

    /// Returns a value of this one's type from its bytes in TLV; `None` when they are not of the type.
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

/// Returns the shortest of 1, 2, 4 and 8 bytes that holds the number.
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
