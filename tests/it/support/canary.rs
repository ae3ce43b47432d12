//! Secrets must not be seen anywhere: not as they are, and not in an encoding that somebody could read back.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use std::path::Path;

/// All that a secret could look like.
fn shapes(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let percent: String = bytes.iter().map(|b| format!("%{b:02X}")).collect();
    let half: String = url::form_urlencoded::byte_serialize(bytes).collect();
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let mut out = vec![secret.into(), percent, half, hex.to_uppercase(), hex, format!("{bytes:?}")];
    // Within a longer text the same bytes have three forms, by where they begin.
    for before in 0..3 {
        let text = [&vec![0; before][..], bytes].concat();
        let sure = text.len() * 8 / 6;
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            out.push(engine.encode(&text)[[0, 2, 3][before]..sure].to_owned());
        }
    }
    out
}

/// Fails if `text` has any of `secrets` in any form.
pub fn unseen(secrets: &[&str], place: &str, text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    for secret in secrets {
        assert!(secret.len() >= 8, "a shorter one would be found by accident");
        for shape in shapes(secret) {
            assert!(!text.contains(&shape), "{place} has the secret {secret}, as {shape}:\n{text}");
        }
    }
}

/// Fails if a file below `folder` has any of `secrets` in any form.
pub fn unwritten(secrets: &[&str], folder: &Path) {
    for file in super::heart::files(folder) {
        unseen(secrets, &file.display().to_string(), &std::fs::read(&file).unwrap());
    }
}

#[test]
fn a_secret_is_found_in_every_form() {
    use base64::engine::general_purpose::STANDARD;
    let secret = "c4nary+s3cret/1";
    let found =
        |text: String| std::panic::catch_unwind(|| unseen(&[secret], "here", text.as_bytes())).is_err();
    for user in ["a", "ab", "abc", "robot$x"] {
        assert!(found(STANDARD.encode(format!("{user}:{secret}"))), "{user}");
        assert!(found(URL_SAFE_NO_PAD.encode(format!("{user}:{secret}\n"))), "{user}");
    }
    assert!(found(format!("x{secret}x")) && found("c4nary%2Bs3cret%2F1".into()));
    assert!(!found("something else".into()));
}
