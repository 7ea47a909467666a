"""The control plane: the API by which platform teams run the gateway.

    app        the composition root: build, serve, end
    log        the log, one JSON object a line
    http/      the transport kit; read `operations` first
    db/        pool and migrations
    accounts/  organizations and apps
    keys/      keys
    usage/     what was metered
Each domain: api (operations), service (rules), store (all its SQL), model (what goes in and out).
"""

from ostiary.control_plane.app import SettingsRefused, StartRefused, build_app, run, serve

__all__ = ["SettingsRefused", "StartRefused", "build_app", "run", "serve"]
