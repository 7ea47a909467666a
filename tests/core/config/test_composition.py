"""Published documents: checked for any host, and completed by one host's own file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ostiary.core.config import ConfigurationError, compose, load_text
from ostiary.core.config.composition import check_published
from ostiary.core.model import Configuration
from ostiary.core.published import DOCUMENT_BYTES_MAX, RouteVersion, document_sha256

DOCUMENT = """\
version: 1
plans: {gold: {limits: [{requests: 5, per: minute}]}}
upstreams:
  origin: {targets: [{url: "${ORIGIN:-http://origin.internal:9000}"}]}
routes:
  - name: clients
    match: {path: /clients}   # a comment
    upstream: origin
    auth: {schemes: [bearer]}
    request_headers: {set: {X-Internal: "${INTERNAL_TOKEN}"}}
"""
HOST = """\
version: 1
stores: {postgres: "postgresql://x@127.0.0.1/x"}
routes: {from: control_plane, environment: [INTERNAL_TOKEN, ORIGIN]}
keys:
  - {id: ak_one_1, secret: "${KEY_SECRET}", environment: test, plan: gold}
"""
ENVIRONMENT = {"KEY_SECRET": "k" * 40, "INTERNAL_TOKEN": "from-the-host", "ORIGIN": "http://10.0.0.1:81"}


def version(text: str = DOCUMENT, number: int = 7) -> RouteVersion:
    return RouteVersion(number, text, document_sha256(text), 0.0)


def host(
    text: str = HOST, environment: Mapping[str, str] = ENVIRONMENT, name: str = "/etc/gateway.yaml"
) -> Configuration:
    return load_text(text, name=name, environment=environment)


def refused(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as error:
        check_published(text, name="document")
    return [str(problem) for problem in error.value.problems]


def refused_by_host(
    document: str, own: Configuration | None = None, environment: Mapping[str, str] = ENVIRONMENT
) -> list[str]:
    with pytest.raises(ConfigurationError) as error:
        compose(own or host(), version(document), environment=environment)
    return [str(problem) for problem in error.value.problems]


def test_a_host_completes_what_is_published_with_its_own() -> None:
    """Otherwise secrets and addresses would have to stand in Postgres, the same for every gateway."""
    whole = compose(host(), version(), environment=ENVIRONMENT)
    (route,) = whole.routes
    assert route.edge.request_headers is not None
    assert route.edge.request_headers.set == (("X-Internal", "from-the-host"),)
    assert whole.upstreams["origin"].targets[0].host == "10.0.0.1"
    assert whole.keys["ak_one_1"].plan == "gold"
    assert set(whole.plans) == {"gold"}
    assert whole.stores.postgres == "postgresql://x@127.0.0.1/x"


def test_a_host_without_a_version_or_with_routes_of_its_own_is_as_it_is() -> None:
    assert compose(host(), None) == host()
    own = load_text("version: 1\nroutes: []\n", name="gateway.yaml", environment={})
    assert compose(own, version()) is own


def test_only_named_variables_of_a_host_are_given_out() -> None:
    """Who may publish could send the key-encryption key of every gateway to an upstream of theirs."""
    (problem,) = refused_by_host(DOCUMENT.replace("INTERNAL_TOKEN", "KEY_SECRET"))
    assert problem.startswith("version 7 of the routes:10: routes[0].request_headers.set.X-Internal: ")
    assert "no variable KEY_SECRET" in problem
    assert "routes.environment" in problem
    assert "k" * 10 not in problem


def test_a_named_variable_that_is_not_set_is_refused() -> None:
    (problem,) = refused_by_host(DOCUMENT, environment={"KEY_SECRET": "k" * 40})
    assert "no variable INTERNAL_TOKEN" in problem


def test_what_is_a_hosts_own_is_not_published() -> None:
    """A published `keys:` or `stores:` would replace what the host says, or put secrets into Postgres."""
    for section in ("keys: []", "stores: {}", "gateway: {}", "control_plane: {}", "usage: {}"):
        name = section.partition(":")[0]
        for problems in (refused(DOCUMENT + section), refused_by_host(DOCUMENT + section)):
            (problem,) = problems
            assert f":11: '{name}' is not published (leave it in each host's own file)" in problem


def test_every_mistake_is_told_with_its_line() -> None:
    """Row 111: an invalid document is refused with all problems, wherever it is checked."""
    text = DOCUMENT.replace("upstream: origin", "upstream: orgin").replace("[bearer]", "[bearer, magic]") + "extra: 1\n"
    assert [problem.split(": ")[0] for problem in refused(text)] == ["document:8", "document:9", "document:11"]
    assert "document:1" in refused("[]")[0]
    assert "the field 'routes' is missing" in refused("version: 1\n")[0]
    assert "'!!python/object" in refused("version: 1\nroutes: !!python/object:os.system []\n")[0]


def test_a_plan_that_a_file_key_has_must_be_published() -> None:
    """Row 111: a key whose plan is gone would be held to no limit at all."""
    (problem,) = refused_by_host(DOCUMENT.replace("gold", "silver"))
    assert problem.startswith("/etc/gateway.yaml:5: keys[0].plan: there is no plan 'gold'")


def test_the_checking_host_gives_nothing_of_itself() -> None:
    """A document could ask the control plane for its environment, or for a file, and read it in the difference."""
    checked = check_published(DOCUMENT, name="document")
    assert checked.configuration.upstreams["origin"].targets[0].host == "origin.internal"
    assert checked.references == {"${ORIGIN:-http://origin.internal:9000}", "${INTERNAL_TOKEN}"}
    text = DOCUMENT.replace('"${ORIGIN:-http://origin.internal:9000}"', '"https://h"').replace(
        "]}\nroutes", "], tls: {ca: /etc/shadow}}\nroutes"
    )
    tls = check_published(text, name="document").configuration.upstreams["origin"].targets[0].tls
    assert tls is not None
    assert (tls.ca, tls.ca_pem) == ("/etc/shadow", b"")


def test_a_reference_without_a_default_is_refused_where_a_form_is_needed() -> None:
    """The control plane would say that any text may be a URL, and each gateway refuse it."""
    (problem,) = refused(DOCUMENT.replace(":-http://origin.internal:9000", ""))
    assert problem.startswith("document:4: upstreams.origin.targets[0].url: must be the URL of a server")
    assert "give it a default of the right form" in problem


def test_files_are_those_of_the_folder_that_a_host_names(tmp_path: Path) -> None:
    """A document could have a gateway read any file, and present it to an upstream."""
    text = DOCUMENT.replace('"${ORIGIN:-http://origin.internal:9000}"', '"https://h"')
    (tmp_path / "files").mkdir()
    for name in ("/etc/passwd", "../gateway.yaml", "a/../../gateway.yaml"):
        named = text.replace("]}\nroutes", f"], tls: {{ca: {name}}}}}\nroutes")
        (problem,) = refused_by_host(
            named, host(HOST.replace("ORIGIN]", "ORIGIN], files: files"), name=str(tmp_path / "g.yaml"))
        )
        assert "is no path below the folder of published files" in problem
        (problem,) = refused_by_host(named)
        assert "this gateway has no files for what is published" in problem
    named = text.replace("]}\nroutes", "], tls: {ca: ca.pem}}\nroutes")
    own = host(HOST.replace("ORIGIN]", "ORIGIN], files: files"), name=str(tmp_path / "g.yaml"))
    (problem,) = refused_by_host(named, own)
    assert "does not exist" in problem
    assert str(tmp_path / "files" / "ca.pem") in problem


def test_routes_from_the_control_plane_stand_beside_nothing_that_comes_with_them() -> None:
    """Which of two plans of one name holds would be anybody's guess."""
    with pytest.raises(ConfigurationError, match="plans: stands beside routes that come from the control plane"):
        host(HOST + "plans: {}\n")
    with pytest.raises(ConfigurationError, match=r"there is no stores\.postgres"):
        host("version: 1\nroutes: {from: control_plane}\n")
    with pytest.raises(ConfigurationError, match="must be `control_plane`"):
        host(HOST.replace("control_plane", "elsewhere"))


def test_the_normal_form_has_no_comments_aliases_or_spellings() -> None:
    """What is asked of it in SQL would depend on how someone wrote the document."""
    one = check_published(
        "version: 1\nupstreams: {}\nroutes: []\nplans:\n  a: &x {concurrency: 5}\n  b: *x\n", name="document"
    )
    other = check_published(
        'routes: []   # none\nplans: {b: {concurrency: 5}, a: {"concurrency": 5}}\nversion: 1\nupstreams: {}', name="d"
    )
    assert one.normal_form == other.normal_form
    assert one.normal_form == {
        "version": 1,
        "upstreams": {},
        "routes": [],
        "plans": {"a": {"concurrency": 5}, "b": {"concurrency": 5}},
    }
    long = check_published(f"version: 1\nroutes: []\nplans: {{p: {{by: key}}}} # {'9' * 5000}\n", name="document")
    assert long.normal_form == {"version": 1, "routes": [], "plans": {"p": {"by": "key"}}}


def test_a_document_beyond_its_bound_is_refused_unread() -> None:
    """Row 111: what does not fit the database's bound would be a fault there."""
    assert refused("#" + "é" * (DOCUMENT_BYTES_MAX // 2)) == ["document:1: the document is larger than 2 MiB"]
