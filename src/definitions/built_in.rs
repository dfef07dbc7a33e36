//! The object definitions that are part of the program, so that it runs from any folder: the files of `xml/`.

/// The name of each file, and its content.
pub const FILES: [(&str, &[u8]); 15] = [
    ("0.xml", include_bytes!("../../xml/0.xml")),
    ("1.xml", include_bytes!("../../xml/1.xml")),
    ("2.xml", include_bytes!("../../xml/2.xml")),
    ("3.xml", include_bytes!("../../xml/3.xml")),
    ("4.xml", include_bytes!("../../xml/4.xml")),
    ("5.xml", include_bytes!("../../xml/5.xml")),
    ("6.xml", include_bytes!("../../xml/6.xml")),
    ("7.xml", include_bytes!("../../xml/7.xml")),
    ("3300.xml", include_bytes!("../../xml/3300.xml")),
    ("3301.xml", include_bytes!("../../xml/3301.xml")),
    ("3303.xml", include_bytes!("../../xml/3303.xml")),
    ("3304.xml", include_bytes!("../../xml/3304.xml")),
    ("3311.xml", include_bytes!("../../xml/3311.xml")),
    ("3323.xml", include_bytes!("../../xml/3323.xml")),
    ("3347.xml", include_bytes!("../../xml/3347.xml")),
];
