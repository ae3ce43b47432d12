//! What the policy decided, for whoever writes it down: each refusal once, until the policy changes.

use super::error::{CacheError, ErrorKind};
use crate::clock::Timestamp;
use crate::origin;
use crate::plugin::PluginName;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Refusals that are remembered as told.
const TOLD: u64 = 10_000;
/// Decisions that wait to be written down; beyond it they are lost.
const WAITING: usize = 256;
/// Refusals that are told in a minute, for clients invent names.
const A_MINUTE: u32 = 60;

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// When.
    pub at: Timestamp,
    /// The code of the refusal, or `ok` of a change of the policy.
    pub code: &'static str,
    /// The plugin that was asked for, where somebody asked.
    pub plugin: Option<String>,
    /// What is refused, if it is one reference.
    pub reference: Option<String>,
    /// In a sentence; of a change, the keys.
    pub detail: String,
    /// The request that it was first refused to.
    pub request_id: String,
}

/// See the module's text.
pub(super) struct Decided {
    told: moka::sync::Cache<(String, &'static str), ()>,
    listener: OnceLock<mpsc::Sender<Decision>>,
    minute: Mutex<(Timestamp, u32)>,
}

impl Default for Decided {
    fn default() -> Self {
        let told = moka::sync::Cache::builder().max_capacity(TOLD).build();
        Self { told, listener: OnceLock::new(), minute: Mutex::new((Timestamp::EPOCH, 0)) }
    }
}

impl Decided {
    /// What is decided from now on; only who asks first hears of it.
    pub fn listen(&self) -> mpsc::Receiver<Decision> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let _ = self.listener.set(sender);
        receiver
    }

    /// Tells of `error` if it is a refusal that was not told before.
    pub fn refused(&self, name: Option<&PluginName>, error: &CacheError, now: Timestamp) {
        let Some(listener) = self.listener.get() else { return };
        if !matches!(error.kind, ErrorKind::Refused | ErrorKind::Untrusted) {
            return;
        }
        let (plugin, reference) =
            (name.map(ToString::to_string), error.reference.as_ref().map(ToString::to_string));
        let Some(about) = reference.clone().or_else(|| plugin.clone()) else { return };
        let key = (about, error.code);
        if self.told.contains_key(&key) || !self.is_within_a_minutes(now) {
            return;
        }
        self.told.insert(key, ());
        let (code, detail) = (error.code, error.detail.clone());
        let _ =
            listener.try_send(Decision { at: now, code, plugin, reference, detail, request_id: request() });
    }

    /// Tells that the policy is another one, in these keys: what it refuses is told anew.
    pub fn changed(&self, keys: &[String], now: Timestamp) {
        self.told.invalidate_all();
        let Some(listener) = self.listener.get() else { return };
        let _ = listener.try_send(Decision {
            at: now,
            code: "ok",
            plugin: None,
            reference: None,
            detail: keys.join(", "),
            request_id: request(),
        });
    }

    fn is_within_a_minutes(&self, now: Timestamp) -> bool {
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(minute.0) >= Duration::from_secs(60) {
            *minute = (now, 0);
        }
        minute.1 += 1;
        minute.1 <= A_MINUTE
    }
}

fn request() -> String {
    origin::request().map(|id| id.to_string()).unwrap_or_default()
}
