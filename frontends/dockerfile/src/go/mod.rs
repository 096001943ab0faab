//! The corners of Go's library that show in results: quoting, number errors, durations, paths, CSV.
//!
//! BuildKit's frontend is Go. Its history entries, vertex names, source attributes and errors are
//! spelled by these functions, and the digests of ops depend on the spelling.

mod csv;
mod duration;
mod number;
mod path;
mod quote;
mod table;
mod url;

pub(crate) use csv::{CsvError, csv_fields};
pub(crate) use duration::{format_duration, parse_duration};
pub(crate) use number::{NumberError, parse_bool, parse_i64, parse_u64, ram_in_bytes};
pub(crate) use path::{base, clean, has_wildcards, is_abs, join};
pub(crate) use quote::{json_array, list, quote, quote_list};
pub(crate) use table::Table;
pub(crate) use url::{Url, parse_query};
