//! The agent: pods of this node to runtime and network, status, logs, exec, port-forward.
