//! A wall clock that is wrong, or jumps, costs nothing: not what is held, and no storm of questions.

use crate::support::artifact::{module, raw};
use crate::support::larder::{Home, settings};
use crate::support::scripted::Scripted;

/// What starts a program with a wall clock that `settings` shift; the monotonic clock stays as it is.
fn faketime(settings: &[&str]) -> Vec<String> {
    let folders = std::fs::read_dir("/usr/lib").unwrap().map(|folder| folder.unwrap().path());
    let mut libraries = folders.map(|folder| folder.join("faketime/libfaketime.so.1"));
    let library = libraries.find(|library| library.exists()).expect("faketime is installed");
    // Not by its program, which stands between us and what it starts.
    let preload = format!("LD_PRELOAD={}", library.display());
    let words = ["env", &preload, "FAKETIME_DONT_FAKE_MONOTONIC=1"];
    words.iter().chain(settings).map(|word| (*word).to_owned()).collect()
}

const PATH: &str = "/plugins/x/1/plugin.wasm";

#[test]
fn a_start_days_before_or_after_the_last_one_serves_what_is_held_and_evicts_nothing() {
    let registry = Scripted::start();
    let bytes = module("x", 5000);
    registry.put("plugins/x", "1", &raw(&bytes));
    let larder = Home::new(&settings(&registry.host())).start();
    assert_eq!(larder.get(PATH).body, bytes);
    registry.down();
    let mut home = larder.kill();
    for shift in ["+2d", "-2d", "+4000d", "+0"] {
        let larder = home.under(&faketime(&[&format!("FAKETIME={shift}")])).start();
        for _ in 0..20 {
            let reply = larder.get(PATH);
            assert_eq!(
                (reply.status, &reply.body),
                (200, &bytes),
                "{shift}: {}",
                reply.header("cache-status")
            );
        }
        assert_eq!(larder.metric("larder_evictions_total") + larder.metric("larder_quarantined_total"), 0.0);
        home = larder.kill();
    }
    // Without rest it would be one for each answer. How many attempts there were says how long those lives were.
    assert!(registry.asked().len() < 40, "{} questions for one tag in five lives", registry.asked().len());
}

#[test]
fn a_clock_that_jumps_while_larder_runs_ages_nothing() {
    let registry = Scripted::start();
    let bytes = module("x", 5000);
    registry.put("plugins/x", "1", &raw(&bytes));
    let home = Home::new(&settings(&registry.host()));
    let time = home.path().join("time");
    std::fs::write(&time, "+0").unwrap();
    let file = format!("FAKETIME_TIMESTAMP_FILE={}", time.display());
    let larder = home.under(&faketime(&["FAKETIME_NO_CACHE=1", &file])).start();
    assert_eq!(larder.get(PATH).body, bytes);
    let asked = registry.asked().len();
    for shift in ["+2d", "-2d", "+400d"] {
        std::fs::write(&time, shift).unwrap();
        let reply = larder.get(PATH);
        assert_eq!((reply.status, &reply.body), (200, &bytes), "{shift}");
        assert!(
            reply.header("cache-status").contains("; hit; ttl="),
            "{shift}: {}",
            reply.header("cache-status")
        );
    }
    assert_eq!(registry.asked().len(), asked, "what was fresh stays fresh");
    let year = |line: &serde_json::Value| line["timestamp"].as_str().unwrap()[..4].parse::<u32>().unwrap();
    crate::support::eventually("a line from next year", || {
        let log = larder.log();
        (year(log.last()?) > year(log.first()?)).then_some(())
    });
}
