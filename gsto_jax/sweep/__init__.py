"""Several rows, each trained with several seeds, and what the scores tell of their differences.

`plan` holds the rows and runs and what must agree between them, `outcome` reads what the runs left
in their folders, `pool` has them run, `results` compares them, `words` and `figure` show it.
"""
