//! Anchors: the TCP connections to EMQX's exproto listener, one for each device. EMQX makes a client only of a socket
//! that it accepted. An anchor carries its token line, and nothing more; its end is EMQX's word that the client is gone.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::debug;

use crate::upstream::dialer::DialError;

use super::announcements::Token;

/// Opens an anchor and writes its token. That goes at once: EMQX closes a connection that says nothing for 30 s,
/// authenticated or not.
pub async fn open(dial: impl Future<Output = Result<TcpStream, DialError>>, token: Token) -> Result<TcpStream, String> {
    let mut stream = dial.await.map_err(|error| error.to_string())?;
    match stream.write_all(&token.line()).await {
        Ok(()) => Ok(stream),
        Err(error) => Err(error.to_string()),
    }
}

/// Waits for the end of the anchor. EMQX has nothing to say on it; what comes is thrown away.
pub async fn watch(mut stream: TcpStream) {
    let mut ignored = [0; 256];
    loop {
        match stream.read(&mut ignored).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => return debug!(%error, "anchor broken"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use tokio::net::TcpListener;

    use crate::upstream::dialer::Dialer;

    use super::*;

    fn token() -> Token {
        Token::random(&mut StdRng::seed_from_u64(1))
    }

    #[tokio::test]
    async fn an_anchor_says_its_token_and_nothing_more_until_the_other_side_ends_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut dialer = Dialer::new(vec![address.to_string()], Vec::new());

        let anchor = open(dialer.dial(), token()).await.expect("an anchor");
        let (mut accepted, _) = listener.accept().await.expect("the anchor");
        let mut line = vec![0; token().line().len()];
        accepted.read_exact(&mut line).await.expect("the token");
        assert_eq!(line, token().line());

        accepted.write_all(b"ignored").await.expect("an open anchor");
        drop(accepted);
        watch(anchor).await;
    }
}
