//! What commands print: the API's own JSON for scripts; tables, human sizes and times for people.

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::oci::error_code::bounded;
use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde::Serialize;
use std::io::IsTerminal;
use std::time::Duration;

/// Narrower than this a table cannot be laid out; it is left as wide as it is.
const NARROWEST: u16 = 40;

/// The longest text that is printed, such as a key or what is said of a failure, in characters.
pub const DETAIL: usize = 1000;

/// The longest text of a cell, in characters.
const CELL: usize = 300;

/// The form of an answer: for people, or the administration API's own types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "help texts would repeat them")]
pub enum Output {
    Text,
    Json,
}

/// As the administration API answers it.
pub fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|e| unreachable!("plain fields: {e}")) + "\n"
}

/// The word that the API has for a value, such as `last_used`.
pub fn word(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_else(|e| unreachable!("plain words: {e}"));
    value.as_str().unwrap_or_default().to_owned()
}

/// Columns under a header, as wide as standard output if that is a terminal. Those of `right` are numbers.
pub fn table(header: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    table
        .add_rows(rows.into_iter().map(|row| row.iter().map(|cell| bounded(cell, CELL)).collect::<Vec<_>>()));
    if let Some(width) = width().filter(|width| *width >= NARROWEST) {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    for (n, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&n) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

/// Columns of standard output, where it is a terminal that says so.
fn width() -> Option<u16> {
    let out = std::io::stdout();
    let size = out.is_terminal().then(|| rustix::termios::tcgetwinsize(&out).ok()).flatten()?;
    Some(size.ws_col).filter(|columns| *columns > 0)
}

/// Bytes.
pub fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// `one thing` or `3 things`.
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Times as people say them, seen from one moment.
#[derive(Debug, Clone, Copy)]
pub struct Now(Timestamp);

impl Now {
    /// From this machine's clock.
    pub fn read() -> Self {
        Self(SystemClock::new().now())
    }

    /// `5m ago`, or `in 5m`, of an RFC 3339 time; as it is, where it is none.
    pub fn seen(self, time: &str) -> String {
        let Some(at) = moment(time) else { return time.into() };
        let (past, future) = (self.0.since(at), at.since(self.0));
        match (past.as_secs(), future.as_secs()) {
            (0, 0) => "now".into(),
            (0, _) => format!("in {}", span(future)),
            _ => format!("{} ago", span(past)),
        }
    }

    /// The time since `from`, both RFC 3339.
    pub fn between(from: &str, to: &str) -> String {
        match (moment(from), moment(to)) {
            (Some(from), Some(to)) => span(to.since(from)),
            _ => String::new(),
        }
    }

    /// The same as [`Self::seen`], or a dash for nothing.
    pub fn seen_or_dash(self, time: Option<&String>) -> String {
        time.map_or_else(|| "-".into(), |time| self.seen(time))
    }
}

fn moment(time: &str) -> Option<Timestamp> {
    humantime::parse_rfc3339_weak(time).ok().map(Timestamp::from_system)
}

/// A time in its largest unit.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_their_largest_unit_before_and_after() {
        let now = Now(moment("2026-01-10T12:00:00Z").unwrap());
        for (time, told) in [
            ("2026-01-10T12:00:00Z", "now"),
            ("2026-01-10T11:58:01Z", "119s ago"),
            ("2026-01-10T11:00:00Z", "60m ago"),
            ("2026-01-08T12:00:01Z", "47h ago"),
            ("2025-12-31T12:00:00Z", "10d ago"),
            ("2026-01-10T12:05:00Z", "in 5m"),
            ("yesterday", "yesterday"),
        ] {
            assert_eq!(now.seen(time), told, "{time}");
        }
        assert_eq!(Now::between("2026-01-10T12:00:00Z", "2026-01-10T15:00:00Z"), "3h");
    }

    #[test]
    fn a_table_has_no_control_characters_and_no_blanks_at_the_ends_of_lines() {
        let rows = vec![
            vec!["a\u{1b}[31m".into(), "5 B".into(), "x".into()],
            vec!["b".into(), "50 MiB".into(), "y".into()],
        ];
        assert_eq!(
            table(&["NAME", "SIZE", "WHERE"], &[1], rows),
            "NAME           SIZE  WHERE\na\\u{1b}[31m     5 B  x\nb            50 MiB  y\n"
        );
    }
}
