//! Why a stream is refused: the same reason for the wire, the log and the metric.

use quorate_proto::quorate::peer::v1 as proto;

/// A refused stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Refusal {
    /// What the other side may act on.
    pub(crate) reason: proto::Refusal,
    /// For people.
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(reason: proto::Refusal, text: impl Into<String>) -> Refusal {
        Refusal { reason, text: text.into() }
    }

    /// What a greeting says about being welcome; `None` = it is.
    pub(crate) fn of(hello: &proto::Hello) -> Option<Refusal> {
        let reason = hello.refused();
        (reason != proto::Refusal::Unspecified).then(|| Refusal::new(reason, hello.refusal_text.clone()))
    }

    /// A greeting that holds nothing but this refusal.
    pub(crate) fn into_hello(self) -> proto::Hello {
        proto::Hello { refused: self.reason.into(), refusal_text: self.text, ..proto::Hello::default() }
    }

    /// Value of the metric's label `reason`.
    pub(crate) fn label(&self) -> &'static str {
        match self.reason {
            proto::Refusal::WrongCluster => "cluster",
            proto::Refusal::WrongNode => "node",
            proto::Refusal::WrongIncarnation => "incarnation",
            proto::Refusal::Removed => "removed",
            proto::Refusal::UnknownVersion => "version",
            proto::Refusal::NotServing => "not_serving",
            proto::Refusal::Malformed | proto::Refusal::Unspecified => "garbage",
        }
    }
}
