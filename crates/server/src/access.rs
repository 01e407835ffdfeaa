//! The one place that says whether a caller may do what it asks.
//!
//! Every protocol comes here with each decoded request before anything is done with it, names it as an [`Action`], and
//! gets a [`Permit`]. A write carries the permit's actor into the log, where it is judged again as it is applied; a read
//! shows the permit again after it has read. So no right that was taken away in between is used.
//!
//! Never talks to the network, and never answers a request itself.

mod admin_token;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use quorate_kv::auth::{AttachedKeys, Caller, NoLeases, Right};
use quorate_kv::{Actor, AuthCommand, AuthError, AuthState, Command, RangeRequest, TxnRequest};
use quorate_node::{Consistency, ReadOptions};
use tonic::codegen::http::HeaderMap;
use tonic::codegen::http::header::AUTHORIZATION;

use crate::auth::Authenticator;
use crate::runtime::Replica;
use admin_token::AdminToken;

/// The metadata in which etcd's clients send their token; others use `authorization`.
const TOKEN: &str = "token";

/// How long a node that is behind may take to learn of the newest rights before it refuses a caller.
const CATCH_UP: Duration = Duration::from_secs(1);

/// How often a request is judged if rights change each time while it is served.
pub(crate) const MAX_ROUNDS: usize = 4;

/// What a caller asks for, decoded. There is no other way to anything that is served; a new kind of request does not compile
/// until [`judge`] says who may.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action<'a> {
    /// Reads an interval.
    Range(&'a RangeRequest),
    /// A transaction that is served as a read.
    ReadTxn(&'a TxnRequest),
    /// Anything that goes into the log, locks and elections too, by the commands they are made of.
    Write(&'a Command),
    /// Watches an interval.
    Watch {
        /// First key.
        key: &'a [u8],
        /// End of the interval, as in a range.
        range_end: &'a [u8],
    },
    /// Shows the keys attached to a lease.
    LeaseKeys(i64),
    /// Keeps a lease alive.
    RenewLease(i64),
    /// Names these leases.
    SeeLeases(&'a [i64]),
    /// Asks for a token by name and password.
    Login,
    /// Asks whether tokens are asked for.
    SeeSwitch,
    /// Shows a user.
    SeeUser(&'a str),
    /// Shows a role.
    SeeRole(&'a str),
    /// Lists users or roles, or has a password hashed for one.
    ManageUsers,
    /// Looks at the cluster or at one node by an etcd call: members, status, alarms.
    Observe,
    /// Looks into the whole store or works on a node's files by an etcd call.
    Maintain,
    /// Says who this node is: what an admitting node needs before it can know any token.
    Identify,
    /// Changes the cluster itself: every other call of `quorate.v1.Admin`, and etcd's that do the same. Those that the
    /// leader carries out are let in by [`ClientApi::admit_change`](crate::client_api::ClientApi::admit_change).
    Administer,
}

/// Why a caller may not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// The rights of users refuse it.
    #[error("etcdserver: {0}")]
    Auth(#[from] AuthError),
    /// A token that is nobody's, or has ended: log in again.
    #[error("etcdserver: invalid auth token")]
    InvalidToken,
    /// No token, or not in the form `authorization: Bearer TOKEN`.
    #[error("this call needs the admin token: send it as the metadata `authorization: Bearer TOKEN`")]
    NoToken,
    /// The token is not the configured one.
    #[error("the admin token is not the one of this node")]
    WrongToken,
    /// The file is configured but gives no token, so nobody is let in.
    #[error("the admin token file {path} gives no token: {reason}")]
    NoTokenFile {
        /// The configured file.
        path: String,
        /// What the operating system said, or that the file is empty.
        reason: String,
    },
}

/// What a caller was found to be, and by which state of rights.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a write carries its actor, and a read shows this again when it has read"]
pub(crate) struct Permit {
    actor: Actor,
    /// The switch and the auth revision; `None` for the admin token, which is good whatever they are.
    judged_by: Option<(bool, u64)>,
}

impl Permit {
    /// Who asks, for the log.
    pub(crate) fn actor(&self) -> Actor {
        self.actor.clone()
    }

    /// Whether the admin token decided, and not the rights of users.
    pub(crate) fn is_by_admin_token(&self) -> bool {
        self.judged_by.is_none()
    }
}

/// The rules of this node.
#[derive(Debug)]
pub(crate) struct Access {
    replica: Replica,
    authenticator: Authenticator,
    admin_token: AdminToken,
}

impl Access {
    /// With no admin token file the switch of etcd's auth alone says who may change the cluster.
    pub(crate) fn new(replica: Replica, authenticator: Authenticator, admin_token_file: Option<PathBuf>) -> Self {
        Access { replica, authenticator, admin_token: AdminToken::new(admin_token_file) }
    }

    /// Who gives tokens.
    pub(crate) fn authenticator(&self) -> &Authenticator {
        &self.authenticator
    }

    /// Checks one request. `headers` are the request's metadata or HTTP headers.
    ///
    /// A right that was given, and acknowledged, before the request was sent is never refused for want of having been applied
    /// here: before a refusal by the rights of users this node catches up and looks again.
    ///
    /// # Errors
    /// [`Denied`], with what the caller has to do.
    pub(crate) async fn check(&self, headers: &HeaderMap, action: Action<'_>) -> Result<Permit, Denied> {
        match self.check_now(headers, action).await {
            Err(Denied::Auth(_)) => {
                self.catch_up().await;
                self.check_now(headers, action).await
            }
            checked => checked,
        }
    }

    /// Waits until this node has applied whatever was answered anywhere before this call, if that can be had soon: without a
    /// leader, what is known here is all there is to judge by.
    pub(crate) async fn catch_up(&self) {
        let options = ReadOptions { consistency: Consistency::Consistent, ..ReadOptions::default() };
        let _caught_up = tokio::time::timeout(CATCH_UP, self.replica.read(options)).await;
    }

    /// Checks one request by the rights as they are applied here.
    async fn check_now(&self, headers: &HeaderMap, action: Action<'_>) -> Result<Permit, Denied> {
        let view = self.replica.view();
        let state = view.as_ref().map(|view| view.auth()).unwrap_or_default();
        let judged_by = Some(judged_by(&state));
        let free = Permit { actor: Actor::Anonymous, judged_by };
        let by_admin_token = Permit { actor: Actor::Anonymous, judged_by: None };
        match action {
            Action::Login | Action::Identify => return Ok(free),
            Action::Administer => match self.admin_token.check(token(headers)) {
                // Where users have rights, root needs no second secret, and where only the secret is set up it decides.
                Ok(true) => return Ok(by_admin_token),
                Ok(false) if !state.is_enabled() => return Ok(free),
                Err(denied) if !state.is_enabled() => return Err(denied),
                Ok(false) | Err(_) => {}
            },
            Action::Maintain if state.is_enabled() && self.admin_token.check(token(headers)) == Ok(true) => {
                return Ok(by_admin_token);
            }
            _ if !state.is_enabled() => return Ok(free),
            // Told to everybody, as in etcd; but who comes with a token that is nobody's is to log in again.
            Action::SeeSwitch => match self.actor(headers, &state).await {
                Err(Denied::InvalidToken) => return Err(Denied::InvalidToken),
                _ => return Ok(free),
            },
            _ => {}
        }
        let actor = self.actor(headers, &state).await?;
        match &view {
            Some(view) => judge(&state, &actor, action, view)?,
            None => judge(&state, &actor, action, &NoLeases)?,
        }
        Ok(Permit { actor, judged_by })
    }

    /// Checks one request, lets it read, and shows what it read if rights still are what they were. If not, as on a node that
    /// was behind until the read brought it up to date, all of it is done again.
    ///
    /// # Errors
    /// [`Denied`], and what `read` says. [`AuthError::OldRevision`] if rights change and change.
    pub(crate) async fn permitted<T, E: From<Denied>, F: Future<Output = Result<T, E>>>(
        &self,
        headers: &HeaderMap,
        action: Action<'_>,
        mut read: impl FnMut() -> F,
    ) -> Result<T, E> {
        let mut rounds = 1;
        loop {
            let permit = self.check(headers, action).await?;
            let seen = read().await?;
            match self.recheck(&permit) {
                Ok(()) => return Ok(seen),
                Err(changed) if rounds == MAX_ROUNDS => return Err(changed.into()),
                Err(_) => rounds += 1,
            }
        }
    }

    /// Checks that what a read saw may be shown: rights are what they were when it was let in, unless they did not let it
    /// in. A change that was acknowledged before a linearizable read began is applied by the time it has read, and shows
    /// here.
    ///
    /// # Errors
    /// [`AuthError::OldRevision`]: ask again.
    fn recheck(&self, permit: &Permit) -> Result<(), Denied> {
        let state = self.replica.view().map(|view| view.auth()).unwrap_or_default();
        let stands = permit.judged_by.is_none_or(|rights| rights == judged_by(&state));
        if stands { Ok(()) } else { Err(AuthError::OldRevision.into()) }
    }

    /// Who asks, by the token that came along.
    async fn actor(&self, headers: &HeaderMap, state: &AuthState) -> Result<Actor, Denied> {
        let Some(token) = token(headers) else { return Ok(Actor::Anonymous) };
        let identity = self.authenticator.identify(&self.replica, token).await.ok_or(Denied::InvalidToken)?;
        if identity.made_at.is_some_and(|made_at| made_at < state.revision()) {
            return Err(AuthError::OldRevision.into());
        }
        Ok(Actor::User { name: identity.name, auth_revision: state.revision() })
    }
}

/// Says whether `actor` may, by `state` alone.
fn judge(state: &AuthState, actor: &Actor, action: Action<'_>, leases: &dyn AttachedKeys) -> Result<(), AuthError> {
    let admitted = |rule: &dyn Fn(&Caller<'_>) -> Result<(), AuthError>| rule(&state.admit(actor)?);
    match action {
        Action::Range(range) => admitted(&|caller| caller.may_read(range)),
        Action::ReadTxn(txn) => admitted(&|caller| caller.may_transact(txn, leases)),
        // A login is how a name is come by; it never comes from outside as a command.
        Action::Write(Command::Auth(AuthCommand::Login { .. })) => Err(AuthError::PermissionDenied),
        Action::Write(command) => admitted(&|caller| caller.may_submit(command, leases)),
        Action::Watch { key, range_end } => admitted(&|caller| caller.may(Right::Read, key, range_end)),
        Action::LeaseKeys(id) => admitted(&|caller| caller.may_with_lease(Right::Read, id, leases)),
        // Whoever may not delete its keys may not keep them either.
        Action::RenewLease(id) => admitted(&|caller| caller.may_with_lease(Right::Write, id, leases)),
        Action::SeeLeases(ids) => admitted(&|caller| caller.may_with_leases(Right::Read, ids, leases)),
        Action::SeeUser(name) => admitted(&|caller| caller.may_see_user(name)),
        Action::SeeRole(name) => admitted(&|caller| caller.may_see_role(name)),
        Action::Observe => admitted(&|_| Ok(())),
        Action::ManageUsers | Action::Maintain | Action::Administer => admitted(&|caller| caller.may_do_everything()),
        Action::Login | Action::SeeSwitch | Action::Identify => Ok(()),
    }
}

fn judged_by(state: &AuthState) -> (bool, u64) {
    (state.is_enabled(), state.revision())
}

/// The token that came along, in whichever of its two places.
fn token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(TOKEN).or_else(|| headers.get(AUTHORIZATION))?.to_str().ok()?;
    Some(value.strip_prefix("Bearer ").unwrap_or(value).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_in_either_place_and_etcds_first() {
        let mut headers = HeaderMap::new();
        assert_eq!(token(&headers), None);
        headers.insert("authorization", "Bearer b".parse().expect("a header"));
        assert_eq!(token(&headers), Some("b"));
        headers.insert("authorization", "b".parse().expect("a header"));
        assert_eq!(token(&headers), Some("b"));
        headers.insert("token", "a".parse().expect("a header"));
        assert_eq!(token(&headers), Some("a"));
    }
}
