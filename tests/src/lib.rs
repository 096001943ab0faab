//! Black-box tests: they know only the binary, gRPC and the client crate.
