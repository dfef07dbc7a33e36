//! Reads definition files in the format of the OMA registry (LWM2M.xsd).

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::events::attributes::AttrError;
use quick_xml::events::{BytesRef, BytesStart, Event};
use thiserror::Error;

use crate::lwm2m::value::{ResourceType, UnknownType};

use super::{ModelError, Object, Operations, Range, Resource, Version, VersionError};

/// Limits the size of a file. The largest file of the public registry has a quarter of it.
pub(crate) const MAX_SIZE: usize = 1 << 20;
const MAX_DEPTH: usize = 16;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[derive(Debug, Error)]
pub enum XmlError {
    #[error("larger than {MAX_SIZE} bytes")]
    TooLarge,
    #[error("not UTF-8")]
    NotText,
    #[error("declares the encoding {0:?}; only UTF-8 is supported")]
    Encoding(String),
    #[error("not well-formed XML: {0}")]
    Malformed(#[from] quick_xml::Error),
    #[error("a document type declaration is not supported")]
    DocumentType,
    #[error("the entity {0:?} is unknown")]
    Entity(String),
    #[error("elements are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("ends inside an element")]
    Cut,
    #[error("the root element is {0:?}, not LWM2M")]
    Root(String),
    #[error("defines no object")]
    NoObject,
    #[error("{of} has no {element}")]
    Missing { of: String, element: &'static str },
    #[error("{element} of {of} is {text:?}")]
    Wrong { of: String, element: &'static str, text: String },
    #[error("{0}")]
    Type(#[from] UnknownType),
    #[error("{0}")]
    Version(#[from] VersionError),
    #[error("{0}")]
    Model(#[from] ModelError),
}

/// Reads the objects of one file, with or without a byte order mark.
pub fn parse(content: &[u8]) -> Result<Vec<Object>, XmlError> {
    if content.len() > MAX_SIZE {
        return Err(XmlError::TooLarge);
    }
    let content = content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content);
    let text = std::str::from_utf8(content).map_err(|_| XmlError::NotText)?;
    let mut walk = Walk::default();
    let mut reader = Reader::from_str(text);
    loop {
        match reader.read_event()? {
            Event::Start(start) => walk.open(&start)?,
            Event::Empty(start) => {
                walk.open(&start)?;
                walk.close()?;
            }
            Event::End(_) => walk.close()?,
            Event::Text(text) => walk.text.push_str(&text.xml10_content()),
            Event::CData(text) => walk.text.push_str(&text.xml10_content()),
            Event::GeneralRef(entity) => walk.text.push_str(&resolve(&entity)?),
            Event::Decl(declaration) => check_encoding(declaration.encoding())?,
            Event::DocType(_) => return Err(XmlError::DocumentType),
            Event::Comment(_) | Event::PI(_) => {}
            Event::Eof => return walk.finish(),
        }
    }
}

/// Resolves character references and the five entities of XML itself. A document cannot define others.
fn resolve(entity: &BytesRef<'_>) -> Result<String, XmlError> {
    if let Some(character) = entity.resolve_char_ref()? {
        return Ok(character.to_string());
    }
    let name: &str = entity;
    let known = quick_xml::escape::resolve_xml_entity(name);
    known.map(str::to_owned).ok_or_else(|| XmlError::Entity(name.chars().take(64).collect()))
}

fn check_encoding(declared: Option<Result<Cow<'_, str>, AttrError>>) -> Result<(), XmlError> {
    match declared.transpose().map_err(quick_xml::Error::from)? {
        Some(encoding) if !encoding.eq_ignore_ascii_case("utf-8") => Err(XmlError::Encoding(encoding.into_owned())),
        Some(_) | None => Ok(()),
    }
}

/// Tracks the position of the reader and what it has read so far.
#[derive(Default)]
struct Walk {
    /// Names the open elements.
    open: Vec<String>,
    /// Collects the text of the innermost element.
    text: String,
    object: Option<ObjectText>,
    item: Option<ItemText>,
    objects: Vec<Object>,
}

/// Collects the elements of an `Object` as text.
#[derive(Default)]
struct ObjectText {
    name: String,
    id: Option<String>,
    version: String,
    multiple: Option<String>,
    mandatory: Option<String>,
    resources: Vec<Resource>,
}

/// Collects the elements of an `Item` as text.
#[derive(Default)]
struct ItemText {
    id: Option<String>,
    name: String,
    operations: Option<String>,
    multiple: Option<String>,
    mandatory: Option<String>,
    resource_type: String,
    range: String,
    units: String,
}

impl Walk {
    fn open(&mut self, start: &BytesStart<'_>) -> Result<(), XmlError> {
        if self.open.len() == MAX_DEPTH {
            return Err(XmlError::TooDeep);
        }
        let name: &str = start.name().into_inner();
        if self.open.is_empty() && !name.eq_ignore_ascii_case("LWM2M") {
            return Err(XmlError::Root(name.to_owned()));
        }
        self.open.push(name.to_owned());
        self.text.clear();
        match self.place() {
            ElementPlace::Object => self.object = Some(ObjectText::default()),
            ElementPlace::Item => self.item = Some(ItemText { id: item_id(start)?, ..ItemText::default() }),
            ElementPlace::ObjectElement | ElementPlace::ItemElement | ElementPlace::Elsewhere => {}
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), XmlError> {
        let text = std::mem::take(&mut self.text);
        match self.place() {
            ElementPlace::ObjectElement => self.object_element(text.trim()),
            ElementPlace::ItemElement => self.item_element(text.trim()),
            ElementPlace::Item => self.close_item()?,
            ElementPlace::Object => {
                let object = self.object.take().expect("an Object that closes has been opened");
                self.objects.push(object.into_object()?);
            }
            ElementPlace::Elsewhere => {}
        }
        self.open.pop();
        Ok(())
    }

    fn finish(self) -> Result<Vec<Object>, XmlError> {
        if !self.open.is_empty() {
            return Err(XmlError::Cut);
        }
        if self.objects.is_empty() { Err(XmlError::NoObject) } else { Ok(self.objects) }
    }

    fn place(&self) -> ElementPlace {
        let mut names = self.open.iter().skip(1).map(String::as_str);
        match (names.next(), names.next(), names.next(), names.next(), names.next()) {
            (Some("Object"), None, ..) => ElementPlace::Object,
            (Some("Object"), Some("Resources"), Some("Item"), None, _) => ElementPlace::Item,
            (Some("Object"), Some("Resources"), Some("Item"), Some(_), None) => ElementPlace::ItemElement,
            (Some("Object"), Some(_), None, ..) => ElementPlace::ObjectElement,
            _ => ElementPlace::Elsewhere,
        }
    }

    fn object_element(&mut self, text: &str) {
        let (Some(object), Some(element)) = (&mut self.object, self.open.last()) else { return };
        match element.as_str() {
            "Name" => object.name = text.to_owned(),
            "ObjectID" => object.id = Some(text.to_owned()),
            "ObjectVersion" => object.version = text.to_owned(),
            "MultipleInstances" => object.multiple = Some(text.to_owned()),
            "Mandatory" => object.mandatory = Some(text.to_owned()),
            _ => {}
        }
    }

    fn item_element(&mut self, text: &str) {
        let (Some(item), Some(element)) = (&mut self.item, self.open.last()) else { return };
        match element.as_str() {
            "Name" => item.name = text.to_owned(),
            "Operations" => item.operations = Some(text.to_owned()),
            "MultipleInstances" => item.multiple = Some(text.to_owned()),
            "Mandatory" => item.mandatory = Some(text.to_owned()),
            "Type" => item.resource_type = text.to_owned(),
            "RangeEnumeration" => item.range = text.to_owned(),
            "Units" => item.units = text.to_owned(),
            _ => {}
        }
    }

    fn close_item(&mut self) -> Result<(), XmlError> {
        let item = self.item.take().expect("an Item that closes has been opened");
        let object = self.object.as_mut().expect("an Item stands inside an Object");
        object.resources.push(item.into_resource()?);
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ElementPlace {
    Object,
    ObjectElement,
    Item,
    ItemElement,
    Elsewhere,
}

impl ObjectText {
    fn into_object(self) -> Result<Object, XmlError> {
        let of = format!("the object {:?}", self.name);
        let id = id(&of, "ObjectID", self.id)?;
        let version = if self.version.is_empty() { Version::FIRST } else { self.version.parse()? };
        let mut object = Object::new(id, version, self.name);
        object.multiple = is(&of, "MultipleInstances", self.multiple, "Multiple", "Single")?;
        object.mandatory = is(&of, "Mandatory", self.mandatory, "Mandatory", "Optional")?;
        for resource in self.resources {
            object.insert(resource)?;
        }
        Ok(object)
    }
}

impl ItemText {
    fn into_resource(self) -> Result<Resource, XmlError> {
        let id = id(&format!("the resource {:?}", self.name), "ID", self.id)?;
        let of = format!("resource {id}");
        let typed = !matches!(self.resource_type.to_ascii_lowercase().as_str(), "" | "none" | "n/a");
        Ok(Resource {
            id,
            name: self.name,
            operations: operations(&of, self.operations)?,
            multiple: is(&of, "MultipleInstances", self.multiple, "Multiple", "Single")?,
            mandatory: is(&of, "Mandatory", self.mandatory, "Mandatory", "Optional")?,
            resource_type: if typed { Some(self.resource_type.parse::<ResourceType>()?) } else { None },
            range: Range::parse(&self.range),
            units: self.units,
        })
    }
}

fn item_id(start: &BytesStart<'_>) -> Result<Option<String>, XmlError> {
    for attribute in start.attributes() {
        let attribute = attribute.map_err(quick_xml::Error::from)?;
        if attribute.key.into_inner() == "ID" {
            return Ok(Some(attribute.value.trim().to_owned()));
        }
    }
    Ok(None)
}

fn id(of: &str, element: &'static str, text: Option<String>) -> Result<u16, XmlError> {
    let text = required(of, element, text)?;
    text.parse().map_err(|_| wrong(of, element, text))
}

fn is(of: &str, element: &'static str, text: Option<String>, yes: &str, no: &str) -> Result<bool, XmlError> {
    let text = required(of, element, text)?;
    if text.eq_ignore_ascii_case(yes) {
        return Ok(true);
    }
    if text.eq_ignore_ascii_case(no) { Ok(false) } else { Err(wrong(of, element, text)) }
}

fn operations(of: &str, text: Option<String>) -> Result<Operations, XmlError> {
    let text = required(of, "Operations", text)?;
    let mut operations = Operations::default();
    for letter in text.chars() {
        match letter {
            'R' => operations.read = true,
            'W' => operations.write = true,
            'E' => operations.execute = true,
            _ => return Err(wrong(of, "Operations", text)),
        }
    }
    Ok(operations)
}

fn required(of: &str, element: &'static str, text: Option<String>) -> Result<String, XmlError> {
    text.ok_or_else(|| XmlError::Missing { of: of.to_owned(), element })
}

fn wrong(of: &str, element: &'static str, text: String) -> XmlError {
    XmlError::Wrong { of: of.to_owned(), element, text: text.chars().take(64).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ITEM: &str = "<Item ID=\" 7 \"><Name>A &lt;b&gt; &#x2103;<![CDATA[ & c]]></Name><Operations>RW</Operations>\
        <MultipleInstances>Multiple</MultipleInstances><Mandatory>Mandatory</Mandatory><Type>Unsigned integer</Type>\
        <RangeEnumeration>0..5</RangeEnumeration><Units>Cel</Units><Description>x</Description></Item>";

    fn file(object: &str, items: &str) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><!-- c --><LWM2M><Object ObjectType=\"MODefinition\">\
             <Name>Thing</Name>{object}<Resources>{items}</Resources><Description2/></Object></LWM2M>"
        )
    }

    const OBJECT: &str = "<ObjectID>26241</ObjectID><ObjectVersion>2.1</ObjectVersion>\
        <MultipleInstances>Single</MultipleInstances><Mandatory>Optional</Mandatory>";

    fn refusal(content: &str) -> String {
        parse(content.as_bytes()).map(|objects| objects.len()).unwrap_err().to_string()
    }

    #[test]
    fn a_definition_is_read_with_all_that_it_says() {
        let objects = parse(file(OBJECT, ITEM).as_bytes()).unwrap();
        let [object] = &objects[..] else { panic!("{} objects", objects.len()) };
        assert_eq!((object.id, object.name.as_str(), object.version.to_string().as_str()), (26241, "Thing", "2.1"));
        assert!(!object.multiple && !object.mandatory);
        let expected = Resource {
            id: 7,
            name: "A <b> \u{2103} & c".to_owned(),
            operations: Operations { read: true, write: true, execute: false },
            multiple: true,
            mandatory: true,
            resource_type: Some(ResourceType::UnsignedInteger),
            range: Some(Range { min: 0.0, max: 5.0 }),
            units: "Cel".to_owned(),
        };
        assert_eq!(object.resources().collect::<Vec<_>>(), [&expected]);
    }

    #[test]
    fn a_byte_order_mark_changes_nothing() {
        let plain = file(OBJECT, ITEM);
        assert_eq!(parse(format!("\u{feff}{plain}").as_bytes()).unwrap(), parse(plain.as_bytes()).unwrap());
    }

    #[test]
    fn a_missing_version_is_the_first_and_a_missing_type_is_none() {
        let object = OBJECT.replace("<ObjectVersion>2.1</ObjectVersion>", "");
        let items = ITEM.replace("Unsigned integer", " ").replace("RW", "E");
        let objects = parse(file(&object, &items).as_bytes()).unwrap();
        assert_eq!(objects[0].version, Version::FIRST);
        let resource = objects[0].resource(7).unwrap();
        assert_eq!((resource.resource_type, resource.has_value()), (None, false));
    }

    #[test]
    fn a_broken_file_is_refused_with_the_reason() {
        for (content, reason) in [
            (String::new(), "defines no object"),
            ("plain text".to_owned(), "defines no object"),
            ("<LWM2M>".to_owned(), "ends inside"),
            ("<LWM2M></LWM2M>".to_owned(), "defines no object"),
            ("<DDFList/>".to_owned(), "\"DDFList\""),
            ("<LWM2M></Object>".to_owned(), "not well-formed"),
            ("<!DOCTYPE a [<!ENTITY b \"c\">]><LWM2M/>".to_owned(), "document type"),
            ("<?xml version=\"1.0\" encoding=\"latin1\"?><LWM2M/>".to_owned(), "\"latin1\""),
            ("<LWM2M>".repeat(40), "deeper"),
            (file(OBJECT, &ITEM.replace("&lt;", "&b;")), "entity \"b\""),
            (file(OBJECT, &ITEM.replace("Unsigned integer", "Word")), "\"Word\""),
            (file(OBJECT, &ITEM.replace("RW", "RX")), "\"RX\""),
            (file(OBJECT, &ITEM.replace("ID=\" 7 \"", "")), "has no ID"),
            (file(OBJECT, &ITEM.replace(" 7 ", "65536")), "\"65536\""),
            (file(OBJECT, &ITEM.repeat(2)), "defined twice"),
            (file(&OBJECT.replace("26241", "x"), ITEM), "\"x\""),
            (file(&OBJECT.replace("2.1", "two"), ITEM), "\"two\""),
            (file("", ITEM), "has no ObjectID"),
            (file(&OBJECT.replace("Single", "Some"), ITEM), "\"Some\""),
        ] {
            let error = refusal(&content);
            assert!(error.contains(reason), "{error}");
        }
        assert!(parse(b"<LWM2M>\xff</LWM2M>").unwrap_err().to_string().contains("UTF-8"));
        assert!(parse(&vec![b' '; MAX_SIZE + 1]).unwrap_err().to_string().contains("larger"));
    }

    proptest! {
        #[test]
        fn any_cut_or_changed_file_is_objects_or_an_error(cut in 0..900usize, at in 0..900usize, byte in any::<u8>()) {
            let mut content = file(OBJECT, ITEM).into_bytes();
            if let Some(changed) = content.get_mut(at) {
                *changed = byte;
            }
            content.truncate(cut);
            prop_assert!(parse(&content).is_err() || content.ends_with(b">"));
        }
    }
}
