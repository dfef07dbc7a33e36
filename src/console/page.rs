//! The files of the page, which are part of the program: without comments, types and spaces that a browser does not
//! need.

use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::http::problem::ProblemKind;

/// The files by their names; `build.rs` makes them of those in `src/console/page`.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/page_files.rs"));

/// Answers with a file of the page; `/` is its start.
pub(super) fn file(request: &Request) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return ProblemKind::MethodNotAllowed.because("files can only be read").into_response();
    }
    let path = request.uri().path().trim_start_matches('/');
    let path = if path.is_empty() { "index.html" } else { path };
    let file = FILES.iter().find(|(name, _)| *name == path).map(|(_, file)| *file);
    let Some((file, media_type)) = file.zip(media_type(path)) else {
        return ProblemKind::NotFound.because("the console has no such file").into_response();
    };
    let tag = tag(file);
    let known = request.headers().get(IF_NONE_MATCH).and_then(|known| known.to_str().ok());
    if known.is_some_and(|known| known == tag) {
        return (StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response();
    }
    ([(CONTENT_TYPE, media_type.to_owned()), (ETAG, tag)], file).into_response()
}

fn tag(file: &[u8]) -> String {
    let hash = Sha256::digest(file);
    let start = hash.iter().take(16);
    format!("\"{}\"", start.map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Returns the media type by the extension; `None` for other files, which are not served.
fn media_type(path: &str) -> Option<&'static str> {
    let (_, extension) = path.rsplit_once('.')?;
    match extension {
        "html" => Some("text/html; charset=utf-8"),
        "css" => Some("text/css; charset=utf-8"),
        "js" => Some("text/javascript; charset=utf-8"),
        "svg" => Some("image/svg+xml"),
        _ => None,
    }
}
