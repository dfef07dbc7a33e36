//! Reads the body of a command. Few large bodies at a time are read: a firmware image may be in one.

use axum::body::Body;
use http_body_util::BodyExt;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::console::access::guard::{BODY_BYTES, COMMAND_BYTES};
use crate::console::http::problem::{Problem, ProblemKind};

/// Maximum number of bodies of more than [`BODY_BYTES`] at a time.
pub(crate) const LARGE_BODIES: usize = 2;

/// A body, and the permission to have it in memory if it is large.
pub(crate) struct CommandBody<'a> {
    pub payload: Vec<u8>,
    pub permit: Option<SemaphorePermit<'a>>,
}

pub(crate) async fn read(large_bodies: &Semaphore, mut body: Body) -> Result<CommandBody<'_>, Problem> {
    let (mut payload, mut permit) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        // The connection broke, or the body has more than the listener lets through.
        let frame = frame.map_err(|_| too_large())?;
        let Ok(bytes) = frame.into_data() else { continue };
        if payload.len() + bytes.len() > COMMAND_BYTES {
            return Err(too_large());
        }
        if payload.len() + bytes.len() > BODY_BYTES && permit.is_none() {
            let busy = |_| ProblemKind::TooMany.because(format!("{LARGE_BODIES} large bodies are sent already"));
            permit = Some(large_bodies.try_acquire().map_err(busy)?);
        }
        payload.extend_from_slice(&bytes);
    }
    Ok(CommandBody { payload, permit })
}

/// Reads a body of which nothing is needed. Otherwise the connection could end before the client has read the answer.
pub(crate) async fn discard(mut body: Body) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, |data| data.len());
        if bytes > BODY_BYTES {
            return;
        }
    }
}

fn too_large() -> Problem {
    ProblemKind::BodyTooLarge.because(format!("a command has at most {COMMAND_BYTES} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn large_bodies_are_few_and_small_ones_are_not_counted() {
        let permits = Semaphore::new(LARGE_BODIES);
        let body = |bytes| Body::from(vec![b'x'; bytes]);
        let held = [read(&permits, body(BODY_BYTES + 1)).await, read(&permits, body(COMMAND_BYTES)).await];
        assert!(held.iter().all(Result::is_ok));
        let refused = |read: Result<CommandBody<'_>, Problem>| read.err().map(|problem| problem.kind);
        assert_eq!(refused(read(&permits, body(BODY_BYTES + 1)).await), Some(ProblemKind::TooMany));
        assert_eq!(refused(read(&permits, body(BODY_BYTES)).await), None);
        drop(held);
        assert_eq!(refused(read(&permits, body(COMMAND_BYTES + 1)).await), Some(ProblemKind::BodyTooLarge));
        assert_eq!(read(&permits, body(COMMAND_BYTES)).await.ok().map(|body| body.payload.len()), Some(COMMAND_BYTES));
    }
}
