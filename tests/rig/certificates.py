"""A private certificate authority made by openssl, for servers and clients of tests."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from tests.rig.installed import require
from tests.rig.server import run_tool


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its private key, in PEM."""

    cert_file: Path
    key_file: Path


class CertificateAuthority:
    """A private CA in a directory; a second one elsewhere is a foreign CA."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._openssl = require("openssl")
        # Our own: the system's openssl.cnf adds extensions that differ between distributions.
        self._config_file = directory / "openssl.cnf"
        self._config_file.write_text("[req]\ndistinguished_name = dn\n[dn]\n")
        ca = self._request(
            "ca",
            "earshot test CA",
            "basicConstraints=critical,CA:TRUE",
            "keyUsage=critical,keyCertSign,cRLSign",
        )
        self.ca_file = ca.cert_file
        self._signer = ["-CA", str(ca.cert_file), "-CAkey", str(ca.key_file)]

    def server(self) -> Certificate:
        """For `localhost` and 127.0.0.1."""
        return self._leaf(
            "server", "localhost", "serverAuth", "subjectAltName=DNS:localhost,IP:127.0.0.1"
        )

    def client(self, name: str) -> Certificate:
        """For a client whose user name, the common name, is `name`."""
        return self._leaf(f"client-{name}", name, "clientAuth")

    def client_context(self, name: str) -> ssl.SSLContext:
        """For a client that trusts this CA and shows it a certificate of this name."""
        certificate = self.client(name)
        context = ssl.create_default_context(cafile=self.ca_file)
        context.load_cert_chain(certificate.cert_file, certificate.key_file)
        return context

    def _leaf(self, file: str, name: str, usage: str, *extensions: str) -> Certificate:
        return self._request(
            file,
            name,
            "basicConstraints=critical,CA:FALSE",
            "keyUsage=critical,digitalSignature",
            f"extendedKeyUsage={usage}",
            "authorityKeyIdentifier=keyid",
            *extensions,
            signer=self._signer,
        )

    def _request(
        self, file: str, name: str, *extensions: str, signer: list[str] | None = None
    ) -> Certificate:
        made = Certificate(self._directory / f"{file}.crt", self._directory / f"{file}.key")
        command = [self._openssl, "req", "-x509", "-config", str(self._config_file), "-days", "2"]
        command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-subj", f"/CN={name}", "-addext", "subjectKeyIdentifier=hash"]
        command += [part for extension in extensions for part in ("-addext", extension)]
        command += ["-keyout", str(made.key_file), "-out", str(made.cert_file), *(signer or [])]
        run_tool(command)
        return made
