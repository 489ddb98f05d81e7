//! Scenarios for real processes.
