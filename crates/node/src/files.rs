//! The files that the agent writes for a pod: hosts, resolver configuration, host name.

use std::net::IpAddr;

use crate::pod::Pod;

const HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HOST_HEADER: &str = "# Kubernetes-managed hosts file (host network).\n";
const LOOPBACK: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
                        fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";
/// What the kernel's resolver library reads at most.
const MAX_SERVERS: usize = 3;

/// `/etc/hosts` of a pod at these addresses. `host_file` is the machine's own, which a pod in the machine's network keeps.
pub fn hosts(pod: &Pod, addresses: &[IpAddr], host_file: &str) -> String {
    let mut text = String::new();
    if pod.uses_host_network() {
        text.extend([HOST_HEADER, host_file]);
    } else {
        let hostname = pod.hostname();
        let subdomain = pod.spec().subdomain.as_deref().filter(|name| !name.is_empty());
        let full = subdomain.map(|it| format!("{hostname}.{it}.{}.svc.cluster.local\t", pod.namespace()));
        text.extend([HEADER, LOOPBACK]);
        for address in addresses {
            text.extend([&address.to_string(), "\t", full.as_deref().unwrap_or_default(), &hostname, "\n"]);
        }
    }
    let aliases = pod.spec().host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        text.extend([alias.ip.as_str(), "\t", &names, "\n"]);
    }
    text
}

/// What a resolver configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// `/etc/resolv.conf` of a pod, from the machine's own and the pod's `dnsPolicy` and `dnsConfig`.
pub fn resolver(pod: &Pod, host_file: &str) -> String {
    let spec = pod.spec();
    let mut resolver = match spec.dns_policy.as_deref() {
        Some("None") => Resolver::default(),
        _ => parse(host_file, pod.uses_host_network()),
    };
    if let Some(config) = &spec.dns_config {
        resolver.servers.extend(config.nameservers.iter().flatten().cloned());
        resolver.searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            resolver.options.retain(|old| old.split(':').next() != Some(name));
            resolver.options.push(match &option.value {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.to_owned(),
            });
        }
    }
    render(resolver)
}

/// Where systemd's resolver, which listens on loopback, says whom it asks itself.
const BEHIND_LOOPBACK: &str = "/run/systemd/resolve/resolv.conf";

/// The machine's resolver configuration as pods can use it. `read` reads a file; one that is not there is empty.
pub fn machine_resolver(read: impl Fn(&str) -> String) -> String {
    let own = read("/etc/resolv.conf");
    if !parse(&own, false).servers.is_empty() {
        return own;
    }
    let behind = read(BEHIND_LOOPBACK);
    if behind.is_empty() { own } else { behind }
}

/// Reads the machine's file. A server on loopback is of no use to a pod with a network of its own.
fn parse(text: &str, keeps_loopback: bool) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("nameserver"), Some(server)) if keeps_loopback || !server.starts_with("127.") && server != "::1" => {
                resolver.servers.push(server.to_owned());
            }
            (Some("search"), Some(first)) => {
                resolver.searches = std::iter::once(first).chain(words).map(str::to_owned).collect();
            }
            (Some("options"), Some(first)) => {
                resolver.options = std::iter::once(first).chain(words).map(str::to_owned).collect();
            }
            _ => {}
        }
    }
    resolver
}

fn render(mut resolver: Resolver) -> String {
    let mut seen = std::collections::HashSet::new();
    resolver.servers.retain(|server| seen.insert(server.clone()));
    resolver.servers.truncate(MAX_SERVERS);
    resolver.searches.retain(|search| seen.insert(search.clone()));
    let mut text = String::new();
    if !resolver.searches.is_empty() {
        text.extend(["search ", &resolver.searches.join(" "), "\n"]);
    }
    for server in &resolver.servers {
        text.extend(["nameserver ", server, "\n"]);
    }
    if !resolver.options.is_empty() {
        text.extend(["options ", &resolver.options.join(" "), "\n"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        let meta = json!({"name": "web", "namespace": "default", "uid": "u"});
        let mut spec = spec;
        spec["containers"] = json!([]);
        Pod::new(Arc::new(json!({"kind": "Pod", "apiVersion": "v1", "metadata": meta, "spec": spec}))).unwrap()
    }

    fn check(spec: Value, expected: Expect) {
        expected.assert_eq(&resolver(
            &pod(spec),
            "nameserver 127.0.0.53\nnameserver 10.0.0.2\nsearch lan\noptions ndots:1\n",
        ));
    }

    #[test]
    fn a_resolver_is_the_machines_and_the_pods() {
        check(
            json!({}),
            expect![[r#"
                search lan
                nameserver 10.0.0.2
                options ndots:1
            "#]],
        );
        check(
            json!({"dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "5"}, {"name": "edns0"}]}}),
            expect![[r#"
                search lan
                nameserver 10.0.0.2
                nameserver 1.1.1.1
                options ndots:5 edns0
            "#]],
        );
        check(
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a", "b"]}}),
            expect![[r#"
                search a b
                nameserver 1.1.1.1
            "#]],
        );
    }

    #[test]
    fn behind_a_resolver_on_loopback_are_those_that_it_asks() {
        let stub = "nameserver 127.0.0.53\n";
        let read = |path: &str| if path == BEHIND_LOOPBACK { "nameserver 10.0.0.3\n" } else { stub }.to_owned();
        assert_eq!(machine_resolver(read), "nameserver 10.0.0.3\n");
        assert_eq!(machine_resolver(|path| if path == BEHIND_LOOPBACK { "" } else { stub }.to_owned()), stub);
        assert_eq!(machine_resolver(|_| "nameserver 1.1.1.1\n".to_owned()), "nameserver 1.1.1.1\n");
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let spec = json!({"subdomain": "sub", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["foo", "bar"]}]});
        let text = hosts(&pod(spec), &["10.1.0.5".parse().unwrap()], "");
        assert!(text.starts_with(HEADER));
        assert!(text.contains("10.1.0.5\tweb.sub.default.svc.cluster.local\tweb\n"));
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\tfoo\tbar\n"));
    }
}
