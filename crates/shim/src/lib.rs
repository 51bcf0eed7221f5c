//! The process that is a pod: holds its namespaces, parent of its containers, pumps their output.
