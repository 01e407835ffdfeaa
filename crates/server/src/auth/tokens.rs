//! Simple tokens: which logins this node knows, and when each was last used here.
//!
//! Owns [`Tokens`]. Fed by every node's state writer with what is applied, so all nodes learn of a login; forgotten by each
//! by its own clock, by a restart, and with the cluster it belonged to: clients of etcd then log in again by themselves.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_kv::{AuthResponse, Outcome, Response};
use ring::digest::{SHA256, digest};

/// A token that is not used for this long is forgotten.
const TOKEN_TTL: Duration = Duration::from_secs(300);

/// Tokens a node knows at once. Past it the one that was not used for longest is forgotten.
const MAX_TOKENS: usize = 20_000;

/// A login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// Who logged in.
    pub(crate) user: String,
    /// By which password.
    pub(crate) password_revision: u64,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    known: Mutex<HashMap<Bytes, (Login, Instant)>>,
}

/// What stands for a token in the log and in memory.
pub(crate) fn fingerprint(letters: &str) -> Bytes {
    Bytes::copy_from_slice(digest(&SHA256, letters.as_bytes()).as_ref())
}

impl Tokens {
    /// Takes note of an applied command's outcome, if it is a login.
    pub(crate) fn observe(&self, outcome: &Outcome) {
        if let Ok(Response::Auth(AuthResponse::LoggedIn { user, password_revision, token })) = &outcome.result {
            let login = Login { user: user.clone(), password_revision: *password_revision };
            self.learn(token.clone(), login, Instant::now());
        }
    }

    /// The login a token was given for. It counts as used now.
    pub(crate) fn find(&self, fingerprint: &Bytes) -> Option<Login> {
        self.find_at(fingerprint, Instant::now())
    }

    /// Forgets every login: they belong to the cluster that this node was in, and name users of it alone.
    pub(crate) fn clear(&self) {
        self.known().clear();
    }

    fn learn(&self, fingerprint: Bytes, login: Login, now: Instant) {
        let mut known = self.known();
        if known.len() >= MAX_TOKENS {
            known.retain(|_, (_, used)| now.duration_since(*used) < TOKEN_TTL);
        }
        if known.len() >= MAX_TOKENS {
            let oldest = known.iter().min_by_key(|(_, (_, used))| *used).map(|(token, _)| token.clone());
            known.remove(&oldest.expect("a full table has an oldest token"));
        }
        known.insert(fingerprint, (login, now));
    }

    fn find_at(&self, fingerprint: &Bytes, now: Instant) -> Option<Login> {
        let mut known = self.known();
        let (login, used) = known.get_mut(fingerprint)?;
        if now.duration_since(*used) >= TOKEN_TTL {
            known.remove(fingerprint);
            return None;
        }
        *used = now;
        Some(login.clone())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Bytes, (Login, Instant)>> {
        // Each change is a single one, so a panic elsewhere left nothing half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(user: &str) -> Login {
        Login { user: user.to_owned(), password_revision: 2 }
    }

    #[test]
    fn a_token_lives_on_by_its_use() {
        let tokens = Tokens::default();
        let (token, start) = (fingerprint("a"), Instant::now());
        tokens.learn(token.clone(), login("u"), start);
        let almost = TOKEN_TTL - Duration::from_secs(1);
        assert_eq!(tokens.find_at(&token, start + almost), Some(login("u")));
        assert_eq!(tokens.find_at(&token, start + 2 * almost), Some(login("u")));
        assert_eq!(tokens.find_at(&token, start + 2 * almost + TOKEN_TTL), None);
        assert_eq!(tokens.find_at(&token, start), None, "forgotten for good");
    }

    #[test]
    fn a_full_table_forgets_what_was_unused_for_longest() {
        let tokens = Tokens::default();
        let start = Instant::now();
        let token = |number: usize| fingerprint(&number.to_string());
        for number in 0..MAX_TOKENS {
            tokens.learn(token(number), login("u"), start + Duration::from_millis(number as u64));
        }
        let later = start + Duration::from_secs(100);
        assert!(tokens.find_at(&token(0), later).is_some());
        tokens.learn(token(MAX_TOKENS), login("u"), later);
        assert!(tokens.find_at(&token(0), later).is_some(), "used a moment ago");
        assert!(tokens.find_at(&token(1), later).is_none());
        assert_eq!(tokens.known().len(), MAX_TOKENS);
    }
}
