//! The way to a cluster: requests, watch, shared cache, work queue.
