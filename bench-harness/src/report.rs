//! How figures are written, the same everywhere.

use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Messages an hour that Hikyaku is measured against.
pub const GOAL_PER_HOUR: f64 = 3_000_000.0;

/// A progress bar over `total` (`u64::MAX`: a spinner), on the terminal only.
pub fn bar(total: u64, noun: &'static str) -> ProgressBar {
    let bar = if total >= u64::MAX / 2 {
        ProgressBar::no_length()
    } else {
        ProgressBar::new(total)
    };
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
    let template = if bar.length().is_some() {
        "{elapsed_precise} {wide_bar} {human_pos}/{human_len} {msg} {per_sec}"
    } else {
        "{elapsed_precise} {spinner} {human_pos} {msg} {per_sec}"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(noun);
    bar
}

/// `2,345,678 messages an hour`.
pub fn hour(rate_per_s: f64) -> String {
    format!(
        "{} messages an hour",
        thousands((rate_per_s * 3600.0) as u64)
    )
}

/// A number with commas.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `p50 1.2 ms  p90 ...  p99 ...  p99.9 ...  max ...` of a histogram of µs.
pub fn percentiles(histogram_us: &Histogram<u64>) -> String {
    if histogram_us.is_empty() {
        return "no samples".to_owned();
    }
    let steps = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];
    let mut out = String::new();
    for (name, quantile) in steps {
        out.push_str(&format!(
            "{name} {}  ",
            time_us(histogram_us.value_at_quantile(quantile))
        ));
    }
    out.push_str(&format!("max {}", time_us(histogram_us.max())));
    out
}

/// A time in the unit that suits it.
pub fn time_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// Seconds with a sensible number of decimals.
pub fn seconds(time: Duration) -> String {
    time_us(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

/// The median of `values`; NaN when there is none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(time_us(1_500), "1.5 ms");
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
