//! Cuts a list of requests down to those without which the divergence does not show.

use super::{Action, Divergence, Run, replay};

/// Replays that one search may take; each starts two servers.
const MAX_REPLAYS: usize = 150;

/// Drops runs of requests, halves first and single ones last, as long as some answer still differs at the end.
///
/// Any divergence counts, not only the first one seen: without its history a request may show the same fault otherwise.
pub(super) async fn shrink(run: &Run, actions: Vec<Action>, found: Box<Divergence>) -> (Vec<Action>, Box<Divergence>) {
    let (mut actions, mut found) = (actions, found);
    let mut replays = 0;
    let mut width = actions.len() / 2;
    while width > 0 {
        let mut start = 0;
        while start < actions.len() && replays < MAX_REPLAYS {
            let end = (start + width).min(actions.len());
            let rest: Vec<Action> = [&actions[..start], &actions[end..]].concat();
            replays += 1;
            match replay(run, &rest).await {
                Some((length, divergence)) => {
                    actions = rest;
                    actions.truncate(length);
                    found = divergence;
                }
                None => start = end,
            }
        }
        width /= 2;
    }
    (actions, found)
}
