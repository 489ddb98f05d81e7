//! From the command line to the report: what is measured against what, in rounds, and what
//! that amounts to.

pub(crate) mod experiment;
pub(crate) mod figures;
pub(crate) mod idle;
pub(crate) mod lifetimes;
pub(crate) mod load;
pub(crate) mod peers;
pub(crate) mod plan;
pub(crate) mod report;
pub(crate) mod rounds;
pub(crate) mod run;
pub(crate) mod safety;
pub(crate) mod scale;
pub(crate) mod selftest;
pub(crate) mod survey;
pub(crate) mod table;
mod tolerance;
