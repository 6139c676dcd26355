"""Models on somebody else's server: as judge, as either agent, as labeller."""
