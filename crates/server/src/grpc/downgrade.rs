//! What etcd's downgrade calls are answered: whether a version could be gone back to, in etcd's words.
//!
//! There is nothing to prepare here. An older release of Quorate with the same format can be started at any time, and no
//! release can go back to etcd's files; so a target is judged as etcd judges it, and never entered upon.

use quorate_proto::etcdserverpb::downgrade_request::DowngradeAction;
use quorate_wire::etcd::EtcdError;

use super::ETCD_STORAGE_VERSION;

/// What etcd tells: the version of the cluster without its last number.
const CLUSTER_VERSION: &str = "3.7";

/// The cluster version to tell.
///
/// # Errors
/// etcd's refusals; an accepted target is refused with [`EtcdError::NotCapable`] when it is to be entered upon.
pub(super) fn answer(action: DowngradeAction, target: &str) -> Result<&'static str, EtcdError> {
    match action {
        // Whether there is one to cancel is not asked.
        DowngradeAction::Cancel => Ok(CLUSTER_VERSION),
        DowngradeAction::Validate => check(target).map(|()| CLUSTER_VERSION),
        DowngradeAction::Enable => check(target).and(Err(EtcdError::NotCapable)),
    }
}

/// One minor version back is all that etcd allows.
fn check(target: &str) -> Result<(), EtcdError> {
    let (major, minor) = major_and_minor(target).ok_or(EtcdError::WrongDowngradeVersionFormat)?;
    let (our_major, our_minor) = major_and_minor(ETCD_STORAGE_VERSION).expect("a version of this build");
    if (major, minor + 1) == (our_major, our_minor) { Ok(()) } else { Err(EtcdError::InvalidDowngradeTargetVersion) }
}

/// Of `3.6` or `3.6.1`; what follows the third number does not matter.
fn major_and_minor(version: &str) -> Option<(u32, u32)> {
    let numbers = version.split_once(['-', '+']).map_or(version, |(numbers, _)| numbers);
    let parts: Vec<u32> = numbers.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    match parts[..] {
        [major, minor] | [major, minor, _] => Some((major, minor)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_judged_as_etcd_judges_it() {
        let validate = |target| answer(DowngradeAction::Validate, target);
        for good in ["3.6", "3.6.0", "3.6.11", "3.6.0-rc.1"] {
            assert_eq!(validate(good), Ok("3.7"), "{good}");
        }
        for bad in ["", "3", "v3.6", "3.6.x", "3.6.1.2"] {
            assert_eq!(validate(bad), Err(EtcdError::WrongDowngradeVersionFormat), "{bad}");
        }
        for other in ["3.7", "3.5.0", "3.8.0", "2.6", "4.6"] {
            assert_eq!(validate(other), Err(EtcdError::InvalidDowngradeTargetVersion), "{other}");
        }
    }

    #[test]
    fn no_downgrade_is_entered_upon_and_to_cancel_none_is_no_error() {
        assert_eq!(answer(DowngradeAction::Enable, "3.6"), Err(EtcdError::NotCapable));
        assert_eq!(answer(DowngradeAction::Enable, "x"), Err(EtcdError::WrongDowngradeVersionFormat));
        assert_eq!(answer(DowngradeAction::Cancel, ""), Ok("3.7"));
    }
}
