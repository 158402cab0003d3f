"""`cones bench quality`: search methods and other people's methods on the toy world, one table.

A cell is one method on one subject (or several together) with one seed. Each is a small JSON file of figures with
standard errors, so a run can be stopped, gone on with, shared out among processes, and any cell made again by name.
"""
