//! The rows.

use super::Scope::{Cluster, Namespaced};
use super::Verb::{Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch};
use super::{Kind, Subresource, Verb};

const STORED: &[Verb] = &[Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch];
/// Namespaces are emptied one by one.
const ONE_BY_ONE: &[Verb] = &[Create, Delete, Get, List, Patch, Update, Watch];
/// Asked for by clients, and always empty: no custom kind can be defined.
const READ: &[Verb] = &[Get, List, Watch];
const REVIEW: &[Verb] = &[Create];
const PART: &[Verb] = &[Get, Patch, Update];
const STREAM: &[Verb] = &[Create, Get];
const ASKED: &[Verb] = &[Create, Delete, Get, Patch, Update];

const fn core(name: &'static str, kind: &'static str, verbs: &'static [Verb]) -> Subresource {
    Subresource { name, group: "", version: "v1", kind, verbs }
}

/// What rows have in common, so that each row says only what is its own.
const ROW: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    list_kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    scope: Namespaced,
    verbs: STORED,
    subresources: &[],
    schema: "",
    has_status: false,
    storage: None,
};

const POD: Kind = Kind {
    kind: "Pod",
    list_kind: "PodList",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    subresources: &[
        core("attach", "PodAttachOptions", STREAM),
        core("binding", "Binding", REVIEW),
        core("ephemeralcontainers", "Pod", PART),
        Subresource { name: "eviction", group: "policy", version: "v1", kind: "Eviction", verbs: REVIEW },
        core("exec", "PodExecOptions", STREAM),
        core("log", "Pod", &[Get]),
        core("portforward", "PodPortForwardOptions", STREAM),
        core("resize", "Pod", PART),
        core("status", "Pod", PART),
    ],
    schema: "io.k8s.api.core.v1.Pod",
    has_status: true,
    storage: Some("pods"),
    ..ROW
};

const NAMESPACE: Kind = Kind {
    kind: "Namespace",
    list_kind: "NamespaceList",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    scope: Cluster,
    verbs: ONE_BY_ONE,
    subresources: &[core("finalize", "Namespace", &[Update]), core("status", "Namespace", PART)],
    schema: "io.k8s.api.core.v1.Namespace",
    has_status: true,
    storage: Some("namespaces"),
    ..ROW
};

const NODE: Kind = Kind {
    kind: "Node",
    list_kind: "NodeList",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    scope: Cluster,
    subresources: &[core("proxy", "NodeProxyOptions", ASKED), core("status", "Node", PART)],
    schema: "io.k8s.api.core.v1.Node",
    has_status: true,
    storage: Some("minions"),
    ..ROW
};

const SERVICE: Kind = Kind {
    kind: "Service",
    list_kind: "ServiceList",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    subresources: &[core("status", "Service", PART)],
    schema: "io.k8s.api.core.v1.Service",
    has_status: true,
    storage: Some("services/specs"),
    ..ROW
};

const REPLICATION_CONTROLLER: Kind = Kind {
    kind: "ReplicationController",
    list_kind: "ReplicationControllerList",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    short_names: &["rc"],
    categories: &["all"],
    subresources: &[core("status", "ReplicationController", PART)],
    schema: "io.k8s.api.core.v1.ReplicationController",
    has_status: true,
    storage: Some("controllers"),
    ..ROW
};

const DEPLOYMENT: Kind = Kind {
    group: "apps",
    kind: "Deployment",
    list_kind: "DeploymentList",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    subresources: &[Subresource { name: "status", group: "apps", version: "v1", kind: "Deployment", verbs: PART }],
    schema: "io.k8s.api.apps.v1.Deployment",
    has_status: true,
    storage: Some("deployments"),
    ..ROW
};

const EVENT: Kind = Kind {
    kind: "Event",
    list_kind: "EventList",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    schema: "io.k8s.api.core.v1.Event",
    storage: Some("events"),
    ..ROW
};

const CONFIG_MAP: Kind = Kind {
    kind: "ConfigMap",
    list_kind: "ConfigMapList",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    schema: "io.k8s.api.core.v1.ConfigMap",
    storage: Some("configmaps"),
    ..ROW
};

const SECRET: Kind = Kind {
    kind: "Secret",
    list_kind: "SecretList",
    plural: "secrets",
    singular: "secret",
    schema: "io.k8s.api.core.v1.Secret",
    storage: Some("secrets"),
    ..ROW
};

const SERVICE_ACCOUNT: Kind = Kind {
    kind: "ServiceAccount",
    list_kind: "ServiceAccountList",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    schema: "io.k8s.api.core.v1.ServiceAccount",
    storage: Some("serviceaccounts"),
    ..ROW
};

const POD_TEMPLATE: Kind = Kind {
    kind: "PodTemplate",
    list_kind: "PodTemplateList",
    plural: "podtemplates",
    singular: "podtemplate",
    schema: "io.k8s.api.core.v1.PodTemplate",
    storage: Some("podtemplates"),
    ..ROW
};

const BINDING: Kind = Kind {
    kind: "Binding",
    plural: "bindings",
    singular: "binding",
    verbs: REVIEW,
    schema: "io.k8s.api.core.v1.Binding",
    ..ROW
};

const EVENTS_EVENT: Kind = Kind { group: "events.k8s.io", schema: "io.k8s.api.events.v1.Event", ..EVENT };

const LEASE: Kind = Kind {
    group: "coordination.k8s.io",
    kind: "Lease",
    list_kind: "LeaseList",
    plural: "leases",
    singular: "lease",
    schema: "io.k8s.api.coordination.v1.Lease",
    storage: Some("leases"),
    ..ROW
};

const PRIORITY_CLASS: Kind = Kind {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    list_kind: "PriorityClassList",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    scope: Cluster,
    schema: "io.k8s.api.scheduling.v1.PriorityClass",
    storage: Some("priorityclasses"),
    ..ROW
};

/// A part of a certificate request, which is a certificate request itself.
const fn certificate_part(name: &'static str) -> Subresource {
    Subresource { name, group: "certificates.k8s.io", version: "v1", kind: "CertificateSigningRequest", verbs: PART }
}

const CERTIFICATE_SIGNING_REQUEST: Kind = Kind {
    group: "certificates.k8s.io",
    kind: "CertificateSigningRequest",
    list_kind: "CertificateSigningRequestList",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    short_names: &["csr"],
    scope: Cluster,
    subresources: &[certificate_part("approval"), certificate_part("status")],
    schema: "io.k8s.api.certificates.v1.CertificateSigningRequest",
    has_status: true,
    storage: Some("certificatesigningrequests"),
    ..ROW
};

/// kubectl asks for these before it says that it does not know a kind.
const CUSTOM_RESOURCE_DEFINITION: Kind = Kind {
    group: "apiextensions.k8s.io",
    kind: "CustomResourceDefinition",
    list_kind: "CustomResourceDefinitionList",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    scope: Cluster,
    verbs: READ,
    schema: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    storage: Some("apiextensions.k8s.io/customresourcedefinitions"),
    ..ROW
};

/// A question that is answered at once and kept nowhere.
const fn review(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    schema: &'static str,
) -> Kind {
    Kind { group, kind, plural, singular, schema, scope: Cluster, verbs: REVIEW, ..ROW }
}

const SELF_SUBJECT_REVIEW: Kind = review(
    "authentication.k8s.io",
    "SelfSubjectReview",
    "selfsubjectreviews",
    "selfsubjectreview",
    "io.k8s.api.authentication.v1.SelfSubjectReview",
);

const TOKEN_REVIEW: Kind = review(
    "authentication.k8s.io",
    "TokenReview",
    "tokenreviews",
    "tokenreview",
    "io.k8s.api.authentication.v1.TokenReview",
);

const LOCAL_SUBJECT_ACCESS_REVIEW: Kind = Kind {
    scope: Namespaced,
    ..review(
        "authorization.k8s.io",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
        "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
    )
};

const SELF_SUBJECT_ACCESS_REVIEW: Kind = review(
    "authorization.k8s.io",
    "SelfSubjectAccessReview",
    "selfsubjectaccessreviews",
    "selfsubjectaccessreview",
    "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
);

const SELF_SUBJECT_RULES_REVIEW: Kind = review(
    "authorization.k8s.io",
    "SelfSubjectRulesReview",
    "selfsubjectrulesreviews",
    "selfsubjectrulesreview",
    "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
);

const SUBJECT_ACCESS_REVIEW: Kind = review(
    "authorization.k8s.io",
    "SubjectAccessReview",
    "subjectaccessreviews",
    "subjectaccessreview",
    "io.k8s.api.authorization.v1.SubjectAccessReview",
);

const POD_DISRUPTION_BUDGET: Kind = Kind {
    group: "policy",
    kind: "PodDisruptionBudget",
    list_kind: "PodDisruptionBudgetList",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    subresources: &[Subresource {
        name: "status",
        group: "policy",
        version: "v1",
        kind: "PodDisruptionBudget",
        verbs: PART,
    }],
    schema: "io.k8s.api.policy.v1.PodDisruptionBudget",
    has_status: true,
    storage: Some("poddisruptionbudgets"),
    ..ROW
};

/// Only the body of `pods/eviction`.
const EVICTION: Kind = review("policy", "Eviction", "", "eviction", "io.k8s.api.policy.v1.Eviction");

/// All rows; groups in the order of discovery, resources by name.
pub static ALL: &[Kind] = &[
    BINDING,
    CONFIG_MAP,
    EVENT,
    NAMESPACE,
    NODE,
    POD,
    POD_TEMPLATE,
    REPLICATION_CONTROLLER,
    SECRET,
    SERVICE_ACCOUNT,
    SERVICE,
    DEPLOYMENT,
    EVENTS_EVENT,
    SELF_SUBJECT_REVIEW,
    TOKEN_REVIEW,
    LOCAL_SUBJECT_ACCESS_REVIEW,
    SELF_SUBJECT_ACCESS_REVIEW,
    SELF_SUBJECT_RULES_REVIEW,
    SUBJECT_ACCESS_REVIEW,
    CERTIFICATE_SIGNING_REQUEST,
    POD_DISRUPTION_BUDGET,
    EVICTION,
    CUSTOM_RESOURCE_DEFINITION,
    PRIORITY_CLASS,
    LEASE,
];
