"""What a signature of RFC 9421 covers, and the text that is signed: the signature base (§2.5).

A `Recipe` says what to take from a request, `Recipe.base` takes it. Components of answers (`@status`, `;req`), of trailers
(`;tr`), and of fields whose type one would have to know (`;sf`) are refused: nothing here could fill them in for certain."""

from __future__ import annotations

from binascii import b2a_base64
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from ostiary.core.structured_fields import Bare, Item, Kind, Malformed, parse_dictionary, string_text

COMPONENTS_MAX: Final = 32
LAST_LINE_BEGINS: Final = b'"@signature-params": '
"""Of every signature base (RFC 9421 §2.5)."""

# All of this is done before anyone is known. Components that take a field or a query apart are few, and what they take apart
# is short: together some 4 ms at the worst, interpreted.
TAKING_APART_MAX: Final = 8
_DICTIONARY_BYTES_MAX: Final = 2048
_QUERY_PAIRS_MAX: Final = 256
_COLON: Final = 0x3A
_CONTENT_DIGEST: Final = b"content-digest"
_DEFAULT_PORTS: Final = {b"http": b":80", b"https": b":443"}
_FIELD_NAME: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")

# What a component is taken from. Plain integers: an enum would cost 40 ns a component.
_METHOD: Final = 0
_TARGET_URI: Final = 1
_AUTHORITY: Final = 2
_SCHEME: Final = 3
_REQUEST_TARGET: Final = 4
_PATH: Final = 5
_QUERY: Final = 6
_QUERY_PARAM: Final = 7
_FIELD: Final = 8
_FIELD_OCTETS: Final = 9  # ;bs
_FIELD_MEMBER: Final = 10  # ;key
_TAKING_APART: Final = frozenset((_QUERY_PARAM, _FIELD_OCTETS, _FIELD_MEMBER))
_DERIVED: Final = {
    b"@method": _METHOD,
    b"@target-uri": _TARGET_URI,
    b"@authority": _AUTHORITY,
    b"@scheme": _SCHEME,
    b"@request-target": _REQUEST_TARGET,
    b"@path": _PATH,
    b"@query": _QUERY,
    b"@query-param": _QUERY_PARAM,
}


class Uncoverable(ValueError):
    """A component that can't be signed: unknown, of an answer, named twice, or not there in this request."""


class SignedMessage:
    """What a signature may cover of a request. `scheme` and `host` (with its port) are those the client used, `target` is
    path and query as sent; `lines` are header lines without their end, `values` headers that are read elsewhere, by
    lower-case name, several joined by `, `. Once a base was made, `content_digest` is that header if the base covers it."""

    __slots__ = ("content_digest", "host", "lines", "method", "scheme", "target", "values")

    def __init__(
        self, method: bytes, scheme: bytes, host: bytes, target: bytes, lines: list[bytes], values: dict[bytes, bytes]
    ) -> None:
        self.method = method
        self.scheme = scheme
        self.host = host
        self.target = target
        self.lines = lines
        self.values = values
        self.content_digest = b""

    def field_lines(self, name: bytes) -> list[bytes]:
        """The values of all lines of a header, blanks around them removed. Raises Uncoverable if there is none."""
        length = len(name)
        found = [
            line[length + 1 :].strip(b" \t")
            for line in self.lines
            if len(line) > length and line[length] == _COLON and line[:length].lower() == name
        ]
        if not found:
            value = self.values.get(name)
            if value is None:
                raise Uncoverable("a header is covered that the request does not have, or that is not passed on")
            found.append(value)
        return found


class Step:
    """One line of a signature base: what stands before the value, and where the value comes from."""

    __slots__ = ("argument", "kind", "lead", "name")

    def __init__(self, kind: int, identifier: bytes, name: bytes, argument: bytes) -> None:
        self.kind = kind
        self.lead = identifier + b": "
        self.name = name
        self.argument = argument


class Recipe:
    """A list of components, understood. `text` is its canonical spelling, `identifiers` that of each component;
    `covers_request` says they cover method and whole target, `query_alone` whether the target's query is covered by
    `@query` alone, which does not tell an empty one from none (RFC 9421 §2.2.7)."""

    __slots__ = ("_end", "covers_digest", "covers_request", "identifiers", "query_alone", "steps", "text")

    def __init__(self, text: bytes, steps: list[Step], identifiers: frozenset[bytes]) -> None:
        self.text = text
        self._end = LAST_LINE_BEGINS + text
        self.steps = steps
        self.identifiers = identifiers
        whole = b'"@target-uri"' in identifiers or b'"@request-target"' in identifiers
        self.query_alone = not whole
        parts = b'"@path"' in identifiers and b'"@query"' in identifiers
        # The request target says nothing of the host; nor do path and query, which the contract takes.
        self.covers_request = b'"@method"' in identifiers and (whole or parts)
        self.covers_digest = b'"content-digest"' in identifiers

    def base(self, message: SignedMessage, parameters: bytes) -> bytes:
        """The signature base. `parameters` are those of the signature, canonical, each with its `;`. Raises Uncoverable."""
        lines = []
        for step in self.steps:
            kind = step.kind
            if kind == _FIELD:
                values = message.field_lines(step.name)
                value = values[0] if len(values) == 1 else b", ".join(values)
                if step.name == _CONTENT_DIGEST:
                    message.content_digest = value
            elif kind == _METHOD:
                value = message.method
            elif kind == _TARGET_URI:
                value = message.scheme + b"://" + message.host + message.target
            elif kind == _AUTHORITY:
                value = message.host.lower().removesuffix(_DEFAULT_PORTS[message.scheme])
            elif kind == _PATH:
                value = message.target.partition(b"?")[0]
            elif kind == _QUERY:
                value = b"?" + message.target.partition(b"?")[2]
            elif kind == _REQUEST_TARGET:
                value = message.target
            elif kind == _SCHEME:
                value = message.scheme
            else:
                value = _rare(step, message)
            lines.append(step.lead + value)
        lines.append(self._end + parameters)
        base = b"\n".join(lines)
        if not base.isascii():  # RFC 9421 §2.5; a header of other characters can be covered with ;bs
            raise Uncoverable("a covered header has other characters than ASCII")
        return base


def recipe_of(items: list[Item]) -> Recipe:
    """The recipe of a list of components. Raises Uncoverable."""
    if len(items) > COMPONENTS_MAX:
        raise Uncoverable(f"more than {COMPONENTS_MAX} components")
    steps = [step_of(item) for item in items]
    if sum(step.kind in _TAKING_APART for step in steps) > TAKING_APART_MAX:
        raise Uncoverable(f"more than {TAKING_APART_MAX} components with ;key, ;bs or ;name")
    # The order of a component's parameters means nothing (RFC 9421 §2): sorted, two spellings of one component are one.
    identities = [
        item.bare.text + b"".join(sorted(b";%b=%b" % (k, v.text) for k, v in item.parameters.items())) for item in items
    ]
    if len(set(identities)) != len(items):
        raise Uncoverable("a component is covered twice")
    return Recipe(b"(%b)" % b" ".join([item.text for item in items]), steps, frozenset(identities))


def step_of(item: Item) -> Step:
    """What one component asks for. Raises Uncoverable for what no request can give."""
    bare, parameters = item.bare, item.parameters
    if bare.kind is not Kind.STRING:
        raise Uncoverable("a component that is no string")
    name = bare.octets
    identifier = item.text
    if name.startswith(b"@"):
        kind = _DERIVED.get(name)
        if kind is None:
            raise Uncoverable("a derived component that requests don't have")
        if kind == _QUERY_PARAM:
            argument = parameters.get(b"name")
            if len(parameters) != 1 or argument is None or argument.kind is not Kind.STRING:
                raise Uncoverable("@query-param without a name, or with other parameters")
            return Step(kind, identifier, name, argument.octets)
        if parameters:
            raise Uncoverable("a derived component with a parameter that it does not have")
        return Step(kind, identifier, name, b"")
    if not name or not _FIELD_NAME.issuperset(name):
        raise Uncoverable("a component that is no header name in lower case")
    if not parameters:
        return Step(_FIELD, identifier, name, b"")
    if len(parameters) == 1:
        if (member := parameters.get(b"key")) is not None and member.kind is Kind.STRING:
            return Step(_FIELD_MEMBER, identifier, name, member.octets)
        if (flag := parameters.get(b"bs")) is not None and flag.text == b"?1":
            return Step(_FIELD_OCTETS, identifier, name, b"")
    raise Uncoverable("a header with a parameter other than ;bs or ;key")


def _rare(step: Step, message: SignedMessage) -> bytes:
    if step.kind == _QUERY_PARAM:
        return _query_param(message.target.partition(b"?")[2], step.argument)
    values = message.field_lines(step.name)
    if step.kind == _FIELD_OCTETS:
        # Lines that are read elsewhere have been joined, and where they were is not known any more.
        if step.name in message.values and len(values) == 1 and b"," in values[0]:
            raise Uncoverable("a header that may have come in several lines is covered with ;bs")
        return b", ".join([b":%b:" % b2a_base64(value, newline=False) for value in values])
    dictionary = b", ".join(values)
    if len(dictionary) > _DICTIONARY_BYTES_MAX:
        raise Uncoverable("a header covered with ;key is too long")
    try:
        members = parse_dictionary(dictionary)
    except Malformed as error:
        raise Uncoverable(f"a header covered with ;key is no dictionary: {error}") from error
    for member in members:
        if member.key == step.argument:
            return member.text
    raise Uncoverable("a header covered with ;key does not have that key")


def _query_param(query: bytes, name: bytes) -> bytes:
    """RFC 9421 §2.2.8. A parameter that comes twice must not be covered: which of the two counts is the upstream's to say."""
    if query.count(b"&") >= _QUERY_PAIRS_MAX:
        raise Uncoverable("@query-param: the query has too many parameters")
    found = []
    for pair in query.split(b"&"):
        key, _, value = pair.partition(b"=")
        if _reencoded(key) == name:
            found.append(_reencoded(value))
    if len(found) != 1:
        raise Uncoverable("@query-param: the query does not have the parameter once")
    return found[0]


def _reencoded(text: bytes) -> bytes:
    """Decoded as a form's (URL standard, application/x-www-form-urlencoded), and percent-encoded as a component."""
    plain = unquote_to_bytes(text.replace(b"+", b" "))
    return quote_from_bytes(plain, safe="*").replace("~", "%7E").encode()


def component_text(name: str) -> bytes:
    """The spelling of a component without parameters. Raises Uncoverable, or Malformed, for one that requests don't have."""
    item = component(name)
    step_of(item)
    return item.text


def component(name: str) -> Item:
    """A component without parameters. Raises Malformed."""
    octets = name.encode("ascii", "replace")
    return Item(Bare(Kind.STRING, octets, string_text(octets)), {})
