//! A bundle that comes as a request's body: into a spool, and from there into the cache.

use super::api::{JSON, No, parameters, told};
use super::body::Body;
use super::{Admin, Asked};
use crate::admin::import::{self, How};
use crate::admin::{Kind, Refused};
use crate::bundle::sign::VerifyKey;
use crate::server::guard::Rejected;
use crate::server::respond::Answer;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

/// What a bundle is sent as. A form that a page of others sends never is.
const TYPES: [&str; 4] =
    ["application/x-tar", "application/zstd", "application/gzip", "application/octet-stream"];

impl Admin {
    /// Takes in the bundle that is the request's body. What of it is no good is told with a 422, and the rest is kept.
    pub(super) async fn import(
        &self,
        asked: &Asked,
        body: &mut Body<'_>,
        what: &mut Option<Value>,
    ) -> Result<Answer, No> {
        check_type(&asked.headers)?;
        let how = how(&asked.accepted.query)?;
        *what = Some(json!({ "dry_run": how.dry_run }));
        self.writable(0).await?;
        let administration = &self.administration;
        let turn = administration.import_turn()?;
        let store = administration.cache.store();
        let spool = store.spool().await.map_err(import::spooled)?;
        let (spool, digest) = body.into_spool(spool).await?;
        *what = Some(json!({ "dry_run": how.dry_run, "bytes": spool.size, "digest": digest }));
        let lost = |e: std::io::Error| {
            let detail = format!("the bundle: {e}");
            Refused {
                kind: Kind::Failed,
                code: "unreadable",
                detail,
                hint: "look at the cache directory's disk".into(),
            }
        };
        let bundle = import::open_file(spool.into_file().map_err(lost)?, store).await?;
        let imported = administration.import(&turn, bundle, how, &|_| {}).await?;
        let mut answer = told(if imported.refused > 0 { 422 } else { 200 }, &imported);
        if imported.refused > 0 {
            answer.note.code = Some("left_out".into());
        }
        answer.headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        Ok(answer)
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), Rejected> {
    let told = headers.get(CONTENT_TYPE).and_then(|told| told.to_str().ok()).unwrap_or_default();
    let is_one = headers.get_all(CONTENT_TYPE).iter().count() == 1;
    if !is_one || !TYPES.iter().any(|known| told.trim().eq_ignore_ascii_case(known)) {
        let hint = "send Content-Type: application/x-tar, application/zstd, application/gzip or application/octet-stream";
        return Err(Rejected {
            hint,
            ..Rejected::new(415, "not_an_archive", "the body is not said to be an archive")
        });
    }
    if headers.contains_key(CONTENT_ENCODING) {
        let detail = "the body has a Content-Encoding; it is taken without";
        return Err(Rejected::new(415, "encoded_body", detail));
    }
    Ok(())
}

fn how(query: &str) -> Result<How, Rejected> {
    let given = parameters(query, &["dry_run", "verify_key"])?;
    let bad = |detail: String| Rejected::new(400, "bad_parameter", detail);
    let dry_run = match given.get("dry_run").map(String::as_str) {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(bad("dry_run: is neither true nor false".into())),
    };
    let key = given.get("verify_key").map(|pem| VerifyKey::read(pem.as_bytes())).transpose();
    let key = key.map_err(|error| bad(format!("verify_key: {error}")))?;
    Ok(How { dry_run, missing_only: false, key })
}
