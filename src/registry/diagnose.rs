//! From an error of the HTTP client to its cause, and to a hint that names the setting.
//!
//! Types decide where the libraries below have them (TLS, addresses); where they have none, their words do.

use super::address::{Refused, Unresolved};
use super::egress::Way;
use super::error::{Kind, RegistryError, cause, chain};
use super::route::Host;
use rustls::{AlertDescription, CertificateError, Error as Tls, InvalidMessage};

/// Sorts an error of a request `what` to `shown` (`host[:port]`), which went through `way`.
pub fn transport(
    host: &Host,
    what: &str,
    shown: &str,
    way: Option<&Way>,
    error: &reqwest::Error,
) -> RegistryError {
    let chain = chain(error);
    let detail = match way {
        Some(way) => format!("{what} through the proxy {}: {chain}", way.shown),
        None => format!("{what}: {chain}"),
    };
    let sorted = |kind, code, hint: String| RegistryError::new(kind, detail.clone()).code(code).hint(hint);
    if let Some(refused) = cause::<Refused>(error) {
        let detail = format!("{what}: {refused}");
        let hint = address_hint(refused);
        return RegistryError::new(Kind::AddressRefused, detail).hint(hint);
    }
    if let Some(way) = way
        && let Some((code, hint)) = proxy(way, shown, &chain)
    {
        return sorted(Kind::Proxy, code, hint);
    }
    if let Some(error) = cause::<Tls>(error).cloned().or_else(|| alert(&chain)) {
        let (code, hint) = tls(host, shown, &error);
        return sorted(Kind::Tls, code, hint);
    }
    let unresolved = cause::<Unresolved>(error).is_some();
    if error.is_timeout() && !unresolved && (way.is_none() || !error.is_connect()) {
        return timed_out(
            host,
            what,
            way,
            if error.is_connect() { "connect_timeout" } else { "first_byte_timeout" },
        );
    }
    if let Some(way) = way.filter(|_| error.is_connect()) {
        let hint =
            format!("is the proxy {} ({}) running, and can this machine reach it?", way.shown, way.from);
        return sorted(Kind::Proxy, "proxy_connect", hint);
    }
    if unresolved || chain.contains("dns error") || chain.contains("failed to lookup address") {
        let hint = format!(
            "does {shown} resolve on this machine? If only a proxy can resolve it, set registry.proxy or {}.proxy",
            host.key
        );
        return sorted(Kind::Dns, "dns", hint);
    }
    // After the handshake a server that wants another certificate may hang up before its alert is read.
    if !error.is_connect() && !error.is_body() && host.verifier.wants_certificate() {
        let (code, hint) = tls(host, shown, &Tls::AlertReceived(AlertDescription::CertificateRequired));
        // Or it was an ordinary reset: then it is over when it is asked again.
        return sorted(Kind::Connect, code, hint);
    }
    let hint = format!(
        "can this machine reach {shown}? A proxy is set by registry.proxy, {}.proxy or HTTPS_PROXY and HTTP_PROXY",
        host.key
    );
    sorted(Kind::Connect, "connect", hint)
}

/// What to do about an address that is not connected to.
pub fn address_hint(refused: &Refused) -> String {
    format!("if {} is right, allow it in registry.allow_addresses", refused.address)
}

/// Nothing came in time; `setting` is the limit's name.
pub fn timed_out(host: &Host, what: &str, way: Option<&Way>, setting: &str) -> RegistryError {
    let limits = &host.limits;
    let limit = match setting {
        "connect_timeout" => limits.connect,
        "idle_timeout" => limits.idle,
        "pull_timeout" => limits.pull,
        _ => limits.first_byte,
    };
    let limit = humantime::format_duration(limit);
    let through = way.map(|way| format!(" through the proxy {}", way.shown)).unwrap_or_default();
    let silence = match setting {
        "connect_timeout" => format!("no connection within {limit}"),
        "idle_timeout" => format!("nothing came for {limit}"),
        "pull_timeout" => format!("not whole after {limit}"),
        _ => format!("no answer within {limit}"),
    };
    let hint = match setting {
        "connect_timeout" => format!(
            "does a firewall drop what goes to {}? A proxy is set by registry.proxy or HTTPS_PROXY; the limit is registry.{setting}",
            host.name
        ),
        _ => format!("if {} is merely slow, raise registry.{setting} or {}.{setting}", host.name, host.key),
    };
    RegistryError::new(Kind::TimedOut, format!("{what}{through}: {silence}")).hint(hint)
}

/// A TLS alert of which only the words are left: over HTTP/2 it arrives as the connection's end.
fn alert(chain: &str) -> Option<Tls> {
    let name = chain.split("received fatal alert: ").nth(1)?;
    let known = [
        AlertDescription::CertificateRequired,
        AlertDescription::BadCertificate,
        AlertDescription::UnknownCA,
        AlertDescription::CertificateUnknown,
        AlertDescription::CertificateExpired,
        AlertDescription::AccessDenied,
        AlertDescription::ProtocolVersion,
        AlertDescription::HandshakeFailure,
    ];
    known.into_iter().find(|alert| name.starts_with(&format!("{alert:?}"))).map(Tls::AlertReceived)
}

/// What to do about a proxy that wants another user name and password.
pub fn proxy_credentials(way: &Way) -> String {
    let Way { shown: proxy, from, .. } = way;
    if way.has_user() {
        return format!("{proxy} ({from}) refuses the user name and password that it was given");
    }
    let key = from.strip_suffix(".url").unwrap_or("registry.proxy");
    format!("{proxy} ({from}) asks for a user name and password: {key}.username and {key}.password_file")
}

fn proxy(way: &Way, shown: &str, chain: &str) -> Option<(&'static str, String)> {
    let Way { shown: proxy, from, .. } = way;
    let reach = || format!("is the proxy {proxy} ({from}) running, and can this machine reach it?");
    let has = |text: &str| chain.contains(text);
    if has("proxy authorization required")
        || has("credentials not accepted")
        || has("does not support user/pass")
    {
        return Some(("proxy_auth", proxy_credentials(way)));
    }
    if has("failed to create underlying connection") {
        return Some(("proxy_connect", reach()));
    }
    if has("tunnel error: unsuccessful") {
        // Some answer a wrong password with a 401, which is not told apart from other refusals.
        let password = if way.has_user() { ", or refuses the user name and password" } else { "" };
        let hint = format!(
            "the proxy {proxy} ({from}) refuses to connect to {shown}, or cannot{password}: allow it there, or reach it directly with no_proxy"
        );
        return Some(("proxy_refused", hint));
    }
    if has("tunnel error") {
        let hint =
            format!("{proxy} ({from}) closed the connection instead of answering: is it an HTTP proxy?");
        return Some(("proxy_closed", hint));
    }
    if has("SOCKS error") {
        let hint = format!(
            "is {proxy} ({from}) a SOCKS5 proxy, can it reach {shown}, and does it want a user name?"
        );
        return Some(("proxy_refused", hint));
    }
    None
}

fn tls(host: &Host, shown: &str, error: &Tls) -> (&'static str, String) {
    let (key, certs) = (&host.key, &host.certs);
    let bare = super::names::bare(shown);
    let seen = host.verifier.seen(bare);
    let leaf = seen.as_ref().and_then(|seen| seen.chain.first());
    match error {
        Tls::InvalidCertificate(CertificateError::UnknownIssuer) => {
            let issuer = seen.as_ref().and_then(|seen| seen.chain.last()).map(|last| last.issuer.clone());
            let issuer = issuer.unwrap_or_else(|| "an unknown CA".into());
            let hint = format!(
                "{shown}'s certificate was issued by {issuer}; put that CA into a PEM file in {certs}, or name it with --ca, registry.ca or {key}.ca"
            );
            ("tls_unknown_ca", hint)
        }
        Tls::InvalidCertificate(CertificateError::BadSignature) => {
            let issuer = leaf.map_or_else(|| "its CA".to_owned(), |leaf| leaf.issuer.clone());
            let hint = format!(
                "{shown}'s certificate was issued by {issuer}, and the trusted CA of that name has another key: put the new one in its place ({certs}, registry.ca or {key}.ca)"
            );
            ("tls_unknown_ca", hint)
        }
        Tls::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            let names = leaf.map(|leaf| leaf.names.join(", ")).filter(|names| !names.is_empty());
            let names =
                names.map_or_else(|| "no name at all".to_owned(), |names| format!("the names {names}"));
            let hint = format!(
                "the certificate is for {names}: use such a name for {shown}, or renew the certificate"
            );
            ("tls_name", hint)
        }
        Tls::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            let until = leaf.map(|leaf| format!(" on {}", leaf.not_after)).unwrap_or_default();
            (
                "tls_expired",
                format!(
                    "{shown}'s certificate has expired{until}: renew it, or set this machine's clock right"
                ),
            )
        }
        Tls::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => (
            "tls_not_yet_valid",
            format!("{shown}'s certificate is for a later time: set this machine's clock right"),
        ),
        Tls::InvalidMessage(InvalidMessage::InvalidContentType) => (
            "tls_plain_http",
            format!(
                "{shown} seems to speak plain http there: --plain-http {shown} or registry.plain_http, or http:// where it is a mirror"
            ),
        ),
        Tls::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::AccessDenied,
        ) => {
            let hint = match &host.identity {
                Some(file) => format!(
                    "{shown} refuses the client certificate in {file}: is it of a CA that {shown} accepts, and in its time?"
                ),
                None => format!(
                    "{shown} wants a client certificate: {key}.client_certificate and {key}.client_key"
                ),
            };
            ("tls_client_certificate", hint)
        }
        Tls::AlertReceived(AlertDescription::ProtocolVersion) | Tls::PeerIncompatible(_) => {
            ("tls_version", format!("{shown} offers only old versions of TLS: larder needs 1.2 or 1.3 there"))
        }
        Tls::AlertReceived(AlertDescription::HandshakeFailure) => (
            "tls_version",
            format!(
                "{shown} and larder have no version or cipher of TLS in common, or {shown} wants a client certificate ({key}.client_certificate)"
            ),
        ),
        _ => ("tls", String::new()),
    }
}
