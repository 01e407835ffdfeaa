//! How voters are written on the command line: `[NAME=]HOST:PORT,…`, or `id:HEX` for a member.

use std::str::FromStr;

use crate::failure::Failure;

/// One voter as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Voter {
    /// The name that the person expects at this address.
    pub name: Option<String>,
    /// Which node.
    pub place: Place,
}

/// Which node is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Whoever answers there, on its client or its peer port.
    Address(String),
    /// The member with this id.
    Member(u64),
}

impl FromStr for Voter {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let (name, place) = match text.split_once('=') {
            Some((name, place)) => (Some(name.trim().to_string()), place.trim()),
            None => (None, text.trim()),
        };
        if let Some(id) = place.strip_prefix("id:") {
            let id = u64::from_str_radix(id.trim_start_matches("0x"), 16).map_err(|_| {
                Failure::new(format_args!("`{text}` is no member id")).advise("write id:HEX, as in `members`")
            })?;
            return Ok(Voter { name, place: Place::Member(id) });
        }
        Ok(Voter { name, place: Place::Address(host_and_port(place)?) })
    }
}

/// A list of voters.
///
/// # Errors
/// If one is not understood, or one is there twice.
pub(crate) fn parse_voters(text: &str) -> Result<Vec<Voter>, Failure> {
    let mut voters: Vec<Voter> = Vec::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let voter: Voter = part.parse()?;
        if voters.iter().any(|other| other.place == voter.place) {
            return Err(Failure::new(format_args!("`{}` is listed twice", part.trim())));
        }
        voters.push(voter);
    }
    if voters.is_empty() {
        return Err(Failure::new("no voter is listed").advise("list each as HOST:PORT, separated by commas"));
    }
    Ok(voters)
}

/// `HOST:PORT` without a scheme or a path.
///
/// # Errors
/// If there is no host or no port.
pub(crate) fn host_and_port(text: &str) -> Result<String, Failure> {
    let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let valid = bare.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0) && !bare.contains(['/', ' ', '@'])
    });
    if !valid {
        return Err(Failure::new(format_args!("`{text}` is no address")).advise("write HOST:PORT"));
    }
    Ok(bare.to_string())
}

#[cfg(test)]
mod tests {
    use super::{Place, Voter, host_and_port, parse_voters};

    #[test]
    fn voters_are_addresses_with_or_without_a_name_or_member_ids() {
        let voters = parse_voters("n1=a.example:2380, 127.0.0.1:1,id:ff").expect("a list");
        let address = |text: &str| Place::Address(text.to_string());
        assert_eq!(
            voters,
            [
                Voter { name: Some("n1".to_string()), place: address("a.example:2380") },
                Voter { name: None, place: address("127.0.0.1:1") },
                Voter { name: None, place: Place::Member(255) },
            ]
        );
    }

    #[test]
    fn lists_that_cannot_be_meant_are_refused() {
        for text in ["", ",", "a:1,a:1", "a", "a:0", "a:b", "a:99999", ":1", "id:xyz", "https://a/b"] {
            assert!(parse_voters(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_scheme_is_allowed_and_dropped() {
        assert_eq!(host_and_port("http://a:1/").expect("an address"), "a:1");
        assert_eq!(host_and_port("[::1]:2379").expect("an address"), "[::1]:2379");
    }
}
