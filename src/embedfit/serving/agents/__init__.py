"""The index as tools of agents, by the Model Context Protocol (MCP): over HTTP, or over standard input and output."""

from embedfit.errors import MissingDependency

try:
    import mcp_types  # noqa: F401 - the modules of this package import it
except ImportError as error:
    raise MissingDependency("mcp", extra="mcp", needed_for="embedfit serve --mcp") from error
