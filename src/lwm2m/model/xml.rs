//! Definition files in the format of the OMA registry (LWM2M.xsd): from bytes to objects, or the reason why not.

use quick_xml::Reader;
use quick_xml::events::{BytesRef, BytesStart, Event};
use thiserror::Error;

use crate::lwm2m::value::{ResourceType, UnknownType};

use super::{ModelError, Object, Operations, Range, Resource, Version, VersionError};

/// The largest file of the public registry has a quarter of this.
pub const MAX_SIZE: usize = 1 << 20;
const MAX_DEPTH: usize = 16;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[derive(Debug, Error)]
pub enum XmlError {
    #[error("larger than {MAX_SIZE} bytes")]
    TooLarge,
    #[error("not UTF-8")]
    NotText,
    #[error("declares the encoding {0:?}; only UTF-8 is read")]
    Encoding(String),
    #[error("not well-formed XML: {0}")]
    Malformed(#[from] quick_xml::Error),
    #[error("a document type is not read")]
    DocumentType,
    #[error("the entity {0:?} is not known")]
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

/// The character references and the five entities of XML itself; a document cannot define others.
fn resolve(entity: &BytesRef<'_>) -> Result<String, XmlError> {
    if let Some(character) = entity.resolve_char_ref()? {
        return Ok(character.to_string());
    }
    let name: &str = entity;
    let known = quick_xml::escape::resolve_xml_entity(name);
    known.map(str::to_owned).ok_or_else(|| XmlError::Entity(name.chars().take(64).collect()))
}

fn check_encoding<E>(declared: Option<Result<std::borrow::Cow<'_, str>, E>>) -> Result<(), XmlError> {
    match declared {
        Some(Ok(encoding)) if !encoding.eq_ignore_ascii_case("utf-8") => Err(XmlError::Encoding(encoding.into_owned())),
        Some(_) | None => Ok(()),
    }
}

/// Where the reader is, and what it has read so far.
#[derive(Default)]
struct Walk {
    /// The names of the open elements.
    open: Vec<String>,
    /// The text of the innermost element.
    text: String,
    object: Option<ObjectText>,
    item: Option<ItemText>,
    objects: Vec<Object>,
}

/// The elements of an `Object`, as text.
#[derive(Default)]
struct ObjectText {
    name: String,
    id: Option<String>,
    version: String,
    multiple: Option<String>,
    mandatory: Option<String>,
    resources: Vec<Resource>,
}

/// The elements of an `Item`, as text.
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
            Place::Object => self.object = Some(ObjectText::default()),
            Place::Item => self.item = Some(ItemText { id: item_id(start), ..ItemText::default() }),
            Place::ObjectElement | Place::ItemElement | Place::Elsewhere => {}
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), XmlError> {
        let text = std::mem::take(&mut self.text);
        match self.place() {
            Place::ObjectElement => self.object_element(text.trim()),
            Place::ItemElement => self.item_element(text.trim()),
            Place::Item => self.close_item()?,
            Place::Object => {
                let object = self.object.take().expect("an Object that closes has been opened");
                self.objects.push(object.into_object()?);
            }
            Place::Elsewhere => {}
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

    fn place(&self) -> Place {
        let mut names = self.open.iter().skip(1).map(String::as_str);
        match (names.next(), names.next(), names.next(), names.next(), names.next()) {
            (Some("Object"), None, ..) => Place::Object,
            (Some("Object"), Some("Resources"), Some("Item"), None, _) => Place::Item,
            (Some("Object"), Some("Resources"), Some("Item"), Some(_), None) => Place::ItemElement,
            (Some("Object"), Some(_), None, ..) => Place::ObjectElement,
            _ => Place::Elsewhere,
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
enum Place {
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

fn item_id(start: &BytesStart<'_>) -> Option<String> {
    let mut attributes = start.attributes().flatten();
    let id = attributes.find(|attribute| attribute.key.into_inner() == "ID")?;
    Some(id.value.trim().to_owned())
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
