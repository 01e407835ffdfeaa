//! Passwords: hashed and compared by bcrypt, slow on purpose, and so on threads of their own and only a few at a time.
//!
//! Never keeps a password or shows one, and overwrites each once it is looked at. What a connection still holds of the
//! message that brought it is not overwritten. A name nobody has costs as much as one somebody has.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_kv::auth::PasswordHash;
use quorate_node::NodeError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

use crate::blocking::with_permit;
use crate::client_api::ApiError;

/// etcd's cost: about 50 ms of one core.
const COST: u32 = 10;

/// bcrypt looks at no more.
const MAX_PASSWORD_BYTES: usize = 72;

/// The most that comparing with a hash that a caller made may cost: sixteen times what one made here does.
const MAX_GIVEN_COST: u32 = COST + 4;

/// Passwords hashed at one time: logins must not take the cores from everything else.
const MAX_AT_ONCE: usize = 2;

/// Logins that wait for their turn; more are refused. About four seconds of work.
const MAX_WAITING: usize = 128;

/// What a login under an unknown name is compared with: the hash of a random string that was thrown away, of [`COST`].
const NOBODYS_HASH: &str = "$2b$10$u1uCXt4TH5cNUhHPn0vE8.wXcU3ksKDTGr8CJkbZ9DHoaO6Eovw4G";

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Passwords {
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Passwords {
    pub(crate) fn new() -> Passwords {
        Passwords {
            turns: Arc::new(Semaphore::new(MAX_AT_ONCE)),
            waiting: Arc::new(Semaphore::new(MAX_AT_ONCE + MAX_WAITING)),
        }
    }

    /// Hashes a new password.
    ///
    /// # Errors
    /// [`NodeError::Invalid`] if part of it would not count, [`NodeError::TooManyRequests`].
    pub(crate) async fn hash(&self, password: Zeroizing<String>) -> Result<PasswordHash, ApiError> {
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(NodeError::Invalid(format!("a password has at most {MAX_PASSWORD_BYTES} bytes")).into());
        }
        let hashed = with_permit(self.turn().await?, move || bcrypt::hash(password.as_bytes(), COST)).await?;
        Ok(PasswordHash(hashed.map_err(|_| ApiError::NoRandomness)?.into()))
    }

    /// Takes the hash that a caller made, in base64. What is no hash lets nobody in, as in etcd.
    ///
    /// # Errors
    /// [`NodeError::Invalid`] if it is no base64, or if a login would keep a core for seconds.
    pub(crate) fn given(hash: &str) -> Result<PasswordHash, ApiError> {
        let invalid = |problem: &str| NodeError::Invalid(format!("the hashed password {problem}"));
        let hash = STANDARD.decode(hash).map_err(|_| invalid("is no base64"))?;
        let parts = std::str::from_utf8(&hash).ok().and_then(|hash| hash.parse::<bcrypt::HashParts>().ok());
        if parts.is_some_and(|parts| parts.get_cost() > MAX_GIVEN_COST) {
            return Err(invalid(&format!("has a cost above {MAX_GIVEN_COST}")).into());
        }
        Ok(PasswordHash(hash.into()))
    }

    /// Whether `password` is the one of `hash`; without a hash it never is.
    ///
    /// # Errors
    /// [`NodeError::TooManyRequests`].
    pub(crate) async fn verify(
        &self,
        password: Arc<Zeroizing<String>>,
        hash: Option<PasswordHash>,
    ) -> Result<bool, ApiError> {
        let compared = with_permit(self.turn().await?, move || {
            let known = hash.as_ref().and_then(|hash| std::str::from_utf8(&hash.0).ok());
            let equal = bcrypt::verify(password.as_bytes(), known.unwrap_or(NOBODYS_HASH)).unwrap_or(false);
            equal && known.is_some() && password.len() <= MAX_PASSWORD_BYTES
        });
        Ok(compared.await?)
    }

    async fn turn(&self) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), ApiError> {
        let place = Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| NodeError::TooManyRequests)?;
        let turn = Arc::clone(&self.turns).acquire_owned().await.expect("the semaphore is never closed");
        Ok((place, turn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_fits_its_own_hash_alone() {
        let passwords = Passwords::new();
        let hash = passwords.hash(Zeroizing::new("secret".to_owned())).await.expect("hashed");
        assert!(!String::from_utf8_lossy(&hash.0).contains("secret"));
        let check = async |password: &str, hash: Option<&PasswordHash>| {
            passwords.verify(Arc::new(Zeroizing::new(password.to_owned())), hash.cloned()).await.expect("compared")
        };
        assert!(check("secret", Some(&hash)).await);
        assert!(!check("secret2", Some(&hash)).await);
        assert!(!check("secret", None).await);
    }

    #[tokio::test]
    async fn a_password_of_which_a_part_would_not_count_is_refused() {
        let refused = Passwords::new().hash(Zeroizing::new("x".repeat(MAX_PASSWORD_BYTES + 1))).await;
        assert!(matches!(refused, Err(ApiError::Node(NodeError::Invalid(_)))), "{refused:?}");
    }

    #[tokio::test]
    async fn a_hash_that_a_caller_made_is_taken_unless_it_costs_too_much() {
        let passwords = Passwords::new();
        let given = |hash: &str| Passwords::given(&STANDARD.encode(hash));
        let hash = given(&bcrypt::hash("secret", 4).expect("hashed")).expect("a hash");
        assert!(passwords.verify(Arc::new("secret".to_owned().into()), Some(hash)).await.expect("compared"));
        for nothing in ["", "secret"] {
            let hash = given(nothing).expect("base64");
            assert!(!passwords.verify(Arc::new(nothing.to_owned().into()), Some(hash)).await.expect("compared"));
        }
        for refused in [given(&NOBODYS_HASH.replacen("10", "15", 1)), Passwords::given("*")] {
            assert!(matches!(refused, Err(ApiError::Node(NodeError::Invalid(_)))), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn logins_past_the_limit_are_refused_and_not_queued() {
        let passwords = Passwords::new();
        let places = passwords.waiting.try_acquire_many((MAX_AT_ONCE + MAX_WAITING) as u32).expect("all of them");
        let refused = passwords.verify(Arc::default(), None).await;
        assert!(matches!(refused, Err(ApiError::Node(NodeError::TooManyRequests))), "{refused:?}");
        drop(places);
        assert!(!passwords.verify(Arc::default(), None).await.expect("compared"));
    }

    #[test]
    fn the_hash_of_nobody_is_a_hash_of_the_same_cost() {
        let parts: bcrypt::HashParts = NOBODYS_HASH.parse().expect("a hash");
        assert_eq!(parts.get_cost(), COST);
    }
}
