//! The consistency of a read in gRPC metadata: what was asked, and what is told back.
//!
//! A client that asks nothing is told nothing: its requests cost a few failed look-ups and no header.

use std::time::Duration;

use quorate_node::{Consistency, ReadGrant, ReadOptions};
use tonic::codegen::http::{HeaderMap, HeaderValue};
use tonic::metadata::MetadataMap;

use crate::read_choice::{BadChoice, ReadChoice, mode_name, parse_mode, parse_on_stale, parse_revision};

const CONSISTENCY: &str = "quorate-consistency";
const MAX_STALENESS: &str = "quorate-max-staleness-ms";
const ON_STALE: &str = "quorate-on-stale";
const MIN_REVISION: &str = "quorate-min-revision";
const KNOWN_LEADER: &str = "quorate-known-leader";
const STALENESS: &str = "quorate-staleness-ms";
const LAG: &str = "quorate-lag-entries";

/// A read as its client wants it.
#[derive(Debug, Clone, Copy)]
pub(super) struct AskedRead {
    /// For the replica.
    pub(super) options: ReadOptions,
    /// Whether the client spoke of consistency, and so wants to be told.
    tell: bool,
}

/// Reads the metadata of a request whose message says `serializable` or not.
pub(super) fn asked_read(headers: &HeaderMap, serializable: bool) -> Result<AskedRead, BadChoice> {
    let consistency = single(headers, CONSISTENCY)?;
    let max_staleness = single(headers, MAX_STALENESS)?;
    let on_stale = single(headers, ON_STALE)?;
    let min_revision = single(headers, MIN_REVISION)?;
    let tell = consistency.is_some() || max_staleness.is_some() || on_stale.is_some() || min_revision.is_some();
    let choice = ReadChoice {
        consistency: consistency.map(|value| parse_mode(CONSISTENCY, value)).transpose()?,
        serializable,
        max_staleness: max_staleness.map(parse_millis).transpose()?,
        on_stale: on_stale.map(|value| parse_on_stale(ON_STALE, value)).transpose()?,
        min_revision: min_revision.map(|value| parse_revision(MIN_REVISION, value)).transpose()?,
    };
    // etcd's clients expect linearizable reads of whoever does not say otherwise, with no assumption about clocks.
    Ok(AskedRead { options: choice.options(Consistency::Consistent)?, tell })
}

impl AskedRead {
    /// Tells the client how it was served, if it asked.
    pub(super) fn tell(&self, metadata: &mut MetadataMap, grant: &ReadGrant) {
        if !self.tell {
            return;
        }
        let headers = metadata.as_mut();
        headers.insert(CONSISTENCY, HeaderValue::from_static(mode_name(grant.effective)));
        headers.insert(KNOWN_LEADER, HeaderValue::from_static(if grant.known_leader { "true" } else { "false" }));
        if let Some(staleness) = grant.staleness {
            headers.insert(STALENESS, HeaderValue::from(u64::try_from(staleness.as_millis()).unwrap_or(u64::MAX)));
        }
        headers.insert(LAG, HeaderValue::from(grant.lag_entries));
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, BadChoice> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(BadChoice::Twice { name });
    }
    value.to_str().map(|text| Some(text.trim())).map_err(|_| BadChoice::Unknown {
        name,
        value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
        expected: "text",
    })
}

fn parse_millis(value: &str) -> Result<Duration, BadChoice> {
    value.parse().map(Duration::from_millis).map_err(|_| BadChoice::Unknown {
        name: MAX_STALENESS,
        value: value.to_string(),
        expected: "a number of milliseconds",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a header value"));
        }
        headers
    }

    #[test]
    fn silence_means_what_etcd_means() {
        let asked = asked_read(&HeaderMap::new(), false).expect("no contradiction");
        assert_eq!((asked.options.consistency, asked.tell), (Consistency::Consistent, false));
        let asked = asked_read(&HeaderMap::new(), true).expect("no contradiction");
        assert_eq!((asked.options.consistency, asked.tell), (Consistency::Stale, false));
    }

    #[test]
    fn all_four_keys_are_understood() {
        let asked =
            headers(&[(CONSISTENCY, "stale"), (MAX_STALENESS, "250"), (ON_STALE, "forward"), (MIN_REVISION, "9")]);
        let asked = asked_read(&asked, false).expect("no contradiction");
        let expected = ReadOptions {
            consistency: Consistency::Stale,
            max_staleness: Some(Duration::from_millis(250)),
            on_stale: quorate_node::OnStale::Forward,
            min_revision: Some(9),
        };
        assert_eq!((asked.options, asked.tell), (expected, true));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (pairs, serializable) in [
            (&[(CONSISTENCY, "consistent")][..], true),
            (&[(CONSISTENCY, "stale"), (CONSISTENCY, "default")], false),
            (&[(CONSISTENCY, "linearizable")], false),
            (&[(MAX_STALENESS, "5")], false),
            (&[(CONSISTENCY, "stale"), (MAX_STALENESS, "-5")], false),
            (&[(CONSISTENCY, "stale"), (MAX_STALENESS, "5s")], false),
            (&[(CONSISTENCY, "default"), (ON_STALE, "wait")], false),
            (&[(MIN_REVISION, "x")], false),
        ] {
            assert!(asked_read(&headers(pairs), serializable).is_err(), "{pairs:?}");
        }
    }
}
