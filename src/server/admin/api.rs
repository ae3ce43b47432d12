//! The administration over HTTP: who asks, what, and what came of it.

use super::audit::Line;
use super::auth::{Who, check_origin};
use super::body::{self, Body};
use super::routes::Action;
use super::{Admin, Asked};
use crate::admin::change::Selector;
use crate::admin::entries::{MOST, Query};
use crate::admin::prefetch::Wanted;
use crate::admin::{Kind, Refused};
use crate::oci::error_code::bounded;
use crate::server::guard::Rejected;
use crate::server::refuse;
use crate::server::respond::{self, Answer};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde::de::value::{Error, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;

/// The type of all that is no error.
pub const JSON: &str = "application/json";
/// The document that describes all this.
pub const OPENAPI: &str = include_str!("openapi.json");

/// Most digits of a number in a query.
const DIGITS: usize = 15;

/// Why something is not done.
pub(super) enum No {
    /// It was not asked rightly, or by nobody who may.
    Rejected(Rejected),
    /// It cannot be done.
    Refused(Refused),
    /// The settings are no good.
    Unusable(Vec<String>),
}

impl From<Rejected> for No {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

impl From<Refused> for No {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// A change that has nothing to be told.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// A level of the log.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogLevel {
    level: String,
}

/// The levels that there are.
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

impl Admin {
    /// Answers what is not for everybody, counts it, and writes down what was to be changed.
    pub(super) async fn administer(&self, action: Action, asked: &Asked, body: &mut Body<'_>) -> Answer {
        let (mut who, mut what) = (None, None);
        let answer = if action.is_change() {
            self.change(action, asked, body, &mut who, &mut what).await
        } else {
            match self.auth.permit(asked, Instant::now()) {
                Ok(_) => match check_origin(asked) {
                    Ok(()) => self.look(action, asked).await,
                    Err(rejected) => Err(rejected.into()),
                },
                Err(rejected) => Err(rejected.into()),
            }
        };
        let headers = &asked.headers;
        let answer = answer.unwrap_or_else(|no| match no {
            No::Rejected(rejected) => refuse::rejected(headers, &rejected),
            No::Refused(refused) => refuse::not_done(headers, &refused),
            No::Unusable(faults) => refuse::unusable(headers, faults),
        });
        let result = match answer.status {
            200..400 => "ok",
            401 | 403 | 421 | 429 => "denied",
            400..500 => "refused",
            _ => "failed",
        };
        self.metrics.admin_requests.with_label_values(&[action.as_str(), result]).inc();
        if action.is_change() && (who.is_some() || self.auth.is_written_down(asked.peer, Instant::now())) {
            let line = Line {
                at: self.administration.clock.now().to_string(),
                who: who.map(|who: Who| who.to_string()),
                peer: asked.peer.to_string(),
                request_id: &asked.request_id,
                action: action.as_str(),
                what,
                result: answer.note.code.as_deref().unwrap_or("ok"),
            };
            self.audit.write(&line).await;
        }
        answer
    }

    /// What changes nothing.
    async fn look(&self, action: Action, asked: &Asked) -> Result<Answer, No> {
        let administration = &self.administration;
        let query = &asked.accepted.query;
        Ok(match action {
            Action::Explain => self.explain(&asked.headers, query).await,
            Action::Status => {
                parameters(query, &[])?;
                let mut status = administration.status(self.drain.is_draining());
                status.settings.log_level = (self.level)();
                told(200, &status)
            }
            Action::History => {
                parameters(query, &[])?;
                told(200, &administration.hour())
            }
            Action::Entries => told(200, &administration.entries(&entries(query)?)?),
            Action::Entry => {
                let given = parameters(query, &["key"])?;
                let Some(key) = given.get("key") else {
                    return Err(bad_parameter("key: is missing; which entry?".into()).into());
                };
                told(200, &administration.entry(key)?)
            }
            Action::Failures => {
                parameters(query, &[])?;
                told(200, &json!({ "failures": administration.failures.list() }))
            }
            Action::Catalog => {
                parameters(query, &[])?;
                let names = administration.names.load();
                let plugin = |name| {
                    let version = names.catalog.default_version(name).map(|version| version.to_string());
                    Plugin { name: name.to_string(), version }
                };
                let plugins: Vec<_> = names.catalog.names().map(plugin).collect();
                told(200, &json!({ "plugins": plugins }))
            }
            Action::Jobs => match parameters(query, &["id"])?.get("id") {
                Some(id) => told(200, &administration.job(number("id", id)? as u64)?),
                None => told(200, &json!({ "jobs": administration.jobs() })),
            },
            Action::Scrubbing => {
                parameters(query, &[])?;
                let none = || Refused {
                    kind: Kind::NotFound,
                    code: "never_scrubbed",
                    detail: "nobody has asked to read all modules since the start".into(),
                    hint: "POST begins it".into(),
                };
                told(200, &administration.scrub().ok_or_else(none)?)
            }
            Action::Level => {
                parameters(query, &[])?;
                told(200, &LogLevel { level: (self.level)() })
            }
            _ => unreachable!("the others are changes"),
        })
    }

    /// Makes a change; who wants it, and to what, is told as far as that comes out.
    async fn change(
        &self,
        action: Action,
        asked: &Asked,
        body: &mut Body<'_>,
        who: &mut Option<Who>,
        what: &mut Option<Value>,
    ) -> Result<Answer, No> {
        *who = Some(self.auth.permit(asked, Instant::now())?);
        check_origin(asked)?;
        if action == Action::Import {
            return self.import(asked, body, what).await;
        }
        body::check_type(&asked.headers)?;
        parameters(&asked.accepted.query, &[])?;
        let bytes = body.read().await?;
        let administration = &self.administration;
        Ok(match action {
            Action::Prefetch => {
                let wanted: Wanted = self.understood(&bytes, what).await?;
                told(202, &administration.prefetch(&wanted)?)
            }
            Action::Revalidate => {
                let which = self.selected(&bytes, what).await?;
                told(200, &administration.revalidate(&which).await?)
            }
            Action::Purge => {
                let which = self.selected(&bytes, what).await?;
                told(200, &administration.purge(&which).await?)
            }
            Action::Scrub => {
                self.understood::<Nothing>(&bytes, what).await?;
                told(202, &administration.start_scrub()?)
            }
            Action::Reload => {
                self.understood::<Nothing>(&bytes, what).await?;
                let reloaded = (self.reload)().await.map_err(|unusable| match unusable.busy {
                    false => No::Unusable(unusable.faults),
                    true => No::Refused(Refused {
                        kind: Kind::Busy,
                        code: "reloading",
                        detail: "the settings are being read already".into(),
                        hint: "ask again in a few seconds".into(),
                    }),
                })?;
                told(200, &reloaded)
            }
            Action::SetLevel => {
                let LogLevel { level } = self.understood(&bytes, what).await?;
                if !LEVELS.contains(&level.as_str()) {
                    let detail = format!("level: is none of {}", LEVELS.join(", "));
                    return Err(Rejected::new(400, "bad_member", detail).into());
                }
                (self.set_level)(&level).map_err(|detail| Refused {
                    kind: Kind::Busy,
                    code: "level_fixed",
                    detail,
                    hint: "".into(),
                })?;
                told(200, &LogLevel { level: (self.level)() })
            }
            _ => unreachable!("the others change nothing"),
        })
    }

    /// Which entries a body means. A member that says nothing is no member that was left out: a script that found no
    /// reference and sends an empty list is told so.
    async fn selected(&self, bytes: &[u8], what: &mut Option<Value>) -> Result<Selector, No> {
        let selector = self.understood(bytes, what).await?;
        let says_nothing =
            |name: &str, nothing: Value| what.as_ref().and_then(|w| w.get(name)) == Some(&nothing);
        for (name, nothing) in [("keys", json!([])), ("all", json!(false))] {
            if says_nothing(name, nothing) {
                return Err(Rejected::new(400, "bad_selector", format!("{name}: says nothing")).into());
            }
        }
        Ok(selector)
    }

    /// What a body means, once it is sure that the change can be written down.
    async fn understood<T: DeserializeOwned>(&self, bytes: &[u8], what: &mut Option<Value>) -> Result<T, No> {
        let (parsed, value) = body::parse(bytes)?;
        *what = Some(value);
        self.writable(bytes.len()).await?;
        Ok(parsed)
    }

    /// Makes sure that a change can be written down whose description has so many bytes.
    pub(super) async fn writable(&self, bytes: usize) -> Result<(), No> {
        self.audit.prepare(bytes).await.map_err(|error| {
            No::Refused(Refused {
                kind: Kind::Failed,
                code: "audit_unwritable",
                detail: format!("the change cannot be written down, and so is not made: {error}"),
                hint: "look at admin.audit.file and its disk".into(),
            })
        })
    }
}

/// A plugin of the catalog.
#[derive(Serialize)]
struct Plugin {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
}

/// A JSON answer.
pub(super) fn told(status: u16, what: &impl Serialize) -> Answer {
    let text = serde_json::to_string_pretty(what).unwrap_or_else(|e| unreachable!("plain fields: {e}"));
    let mut answer = respond::plain(text + "\n");
    answer.status = status;
    answer.headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    answer
}

fn bad_parameter(detail: String) -> Rejected {
    Rejected::new(400, "bad_parameter", bounded(&detail, 300))
}

/// The parameters of a query, each known and there once.
pub(super) fn parameters(query: &str, known: &[&str]) -> Result<BTreeMap<String, String>, Rejected> {
    let mut given = BTreeMap::new();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if value.is_empty() && name != "text" {
            return Err(bad_parameter(format!("{name}: is empty; leave out what is not meant")));
        }
        if !known.contains(&name.as_ref()) {
            let expected = if known.is_empty() { "none".into() } else { known.join(", ") };
            return Err(bad_parameter(format!("{name}: is no parameter of this; expected {expected}")));
        }
        if given.insert(name.to_string(), value.into_owned()).is_some() {
            return Err(bad_parameter(format!("{name}: is given more than once")));
        }
    }
    Ok(given)
}

/// A number in a query.
fn number(name: &str, text: &str) -> Result<usize, Rejected> {
    let is_number = (1..=DIGITS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = is_number.then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| bad_parameter(format!("{name}: '{text}' is no number")))
}

/// A word of a closed set in a query.
fn word<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, Rejected> {
    let text: StrDeserializer<'_, Error> = text.into_deserializer();
    T::deserialize(text).map_err(|error| bad_parameter(format!("{name}: {error}")))
}

/// Which entries a query wants.
fn entries(query: &str) -> Result<Query, Rejected> {
    let known = ["text", "plugin", "state", "sort", "order", "limit", "cursor"];
    let mut given = parameters(query, &known)?;
    let mut take = |name| given.remove(name);
    let limit = take("limit").map(|limit| number("limit", &limit)).transpose()?;
    if limit.is_some_and(|limit| !(1..=MOST).contains(&limit)) {
        return Err(bad_parameter(format!("limit: is not between 1 and {MOST}")));
    }
    Ok(Query {
        text: take("text"),
        plugin: take("plugin"),
        state: take("state").map(|state| word("state", &state)).transpose()?,
        sort: take("sort").map(|sort| word("sort", &sort)).transpose()?.unwrap_or_default(),
        descending: match take("order").as_deref() {
            None | Some("asc") => false,
            Some("desc") => true,
            Some(other) => {
                return Err(bad_parameter(format!("order: '{other}' is neither asc nor desc")));
            }
        },
        limit,
        skip: take("cursor").map(|cursor| number("cursor", &cursor)).transpose()?.unwrap_or_default(),
    })
}
