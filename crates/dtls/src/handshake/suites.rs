//! The cipher suites of a handshake: those that the record layer supports, by the names of OpenSSL and of IANA.

use crate::cipher::Suite;

/// A cipher suite of TLS 1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CipherSuite {
    /// The number in IANA's registry.
    pub id: u16,
    /// OpenSSL's name, which is EMQX's too.
    pub name: &'static str,
    /// The name of the specifications.
    pub standard_name: &'static str,
    pub authentication: Authentication,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Authentication {
    PreSharedKey,
    Ecdsa,
    Rsa,
}

impl CipherSuite {
    pub(super) fn by_id(id: u16) -> Option<&'static Self> {
        ALL.iter().find(|suite| suite.id == id)
    }

    pub(crate) fn by_name(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|suite| suite.name == name || suite.standard_name == name)
    }

    /// Returns the protection of the records of this suite.
    pub(super) fn records(&self) -> Suite {
        Suite::from_iana(self.id).expect("no other suite is in the table")
    }

    pub(crate) fn is_psk(&self) -> bool {
        self.authentication == Authentication::PreSharedKey
    }

    /// Returns whether the suite needs encrypt-then-MAC (RFC 7366): the records here do not support MAC-then-encrypt.
    pub(crate) fn needs_encrypt_then_mac(&self) -> bool {
        self.records().is_cbc()
    }
}

/// All of them. The client's order decides, since the client pays for each byte.
pub(super) const ALL: &[CipherSuite] = &[
    suite(0xc0ae, "ECDHE-ECDSA-AES128-CCM8", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8", ECDSA),
    suite(0xc0ac, "ECDHE-ECDSA-AES128-CCM", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM", ECDSA),
    suite(0xc02b, "ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", ECDSA),
    suite(0xc02c, "ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", ECDSA),
    suite(0xc0af, "ECDHE-ECDSA-AES256-CCM8", "TLS_ECDHE_ECDSA_WITH_AES_256_CCM_8", ECDSA),
    suite(0xc0ad, "ECDHE-ECDSA-AES256-CCM", "TLS_ECDHE_ECDSA_WITH_AES_256_CCM", ECDSA),
    suite(0xc02f, "ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", RSA),
    suite(0xc030, "ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", RSA),
    suite(0xc023, "ECDHE-ECDSA-AES128-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256", ECDSA),
    suite(0xc024, "ECDHE-ECDSA-AES256-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384", ECDSA),
    suite(0xc027, "ECDHE-RSA-AES128-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", RSA),
    suite(0xc028, "ECDHE-RSA-AES256-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384", RSA),
    suite(0xc0a8, "PSK-AES128-CCM8", "TLS_PSK_WITH_AES_128_CCM_8", PSK),
    suite(0xc0a4, "PSK-AES128-CCM", "TLS_PSK_WITH_AES_128_CCM", PSK),
    suite(0x00a8, "PSK-AES128-GCM-SHA256", "TLS_PSK_WITH_AES_128_GCM_SHA256", PSK),
    suite(0x00a9, "PSK-AES256-GCM-SHA384", "TLS_PSK_WITH_AES_256_GCM_SHA384", PSK),
    suite(0xc0a9, "PSK-AES256-CCM8", "TLS_PSK_WITH_AES_256_CCM_8", PSK),
    suite(0xc0a5, "PSK-AES256-CCM", "TLS_PSK_WITH_AES_256_CCM", PSK),
    suite(0xc037, "ECDHE-PSK-AES128-CBC-SHA256", "TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA256", PSK),
    suite(0xc038, "ECDHE-PSK-AES256-CBC-SHA384", "TLS_ECDHE_PSK_WITH_AES_256_CBC_SHA384", PSK),
    suite(0x00ae, "PSK-AES128-CBC-SHA256", "TLS_PSK_WITH_AES_128_CBC_SHA256", PSK),
    suite(0x00af, "PSK-AES256-CBC-SHA384", "TLS_PSK_WITH_AES_256_CBC_SHA384", PSK),
];

const PSK: Authentication = Authentication::PreSharedKey;
const ECDSA: Authentication = Authentication::Ecdsa;
const RSA: Authentication = Authentication::Rsa;

const fn suite(
    id: u16,
    name: &'static str,
    standard_name: &'static str,
    authentication: Authentication,
) -> CipherSuite {
    CipherSuite { id, name, standard_name, authentication }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_is_what_openssl_calls_so() {
        for suite in ALL {
            assert_eq!(openssl::ssl::cipher_name(suite.standard_name), suite.name);
            assert_eq!(Suite::from_iana(suite.id), Some(suite.records()));
        }
    }

    #[test]
    fn a_suite_is_found_by_either_name_and_by_its_number() {
        let suite = CipherSuite::by_name("PSK-AES128-CCM8").unwrap();

        assert_eq!(CipherSuite::by_name("TLS_PSK_WITH_AES_128_CCM_8"), Some(suite));
        assert_eq!(CipherSuite::by_id(0xc0a8), Some(suite));
        assert_eq!(CipherSuite::by_name("PSK-AES128-CBC-SHA"), None);
    }
}
