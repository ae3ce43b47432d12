//! `larder prefetch`: plugins are fetched before anybody asks for them.

use super::larder::{Address, Larder, Wish};
use super::output::{self, DETAIL, Output};
use super::trouble::{self, Trouble};
use super::{exit, print, runtime, show};

use crate::admin::prefetch::{Item, Job, Progress, Wanted};
use crate::catalog::{Why, version_of};
use crate::config::Loaded;
use crate::oci::Reference;
use crate::oci::error_code::bounded;
use crate::plugin::Request;
use clap::{ArgGroup, Args};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::HashMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

/// Time between two looks at how far it is, here.
const LOOKING: Duration = Duration::from_millis(100);
/// The same of a running larder, where each is a request and a line of its log.
const ASKING: Duration = Duration::from_secs(1);
/// What a shell says of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Fetch plugins before anybody asks for them
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("wanted").required(true).multiple(true).args(["plugins", "all", "used"]),
    after_long_help = "\
Exit code 0 says that all are held; otherwise it is that of the worst failure, as of `larder get`. Ctrl-C ends the \
waiting; a running larder goes on fetching.

Examples:
  larder prefetch ai-proxy ai-cache@2.0.0
  larder prefetch --all --admin http://127.0.0.1:9090"
)]
pub struct Prefetch {
    /// Plugins; without a version, that of the catalog
    #[arg(value_name = "NAME[@VERSION]", value_parser = show::plugin)]
    plugins: Vec<Request>,
    /// All that the catalog lists
    #[arg(long)]
    all: bool,
    /// All that are known of, because they were asked for before
    #[arg(long)]
    used: bool,
    /// text, or json as the administration API has it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    address: Address,
}

/// How it ended.
struct Ended {
    job: Job,
    /// Whether the disk took it.
    kept: Result<(), Trouble>,
}

impl Prefetch {
    /// Fetches, shows how far it is, and sums up.
    pub fn run(&self, loaded: &Loaded) -> ExitCode {
        let Ended { job, kept } = match self.fetch(loaded) {
            Ok(Some(ended)) => ended,
            Ok(None) => return ExitCode::from(INTERRUPTED),
            Err(trouble) => return trouble.tell(),
        };
        let printed = print(&match self.output {
            Output::Json => output::json(&job),
            Output::Text => summary(&job),
        });
        match (kept, worst(&job)) {
            (Err(trouble), _) => trouble.tell(),
            (Ok(()), Some(code)) => ExitCode::from(code),
            (Ok(()), None) => printed,
        }
    }

    /// How it ended; nothing if somebody did not want to wait.
    fn fetch(&self, loaded: &Loaded) -> Result<Option<Ended>, Trouble> {
        let runtime = runtime()?;
        let larder = self.address.find(loaded, &runtime, Wish::Fill)?;
        let mut plugins: Vec<_> = self.plugins.iter().map(ToString::to_string).collect();
        plugins.extend(self.all.then(|| "all".to_owned()));
        plugins.extend(self.used.then(|| "used".to_owned()));
        let wanted = Wanted { plugins };
        runtime.block_on(async {
            let job = larder.prefetch(&wanted).await?;
            let id = job.id;
            tokio::select! {
                ended = watch(&larder, job) => {
                    let job = ended?;
                    Ok(Some(Ended { job, kept: larder.close().await }))
                }
                _ = tokio::signal::ctrl_c() => {
                    left(&larder, id).await?;
                    Ok(None)
                }
            }
        })
        // The runtime ends here, and with it what is still being fetched by it: nothing of that stays.
    }
}

/// Says what goes on without us.
async fn left(larder: &Larder, id: u64) -> Result<(), Trouble> {
    match larder {
        Larder::Running(remote) => {
            let at = remote.address();
            eprintln!(
                "larder: {at} goes on with it as job {id}; larder status --admin {at} shows how far it is"
            );
            Ok(())
        }
        Larder::Stopped(_) => {
            eprintln!("larder: stopped; what was fetched by now is kept");
            larder.close().await
        }
    }
}

/// Shows how far it is until it has ended.
pub async fn watch(larder: &Larder, mut job: Job) -> Result<Job, Trouble> {
    let mut shown = Shown::new(&job);
    let pause = if matches!(larder, Larder::Running(_)) { ASKING } else { LOOKING };
    loop {
        shown.take(&job);
        if job.finished_at.is_some() {
            return Ok(job);
        }
        tokio::time::sleep(pause).await;
        job = larder.job(job.id).await?;
    }
}

/// How far it is: on a terminal a bar for each plugin that is being fetched and one for all, elsewhere a line for each
/// that has ended.
struct Shown {
    bars: Option<(MultiProgress, ProgressBar)>,
    fetching: HashMap<usize, ProgressBar>,
    told: Vec<bool>,
}

impl Shown {
    fn new(job: &Job) -> Self {
        let bars = std::io::stderr().is_terminal().then(|| {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            let total = all.add(ProgressBar::new(job.total as u64));
            total.set_style(style("{pos} of {len} [{bar:30}] {msg}"));
            (all, total)
        });
        Self { bars, fetching: HashMap::new(), told: vec![false; job.items.len()] }
    }

    fn take(&mut self, job: &Job) {
        for (n, item) in job.items.iter().enumerate() {
            match item.state {
                Progress::Fetching => self.draw(n, item),
                Progress::Held | Progress::Failed => self.tell(n, item),
                Progress::Waiting => {}
            }
        }
        if let Some((_, total)) = &self.bars {
            total.set_message(if job.failed > 0 { format!("{} failed", job.failed) } else { String::new() });
            total.set_position((job.held + job.failed) as u64);
        }
    }

    fn draw(&mut self, n: usize, item: &Item) {
        let Some((all, total)) = &self.bars else { return };
        let bar = self.fetching.entry(n).or_insert_with(|| {
            let bar = all.insert_before(total, ProgressBar::new(0));
            bar.set_style(style("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}"));
            bar.set_message(name(item));
            bar
        });
        bar.set_length(item.expected);
        bar.set_position(item.received);
    }

    fn tell(&mut self, n: usize, item: &Item) {
        if let Some(bar) = self.fetching.remove(&n) {
            bar.finish_and_clear();
        }
        if std::mem::replace(&mut self.told[n], true) {
            return;
        }
        match &self.bars {
            Some((all, _)) => drop(all.println(outcome(item))),
            None => eprintln!("{}", outcome(item)),
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.fetching.values().for_each(ProgressBar::finish_and_clear);
        if let Some((_, total)) = &self.bars {
            total.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// `NAME` or `NAME@VERSION`.
pub fn name(item: &Item) -> String {
    let version = item.version.as_ref().map(|version| format!("@{version}")).unwrap_or_default();
    bounded(&format!("{}{version}", item.plugin), DETAIL)
}

/// A line of how one ended.
fn outcome(item: &Item) -> String {
    match (&item.error, item.size) {
        (Some(error), _) => format!("{}: failed: {}", name(item), bounded(&error.detail, DETAIL)),
        (None, size) => {
            format!("{}: held{}, {}", name(item), other(item), output::size(size.unwrap_or_default()))
        }
    }
}

/// The version that is held, where it is another one than was asked for, and by which step of the search.
fn other(item: &Item) -> String {
    let reference = item.reference.as_ref().and_then(|text| text.parse::<Reference>().ok());
    match (reference, &item.matched) {
        (Some(reference), Some(step)) if step != Why::Exact.as_str() => {
            format!(" as {} ({step})", version_of(&reference))
        }
        _ => String::new(),
    }
}

fn summary(job: &Job) -> String {
    let mut text = String::new();
    for item in &job.items {
        if let Some(error) = &item.error {
            text += &format!("{}: {}: {}\n", name(item), error.code, bounded(&error.detail, DETAIL));
            if !error.hint.is_empty() {
                text += &format!("  next step: {}\n", bounded(&error.hint, DETAIL));
            }
        }
    }
    let bytes = job.items.iter().filter_map(|item| item.size).sum();
    let held = output::count(job.held as u64, "plugin is", "plugins are");
    text + &format!("{held} held ({}), {} failed\n", output::size(bytes), job.failed)
}

/// The code of the worst failure: a defect before the disk, the registry, a refusal, the artifact, a name that is not.
fn worst(job: &Job) -> Option<u8> {
    let order = [exit::SOFTWARE, exit::IOERR, exit::UNAVAILABLE, exit::NOPERM, exit::DATAERR, exit::NOINPUT];
    let codes = job.items.iter().filter_map(|item| item.error.as_ref()).map(trouble::of_failure);
    codes.min_by_key(|code| order.iter().position(|other| other == code))
}
