"""`listen.tls`, of the gateway and of the control plane: what is read with the configuration, what is refused, and what a
renewal means."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from ostiary.core.config import ConfigurationError, load_file
from ostiary.core.config.difference import compare
from ostiary.core.model import ClientCertificate, Configuration
from ostiary.gateway.channel import pack_configuration, unpack_configuration
from tests.core.config.loading import SECRET, VALID
from tests.support.certificates import issue


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    issue(tmp_path, "a.test", "*.a.test", stem="a")
    issue(tmp_path, "b.test", stem="b")
    issue(tmp_path, "authority", stem="ca", authority=True)
    return tmp_path


def load_with(directory: Path, tls: str) -> Configuration:
    path = directory / "gateway.yaml"
    path.write_text(VALID.replace("version: 1", f"version: 1\ngateway: {{listen: {{tls: {tls}}}}}"))
    return load_file(path, environment={"SECRET": SECRET})


def refused(directory: Path, tls: str) -> str:
    with pytest.raises(ConfigurationError) as error:
        load_with(directory, tls)
    (problem,) = error.value.problems
    return f"{problem.path}: {problem.message}"


def test_names_expiry_and_content_are_those_of_the_files(directory: Path) -> None:
    """What the gateway serves must be what was checked, whatever becomes of the files meanwhile."""
    (certificate,) = load_with(directory, "{cert: a.pem, key: a.key}").gateway.listen.tls
    assert certificate.names == ("a.test", "*.a.test")
    assert certificate.cert_pem == (directory / "a.pem").read_bytes()
    assert certificate.key_pem == (directory / "a.key").read_bytes()
    assert certificate.files == (str(directory / "a.pem"), str(directory / "a.key"))
    assert "PRIVATE" not in repr(certificate)


@pytest.mark.parametrize(
    ("tls", "told"),
    [
        ("{cert: a.pem, key: b.key}", "gateway.listen.tls.key: is not the key of this certificate"),
        ("{cert: a.pem, key: a.pem}", "gateway.listen.tls.key: is no private key in PEM form"),
        ("{cert: a.key, key: a.key}", "gateway.listen.tls.cert: has no certificate in PEM form"),
        ("{cert: none.pem, key: a.key}", "gateway.listen.tls.cert: the file 'none.pem' does not exist"),
        ("{cert: large.pem, key: a.key}", "gateway.listen.tls.cert: the file 'large.pem' is larger than 512 KiB"),
        ("{cert: a.pem, key: sealed.key}", "gateway.listen.tls.key: is encrypted, and nobody is there to type"),
        ("{cert: a.pem, key: a.key, client_ca: a.key}", "gateway.listen.tls.client_ca: has no certificate in PEM"),
        (
            "{cert: a.pem, key: a.key, client_certificate: optional}",
            "gateway.listen.tls.client_certificate: means nothing without client_ca",
        ),
        (
            "[{cert: a.pem, key: a.key, client_ca: ca.pem}, {cert: b.pem, key: b.key}]",
            "gateway.listen.tls: asks for client certificates under one name and not, or of others, under another",
        ),
    ],
)
def test_a_certificate_that_can_t_be_served_is_refused_with_its_field(directory: Path, tls: str, told: str) -> None:
    """`config check` must find it; a worker that finds it serves nobody."""
    (directory / "large.pem").write_bytes(b"a" * (512 * 1024 + 1))
    sealed = issue(directory, "sealed").private_key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase")
    )
    (directory / "sealed.key").write_bytes(sealed)
    assert refused(directory, tls).startswith(told)


def test_an_expired_certificate_is_a_warning(directory: Path) -> None:
    """To refuse it would take away what still works for clients that don't look."""
    issue(directory, "old.test", stem="old", valid_for=datetime.timedelta(days=-1))
    (warning,) = load_with(directory, "{cert: old.pem, key: old.key}").warnings
    assert "gateway.listen.tls.cert: the certificate has expired, on " in warning


def test_client_certificates_are_required_unless_said_otherwise(directory: Path) -> None:
    """Who names authorities means to check."""
    for said, presence in (("", "required"), (", client_certificate: optional", "optional")):
        tls = f"{{cert: a.pem, key: a.key, client_ca: ca.pem{said}}}"
        (certificate,) = load_with(directory, tls).gateway.listen.tls
        assert certificate.clients is not None
        assert certificate.clients.presence is ClientCertificate(presence)


def test_a_refusal_names_the_files_whose_change_may_mend_it(directory: Path) -> None:
    """A gateway that refused half of a renewal must notice the other half."""
    with pytest.raises(ConfigurationError) as error:
        load_with(directory, "{cert: a.pem, key: b.key}")
    assert error.value.followed == (str(directory / "a.pem"), str(directory / "b.key"))


def test_a_renewal_is_a_difference_and_shows_no_key(directory: Path) -> None:
    """`config diff` of two times must say that a certificate changed under the same name."""
    tls = "{cert: a.pem, key: a.key}"
    before = load_with(directory, tls)
    issue(directory, "a.test", stem="a", valid_for=datetime.timedelta(days=9))
    (change,) = compare(before, load_with(directory, tls))
    assert change.field == "gateway.listen.tls"
    assert change.before != change.after
    assert change.meaning == "holds for new connections"


@pytest.mark.parametrize(
    ("before", "after", "meaning"),
    [
        ("", ", client_ca: ca.pem", "new connections without a certificate of these authorities are refused"),
        (", client_ca: ca.pem", "", "OPEN: clients need no certificate from now on"),
    ],
)
def test_what_is_asked_of_clients_is_a_difference_of_its_own(
    directory: Path, before: str, after: str, meaning: str
) -> None:
    """Opening a gateway must not look like a renewal."""
    changed = compare(
        load_with(directory, f"{{cert: a.pem, key: a.key{before}}}"),
        load_with(directory, f"{{cert: a.pem, key: a.key{after}}}"),
    )
    assert [(change.field, change.meaning) for change in changed] == [("gateway.listen.tls.client_ca", meaning)]


# --- of the control plane ---------------------------------------------------------------------------------------------


def control_plane(directory: Path, text: str) -> Configuration:
    path = directory / "gateway.yaml"
    path.write_text(VALID.replace("version: 1", f"version: 1\ncontrol_plane: {text}"))
    return load_file(path, environment={"SECRET": SECRET})


ASKING = "{cert: a.pem, key: a.key, client_ca: ca.pem, client_certificate: optional}"


def test_the_control_plane_has_tls_as_the_gateway_has(directory: Path) -> None:
    """An operator would have to learn two ways to say one thing."""
    settings = control_plane(
        directory, f"{{listen: {{tls: {ASKING}}}, privileged: {{client_certificate: required}}}}"
    ).control_plane
    (certificate,) = settings.listen.tls
    assert certificate.names == ("a.test", "*.a.test")
    assert certificate.clients is not None
    assert certificate.clients.presence is ClientCertificate.OPTIONAL
    assert settings.privileged_certificate is ClientCertificate.REQUIRED
    assert control_plane(directory, "{}").control_plane.privileged_certificate is ClientCertificate.OPTIONAL


@pytest.mark.parametrize("tls", ["", "listen: {tls: {cert: a.pem, key: a.key}}, "])
def test_certificates_that_nobody_could_show_are_not_asked_for(directory: Path, tls: str) -> None:
    """Nobody could make a privileged call, nor mend that over the API."""
    with pytest.raises(ConfigurationError) as error:
        control_plane(directory, f"{{{tls}privileged: {{client_certificate: required}}}}")
    (problem,) = error.value.problems
    assert problem.path == "control_plane.privileged"
    assert "nobody could make a privileged call" in problem.message
    assert "client_ca" in str(problem.mend)


def test_a_worker_is_not_told_what_opens_the_control_plane(directory: Path) -> None:
    """Who has taken over the process that strangers talk to would have the platform with it."""
    token = "operator-" + "t" * 32
    configuration = control_plane(directory, f"{{operator_token: {token}, listen: {{port: 9411, tls: {ASKING}}}}}")
    packed = pack_configuration(configuration)
    (certificate,) = configuration.control_plane.listen.tls
    assert token.encode() not in packed
    assert certificate.key_pem not in packed
    given = unpack_configuration(packed)
    assert (given.control_plane.operator_token, given.control_plane.listen.tls) == (None, ())
    assert replace(given, control_plane=configuration.control_plane) == configuration


def test_a_change_of_the_control_planes_tls_says_when_and_for_whom_it_holds(directory: Path) -> None:
    """A mistake in who needs a certificate would be seen when the first stolen token works."""
    plain = control_plane(directory, "{}")
    optional = control_plane(directory, f"{{listen: {{tls: {ASKING}}}}}")
    required = control_plane(directory, f"{{listen: {{tls: {ASKING}}}, privileged: {{client_certificate: required}}}}")

    def told(before: Configuration, after: Configuration) -> dict[str | None, str | None]:
        return {change.field: change.meaning for change in compare(before, after)}

    assert told(plain, optional)["control_plane.listen.tls"] == "takes effect at a restart, not at a reload"
    assert told(optional, required) == {
        "control_plane.privileged.client_certificate": "privileged calls without a client certificate are refused"
    }
    assert told(required, optional) == {
        "control_plane.privileged.client_certificate": "OPEN: a token alone is enough for privileged calls"
    }
