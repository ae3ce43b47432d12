//! The status page in a real browser, before a real larder: what a person sees and clicks.

use crate::support::artifact::{module, raw};
use crate::support::browser::{Browser, ENTER, ESCAPE, HOME};
use crate::support::client::{self, Reply};
use crate::support::eventually;
use crate::support::heart::files;
use crate::support::larder::{Home, Larder, memory};
use crate::support::pki::Pki;
use crate::support::scripted::{Act, Scripted};
use larder::oci::Digest;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// The registry that answers, and the one that does not.
const PUBLIC: &str = "higress-registry.cn-hangzhou.cr.aliyuncs.com";
const CORP: &str = "harbor.corp";
/// Plugins that are held, and their sizes.
const HELD: [(&str, &str, usize); 8] = [
    ("ai-cache", "2.0.0", 1_913_000),
    ("ai-proxy", "2.0.1", 3_120_000),
    ("ai-statistics", "2.0.0", 1_240_000),
    ("basic-auth", "2.0.0", 412_000),
    ("cors", "2.0.0", 388_000),
    ("jwt-auth", "2.0.0", 655_000),
    ("key-auth", "2.0.0", 401_000),
    ("request-block", "2.0.0", 377_000),
];
/// What markup would do if it were believed.
const HOSTILE: &str = "<img src=x onerror=window.hurt=1><script>window.hurt=2</script>\u{202e}'\"&amp;";

/// A larder whose registries have their real names, and are one script.
struct Scene {
    registry: Scripted,
    larder: Larder,
    _catalog: TempDir,
}

impl Scene {
    /// [`HELD`] can be had, `waf` lies at a registry that is down, and nothing was asked yet.
    fn new(more: &str) -> Self {
        let registry = Scripted::start();
        registry.script(|ask, truth| if ask.path.contains(CORP) { Act::status(503) } else { truth });
        for (name, version, size) in HELD {
            registry.put(&format!("plugins/{name}"), version, &raw(&module(name, size)));
        }
        let catalog = memory();
        let lines =
            HELD.iter().map(|(name, version, _)| format!("{name}={PUBLIC}/plugins/{name}:{version}\n"));
        let lines = lines.collect::<String>() + &format!("waf={CORP}/plugins/waf:1.0.0\n");
        let file = catalog.path().join("plugins.properties");
        std::fs::write(&file, lines).unwrap();
        // They are asked through a proxy, which need not know where they are.
        let home = Home::in_memory(&format!(
            "catalog:\n  builtin: false\n  template: '{PUBLIC}/plugins/{{name}}:{{version}}'\n  files: ['{}']\n\
             registry:\n  plain_http: ['{PUBLIC}', '{CORP}']\n  attempts: 1\n  proxy: {{url: 'http://{}', no_proxy: []}}\n\
             lifetimes: {{transient: 1ms}}\nserver: {{drain: 0s}}\n{more}",
            file.display(),
            registry.address
        ));
        Self { registry, larder: home.start(), _catalog: catalog }
    }

    /// The same after gateways have asked for everything, and for something that does not exist.
    fn used() -> Self {
        let scene = Self::new("");
        for (name, version, _) in HELD {
            assert_eq!(scene.ask(name, version).status, 200, "{name}");
        }
        for _ in 0..6 {
            assert!(scene.ask("waf", "1.0.0").status >= 502);
        }
        assert_eq!(scene.ask("ai-poxy", "2.0.0").status, 404);
        scene
    }

    fn ask(&self, name: &str, version: &str) -> Reply {
        self.larder.get(&format!("/plugins/{name}/{version}/plugin.wasm"))
    }

    fn url(&self) -> String {
        format!("http://{}/", self.larder.admin)
    }

    /// The page, open in a browser and filled.
    fn opened(&self) -> Browser {
        let browser = Browser::start();
        browser.goto(&self.url());
        browser.until("the page is filled", "document.querySelector('#headline').textContent");
        browser
    }

    /// Whether the API lists a plugin as held.
    fn holds(&self, name: &str) -> bool {
        let entries = self.api("/api/v1/entries?limit=1000")["entries"].take();
        entries.as_array().unwrap().iter().any(|entry| entry["plugin"] == name && !entry["digest"].is_null())
    }

    fn api(&self, path: &str) -> Value {
        let text = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.larder.admin);
        client::raw(self.larder.admin, text.as_bytes()).unwrap().json()
    }
}

/// Names of the plugins that a person sees in the table.
fn names(browser: &Browser) -> Vec<String> {
    let body = "return [...document.querySelectorAll('#entries .opens')].map((e) => e.innerText)";
    serde_json::from_value(browser.script(body, json!([]))).unwrap()
}

fn until_names(browser: &Browser, wanted: &[&str]) {
    let quoted: Vec<_> = wanted.iter().map(|name| format!("'{name}'")).collect();
    let listed = "[...document.querySelectorAll('#entries .opens')].map((e) => e.innerText).join()";
    browser.until(&format!("{wanted:?} are listed"), &format!("{listed} === [{}].join()", quoted.join(",")));
}

/// Waits until a message has `words`, and closes all messages.
fn told(browser: &Browser, words: &str) {
    browser.sees("#said", words);
    close_messages(browser);
}

/// Clicks for the settings to be read again until a message has `words`: larder looks by itself too, and reads once at a time.
fn reloaded(browser: &Browser, words: &str) {
    eventually(words, || {
        browser.click("#reload");
        browser.until("an answer", "document.querySelector('#said').textContent.trim()");
        let said = browser.text("#said");
        close_messages(browser);
        said.contains(words).then_some(())
    });
}

fn close_messages(browser: &Browser) {
    browser
        .script("document.querySelectorAll('#said button').forEach((button) => button.click())", json!([]));
}

/// Has the page ask at once, as it does when a person comes back to it.
fn come_back(browser: &Browser) {
    browser.script("document.dispatchEvent(new Event('visibilitychange'))", json!([]));
}

/// A button of the row of a plugin.
fn button(what: &str, plugin: &str) -> String {
    format!("button[aria-label^='{what} {plugin}']")
}

/// Fails if the browser complained: an error of a script, or something that the page's policy forbids.
fn quiet(browser: &Browser) {
    let log = browser.log();
    assert!(log.is_empty(), "{log:#?}");
}

/// The whole page as one picture, if a file for it is named.
fn picture(browser: &Browser, variable: &str, width: u64, height: u64) {
    let Ok(path) = std::env::var(variable) else { return };
    let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 400});
    browser.devtools("Emulation.setDeviceMetricsOverride", size);
    browser.script("scrollTo(0, 0)", json!([]));
    browser.until("it is drawn again", "Math.abs(document.querySelector('#traffic-chart svg').getBoundingClientRect().width - document.querySelector('#traffic-chart').clientWidth) < 2");
    std::fs::write(path, browser.picture()).unwrap();
    browser.devtools("Emulation.clearDeviceMetricsOverride", json!({}));
}

/// An hour as a gateway fleet makes it, in place of the seconds that a test lasts.
fn with_an_hour(browser: &Browser) {
    let body = "
        const real = window.fetch, end = Math.floor(Date.now() / 30000) * 30;
        const points = Array.from({length: 120}, (_, n) => {
            const wave = 90 + 40 * Math.sin(n / 17) + 14 * Math.sin(n * n);
            const burst = n > 96 && n < 104, misses = burst ? n % 7 + 2 : n % 29 ? 0 : 1;
            return {at: end - (119 - n) * 30, hits: Math.round(wave), misses, stale: 0, errors: n > 107 ? 4 + n % 5 : 0,
                    sent_bytes: Math.round(wave * 1.1e6), fetched_bytes: misses * 1.1e6};
        });
        const hour = JSON.stringify({step_seconds: 30, points});
        window.fetch = (url, options) => url === 'api/v1/history' ? Promise.resolve(new Response(hour)) : real(url, options);";
    browser.script(body, json!([]));
}

#[test]
fn one_look_tells_what_is_held_what_failed_why_and_what_to_do() {
    let scene = Scene::used();
    let browser = scene.opened();
    let all = [&HELD.map(|(name, ..)| name)[..], &["waf"]].concat();
    until_names(&browser, &all);
    browser.sees("#headline", "needs a look");
    browser.sees("#warnings", CORP);
    let refused = scene.ask("waf", "1.0.0").json();
    come_back(&browser);
    for said in [refused["detail"].as_str().unwrap(), refused["hint"].as_str().unwrap()] {
        browser.sees("#failures", said);
    }
    browser.sees("#failures", "/plugins/ai-poxy/2.0.0/plugin.wasm");
    browser.sees("#registries", &format!("{CORP}\n"));
    // Left alone for a while, or asked by one at a time after that.
    browser.until(
        "it is said to be down",
        "document.querySelector('#registries .badge.failed, #registries .badge.stale')",
    );
    browser.sees("#registries", "answers");

    browser.keys("#text", "auth");
    until_names(&browser, &["basic-auth", "jwt-auth", "key-auth"]);
    browser.click("button[data-sort=size]");
    until_names(&browser, &["jwt-auth", "basic-auth", "key-auth"]);
    browser.script("document.querySelector('#text').value = ''", json!([]));
    browser.click("#state option[value=failed], #state option:nth-child(5)");
    until_names(&browser, &["waf"]);
    browser.click("#state option:first-child");
    browser.keys("#text", "cors");
    until_names(&browser, &["cors"]);
    browser.keys(".opens", ENTER);
    browser.sees(".more", &Digest::of(&module("cors", 388_000)).to_string());
    browser.sees(".more", "388,000 bytes");
    for word in ["First used", "Last used", "Checked"] {
        browser.sees(".more", word);
    }
    assert_eq!(browser.script("return document.activeElement.className", json!([])), "opens");
    browser.click(".more button");
    browser.sees("#told-text", &format!("{PUBLIC}/plugins/cors:2.0.0"));
    browser.click("#told-close");
    browser.script("document.querySelector('#text').value = ''", json!([]));
    browser.click("button[data-sort=plugin]");

    with_an_hour(&browser);
    come_back(&browser);
    browser
        .until("the hour is drawn", "document.querySelectorAll('#requests-chart rect.hits').length === 120");
    browser.keys("#requests-chart", "\u{e012}");
    browser.sees("#requests-readout", "hits");
    browser.script("document.activeElement.blur()", json!([]));
    picture(&browser, "LARDER_SCREENSHOT", 1180, 1578);

    // Nothing came from elsewhere, and every control has a name for who does not see it.
    let body = "return performance.getEntriesByType('resource').map((e) => new URL(e.name).origin)";
    let origins: Vec<String> = serde_json::from_value(browser.script(body, json!([]))).unwrap();
    assert!(origins.len() > 6 && origins.iter().all(|origin| scene.url().starts_with(origin)), "{origins:?}");
    let tree = browser.devtools("Accessibility.getFullAXTree", json!({}));
    let mut controls = 0;
    for node in tree["nodes"].as_array().unwrap().iter().filter(|node| node["ignored"] == false) {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        if ["button", "textbox", "searchbox", "combobox", "slider", "progressbar", "meter", "table"]
            .contains(&role)
        {
            controls += 1;
            assert!(!node["name"]["value"].as_str().unwrap_or_default().is_empty(), "{node}");
        }
    }
    assert!(controls > 20, "{controls}");
    quiet(&browser);

    drop(scene.larder);
    come_back(&browser);
    browser.sees("#headline", "larder does not answer");
    browser.sees("#age", "Old");
    assert_eq!(names(&browser).len(), all.len(), "what was seen stays");
}

/// What was asked, as whoever asked counts it.
#[derive(Default)]
struct Load {
    hits: u64,
    misses: u64,
    errors: u64,
    sent: usize,
    fetched: usize,
}

impl Load {
    /// Asks for what was not asked for before, and then `hits` times again.
    fn held(&mut self, scene: &Scene, name: &str, hits: u64) {
        let (_, version, size) = HELD.into_iter().find(|(held, ..)| *held == name).unwrap();
        for _ in 0..=hits {
            let reply = scene.ask(name, version);
            assert_eq!((reply.status, reply.body.len()), (200, size), "{name}");
            self.sent += size;
        }
        self.misses += 1;
        self.hits += hits;
        self.fetched += size;
    }

    fn fails(&mut self, scene: &Scene, name: &str, times: u64) {
        for _ in 0..times {
            let reply = scene.ask(name, "1.0.0");
            assert!(reply.status >= 400, "{name}");
            self.sent += reply.body.len();
        }
        self.errors += times;
    }

    /// Waits until the page has the same numbers, and compares all that it makes of them.
    fn is_shown(&self, browser: &Browser) {
        let Self { hits, misses, errors, sent, fetched } = *self;
        let (asked, rate) = (hits + misses + errors, hits * 1000 / (hits + misses));
        let rate = format!("{}.{} %", rate / 10, rate % 10);
        let (all_sent, all_fetched) = (human(sent), human(fetched));
        come_back(browser);
        browser.sees("#numbers", &format!("{asked}\n{errors} errors among them"));
        let seen = browser.script(DRAWN, json!([]));
        let tiles = json!([
            ["Hit rate", rate, format!("{hits} hits, {misses} misses")],
            ["Requests", asked.to_string(), format!("{errors} errors among them")],
            ["Sent", all_sent, format!("{all_fetched} fetched")],
        ]);
        assert_eq!(seen["tiles"], tiles);
        assert_eq!(seen["requests"], format!("Hits{hits}Misses{misses}Errors{errors}Hit rate over 5 min"));
        assert_eq!(seen["traffic"], format!("Sent{all_sent}Fetched{all_fetched}"));
        // The half minute that goes on; the one before it has the rest where one ended just now.
        let counts = json!([hits, misses, errors]);
        assert_eq!(seen["told"], counts, "what is said of each step: {}", seen["steps"]);
        assert_eq!(seen["bars"], counts, "as high as their numbers");
        let near = |drawn: &Value, true_one: f64| (drawn.as_f64().unwrap() / true_one - 1.0).abs() < 0.01;
        assert_eq!(seen["apart"], true, "no step covers another: {seen}");
        assert!(near(&seen["rate"], hits as f64 / (hits + misses) as f64), "{seen}");
        assert!(near(&seen["sent"], sent as f64) && near(&seen["fetched"], fetched as f64), "{seen}");
        let row = [hits.to_string(), "0".into(), misses.to_string(), errors.to_string()];
        assert_eq!(seen["row"], json!([&row[..], &[rate, all_sent, all_fetched]].concat()));
    }
}

/// A size as the page has it.
fn human(bytes: usize) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 100.0 { format!("{mib:.1} MiB") } else { format!("{mib:.0} MiB") }
}

/// What the tiles, the charts and the table say of the last hour; heights are measured by the charts' own marks.
const DRAWN: &str = "
    const all = (what, of = document) => [...of.querySelectorAll(what)], words = (what) => document.querySelector(what).textContent;
    const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
    const marks = (chart, like) => all(`#${chart}-chart text`).map((t) => [t.textContent.match(like), Number(t.getAttribute('y')) - 4])
        .filter(([found]) => found).map(([found, y]) => [Number(found[1]), y]);
    const scale = (marks) => { const [top, up] = marks.at(-1), [, zero] = marks[0]; return (y) => ((zero - y) / (zero - up)) * top; };
    const [count, share] = [scale(marks('requests', /^([0-9]+)$/)), scale(marks('requests', /^([0-9]+) %$/).reverse())];
    const mib = scale([[0, marks('traffic', /^(0) B$/)[0][1]], marks('traffic', /^([0-9.]+) MiB$/).at(-1)]);
    const ups = (path) => document.querySelector(path).getAttribute('d').split(/[ML]/).slice(1).map((pair) => Number(pair.split(' ')[1]));
    const steps = all('#requests-chart title').map((t) => t.textContent);
    return {
        tiles: all('#numbers > div').slice(0, 3).map((tile) => all('dt, b, span', tile).map((e) => e.textContent)),
        requests: words('#requests-legend'), traffic: words('#traffic-legend'), steps,
        told: ['hit', 'miss', 'error'].map((word) => sum(steps.map((step) => Number(step.match(`([0-9]+) ${word}`)[1])))),
        bars: ['hits', 'misses', 'errors'].map((kind) => Math.round(sum(all(`#requests-chart rect.${kind}`)
            .map((bar) => count(Number(bar.getAttribute('y'))) - count(Number(bar.getAttribute('y')) + Number(bar.getAttribute('height'))))))),
        apart: all('#requests-chart rect.spot').map((spot) => spot.getBBox())
            .every((spot, n, spots) => !n || spot.x > spots[n - 1].x + spots[n - 1].width - 0.1),
        rate: share(ups('#requests-chart path.rate').at(-1)) / 100,
        sent: sum(ups('#traffic-chart path.sent:not(.area)').map(mib)) * 1048576,
        fetched: sum(ups('#traffic-chart path.fetched').map(mib)) * 1048576,
        row: all('#hour tbody tr:first-child td').map((cell) => cell.textContent),
    };";

#[test]
fn the_last_hour_has_exactly_what_was_asked() {
    let scene = Scene::new("");
    let mut load = Load::default();
    for (name, hits) in [("ai-cache", 4), ("cors", 6), ("jwt-auth", 3), ("key-auth", 0)] {
        load.held(&scene, name, hits);
    }
    load.fails(&scene, "waf", 5);
    load.fails(&scene, "ai-poxy", 2);
    // Neither is a request for a plugin.
    assert_eq!(scene.larder.get("/nothing").status, 404);
    assert_eq!(client::get(scene.larder.admin, "/metrics").status, 200);
    let browser = scene.opened();
    load.is_shown(&browser);
    // And while one looks on, at a step that is over.
    browser.keys("#requests-chart", HOME);
    let read = browser.text("#requests-readout");
    assert!(read.ends_with("0 hits, 0 misses, 0 errors"), "{read}");
    load.held(&scene, "ai-proxy", 8);
    load.fails(&scene, "waf", 3);
    load.is_shown(&browser);
    assert_eq!(browser.text("#requests-readout"), read, "what is being read stays");
    quiet(&browser);
}

#[test]
fn buttons_fetch_ask_again_and_purge_what_they_name_and_nothing_else() {
    let scene = Scene::new("");
    let browser = scene.opened();
    browser.sees("#headline", "All is well");
    browser.sees("#nothing", "Nothing yet");
    browser.keys("#wanted", &format!("ai-proxy@2.0.1 cors{ENTER}"));
    told(&browser, "Fetched 2 of 2 plugins");
    until_names(&browser, &["ai-proxy", "cors"]);
    browser.keys("#wanted", &format!("waf{ENTER}"));
    told(&browser, "Fetched 0 of 1 plugin");
    browser.sees("#jobs", "1 failed");
    browser.click("#prefetch-all");
    told(&browser, &format!("Fetched {} of 9 plugins", HELD.len()));

    // Asked again: nothing new, and then something new.
    browser.click(&button("Revalidate", "cors"));
    told(&browser, "cors:2.0.0: as it was");
    scene.registry.put("plugins/cors", "2.0.0", &raw(&module("cors, again", 5000)));
    browser.click(&button("Revalidate", "cors"));
    told(&browser, "cors:2.0.0: updated");
    assert_eq!(scene.ask("cors", "2.0.0").body.len(), 5000);

    // Purge asks first, says what would leave, and Cancel and Escape do nothing.
    for way in ["#sure-no", ""] {
        browser.click(&button("Purge", "jwt-auth"));
        browser.sees("#sure", "Purge 1 plugin?");
        browser.sees("#sure", &format!("{PUBLIC}/plugins/jwt-auth:2.0.0"));
        browser.sees("#sure", "640 KiB");
        assert!(!browser.text("#sure").contains("also what comes"), "no others");
        if way.is_empty() {
            browser.keys("#sure-no", ESCAPE)
        } else {
            browser.click(way)
        }
        browser.until("the dialog is closed", "!document.querySelector('#sure').open");
        assert!(scene.holds("jwt-auth"));
    }
    browser.click(&button("Purge", "jwt-auth"));
    browser.click("#sure-yes");
    told(&browser, "Purged 1 plugin");
    assert!(!scene.holds("jwt-auth") && scene.holds("key-auth"));

    // Those that were searched, and no others.
    browser.keys("#text", "auth");
    browser.sees("#purge-found", "Purge these 2");
    browser.click("#purge-found");
    browser.sees("#sure", "Purge 2 plugins?");
    browser.click("#sure-yes");
    told(&browser, "Purged 2 plugins");
    browser.sees("#nothing", "Nothing is like that");
    assert!(!scene.holds("key-auth") && !scene.holds("basic-auth") && scene.holds("cors"));

    // All: what came since is taken away as well, which is said before.
    browser.script("document.querySelector('#text').value = ''", json!([]));
    browser.click("button[data-sort=plugin]");
    browser.sees("#purge-found", "Purge all");
    browser.click("#purge-found");
    browser.sees("#sure", "also what comes until then");
    assert_eq!(scene.ask("key-auth", "2.0.0").status, 200);
    browser.click("#sure-yes");
    told(&browser, "Purged ");
    assert!(!scene.holds("key-auth") && !scene.holds("cors"));

    // What is held is another version than was asked for, which nobody has to find out.
    browser.keys("#wanted", &format!("cors@9.9.9 ai-proxy@2.0.1{ENTER}"));
    told(&browser, "cors 9.9.9: held as 2.0.0 (fallback)");
    browser.sees("#jobs", "cors 9.9.9: held as 2.0.0 (fallback)");
    assert!(!browser.text("#jobs").contains("ai-proxy 2.0.1: held as"));

    browser.click("#scrub");
    browser.sees("#care", "none damaged");
    quiet(&browser);
}

#[test]
fn settings_are_read_again_and_the_log_says_more_by_a_click() {
    let scene = Scene::new("");
    let browser = scene.opened();
    let file = scene.larder.home.path().join("larder.yaml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, good.clone() + "nonsense: 1\n").unwrap();
    reloaded(&browser, "nonsense");
    // It is said beside the button too, which moves by that.
    browser.sees("#settings", "newer ones are refused");
    std::fs::write(&file, good).unwrap();
    reloaded(&browser, "Reloaded");
    browser.click("#level option:nth-child(4)");
    told(&browser, "the log has debug");
    assert_eq!(scene.api("/api/v1/log")["level"], "debug");
    // Where it has the focus it stays what was chosen; elsewhere it is what larder says.
    browser
        .script("document.activeElement.blur(); document.querySelector('#level').value = 'error'", json!([]));
    come_back(&browser);
    browser.until("it is what is in use", "document.querySelector('#level').value === 'debug'");
}

#[test]
fn a_certificate_is_told_of_on_the_day_that_larder_warns_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make(folder.path());
    // An hour over, for the time that the test takes.
    let ends_in = |days: u64| pki.server(folder.path(), "ours", Duration::from_secs((days * 24 + 1) * 3600));
    let (certificate, key) = ends_in(7);
    let lines =
        format!("tls: {{data: {{certificate: '{}', key: '{}'}}}}\n", certificate.display(), key.display());
    let scene = Scene::new(&lines);
    let browser = scene.opened();
    browser.sees("#certificates", "good, ends in 7 d");
    browser.sees("#headline", "All is well");
    // Which larder sees by itself.
    ends_in(6);
    eventually("a certificate that runs out", || {
        come_back(&browser);
        browser.text("#certificates").contains("runs out in 6 d").then_some(())
    });
    browser.sees("#headline", "needs a look");
    quiet(&browser);
}

#[test]
fn who_has_no_token_sees_nothing_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, "a-token-of-32-characters-0123456789\n").unwrap();
    let scene = Scene::new(&format!("admin: {{token_file: '{}'}}\n", tokens.display()));
    assert_eq!(scene.ask("cors", "2.0.0").status, 200);
    let browser = Browser::start();
    browser.goto(&scene.url());
    browser.sees("#closed", "Who are you?");
    assert_eq!(browser.script("return document.activeElement.id", json!([])), "token");
    assert!(!browser.text("main").contains("cors"));
    browser.keys("#token", &format!("wrong{ENTER}"));
    browser.until("the field is empty again", "document.querySelector('#token').value === ''");
    browser.until("it is still closed", "!document.querySelector('#closed').hidden");
    browser.keys("#token", &format!("a-token-of-32-characters-0123456789{ENTER}"));
    until_names(&browser, &["cors"]);

    // The tab keeps it; the address and what a page elsewhere could read do not have it.
    browser.reload();
    until_names(&browser, &["cors"]);
    let kept = "return [location.href, document.cookie, JSON.stringify(localStorage)].join()";
    assert!(!browser.script(kept, json!([])).as_str().unwrap().contains("a-token"));

    // A change that goes without it is refused, and the page asks for it.
    browser.script(
        "const real = window.fetch;
         window.fetch = (url, options) => { if (options.method === 'POST') delete options.headers.Authorization; return real(url, options); }",
        json!([]),
    );
    browser.click(&button("Purge", "cors"));
    browser.sees("#closed", "Who are you?");
    assert!(!browser.text("main").contains("cors"), "what was seen is hidden");
    browser.reload();
    until_names(&browser, &["cors"]);
    browser.click("#forget");
    browser.sees("#closed", "Who are you?");
    browser.reload();
    browser.sees("#closed", "Who are you?");
    let refusals = browser.log();
    assert!(refusals.iter().all(|line| line.contains("401")), "{refusals:#?}");
}

#[test]
fn what_comes_from_outside_is_text_and_never_markup() {
    let scene = Scene::used();
    let path = "/%3Cimg%20src=x%20onerror=window.hurt=1%3E/x";
    scene.larder.get(&format!("/plugins{path}/plugin.wasm"));
    let browser = scene.opened();
    // Every text that the API says is hostile, other than words and times that the page reads.
    browser.script(
        "const hostile = arguments[0], real = window.fetch, plain = ['state', 'kind', 'what', 'result', 'level', 'log_level'];
         const spoil = (value, key) => typeof value === 'string'
             ? (plain.includes(key) || key.endsWith('_at') || key === 'now' || key === 'not_after' ? value : value + hostile)
             : Array.isArray(value) ? value.map((part) => spoil(part, key))
             : value && typeof value === 'object' ? Object.fromEntries(Object.entries(value).map(([k, v]) => [k, spoil(v, k)]))
             : value;
         window.fetch = async (url, options) => {
             // What is sent back is what it was, so that larder knows it again.
             if (options.body) options.body = options.body.replaceAll(JSON.stringify(hostile).slice(1, -1), '');
             const answer = await real(url, options);
             return new Response(JSON.stringify(spoil(await answer.json(), '')), {status: answer.status});
         };
         window.before = document.querySelectorAll('img, script, iframe').length;",
        json!([HOSTILE]),
    );
    come_back(&browser);
    let shown = HOSTILE.trim_end_matches("&amp;");
    for place in ["#version", "#warnings", "#failures", "#registries", "#entries"] {
        browser.sees(place, shown);
    }
    browser.click(".opens");
    browser.sees(".more", shown);
    browser.keys("#wanted", &format!("nothing-like-it{ENTER}"));
    browser.sees("#jobs", shown);
    browser.click(&button("Revalidate", "waf"));
    told(&browser, shown);
    browser.click(&button("Purge", "cors"));
    browser.sees("#sure", shown);
    browser.click("#sure-no");

    // Nothing of it makes the page wider than a phone, either.
    let phone = json!({"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": true});
    browser.devtools("Emulation.setDeviceMetricsOverride", phone);
    let wide = "return [...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > 360 && !e.closest('.scroll, svg, .unseen'))
        .map((e) => `${e.tagName} ${e.id} ${e.className}`)";
    assert_eq!(browser.script(wide, json!([])), json!([]), "wider than a phone");
    let made =
        "return [window.hurt ?? 0, document.querySelectorAll('img, script, iframe').length - window.before]";
    assert_eq!(browser.script(made, json!([])), json!([0, 0]));
    // Its own policy would not let it make markup of a text.
    let refused = "try { document.body.innerHTML = '<b>x</b>'; return 'done' } catch (e) { return e.name }";
    assert_eq!(browser.script(refused, json!([])), "TypeError");
}

#[test]
fn it_is_readable_by_day_by_night_and_on_a_phone() {
    let scene = Scene::used();
    let browser = scene.opened();
    browser.click(".opens");
    let mut grounds = Vec::new();
    for (mode, width) in [("light", 1180), ("dark", 1180), ("light", 360), ("dark", 360)] {
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": mode}]});
        browser.devtools("Emulation.setEmulatedMedia", media);
        let size = json!({"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 400});
        browser.devtools("Emulation.setDeviceMetricsOverride", size);
        let seen = browser.script(READABLE, json!([]));
        assert!(seen["width"].as_u64() <= Some(width), "{mode}: the page is wider than {width}: {seen}");
        assert_eq!(seen["faint"], json!([]), "{mode} {width}: texts that are hard to read");
        assert!(seen["texts"].as_u64().unwrap() > 80, "{seen}");
        grounds.push(seen["ground"].clone());
        picture(&browser, &format!("LARDER_SCREENSHOT_{}_{width}", mode.to_uppercase()), width, 3200);
    }
    assert_ne!(grounds[0], grounds[1]);
    quiet(&browser);
}

/// Texts whose contrast with what is behind them is below WCAG's 4.5 to 1 (success criterion 1.4.3).
const READABLE: &str = "
    const rgb = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
    const ground = (node) => {
        for (; node; node = node.parentElement) {
            const colour = rgb(getComputedStyle(node).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
    };
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const faint = []; let texts = 0;
    while (walk.nextNode()) {
        const node = walk.currentNode.parentElement;
        if (!walk.currentNode.data.trim() || !node.checkVisibility() || node.closest('svg, noscript, option, :disabled')) continue;
        texts++;
        const [a, b] = [light(rgb(getComputedStyle(node).color)), light(ground(node))].sort((a, b) => b - a);
        if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(walk.currentNode.data);
    }
    return {faint, texts, ground: ground(document.body).join(), width: document.documentElement.scrollWidth};";

#[test]
fn nobody_frames_it_and_its_files_come_once() {
    let scene = Scene::new("");
    let get = |path: &str, more: &[(&str, &str)]| client::request(scene.larder.admin, "GET", path, more);
    let mut size = 0;
    let files = files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/admin/page")));
    assert!(files.len() > 9, "{files:?}");
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let path = &if name == "index.html" { "/".to_owned() } else { format!("/assets/{name}") };
        let reply = get(path, &[]);
        assert_eq!(reply.status, 200, "{path}");
        size += reply.body.len();
        let policy = reply.header("content-security-policy");
        for part in ["default-src 'none'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"]
        {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
        assert_eq!(reply.header("referrer-policy"), "no-referrer");
        assert_eq!(reply.header("cache-control"), "no-cache");
        assert_eq!(get(path, &[("If-None-Match", reply.header("etag"))]).status, 304, "{path}");
    }
    assert!(size < 64 << 10, "the page has {size} bytes");
    assert_eq!(get("/assets/", &[]).status, 404);
    assert_eq!(client::get(scene.larder.data, "/assets/page.js").status, 404);
    let page = get("/", &[]).text();
    let without_scripts = page.split("<noscript>").nth(1).unwrap().split("</noscript>").next().unwrap();
    assert!(without_scripts.contains("metrics") && without_scripts.contains("larder status"));

    let frame =
        format!("<!doctype html><link rel=icon href='data:,'><iframe src='{}'></iframe>", scene.url());
    scene.registry.put_raw("/frame.html", "text/html", frame.as_bytes());
    let browser = Browser::start();
    browser.goto(&format!("http://{}/frame.html", scene.registry.host()));
    eventually("the browser refuses to frame it", || {
        browser
            .log()
            .iter()
            .any(|line| line.contains("Framing ") && line.contains("frame-ancestors"))
            .then_some(())
    });
}
