"""The demonstration: `cones demo`."""
