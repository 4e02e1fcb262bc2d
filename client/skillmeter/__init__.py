"""skillmeter: record how skills (tools, functions) are used, from any process, exactly once.

from skillmeter import create_analytics_client

client = create_analytics_client()
client.record_skill_execution("parse_json", success=True, latency_ms=145.5, user_id="u1", org_id="o1")
"""

from ._version import __version__
from .client import AnalyticsClient, create_analytics_client
from .errors import ConfigError, DaemonUnavailable, InvalidEventError, QueryError, SkillmeterError

__all__ = [
    "AnalyticsClient",
    "ConfigError",
    "DaemonUnavailable",
    "InvalidEventError",
    "QueryError",
    "SkillmeterError",
    "__version__",
    "create_analytics_client",
]
