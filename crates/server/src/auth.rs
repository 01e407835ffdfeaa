//! Who a caller is: passwords, tokens, and the two kinds of tokens etcd knows.
//!
//! Owns [`Authenticator`]. Never says what a caller may do: rights are replicated state, and [`crate::access`] asks for
//! them.
//!
//! A login goes through the log, so that every node knows a token that any node gave: a client's next call may reach
//! another one. The log holds a hash of the token only.

mod jwt;
mod option;
mod password;
mod tokens;

use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_kv::auth::User;
use quorate_kv::{Actor, AuthCommand, AuthError, AuthState, Command};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

pub use option::{JwtOption, TokenOption, TokenOptionError};
pub(crate) use tokens::Tokens;

use crate::client_api::{ApiError, ClientApi};
use crate::runtime::Replica;
use jwt::Jwt;
use password::Passwords;

/// Letters of a simple token before its point.
const TOKEN_LETTERS: usize = 16;
const ALPHABET: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// Logins begun anew because rights changed while the password was looked at.
const MAX_LOGIN_ROUNDS: usize = 4;

/// How long a call waits for the login it was made under to be applied here.
const TOKEN_WAIT: Duration = Duration::from_secs(1);
const TOKEN_POLL: Duration = Duration::from_millis(5);

/// Checks passwords, gives tokens and knows them again.
#[derive(Debug)]
pub(crate) struct Authenticator {
    passwords: Passwords,
    tokens: Arc<Tokens>,
    jwt: Option<Jwt>,
}

/// Somebody whose token is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The user.
    pub(crate) name: String,
    /// Set if the token is good only as long as rights are what they were: the auth revision it was made at.
    pub(crate) made_at: Option<u64>,
}

impl Authenticator {
    /// Gives the tokens that `option` asks for; `tokens` learns of logins as they are applied.
    ///
    /// # Errors
    /// [`TokenOptionError`]: a key cannot be read or used.
    pub(crate) fn new(option: &TokenOption, tokens: Arc<Tokens>) -> Result<Authenticator, TokenOptionError> {
        Ok(Authenticator { passwords: Passwords::new(), tokens, jwt: option.jwt()? })
    }

    /// Hashes a password for the log.
    ///
    /// # Errors
    /// [`ApiError`]: it is too long, or too many are hashed already.
    pub(crate) async fn hash(&self, password: Zeroizing<String>) -> Result<quorate_kv::auth::PasswordHash, ApiError> {
        self.passwords.hash(password).await
    }

    /// Takes the hash of a password that a caller made.
    ///
    /// # Errors
    /// [`ApiError`]: it is no base64, or too costly.
    pub(crate) fn take_hash(&self, hash: &str) -> Result<quorate_kv::auth::PasswordHash, ApiError> {
        Passwords::given(hash)
    }

    /// Checks a password against the state of this moment, and gives a token for it.
    ///
    /// # Errors
    /// [`AuthError::Failed`] whatever is wrong with name or password; [`ApiError`] otherwise.
    pub(crate) async fn login(&self, api: &ClientApi, name: String, password: String) -> Result<String, ApiError> {
        let password = Arc::new(Zeroizing::new(password));
        for _ in 0..MAX_LOGIN_ROUNDS {
            api.confirm().await?;
            let state = api.view()?.auth();
            if !state.is_enabled() {
                return Err(AuthError::NotEnabled.into());
            }
            let user = state.user(&name);
            let hash = user.and_then(|user| user.password.clone());
            // Also for a name nobody has: how long this takes must not say which names there are.
            let is_right = self.passwords.verify(Arc::clone(&password), hash).await?;
            let Some(user) = user.filter(|_| is_right) else { return Err(AuthError::Failed.into()) };
            match self.give_token(api, &name, user, &state).await {
                Err(ApiError::Kv(quorate_kv::KvError::Auth(AuthError::OldRevision))) => {}
                answer => return answer,
            }
        }
        Err(AuthError::OldRevision.into())
    }

    async fn give_token(
        &self,
        api: &ClientApi,
        name: &str,
        user: &User,
        state: &AuthState,
    ) -> Result<String, ApiError> {
        if let Some(jwt) = &self.jwt {
            return jwt.sign(name, state.revision());
        }
        let letters = random_letters()?;
        let login = AuthCommand::Login {
            user: name.to_owned(),
            password_revision: user.password_revision,
            token: tokens::fingerprint(&letters),
        };
        // Made by nobody: it carries what was shown for it.
        api.replica().write(Actor::Anonymous, Command::Auth(login)).await?.result?;
        // The login is applied here, so another node that has come this far knows the token, too.
        let index = api.view()?.applied().0;
        Ok(format!("{letters}.{index}"))
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// `None`: nobody's, or nobody's any more.
    pub(crate) async fn identify(&self, replica: &Replica, token: &str) -> Option<Identity> {
        if let Some(jwt) = &self.jwt {
            let claims = jwt.verify(token)?;
            return Some(Identity { name: claims.username, made_at: Some(claims.revision) });
        }
        let (letters, index) = token.split_once('.')?;
        let index: u64 = index.parse().ok()?;
        if letters.len() != TOKEN_LETTERS {
            return None;
        }
        let fingerprint = tokens::fingerprint(letters);
        let waits_until = Instant::now() + TOKEN_WAIT;
        loop {
            let view = replica.view()?;
            // Asked before the table is: a login that is applied in between is found there.
            let may_come = view.applied().0 < index;
            if let Some(login) = self.tokens.find(&fingerprint) {
                let still = view.auth().user(&login.user).map(|user| user.password_revision);
                return (still == Some(login.password_revision))
                    .then_some(Identity { name: login.user, made_at: None });
            }
            if !may_come || Instant::now() >= waits_until {
                return None;
            }
            tokio::time::sleep(TOKEN_POLL).await;
        }
    }
}

fn random_letters() -> Result<String, ApiError> {
    let random = SystemRandom::new();
    let mut letters = String::with_capacity(TOKEN_LETTERS);
    while letters.len() < TOKEN_LETTERS {
        let mut bytes = [0; 32];
        random.fill(&mut bytes).map_err(|_| ApiError::NoRandomness)?;
        // Above the last whole multiple of the alphabet the first letters would come more often.
        let even = bytes.iter().filter(|byte| usize::from(**byte) < 256 / ALPHABET.len() * ALPHABET.len());
        let chosen = even.map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
        letters.extend(chosen.take(TOKEN_LETTERS - letters.len()));
    }
    Ok(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tokens_share_no_letters_by_rule() {
        let (first, second) = (random_letters().expect("random"), random_letters().expect("random"));
        assert_eq!((first.len(), second.len()), (TOKEN_LETTERS, TOKEN_LETTERS));
        assert_ne!(first, second);
        assert!(first.bytes().all(|letter| ALPHABET.contains(&letter)));
    }
}
