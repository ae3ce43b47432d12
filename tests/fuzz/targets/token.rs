//! The answer of a token service.

#![cfg_attr(fuzzing, no_main)]

use larder::registry::auth::parse;
use serde_json::Value;
use std::time::Duration;

/// What is taken is the token that was sent, can stand in a header, is never printed, and is used for a time that makes
/// sense. What is refused is told without anything of its content.
pub fn check(bytes: &[u8]) {
    match parse("GET x", bytes) {
        Ok((value, lifetime)) => {
            assert!(value.is_sensitive());
            assert!(lifetime >= Duration::from_secs(1) && lifetime <= Duration::from_secs(86_400 * 365));
            let sent = value.as_bytes().strip_prefix(b"Bearer ").unwrap();
            // What nobody reads may be malformed.
            let Ok(answer) = serde_json::from_slice::<Value>(bytes) else { return };
            // A list is read as the fields in their order.
            let fields = [&answer["token"], &answer["access_token"], &answer[0], &answer[1]];
            let is_it = |field: &&Value| field.as_str().is_some_and(|token| token.as_bytes() == sent);
            assert!(!sent.is_empty() && fields.iter().any(is_it), "{answer}");
        }
        Err(error) => {
            assert_eq!(error.code, "bad_token");
            let told = error.to_string();
            assert!(told.len() < 120 && told.starts_with("GET x: the answer "), "{told}");
        }
    }
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
