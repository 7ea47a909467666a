"""The transport kit: what every operation of the API shares, and no word about organizations or keys.

    operations     an operation, declared: what comes in, what goes out, who does it. Read it first
    fields paging  what requests and answers are made of
    access         who calls and who may: roles, and what a row of the authorization matrix says
    certificates   what a client has shown in its TLS handshake, and whether privileged calls must
    rates          rate limits on the API itself
    preconditions  versions of resources: ETag, If-Match
    browser        sessions by cookie, and from which pages they may change anything
    edge           who calls, request ids, security headers, the log line
    auditing       what is written into the audit log of a call;  telling  what others are told of it
    reading        HTTP request to checked values;  strict_json  bodies
    idempotency    the same POST twice is done once
    transactions   on the pool, and what the database's refusals mean
    dispatch       serves operations, to callers who may;  export  lists as CSV
    problems       every refusal, and how it looks
    openapi links examples documentation interactive  describe operations;  problem_pages  the gateway's errors
    listener       the listening side;  doors  its sockets, and TLS that changes on them

The names below are what domains are written with; the composition root takes the rest from its modules.
"""

from ostiary.control_plane.http.auditing import Audited, AuditedByItself, AuditedExport, Ids, Note
from ostiary.control_plane.http.export import FormatField
from ostiary.control_plane.http.fields import (
    Answer,
    Count,
    KeyId,
    Name,
    NoBody,
    NoParameters,
    Parameters,
    Request,
    Rule,
    Uuid,
)
from ostiary.control_plane.http.operations import (
    AnyOperation,
    Call,
    UnboundCall,
    amend,
    ask,
    change,
    change_unbound,
    read,
    remove,
    replace,
)
from ostiary.control_plane.http.paging import (
    KeyCursor,
    KeyPaging,
    NumberPaging,
    Page,
    Paging,
    Position,
    RequestCursor,
    cut,
)
from ostiary.control_plane.http.problems import FieldProblem, Problem, ProblemCode, invalid
from ostiary.control_plane.http.transactions import Transactions

__all__ = [
    "Answer",
    "AnyOperation",
    "Audited",
    "AuditedByItself",
    "AuditedExport",
    "Call",
    "Count",
    "FieldProblem",
    "FormatField",
    "Ids",
    "KeyCursor",
    "KeyId",
    "KeyPaging",
    "Name",
    "NoBody",
    "NoParameters",
    "Note",
    "NumberPaging",
    "Page",
    "Paging",
    "Parameters",
    "Position",
    "Problem",
    "ProblemCode",
    "Request",
    "RequestCursor",
    "Rule",
    "Transactions",
    "UnboundCall",
    "Uuid",
    "amend",
    "ask",
    "change",
    "change_unbound",
    "cut",
    "invalid",
    "read",
    "remove",
    "replace",
]
