"""The examples in `config/`: each loads, and says what the platform it is for asked for."""

from __future__ import annotations

import base64

import pytest

from ostiary.core.config import load_file
from ostiary.core.config.key_encryption import the_only_one
from ostiary.core.model import (
    Configuration,
    Environment,
    Overage,
    Period,
    Plan,
    Quota,
    Rate,
    Route,
    Scheme,
    StoreFailure,
    Window,
)
from ostiary.core.resources import resource_directory
from ostiary.core.routing import RouteEntry, compile_routes
from tests.support.certificates import issue

EXAMPLES = sorted(path.name for path in resource_directory("config").glob("*.yaml"))
# The variables that the examples' own first lines say to set.
ENVIRONMENT = {
    "OPERATOR_TOKEN": "operator-token-of-the-tests-0123456789",
    "KEY_ENCRYPTION_KEY": base64.b64encode(bytes(32)).decode(),
    "KEY_SECRET": "key-secret-of-the-tests-0123456789abcdef",
}
SEEDS = ("biometrics.yaml", "deluge.yaml", "molam.yaml", "sitesync.yaml", "wedsync.yaml")


@pytest.fixture(scope="module", autouse=True)
def certificates(tmp_path_factory: pytest.TempPathFactory) -> None:
    """As the first lines of `partners.yaml` say: one that is its own authority."""
    issued = issue(tmp_path_factory.mktemp("tls"), "localhost")
    ENVIRONMENT.update({"TLS_CERT": str(issued.cert), "TLS_KEY": str(issued.key), "PARTNERS_CA": str(issued.cert)})


def example(name: str) -> Configuration:
    return load_file(resource_directory("config") / name, environment=ENVIRONMENT)


def taker(configuration: Configuration, method: str, path: str, host: str = "localhost") -> Route:
    found = compile_routes(configuration.routes).match(host.encode(), path.encode(), method)
    assert isinstance(found, RouteEntry), f"{method} {path}"
    return found.route


def scopes(configuration: Configuration, method: str, path: str, host: str = "localhost") -> frozenset[str]:
    """What a caller needs there, as the gateway reads it."""
    needed = taker(configuration, method, path, host).authentication.scopes
    return needed.get(method, needed.get("*", frozenset()))


def hours(plan: Plan) -> tuple[int, int | None]:
    """Calls in any hour, and in a day."""
    (window,) = plan.windows
    assert window.window_seconds == 3600
    return window.requests, plan.quotas[0].requests if plan.quotas else None


def test_there_is_an_example_for_each_platform() -> None:
    """A reader could not try their own."""
    assert set(EXAMPLES) == {*SEEDS, "contract.yaml", "minimal.yaml", "partners.yaml"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_loads_without_a_warning(name: str) -> None:
    """The first thing a newcomer copies would be refused, or teach a mistake."""
    configuration = example(name)
    assert configuration.warnings == ()
    assert configuration.routes


@pytest.mark.parametrize("name", SEEDS)
def test_no_example_of_a_platform_has_a_secret_or_an_open_route(name: str) -> None:
    """Examples are copied into production as they are."""
    text = (resource_directory("config") / name).read_text(encoding="utf-8")
    configuration = example(name)
    assert configuration.control_plane.operator_token == ENVIRONMENT["OPERATOR_TOKEN"]
    assert configuration.stores.key_encryption == the_only_one(bytes(32))
    assert "sk_live_" not in text.replace("bi_sk_live_…", "")
    for route in configuration.routes:
        assert Scheme.ANONYMOUS not in route.authentication.schemes
        assert set(route.upstreams) == set(Environment)
        assert route.upstreams[Environment.LIVE] != route.upstreams[Environment.TEST]


def test_biometrics_has_its_prefix_and_its_scopes() -> None:
    """Keys would not look as its documents show them: bi_sk_live_…"""
    configuration = example("biometrics.yaml")
    assert configuration.control_plane.key_prefix == "bi"
    assert scopes(configuration, "GET", "/api/users/17") == {"read:users"}
    assert scopes(configuration, "POST", "/api/scans") == {"write:scans"}


def test_molam_has_its_default_limits_and_its_signature() -> None:
    """Burst 600, 100 a minute, 1 M a day; overage block, warn or charge; HMAC over the body, as its clients send."""
    configuration = example("molam.yaml")
    default = configuration.plans["default"]
    assert default.rate == Rate(requests=100, per_seconds=60, burst=600)
    assert default.quotas == (Quota(1_000_000, Period.DAY),)
    assert {plan.overage for plan in configuration.plans.values()} == set(Overage)
    raised = configuration.plans["raised"]
    assert raised.rate == Rate(requests=200, per_seconds=60, burst=1000)
    assert raised.quotas == (Quota(5_000_000, Period.DAY),)
    payments = taker(configuration, "POST", "/v1/payments", "api.molam.com")
    assert payments.authentication.schemes == {Scheme.HMAC, Scheme.HMAC_BODY}
    assert payments.on_store_failure is StoreFailure.CLOSED
    assert configuration.upstreams[payments.upstreams[Environment.LIVE]].retries.on == {"connect"}
    others = [route for route in configuration.routes if route is not payments]
    assert not any(Scheme.HMAC_BODY in route.authentication.schemes for route in others)


def test_wedsync_has_its_tiers_and_its_four_resources() -> None:
    """Standard 1 000, premium 5 000 and enterprise 50 000 an hour, sliding; list, create, get, change and delete."""
    configuration = example("wedsync.yaml")
    assert {name: plan.windows for name, plan in configuration.plans.items()} == {
        "standard": (Window(1000, 3600),),
        "premium": (Window(5000, 3600),),
        "enterprise": (Window(50000, 3600),),
    }
    for resource in ("organizations", "clients", "weddings", "forms"):
        for method, path, needed in (
            ("GET", "", "read"),
            ("POST", "", "write"),
            ("GET", "/17", "read"),
            ("PUT", "/17", "write"),
            ("DELETE", "/17", "write"),
        ):
            assert scopes(configuration, method, f"/api/v1/{resource}{path}") == {f"{resource}:{needed}"}


def test_partners_come_by_token_or_by_certificate() -> None:
    """How `issuers` and `certificates` go together with keys is seen nowhere else in one piece."""
    configuration = example("partners.yaml")
    assert taker(configuration, "GET", "/v1/invoices/1").authentication.schemes == {
        *(Scheme.JWT, Scheme.MTLS, Scheme.BEARER)
    }
    payments = taker(configuration, "POST", "/v1/payments/1").authentication
    assert payments.schemes == {Scheme.MTLS, Scheme.HTTP_SIGNATURE}
    assert {use.key_id for use in configuration.certificates} <= set(configuration.keys)
    assert set(configuration.issuers) == {"corp"}


def test_deluge_has_its_limit_and_its_sixteen_endpoints() -> None:
    """1 000 calls an hour; scopes read and write."""
    configuration = example("deluge.yaml")
    assert hours(configuration.plans["default"]) == (1000, None)
    reads = (
        *("projects", "projects/1", "projects/1/updates", "projects/1/impact"),
        *("communities", "communities/1", "communities/1/projects"),
        *("stats/platform", "stats/community/1", "categories", "user/watershed", "user/contributions"),
    )
    writes = ("fund", "loans/1/fund", "projects/1/follow", "contributions")
    for path in reads:
        assert scopes(configuration, "GET", f"/api/v1/{path}") == {"read"}
    for path in writes:
        assert scopes(configuration, "POST", f"/api/v1/{path}") == {"write"}
    names = {taker(configuration, "GET", f"/api/v1/{path}").name for path in reads}
    names |= {taker(configuration, "POST", f"/api/v1/{path}").name for path in writes}
    assert len(names) == len(configuration.routes) == 16


def test_sitesync_has_its_tiers_its_scopes_and_its_sandbox() -> None:
    """Free 100 an hour and 1 000 a day, and so on; a sandbox with 10 000 an hour on a host of its own."""
    configuration = example("sitesync.yaml")
    assert {name: hours(plan) for name, plan in configuration.plans.items() if name != "enterprise"} == {
        "free": (100, 1_000),
        "basic": (1_000, 10_000),
        "standard": (10_000, 100_000),
        "premium": (100_000, 1_000_000),
        "sandbox": (10_000, None),
    }
    assert all(quota.period is Period.DAY for plan in configuration.plans.values() for quota in plan.quotas)
    custom = load_file(
        resource_directory("config") / "sitesync.yaml", environment={**ENVIRONMENT, "ENTERPRISE_PER_HOUR": "750000"}
    )
    assert hours(custom.plans["enterprise"])[0] == 750_000
    for host in ("api.sitesync.com", "sandbox.api.sitesync.com"):
        for resource, scope in (("sites", "sites"), ("equipment", "equipment"), ("work-orders", "work_orders")):
            assert scopes(configuration, "GET", f"/api/v1/{resource}/1", host) == {f"{scope}:read"}
            assert scopes(configuration, "DELETE", f"/api/v1/{resource}/1", host) == {f"{scope}:write"}
        assert scopes(configuration, "POST", "/api/v1/equipment/17/telemetry", host) == {"telemetry:write"}
        assert scopes(configuration, "GET", "/api/v1/equipment/17/telemetry", host) == {"telemetry:read"}
    for resource in ("organizations", "inspections", "technicians", "knowledge", "compliance", "reports"):
        assert taker(configuration, "GET", f"/api/v1/{resource}", "api.sitesync.com").name == resource
