//! A secret's file.

#![cfg_attr(fuzzing, no_main)]

use larder::registry::credentials::secret;
use secrecy::ExposeSecret;
use std::io::Write;

/// What is taken is one line that was in the file; what is refused is told without it.
pub fn check(bytes: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    match secret(file.path()) {
        Ok(secret) => {
            let text = secret.expose_secret();
            assert!(!text.is_empty() && !text.contains(['\r', '\n', '\0']));
            assert!(bytes.starts_with(text.as_bytes()));
        }
        Err(told) => {
            let told = told.replace(&file.path().display().to_string(), "file");
            assert!(told.starts_with("file: ") && told.len() < 100, "{told:?}");
        }
    }
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
