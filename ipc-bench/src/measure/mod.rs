//! From the command line to the report: what is measured against what, in rounds, and what
//! that amounts to.

pub(crate) mod experiment;
pub(crate) mod figures;
pub(crate) mod peers;
pub(crate) mod plan;
pub(crate) mod report;
pub(crate) mod rounds;
pub(crate) mod selftest;
pub(crate) mod table;
mod tolerance;
