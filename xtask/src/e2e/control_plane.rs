//! Datastore, API server, controller-manager and scheduler.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::daemon::{await_ready, start};
use super::datastore::Datastore;
use super::kubectl::Kubectl;
use super::place::{self, API_PORT, HOST, SERVICE_RANGE, text};
use super::toolchain::Toolchain;
use crate::failure::Failure;

const PATIENCE: Duration = Duration::from_secs(300);

/// Who may log in. The token is the name: nothing but this machine reaches the API server.
const USERS: [(&str, &str, &str); 5] = [
    ("admin", "admin", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("proxy", "system:kube-proxy", ""),
    ("kubelet", "system:node:e2e", "system:nodes"),
];

/// One line for every write of the operator.
const AUDIT_LOG: &str = "logs/audit.log";
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, resources: [{group: coordination.k8s.io}]}
- {level: Metadata, verbs: [create, update, patch, delete], users: ['system:serviceaccount:quorate-system:quorate-operator']}
- {level: None}
";

/// The operator's writes so far, its Lease apart, as the API server noted them: a JSON object each.
pub(super) fn operator_writes() -> Result<Vec<String>, Failure> {
    let log = place::path(AUDIT_LOG);
    let text = fs::read_to_string(&log).map_err(Failure::file(&log))?;
    // The last line may be on its way.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    Ok(whole.lines().map(str::to_owned).collect())
}

/// Starts all four and waits until the API server serves.
pub(super) fn bring_up(tools: &Toolchain, datastore: Datastore, binaries: &Path) -> Result<(), Failure> {
    write_users()?;
    let policy = place::path("audit.yaml");
    fs::write(&policy, AUDIT_POLICY).map_err(Failure::file(&policy))?;
    datastore.start(tools, binaries)?;
    start("kube-apiserver", &tools.path("kube-apiserver"), &api_server(datastore))?;
    let kubectl = Kubectl::new(tools);
    await_ready("kube-apiserver", PATIENCE, || kubectl.output(&["get", "--raw=/readyz"]).is_ok())?;
    start("kube-controller-manager", &tools.path("kube-controller-manager"), &controller_manager())?;
    start("kube-scheduler", &tools.path("kube-scheduler"), &scheduler())?;
    await_ready("the default service account", PATIENCE, || {
        kubectl.output(&["get", "serviceaccount", "default"]).is_ok()
    })
}

fn api_server(datastore: Datastore) -> Vec<String> {
    vec![
        format!("--etcd-servers={}", datastore.servers()),
        format!("--bind-address={HOST}"),
        format!("--advertise-address={HOST}"),
        format!("--secure-port={API_PORT}"),
        format!("--service-cluster-ip-range={SERVICE_RANGE}"),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--service-account-key-file=".to_owned() + &text("pki/accounts.key"),
        "--service-account-signing-key-file=".to_owned() + &text("pki/accounts.key"),
        "--tls-cert-file=".to_owned() + &text("pki/server.crt"),
        "--tls-private-key-file=".to_owned() + &text("pki/server.key"),
        "--token-auth-file=".to_owned() + &text("tokens.csv"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--enable-priority-and-fairness=false".to_owned(),
        "--watch-cache-sizes=".to_owned(),
        "--audit-policy-file=".to_owned() + &text("audit.yaml"),
        "--audit-log-path=".to_owned() + &text(AUDIT_LOG),
    ]
}

fn controller_manager() -> Vec<String> {
    vec![
        "--kubeconfig=".to_owned() + &text("controller-manager.kubeconfig"),
        "--authentication-kubeconfig=".to_owned() + &text("controller-manager.kubeconfig"),
        "--authorization-kubeconfig=".to_owned() + &text("controller-manager.kubeconfig"),
        "--bind-address=127.0.0.1".to_owned(),
        "--secure-port=16257".to_owned(),
        "--root-ca-file=".to_owned() + &text("pki/ca.crt"),
        "--service-account-private-key-file=".to_owned() + &text("pki/accounts.key"),
        "--use-service-account-credentials=true".to_owned(),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
        "--leader-elect=false".to_owned(),
    ]
}

fn scheduler() -> Vec<String> {
    vec![
        "--kubeconfig=".to_owned() + &text("scheduler.kubeconfig"),
        "--authentication-kubeconfig=".to_owned() + &text("scheduler.kubeconfig"),
        "--authorization-kubeconfig=".to_owned() + &text("scheduler.kubeconfig"),
        "--bind-address=127.0.0.1".to_owned(),
        "--secure-port=16259".to_owned(),
        "--leader-elect=false".to_owned(),
    ]
}

fn write_users() -> Result<(), Failure> {
    let lines: Vec<String> =
        USERS.iter().map(|(token, user, group)| format!("{token},{user},{user},\"{group}\"")).collect();
    let file = place::path("tokens.csv");
    fs::write(&file, lines.join("\n") + "\n").map_err(Failure::file(&file))?;
    for (token, ..) in USERS {
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: e2e\n\
             clusters: [{{name: e2e, cluster: {{server: 'https://{HOST}:{API_PORT}', certificate-authority: {}}}}}]\n\
             users: [{{name: e2e, user: {{token: {token}}}}}]\n\
             contexts: [{{name: e2e, context: {{cluster: e2e, user: e2e}}}}]\n",
            text("pki/ca.crt")
        );
        let file = place::path(&format!("{token}.kubeconfig"));
        fs::write(&file, config).map_err(Failure::file(&file))?;
    }
    Ok(())
}
