//! `GET /tokens`: the names of the tokens in force, and when each was used last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::tokens::{Access, ApiTokens, Role};
use crate::console::ConsoleServer;
use crate::console::http::problem::Problem;
use crate::console::time::{Timestamp, now};

/// The times of the last use of each token since the start. Processes that use the socket are not in it.
#[derive(Debug, Default)]
pub(crate) struct TokenUses(Mutex<HashMap<Access, Timestamp>>);

/// A token without its secret.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ListedToken {
    #[schema(example = "alice")]
    name: String,
    role: Role,
    /// The beginning of the endpoint names that are visible; null for all.
    #[schema(required)]
    prefix: Option<String>,
    /// Time of the last request with this token; absent if there was none since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_use: Option<Timestamp>,
}

/// The tokens in force.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenList {
    /// The tokens in the order of their names.
    tokens: Vec<ListedToken>,
}

impl TokenUses {
    /// Records a request with this access, which is one of `tokens` or that of a process.
    pub(super) fn record(&self, access: &Access, tokens: &ApiTokens, at: Timestamp) {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = uses.get_mut(access) {
            *last = at;
        } else if tokens.all().any(|known| known == access) {
            // Those that are not in force any more would accumulate with each reload of the file.
            uses.retain(|access, _| tokens.grants(access));
            uses.insert(access.clone(), at);
        }
    }

    fn list(&self, tokens: &ApiTokens) -> TokenList {
        let uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let listed = |access: &Access| {
            let Access { name, role, prefix, .. } = access.clone();
            ListedToken { name, role, prefix, last_use: uses.get(access).copied() }
        };
        let mut tokens: Vec<_> = tokens.all().map(listed).collect();
        tokens.sort_by(|one, other| one.name.cmp(&other.name));
        TokenList { tokens }
    }
}

/// List the tokens by their names
///
/// For operators. Tokens themselves are never shown.
#[utoipa::path(
    get,
    path = "/tokens",
    tag = "gateway",
    responses(
        (status = 200, description = "The tokens in force", body = TokenList)
    )
)]
pub(in crate::console) async fn tokens(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
) -> Result<Json<TokenList>, Problem> {
    access.operator()?;
    access.unlimited()?;
    Ok(Json(server.token_uses.list(&server.files.tokens())))
}

impl ConsoleServer {
    /// Records that a token was used now.
    pub(in crate::console) fn note_use(&self, access: &Access, tokens: &ApiTokens) {
        self.token_uses.record(access, tokens, now());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lwm2m_base::secret::Secret;

    use super::*;

    fn tokens(names: &[&str]) -> (ApiTokens, Vec<Access>) {
        names.iter().fold((ApiTokens::default(), Vec::new()), |(tokens, mut all), name| {
            let mut access = Access::of_trial();
            access.name = (*name).to_owned();
            all.push(access.clone());
            (tokens.with(&Secret::new(format!("token of {name}")), access), all)
        })
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp(Duration::from_secs(seconds))
    }

    #[test]
    fn the_list_has_each_token_by_name_with_its_last_use() {
        let (in_force, accesses) = tokens(&["bob", "alice"]);
        let uses = TokenUses::default();
        uses.record(&accesses[0], &in_force, at(1));
        uses.record(&accesses[0], &in_force, at(5));

        let list = uses.list(&in_force).tokens;

        let shown: Vec<_> = list.iter().map(|token| (token.name.as_str(), token.last_use)).collect();
        assert_eq!(shown, [("alice", None), ("bob", Some(at(5)))]);
    }

    #[test]
    fn a_process_and_a_token_that_is_not_in_force_any_more_are_not_kept() {
        let (before, accesses) = tokens(&["alice"]);
        let uses = TokenUses::default();
        uses.record(&Access::of_process(7), &before, at(1));
        uses.record(&accesses[0], &before, at(2));

        uses.record(&Access::of_process(7), &ApiTokens::default(), at(3));

        assert_eq!(uses.0.lock().unwrap().len(), 1);
        assert_eq!(uses.list(&ApiTokens::default()).tokens, []);
    }
}
