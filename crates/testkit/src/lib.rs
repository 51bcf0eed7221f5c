//! In-process cluster, fake host and patience for tests.
