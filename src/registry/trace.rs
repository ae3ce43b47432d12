//! What is said aloud on the road to a registry, for whoever asks to hear it.
//!
//! Requests of gateways are made with a trace that does not listen, which costs nothing. `larder explain` walks the same
//! road with one that does.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

/// Steps beyond this are not noted: a registry could otherwise make an explanation endless.
const MOST_STEPS: usize = 500;

/// One thing that was done or seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it is about: warning, plan, held, candidate, registry, endpoint, proxy, address, tls, request, auth, retry,
    /// manifest, layer, module.
    pub step: Cow<'static, str>,
    /// What was done or seen; without secrets.
    pub text: String,
}

/// Listens, or does not.
#[derive(Debug, Clone, Default)]
pub struct Trace(Option<Arc<Mutex<Vec<Step>>>>);

impl Trace {
    /// One that listens.
    pub fn listening() -> Self {
        Self(Some(Arc::default()))
    }

    /// True when somebody will read it.
    pub fn is_listening(&self) -> bool {
        self.0.is_some()
    }

    /// Notes a step; `text` is called only when somebody listens.
    pub fn note(&self, step: &'static str, text: impl FnOnce() -> String) {
        let Some(steps) = &self.0 else { return };
        let text = crate::oci::error_code::bounded(&text(), 2000);
        let mut steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
        if steps.len() < MOST_STEPS {
            steps.push(Step { step: step.into(), text });
        }
    }

    /// Takes what was noted so far.
    pub fn take(&self) -> Vec<Step> {
        let Some(steps) = &self.0 else { return Vec::new() };
        std::mem::take(&mut *steps.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_notes_what_is_said_only_when_it_listens() {
        let deaf = Trace::default();
        deaf.note("tls", || unreachable!("nobody listens"));
        assert_eq!(deaf.take(), []);
        let trace = Trace::listening();
        trace.clone().note("tls", || "one\nline".into());
        assert_eq!(trace.take(), [Step { step: "tls".into(), text: "one\\nline".into() }]);
        assert_eq!(trace.take(), []);
    }
}
