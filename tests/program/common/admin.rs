//! The admin listener of the built program, asked as Prometheus asks it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// Where it is, by what the program prints at its start; `None` as long as it has not.
pub(crate) fn address(output: &str) -> Option<SocketAddr> {
    let (_, rest) = output.rsplit_once("metrics and health")?;
    let (_, rest) = rest.split_once("http://")?;
    rest.split_once('/')?.0.parse().ok()
}

/// Gives the status and the body.
pub(crate) fn ask(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("the option is known");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: gateway\r\n\r\n").expect("it takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").expect("a body").1.to_owned())
}

/// Of all series that begin so.
pub(crate) fn sum(page: &str, series: &str) -> f64 {
    let lines = page.lines().filter(|line| line.starts_with(series));
    lines.map(|line| line.rsplit_once(' ').expect("a value").1.parse::<f64>().expect("a number")).sum()
}
