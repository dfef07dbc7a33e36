//! CoAP codes (RFC 7252 section 12.1, RFC 7959 section 2.9, RFC 8132, RFC 8516).

use std::fmt;

/// The code byte of a message: three bits of class, five bits of detail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u8);

impl Code {
    pub const EMPTY: Code = Code::of(0, 0);

    pub const GET: Code = Code::of(0, 1);
    pub const POST: Code = Code::of(0, 2);
    pub const PUT: Code = Code::of(0, 3);
    pub const DELETE: Code = Code::of(0, 4);
    pub const FETCH: Code = Code::of(0, 5);
    pub const IPATCH: Code = Code::of(0, 7);

    pub const CREATED: Code = Code::of(2, 1);
    pub const DELETED: Code = Code::of(2, 2);
    pub(crate) const VALID: Code = Code::of(2, 3);
    pub const CHANGED: Code = Code::of(2, 4);
    pub const CONTENT: Code = Code::of(2, 5);
    pub const CONTINUE: Code = Code::of(2, 31);

    pub const BAD_REQUEST: Code = Code::of(4, 0);
    pub const UNAUTHORIZED: Code = Code::of(4, 1);
    pub const BAD_OPTION: Code = Code::of(4, 2);
    pub const FORBIDDEN: Code = Code::of(4, 3);
    pub const NOT_FOUND: Code = Code::of(4, 4);
    pub const METHOD_NOT_ALLOWED: Code = Code::of(4, 5);
    pub const NOT_ACCEPTABLE: Code = Code::of(4, 6);
    pub const REQUEST_ENTITY_INCOMPLETE: Code = Code::of(4, 8);
    pub const CONFLICT: Code = Code::of(4, 9);
    pub const PRECONDITION_FAILED: Code = Code::of(4, 12);
    pub const REQUEST_ENTITY_TOO_LARGE: Code = Code::of(4, 13);
    pub const UNSUPPORTED_CONTENT_FORMAT: Code = Code::of(4, 15);
    pub const UNPROCESSABLE_ENTITY: Code = Code::of(4, 22);
    pub const TOO_MANY_REQUESTS: Code = Code::of(4, 29);

    pub const INTERNAL_SERVER_ERROR: Code = Code::of(5, 0);
    pub const NOT_IMPLEMENTED: Code = Code::of(5, 1);
    pub const BAD_GATEWAY: Code = Code::of(5, 2);
    pub const SERVICE_UNAVAILABLE: Code = Code::of(5, 3);
    pub const GATEWAY_TIMEOUT: Code = Code::of(5, 4);
    pub const PROXYING_NOT_SUPPORTED: Code = Code::of(5, 5);

    /// Returns the code `class.detail`; `class` is 0 to 7, `detail` 0 to 31.
    pub const fn of(class: u8, detail: u8) -> Code {
        Code((class << 5) | (detail & 0x1f))
    }

    pub const fn class(self) -> u8 {
        self.0 >> 5
    }

    pub const fn detail(self) -> u8 {
        self.0 & 0x1f
    }

    /// Returns whether it is the code of a request: class 0 without the empty code (RFC 7252 section 12.1.1).
    pub const fn is_request(self) -> bool {
        self.class() == 0 && self.0 != 0
    }

    /// Returns whether it is the code of a response: the classes 2, 4 and 5 (RFC 7252 section 12.1.2).
    pub const fn is_response(self) -> bool {
        matches!(self.class(), 2 | 4 | 5)
    }

    pub const fn is_success(self) -> bool {
        self.class() == 2
    }
}

/// Writes a code as the specifications do: `2.05`.
impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.class(), self.detail())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
