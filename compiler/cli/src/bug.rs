//! A panic is a bug in llamac: one line says so, without a backtrace, and the exit status is 70.
//!
//! The hook only takes notes. Libraries catch the panics that a file can cause and turn them into faults of the file,
//! and nothing may be printed for those.

use std::io::Write;
use std::sync::Mutex;

use llamac_compiler::diagnostic::Class;

use crate::message::{Format, Line, Severity};

/// What the latest panic said.
static LATEST: Mutex<Option<String>> = Mutex::new(None);

/// Takes note of panics instead of printing them.
pub fn record_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text =
            text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        let place = panic
            .location()
            .map_or_else(String::new, |place| format!(" ({}:{})", place.file(), place.line()));
        if let Ok(mut latest) = LATEST.lock() {
            *latest = Some(format!("{}{place}", text.lines().next().unwrap_or_default()));
        }
    }));
}

/// Prints the latest panic and returns the exit status.
pub fn report(format: Format) -> u8 {
    let latest = LATEST.lock().ok().and_then(|mut latest| latest.take());
    let what = latest.unwrap_or_else(|| "a thread panicked".to_owned());
    let text = format!("this is a bug in llamac {}: {what}", env!("CARGO_PKG_VERSION"));
    let line = match format {
        Format::Human => format!("error: {text}"),
        Format::Json => Line::text(Severity::Error, &text).json(),
    };
    // There is nowhere left to report a failure to.
    let _ = writeln!(std::io::stderr(), "{line}");
    Class::Bug.exit_status()
}
