"""Against peers (`scripts/bench`), and parts of the gateway by themselves."""
