//! Figures in the units that people read.

/// `63.7MiB`
pub(crate) fn binary(bytes: f64) -> String {
    scaled(bytes, 1024.0, ["B", "KiB", "MiB", "GiB", "TiB"])
}

/// `16.3k`
pub(crate) fn decimal(number: f64) -> String {
    scaled(number, 1000.0, ["", "k", "M", "G", "T"])
}

/// `812us`, `1.23ms`: three digits.
pub(crate) fn time(nanoseconds: f64) -> String {
    let (mut number, mut unit) = (nanoseconds, 0);
    // Not 1000us.
    while number >= 999.5 && unit + 1 < TIME_UNITS.len() {
        number /= 1000.0;
        unit += 1;
    }
    let digits = match number {
        // The clock's own unit has no parts.
        _ if unit == 0 => 0,
        99.95.. => 0,
        9.995.. => 1,
        _ => 2,
    };
    format!("{number:.digits$}{}", TIME_UNITS[unit])
}

fn scaled(number: f64, step: f64, units: [&str; 5]) -> String {
    let (mut number, mut unit) = (number, 0);
    // Not beyond what is printed with three digits.
    while number >= step && unit + 1 < units.len() {
        number /= step;
        unit += 1;
    }
    let digits = if unit == 0 || number >= 100.0 || number.fract() == 0.0 { 0 } else { 1 };
    format!("{number:.digits$}{}", units[unit])
}

const TIME_UNITS: [&str; 4] = ["ns", "us", "ms", "s"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_about_three_digits() {
        for (nanoseconds, text) in [
            (0.0, "0ns"),
            (999.0, "999ns"),
            (999.6, "1.00us"),
            (812_345.0, "812us"),
            (999_600.0, "1.00ms"),
            (1_234_567.0, "1.23ms"),
            (12_345_678.0, "12.3ms"),
            (3.6e12, "3600s"),
        ] {
            assert_eq!(time(nanoseconds), text);
        }
        assert_eq!([0.0, 999.0, 1000.0, 16_345.0].map(decimal), ["0", "999", "1k", "16.3k"]);
        assert_eq!([512.0, 4096.0, 1.5e6].map(binary), ["512B", "4KiB", "1.4MiB"]);
    }
}
