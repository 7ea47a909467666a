"""The operations on the audit log. There is none that changes it."""

from __future__ import annotations

from ostiary.control_plane.accounts.model import OrganizationPath
from ostiary.control_plane.audit.model import AuditFilter, AuditHead, AuditPage, AuditQuery, AuditRow
from ostiary.control_plane.audit.service import Audit
from ostiary.control_plane.http import AnyOperation, AuditedExport, Call, NoBody, NoParameters, read

_EXPORT = AuditedExport(resource="audit_log")


def operations(audit: Audit) -> tuple[AnyOperation, ...]:
    async def list_audit(call: Call[NoParameters, AuditQuery, NoBody]) -> AuditPage:
        return await audit.rows(call.connection, call.query)

    async def list_organization_audit(call: Call[OrganizationPath, AuditFilter, NoBody]) -> AuditPage:
        return await audit.rows_of(call.connection, call.path.organization_id, call.query)

    async def audit_head(call: Call[NoParameters, NoParameters, NoBody]) -> AuditHead:
        return await audit.head(call.connection)

    return (
        read(
            "listAudit",
            "/audit",
            tag="audit",
            summary="Who changed what and what was refused, newest first. To ask for it as CSV is written down itself.",
            handler=list_audit,
            query_model=AuditQuery,
            answer=AuditPage,
            csv=AuditRow,
            audited=_EXPORT,
        ),
        read(
            "auditHead",
            "/audit/head",
            tag="audit",
            summary="The number and hash of the last row: keep them elsewhere, and verify the log against them later.",
            handler=audit_head,
            answer=AuditHead,
        ),
        read(
            "listOrganizationAudit",
            "/organizations/{organization_id}/audit",
            tag="audit",
            summary="The same of one organization: what was changed of it, and what its members were refused.",
            handler=list_organization_audit,
            path_model=OrganizationPath,
            query_model=AuditFilter,
            answer=AuditPage,
            csv=AuditRow,
            audited=_EXPORT,
        ),
    )
