//! Progress on standard error, with rate and time left, where somebody watches.

use data::collect::Stage;
use data::corpus::Step;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::io::{IsTerminal, stderr};
use std::sync::Mutex;

/// A bar that disappears when it is dropped. Where standard error is no terminal there is none.
pub struct Progress(ProgressBar);

impl Progress {
    /// Counts things.
    pub fn items(what: &'static str) -> Self {
        Self::new(what, "{msg} {wide_bar} {pos}/{len}, {rate}/s, {eta} left")
    }

    /// Counts bytes.
    pub fn bytes(what: &'static str) -> Self {
        Self::new(what, "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left")
    }

    fn new(what: &'static str, template: &str) -> Self {
        if !stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(0).with_message(what);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.with_key("rate", rate));
        }
        Self(bar)
    }

    /// So many are done of so many.
    pub fn set(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn rate(state: &ProgressState, out: &mut dyn Write) {
    // A bar that cannot be drawn is no reason to stop.
    let _ = write!(out, "{:.1}", state.per_sec());
}

/// A bar for what the making of a corpus is at.
#[derive(Default)]
pub struct Bars(Mutex<Option<(Step, Progress)>>);

impl Bars {
    /// So much is done of a step.
    pub fn set(&self, step: Step, done: u64, total: u64) {
        let Ok(mut open) = self.0.lock() else { return };
        if open.as_ref().is_none_or(|(at, _)| *at != step) {
            let bar = match step {
                Step::Collecting(Stage::Reading) => Progress::bytes("Reading"),
                Step::Collecting(Stage::Comparing) => Progress::items("Comparing"),
                Step::Collecting(Stage::Writing) => Progress::items("Writing"),
                Step::Learning => Progress::bytes("Learning a tokenizer"),
                Step::Encoding => Progress::bytes("Encoding"),
            };
            *open = Some((step, bar));
        }
        if let Some((_, bar)) = open.as_ref() {
            bar.set(done, total);
        }
    }
}
