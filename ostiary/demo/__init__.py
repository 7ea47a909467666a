"""Everything on one machine: real Postgres and Valkey from wheels, a sample upstream, both planes. Also what tests run on."""
