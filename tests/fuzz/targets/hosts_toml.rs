//! containerd's `hosts.toml`.

#![cfg_attr(fuzzing, no_main)]

use larder::registry::certs_d::Certs;
use toml::Table;
use url::Url;

/// It can be used or it cannot, and then that is told in one line without a password; nothing is asked by another scheme
/// or with credentials in its URL.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let document = text.parse::<Table>().unwrap_or_default();
    // A file that it names is read, and a device has no end.
    if ["/dev", "/proc"].iter().any(|folder| format!("{document:?}").contains(folder)) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let host = folder.path().join("r.example");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("hosts.toml"), text).unwrap();
    let (certs, broken) = Certs::read(&[folder.path().into()]);
    let _ = certs.unverified();
    let layout = certs.of("r.example");
    assert_eq!(layout.is_some(), broken.is_empty());
    if let Some(layout) = layout {
        for url in layout.mirrors.iter().chain([&layout.origin]).filter_map(|entry| entry.url.as_ref()) {
            assert!(matches!(url.scheme(), "http" | "https") && url.host_str().is_some(), "{url}");
            assert!(url.username().is_empty() && url.password().is_none(), "{url}");
        }
    }
    for broken in broken {
        let told = broken.fault.replace(&folder.path().display().to_string(), "");
        assert!(told.starts_with("/r.example/hosts.toml:"), "{told:?}");
        assert!(!told.contains(char::is_control), "{told:?}");
        for password in passwords(&document, text) {
            assert!(!told.contains(&password), "{told:?} repeats {password:?}");
        }
    }
}

/// Passwords in the URLs of hosts, which stand nowhere else.
fn passwords(document: &Table, text: &str) -> Vec<String> {
    let hosts = document.get("host").and_then(toml::Value::as_table);
    let urls = hosts.into_iter().flatten().filter_map(|(url, _)| url.parse::<Url>().ok());
    let passwords = urls.filter_map(|url| url.password().map(ToOwned::to_owned));
    passwords.filter(|password| password.len() > 5 && text.matches(password.as_str()).count() == 1).collect()
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
