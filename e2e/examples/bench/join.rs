//! How long a machine takes to become a Ready node, by its own word.

use std::time::Duration;

use anyhow::{Context, Result};
use e2e::lab::Lab;

use crate::{Bench, spread};

const TIMES: usize = 10;

pub(crate) fn run(_: &Bench) -> Result<()> {
    let Some(lab) = Lab::new(1 + TIMES) else { return Ok(()) };
    lab.serve("up", &[]);
    let token = lab.token(&[]);
    let mut times = Vec::new();
    for number in 2..2 + TIMES {
        let told = lab.join(number, &token, &[]).ok();
        let (_, rest) = told.split_once("is Ready after ").context("the node does not say how long it took")?;
        let milliseconds = rest.split(' ').next().unwrap_or_default().parse()?;
        times.push(Duration::from_millis(milliseconds));
    }
    spread("join to Ready, one after the other", times, "≤ 1000 ms");
    Ok(())
}
