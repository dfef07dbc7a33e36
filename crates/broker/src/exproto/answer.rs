//! What the adapter answers: the codes and texts that EMQX really puts on the wire.

use crate::exproto::v1::{CodeResponse, ResultCode};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
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

impl From<Answer> for CodeResponse {
    fn from(answer: Answer) -> Self {
        let (code, message) = match answer {
            Answer::Success => (ResultCode::Success, ""),
            Answer::BadParameter => (ResultCode::Unknown, "{error,'PARAMS_TYPE_ERROR'}"),
            Answer::UnexpectedCall => (ResultCode::Unknown, "{error,unexpected_call}"),
            Answer::Crashed => (ResultCode::Unknown, "{error,'UNKNOWN',<<\"Unknown crashes\">>}"),
            Answer::NotAlive => (ResultCode::ConnProcessNotAlive, "<<\"Connection process is not alive\">>"),
            Answer::AuthorizationDenied => (ResultCode::PermissionDeny, "<<\"Authorization deny\">>"),
            Answer::NotAuthorized => (ResultCode::PermissionDeny, "not_authorized"),
            Answer::DuplicatedAuthenticate => (ResultCode::PermissionDeny, "<<\"Duplicated authenticate command\">>"),
            Answer::SocketDisconnected => (ResultCode::PermissionDeny, "<<\"Client socket disconnected\">>"),
        };
        Self { code: code.into(), message: message.to_owned() }
    }
}
