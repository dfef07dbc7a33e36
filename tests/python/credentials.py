"""Keys and certificates for tests of DTLS, made by the `openssl` command."""

import pathlib
import subprocess

# What EMQX's format takes: text, whose bytes are the key.
SECRET = "a secret of tests"
WRONG_SECRET = "another of tests"

# The name is for libcoap's clients, the address for Leshan.
SERVER = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
P256 = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
RSA = ("-newkey", "rsa:2048")


class Credentials:
    """A file of pre-shared keys, and an authority that signs for the gateway and for devices."""

    def __init__(self, folder, identities):
        self.folder = pathlib.Path(folder)
        self.psk_file = self.folder / "keys.psk"
        self.keep_keys(*identities)
        self.authority = self._certificate("authority", "-subj", "/CN=An authority for tests")
        self.server = self._certificate("server", *SERVER, *self._signed())

    def keep_keys(self, *identities):
        """These have a key, and no others."""
        self.psk_file.write_text("".join(f"{identity}:{SECRET}\n" for identity in identities))
        self.psk_file.chmod(0o600)

    def device(self, name):
        """A certificate of this name."""
        return self._certificate(name, "-subj", f"/CN={name}", *self._signed())

    def rsa_server(self):
        return self._certificate("rsa-server", *SERVER, *self._signed(), key=RSA)

    def _signed(self):
        leaf = ("-addext", "basicConstraints=critical,CA:FALSE")
        return ("-CA", self.authority.certificate, "-CAkey", self.authority.key, *leaf)

    def _certificate(self, name, *arguments, key=P256):
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        files = ("-keyout", pair.key, "-out", pair.certificate)
        openssl("req", "-x509", *key, "-nodes", "-days", "2", *files, *arguments)
        return pair


class Pair:
    """A certificate and its key, in PEM."""

    def __init__(self, certificate, key):
        self.certificate = certificate
        self.key = key

    def certificate_der(self):
        return self._converted("x509", "-in", self.certificate, suffix=".der")

    def key_der(self):
        """PKCS #8."""
        return self._converted("pkcs8", "-topk8", "-nocrypt", "-in", self.key, suffix=".key.der")

    def public_key(self):
        """PEM, as a raw public key is named in a configuration."""
        file = self.certificate.with_suffix(".pub")
        openssl("pkey", "-in", self.key, "-pubout", "-out", file)
        return file

    def public_key_der(self):
        return self._converted("pkey", "-in", self.key, "-pubout", suffix=".pub.der")

    def _converted(self, *arguments, suffix):
        file = self.certificate.with_suffix(suffix)
        openssl(*arguments, "-outform", "DER", "-out", file)
        return file


def openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, f"openssl {arguments}:\n{done.stderr}"
