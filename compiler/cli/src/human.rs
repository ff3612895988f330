//! Numbers and tables for people.

/// Bytes in binary units: `768 B`, `1.2 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A count in decimal units: `987`, `1.23 M`.
pub fn count(n: u64) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{:.1} k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} M", n as f64 / 1e6),
        _ => format!("{:.2} B", n as f64 / 1e9),
    }
}

/// A number of matrices: `1 matrix`, `3 matrices`.
pub fn matrices(n: u64) -> String {
    if n == 1 { "1 matrix".to_owned() } else { format!("{n} matrices") }
}

/// A duration: `85 ms`, `2.4 s`, `3 min 5 s`.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.9995 => format!("{:.0} ms", s * 1e3),
        s if s < 99.95 => format!("{s:.1} s"),
        s => format!("{} min {} s", s as u64 / 60, s as u64 % 60),
    }
}

/// Rows with their columns aligned to the left; no spaces at the ends of lines, a line break after each.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times() {
        let found = [0, 1023, 1024, 1_048_575, 1 << 20, 5_000_000_000].map(bytes);
        assert_eq!(found, ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "1.0 MiB", "4.7 GiB"]);
        assert_eq!(
            [9_999, 10_000, 1_234_567, 1_100_000_000].map(count),
            ["9999", "10.0 k", "1.23 M", "1.10 B"]
        );
        assert_eq!(
            [0.0, 0.085, 0.9996, 99.9, 185.4].map(seconds),
            ["0 ms", "85 ms", "1.0 s", "99.9 s", "3 min 5 s"]
        );
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "bc", ""], ["déf", "g", "h"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "a    bc\ndéf  g   h\n");
    }
}
