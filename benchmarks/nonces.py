"""`python -m benchmarks.nonces`: what the memory of nonces costs a signed call, in CPU: while Redis is there, and without it.

With `PYTHONPATH=$(scripts/compile)` and `python -P` it is the compiled one. docs/decisions/0016-nodes.md has the figures."""

from __future__ import annotations

import time
from collections.abc import Callable

from ostiary.gateway.limits import nonces
from ostiary.gateway.limits.nonces import GENERATION_MAX, NodeNonces, NonceMemory, Taken
from ostiary.gateway.node import NodeMemory

CALLS = 20_000
RUNS = 15
NOW, LIFE_SECONDS = 1000.0, 600


def best_us(run: Callable[[list[str]], None]) -> float:
    """Of a call, over `RUNS` runs, each with nonces of its own."""
    seconds = []
    for number in range(RUNS):
        names = [f"ost:{{k:ak_live_0123456789abcdefghijkl}}:nonce:{number:04x}{each:028x}" for each in range(CALLS)]
        for name in names:
            hash(name)  # the request path has it from its look-up
        began = time.process_time()
        run(names)
        seconds.append(time.process_time() - began)
    return min(seconds) / CALLS * 1e6


def main() -> None:
    node = NodeMemory.create(workers=2)
    alone_node = NodeMemory.create(workers=2)

    def dictionaries(names: list[str]) -> None:
        memory = NonceMemory(GENERATION_MAX)
        for name in names:
            if not memory.holds(name, NOW):
                memory.remember(name, NOW, LIFE_SECONDS)

    def shown_to_others(names: list[str]) -> None:
        memory = NodeNonces(node)
        for name in names:
            if not memory.holds(name, NOW):
                memory.accepted(name, NOW, LIFE_SECONDS)

    def without_redis(names: list[str]) -> None:
        memory = NodeNonces(alone_node)
        for name in names:
            if not memory.holds(name, NOW) and not memory.holds_elsewhere(name, NOW) and memory.has_room(name, NOW):
                assert memory.take(name, NOW, LIFE_SECONDS) is not Taken.USED

    print(f"{nonces.__file__}")
    print(f"dictionaries of one worker    {best_us(dictionaries):6.3f} us a call")
    print(f"and shown to the others       {best_us(shown_to_others):6.3f} us a call")
    print(f"without Redis                 {best_us(without_redis):6.3f} us a call")
    reader = NodeNonces(node)
    began = time.process_time()
    reader.holds_elsewhere("none", NOW)
    print(f"first look at the others'     {(time.process_time() - began) * 1e3:6.3f} ms, once an outage")


if __name__ == "__main__":
    main()
