//! Bundles: plugins in one file, written here and read where no registry is, and by the tools of others.

use crate::support::artifact::{self, Artifact, shapes};
use crate::support::larder::{Home, settings};
use crate::support::registry::Registry;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A registry with every shape, and their names with versions.
fn filled() -> (Registry, Vec<(&'static str, Artifact)>) {
    let registry = Registry::plain();
    for (shape, artifact) in shapes() {
        registry.push(&format!("plugins/{shape}"), "1.0.0", &artifact);
    }
    (registry, shapes())
}

fn names(shapes: &[(&'static str, Artifact)]) -> Vec<String> {
    shapes.iter().map(|(shape, _)| format!("{shape}@1.0.0")).collect()
}

/// Runs a command of larder in a home.
fn run(home: &Home, words: &[&str]) -> Output {
    home.command(&[]).args(words).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The same, which has to go well.
fn well(home: &Home, words: &[&str]) -> String {
    let output = run(home, words);
    assert!(output.status.success(), "{words:?}: {}", text(&output));
    text(&output)
}

fn export(home: &Home, names: &[String], to: &Path) -> String {
    let mut words = vec!["export", "-o", to.to_str().unwrap()];
    words.extend(names.iter().map(String::as_str));
    well(home, &words)
}

/// Another site's home: the same names, and nobody at the registry's address.
fn away(registry: &str) -> Home {
    Home::in_memory(&settings(registry))
}

#[test]
fn every_shape_is_carried_in_a_file_and_served_byte_for_byte_where_no_registry_answers() {
    let (mut registry, shapes) = filled();
    let host = registry.host();
    let home = Home::in_memory(&settings(&host));
    let bundle = home.path().join("plugins.tar");
    export(&home, &names(&shapes), &bundle);
    assert!(!home.path().join("plugins.tar.parts").exists(), "parts of a complete bundle are taken away");
    registry.stop();
    let there = away(&host);
    let told = well(&there, &["import", bundle.to_str().unwrap()]);
    assert!(told.contains(&format!("{} plugins imported", shapes.len())), "{told}");
    let again = well(&there, &["import", bundle.to_str().unwrap()]);
    assert!(
        again.contains(&format!("0 plugins imported (0 B), {} held already, 0 left out", shapes.len())),
        "{again}"
    );
    let larder = there.start();
    for (shape, artifact) in shapes {
        let reply = larder.get(&format!("/plugins/{shape}/1.0.0/plugin.wasm"));
        assert_eq!((reply.status, &reply.body), (200, &artifact.module), "{shape}: {}", reply.text());
        assert_eq!(reply.header("larder-manifest-digest"), artifact.manifest.digest().to_string(), "{shape}");
        assert!(
            reply.header("cache-status").contains("; hit; "),
            "{shape}: {}",
            reply.header("cache-status")
        );
    }
}
