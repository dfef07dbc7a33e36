//! The section `store.redis`.

use std::path::PathBuf;

use toml::Value;

use crate::store::StoreKind;
use crate::store::redis::config::{RedisConfig, RedisUrl};
use lwm2m_base::secret::Secret;

use super::groups::tls;
use super::reader::ConfigReader;
use super::value_parsers::{list, not_empty, text_with_content, whole};

const URL: &str = "redis://127.0.0.1:6379";
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;

pub(super) fn read(reader: &mut ConfigReader, kind: StoreKind) -> RedisConfig {
    let key = |last: &str| format!("store.redis.{last}");
    let file = |value: &Value| text_with_content(value).map(|file| Some(PathBuf::from(file)));
    let some = |value: &Value| text_with_content(value).map(Some);
    let urls = urls(reader, &key("urls"), vec![URL.to_owned()], PORT);
    let sentinels = self::urls(reader, &key("sentinels"), Vec::new(), SENTINEL_PORT);
    let config = RedisConfig {
        urls,
        sentinels,
        master: reader.read(&key("master"), "mymaster".to_owned(), text_with_content),
        username: reader.read(&key("username"), None, some),
        password: reader.read_secret(&key("password")).map(Secret::new),
        passwordfile: reader.read(&key("passwordfile"), None, file),
        database: reader.read(&key("database"), 0, whole(0..=255)),
        prefix: reader.read(&key("prefix"), "lwm2m".to_owned(), prefix),
        seal_keyfile: reader.read(&key("seal_keyfile"), None, file),
        other_seal_keyfile: reader.read(&key("other_seal_keyfile"), None, file),
        ssl: tls(reader, "store.redis.ssl"),
    };
    if kind == StoreKind::Redis && !reader.has(&key("seal_keyfile")) {
        reader.refuse(&key("seal_keyfile"), "required: a file with 64 hexadecimal digits (openssl rand -hex 32)");
    }
    config
}

/// Reads addresses, which may have passwords: no message shows them.
fn urls(reader: &mut ConfigReader, key: &str, default: Vec<String>, port: u16) -> Vec<RedisUrl> {
    let texts = match default.is_empty() {
        true => reader.read(key, default, list(text_with_content)),
        false => reader.read(key, default, not_empty(list(text_with_content))),
    };
    let parsed: Option<Vec<_>> = texts.iter().map(|text| RedisUrl::parse(text, port)).collect();
    parsed.unwrap_or_else(|| {
        reader.refuse_secret(
            key,
            "expected redis://HOST:PORT, or rediss://HOST:PORT for TLS, each with USER:PASSWORD@ if needed",
        );
        Vec::new()
    })
}

fn prefix(value: &Value) -> Result<String, String> {
    let fits = |text: &&str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        (1..=64).contains(&text.len()) && text.bytes().all(known)
    };
    let given = value.as_str().filter(fits);
    given.map(str::to_owned).ok_or_else(|| "expected 1 to 64 letters, digits, \"-\", \"_\", \".\" and \":\"".to_owned())
}
