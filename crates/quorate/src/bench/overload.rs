//! `quorate bench overload`: finds how many clients saturate the servers, sends ten times as many, and says what is left.
//!
//! Never sleeps between the two: the servers meet the overload warm and loaded, as in an incident.
//!
//! Goodput counts acknowledged writes alone. It passes if at least [`GOODPUT_PERCENT`] of the peak is left, the term is the
//! one before (a leader that loses its office under load takes the cluster with it), and the leases that somebody renewed
//! all the while are alive.

use std::time::Duration;

use serde_json::json;

use super::BenchError;
use super::drive::drive;
use super::leases::{self, Held};
use super::options::{Output, Plan};
use super::report::Report;

/// Clients of the first step; each further one has twice as many.
const FIRST_CLIENTS: usize = 16;
/// Clients of the last step.
const MOST_CLIENTS: usize = 2048;
/// Saturated is who has this share of the largest throughput: more clients only wait longer.
const SATURATED_PERCENT: f64 = 95.0;
/// What must be left of the peak.
const GOODPUT_PERCENT: f64 = 80.0;
/// How many times the saturating number of clients come.
const OVERLOAD: usize = 10;
/// What a refused client waits before it tries again, as etcd's clients do.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(100);

/// Measures, prints, judges.
///
/// # Errors
/// [`BenchError::Overload`] if the goodput is too low, the leader changed, or leases ended.
pub(super) fn run(plan: &Plan) -> Result<(), BenchError> {
    let mut steps: Vec<(usize, f64)> = Vec::new();
    let mut clients = FIRST_CLIENTS;
    let mut first = None;
    while clients <= MOST_CLIENTS {
        let report = step(plan, clients)?;
        first.get_or_insert(report.terms().0);
        let throughput = report.write_throughput();
        eprintln!("{clients:>6} clients  {throughput:>10.0} writes/s");
        steps.push((clients, throughput));
        // Two steps without a gain: the peak is behind.
        let peak = peak(&steps);
        if steps.len() > 2 && steps.iter().rev().take(2).all(|(_, throughput)| *throughput < peak) {
            break;
        }
        clients *= 2;
    }
    let peak = peak(&steps);
    let saturating = steps.iter().find(|(_, throughput)| *throughput >= peak * SATURATED_PERCENT / 100.0);
    let saturating = saturating.expect("the peak is among the steps").0;
    let runtime = tokio::runtime::Handle::current();
    let held = runtime.block_on(Held::begin(&plan.endpoints[0]))?;
    let report = step(plan, saturating * OVERLOAD)?;
    let alive = runtime.block_on(held.end());
    let goodput = report.write_throughput();
    let percent = 100.0 * goodput / peak;
    let terms = (first.expect("there was a first step"), report.terms().1);
    match plan.output {
        Output::Json => println!(
            "{}",
            json!({
                "peak": peak,
                "saturating_clients": saturating,
                "clients": saturating * OVERLOAD,
                "goodput": goodput,
                "percent": percent,
                "term_before": terms.0,
                "term_after": terms.1,
                "leases": leases::COUNT,
                "leases_alive": alive,
                "overload": report.json(),
            })
        ),
        Output::Text => {
            println!("peak      {peak:>10.0} writes/s, reached by {saturating} clients");
            println!("overload  {goodput:>10.0} writes/s with {} clients: {percent:.0} %", saturating * OVERLOAD);
            println!("term      {} before, {} after", terms.0, terms.1);
            println!("leases    {alive:>10} of {} alive", leases::COUNT);
            report.print(Output::Text).map_err(BenchError::Print)?;
        }
    }
    let ended = leases::COUNT - alive;
    if percent < GOODPUT_PERCENT || terms.0 != terms.1 || ended > 0 {
        return Err(BenchError::Overload { percent, least: GOODPUT_PERCENT, before: terms.0, after: terms.1, ended });
    }
    Ok(())
}

fn step(plan: &Plan, clients: usize) -> Result<Report, BenchError> {
    let pause = PAUSE_AFTER_REFUSAL;
    // Connections are few beside clients, and as many in each step: what is measured is the queue behind them.
    drive(&Plan { clients, connections: plan.connections.min(clients), pause, ..plan.clone() })
}

fn peak(steps: &[(usize, f64)]) -> f64 {
    steps.iter().map(|(_, throughput)| *throughput).fold(0.0, f64::max)
}
