"""The configuration file: YAML to the model, or every mistake in it with file and line.

document    YAML text to nodes with their places; refuses what is hostile
reading     one reading: problems, names, the environment, secrets' files
fields      what a field is: kinds, records, defaults; kinds, addresses, redis: the kinds of single values
settings, plans, upstreams, routes, keys        the sections of the file, as declared fields
consistency what only the whole file can tell
load        the file as a whole
published, composition                          what the control plane publishes, and with it a host's own file
schema      the same declarations as JSON Schema, and as the reference in docs/configuration.md
difference, explanation                         what a change means; which route takes a call, and why
"""

from ostiary.core.config.composition import compose
from ostiary.core.config.load import load_file, load_text
from ostiary.core.config.problems import ConfigurationError, Problem

__all__ = ["ConfigurationError", "Problem", "compose", "load_file", "load_text"]
