"""skillmeterd: the sidecar daemon of skillmeter, which keeps what clients record and forwards it."""
