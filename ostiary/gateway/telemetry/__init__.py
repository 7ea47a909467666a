"""What the gateway tells about itself. `catalog` declares every metric, `metrics` counts, `layout` is the memory in
between, `exposition` renders it for Prometheus (supervisor only: import it by its own name), `log` writes JSON lines."""

from ostiary.gateway.telemetry.log import configure_logging
from ostiary.gateway.telemetry.metrics import Histogram, Metrics, MetricsError

__all__ = ["Histogram", "Metrics", "MetricsError", "configure_logging"]
