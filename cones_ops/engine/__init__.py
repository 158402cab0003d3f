"""Many tasks on one machine or a cluster, and the task of `cones find-many`; see docs/how-to/many-concepts.md."""
