//! Chains of others that drop what this machine forwards. A packet must pass all chains, so theirs wins over our "accept"; we write into no
//! table that is not ours, but can say whose it is and what would help.
//!
//! Rules of the older iptables (xtables) are in none of the packet filter's tables and are not seen here.

use serde::Serialize;

use crate::error::{Doing, Result};
use crate::family::Family;
use crate::host::{Host, netfilter};
use crate::netlink::expr::{self, Chain};

/// One such chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Obstacle {
    /// `ip`, `ip6` or `inet`.
    pub family: String,
    /// Whose it is: Docker's and iptables' is `filter`.
    pub table: String,
    /// Which one.
    pub chain: String,
    /// Commands that let this cluster's packets through, until the owner writes its table anew.
    pub cure: Vec<String>,
}

impl Host {
    /// The chains that drop what no rule accepts, in tables where no rule speaks of our links.
    pub fn obstacles(&self) -> Result<Vec<Obstacle>> {
        let socket = netfilter()?;
        let chains = socket.dump(expr::all_chains()).doing(|| "list chains".into())?;
        let rules = socket.dump(expr::all_rules()).doing(|| "list rules".into())?;
        let prefix = self.config().prefix.as_bytes();
        let lets_us_through = |chain: &Chain| {
            let mut beside = rules.iter().filter(|rule| chain.is_beside(rule));
            beside.any(|rule| rule.body.windows(prefix.len()).any(|bytes| bytes == prefix))
        };
        let others = chains.iter().filter_map(Chain::read).filter(|chain| chain.table != self.config().table);
        let meets_ours = |chain: &Chain| {
            chain.family == expr::BOTH || self.config().ranges.families().any(|family| family.number() == chain.family)
        };
        let dropping = others.filter(|chain| chain.drops && meets_ours(chain) && !lets_us_through(chain));
        Ok(dropping.map(|chain| self.obstacle(chain)).collect())
    }

    fn obstacle(&self, chain: Chain) -> Obstacle {
        let family = match chain.family {
            expr::BOTH => "inet",
            number if number == Family::V6.number() => "ip6",
            _ => "ip",
        };
        let (table, name, prefix) = (chain.table, chain.name, &self.config().prefix);
        let rule = |side| format!("nft insert rule {family} {table} {name} {side} \"{prefix}*\" accept");
        let cure = vec![rule("iifname"), rule("oifname")];
        Obstacle { family: family.into(), cure, table, chain: name }
    }
}
