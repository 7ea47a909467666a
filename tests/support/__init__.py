"""What tests stand on: an origin that records, a gateway in this process, raw conversations."""
