"""The control plane: the API by which platform teams run the gateway.

    app              the composition root: build, serve, end
    renewal          certificates that are renewed while it serves
    pages            what it answers besides its operations
    log              the log, one JSON object a line
    http/            the transport kit; read `operations` first
    authorization    who may do what
    db/              pool, migrations, rights of the service's own role
    accounts/        organizations and apps
    apps/            what becomes of an app
    keys/            keys
    plans/           plans of the configuration, to be read; of the published routes, to be changed too
    routes/          published routes
    usage/           what was metered
    users/           users, their passwords and their roles over the platform
    sign_in/         how somebody becomes known
    members/         members of organizations, and invitations
    platform_tokens/ tokens for programs
    audit/           who changed what
    events/          what others may want to hear of
Each domain: api (operations), service (rules), store (all its SQL), model (what goes in and out).

Nothing is imported here: `ostiary db migrate` and the demo need `db` alone, and the app would cost them 0.3 s of CPU.
"""
