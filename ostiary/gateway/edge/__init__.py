"""What routes say about the edge, compiled at load: `RouteEdge` is all of it for one route (route.py), with

addresses (who may call), cross_origin (CORS), header_edits and security (lines that come and go), deprecation (versions on
their way out), and `core.rewriting` (the path that the upstream sees). A route that says nothing has None in its place, and
a phase asks for that and nothing else."""
