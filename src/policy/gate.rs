//! The gate: what the policy says of a plugin, of a reference, and of what a reference points to.
//!
//! A plugin's version is what the catalog makes of a reference: its tag or digest, or what a line `name@version=` says, and
//! not what a URL asked for, which may mean another one. Whoever has only a reference (a fetch) asks for all that the
//! catalog says it stands for, and one that may be is enough: whoever serves it judges once more, by the name asked for.

use super::lock::{LOCK_MISMATCH, Locked, NOT_LOCKED, Other};
use super::rules::{Config, FloatingTags, Mode, Rule, glob_of};
use super::trust::{KeyFiles, demand};
use crate::catalog::{Catalog, version_of};
use crate::oci::Reference;
use crate::plugin::{PluginName, Version};
use crate::record::Present;
use crate::signature::Demand;
use bytesize::ByteSize;
use glob::Pattern;
use std::sync::Arc;

/// A rule refuses it.
pub const NOT_ALLOWED: &str = "not_allowed";
/// Its tag may come to mean anything.
pub const FLOATING_TAG: &str = "floating_tag";
/// It is larger than the policy allows.
pub const TOO_LARGE: &str = "too_large_for_policy";
/// It is built for another ABI, or for none.
pub const ABI: &str = "abi_not_allowed";

/// What to do where other bytes than those that are locked are meant: while the lock is enforced they are never kept.
pub const CHANGE_IS_MEANT: &str =
    "if the change is meant: lock.mode: record, larder prefetch --used, larder lock, and enforce again";

/// See the module's text. It is made anew when settings or names change, and never changes itself.
#[derive(Debug)]
pub struct Gate {
    is_open: bool,
    mode: Mode,
    rules: Vec<Rule>,
    floating_tags: FloatingTags,
    largest: Option<ByteSize>,
    abi: Vec<Pattern>,
    /// Of signatures, where no rule says it.
    pub(super) signatures: Demand,
    catalog: Option<Arc<Catalog>>,
    locked: Option<Arc<Locked>>,
}

/// What is judged.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'s> {
    /// The plugin's name; `None` where the catalog has none for the reference.
    pub name: Option<&'s PluginName>,
    /// The version that the catalog makes of the reference, or a local file's.
    pub version: &'s Version,
    /// Where it lies; `None` for a local file.
    pub reference: Option<&'s Reference>,
}

/// What is said of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// See [`Subject::name`].
    pub name: Option<PluginName>,
    /// See [`Subject::version`].
    pub version: Version,
    /// Whether it may be served.
    pub verdict: Result<(), Refusal>,
}

/// Why something is not served, or not fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable word for answers, logs and metrics.
    pub code: &'static str,
    /// True when nobody who is believed stands for it; else it is not allowed.
    pub is_untrusted: bool,
    /// What is refused, and by which setting.
    pub detail: String,
    /// What to do next.
    pub hint: String,
}

impl Gate {
    /// Nothing is demanded.
    pub fn open() -> Self {
        Self {
            is_open: true,
            mode: Mode::Online,
            rules: Vec::new(),
            floating_tags: FloatingTags::Allow,
            largest: None,
            abi: Vec::new(),
            signatures: Demand::none(),
            catalog: None,
            locked: None,
        }
    }

    /// What the settings demand, which were found to be without fault; `keys` are those of the files that they name, and
    /// `catalog` says what references stand for.
    pub fn new(config: &Config, keys: &KeyFiles, catalog: Arc<Catalog>) -> Self {
        let signatures = demand(&config.signatures, keys);
        let is_open = config.mode == Mode::Online
            && config.rules.is_empty()
            && config.floating_tags == FloatingTags::Allow
            && config.largest.is_none()
            && config.abi.is_empty()
            && signatures.is_off();
        Self {
            is_open,
            mode: config.mode,
            rules: config.rules.iter().map(|rule| Rule::new(rule, &config.signatures, keys)).collect(),
            floating_tags: config.floating_tags,
            largest: config.largest,
            abi: config.abi.iter().map(|abi| glob_of(abi)).collect(),
            signatures,
            catalog: Some(catalog),
            locked: None,
        }
    }

    /// The same, going by a lock file too.
    pub fn with_lock(self, locked: Option<Locked>) -> Self {
        let is_open = self.is_open && !locked.as_ref().is_some_and(Locked::is_enforced);
        Self { is_open, locked: locked.map(Arc::new), ..self }
    }

    /// True when a lock that is enforced has other bytes for `reference`.
    pub fn has_locked_others(&self, reference: &Reference, present: &Present) -> bool {
        self.enforced().is_some_and(|locked| locked.differs(None, reference, present).is_some())
    }

    /// The lock file in use.
    pub fn locked(&self) -> Option<&Arc<Locked>> {
        self.locked.as_ref()
    }

    /// The same, where requests are judged by it.
    pub fn enforced(&self) -> Option<&Arc<Locked>> {
        self.locked().filter(|locked| locked.is_enforced())
    }

    /// True when there is nothing to judge: whoever serves need not ask.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether a registry may be asked for it.
    pub fn mode(&self, subject: Subject<'_>) -> Mode {
        self.rule(subject).and_then(|(_, rule)| rule.mode).unwrap_or(self.mode)
    }

    /// Whether it may be asked for and served, as far as its name and place go.
    ///
    /// # Errors
    /// `not_allowed`, `floating_tag` or `not_locked`.
    pub fn admits(&self, subject: Subject<'_>) -> Result<(), Refusal> {
        if let (Some(locked), Some(reference)) = (&self.locked, subject.reference)
            && locked.misses(subject.asked(), reference)
        {
            let detail = format!("{subject} does not stand in the lock file (lock.unlisted)");
            return Err(Refusal::not_allowed(
                NOT_LOCKED,
                detail,
                "ask for what is locked; to lock more: lock.mode: record, fetch it, larder lock, enforce again",
            ));
        }
        if let Some((n, _)) = self.rule(subject).filter(|(_, rule)| !rule.allow) {
            let detail = format!("{subject} is not allowed: policy.rules, rule {n}");
            return Err(Refusal::not_allowed(
                NOT_ALLOWED,
                detail,
                "ask for what the rules allow, or change them",
            ));
        }
        let floating = || {
            let reference = subject.reference.filter(|reference| reference.is_mutable())?;
            reference.tag().filter(|tag| !is_whole_version(tag))
        };
        if self.floating_tags == FloatingTags::Deny
            && let Some(tag) = floating()
        {
            let detail =
                format!("{subject}: the tag '{tag}' may come to mean anything (policy.floating_tags)");
            return Err(Refusal::not_allowed(FLOATING_TAG, detail, "ask for a whole version, such as 1.2.3"));
        }
        Ok(())
    }

    /// Whether what it points to may be kept and served.
    ///
    /// # Errors
    /// `lock_mismatch`, `too_large_for_policy` or `abi_not_allowed`; and those of [`Gate::trusts`].
    pub fn takes(&self, subject: Subject<'_>, present: &Present) -> Result<(), Refusal> {
        self.keeps_to_lock(subject, present)?;
        let module = &present.module;
        if let Some(largest) = self.largest.filter(|largest| module.size > largest.as_u64()) {
            let detail =
                format!("{subject}: the module has {} bytes, over policy.largest ({largest})", module.size);
            return Err(Refusal::not_allowed(
                TOO_LARGE,
                detail,
                "raise policy.largest, or push a smaller one",
            ));
        }
        let has = module.abi.as_deref();
        if !self.abi.is_empty() && !has.is_some_and(|abi| self.abi.iter().any(|glob| glob.matches(abi))) {
            let has = has.map_or("no Proxy-Wasm ABI".into(), |abi| format!("the Proxy-Wasm ABI {abi}"));
            let globs: Vec<_> = self.abi.iter().map(Pattern::as_str).collect();
            let detail = format!("{subject}: the module has {has}; policy.abi wants {}", globs.join(" or "));
            return Err(Refusal::not_allowed(ABI, detail, "build it for an ABI that policy.abi names"));
        }
        self.trusts(subject, &present.manifest, present.signatures.as_deref())
    }

    /// Whether what it points to are the bytes that are locked, as far as a lock that is enforced has any for it.
    ///
    /// # Errors
    /// `lock_mismatch`.
    pub fn keeps_to_lock(&self, subject: Subject<'_>, present: &Present) -> Result<(), Refusal> {
        let (Some(locked), Some(reference)) = (self.enforced(), subject.reference) else { return Ok(()) };
        let other = locked.differs(subject.asked(), reference, present);
        other.map_or(Ok(()), |other| Err(Refusal::lock_mismatch(reference, &other)))
    }

    /// As [`Gate::mode`], of a reference alone: the least strict that the catalog knows a way to.
    pub fn mode_of(&self, reference: &Reference) -> Mode {
        if self.rules.is_empty() {
            return self.mode;
        }
        self.each(reference, |subject| self.admits(subject).is_ok().then(|| self.mode(subject)))
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.mode)
    }

    /// As [`Gate::admits`], of a reference alone.
    ///
    /// # Errors
    /// As there.
    pub fn admits_reference(&self, reference: &Reference) -> Result<(), Refusal> {
        any(self.each(reference, |subject| self.admits(subject)))
    }

    /// As [`Gate::takes`], of a reference alone.
    ///
    /// # Errors
    /// As there.
    pub fn takes_reference(&self, reference: &Reference, present: &Present) -> Result<(), Refusal> {
        any(self.each(reference, |subject| self.admits(subject).and_then(|()| self.takes(subject, present))))
    }

    /// What is said of all that a reference stands for, when it points to `present`: name, version, verdict.
    pub fn verdicts(&self, reference: &Reference, present: &Present) -> Vec<Judged> {
        self.each(reference, |subject| Judged {
            name: subject.name.cloned(),
            version: subject.version.clone(),
            verdict: self.admits(subject).and_then(|()| self.takes(subject, present)),
        })
    }

    /// The rule that decides, counted from 1.
    pub(super) fn rule(&self, subject: Subject<'_>) -> Option<(usize, &Rule)> {
        self.rules.iter().enumerate().find(|(_, rule)| rule.fits(subject)).map(|(n, rule)| (n + 1, rule))
    }

    /// What `judge` says of all that a reference stands for; of the reference without a name, where that is nothing.
    pub(super) fn each<T>(&self, reference: &Reference, judge: impl Fn(Subject<'_>) -> T) -> Vec<T> {
        let meanings = self.catalog.as_deref().map(|catalog| catalog.meanings(reference)).unwrap_or_default();
        if meanings.is_empty() {
            let version = version_of(reference);
            return vec![judge(Subject { name: None, version: &version, reference: Some(reference) })];
        }
        let subject = |(name, version): &(PluginName, Version)| {
            judge(Subject { name: Some(name), version, reference: Some(reference) })
        };
        meanings.iter().map(subject).collect()
    }
}

/// One is enough; else the first refusal.
pub(super) fn any(verdicts: Vec<Result<(), Refusal>>) -> Result<(), Refusal> {
    let is_any = verdicts.iter().any(Result::is_ok);
    verdicts.into_iter().find(|verdict| verdict.is_ok() == is_any).unwrap_or(Ok(()))
}

/// A tag that names one release: three numbers, with what may stand before and behind them (`v1.2.3-rc.1`).
fn is_whole_version(tag: &str) -> bool {
    let bare = tag.strip_prefix('v').unwrap_or(tag);
    let release = bare.split(['-', '_']).next().unwrap_or_default();
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    release.split('.').count() >= 3 && release.split('.').take(3).all(is_number)
}

impl Refusal {
    /// Of bytes that are not those of a lock.
    pub fn lock_mismatch(reference: &Reference, other: &Other) -> Self {
        Self {
            code: LOCK_MISMATCH,
            is_untrusted: true,
            detail: format!("{reference}: {other}"),
            hint: CHANGE_IS_MEANT.into(),
        }
    }

    fn not_allowed(code: &'static str, detail: String, hint: &str) -> Self {
        Self { code, is_untrusted: false, detail, hint: hint.into() }
    }
}

impl<'s> Subject<'s> {
    /// Its name and version, where it has a name.
    fn asked(&self) -> Option<(&'s PluginName, &'s Version)> {
        self.name.map(|name| (name, self.version))
    }
}

impl std::fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.reference, self.name) {
            (Some(reference), Some(name)) => write!(f, "{name} ({reference})"),
            (Some(reference), None) => write!(f, "{reference}"),
            (None, Some(name)) => write!(f, "the local file of {name} {}", self.version),
            (None, None) => write!(f, "a local file"),
        }
    }
}
