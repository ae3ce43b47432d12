//! Plugins that are fetched before anybody asks for them: on request, and at the start.

use super::{Administration, Refused};
use crate::failures::Failure;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};

/// Most plugins of one request.
pub const MOST: usize = 1000;

/// What to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// `all` (of the catalog), `used` (known of already), names, and names with versions (`NAME@VERSION`).
    pub plugins: Vec<String>,
}

/// A list of plugins that is being fetched, or was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its number, from 1.
    pub id: u64,
    /// Why: `prefetch` or `warm_up`.
    pub kind: String,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// When all were fetched or had failed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// How many there are.
    pub total: usize,
    /// How many are held.
    pub held: usize,
    /// How many have failed.
    pub failed: usize,
    /// Each of them.
    pub items: Vec<Item>,
}

/// One plugin of a [`Job`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The plugin's name.
    pub plugin: String,
    /// The version, where one was asked for or the catalog has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// How far it is.
    pub state: Progress,
    /// What it was fetched by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Bytes received of a layer that is being fetched.
    pub received: u64,
    /// Bytes expected of it; 0 until that is known.
    pub expected: u64,
    /// Size of the module in bytes, once it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// How far a plugin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Progress {
    Waiting,
    Fetching,
    Held,
    Failed,
}

/// All jobs, the last ones.
#[derive(Default)]
pub struct Jobs(Mutex<Vec<Job>>);

impl Jobs {
    /// The last jobs, newest first.
    pub fn list(&self) -> Vec<Job> {
        let jobs = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        jobs.iter().rev().cloned().collect()
    }
}

impl Administration {
    /// Begins to fetch plugins, and tells what was begun.
    ///
    /// # Errors
    /// None is named, or too many are.
    pub fn prefetch(self: &Arc<Self>, _wanted: &Wanted) -> Result<Job, Refused> {
        Err(Refused::new(super::Kind::Bad, "nothing_named", "no plugin is named", ""))
    }

    /// The last jobs, newest first.
    pub fn jobs(&self) -> Vec<Job> {
        self.jobs.list()
    }
}
