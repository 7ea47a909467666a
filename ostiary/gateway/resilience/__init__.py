"""How an upstream survives bad targets. Decisions are functions of values and of the time they are given; nothing here waits,
sends or measures.

`window` counts over a sliding span, `budget` bounds further tries, `breaker` stops calls to an upstream that fails,
`target_health` is what is known of one target, `guard` is all of it for one upstream, as `phases/forward` asks it,
`retrying` is what becomes of a call whose attempt failed, and `memory` is what outlives a reload."""
