//! How far copies are, on a terminal and elsewhere.

use crate::registry::RegistryError;
use crate::registry::copying::{Copying, Done, Item, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Time between two looks at how far one is.
const LOOKING: Duration = Duration::from_millis(100);

/// How far it is: on a terminal a bar for each that is being copied and one for all, elsewhere a line for each that ended.
pub struct Shown(Option<(MultiProgress, ProgressBar)>);

impl Shown {
    /// Of so many.
    pub fn new(total: usize) -> Self {
        Self(std::io::stderr().is_terminal().then(|| {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            let bar = all.add(ProgressBar::new(total as u64));
            bar.set_style(style("{pos} of {len} [{bar:30}] {msg}"));
            (all, bar)
        }))
    }

    /// Copies one, with a bar.
    pub async fn copy(&self, name: &str, copying: &Copying, item: &Item) -> Result<Done, RegistryError> {
        let progress = Progress::default();
        let Some((all, total)) = &self.0 else { return copying.copy(item, &progress).await };
        let bar = all.insert_before(total, ProgressBar::new(0));
        bar.set_style(style("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}"));
        bar.set_message(name.to_owned());
        let mut copied = std::pin::pin!(copying.copy(item, &progress));
        let ended = loop {
            tokio::select! {
                ended = &mut copied => break ended,
                () = tokio::time::sleep(LOOKING) => {
                    bar.set_length(progress.expected.load(Ordering::Relaxed));
                    bar.set_position(progress.there.load(Ordering::Relaxed));
                }
            }
        };
        bar.finish_and_clear();
        ended
    }

    /// Says how one ended.
    pub fn tell(&self, line: &str) {
        match &self.0 {
            Some((all, total)) => {
                let _ = all.println(line);
                total.inc(1);
            }
            None => eprintln!("{line}"),
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some((_, total)) = &self.0 {
            total.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
