//! The agent's protocol: one that holds keys, and one that passes on to another.
//!
//! A step may list keys and have something signed. It may do nothing else with the user's agent, such
//! as removing keys from it.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::keys::Keys;
use super::wire::{Reader, put_string};

/// The largest message (OpenSSH's limit), in bytes.
const MAX_MESSAGE: usize = 256 << 10;

/// Numbers of messages, as the draft of the protocol has them.
const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// Serves `keys` on `connection` until the other side ends it.
pub(super) async fn serve(
    keys: &Keys,
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    while let Some(request) = read(&mut connection).await? {
        let answer = answer(keys, &request).unwrap_or_else(|| vec![FAILURE]);
        write(&mut connection, &answer).await?;
    }
    Ok(())
}

/// Passes requests of `connection` on to `agent`, but for those that would change it.
pub(super) async fn pass_on(
    mut agent: impl AsyncRead + AsyncWrite + Unpin,
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    while let Some(request) = read(&mut connection).await? {
        let answer = match request.first() {
            Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)) => {
                write(&mut agent, &request).await?;
                let answer = read(&mut agent).await?;
                answer.ok_or(io::ErrorKind::UnexpectedEof)?
            }
            Some(_) | None => vec![FAILURE],
        };
        write(&mut connection, &answer).await?;
    }
    Ok(())
}

/// The next message; `None` at the end.
async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let length = match from.read_u32().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE {
        let why = format!("a message of {length} bytes is too long");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut message = vec![0; length];
    from.read_exact(&mut message).await?;
    Ok(Some(message))
}

async fn write(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let mut framed = Vec::with_capacity(message.len() + 4);
    put_string(&mut framed, message);
    to.write_all(&framed).await?;
    to.flush().await
}

/// The answer to a request; `None` when it is a failure.
fn answer(keys: &Keys, request: &[u8]) -> Option<Vec<u8>> {
    let (kind, rest) = request.split_first()?;
    match *kind {
        REQUEST_IDENTITIES => {
            let mut answer = vec![IDENTITIES_ANSWER];
            answer.extend_from_slice(&u32::try_from(keys.all().len()).ok()?.to_be_bytes());
            for key in keys.all() {
                put_string(&mut answer, key.blob());
                // Where the key comes from is nobody's business.
                put_string(&mut answer, b"");
            }
            Some(answer)
        }
        SIGN_REQUEST => {
            let mut reader = Reader(rest);
            let (blob, data) = (reader.string()?, reader.string()?);
            let flags = reader.u32()?;
            let key = keys.all().iter().find(|key| key.blob() == blob)?;
            let mut answer = vec![SIGN_RESPONSE];
            put_string(&mut answer, &key.sign(data, flags)?);
            Some(answer)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts `requests` to an agent that passes on to one that notes what it is asked.
    async fn passed_on(requests: &[&[u8]]) -> (Vec<u8>, Vec<u8>) {
        let (mut near, connection) = tokio::io::duplex(1 << 16);
        let (mut behind, agent) = tokio::io::duplex(1 << 16);
        let passing = pass_on(agent, connection);
        let asking = async move {
            let mut answers = Vec::new();
            for request in requests {
                write(&mut near, request).await.unwrap();
                answers.push(read(&mut near).await.unwrap().unwrap()[0]);
            }
            answers
        };
        let behind = async move {
            let mut asked = Vec::new();
            while let Some(request) = read(&mut behind).await.unwrap() {
                asked.push(request[0]);
                write(&mut behind, &[request[0] + 1]).await.unwrap();
            }
            asked
        };
        let (passed, answers, asked) = tokio::join!(passing, asking, behind);
        passed.unwrap();
        (answers, asked)
    }

    #[tokio::test]
    async fn a_step_may_list_and_sign_and_nothing_else() {
        // 19 removes all keys, 17 adds one, 27 is an extension.
        let requests: [&[u8]; 6] = [&[11], &[19], &[13, 0], &[17], &[27], &[]];
        let (answers, asked) = passed_on(&requests).await;
        assert_eq!(answers, [12, FAILURE, 14, FAILURE, FAILURE, FAILURE]);
        assert_eq!(asked, [11, 13]);
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_ends_the_connection() {
        let (mut near, connection) = tokio::io::duplex(64);
        near.write_all(&[0xff; 4]).await.unwrap();
        let served = serve(&Keys::default(), connection).await;
        assert_eq!(served.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
