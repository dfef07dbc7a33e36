//! Anchors: the connections to EMQX's exproto listener, one for each device. EMQX makes a client only of a socket that
//! it accepted. An anchor carries its token line and nothing more. Its end tells that the client is gone.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tracing::debug;

use crate::errors::plain;
use crate::upstream::dialer::{DialError, DialFailure, Stream};

use super::announcements::AnchorToken;

/// Opens an anchor and writes its token at once: EMQX closes a connection that sends nothing for 30 s, authenticated or
/// not.
pub(super) async fn open(
    dial: impl Future<Output = Result<Stream, DialError>>,
    token: AnchorToken,
) -> Result<Stream, DialFailure> {
    let mut anchor = dial.await?;
    let line = token.line();
    let announced = match &mut anchor {
        Stream::Plain(stream) => write(stream, &line).await,
        Stream::Secure(stream) => write(stream, &line).await,
    };
    announced.map_err(|error| DialFailure::NotReached(plain(&error)))?;
    Ok(anchor)
}

/// Waits for the end of the anchor. EMQX sends nothing on it; what comes is discarded.
pub(super) async fn watch(anchor: Stream) {
    match anchor {
        Stream::Plain(stream) => watch_stream(stream).await,
        Stream::Secure(stream) => watch_stream(*stream).await,
    }
}

async fn watch_stream(mut stream: impl AsyncRead + Unpin) {
    // Small, because each device has one.
    let mut ignored = [0; 16];
    loop {
        match stream.read(&mut ignored).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => return debug!(%error, "anchor connection failed"),
        }
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), line: &[u8]) -> io::Result<()> {
    stream.write_all(line).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use tokio::net::TcpListener;

    use crate::upstream::dialer::Dialer;

    use super::*;

    fn token() -> AnchorToken {
        AnchorToken::random(&mut StdRng::seed_from_u64(1), lwm2m_base::ThreadShards::ALL)
    }

    #[tokio::test]
    async fn an_anchor_says_its_token_and_nothing_more_until_the_other_side_ends_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut dialer = Dialer::new(vec![address.to_string()], Vec::new(), None);

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
