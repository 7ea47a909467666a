"""The control plane: the API by which platform teams run the gateway.

    app        the composition root: build, serve, end
    log        the log, one JSON object a line
    http/      the transport kit; read `operations` first
    db/        pool and migrations
    accounts/  organizations and apps
    apps/      what becomes of an app
    keys/      keys
    plans/     plans of the configuration, to be read
    usage/     what was metered
Each domain: api (operations), service (rules), store (all its SQL), model (what goes in and out).

Nothing is imported here: `ostiary db migrate` and the demo need `db` alone, and the app would cost them 0.3 s of CPU.
"""
