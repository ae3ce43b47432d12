//! A registry that takes pushes, counts them, and does so in the ways that others have.

use super::scripted::{Act, Ask, Scripted};
use larder::oci::Digest;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Its ways.
#[derive(Clone, Copy, Default)]
pub struct Ways {
    /// `Location` is a path, and not a URL.
    pub relative: bool,
    /// Answer to a chunk, in place of taking it.
    pub refuses_chunks: Option<u16>,
    /// `OCI-Chunk-Min-Length`.
    pub least: Option<usize>,
    /// Lists referrers.
    pub lists: bool,
}

/// What happens to a request before it is answered truly: it may take a part of an upload's chunk.
type Meddle = dyn Fn(&Ask, &mut Vec<u8>) -> Option<Act> + Send + Sync;

#[derive(Default)]
struct State {
    uploads: HashMap<String, Vec<u8>>,
    begun: usize,
    /// Blobs and manifests, in the order in which they were whole: their paths.
    whole: Vec<String>,
    /// Uploads that were cancelled: how many bytes they had.
    cancelled: Vec<usize>,
}

/// See the module's text.
#[derive(Clone)]
pub struct Writable {
    pub registry: Scripted,
    state: Arc<Mutex<State>>,
    ways: Ways,
}

impl Writable {
    pub fn start(ways: Ways) -> Self {
        let this = Self { registry: Scripted::start(), state: Arc::default(), ways };
        this.meddle(|_, _| None);
        this
    }

    /// From now on `meddle` sees each request first, with what its upload has so far.
    pub fn meddle(&self, meddle: impl Fn(&Ask, &mut Vec<u8>) -> Option<Act> + Send + Sync + 'static) {
        let this = self.clone();
        self.registry.script(move |ask, truth| this.answer(ask, truth, &meddle));
    }

    /// What is whole, in the order in which it became so: paths behind `/v2/`.
    pub fn whole(&self) -> Vec<String> {
        self.state.lock().unwrap().whole.clone()
    }

    pub fn cancelled(&self) -> Vec<usize> {
        self.state.lock().unwrap().cancelled.clone()
    }

    /// How many requests with this method were made.
    pub fn count(&self, method: &str) -> usize {
        self.registry.count(|ask| ask.method == method)
    }

    fn answer(&self, ask: &Ask, truth: Act, meddle: &Meddle) -> Act {
        let path = ask.path.split('?').next().unwrap();
        let mut state = self.state.lock().unwrap();
        let id = path.split_once("/blobs/uploads/").map(|(_, id)| id.to_owned());
        let mut upload = id.as_ref().and_then(|id| state.uploads.get(id)).cloned().unwrap_or_default();
        let meddled = meddle(ask, &mut upload);
        if let Some(id) = id.as_ref().filter(|id| state.uploads.contains_key(*id)) {
            state.uploads.insert(id.clone(), upload.clone());
        }
        if let Some(act) = meddled {
            return act;
        }
        let repository = path.trim_start_matches("/v2/").split("/blobs/").next().unwrap();
        match (ask.method.as_str(), id) {
            ("POST", Some(_)) => {
                state.begun += 1;
                let id = format!("u{}", state.begun);
                state.uploads.insert(id.clone(), Vec::new());
                let act = Act::status(202).header("Location", &self.location(repository, &id));
                match self.ways.least {
                    Some(least) => act.header("OCI-Chunk-Min-Length", &least.to_string()),
                    None => act,
                }
            }
            (_, Some(id)) if !state.uploads.contains_key(&id) => {
                Act::status(404).body(r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#)
            }
            (method, Some(id)) => {
                assert!(ask.path.contains("_state=a%2Fb"), "its query is kept: {}", ask.path);
                match method {
                    "PATCH" => self.chunk(&mut state, ask, repository, &id, upload),
                    "GET" => Act::status(204)
                        .header("Location", &self.location(repository, &id))
                        .header("Range", &format!("0-{}", upload.len().saturating_sub(1))),
                    "DELETE" => {
                        state.uploads.remove(&id);
                        state.cancelled.push(upload.len());
                        Act::status(204)
                    }
                    "PUT" => self.finish(&mut state, ask, repository, &id, upload),
                    other => panic!("{other} {path}"),
                }
            }
            ("PUT", None) => self.manifest(&mut state, ask, path),
            _ if path.contains("/referrers/") && !self.ways.lists => Act::status(404),
            _ => truth,
        }
    }

    fn location(&self, repository: &str, id: &str) -> String {
        let path = format!("/v2/{repository}/blobs/uploads/{id}?_state=a%2Fb");
        if self.ways.relative { path } else { format!("http://{}{path}", self.registry.host()) }
    }

    fn chunk(&self, state: &mut State, ask: &Ask, repository: &str, id: &str, mut upload: Vec<u8>) -> Act {
        if let Some(status) = self.ways.refuses_chunks {
            return Act::status(status);
        }
        let from = ask.headers["content-range"].split('-').next().unwrap().parse::<usize>().unwrap();
        if from != upload.len() {
            return Act::status(416).header("Range", &format!("0-{}", upload.len().saturating_sub(1)));
        }
        upload.extend_from_slice(&ask.body);
        let act = Act::status(202)
            .header("Location", &self.location(repository, id))
            .header("Range", &format!("0-{}", upload.len() - 1));
        state.uploads.insert(id.to_owned(), upload);
        act
    }

    fn finish(&self, state: &mut State, ask: &Ask, repository: &str, id: &str, mut upload: Vec<u8>) -> Act {
        upload.extend_from_slice(&ask.body);
        let digest = Digest::of(&upload).to_string();
        if !ask.path.ends_with(&format!("&digest={}", digest.replace(':', "%3A"))) {
            return Act::status(400).body(r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
        }
        state.uploads.remove(id);
        let path = format!("{repository}/blobs/{digest}");
        self.registry.put_raw(&format!("/v2/{path}"), "application/octet-stream", &upload);
        state.whole.push(path);
        Act::status(201).header("Docker-Content-Digest", &digest)
    }

    fn manifest(&self, state: &mut State, ask: &Ask, path: &str) -> Act {
        let (repository, selector) = path.split_once("/manifests/").unwrap();
        let digest = Digest::of(&ask.body).to_string();
        for at in [selector, &digest] {
            self.registry.put_raw(
                &format!("{repository}/manifests/{at}"),
                &ask.headers["content-type"],
                &ask.body,
            );
        }
        state.whole.push(path.trim_start_matches("/v2/").to_owned());
        let act = Act::status(201).header("Docker-Content-Digest", &digest);
        if self.ways.lists { act.header("OCI-Subject", "sha256:0") } else { act }
    }
}
