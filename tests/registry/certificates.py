"""Certificates made by openssl, for one test: an authority, and what it has signed."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HAVE_OPENSSL = shutil.which("openssl") is not None
_DAYS = "2"


@dataclass(frozen=True)
class Pair:
    certificate: Path
    key: Path


class Authority:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pair = Pair(folder / "ca.pem", folder / "ca.key")
        _openssl(
            *("req", "-x509", *_new_key(self.pair), "-days", _DAYS, "-subj", "/CN=test authority"),
            *("-out", str(self.pair.certificate)),
        )

    def sign(self, name: str, alternative_names: str = "") -> Pair:
        """A certificate for `name`, valid for servers and clients."""
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        request = self.folder / f"{name}.csr"
        extensions = self.folder / f"{name}.ext"
        wanted = f"subjectAltName={alternative_names}\n" if alternative_names else ""
        extensions.write_text(wanted + "extendedKeyUsage=serverAuth,clientAuth\n")
        _openssl("req", *_new_key(pair), "-subj", f"/CN={name}", "-out", str(request))
        _openssl(
            *("x509", "-req", "-in", str(request), "-out", str(pair.certificate), "-days", _DAYS),
            *("-CA", str(self.pair.certificate), "-CAkey", str(self.pair.key), "-CAcreateserial"),
            *("-extfile", str(extensions)),
        )
        return pair


def rsa_pair(folder: Path) -> Pair:
    """A public and a private key by themselves (for signing tokens)."""
    pair = Pair(folder / "token.pub", folder / "token.key")
    _openssl("genrsa", "-out", str(pair.key), "2048")
    _openssl("rsa", "-in", str(pair.key), "-pubout", "-out", str(pair.certificate))
    return pair


def _new_key(pair: Pair) -> tuple[str, ...]:
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    return (*curve, "-nodes", "-keyout", str(pair.key))


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
