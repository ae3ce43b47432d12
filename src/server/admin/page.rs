//! The page for people.

use crate::server::respond::{self, Answer};

/// What lies under a path: the page, or a file of it.
pub fn answer(path: &str) -> Option<Answer> {
    let text = "larder: /metrics /livez /readyz /explain?name=NAME&version=VERSION /api/v1/openapi.json\n";
    (path == "/").then(|| respond::plain(text.into()))
}
