"""How good the toy world's model is: the bars that it has to clear, and sheets to look at."""
