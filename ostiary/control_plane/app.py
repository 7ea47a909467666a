"""The composition root of the control plane: settings checked, parts made and put together, the server's life."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import uvloop
from aiohttp import web

from ostiary.control_plane import (
    accounts,
    apps,
    audit,
    events,
    keys,
    members,
    plans,
    platform_tokens,
    routes,
    sign_in,
    usage,
    users,
)
from ostiary.control_plane.authorization import MATRIX
from ostiary.control_plane.db import (
    Connection,
    MigrationError,
    MigrationState,
    Pool,
    migration_status,
    open_pool,
    rights_over_audit_log,
)
from ostiary.control_plane.http import Transactions, preconditions
from ostiary.control_plane.http.browser import BrowserSessions
from ostiary.control_plane.http.certificates import ClientCertificates
from ostiary.control_plane.http.dispatch import Dispatcher
from ostiary.control_plane.http.doors import Doors
from ostiary.control_plane.http.edge import OPERATOR_TOKEN_LENGTH_MIN, Edge, dress, expect_later
from ostiary.control_plane.http.listener import Listener
from ostiary.control_plane.http.operations import BASE, AnyOperation, address
from ostiary.control_plane.http.rates import CallRates
from ostiary.control_plane.http.reading import BODY_BYTES_MAX
from ostiary.control_plane.http.telling import Telling
from ostiary.control_plane.pages import add_key_document, add_pages
from ostiary.control_plane.renewal import Renewal
from ostiary.core.encryption import Envelope
from ostiary.core.model import Configuration, KeyEncryption, Listen
from ostiary.key_encryption import CannotUseKeyEncryption, key_wrappers
from ostiary.tls import server_context

log = logging.getLogger("ostiary.control_plane")

_SERVICE_ROLE = "give it a role of its own: ostiary db migrate -c FILE --service-role NAME"
# After the calls have ended, no connection of the pool should be in use.
POOL_CLOSE_SECONDS = 5.0


class StartRefused(Exception):
    """The control plane can't start; the text says why and what to do. `problems` lists every reason."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class SettingsRefused(StartRefused):
    """The configuration is valid, and not enough to run a control plane."""


@dataclass(frozen=True, slots=True)
class _Settings:
    postgres: str = field(repr=False)
    operator_token: str = field(repr=False)
    key_encryption: KeyEncryption = field(repr=False)


async def build_app(
    configuration: Configuration,
    *,
    certificates: ClientCertificates | None = None,
    served: Callable[[AnyOperation], AnyOperation] = lambda operation: operation,
) -> web.Application:
    """The API, connected to Postgres; its cleanup closes the connections. `certificates` is what is asked of clients, if that
    may change; `served` is how each operation is served: as it is declared, unless somebody wants to know who gets through to
    it.

    Raises SettingsRefused when the configuration lacks something, StartRefused when the schema is not current,
    DatabaseUnavailable."""
    settings = _settings(configuration)
    try:
        envelope = Envelope(key_wrappers(settings.key_encryption))
    except CannotUseKeyEncryption as error:
        raise SettingsRefused(str(error)) from error
    await _require_current_schema(settings.postgres)
    pool = await open_pool(settings.postgres)
    warnings = await _warnings(pool)

    transactions = Transactions(pool)
    prefix = configuration.control_plane.key_prefix
    directory = accounts.Accounts(approval=configuration.control_plane.app_approval)
    passwords = users.Passwords()
    signing_keys = sign_in.SigningKeys(transactions=transactions, envelope=envelope)
    access_tokens = sign_in.AccessTokens(url=_issuer_url(configuration), keys=signing_keys)
    cookie = sign_in.Cookie(secure=_speaks_tls_to_browsers(configuration))
    tokens = platform_tokens.PlatformTokens(transactions=transactions, key_prefix=prefix)
    issuer = configuration.control_plane.issuer
    authentication = sign_in.Authentication(
        transactions=transactions,
        access_tokens=access_tokens,
        outside=None if issuer is None else sign_in.OutsideIssuer(issuer),
    )
    published = routes.Routes()
    counters = usage.Counters(configuration.stores.redis)

    async def limits(connection: Connection) -> Configuration:
        """What gateways hold callers to, as far as it is known here."""
        return (await published.in_force(connection))[1].configuration if configuration.published else configuration

    declared = (
        *sign_in.operations(
            sign_in.SignIn(
                transactions=transactions, passwords=passwords, access_tokens=access_tokens, key_prefix=prefix
            ),
            cookie,
        ),
        *users.operations(users.Users()),
        *members.operations(members.Members(transactions=transactions, passwords=passwords, key_prefix=prefix)),
        *platform_tokens.operations(tokens),
        *accounts.operations(directory),
        *apps.operations(apps.Apps(accounts=directory), audited=accounts.audited_app(directory)),
        *keys.operations(
            keys.Keys(
                plans=routes.plans_in_force if configuration.published else keys.the_plans(configuration.plans),
                envelope=envelope,
                key_prefix=prefix,
            )
        ),
        *routes.operations(published),
        *plans.operations(
            plans.Plans(routes=published, in_file=None if configuration.published else configuration.plans)
        ),
        *usage.operations(usage.Usage(accounts=directory), usage.Quotas(limits=limits, counters=counters)),
        *audit.operations(audit.Audit(accounts=directory)),
        *events.operations(events.Events()),
    )
    certificates = certificates or ClientCertificates(configuration.control_plane)
    rates = CallRates(
        per_actor=configuration.control_plane.rate_per_actor, per_address=configuration.control_plane.rate_per_address
    )
    dispatcher = Dispatcher(
        pool=pool,
        matrix=MATRIX,
        owners={
            "organization_id": accounts.organization_itself,
            "app_id": accounts.organization_of_app,
            "key_id": keys.organization_of_key,
            "invitation_id": members.organization_of_invitation,
        },
        locks={
            "organization": accounts.lock_organization,
            "app": accounts.lock_app,
            "key": keys.lock_key,
            "key_limits": keys.lock_key,
            "plan": lambda connection, _: routes.lock(connection),  # plans change with versions, and no other way
            "user": users.lock_user,
            "member": members.lock_member,
            "invitation": members.lock_invitation,
            "platform_token": platform_tokens.lock_token,
            "session": sign_in.lock_session,
        },
        subjects=preconditions.subjects(declared),
        audit=audit.AuditLog(),
        telling=Telling(events.EventOutbox(), events.KINDS),
        certificates=certificates,
    )
    edge = Edge(
        operator_token=settings.operator_token,
        authenticators=[tokens.authenticate, authentication.of_token],
        sessions=BrowserSessions(cookie.name, configuration.control_plane.public_url, authentication.of_cookie),
        unknown=[(operation.method, BASE + operation.path) for operation in declared if MATRIX[operation.id].unknown],
        rates=rates,
        certificates=certificates,
        turned_away=dispatcher.turned_away,
    )
    app = web.Application(middlewares=[edge.middleware()], client_max_size=BODY_BYTES_MAX)
    _add_operations(app, [served(operation) for operation in declared], dispatcher)
    add_pages(app, declared, pool, warnings, cookie.name)
    add_key_document(app, signing_keys)
    app.on_response_prepare.append(dress)

    async def close_pool(_: web.Application) -> None:
        await counters.close()
        try:
            async with asyncio.timeout(POOL_CLOSE_SECONDS):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    app.on_cleanup.append(close_pool)

    async def upkeep(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(usage.run_upkeep(settings.postgres, configuration.usage.retention))
        yield
        task.cancel()
        await asyncio.wait({task})

    app.cleanup_ctx.append(upkeep)
    return app


def run(configuration: Configuration, file: Path) -> None:
    """Serves until SIGTERM or SIGINT, then ends the calls under way and returns. `file` is what the configuration was read
    from. Raises as `build_app` does, CertificateRefused, and OSError when the address can't be listened on."""
    uvloop.run(
        serve(configuration, file=file, announce=lambda url: log.info("listening", extra={"fields": {"url": url}}))
    )


async def serve(
    configuration: Configuration,
    *,
    announce: Callable[[str], None],
    file: Path | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """As `run`, in a loop that is running; ends when `stop` is set too. `announce` gets the base URL once it serves. Without
    `file`, certificates are not renewed."""
    stop = stop or asyncio.Event()
    listen = configuration.control_plane.listen
    tls = server_context(listen.tls)
    certificates = ClientCertificates(configuration.control_plane)
    listener = Listener(await build_app(configuration, certificates=certificates))
    loop = asyncio.get_running_loop()
    await listener.setup()
    doors = Doors(listener)
    renewing: asyncio.Task[None] | None = None
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await doors.open(listen.host, listen.port, tls)
        if file is not None and tls is not None:
            renewal = Renewal(file, configuration, listener=listener, doors=doors, certificates=certificates)
            renewing = asyncio.create_task(renewal.follow())
        if tls is None and not _is_loopback(listen.host):
            # Allowed, for a TLS proxy in front; a network that can be listened to would give the token away.
            mend = "set control_plane.listen.tls, or listen on 127.0.0.1 behind a proxy with TLS"
            log.warning("operator_token_in_the_clear", extra={"fields": {"mend": mend}})
        announce(_base_url(listener, listen))
        await stop.wait()
        log.info("ending")
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        if renewing is not None:
            renewing.cancel()
            await asyncio.wait({renewing})
        doors.close()
        await listener.cleanup()


def _settings(configuration: Configuration) -> _Settings:
    token = configuration.control_plane.operator_token
    postgres = configuration.stores.postgres
    key_encryption = configuration.stores.key_encryption
    problems = []
    if token is None:
        problems.append(
            "control_plane.operator_token is not set: nobody could use the API. Make one with `openssl rand -base64 32`, "
            'and set it to "${OSTIARY_OPERATOR_TOKEN}" or "file:/path"'
        )
    elif len(token) < OPERATOR_TOKEN_LENGTH_MIN or not token.isascii() or not token.isprintable() or " " in token:
        problems.append(
            f"control_plane.operator_token must be at least {OPERATOR_TOKEN_LENGTH_MIN} visible ASCII characters, so that "
            "it can't be guessed. Make one with `openssl rand -base64 32`"
        )
    if postgres is None:
        problems.append("stores.postgres is not set: keys are kept there. Set it to postgresql://user@host/database")
    if key_encryption is None:
        problems.append(
            "stores.key_encryption_key is not set: secrets are stored under it. Make one with `openssl rand -base64 32`, "
            'and set it to "${OSTIARY_KEY_ENCRYPTION_KEY}" or "file:/path", the same for the gateways'
        )
    if problems or token is None or postgres is None or key_encryption is None:
        raise SettingsRefused(*problems)
    return _Settings(postgres, token, key_encryption)


async def _require_current_schema(url: str) -> None:
    try:
        statuses = await migration_status(url)
    except MigrationError as error:
        raise StartRefused(str(error)) from error
    wrong = [f"{status.name} ({status.state})" for status in statuses if status.state is not MigrationState.APPLIED]
    if wrong:
        raise StartRefused(
            f"the database schema is not the one of this version: {', '.join(wrong)}. Run: ostiary db migrate -c FILE"
        )


async def _warnings(pool: Pool) -> Sequence[str]:
    """What works, and is not as it should be: told in the log at start, and by /readyz."""
    async with pool.acquire() as connection:
        rights = await rights_over_audit_log(connection)
    if not rights:
        return ()
    log.warning("audit_log_not_protected", extra={"fields": {"rights": rights, "mend": _SERVICE_ROLE}})
    return (f"the database role of this process may change the audit log ({', '.join(rights)}); {_SERVICE_ROLE}",)


def _add_operations(app: web.Application, declared: Sequence[AnyOperation], dispatcher: Dispatcher) -> None:
    paths = {operation.path for operation in declared}
    for operation in declared:
        path = address(operation.path, paths)
        app.router.add_route(operation.method, path, dispatcher.handler(operation), expect_handler=expect_later)


def _speaks_tls_to_browsers(configuration: Configuration) -> bool:
    """Not if it says so (`public_url`), or listens to this machine alone and says nothing."""
    control_plane = configuration.control_plane
    if control_plane.public_url is not None:
        return control_plane.public_url.startswith("https:")
    return bool(control_plane.listen.tls) or not _is_loopback(control_plane.listen.host)


def _issuer_url(configuration: Configuration) -> str:
    """What our tokens name as their issuer: the same for all control planes on one database."""
    return configuration.control_plane.public_url or "urn:ostiary:control-plane"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _base_url(listener: Listener, listen: Listen) -> str:
    port = listener.addresses[0][1]  # the real one, when 0 was asked for
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    return f"{'https' if listen.tls else 'http'}://{host}:{port}"
