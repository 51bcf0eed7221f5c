//! Revisions with watch over an engine; knows no Kubernetes.
