//! Addresses as members announce them: `HOST:PORT` or a URL. Whoever compares two or connects to one takes either form.

/// As a URL, which connections and etcd's clients want.
pub(crate) fn as_url(address: &str) -> String {
    if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
}

/// Without its scheme: equal for both forms of one address.
pub(crate) fn bare(address: &str) -> &str {
    address.split_once("://").map_or(address, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::{as_url, bare};

    #[test]
    fn both_forms_of_an_address_are_the_same_place() {
        for address in ["n1:2379", "http://n1:2379"] {
            assert_eq!((as_url(address).as_str(), bare(address)), ("http://n1:2379", "n1:2379"));
        }
        assert_eq!((as_url("https://[::1]:1").as_str(), bare("https://[::1]:1")), ("https://[::1]:1", "[::1]:1"));
    }
}
