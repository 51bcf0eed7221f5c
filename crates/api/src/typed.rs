//! Objects as k8s-openapi structs. The only place where these structs meet serde: each instantiation is expensive to
//! compile, so everyone else calls these plain functions.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde::Deserialize;
use serde_json::Value;

use crate::Error;

fn read<'a, T: Deserialize<'a>>(kind: &str, value: &'a Value) -> Result<T, Error> {
    T::deserialize(value).map_err(|error| {
        let name = value["metadata"]["name"].as_str().unwrap_or_default();
        Error::Untyped(format!("{kind} {name}: {error}"))
    })
}

fn read_slice<'a, T: Deserialize<'a>>(kind: &str, json: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(json).map_err(|error| Error::Untyped(format!("{kind}: {error}")))
}

fn write(object: &impl serde::Serialize) -> Value {
    serde_json::to_value(object).expect("the API's types have string keys only")
}

macro_rules! typed {
    ($($type:ident: $from_value:ident, $from_slice:ident, $to_value:ident;)*) => {$(
        #[doc = concat!("A ", stringify!($type), " from its tree.")]
        pub fn $from_value(value: &Value) -> Result<$type, Error> {
            read(stringify!($type), value)
        }

        #[doc = concat!("A ", stringify!($type), " from its JSON text.")]
        pub fn $from_slice(json: &[u8]) -> Result<$type, Error> {
            read_slice(stringify!($type), json)
        }

        #[doc = concat!("A ", stringify!($type), " as a tree, with kind and apiVersion.")]
        pub fn $to_value(object: &$type) -> Value {
            write(object)
        }
    )*};
}

typed! {
    Pod: pod, pod_from_slice, pod_to_value;
    Node: node, node_from_slice, node_to_value;
    Namespace: namespace, namespace_from_slice, namespace_to_value;
    Event: event, event_from_slice, event_to_value;
    ConfigMap: config_map, config_map_from_slice, config_map_to_value;
    Secret: secret, secret_from_slice, secret_to_value;
    Service: service, service_from_slice, service_to_value;
    ServiceAccount: service_account, service_account_from_slice, service_account_to_value;
    Lease: lease, lease_from_slice, lease_to_value;
    PriorityClass: priority_class, priority_class_from_slice, priority_class_to_value;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn goes_there_and_back() {
        let tree = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}]}});
        let pod = super::pod(&tree).expect("a pod");
        assert_eq!(pod.metadata.name.as_deref(), Some("a"));
        assert_eq!(super::pod_to_value(&pod), tree);
        assert_eq!(super::pod_from_slice(tree.to_string().as_bytes()).expect("a pod"), pod);
    }

    #[test]
    fn says_what_does_not_fit() {
        let error = super::node(&json!({"metadata": {"name": "n", "labels": 1}})).expect_err("labels are no map");
        assert!(error.to_string().starts_with("Node n: invalid type"), "{error}");
    }
}
