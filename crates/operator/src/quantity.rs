//! Kubernetes quantities, as far as sizes need them: comparing `1Gi` with `1024Mi`.

/// The quantity as a number; none if it is none. Exact for whole numbers below 2^53, and for comparing nothing more is needed.
pub fn value(text: &str) -> Option<f64> {
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let scale = match suffix {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024_f64,
        "Mi" => 1024_f64.powi(2),
        "Gi" => 1024_f64.powi(3),
        "Ti" => 1024_f64.powi(4),
        "Pi" => 1024_f64.powi(5),
        // 12e3 is a number as a whole.
        _ if suffix.starts_with(['e', 'E']) => return text.parse().ok(),
        _ => return None,
    };
    number.parse::<f64>().ok().map(|number| number * scale)
}

/// Whether both are quantities, and `wanted` is more than `live`.
pub fn is_more(wanted: &str, live: &str) -> bool {
    value(wanted).zip(value(live)).is_some_and(|(wanted, live)| wanted > live)
}

/// Whether both texts say the same amount: the API server rewrites `0.5` as `500m`.
pub fn is_same(one: &str, other: &str) -> bool {
    value(one).zip(value(other)).is_some_and(|(one, other)| (one - other).abs() <= one.abs() * 1e-12)
}

#[cfg(test)]
mod tests {
    use super::{is_more, is_same, value};

    #[test]
    fn the_same_amount_may_be_written_in_many_ways() {
        for (one, other) in [("1Gi", "1024Mi"), ("0.5", "500m"), ("1e3", "1k"), ("2", "2.0")] {
            assert!(is_same(one, other), "{one} {other}");
        }
        assert!(!is_same("1G", "1Gi"));
    }

    #[test]
    fn what_is_no_quantity_is_never_more() {
        assert!(is_more("9Gi", "8Gi") && !is_more("8Gi", "8Gi") && !is_more("8G", "8Gi"));
        assert!(!is_more("much", "8Gi") && !is_more("8Gi", ""));
        assert_eq!(value("quorate"), None);
    }
}
