//! Which fault met which handler: the kind of message that was lost, the call to the disk that failed, what a process was
//! when it died.
//!
//! A fault that never meets a handler tests nothing of it, so every pair that can meet is a cell, and the zeros are named.

use std::fmt;

use quorate_raft::RoleKind;

use crate::run::TierChoice;

macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($name:ident => $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "each is named by its text")]
        pub enum $type { $($name,)* }

        impl $type {
            /// All of them, in the order of the table.
            pub const ALL: &[$type] = &[$($type::$name,)*];

            /// Name in the table.
            pub fn name(self) -> &'static str {
                match self { $($type::$name => $text,)* }
            }
        }
    };
}

names! {
    /// What befell a handler.
    Struck {
        Lost => "lost",
        CutOff => "cut off",
        Duplicated => "duplicated",
        Reordered => "reordered",
        Replayed => "replayed",
        Delayed => "delayed by a clog, a detour or a narrow link",
        Killed => "killed",
        Paused => "paused",
        Stalled => "stalled",
        Failed => "failed",
        Full => "disk full",
    }
}

names! {
    /// What was being handled.
    Handler {
        Append => "append",
        Heartbeat => "heartbeat",
        AppendReply => "append reply",
        RequestPreVote => "request pre-vote",
        RequestVote => "request vote",
        VoteReply => "vote reply",
        TimeoutNow => "timeout now",
        ReadIndex => "read index",
        ReadIndexReply => "read index reply",
        Image => "image",
        ImageReceived => "image received",
        Forward => "forward",
        ForwardReply => "forward reply",
        PeerAdmin => "admin and its reply",
        PeerDigest => "state hash",
        PeerOther => "removal and outcome notices",
        LogWrite => "log write",
        LogReset => "log reset",
        LogTruncate => "log truncation",
        SendStep => "send",
        ApplyStep => "apply",
        InstallStep => "install image",
        ReadBack => "read back",
        OtherStep => "other effect",
        Checkpoint => "checkpoint",
        ReceiveImage => "receive image",
        Open => "open",
        Follower => "follower",
        PreCandidate => "pre-candidate",
        Candidate => "candidate",
        Leader => "leader",
        JointPhase => "in a joint phase",
    }
}

/// What kind of thing a handler is, and so what can befall it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Message,
    Transfer,
    Effect,
    Call,
    Role,
}

impl Handler {
    /// The handler that a role is.
    pub(crate) fn of_role(role: RoleKind) -> Handler {
        match role {
            RoleKind::Follower => Handler::Follower,
            RoleKind::PreCandidate => Handler::PreCandidate,
            RoleKind::Candidate => Handler::Candidate,
            RoleKind::Leader => Handler::Leader,
        }
    }

    fn group(self) -> Group {
        match self {
            Handler::Image => Group::Transfer,
            handler if handler <= Handler::PeerOther => Group::Message,
            Handler::LogWrite | Handler::LogReset | Handler::LogTruncate => Group::Call,
            handler if handler <= Handler::OtherStep => Group::Effect,
            handler if handler <= Handler::Open => Group::Call,
            _ => Group::Role,
        }
    }

    /// Handlers that the full tier alone has.
    fn is_full_only(self) -> bool {
        matches!(self, Handler::Checkpoint | Handler::ReceiveImage | Handler::Open)
            || (Handler::Forward..=Handler::PeerOther).contains(&self)
    }
}

/// Whether this can befall that, in this tier.
fn can_meet(struck: Struck, handler: Handler, tier: TierChoice) -> bool {
    if handler.is_full_only() && tier == TierChoice::Core {
        return false;
    }
    match (struck, handler.group()) {
        (Struck::Lost | Struck::CutOff | Struck::Duplicated, Group::Message) => true,
        (Struck::Reordered | Struck::Replayed | Struck::Delayed, Group::Message) => true,
        (Struck::Lost | Struck::Delayed, Group::Transfer) => true,
        (Struck::Killed, Group::Role) | (Struck::Paused, Group::Role) => true,
        // A reset and a truncation are asked for by effects of their own.
        (Struck::Killed, Group::Effect) => true,
        (Struck::Killed, Group::Call) if tier == TierChoice::Full => {
            matches!(
                handler,
                Handler::LogWrite
                    | Handler::LogReset
                    | Handler::LogTruncate
                    | Handler::Checkpoint
                    | Handler::ReceiveImage
                    | Handler::Open
            )
        }
        (Struck::Stalled, Group::Call) if tier == TierChoice::Core => handler == Handler::LogWrite,
        (Struck::Stalled, Group::Call) => {
            matches!(handler, Handler::LogWrite | Handler::LogReset | Handler::LogTruncate | Handler::Checkpoint)
        }
        (Struck::Stalled, Group::Effect) => matches!(handler, Handler::ApplyStep | Handler::ReadBack),
        (Struck::Failed, Group::Call) => match tier {
            TierChoice::Core => handler == Handler::LogWrite,
            TierChoice::Full => handler != Handler::LogTruncate,
        },
        (Struck::Failed, Group::Effect) => tier == TierChoice::Full && handler == Handler::ReadBack,
        (Struck::Full, Group::Call) => {
            tier == TierChoice::Full && matches!(handler, Handler::LogWrite | Handler::Checkpoint | Handler::Open)
        }
        _ => false,
    }
}

/// Runs of the full tier from which on everything that can meet has to.
pub(super) const RUNS_TO_MEET_ALL: u64 = 2_000;

/// Too rare to be asked of fewer runs.
fn is_rare(struck: Struck, handler: Handler, tier: TierChoice) -> bool {
    if tier == TierChoice::Core {
        return matches!((struck, handler), (_, Handler::TimeoutNow) | (Struck::Killed, Handler::InstallStep));
    }
    match handler {
        Handler::TimeoutNow
        | Handler::ImageReceived
        | Handler::ForwardReply
        | Handler::PeerAdmin
        | Handler::PeerOther => true,
        Handler::LogReset | Handler::LogTruncate | Handler::InstallStep | Handler::ReadBack | Handler::Candidate => {
            true
        }
        Handler::ReceiveImage | Handler::Open | Handler::ApplyStep => struck != Struck::Killed,
        Handler::JointPhase => struck == Struck::Paused,
        Handler::Checkpoint => struck == Struck::Full,
        _ => false,
    }
}

/// The counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Matrix {
    cells: Vec<u64>,
}

impl Default for Matrix {
    fn default() -> Self {
        Matrix { cells: vec![0; Struck::ALL.len() * Handler::ALL.len()] }
    }
}

impl Matrix {
    pub(super) fn hit(&mut self, struck: Struck, handler: Handler) {
        self.cells[struck as usize * Handler::ALL.len() + handler as usize] += 1;
    }

    pub(super) fn merge(&mut self, other: &Matrix) {
        for (mine, theirs) in self.cells.iter_mut().zip(&other.cells) {
            *mine += theirs;
        }
    }

    fn count(&self, struck: Struck, handler: Handler) -> u64 {
        self.cells[struck as usize * Handler::ALL.len() + handler as usize]
    }

    /// Pairs that so many runs should have made meet and did not.
    pub(super) fn zeros(&self, tier: TierChoice, runs: u64) -> Vec<String> {
        let asked = |struck, handler| runs >= RUNS_TO_MEET_ALL || !is_rare(struck, handler, tier);
        let pairs = Struck::ALL.iter().flat_map(|struck| Handler::ALL.iter().map(|handler| (*struck, *handler)));
        pairs
            .filter(|(struck, handler)| can_meet(*struck, *handler, tier) && asked(*struck, *handler))
            .filter(|(struck, handler)| self.count(*struck, *handler) == 0)
            .map(|(struck, handler)| format!("{}: {}", handler.name(), struck.name()))
            .collect()
    }

    /// One line a handler.
    pub(super) fn write(&self, f: &mut fmt::Formatter<'_>, tier: TierChoice) -> fmt::Result {
        for &handler in Handler::ALL {
            let mut cells = Vec::new();
            for &struck in Struck::ALL {
                let count = self.count(struck, handler);
                if count > 0 || can_meet(struck, handler, tier) {
                    cells.push(format!("{} {count}", struck.name()));
                }
            }
            if !cells.is_empty() {
                writeln!(f, "  {:<28} {}", handler.name(), cells.join(", "))?;
            }
        }
        Ok(())
    }
}
