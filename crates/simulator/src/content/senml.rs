//! SenML in JSON and CBOR (RFC 8428), and the null of its patches (RFC 8790).
//!
//! The device reads only what a server writes: names, values and times. It refuses base values, sums and labels that it
//! does not know; a unit and a version change nothing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use minicbor::Decoder;
use minicbor::data::Type;
use serde_json::{Map, Value};

use super::cbor;
use crate::value::PayloadValue;

/// A record of a payload, before its name and time are joined with those of the records above it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SenmlRecord {
    pub base_name: Option<String>,
    /// The time in seconds since 1970, or relative to now if less than 2^28 (RFC 8428 section 4.5.3).
    pub base_time: Option<f64>,
    pub name: Option<String>,
    /// Added to the base time.
    pub time: Option<f64>,
    pub value: Option<RecordValue>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RecordValue {
    Value(PayloadValue),
    /// The record of a patch that removes what has the name.
    Null,
}

/// The labels that the device knows (RFC 8428 section 6; `vlo` is of OMA LwM2M Core 1.1 section 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SenmlLabel {
    BaseVersion,
    BaseName,
    BaseTime,
    BaseUnit,
    Name,
    Unit,
    Value,
    TextValue,
    BooleanValue,
    Time,
    DataValue,
    LinkValue,
}

/// The labels with their text in JSON and their number in CBOR, in which an object link has the text too.
const LABELS: [(SenmlLabel, &str, i64); 11] = [
    (SenmlLabel::BaseVersion, "bver", -1),
    (SenmlLabel::BaseName, "bn", -2),
    (SenmlLabel::BaseTime, "bt", -3),
    (SenmlLabel::BaseUnit, "bu", -4),
    (SenmlLabel::Name, "n", 0),
    (SenmlLabel::Unit, "u", 1),
    (SenmlLabel::Value, "v", 2),
    (SenmlLabel::TextValue, "vs", 3),
    (SenmlLabel::BooleanValue, "vb", 4),
    (SenmlLabel::Time, "t", 6),
    (SenmlLabel::DataValue, "vd", 8),
];
const LINK_LABEL: &str = "vlo";

impl SenmlLabel {
    fn from_text(text: &str) -> Option<Self> {
        if text == LINK_LABEL {
            return Some(SenmlLabel::LinkValue);
        }
        LABELS.iter().find(|(_, name, _)| *name == text).map(|(label, ..)| *label)
    }

    fn from_number(number: i64) -> Option<Self> {
        LABELS.iter().find(|(_, _, own)| *own == number).map(|(label, ..)| *label)
    }

    fn text(self) -> &'static str {
        LABELS.iter().find(|(label, ..)| *label == self).map_or(LINK_LABEL, |(_, text, _)| text)
    }

    /// Returns the number in CBOR; none for an object link.
    fn number(self) -> Option<i64> {
        LABELS.iter().find(|(label, ..)| *label == self).map(|(.., number)| *number)
    }
}

/// A name with its base name, and the value.
pub(super) type NamedValue = (String, Option<RecordValue>);

/// Joins names with the base names above them. A record that only sets base fields is left out.
pub(super) fn named(records: Vec<SenmlRecord>) -> Vec<NamedValue> {
    let mut base = String::new();
    let mut named = Vec::new();
    for record in records {
        if let Some(name) = record.base_name {
            base = name;
        }
        if record.name.is_some() || record.value.is_some() {
            named.push((base.clone() + record.name.as_deref().unwrap_or_default(), record.value));
        }
    }
    named
}

/// Returns the members that are written, in their order.
fn members(record: &SenmlRecord) -> Vec<(SenmlLabel, PayloadValue)> {
    let text = |label, text: &Option<String>| text.clone().map(|text| (label, PayloadValue::Text(text)));
    let time = |label, time: Option<f64>| time.map(|time| (label, seconds(time)));
    let value = match &record.value {
        Some(RecordValue::Value(value)) => Some((value_label(value), value.clone())),
        Some(RecordValue::Null) | None => None,
    };
    let members = [
        text(SenmlLabel::BaseName, &record.base_name),
        time(SenmlLabel::BaseTime, record.base_time),
        text(SenmlLabel::Name, &record.name),
        time(SenmlLabel::Time, record.time),
        value,
    ];
    members.into_iter().flatten().collect()
}

/// A time without a fraction is a whole number, which is shorter in both forms.
fn seconds(time: f64) -> PayloadValue {
    // Whole numbers below 2^53 are exact.
    let whole = time.trunc() == time && time.abs() < 9e15;
    if whole { PayloadValue::Integer(time as i128) } else { PayloadValue::Float(time) }
}

fn value_label(value: &PayloadValue) -> SenmlLabel {
    match value {
        PayloadValue::Integer(_) | PayloadValue::Float(_) => SenmlLabel::Value,
        PayloadValue::Boolean(_) => SenmlLabel::BooleanValue,
        PayloadValue::Text(_) | PayloadValue::PlainText(_) => SenmlLabel::TextValue,
        PayloadValue::Bytes(_) | PayloadValue::TlvBytes(_) => SenmlLabel::DataValue,
        PayloadValue::Link(_) => SenmlLabel::LinkValue,
    }
}

/// SenML CBOR, content format 112.
pub(crate) fn encode_cbor(records: &[SenmlRecord]) -> Vec<u8> {
    let mut writer = cbor::CborWriter::new(Vec::new());
    writer.array(records.len() as u64).expect("memory takes it");
    for record in records {
        let members = members(record);
        writer.map(members.len() as u64).expect("memory takes it");
        for (label, value) in members {
            match label.number() {
                Some(number) => writer.i64(number),
                None => writer.str(label.text()),
            }
            .expect("memory takes it");
            cbor::push(&mut writer, &value);
        }
    }
    writer.into_writer()
}

/// SenML CBOR or its patch; `None` when it is not well-formed.
pub(super) fn decode_cbor(payload: &[u8]) -> Option<Vec<SenmlRecord>> {
    let mut decoder = Decoder::new(payload);
    let mut records = Vec::new();
    let length = decoder.array().ok()?;
    cbor::each(&mut decoder, length, |decoder| {
        let mut record = SenmlRecord::default();
        let length = decoder.map().ok()?;
        cbor::each(decoder, length, |decoder| {
            let label = match decoder.datatype().ok()? {
                Type::String | Type::StringIndef => Some(SenmlLabel::LinkValue)
                    .filter(|label| cbor::text(decoder).is_some_and(|text| text == label.text())),
                _ => decoder.i64().ok().and_then(SenmlLabel::from_number),
            };
            take_cbor_member(decoder, label?, &mut record)
        })?;
        records.push(record);
        Some(())
    })?;
    cbor::at_end(&decoder).then_some(records)
}

fn take_cbor_member(decoder: &mut Decoder<'_>, label: SenmlLabel, record: &mut SenmlRecord) -> Option<()> {
    match label {
        SenmlLabel::BaseVersion | SenmlLabel::BaseUnit | SenmlLabel::Unit => decoder.skip().ok(),
        SenmlLabel::BaseName => once(&mut record.base_name, cbor::text(decoder)?),
        SenmlLabel::Name => once(&mut record.name, cbor::text(decoder)?),
        SenmlLabel::BaseTime => once(&mut record.base_time, cbor::number(decoder)?),
        SenmlLabel::Time => once(&mut record.time, cbor::number(decoder)?),
        SenmlLabel::Value
        | SenmlLabel::TextValue
        | SenmlLabel::BooleanValue
        | SenmlLabel::DataValue
        | SenmlLabel::LinkValue => {
            if decoder.datatype().ok()? == Type::Null {
                decoder.null().ok()?;
                return once(&mut record.value, RecordValue::Null);
            }
            let value = match (label, cbor::value(decoder)?) {
                (SenmlLabel::LinkValue, PayloadValue::Text(text)) => PayloadValue::Link(text),
                (_, value) => value,
            };
            (value_label(&value) == label).then_some(())?;
            once(&mut record.value, RecordValue::Value(value))
        }
    }
}

/// SenML JSON, content format 110.
pub(crate) fn encode_json(records: &[SenmlRecord]) -> Vec<u8> {
    let member = |(label, value): (SenmlLabel, PayloadValue)| (label.text().to_owned(), json(value));
    let object = |record| Value::Object(members(record).into_iter().map(member).collect());
    Value::Array(records.iter().map(object).collect()).to_string().into_bytes()
}

fn json(value: PayloadValue) -> Value {
    match value {
        PayloadValue::Integer(number) => match i64::try_from(number) {
            Ok(number) => number.into(),
            Err(_) => (number as f64).into(),
        },
        PayloadValue::Float(number) => number.into(),
        PayloadValue::Boolean(truth) => truth.into(),
        PayloadValue::Text(text) | PayloadValue::PlainText(text) | PayloadValue::Link(text) => text.into(),
        PayloadValue::Bytes(bytes) | PayloadValue::TlvBytes(bytes) => BASE64URL.encode(bytes).into(),
    }
}

/// SenML JSON or its patch; `None` when it is not well-formed.
pub(super) fn decode_json(payload: &[u8]) -> Option<Vec<SenmlRecord>> {
    let records: Vec<Map<String, Value>> = serde_json::from_slice(payload).ok()?;
    records.iter().map(json_record).collect()
}

fn json_record(members: &Map<String, Value>) -> Option<SenmlRecord> {
    let mut record = SenmlRecord::default();
    members.iter().try_for_each(|(name, member)| take_json_member(name, member, &mut record))?;
    Some(record)
}

fn take_json_member(name: &str, member: &Value, record: &mut SenmlRecord) -> Option<()> {
    let text = || member.as_str().map(str::to_owned);
    let label = SenmlLabel::from_text(name)?;
    match label {
        SenmlLabel::BaseVersion | SenmlLabel::BaseUnit | SenmlLabel::Unit => Some(()),
        SenmlLabel::BaseName => once(&mut record.base_name, text()?),
        SenmlLabel::Name => once(&mut record.name, text()?),
        SenmlLabel::BaseTime => once(&mut record.base_time, member.as_f64()?),
        SenmlLabel::Time => once(&mut record.time, member.as_f64()?),
        SenmlLabel::Value
        | SenmlLabel::TextValue
        | SenmlLabel::BooleanValue
        | SenmlLabel::DataValue
        | SenmlLabel::LinkValue => {
            if member.is_null() {
                return once(&mut record.value, RecordValue::Null);
            }
            let value = json_value(member, label)?;
            (value_label(&value) == label).then_some(())?;
            once(&mut record.value, RecordValue::Value(value))
        }
    }
}

fn json_value(member: &Value, label: SenmlLabel) -> Option<PayloadValue> {
    let integer = || member.as_i64().map(i128::from).or(member.as_u64().map(i128::from));
    match member {
        Value::Number(_) => integer().map(PayloadValue::Integer).or(member.as_f64().map(PayloadValue::Float)),
        Value::Bool(truth) => Some(PayloadValue::Boolean(*truth)),
        Value::String(text) if label == SenmlLabel::DataValue => BASE64URL.decode(text).ok().map(PayloadValue::Bytes),
        Value::String(text) if label == SenmlLabel::LinkValue => Some(PayloadValue::Link(text.clone())),
        Value::String(text) => Some(PayloadValue::Text(text.clone())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Sets what is not set; `None` when it is.
fn once<T>(member: &mut Option<T>, value: T) -> Option<()> {
    if member.is_some() {
        return None;
    }
    *member = Some(value);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float(name: &str, time: f64, value: f64) -> SenmlRecord {
        let value = Some(RecordValue::Value(PayloadValue::Float(value)));
        SenmlRecord { name: Some(name.to_owned()), time: Some(time), value, ..SenmlRecord::default() }
    }

    /// Returns the measurements of RFC 8428 sections 5.1.3 and 6: a voltage, and the current of six seconds.
    fn voltage_and_current() -> Vec<SenmlRecord> {
        let mut records = vec![SenmlRecord {
            base_name: Some("urn:dev:ow:10e2073a0108006:".to_owned()),
            base_time: Some(1_276_020_076.001),
            name: Some("voltage".to_owned()),
            time: None,
            value: Some(RecordValue::Value(PayloadValue::Float(120.1))),
        }];
        let seconds = [(-5.0, 1.2), (-4.0, 1.3), (-3.0, 1.4), (-2.0, 1.5), (-1.0, 1.6), (0.0, 1.7)];
        records.extend(seconds.map(|(time, value)| float("current", time, value)));
        records
    }

    #[test]
    fn the_json_example_of_rfc_8428_is_read() {
        let json = br#"[
            {"bn":"urn:dev:ow:10e2073a0108006:","bt":1.276020076001e+09,
             "bu":"A","bver":5,"n":"voltage","u":"V","v":120.1},
            {"n":"current","t":-5,"v":1.2},
            {"n":"current","t":-4,"v":1.3},
            {"n":"current","t":-3,"v":1.4},
            {"n":"current","t":-2,"v":1.5},
            {"n":"current","t":-1,"v":1.6},
            {"n":"current","v":1.7,"t":0}
        ]"#;
        assert_eq!(decode_json(json), Some(voltage_and_current()));
    }

    #[test]
    fn the_cbor_example_of_rfc_8428_is_read() {
        let bytes = b"\x87\xa7\x21\x78\x1burn:dev:ow:10e2073a0108006:\x22\xfb\x41\xd3\x03\xa1\x5b\x00\x10\x62\
            \x23\x61A\x20\x05\x00\x67voltage\x01\x61V\x02\xfb\x40\x5e\x06\x66\x66\x66\x66\x66\
            \xa3\x00\x67current\x06\x24\x02\xfb\x3f\xf3\x33\x33\x33\x33\x33\x33\
            \xa3\x00\x67current\x06\x23\x02\xfb\x3f\xf4\xcc\xcc\xcc\xcc\xcc\xcd\
            \xa3\x00\x67current\x06\x22\x02\xfb\x3f\xf6\x66\x66\x66\x66\x66\x66\
            \xa3\x00\x67current\x06\x21\x02\xf9\x3e\x00\
            \xa3\x00\x67current\x06\x20\x02\xfb\x3f\xf9\x99\x99\x99\x99\x99\x9a\
            \xa3\x00\x67current\x06\x00\x02\xfb\x3f\xfb\x33\x33\x33\x33\x33\x33";
        assert_eq!(decode_cbor(bytes), Some(voltage_and_current()));
    }

    #[test]
    fn what_is_written_is_read_in_both_forms() {
        let value = |value| Some(RecordValue::Value(value));
        let values = [
            PayloadValue::Integer(i64::MIN.into()),
            PayloadValue::Float(-0.25),
            PayloadValue::Boolean(true),
            PayloadValue::Text("Cel \u{e5}".to_owned()),
            PayloadValue::Bytes(vec![0, 0xff, 0xfe]),
            PayloadValue::Link("11:1".to_owned()),
        ];
        let mut records = voltage_and_current();
        records.extend(values.map(|one| SenmlRecord { value: value(one), ..SenmlRecord::default() }));
        assert_eq!(decode_cbor(&encode_cbor(&records)).as_ref(), Some(&records));
        assert_eq!(decode_json(&encode_json(&records)).as_ref(), Some(&records));
    }

    #[test]
    fn the_bytes_of_a_history_are_short() {
        let value = |number| Some(RecordValue::Value(PayloadValue::Float(number)));
        let first = SenmlRecord {
            base_name: Some("/3303/0/5700".to_owned()),
            base_time: Some(1_717_886_813.0),
            time: Some(0.0),
            value: value(21.5),
            ..SenmlRecord::default()
        };
        let second = SenmlRecord { time: Some(10.5), value: value(22.0), ..SenmlRecord::default() };
        assert_eq!(
            encode_cbor(&[first.clone(), second.clone()]),
            b"\x82\xa4\x21\x6c/3303/0/5700\x22\x1a\x66\x64\xdf\x5d\x06\x00\x02\xfb\x40\x35\x80\x00\x00\x00\x00\x00\
              \xa2\x06\xfb\x40\x25\x00\x00\x00\x00\x00\x00\x02\xfb\x40\x36\x00\x00\x00\x00\x00\x00"
        );
        assert_eq!(
            encode_json(&[first, second]),
            br#"[{"bn":"/3303/0/5700","bt":1717886813,"t":0,"v":21.5},{"t":10.5,"v":22.0}]"#
        );
    }

    #[test]
    fn names_follow_the_last_base_name() {
        let record = |base: Option<&str>, name: Option<&str>| SenmlRecord {
            base_name: base.map(str::to_owned),
            name: name.map(str::to_owned),
            ..SenmlRecord::default()
        };
        let records = vec![record(Some("/3/0/"), Some("0")), record(None, Some("9")), record(Some("/1"), None)];
        let expected = ["/3/0/0", "/3/0/9"].map(|name| (name.to_owned(), None));
        assert_eq!(named(records), expected);
    }

    #[test]
    fn a_null_is_read_as_the_removal_that_it_is_in_a_patch() {
        let removed = SenmlRecord {
            name: Some("/1/0/24/2".to_owned()),
            value: Some(RecordValue::Null),
            ..SenmlRecord::default()
        };
        assert_eq!(decode_cbor(b"\x81\xa2\x00\x69/1/0/24/2\x02\xf6"), Some(vec![removed.clone()]));
        assert_eq!(decode_json(br#"[{"n":"/1/0/24/2","v":null}]"#), Some(vec![removed]));
    }

    #[test]
    fn a_payload_that_is_no_senml_is_refused() {
        for payload in [
            &b"\x81\xa1"[..],
            b"\xa2\x21\x66/3/0/9\x02\x18\x51",
            b"\x81\xa2\x21\x66/3/0/9\x02\x18\x51\x00",
            // A text under the label of a number, a label twice, two values, an unknown label.
            b"\x81\xa2\x00\x66/3/0/9\x02\x6281",
            b"\x81\xa3\x00\x66/3/0/9\x00\x66/3/0/9\x02\x01",
            b"\x81\xa3\x00\x66/3/0/9\x02\x01\x04\xf5",
            b"\x81\xa3\x00\x66/3/0/9\x02\x01\x64foo_\x01",
        ] {
            assert_eq!(decode_cbor(payload), None, "{payload:02x?}");
        }
        for payload in [
            r#"{"n":"/3/0/9","v":1}"#,
            r#"[{"n":"/3/0/9","v":"1"}]"#,
            r#"[{"n":"a","v":1,"vs":"x"}]"#,
            "[{\"vd\":\"+\"}]",
            "[] 1",
        ] {
            assert_eq!(decode_json(payload.as_bytes()), None, "{payload}");
        }
    }
}
