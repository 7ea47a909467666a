"""The control plane: the API that manages organizations, apps and keys, and reads usage. One package per domain, each
with `api.py` (HTTP), `service.py` (rules) and `store.py` (all its SQL)."""
