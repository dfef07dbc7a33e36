//! The messages and services of `proto/exproto.proto`, generated at build time.

#![allow(clippy::all, unreachable_pub, reason = "generated code")]

tonic::include_proto!("emqx.exproto.v1");
