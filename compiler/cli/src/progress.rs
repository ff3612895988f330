//! Progress of work that takes more than a second: a bar on a terminal, plain lines elsewhere.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use llamac_compiler::driver::Progress;

use crate::console::Console;
use crate::human;

/// Work that is done within this is not worth a line.
const PATIENCE: Duration = Duration::from_secs(1);

/// The least time between two plain lines.
const PAUSE: Duration = Duration::from_secs(5);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Tokens,
}

impl Unit {
    /// An amount, for people.
    fn show(self, amount: u64) -> String {
        match self {
            Self::Bytes => human::bytes(amount),
            Self::Tokens => format!("{} tokens", human::count(amount)),
        }
    }

    /// What a bar shows, in the words of its library.
    fn template(self) -> &'static str {
        match self {
            Self::Bytes => {
                "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}, {eta} left"
            }
            Self::Tokens => "{msg} [{bar:30}] {human_pos}/{human_len} tokens {per_sec}, {eta} left",
        }
    }
}

/// An amount done of a total, shown to the user.
#[derive(Debug)]
pub struct Bar {
    console: Console,
    /// What is being done: `packing`.
    verb: &'static str,
    unit: Unit,
    /// When the work began, after what had to be prepared.
    start: OnceLock<Instant>,
    done: AtomicU64,
    total: AtomicU64,
    /// Whoever finds it locked need not wait: somebody is drawing.
    shown: Mutex<Shown>,
}

#[derive(Debug)]
struct Shown {
    bar: Option<ProgressBar>,
    /// When the last plain line was printed.
    line: Option<Instant>,
}

impl Bar {
    /// Nothing done yet.
    pub fn new(console: &Console, verb: &'static str, unit: Unit) -> Self {
        Self {
            console: *console,
            verb,
            unit,
            start: OnceLock::new(),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            shown: Mutex::new(Shown { bar: None, line: None }),
        }
    }

    fn elapsed(&self) -> Duration {
        self.start.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    fn draw(&self, shown: &mut Shown, done: u64) {
        let total = self.total.load(Ordering::Relaxed);
        if self.console.draws() {
            let bar = shown.bar.get_or_insert_with(|| self.bar(total));
            bar.set_position(done);
        } else if shown.line.is_none_or(|line| line.elapsed() >= PAUSE) {
            shown.line = Some(Instant::now());
            let text = line(self.verb, self.unit, done, total, self.elapsed().as_secs_f64());
            self.console.progress(self.verb, done, total, text);
        }
    }

    fn bar(&self, total: u64) -> ProgressBar {
        let style =
            ProgressStyle::with_template(self.unit.template()).map(|style| style.progress_chars("=> "));
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.with_elapsed(self.elapsed()).with_message(self.verb)
    }
}

impl Progress for Bar {
    fn start(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.start.get_or_init(Instant::now);
    }

    fn advance(&self, amount: u64) {
        let done = self.done.fetch_add(amount, Ordering::Relaxed) + amount;
        if self.elapsed() >= PATIENCE
            && !self.console.is_quiet()
            && let Ok(mut shown) = self.shown.try_lock()
        {
            self.draw(&mut shown, done);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Ok(shown) = self.shown.get_mut()
            && let Some(bar) = shown.bar.take()
        {
            bar.finish_and_clear();
        }
    }
}

/// `packing: 120.0 MiB of 2.0 GiB, 60.0 MiB/s, 32 s left`.
fn line(verb: &str, unit: Unit, done: u64, total: u64, seconds: f64) -> String {
    let rate = done as f64 / seconds.max(1e-3);
    let left = total.saturating_sub(done) as f64 / rate.max(1.0);
    let [done, total, rate] = [done, total, rate as u64].map(|amount| unit.show(amount));
    format!("{verb}: {done} of {total}, {rate}/s, {} left", human::seconds(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_counted_from_the_start_of_the_work() {
        let bar = Bar::new(&Console::new(crate::message::Format::Human, true, 0), "packing", Unit::Bytes);
        assert_eq!(bar.elapsed(), Duration::ZERO);
        bar.start(1);
        std::thread::sleep(Duration::from_millis(1));
        assert!(bar.elapsed() > Duration::ZERO);
    }

    #[test]
    fn lines_tell_rate_and_rest() {
        assert_eq!(
            line("packing", Unit::Bytes, 1 << 20, 3 << 20, 2.0),
            "packing: 1.0 MiB of 3.0 MiB, 512.0 KiB/s, 4.0 s left"
        );
        assert_eq!(line("packing", Unit::Bytes, 0, 0, 0.0), "packing: 0 B of 0 B, 0 B/s, 0 ms left");
        assert_eq!(
            line("scoring", Unit::Tokens, 500, 1500, 2.0),
            "scoring: 500 tokens of 1500 tokens, 250 tokens/s, 4.0 s left"
        );
    }
}
