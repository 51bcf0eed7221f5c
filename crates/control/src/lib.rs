//! Scheduler and controllers: pure decisions, thin loops.
