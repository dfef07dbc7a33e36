//! The answers of the adapter, with the codes and texts that EMQX puts on the wire.

use crate::exproto::v1::{CodeResponse, ResultCode};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AdapterAnswer {
    Success,
    /// A QoS above 2, an interval of 0. EMQX means code 4, but that never reaches the wire.
    BadParameter,
    /// Publish, Subscribe or Unsubscribe when not authenticated.
    UnexpectedCall,
    /// A `conn` that is none, or a connection that crashed or did not answer.
    Crashed,
    /// The connection has ended.
    NotAlive,
    AuthorizationDenied,
    /// The credentials are not accepted; Authenticate may be tried again.
    NotAuthorized,
    DuplicatedAuthenticate,
    SocketDisconnected,
}

impl From<AdapterAnswer> for CodeResponse {
    fn from(answer: AdapterAnswer) -> Self {
        let (code, message) = match answer {
            AdapterAnswer::Success => (ResultCode::Success, ""),
            AdapterAnswer::BadParameter => (ResultCode::Unknown, "{error,'PARAMS_TYPE_ERROR'}"),
            AdapterAnswer::UnexpectedCall => (ResultCode::Unknown, "{error,unexpected_call}"),
            AdapterAnswer::Crashed => (ResultCode::Unknown, "{error,'UNKNOWN',<<\"Unknown crashes\">>}"),
            AdapterAnswer::NotAlive => (ResultCode::ConnProcessNotAlive, "<<\"Connection process is not alive\">>"),
            AdapterAnswer::AuthorizationDenied => (ResultCode::PermissionDeny, "<<\"Authorization deny\">>"),
            AdapterAnswer::NotAuthorized => (ResultCode::PermissionDeny, "not_authorized"),
            AdapterAnswer::DuplicatedAuthenticate => {
                (ResultCode::PermissionDeny, "<<\"Duplicated authenticate command\">>")
            }
            AdapterAnswer::SocketDisconnected => (ResultCode::PermissionDeny, "<<\"Client socket disconnected\">>"),
        };
        Self { code: code.into(), message: message.to_owned() }
    }
}
