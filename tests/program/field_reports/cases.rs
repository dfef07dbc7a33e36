//! The reports: what the devices sent and the applications asked for.

/// One report.
pub(super) struct Case {
    pub id: &'static str,
    pub steps: &'static [CaseStep<'static>],
}

/// Datagrams are hexadecimal digits.
pub(super) enum CaseStep<'a> {
    Device(&'a str),
    /// What the gateway sent at the time of the report: the requests in it tell what the device answers.
    Gateway(&'a str),
    /// An application's command.
    Command(&'a str),
}

pub(super) const CASES: &[Case] = &[
    // An unquoted `ct` with blanks.
    Case {
        id: "f01a",
        steps: &[CaseStep::Device(
            "4102100101b2726411283765703d66303161066c743d363030096c776d326d3d312e3003623d55ff3c2f3e3b63743d363020313130\
             203131322031313534322031313534333b72743d226f6d612e6c776d326d222c3c2f313e3b7665723d312e312c3c2f312f303e2c3c\
             2f332f303e",
        )],
    },
    // A blank behind `=`.
    Case {
        id: "f01b",
        steps: &[CaseStep::Device(
            "4102100101b2726411283765703d66303162066c743d363030096c776d326d3d312e3003623d55ff3c2f312f303e2c3c2f34343e3b\
             7665723d2022322e32222c3c2f34342f303e",
        )],
    },
    // A comma at the end.
    Case {
        id: "f01d",
        steps: &[CaseStep::Device(
            "4102100101b2726411283765703d66303164066c743d363030096c776d326d3d312e3003623d55ff3c2f312f303e2c3c2f332f303e\
             2c",
        )],
    },
    // A semicolon at the end of a link.
    Case {
        id: "f01g",
        steps: &[CaseStep::Device(
            "4102100101b2726411283765703d66303167066c743d363030096c776d326d3d312e3003623d55ff3c2f332f303e3b2c3c2f312f30\
             3e",
        )],
    },
    // A newer notification comes while the blocks of the older one are fetched.
    Case {
        id: "f03",
        steps: &[
            CaseStep::Device(
                "4102100101b2726411283665703d663033066c743d363030096c776d326d3d312e3003623d55ff3c2f312f303e2c3c2f332f30\
                 3e",
            ),
            CaseStep::Command(r#"{"reqID": 2, "msgType": "observe", "data": {"path": "/3/0/0"}}"#),
            CaseStep::Gateway("48010108e94431c11980988060513301300130"),
            CaseStep::Device("68450108e94431c119809880610160ff7374617274"),
            CaseStep::Device("48451002e94431c119809880610260b108ff4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f"),
            CaseStep::Gateway("48010109b45bdee6c44b7266b13301300130c110"),
            CaseStep::Device("48451003e94431c119809880610360b108ff4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e"),
            CaseStep::Device("68450109b45bdee6c44b7266c0b110ff4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e"),
            CaseStep::Gateway("4801010afbf9824493b81764b13301300130c110"),
            CaseStep::Device("6845010afbf9824493b81764c0b110ff4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e"),
        ],
    },
    // 4.13 with a smaller block size, to a write in one message.
    Case {
        id: "f04",
        steps: &[
            CaseStep::Device(
                "4102100101b2726411283665703d663034066c743d363030096c776d326d3d312e3003623d55ff3c2f352f303e",
            ),
            CaseStep::Command(
                r#"{"reqID": 1, "msgType": "write", "data": {"path": "/5/0/1", "type": "String", "value": "http://example.com/ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}}"#,
            ),
            CaseStep::Gateway(
                "48039577a92f6eb2190aef6ab13501300131122d16ffd001013f687474703a2f2f6578616d706c652e636f6d2f666666666666\
                 666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666\
                 666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666\
                 666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666\
                 666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666\
                 666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666666\
                 666666666666666666666666666666666666666666666666666666666666666666666666666666",
            ),
            CaseStep::Device("688d9577a92f6eb2190aef6ad10e03"),
        ],
    },
    // Only the first block has an ETag.
    Case {
        id: "f05",
        steps: &[
            CaseStep::Device(
                "4102100101b2726411283665703d663035066c743d363030096c776d326d3d312e3003623d55ff3c2f312f303e2c3c2f332f30\
                 3e",
            ),
            CaseStep::Command(r#"{"reqID": 1, "msgType": "read", "data": {"path": "/3/0/0"}}"#),
            CaseStep::Gateway("4801e8c04d29d68706c3fce0b13301300130"),
            CaseStep::Device("6845e8c04d29d68706c3fce0410180b108ff41414141414141414141414141414141"),
            CaseStep::Gateway("4801e8c17ad6d4c307523e38b13301300130c110"),
            CaseStep::Device("6845e8c17ad6d4c307523e38c0b110ff42424242"),
            CaseStep::Gateway("4801e8c2c4efe59f0c79d81bb13301300130c0"),
            CaseStep::Device("6845e8c2c4efe59f0c79d81b410180b108ff41414141414141414141414141414141"),
        ],
    },
    // TLV of an object without the level of instances.
    Case {
        id: "f06a",
        steps: &[
            CaseStep::Device(
                "4102100101b2726411283765703d66303661066c743d363030096c776d326d3d312e3003623d55ff3c2f332f303e2c3c2f362f\
                 303e",
            ),
            CaseStep::Command(r#"{"reqID": 1, "msgType": "read", "data": {"path": "/3"}}"#),
            CaseStep::Gateway("4801a502b77e16e2d8b527c4b133"),
            CaseStep::Device("6845a502b77e16e2d8b527c4c22d16ffc40041434d45c10934"),
        ],
    },
    // An empty 2.05 for an object, in SenML JSON.
    Case {
        id: "f07a",
        steps: &[
            CaseStep::Device(
                "4102100101b2726411283765703d66303761066c743d363030096c776d326d3d312e31ff3c2f3e3b63743d2231313020313132\
                 223b72743d226f6d612e6c776d326d222c3c2f332f303e2c3c2f333330333e2c3c2f372f303e",
            ),
            CaseStep::Command(r#"{"reqID": 1, "msgType": "read", "data": {"path": "/3303"}}"#),
            CaseStep::Gateway("48011f398f7afbd0f3d5befdb4333330336170"),
            CaseStep::Device("68451f398f7afbd0f3d5befdc16e"),
        ],
    },
    // An empty 2.05 for an object, in SenML CBOR.
    Case {
        id: "f07b",
        steps: &[
            CaseStep::Device(
                "4102100101b2726411283765703d66303762066c743d363030096c776d326d3d312e31ff3c2f3e3b63743d2231313020313132\
                 223b72743d226f6d612e6c776d326d222c3c2f332f303e2c3c2f333330333e2c3c2f372f303e",
            ),
            CaseStep::Command(r#"{"reqID": 1, "msgType": "read", "data": {"path": "/3303"}}"#),
            CaseStep::Gateway("4801292e010bf91a350da1f6b4333330336170"),
            CaseStep::Device("6845292e010bf91a350da1f6c170"),
        ],
    },
    // An empty 2.05 for an instance, in SenML CBOR.
    Case {
        id: "f07d",
        steps: &[
            CaseStep::Device(
                "4102100101b2726411283765703d66303764066c743d363030096c776d326d3d312e31ff3c2f3e3b63743d2231313020313132\
                 223b72743d226f6d612e6c776d326d222c3c2f332f303e2c3c2f333330333e2c3c2f372f303e",
            ),
            CaseStep::Command(r#"{"reqID": 1, "msgType": "read", "data": {"path": "/7/0"}}"#),
            CaseStep::Gateway("48014dbfa10b4d0b9dcba4b3b13701306170"),
            CaseStep::Device("68454dbfa10b4d0b9dcba4b3c170"),
        ],
    },
    // An empty 2.05 for a multiple resource, in TLV.
    Case {
        id: "f07f",
        steps: &[
            CaseStep::Device(
                "4102100101b2726411283765703d66303766066c743d363030096c776d326d3d312e31ff3c2f3e3b63743d2231313020313132\
                 223b72743d226f6d612e6c776d326d222c3c2f332f303e2c3c2f333330333e2c3c2f372f303e",
            ),
            CaseStep::Command(r#"{"reqID": 1, "msgType": "read", "data": {"path": "/3/0/6"}}"#),
            CaseStep::Gateway("4801e0e5b94bdc83aa4da4f9b133013001366170"),
            CaseStep::Device("6845e0e5b94bdc83aa4da4f9c22d16"),
        ],
    },
    // The text `+52` for an Integer.
    Case {
        id: "f09a",
        steps: &[
            CaseStep::Device(
                "4102100101b2726411283765703d66303961066c743d363030096c776d326d3d312e3003623d55ff3c2f312f303e2c3c2f332f\
                 303e",
            ),
            CaseStep::Command(r#"{"reqID": 1, "msgType": "read", "data": {"path": "/3/0/9"}}"#),
            CaseStep::Gateway("4801ede448ef1b4936858ad2b13301300139"),
            CaseStep::Device("6845ede448ef1b4936858ad2c0ff2b3532"),
        ],
    },
    // A decimal fraction in SenML CBOR.
    Case {
        id: "f10a",
        steps: &[
            CaseStep::Device(
                "4102100101b2726411283765703d66313061066c743d363030096c776d326d3d312e31ff3c2f3e3b63743d2236302031313222\
                 3b72743d226f6d612e6c776d326d222c3c2f332f303e2c3c2f333330332f303e",
            ),
            CaseStep::Command(r#"{"reqID": 1, "msgType": "read", "data": {"path": "/3303/0/5700"}}"#),
            CaseStep::Gateway("48016a13283f3b2af36eef10b433333033013004353730306170"),
            CaseStep::Device("68456a13283f3b2af36eef10c170ff81a2216c2f333330332f302f3537303002c4822018d7"),
        ],
    },
    // A time as a date in CBOR.
    Case {
        id: "f10c",
        steps: &[
            CaseStep::Device(
                "4102100101b2726411283765703d66313063066c743d363030096c776d326d3d312e31ff3c2f3e3b63743d2236302031313222\
                 3b72743d226f6d612e6c776d326d222c3c2f332f303e2c3c2f333330332f303e",
            ),
            CaseStep::Command(r#"{"reqID": 1, "msgType": "read", "data": {"path": "/3/0/13"}}"#),
            CaseStep::Gateway("48012abd23ba87e49ec10fddb13301300231336170"),
            CaseStep::Device("68452abd23ba87e49ec10fddc13cffc07819323032302d30312d30315430303a30303a30302d30303a3030"),
        ],
    },
    // A `reqID` of more than 64 bits.
    Case {
        id: "f11",
        steps: &[
            CaseStep::Device(
                "4102100101b2726411283665703d663131066c743d363030096c776d326d3d312e3003623d55ff3c2f312f303e2c3c2f332f30\
                 3e",
            ),
            CaseStep::Command(r#"{"reqID":123456789012345678901234567890,"msgType":"read","data":{"path":"/3/0/0"}}"#),
            CaseStep::Gateway("480195e2aedf4b4a9248b84fb13301300130"),
            CaseStep::Device("684595e2aedf4b4a9248b84fc0ff41434d45"),
        ],
    },
    // Base64 with line breaks.
    Case {
        id: "f12",
        steps: &[
            CaseStep::Device(
                "4102100101b2726411283665703d663132066c743d363030096c776d326d3d312e3003623d55ff3c2f352f303e",
            ),
            CaseStep::Command(
                r#"{"reqID": 1, "msgType": "write", "data": {"path": "/5/0/0", "type": "Opaque", "value": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4\nOTo7PD0+Pw==\n"}}"#,
            ),
        ],
    },
    // A token of 13 bytes.
    Case {
        id: "f13a",
        steps: &[
            CaseStep::Device(
                "4102100101b2726411283765703d66313361066c743d363030096c776d326d3d312e3003623d55ff3c2f312f303e2c3c2f332f\
                 303e",
            ),
            CaseStep::Device("4d0220010031323334353637383930313233b27264"),
        ],
    },
    // A payload marker without a payload.
    Case {
        id: "f13b",
        steps: &[
            CaseStep::Device(
                "4102100101b2726411283765703d66313362066c743d363030096c776d326d3d312e3003623d55ff3c2f312f303e2c3c2f332f\
                 303e",
            ),
            CaseStep::Device("40452002c0ff"),
        ],
    },
];
