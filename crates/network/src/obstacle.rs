//! Chains of others that drop what this machine forwards. A packet must pass all chains, so theirs wins over our "accept"; we write into no
//! table that is not ours, but can say whose it is and what would help.
//!
//! Rules of the older iptables (xtables) are in none of the packet filter's tables and are not seen here.

use serde::Serialize;

use crate::error::{Doing, Result};
use crate::host::{Host, netfilter};
use crate::netlink::expr::{self, Chain};

/// One such chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Obstacle {
    /// `ip` or `inet`.
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
        let dropping = others.filter(|chain| chain.drops && !lets_us_through(chain));
        Ok(dropping.map(|chain| self.obstacle(chain)).collect())
    }

    fn obstacle(&self, chain: Chain) -> Obstacle {
        let family = if chain.family == 1 { "inet" } else { "ip" };
        let (table, name, prefix) = (chain.table, chain.name, &self.config().prefix);
        let rule = |side| format!("nft insert rule {family} {table} {name} {side} \"{prefix}*\" accept");
        let cure = vec![rule("iifname"), rule("oifname")];
        Obstacle { family: family.into(), cure, table, chain: name }
    }
}
