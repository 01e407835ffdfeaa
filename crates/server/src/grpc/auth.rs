//! `etcdserverpb.Auth`: users, roles, the switch, and logins.

use std::sync::Arc;

use prost::Message;
use quorate_kv::auth::{PasswordHash, Permission, PermissionKind, ROOT, Role};
use quorate_kv::{AuthCommand, AuthError, AuthState, Command};
use quorate_proto::authpb;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::auth_server::Auth;
use tonic::codegen::http::HeaderMap;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::header::header;
use crate::access::Action;
use crate::client_api::{ApiError, ClientApi};

/// Serves `Auth`.
#[derive(Debug)]
pub(super) struct AuthService {
    api: Arc<ClientApi>,
}

impl AuthService {
    pub(super) fn new(api: Arc<ClientApi>) -> Self {
        AuthService { api }
    }

    /// Replicates a change; its answer is a header.
    async fn change<T: Message>(
        &self,
        request: Request<T>,
        change: impl FnOnce(T) -> Result<AuthCommand, AuthError>,
    ) -> Result<Option<pb::ResponseHeader>, Status> {
        let (metadata, _, request) = request.into_parts();
        let bytes = request.encoded_len();
        match change(request) {
            Ok(change) => self.submit(metadata.as_ref(), change, bytes).await,
            Err(refused) => {
                // What is wrong with a request is for those who might have made it right.
                let access = self.api.access();
                let _admitted = access.check(metadata.as_ref(), Action::ManageUsers).await.map_err(ApiError::Denied)?;
                Err(ApiError::from(refused).into())
            }
        }
    }

    async fn submit(
        &self,
        headers: &HeaderMap,
        change: AuthCommand,
        bytes: usize,
    ) -> Result<Option<pb::ResponseHeader>, Status> {
        let outcome = self.api.write(headers, Command::Auth(change), bytes).await?;
        outcome.result.map_err(ApiError::Kv)?;
        Ok(Some(header(self.api.replica()).at(outcome.revision)))
    }

    /// Users and roles as they are now, for somebody who may see this of them.
    async fn look<T>(
        &self,
        headers: &HeaderMap,
        action: Action<'_>,
        look: impl Fn(&AuthState) -> Result<T, AuthError>,
    ) -> Result<(T, Option<pb::ResponseHeader>), Status> {
        let read = || async {
            self.api.confirm().await?;
            let view = self.api.view()?;
            Ok::<_, ApiError>((look(&view.auth()), view.revision()))
        };
        let (seen, revision) = self.api.access().permitted(headers, action, read).await?;
        Ok((seen.map_err(ApiError::from)?, Some(header(self.api.replica()).at(revision))))
    }

    /// Hashes a password for somebody who may set it: hashing takes long, and is done for nobody else. A hash that is
    /// given instead is taken.
    async fn hash(&self, headers: &HeaderMap, password: String, given: Option<&str>) -> Result<PasswordHash, Status> {
        let password = Zeroizing::new(password);
        let access = self.api.access();
        let _asked_again_by_the_write = access.check(headers, Action::ManageUsers).await.map_err(ApiError::Denied)?;
        match given {
            Some(hash) => Ok(access.authenticator().take_hash(hash)?),
            None => Ok(access.authenticator().hash(password).await?),
        }
    }
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn auth_enable(
        &self,
        request: Request<pb::AuthEnableRequest>,
    ) -> Result<Response<pb::AuthEnableResponse>, Status> {
        let header = self.change(request, |_| Ok(AuthCommand::Enable)).await?;
        Ok(Response::new(pb::AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<pb::AuthDisableRequest>,
    ) -> Result<Response<pb::AuthDisableResponse>, Status> {
        let header = self.change(request, |_| Ok(AuthCommand::Disable)).await?;
        Ok(Response::new(pb::AuthDisableResponse { header }))
    }

    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        let look = |state: &AuthState| Ok((state.is_enabled(), state.revision()));
        let ((enabled, auth_revision), header) =
            self.look(request.metadata().as_ref(), Action::SeeSwitch, look).await?;
        Ok(Response::new(pb::AuthStatusResponse { header, enabled, auth_revision }))
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let access = self.api.access();
        let _open_to_all = access.check(metadata.as_ref(), Action::Login).await.map_err(ApiError::Denied)?;
        let token = access.authenticator().login(&self.api, request.name, request.password).await?;
        let header = Some(header(self.api.replica()).at(self.api.view()?.revision()));
        Ok(Response::new(pb::AuthenticateResponse { header, token }))
    }

    async fn user_add(
        &self,
        request: Request<pb::AuthUserAddRequest>,
    ) -> Result<Response<pb::AuthUserAddResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let (headers, bytes) = (metadata.as_ref(), request.encoded_len());
        let password = match request.options {
            Some(options) if options.no_password => None,
            _ => Some(self.hash(headers, request.password, None).await?),
        };
        let change = AuthCommand::UserAdd { name: request.name, password };
        let header = self.submit(headers, change, bytes).await?;
        Ok(Response::new(pb::AuthUserAddResponse { header }))
    }

    async fn user_get(
        &self,
        request: Request<pb::AuthUserGetRequest>,
    ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let look = |state: &AuthState| {
            let user = state.user(&request.name).ok_or(AuthError::UserNotFound)?;
            Ok(user.roles.iter().cloned().collect())
        };
        let (roles, header) = self.look(metadata.as_ref(), Action::SeeUser(&request.name), look).await?;
        Ok(Response::new(pb::AuthUserGetResponse { header, roles }))
    }

    async fn user_list(
        &self,
        request: Request<pb::AuthUserListRequest>,
    ) -> Result<Response<pb::AuthUserListResponse>, Status> {
        let look = |state: &AuthState| Ok(state.user_names().map(str::to_owned).collect());
        let (users, header) = self.look(request.metadata().as_ref(), Action::ManageUsers, look).await?;
        Ok(Response::new(pb::AuthUserListResponse { header, users }))
    }

    async fn user_delete(
        &self,
        request: Request<pb::AuthUserDeleteRequest>,
    ) -> Result<Response<pb::AuthUserDeleteResponse>, Status> {
        let header = self.change(request, |request| Ok(AuthCommand::UserDelete { name: request.name })).await?;
        Ok(Response::new(pb::AuthUserDeleteResponse { header }))
    }

    async fn user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let (headers, bytes) = (metadata.as_ref(), request.encoded_len());
        // As in etcd, no password is not an empty one: without a hash either, nobody can log in.
        let given = request.password.is_empty().then_some(request.hashed_password.as_str());
        let password = self.hash(headers, request.password, given).await?;
        let change = AuthCommand::UserChangePassword { name: request.name, password };
        let header = self.submit(headers, change, bytes).await?;
        Ok(Response::new(pb::AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Result<Response<pb::AuthUserGrantRoleResponse>, Status> {
        let change = |pb::AuthUserGrantRoleRequest { user, role }| Ok(AuthCommand::UserGrantRole { user, role });
        let header = self.change(request, change).await?;
        Ok(Response::new(pb::AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Result<Response<pb::AuthUserRevokeRoleResponse>, Status> {
        let change =
            |pb::AuthUserRevokeRoleRequest { name: user, role }| Ok(AuthCommand::UserRevokeRole { user, role });
        let header = self.change(request, change).await?;
        Ok(Response::new(pb::AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(
        &self,
        request: Request<pb::AuthRoleAddRequest>,
    ) -> Result<Response<pb::AuthRoleAddResponse>, Status> {
        let header = self.change(request, |request| Ok(AuthCommand::RoleAdd { name: request.name })).await?;
        Ok(Response::new(pb::AuthRoleAddResponse { header }))
    }

    async fn role_get(
        &self,
        request: Request<pb::AuthRoleGetRequest>,
    ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let look = |state: &AuthState| {
            let role = state.role(&request.role).ok_or(AuthError::RoleNotFound)?;
            Ok(permissions(&request.role, role))
        };
        let (perm, header) = self.look(metadata.as_ref(), Action::SeeRole(&request.role), look).await?;
        Ok(Response::new(pb::AuthRoleGetResponse { header, perm }))
    }

    async fn role_list(
        &self,
        request: Request<pb::AuthRoleListRequest>,
    ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
        let look = |state: &AuthState| Ok(state.role_names().map(str::to_owned).collect());
        let (roles, header) = self.look(request.metadata().as_ref(), Action::ManageUsers, look).await?;
        Ok(Response::new(pb::AuthRoleListResponse { header, roles }))
    }

    async fn role_delete(
        &self,
        request: Request<pb::AuthRoleDeleteRequest>,
    ) -> Result<Response<pb::AuthRoleDeleteResponse>, Status> {
        let header = self.change(request, |request| Ok(AuthCommand::RoleDelete { name: request.role })).await?;
        Ok(Response::new(pb::AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<pb::AuthRoleGrantPermissionResponse>, Status> {
        let change = |request: pb::AuthRoleGrantPermissionRequest| {
            let permission = request.perm.ok_or(AuthError::PermissionNotGiven)?;
            let kind = match permission.perm_type() {
                authpb::permission::Type::Read => PermissionKind::Read,
                authpb::permission::Type::Write => PermissionKind::Write,
                authpb::permission::Type::Readwrite => PermissionKind::ReadWrite,
            };
            let permission = Permission { kind, key: permission.key, range_end: permission.range_end };
            Ok(AuthCommand::RoleGrantPermission { role: request.name, permission })
        };
        let header = self.change(request, change).await?;
        Ok(Response::new(pb::AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<pb::AuthRoleRevokePermissionResponse>, Status> {
        let change = |pb::AuthRoleRevokePermissionRequest { role, key, range_end }| {
            Ok(AuthCommand::RoleRevokePermission { role, key, range_end })
        };
        let header = self.change(request, change).await?;
        Ok(Response::new(pb::AuthRoleRevokePermissionResponse { header }))
    }
}

/// A role's permissions. `root`'s record says nothing about what it may, so it is shown as what it comes to.
fn permissions(name: &str, role: &Role) -> Vec<authpb::Permission> {
    let shown = |permission: Permission| authpb::Permission {
        perm_type: match permission.kind {
            PermissionKind::Read => authpb::permission::Type::Read,
            PermissionKind::Write => authpb::permission::Type::Write,
            PermissionKind::ReadWrite => authpb::permission::Type::Readwrite,
        }
        .into(),
        key: permission.key,
        range_end: permission.range_end,
    };
    if name == ROOT {
        let everything = Permission { kind: PermissionKind::ReadWrite, key: "".into(), range_end: (&b"\0"[..]).into() };
        return vec![shown(everything)];
    }
    role.permissions().map(shown).collect()
}
