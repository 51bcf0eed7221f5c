//! The API server: identity, path, registry, store; stream proxy to nodes.
