"""Several subjects in ordinary sentences, on the toy world: `cones bench several`.

Cells, one JSON file each, hold what the judge says of one mask, pair or triple with one seed; `results.py` makes of
them the figures of benchmarks/results/several_subjects.json. Subjects are four of the held-out ones.
"""
