"""What a worker does when there is too much of everything: calls, memory, descriptors; and when its loop stands still.

`pressure` decides, from values alone, which priorities are let in; `shedding` applies that to calls. `control` measures and
acts, four times a second, with `memory` and `accepting`. `watchdog` tells where a loop hangs, in every child."""

from .accepting import Accepting
from .control import Overload
from .watchdog import Watchdog

__all__ = ["Accepting", "Overload", "Watchdog"]
